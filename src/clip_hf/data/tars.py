# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Webdataset tars, read in one pass and little memory, even if they are damaged or malicious."""

import bz2
import contextlib
import gzip
import io
import itertools
import json
import lzma
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import fsspec
from transformers.utils import logging

from ..model.checks_clip_hf import did_you_mean
from ..model.image_reading_clip_hf import DEFAULT_LIMITS, ImageLimits, check_scheme, refused_location
from ..utils.json_files import check_regular
from ..utils.wording import listed
from .image_folders import describe_left_out, is_hidden
from .locations import stored_image
from .media import IMAGES, MEDIA_BY_ROLE, Media, media_in, media_role
from .skips import DamagedFile, UnreachableFile, stop_if_exhausted
from .texts import MOST_TEXT_BYTES, decode_text


logger = logging.get_logger(__name__)

_BLOCK = 2**16  # bytes that are read at once
# What a header with its extensions (long names, sparse maps) may take.
_MOST_HEADER_BYTES = 2**16
_MOST_PADDING = 2**24  # bytes after the end of a compressed tar
_MOST_ENDINGS = 1000
_PEEKED_SAMPLES = 16
# Samples of a tar that are remembered, to notice samples that come again.
_MOST_KNOWN = 20_000
_SORT = "`tar --sort=name -cf NAME.tar FOLDER`"
_USUAL = ("txt", "json")  # beside an image, though they may not be read
_COMPRESSIONS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


class DamagedTar(DamagedFile):
    """A tar that cannot be read further: it is cut off or damaged, or no tar."""


class UnreachableTar(DamagedTar, UnreachableFile):
    """A tar that may be whole, but cannot be opened, or is remote and broke off."""


@dataclass
class TarSample:
    """Members of a tar with the same name up to the first dot, by their ending in lower case: `jpg`, `input.jpg`."""

    members: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # name and content of the wanted ones
    endings: dict[str, None] = field(default_factory=dict)  # of all members
    problem: str = ""  # why the sample cannot be used, if it cannot
    kind: str = "file too large"  # the problem in few words
    # Folder and name, if an earlier sample of the tar had them with other endings: its members do not follow each
    # other, so neither sample has them all.
    apart: str = ""

    def fields(self) -> dict[str, Any]:
        """The object in `.json`; empty without one, or if it is damaged."""
        try:
            fields = json.loads(self.members["json"][1])
        except (KeyError, ValueError, RecursionError):
            return {}
        return fields if isinstance(fields, dict) else {}

    def image(self, column: str, media: Media = IMAGES) -> str | None:
        """The ending of the image or film: `input.jpg` for the column `"input"`; for the column `"image"` (of films
        `"video"`) any one, the shortest first.
        """
        images = [ending for ending in self.endings if media.has_ending(ending)]
        named = [ending for ending in images if column.lower() in (ending, ending.rpartition(".")[0])]
        if named or column != media.role:
            return next(iter(named), None)
        return min(images, key=lambda ending: ending.count("."), default=None)

    def text(self, column: str) -> Any:
        """The member `.txt` for the column `"caption"`; for others `.NAME` or `.NAME.txt`; else a field of `.json`."""
        ending = next((name for name in text_endings(column) if name in self.members), None)
        return self.fields().get(column) if ending is None else decode_text(self.members[ending][1])

    def value(self, column: str, role: str) -> Any:
        """The value of a row's column."""
        if role not in MEDIA_BY_ROLE:
            return self.text(column)
        if self.problem:
            return {"bytes": None, "path": refused_location(self.kind, self.problem)}
        ending = self.image(column, MEDIA_BY_ROLE[role])
        return None if ending is None else stored_image(*self.members[ending])


def text_endings(column: str) -> tuple[str, ...]:
    """The endings of members that may hold a column of texts."""
    name = column.lower()
    return (*(("txt",) if name == "caption" else ()), name, f"{name}.txt")


# ---------------------------------------------------------------------------------------------------------------- rows


