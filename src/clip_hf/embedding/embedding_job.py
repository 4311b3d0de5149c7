# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Embedding jobs: any number of images and texts into a folder, by any number of processes, after any interruption.

What is written depends only on the model, the source and the options. The rows of a source are divided into parts by
their numbers; a process takes the next part that is missing and that no other process has locked, and what is there
under its final name is complete.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..data.media import IMAGES
from ..data.row_shards import RowColumns, RowShard, shard_rows
from ..data.skips import DamagedFile, SkipCounter, UnreachableFile
from ..utils.wording import counted
from .destination_errors import NO_LOCKS, naming_destination
from .dual_encoder import DualEncoder
from .encoding_ahead import check_skips
from .encoding_options import EncodingOptions
from .films_of_sources import naming_films
from .job_manifest import (
    LOCKS,
    absolute_source,
    check_claim,
    check_destination,
    check_image_root,
    claim_folder,
    describe_job,
    find_folder,
    settle_dtype,
    write_list,
)
from .job_options import EmbeddingOptions
from .job_progress import JobProgress, JobTiming
from .job_summary import RETRY_BAD, EmbeddingSummary, check_bad_rows, summarise, write_summary
from .load_encoder import load_dual_encoder
from .part_files import PartContent, PartName, PartStore
from .part_worker import Batch, PartEnd, PartWorker, part_batches


