# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The index of any source: a folder of pictures, tables, Parquet files, tars, datasets, embeddings, or an index."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.data_sources import find_source
from ..data.row_shards import RowColumns, ShardedRows, check_no_columns, folder_of
from ..embedding.dual_encoder import DualEncoder
from ..embedding.embedding_job import EmbeddingJob
from ..embedding.encoding_options import EncodingOptions
from ..embedding.films_of_sources import describe_films
from ..embedding.job_manifest import OtherJobError
from ..embedding.job_options import EmbeddingOptions
from ..embedding.part_files import FORMAT_NAME, IMAGES, MANIFEST, ROW_SCHEMA, TEXTS, EmbeddingFolder
from ..utils.atomic import remove_folder
from ..utils.json_files import read_json
from .embedding_index import EmbeddingIndex
from .film_index import FILMS, rate_of, refresh_film_index
from .folder_index import rebuild_folder_index, refresh_folder_index
from .folder_refresh import FolderRefresh, folder_of_files
from .index_places import (
    EMBEDDED,
    INDEX_ENDINGS,
    WHOLE_FILMS,
    OtherIndexError,
    build_beside,
    check_description,
    check_index_folder,
    check_over,
    default_index_folder,
    describe_index,
    describe_origin,
    differences_of,
    is_index,
    locked_index,
    real_index,
    real_source,
    section_of,
)
from .moments import FilmFrame


_KINDS = {"images": IMAGES, "texts": TEXTS}
_READ_IN_ORDER = ("tar", "stream")  # a row in the middle costs all before it
_IMAGE_COLUMNS = ("name", "digest", "bytes", "width", "height")
_PLACE_COLUMNS = ("shard", "row")


@dataclass(frozen=True)
class SourceIndex:
    """The index of a source.

    Args:
        index (`EmbeddingIndex`): The index.
        refresh (`FolderRefresh`, *optional*): What bringing it up to date did, for a folder of pictures or films.
        folder (`Path`, *optional*): The folder to which names of pictures are relative, if there is one.
        rows (`ShardedRows`, *optional*): The source's rows, if pictures that are no files can be read from them.
        image_column (`str`, *optional*, defaults to `"image"`): Their column of images.
    """

    index: EmbeddingIndex
    refresh: FolderRefresh | None = None
    folder: Path | None = None
    rows: ShardedRows | None = None
    image_column: str = "image"

    def picture(self, id_: int | str, follow_links: bool = True) -> Path | bytes | FilmFrame | None:
        """The picture of a row as `open_image` takes it: a file, its bytes, or the frame of a film.

        None where it is not at hand: members of tars, rows of streams, URLs, files that are gone, and names that lead
        out of the source's folder.

        Args:
            id_ (`int` or `str`): The row's id.
            follow_links (`bool`, *optional*, defaults to `True`): Whether a name in the source's folder may be a link
                that leads out of it.

        Raises:
            ValueError: if there is no such id.
        """
        row = next(iter(self.index.metadata([id_]).to_pylist()), {})  # an index may have no columns
        is_below = row.get("path") is not None  # the folder, always
        name = os.fsdecode(row["path"]) if is_below else row.get("name")
        if name and "\0" not in name and "://" not in name and not (is_below and os.path.isabs(name)):
            is_inside = os.path.isabs(name) or ".." not in Path(name).parts
            path = Path(self.folder or "", name)
            if is_inside and (self.folder is not None or os.path.isabs(name)) and os.path.isfile(path):
                path = path if follow_links or os.path.isabs(name) else _inside(path, self.folder)
                is_frame = path is not None and self.index.description.get("over") == "moments"
                return FilmFrame(path, row["time"]) if is_frame else path
        if self.rows is None or self.rows.kind in _READ_IN_ORDER:
            return None
        read = self.rows.shards[row["shard"]].read(row["row"], row["row"] + 1)
        image = next(iter(read), {}).get(self.image_column)
        if isinstance(image, dict):
            image = image.get("path") if image.get("bytes") is None else image["bytes"]
        if isinstance(image, str):  # of a dataset in memory, relative to the working directory
            return Path(image) if os.path.isfile(image) else None
        return image if isinstance(image, bytes) else None