def tar_rows(
    tars: Sequence[str],
    roles: dict[str, str],
    stamp: str = "",
    limits: ImageLimits = DEFAULT_LIMITS,
    whole: bool = False,
    go_on: bool = False,
) -> Iterator[dict[str, Any]]:
    """The samples of tars (paths, or URLs that `fsspec` opens) as rows.

    Args:
        tars (`Sequence[str]`): The tars.
        roles (`dict[str, str]`): The columns to make, see `row_columns`, and [`TarSample`] for where they are.
        stamp (`str`, *optional*): Not used; it makes a cache differ where a file changed.
        limits ([`ImageLimits`], *optional*): A sample of more than `max_bytes` is a row whose image is refused.
        whole (`bool`, *optional*, defaults to `False`): Whether this call reads all tars, so that the log says what
            was left out.
        go_on (`bool`, *optional*, defaults to `False`): Whether the rest of a damaged tar is such a row too, and the
            next tar is read.

    Raises:
        DamagedTar: if a tar cannot be read to its end; with `go_on` only an `UnreachableTar`, or if no tar can be
            read.
    """
    for sample in all_samples(tars, _wanted(roles), limits, whole, go_on):
        yield {column: sample.value(column, role) for column, role in roles.items()}


def _wanted(roles: dict[str, str]) -> Callable[[str], bool]:
    named = (column for column, role in roles.items() if role not in MEDIA_BY_ROLE)
    texts, media = {"json", *(ending for column in named for ending in text_endings(column))}, media_role(roles)
    return lambda ending: media.has_ending(ending) or ending in texts


def all_samples(
    tars: Sequence[str],
    is_wanted: Callable[[str], bool],
    limits: ImageLimits = DEFAULT_LIMITS,
    whole: bool = True,
    go_on: bool = False,
) -> Iterator[TarSample]:
    """The samples of several tars, see `tar_rows` and `tar_samples`."""
    left_out: Counter[str] = Counter()
    apart: list[str] = []
    count = 0
    for tar in tars:
        try:
            for sample in tar_samples(tar, is_wanted, limits):
                count += 1
                apart += [f"{sample.apart} in {tar}"] if sample.apart else []
                endings = [ending for ending in sample.endings if not is_wanted(ending) and ending not in _USUAL]
                left_out.update(ending for ending in endings if ending in left_out or len(left_out) < _MOST_ENDINGS)
                yield sample
        except DamagedTar as error:
            # A tar that is whole elsewhere must not be missing from what is kept of it here.
            if not go_on or isinstance(error, UnreachableTar) or (count == 0 and tar == tars[-1]):
                raise
            count += 1
            logger.warning(f"{error} What comes before is used.")
            yield TarSample(problem=str(error), kind="file damaged")
    if whole and apart:
        logger.warning(
            f"The members of {len(apart):,} samples do not follow each other, and are taken for samples of their own; "
            f"the first: {apart[0]}. Write such tars again in the order of names: {_SORT}."
        )
    if whole and left_out:
        logger.warning(describe_left_out(left_out, "member", "of the tars"))


def check_tars(tars: Sequence[str], roles: dict[str, str], limits: ImageLimits = DEFAULT_LIMITS) -> None:
    """Raise a `ValueError` that says what there is, if the first samples have nothing for a column."""
    samples: list[TarSample] = []
    missing = dict(roles)
    for tar in tars:
        try:
            for sample in itertools.islice(tar_samples(tar, _wanted(roles), limits), _PEEKED_SAMPLES):
                samples.append(sample)
                missing = {column: role for column, role in missing.items() if _is_missing(sample, column, role)}
                if not missing:
                    return
        except DamagedTar:
            pass  # said when the rows are read
        if samples:
            break
    if all(sample.problem for sample in samples):
        return
    column, role = next(iter(missing.items()))
    content = {"image": "images", "video": "films", "caption": "captions"}.get(role, "texts")
    endings = ", ".join(dict.fromkeys(f".{ending}" for sample in samples for ending in sample.endings))
    fields = ", ".join(dict.fromkeys(repr(name) for sample in samples for name in sample.fields()))
    apart = _first_apart(tar, limits)
    if apart is not None:
        raise ValueError(
            f"The tar {tar} has no column {column!r} in its first samples: the members of a sample must follow each "
            f"other, and those of {apart!r} do not. Write the tar again in the order of names: {_SORT}."
        )
    raise ValueError(
        f"The tar {tar} has no column {column!r} in its first samples: their members end in {endings[:500]}"
        f"{f', with the fields {fields[:500]} of .json' if fields else ''}."
        f"{did_you_mean(column, _names_in(samples, role))} Name the ending or field that holds the {content}."
    )


