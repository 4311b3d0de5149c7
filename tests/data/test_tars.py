# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Webdataset tars: which members are read, and tars that are damaged or made to do harm."""

import bz2
import contextlib
import errno
import gzip
import json
import lzma
import tarfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers.testing_utils import CaptureLogger

from clip_hf import ClipHFImageProcessor, ClipHFProcessor
from clip_hf.data import ImageTextDataset, PairLoader, PairOptions, load_pairs, tars
from clip_hf.data.labelled_tars import read_tars
from clip_hf.data.tars import DamagedTar, TarSample, tar_samples
from clip_hf.evaluation import CaptionedDataOptions, ClassificationOptions, load_classification, load_retrieval
from clip_hf.model.image_reading_clip_hf import IMAGE_ENDINGS, ImageLimits, UnreadableImage, open_image
from pair_data import caption_of, encoded, image_of, samples_of, write_tar


LIMITS = ImageLimits(max_bytes=2**20)
OPTIONS = PairOptions(image_limits=LIMITS, max_skipped_share=1.0)
MANY = 2**33  # bytes
MOST_MEMORY = 2**25


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def processor(tiny_tokenizer) -> ClipHFProcessor:
    return ClipHFProcessor(ClipHFImageProcessor(size=10, crop_size=10), tiny_tokenizer)