def _inside(path: Path, folder: Path) -> Path | None:
    """Where a file really lies; None if that is not below the folder."""
    real = Path(os.path.realpath(path))
    return real if real.is_relative_to(os.path.realpath(folder)) else None


def open_source_index(
    source: Any,
    encoder: DualEncoder,
    *,
    index_folder: str | os.PathLike | None = None,
    over: str = "images",
    rebuild: bool = False,
    columns: RowColumns | None = None,
    encoding: EncodingOptions | None = None,
    frames_per_second: float | None = None,
) -> SourceIndex:
    """Open the index of a source; build it, or bring it up to date, before.

    - An index is opened as it is.
    - The index of a folder of pictures is brought up to date, see [`refresh_folder_index`]; with `over="moments"` that
      of a film or of a folder of films, see [`refresh_film_index`].
    - The index of what `clip-hf embed` wrote is built from it, anew whenever its parts have changed.
    - Any other source is embedded into the folder `embedded` of the index, which resumes, and must not change.

    Args:
        source: An index, what [`embed`] wrote, or what [`embed`] takes: a folder, table, Parquet files, tars, a
            dataset, a list of paths.
        encoder (`DualEncoder`): The model.
        index_folder (`str` or `os.PathLike`, *optional*): The index; by default [`default_index_folder`].
        over (`str`, *optional*, defaults to `"images"`): What has a row each: `"images"`, `"texts"` or `"moments"`.
        rebuild (`bool`, *optional*, defaults to `False`): Whether to build the index anew; the old one stays until
            the new one is whole.
        columns (`RowColumns`, *optional*): Columns and split of a source that has them.
        encoding (`EncodingOptions`, *optional*): Batches, threads, progress, and how many pictures may be unreadable.
        frames_per_second (`float`, *optional*): How often to look at films; by default as the index says, else once.

    Returns:
        [`SourceIndex`]: rows of images have `name`, `digest`, `bytes`, `width`, `height` and maybe `captions`;
        rows of texts have `caption`, and rows of films `start`, `end` and `time`, in seconds.

    Raises:
        OSError: if the source is gone or the index cannot be written; it stays as it is.
        ValueError: if the index is of another model, source or kind, or the source cannot be used.
    """
    _check_over(over, frames_per_second)
    columns, encoding = columns or RowColumns(), encoding or EncodingOptions()
    path = real_source(source) if isinstance(source, str | os.PathLike) else None
    if path is not None and is_index(path):
        return _open_as_it_is(path, encoder, over, rebuild, frames_per_second)
    place = real_index(index_folder or default_index_folder(source, over))
    if over == "moments":
        return _open_films(path, source, encoder, place, rebuild, columns, encoding, frames_per_second)
    if path is not None and _is_embedded(path):
        check_no_columns(columns, f"The folder of embeddings {path}")
        return _open_embedded(path, encoder, place, over, rebuild)
    if path is not None and over == "images" and is_folder_of_pictures(path, place, columns):
        check_no_columns(columns, f"The folder of images {path}")
        refresh = (rebuild_folder_index if rebuild else refresh_folder_index)(encoder, path, place, encoding=encoding)
        return SourceIndex(refresh.index, refresh, path)
    with locked_index(place):
        check_index_folder(place)
        if not rebuild:
            return _open_job(source, encoder, place, over, columns, encoding)
        built = build_beside(place, lambda fresh: _open_job(source, encoder, fresh, over, columns, encoding))
        return replace(built, index=EmbeddingIndex.open(place))


def _check_over(over: str, frames_per_second: float | None) -> None:
    check_over(over)
    if frames_per_second is not None and over != "moments":
        raise ValueError(f"`frames_per_second` is for the moments of films, and `over` is {over!r}: leave it out.")