def _is_missing(sample: TarSample, column: str, role: str) -> bool:
    media = MEDIA_BY_ROLE.get(role)
    return (sample.text(column) if media is None else sample.image(column, media)) is None


def _names_in(samples: Sequence[TarSample], role: str) -> list[str]:
    """Names that a column of this role may have in the samples."""
    media = MEDIA_BY_ROLE.get(role)
    endings = (ending for sample in samples for ending in sample.endings if media_in(ending) is media)
    names = [name for ending in endings for name in (ending, ending.rpartition(".")[0])]
    fields = [] if media is not None else [name for sample in samples for name in sample.fields()]
    return list(dict.fromkeys(name for name in (*names, *fields) if name))


def _first_apart(tar: str, limits: ImageLimits) -> str | None:
    """The first sample whose members do not follow each other, as where a tar is in the order of a folder."""
    try:
        return next((sample.apart for sample in tar_samples(tar, lambda ending: False, limits) if sample.apart), None)
    except DamagedTar:
        return None


def check_ends(tars: Sequence[str]) -> None:
    """Raise a `DamagedTar` that names the tars on this machine that are cut off, as far as their ends show it.

    Only the ends are read, so that nothing is said of compressed and remote tars.
    """
    problems = [problem for tar in tars if (problem := _problem_at_end(tar)) is not None]
    if problems:
        others = f" The same holds for {listed([tar for tar, _ in problems[1:]], 20)}." if problems[1:] else ""
        raise type(problems[0][1])(f"{problems[0][1]}{others} Copy or download them again.")


def _problem_at_end(tar: str) -> tuple[str, DamagedTar] | None:
    if "://" in tar and not os.path.exists(tar):
        return None
    with contextlib.suppress(_CannotOpen), _opened_raw(tar) as file:
        start = file.read(6)
        file.seek(max(file.seek(0, os.SEEK_END) - tarfile.BLOCKSIZE, 0))
        if start.startswith(tuple(_COMPRESSIONS)) or (start and not any(file.read(tarfile.BLOCKSIZE))):
            return None
    try:
        # A whole tar may have something behind its end; only reading it tells.
        for _ in tar_samples(tar, lambda ending: False):
            pass
    except DamagedTar as error:
        return tar, error
    return None


# ------------------------------------------------------------------------------------------------------------- members


def tar_samples(
    tar: str, is_wanted: Callable[[str], bool], limits: ImageLimits = DEFAULT_LIMITS
) -> Iterator[TarSample]:
    """The samples of a tar, in little memory whatever is in it.

    Links, folders, devices and hidden members are left out. An ending that comes again begins another sample.
    `is_wanted` says of an ending whether the content is read. `limits.max_bytes` holds for all images of a sample
    together, 16 MiB for all its texts. The tar may be compressed by gzip, bzip2 or xz.

    Raises:
        DamagedTar: after the samples that could be read, the last of which may lack members; also where the tar ends
            without the blocks that end one. An `UnreachableTar` if another try may succeed.
    """
    sample, place, left, is_cut, member = None, None, {}, False, None
    known: dict[tuple[str, str], set[str]] = {}
    try:
        for archive, member in _members(tar):
            place_and_ending = _place_of(member)
            if place_and_ending is None:
                continue
            next_place, ending = place_and_ending
            if sample is None or place != next_place or ending in sample.endings:
                if sample is not None:
                    if len(known) < _MOST_KNOWN or place in known:
                        known.setdefault(place, set()).update(sample.endings)
                    yield sample
                sample = TarSample()
                left = {"image": limits.max_bytes, "text": min(limits.max_bytes, MOST_TEXT_BYTES)}
                if ending not in known.get(next_place, {ending}):
                    sample.apart = os.path.join(*next_place)
            place = next_place
            if len(sample.endings) == _MOST_ENDINGS:
                continue
            sample.endings[ending] = None
            if not is_wanted(ending):
                continue
            kind = "text" if media_in(ending) is None else "image"
            most = left[kind]
            if member.size > most:
                sample.problem = (
                    f"its member {member.name[:200]} in the tar has {member.size:,} bytes, more than {most:,}: all "
                    f"images of a sample may have {limits.max_bytes:,} (`max_bytes`), all texts {MOST_TEXT_BYTES:,}."
                )
                continue
            left[kind] -= member.size
            is_cut = True
            sample.members[ending] = (f"{tar}/{member.name}", archive.extractfile(member).read())
            is_cut = False
    except Exception as error:  # the readers of tars, of compressions and of networks raise many types
        if sample is not None and not is_cut:
            yield sample
        stop_if_exhausted(error, f"the tar {tar}")
        reason = str(error).rstrip(".") or type(error).__name__
        where = (
            "" if member is None else f", after the member {member.name[:200]} at byte {member.offset:,} of the tar"
        )
        if isinstance(error, _CannotOpen):
            raise UnreachableTar(f"The tar {tar} cannot be opened: {reason}.") from error
        kind = DamagedTar if os.path.isfile(tar) else UnreachableTar
        raise kind(f"The tar {tar} is damaged, or cannot be read: {reason}{where}.") from error
    if sample is not None:
        yield sample