def member_of(name: str, size: int, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """The header of a member."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def sample_of(number: int) -> bytes:
    image, text = encoded(image_of(number)), caption_of(number).encode()
    return b"".join(
        member_of(f"{number:03d}.{ending}", len(content)) + padded(content)
        for ending, content in (("png", image), ("txt", text))
    )


END = bytes(1024)


def memory_of(work: Callable[[], Any]) -> int:
    """The most bytes that Python holds meanwhile."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def sparse(name: str, size: int) -> bytes:
    """An old GNU sparse member that says to be of this size and holds one block."""
    info = tarfile.TarInfo(name)
    info.size, info.type = 512, tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[257:265] = b"ustar  \0"
    header[386:410] = b"00000000000\0" + b"00000001000\0"
    header[483:495] = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
    return bytes(header) + bytes(512)


def pax(name: str, records: bytes, size: int) -> bytes:
    return member_of("pax", len(records), tarfile.XHDTYPE) + padded(records) + member_of(name, size)


def pax_record(key: str, value: str) -> bytes:
    length = len(key) + len(value) + 3
    length += len(str(length + len(str(length))))
    return f"{length} {key}={value}\n".encode()


# Between two good samples: what is skipped as too large.
TOO_LARGE: dict[str, bytes] = {
    "sparse image": sparse("001.png", MANY - 512) + member_of("001.txt", 3) + padded(b"cat"),
    "sparse of huge size": sparse("001.png", 2**60) + member_of("001.txt", 3) + padded(b"cat"),
    "pax sparse": pax(
        "001.png",
        pax_record("GNU.sparse.map", "0,1") + pax_record("GNU.sparse.size", str(MANY)),
        512,
    )
    + bytes(512)
    + member_of("001.txt", 3)
    + padded(b"cat"),
    "image over the limit": member_of("001.png", 2**20 + 1)
    + bytes(2**20 + 512)
    + member_of("001.txt", 3)
    + padded(b"cat"),
    "many images of a sample": b"".join(member_of(f"001.{number}.png", 2**18) + bytes(2**18) for number in range(6))
    + member_of("001.txt", 3)
    + padded(b"cat"),
}


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_samples_that_are_too_large_are_skipped_and_counted(kind, tmp_path, processor):
    path = tmp_path / "a.tar"
    path.write_bytes(sample_of(0) + TOO_LARGE[kind] + sample_of(2) + END)
    started, peak = time.perf_counter(), memory_of(lambda: load_pairs(path, options=OPTIONS))
    assert peak < MOST_MEMORY and time.perf_counter() - started < 20
    data = load_pairs(path, options=OPTIONS)
    assert data["caption"][:] == [caption_of(0), "cat", caption_of(2)]
    pairs = ImageTextDataset(data, processor.image_processor, OPTIONS)
    assert {row: problem.kind for row, problem in pairs.bad_rows.items()} == {1: "file too large"}
    assert "its member 001." in pairs.bad_rows[1].message and "`max_bytes`" in pairs.bad_rows[1].message
    stream = load_pairs(path, options=OPTIONS, streaming=True)
    batch = next(iter(PairLoader(stream, processor, OPTIONS, batch_size=4, num_steps=1)))
    assert {row.kind for row in batch["skipped"]} == {"file too large"}


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_evaluation_names_what_is_too_large(kind, tmp_path):
    (tmp_path / "a.tar").write_bytes(sample_of(0) + TOO_LARGE[kind] + sample_of(2) + END)
    started, peak = time.perf_counter(), memory_of(lambda: read_tars([str(tmp_path / "a.tar")], LIMITS))
    assert peak < MOST_MEMORY and time.perf_counter() - started < 20
    data = read_tars([str(tmp_path / "a.tar")], LIMITS)
    assert data["txt"][:] == [caption_of(0), "cat", caption_of(2)]
    column = "image" if "many" in kind else "png"
    with pytest.raises(UnreadableImage, match="its member 001") as error:
        open_image(data[1][column])
    assert error.value.kind == "file too large"


def test_evaluation_has_default_limits(tmp_path):
    (tmp_path / "a.tar").write_bytes(sample_of(0) + TOO_LARGE["sparse image"] + sample_of(2) + END)
    options = ClassificationOptions(label_column="txt", class_names=["cat", *map(caption_of, (0, 2))])
    assert memory_of(lambda: load_classification(tmp_path / "a.tar", options)) < MOST_MEMORY
    data = load_classification(tmp_path / "a.tar", options)
    with pytest.raises(UnreadableImage, match="more than 536,870,912"):
        open_image(data.data[1]["png"])


def test_texts_have_a_limit(tmp_path):
    image = encoded(image_of(1))
    large = member_of("001.json", 2**26) + bytes(2**26) + member_of("001.png", len(image)) + padded(image)
    with gzip.open(tmp_path / "a.tar", "wb", compresslevel=1) as file:
        file.write(sample_of(0) + large + sample_of(2) + END)
    rows = []
    peak = memory_of(lambda: rows.extend(load_pairs(tmp_path / "a.tar", streaming=True)))
    assert [row["caption"] for row in rows] == [caption_of(0), None, caption_of(2)] and peak < MOST_MEMORY
    assert rows[1]["image"]["path"].startswith("refused:file too large\n")


def long_name(size: int, kind: bytes = tarfile.GNUTYPE_LONGNAME) -> bytes:
    return member_of("././@LongLink", size, kind) + b"a" * size + bytes(-size % 512) + member_of("x.png", 0)


SPARSE_1_0 = pax_record("GNU.sparse.major", "1") + pax_record("GNU.sparse.minor", "0")


def readable(path: Path) -> Iterator[TarSample]:
    """What can be read of a tar."""
    with contextlib.suppress(DamagedTar):
        yield from tar_samples(str(path), lambda ending: True, LIMITS)


# After a good sample: what ends the tar. The sample before it is kept.
DAMAGE: dict[str, tuple[bytes, str]] = {
    "a long name": (long_name(2**21), "a header takes more than 65,536 bytes"),
    "a long link": (long_name(2**21, tarfile.GNUTYPE_LONGLINK), "a header takes more than"),
    "a pax header": (pax("x.png", b"9" * 2**21, 0), "a header takes more than"),
    "a global pax header": (
        member_of("pax", 2**21, tarfile.XGLTYPE) + bytes(2**21) + member_of("x.png", 0),
        "a header takes more than",
    ),
    "a chain of pax headers": (
        member_of("pax", 512, tarfile.XHDTYPE).join([b"", *[padded(pax_record("path", "x.png"))] * 3000]),
        "recursion|header",
    ),
    "a sparse map": (
        pax("x.png", SPARSE_1_0, 2**21) + b"9999999\n" + b"1\n" * 2**20,
        "a header takes more than",
    ),
    "a negative size": (
        (lambda header: header[:124] + b"\xff" * 12 + header[136:])(bytearray(member_of("x.png", 0))),
        "checksum|size -1",
    ),
    "a huge size": (member_of("x.png", 2**60) + bytes(2**12), "unexpected end of data"),
    "no header": (b"nonsense" * 100, "invalid header"),
    "a header that is cut": (member_of("x.png", 10)[:300], "truncated header"),
    "a member that is cut": (member_of("x.png", 2**14) + bytes(5000), "unexpected end of data"),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", DAMAGE)
def test_training_keeps_what_comes_before_damage(kind, compressed, tmp_path, processor):
    content, message = DAMAGE[kind]
    opener = gzip.open if compressed else open
    with opener(tmp_path / "a.tar", "wb") as file:
        file.write(sample_of(0) + bytes(content))
    write_tar(tmp_path / "b.tar", samples_of([1]))
    samples = []
    peak = memory_of(lambda: samples.extend(readable(tmp_path / "a.tar")))
    assert peak < MOST_MEMORY and samples[0].text("caption") == caption_of(0)
    with pytest.raises(DamagedTar, match=f"a.tar is damaged, or cannot be read: .*({message})"):
        list(tar_samples(str(tmp_path / "a.tar"), lambda ending: True, LIMITS))
    with CaptureLogger(tars.logger) as logged:
        data = load_pairs(tmp_path / "*.tar", options=OPTIONS)
    assert "a.tar is damaged" in logged.out
    captions = [caption for caption in data["caption"] if caption is not None]
    assert captions == [caption_of(0), caption_of(1)]
    kinds = {problem.kind for problem in ImageTextDataset(data, processor.image_processor, OPTIONS).bad_rows.values()}
    assert kinds & {"caption missing", "file damaged"}


def test_a_tar_cut_anywhere_gives_what_comes_before(tmp_path):
    whole = b"".join(map(sample_of, range(4)))
    starts = [len(b"".join(map(sample_of, range(number)))) for number in range(5)]
    for length in range(200, len(whole), 777):
        (tmp_path / "a.tar").write_bytes(whole[:length])
        captions = [sample.text("caption") for sample in readable(tmp_path / "a.tar")]
        complete = sum(start <= length for start in starts[1:])
        assert captions[:complete] == [caption_of(number) for number in range(complete)]
        assert len(captions) <= complete + 1


@pytest.mark.slow_but_for("compress0")
@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_tars_and_bombs(compress, tmp_path):
    plain = sample_of(0) + member_of("001.png", 2**26) + bytes(2**26) + sample_of(2) + END
    (tmp_path / "a.tar").write_bytes(compress(plain))
    assert (tmp_path / "a.tar").stat().st_size < 2**18
    del plain
    rows = []
    peak = memory_of(lambda: rows.extend(load_pairs(tmp_path / "a.tar", options=OPTIONS, streaming=True)))
    assert [row["caption"] for row in rows] == [caption_of(0), None, caption_of(2)] and peak < MOST_MEMORY


def test_links_devices_and_hidden_members_are_left_out(tmp_path):
    left_out = b"".join(
        member_of(f"9.{number}.png", 0, kind, "/etc/passwd")
        for number, kind in enumerate((b"1", b"2", b"3", b"5", b"6"))
    )
    image = encoded(image_of(5))
    for name in ("__MACOSX/._7.png", "._7.png", ".cache/7.png"):
        left_out += member_of(name, len(image)) + padded(image)
    (tmp_path / "a.tar").write_bytes(sample_of(0) + left_out + sample_of(1) + END)
    for data in (load_pairs(tmp_path / "a.tar"), load_pairs(tmp_path / "a.tar", streaming=True)):
        assert [row["caption"] for row in data] == [caption_of(0), caption_of(1)]
    assert len(load_retrieval(tmp_path / "a.tar")) == 2


def test_a_name_that_comes_again_begins_a_sample(tmp_path):
    (tmp_path / "a.tar").write_bytes(sample_of(0) + sample_of(0).replace(b"number 0", b"number 9") + END)
    assert load_pairs(tmp_path / "a.tar")["caption"][:] == [caption_of(0), caption_of(9)]


def members_of(path: Path, names: list[str]) -> Path:
    """A tar of the members of numbered samples in this order."""
    contents = {".png": lambda n: encoded(image_of(n)), ".txt": lambda n: caption_of(n).encode()}
    parts = [(name, contents[name[-4:]](int(name[:-4].rpartition("/")[2]))) for name in names]
    path.write_bytes(b"".join(member_of(name, len(data)) + padded(data) for name, data in parts) + END)
    return path


@pytest.mark.parametrize("streaming", [False, True])
def test_a_tar_in_the_order_of_a_folder_is_told_how_to_be_written(streaming, tmp_path):
    """Plain `tar` takes a folder in any order; a caption a hundred members later belongs to no picture."""
    names = [f"d/{n}.{ending}" for ending in ("png", "txt") for n in range(100)]
    path = members_of(tmp_path / "a.tar", names)
    with pytest.raises(ValueError, match=r"must follow each other, and those of 'd/0' do not.* `tar --sort=name -cf"):
        load_pairs(path, streaming=streaming)
    # Where there is no caption at all, another order is no cure.
    members_of(path, names[:100])
    with pytest.raises(ValueError, match="end in .png. Name the ending"):
        load_pairs(path, streaming=streaming)


def test_some_samples_whose_members_lie_apart_are_said(tmp_path, caplog):
    names = ["0.png", "0.txt", "1.png", "2.txt", "2.png", "1.txt", "0.png", "0.txt"]
    data = load_pairs(members_of(tmp_path / "a.tar", names), options=OPTIONS)
    assert data["caption"][:] == [caption_of(0), None, caption_of(2), caption_of(1), caption_of(0)]
    # Sample 0 comes again as a whole, as in a tar that was added to.
    assert (
        "The members of 1 samples do not follow each other, and are taken for samples of their own; the first: 1 in "
        f"{tmp_path / 'a.tar'}. Write such tars again in the order of names: `tar --sort=name -cf NAME.tar FOLDER`."
    ) in caplog.text


def test_many_empty_members_take_no_memory(tmp_path):
    with gzip.open(tmp_path / "a.tar", "wb", compresslevel=1) as file:
        for number in range(5_000):
            file.write(member_of(f"1.e{number}", 0))
        file.write(sample_of(2) + END)
    samples = []
    peak = memory_of(lambda: samples.extend(readable(tmp_path / "a.tar")))
    assert samples[-1].text("caption") == caption_of(2) and peak < 2**22


def test_an_array_of_huge_shape(tmp_path):
    array = (
        b"\x93NUMPY\x01\x00\x76\x00"
        + b"{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999,), }".ljust(117)
        + b"\n"
    )
    samples = [{"png": encoded(image_of(n)), "npy": array, "cls": b"%d" % n} for n in range(2)]
    write_tar(tmp_path / "a.tar", samples)
    data = load_classification(tmp_path / "a.tar", ClassificationOptions(class_names=["zero", "one"]))
    assert data.targets.tolist() == [0, 1]


# ------------------------------------------------------------------------------------------------------------- members


def recaptioned(number: int, where: str) -> dict[str, bytes]:
    image = encoded(image_of(number))
    text = f"another {number}".encode()
    if where == "json":
        other = {"json": json.dumps({"recaption": text.decode(), "caption": "no"}).encode()}
    else:
        other = {where: text}
    return {"png": image, "txt": caption_of(number).encode(), **other}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("where", ["json", "recaption", "recaption.txt"])
def test_the_caption_column_is_what_is_read(where, streaming, tmp_path):
    write_tar(tmp_path / "a.tar", [recaptioned(number, where) for number in range(3)])
    data = load_pairs(tmp_path / "a.tar", streaming=streaming, options=PairOptions(caption_column="recaption"))
    assert [row["recaption"] for row in data] == [f"another {number}" for number in range(3)]
    assert [row["caption"] for row in load_pairs(tmp_path / "a.tar", streaming=streaming)] == list(
        map(caption_of, range(3))
    )
    found = load_retrieval(tmp_path / "a.tar", CaptionedDataOptions(caption_column="recaption"))
    assert found.captions[0] == ["another 0"]
    fields = ", with the fields 'recaption', 'caption' of .json" if where == "json" else ""
    for options in (PairOptions(caption_column="recapton"), PairOptions(templates=["{} ({recapton})"])):
        with pytest.raises(ValueError, match=f"end in .png, .txt, .{where}{fields}. Did you mean 'recaption'"):
            load_pairs(tmp_path / "a.tar", streaming=streaming, options=options)


@pytest.mark.parametrize("streaming", [False, True])
def test_members_with_several_endings(streaming, tmp_path):
    samples = [
        {
            "output.png": encoded(image_of(number + 50)),
            "input.png": encoded(image_of(number)),
            "outputs.txt": caption_of(number).encode(),
        }
        for number in range(3)
    ]
    write_tar(tmp_path / "a.tar", samples)
    for caption in ("outputs", "outputs.txt"):
        for image in ("input", "input.png"):
            options = PairOptions(image_column=image, caption_column=caption)
            rows = list(load_pairs(tmp_path / "a.tar", streaming=streaming, options=options))
            assert [row[caption] for row in rows] == list(map(caption_of, range(3)))
            assert rows[1][image]["bytes"] == samples[1]["input.png"]
    with pytest.raises(ValueError, match="no column 'caption' .* end in .output.png, .input.png, .outputs.txt. Name"):
        load_pairs(tmp_path / "a.tar", streaming=streaming)
    with pytest.raises(ValueError, match="no column 'photo' .* end in .output.png, .*holds the images"):
        load_pairs(
            tmp_path / "a.tar",
            streaming=streaming,
            options=PairOptions(image_column="photo", caption_column="outputs"),
        )


def test_every_ending_of_images_counts_and_others_are_counted(tmp_path):
    samples = [
        {
            ending.upper(): encoded(image_of(number), "PPM"),
            "txt": caption_of(number).encode(),
            "npy": b"1",
            "vae.bin": b"2",
        }
        for number, ending in enumerate(sorted(IMAGE_ENDINGS))
    ]
    write_tar(tmp_path / "a.tar", samples)
    with CaptureLogger(tars.logger) as logged:
        data = load_pairs(tmp_path / "a.tar")
    assert len(data) == len(IMAGE_ENDINGS) and all(row["image"]["bytes"] for row in data)
    count = len(IMAGE_ENDINGS)
    assert f"{2 * count} members of the tars were left out, by ending: {count} .npy, {count} .vae.bin." in logged.out


def test_evaluation_reads_the_same_images(tmp_path):
    samples = [
        {
            "ppm": encoded(image_of(number), "PPM"),
            "cls": b"%d\n" % number,
            "json": json.dumps({"kind": f"k{number}"}).encode(),
        }
        for number in range(3)
    ]
    write_tar(tmp_path / "a.tar", samples)
    data = load_classification(tmp_path / "a.tar", ClassificationOptions(class_names=["a", "b", "c"]))
    assert data.image_column == "ppm" and data.targets.tolist() == [0, 1, 2]
    assert open_image(data.data[2]["ppm"]).tobytes() == image_of(2).tobytes()
    assert data.data["kind"][:] == ["k0", "k1", "k2"]
    samples[1]["jpg"] = encoded(image_of(1), "JPEG")
    del samples[1]["ppm"]
    write_tar(tmp_path / "a.tar", samples)
    data = load_classification(tmp_path / "a.tar", ClassificationOptions(class_names=["a", "b", "c"]))
    assert data.image_column == "image" and all(row["image"]["bytes"] for row in data.data)


def test_a_tar_that_this_process_cannot_open_for_now_is_not_damaged(tmp_path, monkeypatch):
    def short(tar):
        raise OSError(errno.EMFILE, "Too many open files")

    tar = write_tar(tmp_path / "a.tar", [{"png": b"", "txt": b"a"}])
    monkeypatch.setattr(tars, "_opened", short)
    with pytest.raises(OSError, match="Too many open files: the tar .* says nothing about the data"):
        list(tars.tar_rows([tar], {"image": "image"}, whole=True))