# Before this many rows, a share of bad ones says little while the job runs.
_LEAST_ROWS = 1000
_LONGEST_WAIT = 2.0  # seconds between looks at parts that others have locked


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

    retry_option = RETRY_BAD  # what messages call it; an index has another

    def __init__(
        self,
        encoder: DualEncoder,
        source: Any,
        destination: str | os.PathLike,
        options: EmbeddingOptions | None = None,
        encoding: EncodingOptions | None = None,
    ):
        self.encoder, self.folder = encoder, find_folder(destination)
        self.options, self.encoding = options or EmbeddingOptions(), encoding or EncodingOptions()
        if encoder.media != self.options.columns.media:
            self.options = replace(self.options, columns=self._columns(encoder))
        opt = self.options
        check_destination(self.folder, source)
        check_image_root(opt.columns.image_root)
        source = write_list(self.folder, source, opt)
        self.images = opt.modalities != "texts"
        needs_texts = opt.modalities in ("texts", "both")
        with naming_films(encoder, source, opt.columns):
            self.source = shard_rows(
                source, opt.columns, images=self.images, captions=needs_texts, limits=encoder.image_limits
            )
        self.texts = needs_texts or (opt.modalities is None and self.source.has_captions)
        self.given = absolute_source(source, self.source.kind)
        self.store = PartStore(self.folder, opt.file_format, claim_folder(self.folder, self._manifest()))
        self._records: dict[PartName, dict[str, Any]] = {}
        # Parts with bad rows to embed again, until their stamp changes: by this process or by another.
        self._retried: dict[PartName, tuple[int, int]] = {}
        if opt.retry_bad:
            share = set(self.share())
            for name in self.store.names():
                stamp = self.store.stamp(name)  # before the record is read
                if stamp and self._task_of(name) in share and (record := self._record(name)) and record["bad"]:
                    self._retried[name] = stamp

    def _columns(self, encoder: DualEncoder) -> RowColumns:
        """The columns of films, where the encoder is of films; ValueError where only the columns are."""
        columns = self.options.columns
        if encoder.media == IMAGES.name:
            raise ValueError(
                f'The columns are of films (media="videos"), and {encoder.name} embeds images: load it with '
                "`clip=ClipSampling(num_frames=8)` (--num-frames 8)."
            )
        is_usual = columns.image_column == IMAGES.role
        return replace(columns, media=encoder.media, image_column=None if is_usual else columns.image_column)

    def _manifest(self) -> dict[str, Any]:
        opt = self.options
        options = {
            "images": self.images,
            "texts": self.texts,
            "file_format": opt.file_format,
            "dtype": opt.dtype,
            "rows_per_part": opt.rows_per_part,
            "batch_size": self.encoding.batch_size,
        }
        return describe_job(self.encoder, self.source, options)

    # ------------------------------------------------------------------------------------------- what there is to do

    def tasks(self) -> list[JobTask]:
        """Everything that there is to do, done or not, in order."""
        tasks = []
        for index, shard in enumerate(self.source.shards):
            size = self.options.rows_per_part
            numbers = [None] if shard.num_rows is None else range(-(-shard.num_rows // size))
            tasks += [JobTask(index, number) for number in numbers]
        return tasks

    def share(self) -> list[JobTask]:
        """The tasks of `options.shard`."""
        index, count = self.options.shard
        return self.tasks()[index::count]

    def missing(self, tasks: Sequence[JobTask] | None = None) -> list[JobTask]:
        """The tasks that are not done, of the given ones or of all."""
        unsettled = {self._task_of(name) for name in self.store.pending()}
        return [
            task
            for task in (self.tasks() if tasks is None else tasks)
            if task in unsettled or self._wanted_parts(task)
        ]

    def _task_of(self, name: PartName) -> JobTask:
        is_divided = name.shard < len(self.source.shards) and self.source.shards[name.shard].num_rows is not None
        return JobTask(name.shard, name.number if is_divided else None)

    def _wanted_parts(self, task: JobTask) -> list[tuple[int, int | None]]:
        """The parts of a task to embed: ranges of first and last number, the last one None for the shard's end."""
        if task.part is not None:
            return [] if self._is_there(PartName(task.shard, task.part)) else [(task.part, task.part)]
        wanted, number = [], 0
        while True:
            name = PartName(task.shard, number)
            is_there, record = self._is_there(name), self._record(name)
            if not is_there:
                is_end = record is None or record["is_last"]
                wanted.append((number, None if is_end else number))
            if record is None or record["is_last"]:
                return wanted
            number += 1

    def _is_there(self, name: PartName) -> bool:
        """Whether a part is complete, and not to be embedded again."""
        if name in self._retried:
            if self.store.stamp(name) == self._retried[name]:
                return False
            del self._retried[name]
            self._records.pop(name, None)
        return self._record(name) is not None

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
        tasks = self.share()
        # Processes of one launch begin at different places, so that they seldom find a part locked.
        start = len(tasks) * self.encoding.process // self.encoding.processes
        return self.finish(self.do(tasks[start:] + tasks[:start]))

    def do(self, tasks: Sequence[JobTask]) -> JobTiming | None:
        """Do what is missing of the tasks, and return where the time went; None if nothing was to be embedded.

        Tasks that other processes have locked are left to them; if one of these ends before its work is done, this one
        goes on with it. So all of the tasks are done when this returns.

        Raises:
            ValueError: if more than `encoding.max_skipped_share` of the rows are bad, features are not finite, or a
                row has a caption though the first rows had none and `options.modalities` does not say what to embed.
            DamagedFile: if a file cannot be read to its end; the parts of the others are written first.
            OSError: if the destination cannot be written; what is there stays, and the next run goes on.
        """
        missing, wait = self.missing(tasks), 0.0
        if not missing:
            return None
        is_shown = self.encoding.progress and self.encoding.process == 0
        unread: dict[int, DamagedFile] = {}
        progress = JobProgress(self._rows_of(missing), self.encoding.num_threads, is_shown)
        skips = SkipCounter(self.encoding.max_skipped_share, min_rows=1)
        try:
            while missing:
                done = self._embed(missing, progress, skips, unread)
                missing = [task for task in self.missing(missing) if task.shard not in unread]
                progress.expect(self._rows_of(missing))
                if missing and not done:
                    if not wait:
                        progress.say(f"waiting for {counted(len(missing), 'task')} of other processes")
                    wait = min(max(2 * wait, 0.05), _LONGEST_WAIT)
                    time.sleep(wait)
        finally:
            progress.close()
        if unread:
            raise _describe_unread(unread, len(self.source.shards), self.folder)
        return progress.timing() if progress.rows else None

    def _rows_of(self, tasks: Sequence[JobTask]) -> int | None:
        size, total = self.options.rows_per_part, 0
        for task in tasks:
            if task.part is None:
                return None
            total += min(size, self.source.shards[task.shard].num_rows - task.part * size)
        return total

    def _embed(
        self, tasks: Sequence[JobTask], progress: JobProgress, skips: SkipCounter, unread: dict[int, DamagedFile]
    ) -> int:
        """Do the tasks that nobody has locked; how many parts that were. Shards that cannot be read are noted."""
        locks: dict[JobTask, FileLock] = {}
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
            for name, content in worker.embed(self._claimed(tasks, locks, progress)):
                self._write(name, content)
                written += 1
                task = self._task_of(name)
                if task in locks and not self._wanted_parts(task):
                    _let_go(locks.pop(task))
                skips.add((row for _, row in content.bad), num_used=len(content.rows))
                check_skips(skips, max(_LEAST_ROWS, skips.num_used + skips.num_skipped))
        finally:
            for lock in locks.values():
                lock.release()
        unread |= worker.unread
        return written

    def _write(self, name: PartName, content: PartContent) -> None:
        check_claim(self.folder, self.store.job)
        with naming_destination(self.folder):
            self._records[name] = self.store.write(name, content)
        self._retried.pop(name, None)

    def _claimed(
        self, tasks: Sequence[JobTask], locks: dict[JobTask, FileLock], progress: JobProgress
    ) -> Iterator[Batch | PartEnd]:
        """The rows of tasks, each of which is locked before its first row is read."""
        for task in tasks:
            lock = FileLock(self.folder / LOCKS / f"{task}.lock")
            try:
                with naming_destination(self.folder):
                    (self.folder / LOCKS).mkdir(parents=True, exist_ok=True)
                    lock.acquire(timeout=0)
            except Timeout:
                progress.leave(self._rows_of([task]))
                continue
            except OSError as error:
                if error.errno not in NO_LOCKS or self.options.shard[1] == 1:  # shares have no part in common
                    raise
            locks[task] = lock
            self._settle(task)
            wanted = self._wanted_parts(task)
            if not wanted:
                progress.leave(self._rows_of([task]))
                _let_go(locks.pop(task))
            for first, last in wanted:
                yield from self._batches(task, first, last)

    def _settle(self, task: JobTask) -> None:
        """Move parts of a locked task into place whose process died before it did."""
        for name in self.store.pending():
            if self._task_of(name) == task:
                with naming_destination(self.folder):
                    self.store.settle(name)
                self._records.pop(name, None)

    def _batches(self, task: JobTask, first: int, last: int | None) -> Iterator[Batch | PartEnd]:
        """The rows of the parts `first` to `last` of a task."""
        shard, size = self.source.shards[task.shard], self.options.rows_per_part
        stop = None if task.part is None else min((first + 1) * size, shard.num_rows)
        rows = self._rows(shard, first * size, stop)
        for batch in part_batches(task.shard, first, rows, size, self.encoder.items_in(self.encoding.batch_size)):
            if not isinstance(batch, PartEnd):
                yield batch
                continue
            yield batch if stop is None else replace(batch, is_last=stop == shard.num_rows)
            if batch.name.number == last:
                return

    def _rows(self, shard: RowShard, start: int, stop: int | None) -> Iterator[tuple[int, Any, Any]]:
        columns, number = self.options.columns, start
        for number, row in enumerate(shard.read(start, stop), start + 1):
            captions = row.get(columns.caption_column)
            if self.options.modalities is None and not self.texts and captions:
                raise ValueError(
                    f"Row {number - 1} of {shard.name} has a caption, though the first rows of the source have none, "
                    'so that only images are embedded here. Say what you want: `modalities="images"` (--images) goes '
                    'on here without captions; `modalities="both"` (--images --texts) embeds them, into another '
                    "destination."
                )
            yield number - 1, row.get(columns.image_column), captions
        if stop is not None and number != stop:
            raise ValueError(f"{shard.name} has only {number:,} rows now; it had {shard.num_rows:,}. Was it changed?")

    # -------------------------------------------------------------------------------------------------------- the end

    def finish(self, timing: JobTiming | None = None) -> EmbeddingSummary:
        """Count what lies in the folder; if that is all, check the bad rows and write `summary.json`.

        Raises:
            FileNotFoundError: if parts of the share `options.shard` or the manifest are gone: something removed them.
            ValueError: if the manifest is another job's, or if all is there and more than `encoding.max_skipped_share`
                of the rows are bad.
        """
        check_claim(self.folder, self.store.job)
        self._records.clear()
        missing = self.missing()
        if gone := set(self.share()).intersection(missing):
            first = next(task for task in missing if task in gone)
            raise FileNotFoundError(
                f"{self.folder} lost {counted(len(gone), 'part')} while the job ran, {first} first: something removed "
                "or damaged files. Run it again, which does what is missing."
            )
        records = filter(None, map(self._record, self.store.names()))
        summary = summarise(records, texts=self.texts, missing=len(missing), timing=timing)
        if summary.is_complete:
            share, location = self.encoding.max_skipped_share, self.source.location
            check_bad_rows(summary, share, location, self.folder, self.retry_option)
            write_summary(self.folder, summary)
        return summary


def _describe_unread(unread: dict[int, DamagedFile], count: int, folder: Path) -> DamagedFile:
    """The error for files that could not be read to their end, by their number."""
    problems = [str(unread[shard]) for shard in sorted(unread)]
    advice = "Run this again, which goes on with them"
    if not all(isinstance(problem, UnreachableFile) for problem in unread.values()):
        advice = "Copy or download them again; a source that has changed needs a new destination"
    return DamagedFile(
        f"{len(unread):,} of {counted(count, 'file')} could not be read to the end. {' '.join(problems[:3])} The "
        f"parts of the others are in {folder}. {advice}."
    )


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
    encoder = load_job_encoder(model, destination, **loading)
    return EmbeddingJob(encoder, source, destination, options, encoding).run()


def load_job_encoder(model: Any, destination: str | os.PathLike, **loading: Any) -> DualEncoder:
    """Load a model as [`load_dual_encoder`] does; `dtype="auto"` is what it was when the job at `destination` began.

    Raises:
        ValueError: if the model cannot run in that dtype here.
    """
    asked = loading.get("dtype")
    settled = asked if isinstance(model, DualEncoder) else settle_dtype(asked, destination)
    try:
        return load_dual_encoder(model, **{**loading, "dtype": settled})
    except ValueError as error:
        if settled == asked:
            raise
        raise ValueError(
            f'The job in {destination} began in {settled}, which `dtype="auto"` (--dtype auto) chose where it began '
            f"and must stay, but that cannot run here: {error} Go on where it began, or give another destination."
        ) from error