def _place_of(member: tarfile.TarInfo) -> tuple[tuple[str, str], str] | None:
    """Folder and stem of a member, and its ending; None if it is not data."""
    folder, name = os.path.split(member.name)
    stem, _, ending = name.partition(".")
    parts = [part for part in member.name.split("/") if part not in ("", ".", "..")]
    if not member.isfile() or not stem or any(map(is_hidden, parts)):
        return None
    return (folder, stem), ending.lower()


class _Header(tarfile.TarInfo):
    """Headers whose damage is told: tarfile takes a damaged one for the end of the tar."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        """Read a header."""
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.EmptyHeaderError as error:
            raise DamagedTar("it lacks the blocks of zeros that end a tar, so it is cut off") from error
        except tarfile.HeaderError as error:
            raise DamagedTar(str(error)) from error
        if member.size < 0:
            raise DamagedTar(f"a member has the size {member.size}")
        return member


class _Bytes:
    """The bytes of a file for `tarfile`, which by itself reads headers of any size, and beyond the end for ever."""

    def __init__(self, file: Any):
        self.file = file
        self.left: int | None = None
        self.num_ends = 0

    def read(self, size: int) -> bytes:
        if self.left is not None:
            self.left -= size
            if self.left < -_BLOCK:
                raise DamagedTar(f"a header takes more than {_MOST_HEADER_BYTES:,} bytes")
        data = self.file.read(size)
        self.num_ends += not data
        if self.num_ends > 2:
            raise EOFError("unexpected end of data")
        return data


def _members(tar: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Each member, to be read before the next is asked for."""
    with _opened(tar) as file:
        source = _Bytes(file)
        source.left = _MOST_HEADER_BYTES
        with tarfile.open(fileobj=source, mode="r|", bufsize=_BLOCK, tarinfo=_Header) as archive:
            while (member := archive.next()) is not None:
                source.left = None
                yield archive, member
                # tarfile keeps all members, and passes over contents while it looks for a header.
                archive.members.clear()
                archive.fileobj.seek(archive.offset)
                source.left = _MOST_HEADER_BYTES
        _read_to_end(file)


def _read_to_end(file: Any) -> None:
    """Read what follows the end of a tar, because a compressed file's checksum comes last."""
    left = _MOST_PADDING if not isinstance(file, io.BufferedReader) else 0
    while left > 0 and (data := file.read(_BLOCK)):
        left -= len(data)


class _CannotOpen(Exception):
    """Why a tar cannot be opened."""


@contextlib.contextmanager
def _opened(tar: str) -> Iterator[Any]:
    """The tar's bytes, decompressed a little at a time: tarfile itself would take what a block of bombs holds."""
    with _opened_raw(tar) as raw, io.BufferedReader(raw, _BLOCK) as file:
        start = file.peek(6)
        decompress = next((opener for magic, opener in _COMPRESSIONS.items() if start.startswith(magic)), None)
        yield file if decompress is None else decompress(file)


def _opened_raw(tar: str) -> Any:
    try:
        if "://" in tar and not os.path.exists(tar):
            check_scheme(tar)
            return fsspec.open(tar, "rb").open()
        check_regular(tar)
        return open(tar, "rb", buffering=0)
    except Exception as error:  # file systems raise types of their own
        stop_if_exhausted(error, f"the tar {tar}")
        raise _CannotOpen(getattr(error, "strerror", None) or str(error) or type(error).__name__) from error
