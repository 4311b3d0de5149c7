# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The manifest of an embedding job, which says what the folder holds, and the folder's claim to be the job's."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from filelock import FileLock

from ..data.row_shards import LIST_ENDING, ShardedRows, read_list
from ..model.image_reading_clip_hf import URL_SCHEMES
from ..utils.atomic import replaced_file
from ..utils.dtypes import AUTO
from ..utils.fingerprints import package_version
from ..utils.output_folders import check_writable
from .destination_errors import NO_LOCKS, naming_destination
from .dual_encoder import DualEncoder
from .job_options import EmbeddingOptions
from .part_files import FORMAT_NAME, FORMAT_VERSION, MANIFEST, PLACES, SECTIONS, digest_of_job, read_manifest


LOCKS = "locks"
"""The folder of locks in a destination."""
_LIST = f"source{LIST_ENDING}"
# Flags of `clip-hf embed` that are not called as what they decide.
_FLAGS = {("model", "dtype"): "--dtype", ("model", "runtime"): "--runtime", ("options", "dtype"): "--file-dtype"}
_AS_THE_PROCESSOR = "as the image processor says"


def check_destination(folder: Path, source: Any) -> None:
    """ValueError or OSError if a job must not or cannot write to a folder; its manifest is not looked at."""
    for path in (folder, *folder.parents):
        if path.is_symlink() and not path.exists():
            raise FileNotFoundError(
                f"{path} is a link to {os.readlink(path)}, which is not there, so {folder} cannot be the destination: "
                "make the folder that the link names, remove the link, or give another destination."
            )
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; the destination must be a folder.")
    check_writable(folder, folder)
    if isinstance(source, str | os.PathLike) and os.path.isdir(source):
        if os.path.join(os.path.realpath(folder), "").startswith(os.path.join(os.path.realpath(source), "")):
            raise ValueError(
                f"The destination {folder} lies in the source {source}, whose files it would become; give a folder "
                "outside."
            )
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    others = [name for name in there - {_LIST, LOCKS} if not name.startswith(".")]
    if others and MANIFEST not in there:
        raise ValueError(
            f"The destination {folder} is not empty and holds no {MANIFEST}: give a new folder, or that of a job to "
            "go on with."
        )


def check_image_root(folder: str | None) -> None:
    """ValueError if the second folder that image paths may lead to is not there: all of them would be refused."""
    if folder is not None and not os.path.isdir(folder):
        raise ValueError(f"`image_root` (--image-root) is {folder!r}, which is no folder.")


def write_list(folder: Path, source: Any, options: EmbeddingOptions) -> Any:
    """Write a source that is a list of paths to the destination, where other processes and later runs find it.

    Returns:
        The file, or `source` itself if it is no list.

    Raises:
        ValueError: if the options ask for what a list has not, a path cannot be in one, or another list is there.
    """
    if isinstance(source, str | os.PathLike | datasets.Dataset) or not isinstance(source, Sequence):
        return source
    for option, value in (options.columns.named() | {"split": options.columns.split}).items():
        if value is not None:
            raise ValueError(
                f"A list of paths has neither columns nor parts, so there is no {value!r}: leave `{option}` "
                f"(--{option.replace('_', '-')}) out."
            )
    if options.modalities in ("texts", "both"):
        raise ValueError("A list of paths has no captions, so no texts can be embedded: leave them out.")
    path, lines = folder / _LIST, []
    for place in map(os.fspath, source):
        is_url = place.partition(":")[0].lower() in URL_SCHEMES
        lines.append(place if is_url else os.path.abspath(place))
        if "\n" in place or place.endswith("\r") or not place.strip():
            raise ValueError(
                f"{place!r} is no path that a list can hold: lines end in it, or it is blank. Leave it out, or rename "
                "the file."
            )
    if not lines and not path.is_file():
        raise ValueError("The list of images is empty.")
    text = "".join(f"{line}\n" for line in lines)
    _write_once(path, text.encode(errors="surrogateescape"))  # two jobs with different lists may begin at once
    if lines and read_list(path) != lines:
        raise ValueError(f"{path} lists other images than those that were given; give another destination.")
    return path


def absolute_source(source: Any, kind: str) -> Any:
    """A source as a process that started in another folder finds it."""
    if not isinstance(source, str | os.PathLike):
        return source
    text = os.path.expanduser(os.fspath(source))
    if "://" in text or (kind in ("dataset", "stream") and not os.path.exists(text)):
        return text
    return os.path.abspath(text) if os.path.exists(text) else "::".join(map(os.path.abspath, text.split("::")))


class OtherJobError(ValueError):
    """A folder belongs to another job; `differences` say in what the two differ."""

    def __init__(self, message: str, differences: list[str]):
        super().__init__(message)
        self.differences = differences