def _open_films(path, source, encoder, place, rebuild, columns, encoding, frames_per_second) -> SourceIndex:
    """The index of a film, or of a folder of films."""
    if path is None:
        raise ValueError(f"The moments of {source!r:.80} cannot be found: give a film, or a folder of films.")
    check_no_columns(columns, f"The films {path}")
    refresh = refresh_film_index(
        encoder, path, place, frames_per_second=frames_per_second, encoding=encoding, rebuild=rebuild
    )
    return SourceIndex(refresh.index, refresh, folder_of_files(path))


def _is_embedded(path: Path) -> bool:
    """Whether a folder is one that `clip-hf embed` wrote."""
    if not (path / MANIFEST).is_file():
        return False
    try:
        return read_json(path / MANIFEST, dict).get("format") == FORMAT_NAME
    except ValueError:
        return False


def is_folder_of_pictures(path: Path, index_folder: Path, columns: RowColumns) -> bool:
    """Whether a source is a folder of pictures. If it was one, it is one that is gone or empty now."""
    if not path.exists() and is_index(index_folder):
        source = section_of(EmbeddingIndex.open(index_folder).description, "source")
        return source.get("kind") == "folder"
    if not path.is_dir() or columns.split is not None:
        return False
    found = find_source(path, labelled=False)
    parts = [found.whole] if found.whole is not None else map(found.rows, found.part_names)
    return all(part.kind == "folder" for part in parts)


def _open_as_it_is(
    path: Path, encoder: DualEncoder, over: str, rebuild: bool, frames_per_second: float | None
) -> SourceIndex:
    if rebuild:
        raise ValueError(f"{path} is an index; to build it anew, give its source (and the index with --index).")
    index = EmbeddingIndex.open(path)
    source = section_of(index.description, "source")
    is_of_pictures = source.get("kind") in ("folder", FILMS.name)
    described = describe_index(encoder.of_pictures if is_of_pictures else encoder, source, over)
    if over == "moments" and (rate := frames_per_second or rate_of(index.description)) is not None:
        described |= {"sampling": {"frames_per_second": float(rate)}}
    check_description(index, described)
    folder = source.get("folder")
    folder = folder if isinstance(folder, str) and folder else None
    if folder is None or not os.path.isdir(folder):
        # Source and index may have been moved together.
        beside = Path(str(path).removesuffix(INDEX_ENDINGS[over]))
        folder = str(folder_of_files(beside)) if beside != path and beside.exists() else folder
    return SourceIndex(index, folder=None if folder is None else Path(folder))


# ---------------------------------------------------------------------------------------------------------- embeddings


def _open_embedded(path: Path, encoder: DualEncoder, place: Path, over: str, rebuild: bool) -> SourceIndex:
    """The index beside what `clip-hf embed` wrote."""
    embedded = EmbeddingFolder(path)
    location = embedded.manifest["source"].get("location")
    folder = folder_of(location) if isinstance(location, str) else ""
    source = {"location": str(path), "kind": EMBEDDED, "folder": folder, "stamp": embedded.stamp}
    described = describe_index(encoder, source, over)
    made = {**embedded.manifest, "over": over}
    if differing := differences_of(made, described):
        raise OtherIndexError(
            f"{path} was embedded {describe_origin(made, described, differing)}. Use the model and image "
            "options of that job, or embed the source again."
        )
    with locked_index(place):
        check_index_folder(place)
        if rebuild:
            build_beside(place, lambda fresh: _fill(fresh, embedded, described))
        else:
            _fill(place, embedded, described)
        return SourceIndex(EmbeddingIndex.open(place), folder=Path(folder) if folder else None)


