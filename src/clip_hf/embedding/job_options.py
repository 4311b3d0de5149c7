# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The options of embedding jobs."""

from dataclasses import dataclass, field

from ..data.row_shards import RowColumns
from .part_files import FILE_FORMATS


DTYPES = ("float16", "float32")
MODALITIES = ("images", "texts", "both")


@dataclass(frozen=True)
class EmbeddingOptions:
    """What an embedding job writes. A job that goes on must have the same options, except `shard` and `retry_bad`.

    Args:
        modalities (`str`, *optional*): `"images"`, `"texts"` (the captions) or `"both"`; by default both where
            the source has captions, else images.
        file_format (`str`, *optional*, defaults to `"safetensors"`): Files of embeddings: `"safetensors"` or `"npy"`.
        dtype (`str`, *optional*, defaults to `"float16"`): Their dtype: `"float16"` or `"float32"`.
        rows_per_part (`int`, *optional*, defaults to 1024): Rows in a part: what a crash may cost, and the size of
            files.
        columns ([`RowColumns`], *optional*): Columns and split of the source.
        shard (`tuple[int, int]`, *optional*): `(i, n)` for the i-th of n jobs that share the parts evenly; i counts
            from 0. Jobs without it share parts too: each takes what no other has.
        retry_bad (`bool`, *optional*, defaults to `False`): Whether to embed parts with bad rows again, after the
            images were repaired or a server is back.

    Raises:
        ValueError: if a value is not allowed.
        TypeError: if `columns` is no [`RowColumns`].
    """

    modalities: str | None = None
    file_format: str = FILE_FORMATS[0]
    dtype: str = DTYPES[0]
    rows_per_part: int = 1024
    columns: RowColumns = field(default_factory=RowColumns)
    shard: tuple[int, int] = (0, 1)
    retry_bad: bool = False

    def __post_init__(self):
        for name, allowed in (("modalities", (None, *MODALITIES)), ("file_format", FILE_FORMATS), ("dtype", DTYPES)):
            if getattr(self, name) not in allowed:
                shown = ", ".join(map(repr, filter(None, allowed)))
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; it must be one of {shown}.")
        if isinstance(self.rows_per_part, bool) or not isinstance(self.rows_per_part, int) or self.rows_per_part < 1:
            raise ValueError(f"`rows_per_part` is {self.rows_per_part!r}; it must be an integer of at least 1.")
        if not isinstance(self.columns, RowColumns):
            raise TypeError(f"`columns` is {self.columns!r:.80}; it must be `RowColumns(...)`.")
        pair = self.shard if isinstance(self.shard, tuple | list) else ()
        if [type(number) for number in pair] != [int, int] or not 0 <= pair[0] < pair[1]:
            shown = "/".join(map(str, pair)) if len(pair) == 2 else repr(self.shard)
            raise ValueError(f"`shard` is {shown}; it must be (i, n) with i from 0 to n-1, such as 0/4.")
