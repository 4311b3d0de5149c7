# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a folder of embeddings holds so far, and whether too many rows were bad."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..utils.atomic import replaced_file
from ..utils.wording import counted
from .destination_errors import naming_destination
from .job_progress import JobTiming
from .part_files import BAD, SUMMARY


RETRY_BAD = "`retry_bad` (--retry-bad)"
"""What tries bad rows again, in messages of a job that is not part of something else."""


@dataclass(frozen=True)
class EmbeddingSummary:
    """What a folder of embeddings holds so far.

    Args:
        rows (`int`): Rows that were embedded.
        texts (`int`): Captions that were embedded.
        bad (`dict[str, int]`): Rows that cannot be used, by kind.
        parts (`int`): Parts that are written.
        num_bytes (`int`): Bytes of the embeddings.
        missing (`int`): Parts that are not there, of other shares; of tars and streams, shards with such parts.
        timing ([`JobTiming`], *optional*): Where this run's time went; None if it embedded nothing.
    """

    rows: int
    texts: int
    bad: dict[str, int]
    parts: int
    num_bytes: int
    missing: int
    timing: JobTiming | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all parts are there; with `shard`, those of the other jobs too."""
        return not self.missing


def summarise(
    records: Iterable[dict[str, Any]], *, texts: bool, missing: int, timing: JobTiming | None = None
) -> EmbeddingSummary:
    """Add up the records of parts, see `PartStore.record`; captions count only where `texts` are embedded."""
    total = {"rows": 0, "texts": 0, "parts": 0, "num_bytes": 0}
    bad: dict[str, int] = {}
    for record in records:
        total["rows"] += record["rows"]
        total["texts"] += record["texts"] if texts else 0
        total["parts"] += 1
        total["num_bytes"] += sum(
            file["bytes"] for path, file in record["files"].items() if not path.startswith(f"{BAD}/")
        )
        for kind, count in record["bad"].items():
            bad[kind] = bad.get(kind, 0) + count
    return EmbeddingSummary(**total, bad=dict(sorted(bad.items())), missing=missing, timing=timing)


def write_summary(folder: Path, summary: EmbeddingSummary) -> None:
    """Write `summary.json`, unless it is there as it should be."""
    content = {name: value for name, value in asdict(summary).items() if name not in ("missing", "timing")}
    data, path = f"{json.dumps(content, indent=1)}\n".encode(), folder / SUMMARY
    if path.is_file() and path.read_bytes() == data:
        return  # nothing is written where nothing changes: the folder may be read-only
    with naming_destination(folder), replaced_file(path) as temporary:
        temporary.write_bytes(data)


def check_bad_rows(
    summary: EmbeddingSummary, max_skipped_share: float, location: str, folder: Path, retry_option: str
) -> None:
    """ValueError if more than this share of the rows of `location` is bad, or all are. One is always allowed, unless
    the share is 0. `retry_option` is what tries them again.
    """
    count, rows = sum(summary.bad.values()), summary.rows
    if not count or (rows and count <= max(max_skipped_share * (rows + count), 1 if max_skipped_share else 0)):
        return
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in summary.bad.items())
    what, advice = f"No row of {location} can be used ({kinds}).", ""
    if rows:
        what = f"{count:,} of {counted(rows + count, 'row')} cannot be used ({kinds}), more than "
        what = f"{what}max_skipped_share={max_skipped_share:g} allows."
        advice = ", or raise `max_skipped_share` (--max-skipped-share)"
    raise ValueError(
        f"{what} {folder / BAD} lists them. Repair them and run again with {retry_option}{advice}."
        f"{refused_hint(summary, retry_option)}"
    )


def first_bad_rows(folder: Path, limit: int = 3) -> list[str]:
    """The first reasons in `bad/`, for people, with the file where they do not name it, and a shard but the first."""
    lines = []
    for path in sorted((folder / BAD).glob("part-*.jsonl")):
        with open(path, encoding="utf-8") as file:
            for line in map(json.loads, file):
                reason, name = line["reason"], repr(line["name"])[1:-1]
                begin = f"shard {line['shard']}: " if line["shard"] else ""
                begin += "" if line["name"] in reason or name in reason else f"{name}: "
                lines.append(f"{begin}{reason}")
                if len(lines) == limit:
                    return lines
    return lines


def refused_hint(summary: EmbeddingSummary, retry_option: str = RETRY_BAD) -> str:
    """What helps where locations were refused, a sentence after a space; empty if none was."""
    if "location refused" not in summary.bad:
        return ""
    return (
        " Paths may lead to another folder with `image_root` (--image-root); rows that were left out before are tried "
        f"again only with {retry_option}."
    )