def _open_job(
    source: Any, encoder: DualEncoder, place: Path, over: str, columns: RowColumns, encoding: EncodingOptions
) -> SourceIndex:
    """The index of a source that is embedded into its folder `embedded`."""
    described = describe_index(encoder, {"kind": "rows"}, over)
    is_new = not is_index(place)
    if is_new and over == encoder.media == "images" and describe_films(source, columns):
        raise ValueError(f"{source!s:.200} holds films. {WHOLE_FILMS}")
    if not is_new:
        _check_filled(EmbeddingIndex.open(place), described)
    else:
        # So that the folder is known to be an index, even if the embedding does not come to its end.
        _create(place, encoder.projection_dim, described)
    try:
        job = EmbeddingJob(encoder, source, place / EMBEDDED, EmbeddingOptions(over, columns=columns), encoding)
    except OtherJobError as error:
        raise OtherIndexError(
            f"{place} is the index of another state of its source, or of another one: {'; '.join(error.differences)}. "
            "Name another folder for the index (--index), or build it anew (--rebuild)."
        ) from error
    except (OSError, TypeError, ValueError):  # a source that cannot be used
        if is_new:
            remove_folder(place)
        raise
    job.retry_option = "`rebuild` (--rebuild)"
    job.run()
    embedded = EmbeddingFolder(place / EMBEDDED)
    rows = job.source
    source = {"location": rows.location, "kind": "rows", "folder": rows.folder, "stamp": embedded.stamp}
    index = _fill(place, embedded, {**described, "source": source})
    return SourceIndex(index, None, Path(rows.folder) if rows.folder else None, rows, columns.image_column)


def _fill(place: Path, embedded: EmbeddingFolder, described: dict[str, Any]) -> EmbeddingIndex:
    """The index of embeddings; in one commit, all rows are replaced if the parts have changed since it was filled."""
    kind = _KINDS[described["over"]]
    if not embedded.manifest["options"][described["over"]]:
        raise ValueError(f"{embedded.path} holds no embeddings of {described['over']}; it was made without (--over).")
    width, dtype = described["model"]["projection_dim"], embedded.manifest["options"].get("dtype", "float16")
    index = EmbeddingIndex.open(place) if is_index(place) else _create(place, width, described, dtype)
    _check_filled(index, described)
    if section_of(index.description, "source").get("stamp") == described["source"]["stamp"]:
        return index
    table = _describe_rows(embedded.rows(), kind)

    def vectors() -> Iterator[np.ndarray]:
        for part in embedded:
            values = part.images if kind == IMAGES else part.texts
            if len(values):
                yield values

    ids = pa.array(range(table.num_rows), pa.int64())
    index.change(add=(vectors(), ids, table), remove=index.ids(), description=described)
    return index


def _check_filled(index: EmbeddingIndex, described: dict[str, Any]) -> None:
    """OtherIndexError if an index is not of embeddings of this kind; whether the source is the same, a job knows."""
    check_description(index, described)
    there, source = section_of(index.description, "source"), described["source"]
    is_same = "stamp" in there and there.get("kind") == source["kind"]
    if is_same and source["kind"] == EMBEDDED and there.get("location") != source["location"]:
        is_same = index.folder == default_index_folder(source["location"], described["over"])  # moved together
    if not is_same:
        raise OtherIndexError(
            f"{index.folder} is the index of {there.get('location', 'something else')}, not of "
            f"{source.get('location', 'this source')}. Name another folder for the index (--index), or build it anew "
            "(--rebuild)."
        )


def _create(place: Path, width: int, described: dict[str, Any], dtype: str = "float16") -> EmbeddingIndex:
    empty = _describe_rows(ROW_SCHEMA.empty_table(), _KINDS[described["over"]])
    without_stamp = {**described, "source": {**described["source"], "stamp": ""}}
    return EmbeddingIndex.create(
        place, width, dtype=dtype, id_type=int, columns=empty.schema, description=without_stamp
    )


def _describe_rows(rows: pa.Table, kind: str) -> pa.Table:
    """The metadata of rows of an index: of images as they are, of texts a row for each caption."""
    described = rows.select([*_IMAGE_COLUMNS, *_PLACE_COLUMNS])
    if kind == IMAGES:
        return described.append_column("captions", rows["captions"])
    captions = rows["captions"].combine_chunks()
    owners = pc.list_parent_indices(captions)
    return described.take(owners).append_column("caption", pc.list_flatten(captions))
