# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Embedding jobs: any number of images and texts into a folder, by any number of processes, after any interruption.

What is written depends only on the model, the source and the options. The rows of a source are divided into parts by
their numbers; a process takes the next part that is missing and that no other process has locked, and what is there
under its final name is complete.
"""

import errno
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
from filelock import FileLock, Timeout

from ..data.row_shards import LIST_ENDING, RowColumns, RowShard, read_list, shard_rows
from ..data.skips import SkipCounter
from ..model.image_reading_clip_hf import URL_SCHEMES
from ..utils.atomic import replaced_file
from ..utils.wording import counted
from .dual_encoder import DualEncoder
from .encoding_ahead import check_skips
from .encoding_options import EncodingOptions
from .job_progress import JobProgress, JobTiming
from .load_encoder import load_dual_encoder
from .part_files import (
    FILE_FORMATS,
    FORMAT_NAME,
    FORMAT_VERSION,
    MANIFEST,
    SUMMARY,
    PartName,
    PartStore,
    read_manifest,
)
from .part_worker import Batch, PartEnd, PartWorker, part_batches


DTYPES = ("float16", "float32")
WHAT = ("images", "texts", "both")
_LOCKS = "locks"
_LIST = f"source{LIST_ENDING}"
# Before this many rows, a share of bad ones says little while the job runs.
_LEAST_ROWS = 1000
_LONGEST_WAIT = 2.0  # seconds between looks at parts that others have locked


@dataclass(frozen=True)
class EmbeddingOptions:
    """What an embedding job writes. A job that goes on must have the same options, except `shard` and `retry_bad`.

    Args:
        what (`str`, *optional*): `"images"`, `"texts"` (the captions) or `"both"`; by default both where the source
            has captions, else images.
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
    """

    what: str | None = None
    file_format: str = FILE_FORMATS[0]
    dtype: str = DTYPES[0]
    rows_per_part: int = 1024
    columns: RowColumns = field(default_factory=RowColumns)
    shard: tuple[int, int] = (0, 1)
    retry_bad: bool = False

    def __post_init__(self):
        for name, allowed in (("what", (None, *WHAT)), ("file_format", FILE_FORMATS), ("dtype", DTYPES)):
            if getattr(self, name) not in allowed:
                shown = ", ".join(map(repr, filter(None, allowed)))
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; it must be one of {shown}.")
        if isinstance(self.rows_per_part, bool) or not isinstance(self.rows_per_part, int) or self.rows_per_part < 1:
            raise ValueError(f"`rows_per_part` is {self.rows_per_part!r}; it must be an integer of at least 1.")
        index, count = self.shard
        if not 0 <= index < count:
            raise ValueError(f"`shard` is {index}/{count}; it must be i/n with i from 0 to n-1, such as 0/4.")


@dataclass(frozen=True)
class EmbeddingSummary:
    """What a folder of embeddings holds so far.

    Args:
        rows (`int`): Rows that were embedded.
        texts (`int`): Captions that were embedded.
        bad (`dict[str, int]`): Rows that cannot be used, by kind.
        parts (`int`): Parts that are written.
        num_bytes (`int`): Bytes of the embeddings.
        is_complete (`bool`): Whether all parts are there; with `shard`, those of the other jobs too.
        timing ([`JobTiming`], *optional*): Where this run's time went; None if nothing was missing.
    """

    rows: int
    texts: int
    bad: dict[str, int]
    parts: int
    num_bytes: int
    is_complete: bool
    timing: JobTiming | None = None


@dataclass(frozen=True)
class JobTask:
    """What one process takes at a time: a part, or a shard whose length only reading tells (part is None)."""

    shard: int
    part: int | None

    def __str__(self) -> str:
        return f"shard-{self.shard:05d}" if self.part is None else str(PartName(self.shard, self.part))


class EmbeddingJob:
    """A job: an encoder, a source and a destination, whose manifest is written or compared.

    Args:
        encoder (`DualEncoder`): The model.
        source (`str`, `os.PathLike`, `datasets.Dataset` or a sequence of paths): What to embed, see [`embed`].
        destination (`str` or `os.PathLike`): The folder to write.
        options ([`EmbeddingOptions`], *optional*): What to write.
        encoding ([`EncodingOptions`], *optional*): Batches, threads, progress, processes, and how many may be bad.

    Raises:
        OSError: if the destination cannot be written.
        ValueError: if it belongs to another job, is not empty or lies in the source, or the source cannot be used.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        source: Any,
        destination: str | os.PathLike,
        options: EmbeddingOptions | None = None,
        encoding: EncodingOptions | None = None,
    ):
        self.encoder, self.options, self.encoding = (
            encoder,
            options or EmbeddingOptions(),
            encoding or EncodingOptions(),
        )
        self.folder = Path(os.path.abspath(os.path.expanduser(destination)))
        self._check_destination(source)
        source = self._written_list(source)
        opt = self.options
        self.images = opt.what != "texts"
        needs_texts = opt.what in ("texts", "both")
        self.source = shard_rows(
            source, opt.columns, images=self.images, captions=needs_texts, limits=encoder.image_limits
        )
        self.texts = needs_texts or (opt.what is None and self.source.has_captions)
        self.given = _absolute_source(source, self.source.kind)
        self.store = PartStore(self.folder, opt.file_format, opt.rows_per_part)
        self._records: dict[PartName, dict[str, Any]] = {}
        self._write_manifest()
        if opt.retry_bad:
            for name in self.store.names():
                if (record := self._record(name)) and record["bad"]:
                    self.store.remove(name)
                    del self._records[name]

    # ------------------------------------------------------------------------------------------------- what it is

    def _check_destination(self, source: Any) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"{self.folder} is a file; the destination must be a folder.")
        if isinstance(source, str | os.PathLike) and os.path.isdir(source):
            if os.path.join(os.path.realpath(self.folder), "").startswith(os.path.join(os.path.realpath(source), "")):
                raise ValueError(
                    f"The destination {self.folder} lies in the source {source}, whose files it would become; give a "
                    "folder outside."
                )
        there = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        others = [name for name in there - {_LIST, _LOCKS} if not name.startswith(".")]
        if others and MANIFEST not in there:
            raise ValueError(
                f"The destination {self.folder} is not empty and holds no {MANIFEST}: give a new folder, or that of a "
                "job to go on with."
            )

    def _written_list(self, source: Any) -> Any:
        """A list of paths is written to the destination, so that other processes and later runs find it."""
        if isinstance(source, str | os.PathLike | datasets.Dataset) or not isinstance(source, Sequence):
            return source
        path, lines = self.folder / _LIST, []
        for place in map(os.fspath, source):
            is_url = place.partition(":")[0].lower() in URL_SCHEMES
            lines.append(place if is_url else os.path.abspath(place))
            if "\n" in place or place.endswith("\r") or not place.strip():
                raise ValueError(
                    f"{place!r} is no path that a list can hold: lines end in it, or it is blank. Leave it out, or "
                    "rename the file."
                )
        if path.is_file():
            if lines and read_list(path) != lines:
                raise ValueError(f"{path} lists other images than those that were given; give another destination.")
        elif not lines:
            raise ValueError("The list of images is empty.")
        else:
            with replaced_file(path) as temporary:
                text = "".join(f"{line}\n" for line in lines)
                temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")
        return path

    def _manifest(self) -> dict[str, Any]:
        opt = self.options
        rows = [shard.num_rows for shard in self.source.shards]
        return {
            "format": FORMAT_NAME,
            "version": FORMAT_VERSION,
            "model": {
                "name": self.encoder.name,
                "fingerprint": self.encoder.fingerprint,
                "projection_dim": self.encoder.projection_dim,
            },
            "source": {
                "location": self.source.location,
                "kind": self.source.kind,
                "fingerprint": self.source.fingerprint,
                "shards": len(rows),
                "rows": None if None in rows else sum(rows),
            },
            "options": {
                "images": self.images,
                "texts": self.texts,
                "file_format": opt.file_format,
                "dtype": opt.dtype,
                "rows_per_part": opt.rows_per_part,
                "batch_size": self.encoding.batch_size,
            },
        }

    def _write_manifest(self) -> None:
        """Write the manifest, or compare the one that is there: ValueError if it is of another job."""
        expected, path = self._manifest(), self.folder / MANIFEST
        (self.folder / _LOCKS).mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / _LOCKS / "manifest.lock"):
            if not path.is_file():
                with replaced_file(path) as temporary:
                    temporary.write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
        found = read_manifest(self.folder)
        differing = []
        for section, content in expected.items():
            for name, value in content.items() if isinstance(content, dict) else ():
                there = found.get(section, {}).get(name)
                if name not in ("name", "location") and there != value:
                    differing.append(f"{section} {name} is {there!r} there and {value!r} now")
        if differing:
            raise ValueError(
                f"{self.folder} holds embeddings of another job, by {found['model'].get('name')} of "
                f"{found['source'].get('location')}: {'; '.join(differing)}. Give another destination, or the model, "
                "source and options of that job."
            )

    # ------------------------------------------------------------------------------------------- what there is to do

    def tasks(self) -> list[JobTask]:
        """Everything that there is to do, done or not, in order."""
        tasks = []
        for index, shard in enumerate(self.source.shards):
            size = self.options.rows_per_part
            numbers = [None] if shard.num_rows is None else range(-(-shard.num_rows // size))
            tasks += [JobTask(index, number) for number in numbers]
        return tasks

    def missing(self, tasks: Sequence[JobTask] | None = None) -> list[JobTask]:
        """The tasks that are not done, of the given ones or of all."""
        return [task for task in (self.tasks() if tasks is None else tasks) if not self._is_done(task)]

    def _is_done(self, task: JobTask) -> bool:
        return self._first_missing(task) is None

    def _first_missing(self, task: JobTask) -> int | None:
        """The first part of a task that is not there; None if all are."""
        if task.part is not None:
            return task.part if self._record(PartName(task.shard, task.part)) is None else None
        number = 0
        while record := self._record(PartName(task.shard, number)):
            if record["is_last"]:
                return None
            number += 1
        return number

    def _record(self, name: PartName) -> dict[str, Any] | None:
        if name not in self._records:
            record = self.store.record(name)
            if record is None:
                return None
            self._records[name] = record
        return self._records[name]

    # ------------------------------------------------------------------------------------------------------ doing it

    def run(self) -> EmbeddingSummary:
        """Do what is missing of the share `options.shard`, see [`EmbeddingJob.do`], and [`EmbeddingJob.finish`]."""
        index, count = self.options.shard
        tasks = self.tasks()[index::count]
        # Processes of one launch begin at different places, so that they seldom find a part locked.
        start = len(tasks) * self.encoding.process // self.encoding.processes
        return self.finish(self.do(tasks[start:] + tasks[:start]))

    def do(self, tasks: Sequence[JobTask]) -> JobTiming | None:
        """Do what is missing of the tasks, and return where the time went; None if nothing was.

        Tasks that other processes have locked are left to them; if one of these ends before its work is done, this one
        goes on with it. So all of the tasks are done when this returns.

        Raises:
            ValueError: if more than `encoding.max_skipped_share` of the rows are bad, features are not finite, or a
                row has a caption though the first rows had none and `options.what` does not say what to embed.
            OSError: if the destination cannot be written; what is there stays, and the next run goes on.
        """
        missing, wait = self.missing(tasks), 0.0
        if not missing:
            return None
        is_shown = self.encoding.progress and self.encoding.process == 0
        progress = JobProgress(self._rows_of(missing), self.encoding.num_threads, is_shown)
        skips = SkipCounter(self.encoding.max_skipped_share, min_rows=1)
        try:
            while missing:
                done = self._embed(missing, progress, skips)
                missing = self.missing(missing)
                if missing and not done:
                    if not wait:
                        progress.say(f"waiting for {counted(len(missing), 'task')} of other processes")
                    wait = min(max(2 * wait, 0.05), _LONGEST_WAIT)
                    time.sleep(wait)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(
                    error.errno,
                    f"There is no space left for {self.folder}. What is there stays: make room and run this again",
                ) from error
            raise
        finally:
            progress.close()
        return progress.timing()

    def _rows_of(self, tasks: Sequence[JobTask]) -> int | None:
        size, total = self.options.rows_per_part, 0
        for task in tasks:
            if task.part is None:
                return None
            total += min(size, self.source.shards[task.shard].num_rows - task.part * size)
        return total

    def _embed(self, tasks: Sequence[JobTask], progress: JobProgress, skips: SkipCounter) -> int:
        """Do the tasks that nobody has locked; how many parts that were."""
        locks: dict[str, FileLock] = {}
        worker = PartWorker(
            self.encoder,
            self.source.folder,
            images=self.images,
            texts=self.texts,
            dtype=self.options.dtype,
            num_threads=self.encoding.num_threads,
            progress=progress,
        )
        written = 0
        try:
            for name, content in worker.embed(self._claimed(tasks, locks)):
                self._records[name] = self.store.write(name, content)
                written += 1
                is_divided = self.source.shards[name.shard].num_rows is not None
                if is_divided or content.is_last:
                    _let_go(locks.pop(str(JobTask(name.shard, name.number if is_divided else None))))
                skips.add(content.bad, num_used=len(content.rows))
                check_skips(skips, max(_LEAST_ROWS, skips.num_used + skips.num_skipped))
        finally:
            for lock in locks.values():
                lock.release()
        return written

    def _claimed(self, tasks: Sequence[JobTask], locks: dict[str, FileLock]) -> Iterator[Batch | PartEnd]:
        """The rows of tasks, each of which is locked before its first row is read."""
        for task in tasks:
            lock = FileLock(self.folder / _LOCKS / f"{task}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            first = self._first_missing(task)
            if first is None:
                _let_go(lock)
                continue
            locks[str(task)] = lock
            yield from self._batches(task, first)

    def _batches(self, task: JobTask, first: int) -> Iterator[Batch | PartEnd]:
        shard, size = self.source.shards[task.shard], self.options.rows_per_part
        stop = None if task.part is None else min((first + 1) * size, shard.num_rows)
        rows = self._rows(shard, first * size, stop)
        yield from part_batches(task.shard, first, rows, size, self.encoding.batch_size)

    def _rows(self, shard: RowShard, start: int, stop: int | None) -> Iterator[tuple[int, Any, Any]]:
        columns, number = self.options.columns, start
        for number, row in enumerate(shard.read(start, stop), start + 1):
            captions = row.get(columns.caption_column)
            if self.options.what is None and not self.texts and captions:
                raise ValueError(
                    f"Row {number - 1} of {shard.name} has a caption, though the first rows of the source have none, "
                    'so that only images are embedded here. Say what you want: `what="images"` (--images) goes on '
                    'here without captions; `what="both"` (--images --texts) embeds them, into another destination.'
                )
            yield number - 1, row.get(columns.image_column), captions
        if stop is not None and number != stop:
            raise ValueError(f"{shard.name} has only {number:,} rows now; it had {shard.num_rows:,}. Was it changed?")

    # -------------------------------------------------------------------------------------------------------- the end

    def finish(self, timing: JobTiming | None = None) -> EmbeddingSummary:
        """What is there; if that is all, check the bad rows and write `summary.json`.

        Raises:
            ValueError: if all is there, and more than `encoding.max_skipped_share` of the rows are bad.
        """
        is_complete = not self.missing()
        total = {"rows": 0, "texts": 0, "parts": 0, "num_bytes": 0}
        bad: dict[str, int] = {}
        for name in self.store.names():
            record = self._record(name)
            if record is None:
                continue
            total["rows"] += record["rows"]
            total["texts"] += record["texts"] if self.texts else 0
            total["parts"] += 1
            total["num_bytes"] += sum(
                file["bytes"] for path, file in record["files"].items() if not path.startswith("bad/")
            )
            for kind, count in record["bad"].items():
                bad[kind] = bad.get(kind, 0) + count
        bad = dict(sorted(bad.items()))
        summary = EmbeddingSummary(**total, bad=bad, is_complete=is_complete, timing=timing)
        if is_complete:
            self._check_bad(summary)
            content = {name: value for name, value in asdict(summary).items() if name not in ("is_complete", "timing")}
            with replaced_file(self.folder / SUMMARY) as temporary:
                temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return summary

    def _check_bad(self, summary: EmbeddingSummary) -> None:
        count, rows = sum(summary.bad.values()), summary.rows
        share = self.encoding.max_skipped_share
        if count and (rows == 0 or count > max(share * (rows + count), 1 if share else 0)):
            kinds = ", ".join(f"{number:,} {kind}" for kind, number in summary.bad.items())
            what, advice = f"No row of {self.source.location} can be used ({kinds}).", ""
            if rows:
                what = f"{count:,} of {counted(rows + count, 'row')} cannot be used ({kinds}), more than "
                what, advice = f"{what}max_skipped_share={share:g} allows.", ", or raise `max_skipped_share`"
            raise ValueError(
                f"{what} {self.folder / 'bad'} lists them. Repair them and run again with `retry_bad` "
                f"(--retry-bad){advice}.{refused_hint(summary)}"
            )


def refused_hint(summary: EmbeddingSummary) -> str:
    """What helps where locations were refused, a sentence after a space; empty if none was."""
    if "location refused" not in summary.bad:
        return ""
    return (
        " Paths may lead to another folder with `image_root` (--image-root); rows that were left out before are tried "
        "again only with `retry_bad` (--retry-bad)."
    )


def _absolute_source(source: Any, kind: str) -> Any:
    """A source as a process that started in another folder finds it."""
    if not isinstance(source, str | os.PathLike):
        return source
    text = os.path.expanduser(os.fspath(source))
    if "://" in text or (kind in ("dataset", "stream") and not os.path.exists(text)):
        return text
    return os.path.abspath(text) if os.path.exists(text) else "::".join(map(os.path.abspath, text.split("::")))


def _let_go(lock: FileLock) -> None:
    """Release the lock of a task that is done; whoever waits for the file finds it done."""
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)


def embed(
    model: Any,
    source: Any,
    destination: str | os.PathLike,
    *,
    options: EmbeddingOptions | None = None,
    encoding: EncodingOptions | None = None,
    **loading: Any,
) -> EmbeddingSummary:
    """Embed any number of images and captions into a folder, see [`read_embeddings`].

    - Run it again after a crash: only missing parts are embedded, and the files are the same, byte for byte (on the
      same kind of machine with as many threads of torch).
    - Start it as often as you like, on any machines that see the folder: each process takes parts that no other has.
    - Memory does not grow with the number of images.
    - Rows that cannot be read are left out, counted, and listed in `bad/`.

    Args:
        model: What [`load_dual_encoder`] takes.
        source (`str`, `os.PathLike`, `datasets.Dataset` or a sequence of paths): What [`load_pairs`] takes, captions
            being optional: a folder of images, a table, Parquet files, tars, a saved dataset, a name on the hub (read
            as a stream); a `.txt` file with a path or URL on each line; or a list of them.
        destination (`str` or `os.PathLike`): The folder to write; new, empty, or of the same job.
        options ([`EmbeddingOptions`], *optional*): What to write, and which share of the work.
        encoding ([`EncodingOptions`], *optional*): Batches, threads, progress, processes, `max_skipped_share`.
        **loading: Further arguments of [`load_dual_encoder`]: `runtime`, `dtype`, `device`, `processor`.

    Raises:
        OSError: if the destination cannot be written.
        ValueError: if the destination belongs to another job or lies in the source, the source cannot be used, or too
            many rows are bad.

    Example:

    ```python
    >>> summary = embed("my_model", "path/to/pairs", "embedded")
    >>> summary.rows, summary.texts, summary.bad
    (24, 24, {})
    ```
    """
    encoder = load_dual_encoder(model, **loading)
    return EmbeddingJob(encoder, source, destination, options, encoding).run()