def describe_encoder(encoder: DualEncoder) -> dict[str, Any]:
    """The sections of a manifest that say which encoder made the features, and how it reads images."""
    return {
        "model": {
            "name": encoder.name,
            "runtime": encoder.runtime,
            "dtype": str(encoder.dtype).removeprefix("torch."),
            "fingerprint": encoder.fingerprint,
            "projection_dim": encoder.projection_dim,
        },
        "versions": {package: package_version(package) for package in encoder.packages},
        # What differs from the model's image processor, which the fingerprint describes.
        "image_options": encoder.image_options,
    }


def describe_job(encoder: DualEncoder, source: ShardedRows, options: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a job: all that decides what it writes. `options` are its values under that name."""
    rows, size = [shard.num_rows for shard in source.shards], options["rows_per_part"]
    is_counted = None not in rows
    return {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        **describe_encoder(encoder),
        "source": {
            "location": source.location,
            "kind": source.kind,
            "fingerprint": source.fingerprint,
            "shards": len(rows),
            "rows": sum(rows) if is_counted else None,
            "parts": sum(-(-count // size) for count in rows) if is_counted else None,
        },
        "options": options,
    }


def claim_folder(folder: Path, expected: dict[str, Any]) -> str:
    """Write the manifest, or compare the one that is there: ValueError if it is of another job.

    Returns:
        `str`: The manifest's [`digest_of_job`].
    """
    _write_once(folder / MANIFEST, f"{json.dumps(expected, indent=1)}\n".encode())
    found = read_manifest(folder)
    if differing := find_differences(found, expected):
        raise OtherJobError(
            f"{folder} holds embeddings of another job, by {found['model'].get('name')} of "
            f"{found['source'].get('location')}: {'; '.join(differing)}. Give another destination, or the model, "
            "source and options of that job.",
            differing,
        )
    return digest_of_job(found)


def check_claim(folder: Path, digest: str) -> None:
    """Check that a folder still has the manifest of a running job; `digest` is what [`claim_folder`] returned.

    Raises:
        FileNotFoundError: if the manifest is gone.
        ValueError: if it is of another job.
    """
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(
            f"{folder / MANIFEST} is gone: the destination was removed or emptied while the job ran. Run it again, "
            "which does what is missing."
        )
    if digest_of_job(read_manifest(folder)) != digest:
        raise ValueError(
            f"{folder} belongs to another job since this one began: its {MANIFEST} was replaced. Give each job a "
            "destination of its own."
        )


def settle_dtype(dtype: Any, destination: str | os.PathLike) -> Any:
    """What `"auto"` was when the job at a destination began; any other dtype, or that of a new job, stays as it is."""
    folder = find_folder(destination)
    if dtype != AUTO or not (folder / MANIFEST).is_file():
        return dtype
    there = read_manifest(folder)["model"].get("dtype")
    return None if there == "int8" else there or dtype  # how a model was quantised is no choice of this run


def find_folder(destination: str | os.PathLike) -> Path:
    """The absolute path of a destination; ValueError if it is no folder of this machine's file systems."""
    text = os.fspath(destination)
    if not text.strip() or "://" in text:
        raise ValueError(
            f"The destination is {text!r}; it must be a folder on a disk or network drive of this machine. Copy the "
            "folder elsewhere when the job is done."
        )
    return Path(os.path.abspath(os.path.expanduser(destination)))


def _write_once(path: Path, data: bytes) -> None:
    """Write a file of a destination that is not there yet. A folder that has it may be read-only."""
    if path.is_file():
        return
    with _manifest_lock(path.parent):
        if not path.is_file():  # nor did another process write it meanwhile
            with replaced_file(path) as temporary:
                temporary.write_bytes(data)


@contextmanager
def _manifest_lock(folder: Path) -> Iterator[None]:
    with naming_destination(folder):
        (folder / LOCKS).mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCKS / "manifest.lock")
        try:
            lock.acquire()
        except OSError as error:
            if error.errno not in NO_LOCKS:  # without, what is there afterwards is compared all the same
                raise
        try:
            yield
        finally:
            lock.release()


def find_differences(found: dict[str, Any], expected: dict[str, Any], sections: Sequence[str] = SECTIONS) -> list[str]:
    """What differs between these sections of two manifests, each with the option that decides it.

    The model's fingerprint, which hides what it stands for, is named only where nothing else of the model differs.
    """
    differing, is_explained = [], False
    for section in sections:
        names = [name for name in {**expected[section], **found[section]} if name not in PLACES]
        for name in sorted(names, key="fingerprint".__eq__):
            old, new = (each[section].get(name) for each in (found, expected))
            if old == new or (is_explained and (section, name) == ("model", "fingerprint")):
                continue
            is_explained = is_explained or section != "source"
            if section == "image_options":
                old, new = (_AS_THE_PROCESSOR if value is None else repr(value) for value in (old, new))
            else:
                old, new = repr(old), repr(new)
            is_option = section in ("options", "image_options")
            flag = _FLAGS.get((section, name)) or (f"--{name.replace('_', '-')}" if is_option else "")
            differing.append(f"{section} {name}{flag and f' ({flag})'} is {old} there and {new} now")
    return differing
