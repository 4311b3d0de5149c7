# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The index of each kind of source, and where it lies."""

import os
from pathlib import Path

import numpy as np
import pytest

from clip_hf.embedding import EmbeddingOptions, embed, load_dual_encoder
from clip_hf.model.image_reading_clip_hf import open_image
from clip_hf.search import EmbeddingIndex, default_index_folder, index_sources, open_source_index
from encoding_inputs import quiet
from pair_data import caption_of, dataset_of, encoded, image_of, rows_of, samples_of, write_parquet, write_tar
from tiny_models import make_tiny_model


ROWS = 10
COLUMNS = ["name", "digest", "bytes", "width", "height", "shard", "row"]


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of images with texts."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(ROWS):
        image_of(number).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(caption_of(number))
    return folder


@pytest.fixture
def table(photos) -> Path:
    """A table of the photos, among them."""
    path = photos / "table.csv"
    path.write_text("".join(["image,caption\n", *(f"{n:02d}.png,{caption_of(n)}\n" for n in range(ROWS))]))
    return path


@pytest.fixture
def open_index(encoder):
    """Opens the index of a source; counts passes anew."""

    def run(source, **options):
        encoder.counted.clear()
        return open_source_index(source, encoder, encoding=quiet(batch_size=4), **options)

    return run


def check_images(opened, encoder, pictures: bool = True) -> None:
    """The rows are those of the images 0 to ROWS - 1, in order, and their pictures are found."""
    index = opened.index
    expected = encoder.encode_images([image_of(number) for number in range(ROWS)]).numpy()
    assert np.allclose(index.vectors(index.ids()), expected, atol=1e-3)
    for number, id_ in enumerate(index.ids().tolist()):
        picture = opened.picture(id_)
        if not pictures:
            assert picture is None
        else:
            assert np.array_equal(np.asarray(open_image(picture)), np.asarray(image_of(number)))


# -------------------------------------------------------------------------------------------------------------- places


def test_default_folders(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    expected = tmp_path / "photos.clip-index"
    monkeypatch.chdir(tmp_path)
    for source in ("photos", "photos/", tmp_path / "photos", f"{tmp_path}/x/../photos//"):
        assert default_index_folder(source) == expected
    monkeypatch.chdir(tmp_path / "photos")
    assert default_index_folder(".") == expected
    assert default_index_folder("../pairs.csv", "texts") == tmp_path / "pairs.csv.texts.clip-index"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_index_folder("~/photos") == expected


@pytest.mark.parametrize("source", ["/", "owner/name", "https://example.org/a.tar", ["a.png"], "", "a::b"])
def test_sources_without_a_place_beside_them(source, encoder):
    with pytest.raises(ValueError, match="no place beside .* for its index; name a folder for it .--index"):
        open_source_index(source, encoder)


def test_over_is_images_or_texts(encoder, photos):
    with pytest.raises(ValueError, match="`over` .--over. is 'captions'; it must be one of 'images', 'texts'"):
        open_source_index(photos, encoder, over="captions")


def test_where_nothing_can_be_written_another_folder_is_asked_for(open_index, photos, monkeypatch):
    def refuse(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    (photos.parent / "file").write_text("")
    with pytest.raises(OSError, match="the index .*file/x cannot be written there. Name another folder .*--index"):
        open_index(photos, index_folder=photos.parent / "file" / "x")
    monkeypatch.setattr("filelock._unix.os.open", refuse)
    with pytest.raises(OSError, match="Permission denied: the index .*photos.clip-index cannot be written there"):
        open_index(photos)


# ------------------------------------------------------------------------------------------------------------- folders


def test_a_folder_of_pictures_is_brought_up_to_date(open_index, encoder, photos):
    opened = open_index(photos)
    assert opened.refresh.added == ROWS and opened.index.folder == photos.parent / "photos.clip-index"
    check_images(opened, encoder)
    os.rename(photos / "03.png", photos / "ä.png")
    opened = open_index(photos)
    assert opened.refresh.renamed == 1 and encoder.counted == []
    assert opened.picture("ä.png") == photos / "ä.png"
    with pytest.raises(ValueError, match="not in the index"):
        opened.picture("03.png")
    os.unlink(photos / "ä.png")
    assert opened.picture("ä.png") is None


def test_pictures_whose_names_are_not_utf8_are_found(open_index, photos):
    name = os.fsdecode(b"\xe9.png")
    (photos / name).write_bytes(encoded(image_of(20)))
    assert open_index(photos).picture(r"\udce9.png") == photos / name


def test_subfolders_called_as_parts_are_still_pictures(open_index, photos):
    for part in ("train", "test"):
        (photos / part).mkdir()
        image_of(ord(part[1])).save(photos / part / "a.png")
    opened = open_index(photos)
    assert opened.refresh.added == ROWS + 2
    assert {"train/a.png", "test/a.png", "00.png"} < set(opened.index.ids())


def test_a_folder_that_is_gone_says_so(open_index, photos):
    open_index(photos)
    photos.rename(photos.parent / "elsewhere")
    for rebuild in (False, True):
        with pytest.raises(FileNotFoundError, match="There is no folder .*photos.*mounted"):
            open_index(photos, rebuild=rebuild)
    assert len(EmbeddingIndex.open(f"{photos}.clip-index")) == ROWS


def test_an_index_is_opened_as_it_is(open_index, encoder, photos, tmp_path):
    index_folder = open_index(photos).index.folder
    image_of(30).save(photos / "new.png")
    opened = open_index(index_folder)
    assert opened.refresh is None and len(opened.index) == ROWS
    check_images(opened, encoder)
    with pytest.raises(ValueError, match="is an index; to build it anew, give its source"):
        open_index(index_folder, rebuild=True)
    # Moved together with the photos.
    (tmp_path / "new").mkdir()
    photos.rename(tmp_path / "new" / "photos")
    index_folder.rename(tmp_path / "new" / index_folder.name)
    check_images(open_index(tmp_path / "new" / index_folder.name), encoder)


def test_an_index_of_another_width_or_model_is_refused(open_index, photos, tiny_processor, tmp_path):
    folder = open_index(photos).index.folder
    other = load_dual_encoder(make_tiny_model("resnet"), processor=tiny_processor)
    with pytest.raises(ValueError, match="is by .*: model .* there and .* now"):
        open_source_index(folder, other)
    with pytest.raises(ValueError, match=r"options over \(--over\) is 'images' there and 'texts' now"):
        open_index(folder, over="texts")
    EmbeddingIndex.build(tmp_path / "own", np.eye(3, dtype=np.float32))
    with pytest.raises(ValueError, match="its width is 3 there and 16 now"):
        open_index(tmp_path / "own")
    EmbeddingIndex.build(tmp_path / "fits", np.eye(16, dtype=np.float32))
    assert len(open_index(tmp_path / "fits").index) == 16


def test_images_and_texts_of_a_source_have_indexes_of_their_own(open_index, encoder, photos):
    images = open_index(photos).index
    texts = open_index(photos, over="texts").index
    assert texts.folder == photos.parent / "photos.texts.clip-index" != images.folder
    assert texts.metadata()["caption"].to_pylist() == [caption_of(number) for number in range(ROWS)]
    expected = encoder.encode_texts([caption_of(number) for number in range(ROWS)]).numpy()
    assert np.allclose(texts.vectors(range(ROWS)), expected, atol=1e-3)


# ---------------------------------------------------------------------------------------------------------- embeddings


def test_what_embed_wrote_is_indexed_and_again_when_parts_come(open_index, encoder, photos, tmp_path, monkeypatch):
    options = EmbeddingOptions(rows_per_part=4, dtype="float32")
    embed(encoder, photos, tmp_path / "embedded", options=options, encoding=quiet())
    opened = open_index(tmp_path / "embedded")
    check_images(opened, encoder)
    assert opened.index.dtype == "float32" and encoder.counted[:-1] == []  # the last is of the check
    assert opened.index.columns.names == [*COLUMNS, "captions"]
    row = opened.index.metadata([3]).to_pylist()[0]
    assert (row["name"], row["captions"], row["width"]) == ("03.png", [caption_of(3)], 12)
    generation = opened.index.generation
    assert open_index(tmp_path / "embedded").index.generation == generation
    # A picture is repaired, so its part is written again.
    image_of(50).save(photos / "03.png")
    (tmp_path / "embedded" / "rows" / "part-00000-00000.parquet").unlink()
    embed(encoder, photos, tmp_path / "embedded", options=options, encoding=quiet())
    again = open_index(tmp_path / "embedded").index
    assert again.generation == generation + 1 and len(again) == ROWS
    assert np.allclose(again.vectors([3])[0], encoder.encode_images([image_of(50)]).numpy(), atol=1e-6)


def test_texts_of_what_embed_wrote(open_index, encoder, photos, tmp_path):
    (photos / "04.txt").unlink()
    embed(encoder, photos, tmp_path / "embedded", encoding=quiet())
    opened = open_index(tmp_path / "embedded", over="texts")
    numbers = [number for number in range(ROWS) if number != 4]
    assert opened.index.columns.names == [*COLUMNS, "caption"]
    assert opened.index.metadata()["caption"].to_pylist() == [caption_of(number) for number in numbers]
    assert opened.index.metadata()["name"].to_pylist() == [f"{number:02d}.png" for number in numbers]
    expected = encoder.encode_texts([caption_of(number) for number in numbers]).numpy()
    assert np.allclose(opened.index.vectors(range(ROWS - 1)), expected, atol=1e-3)
    assert opened.picture(4) == photos / "05.png"


def test_embeddings_of_another_model_or_without_texts_are_refused(
    open_index, encoder, photos, tmp_path, tiny_processor
):
    options = EmbeddingOptions("images")
    embed(encoder, photos, tmp_path / "embedded", options=options, encoding=quiet())
    other = load_dual_encoder(make_tiny_model("resnet"), processor=tiny_processor)
    with pytest.raises(ValueError, match="was embedded by .*: model .* there and .* now"):
        open_source_index(tmp_path / "embedded", other)
    with pytest.raises(ValueError, match="embedded holds no embeddings of texts"):
        open_index(tmp_path / "embedded", over="texts")
    embed(encoder, photos, tmp_path / "others", options=options, encoding=quiet())
    open_index(tmp_path / "embedded")
    with pytest.raises(ValueError, match="is the index of .*embedded, not of .*others.*--index"):
        open_index(tmp_path / "others", index_folder=tmp_path / "embedded.clip-index")
    with pytest.raises(ValueError, match="is the index of .*photos, not of .*others.*--index"):
        open_index(tmp_path / "others", index_folder=open_index(photos).index.folder)


# ------------------------------------------------------------------------------------------------------- other sources


@pytest.fixture(params=["table", "list", "paths", "parquet", "memory", "tar"])
def source(request, photos, table, tmp_path):
    rows = rows_of(range(ROWS))
    if request.param == "list":
        (photos / "list.txt").write_text("".join(f"{number:02d}.png\n" for number in range(ROWS)))
    makers = {
        "table": lambda: table,
        "list": lambda: photos / "list.txt",
        "paths": lambda: [photos / f"{number:02d}.png" for number in range(ROWS)],
        "parquet": lambda: write_parquet(tmp_path / "parquet", rows, 2),
        "memory": lambda: dataset_of(rows),
        "tar": lambda: write_tar(tmp_path / "a.tar", samples_of(range(ROWS))),
    }
    return request.param, makers[request.param]()


def test_any_other_source_is_embedded_once(source, open_index, encoder, tmp_path, own_cache):
    kind, source = source
    opened = open_index(source, index_folder=tmp_path / "index")
    assert sum(encoder.counted) == ROWS
    check_images(opened, encoder, pictures=kind != "tar")
    assert (tmp_path / "index" / "embedded" / "summary.json").is_file()
    generation = opened.index.generation
    again = open_index(source, index_folder=tmp_path / "index")
    assert encoder.counted == [] and again.index.generation == generation
    check_images(open_index(tmp_path / "index"), encoder, pictures=kind in ("table", "list", "paths"))


def test_a_job_that_broke_off_goes_on(open_index, encoder, table, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(index_sources, "_fill", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            open_index(table, index_folder=tmp_path / "index")
    opened = open_index(table, index_folder=tmp_path / "index")
    assert encoder.counted == []
    check_images(opened, encoder)


def test_texts_of_a_table(open_index, encoder, table):
    opened = open_index(table, over="texts")
    assert encoder.counted == []
    assert opened.index.folder == table.parent / "table.csv.texts.clip-index"
    assert opened.index.metadata()["caption"].to_pylist() == [caption_of(number) for number in range(ROWS)]
    assert opened.picture(3) == table.parent / "03.png"


def test_a_changed_source_is_refused_and_built_anew_on_demand(open_index, encoder, table, tmp_path):
    open_index(table, index_folder=tmp_path / "index")
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:4]))
    with pytest.raises(ValueError, match="index of another state of its source.*source fingerprint .*--rebuild"):
        open_index(table, index_folder=tmp_path / "index")
    assert len(EmbeddingIndex.open(tmp_path / "index")) == ROWS
    opened = open_index(table, index_folder=tmp_path / "index", rebuild=True)
    assert len(opened.index) == 3 and opened.index.folder == tmp_path / "index"
    assert len(open_index(table, index_folder=tmp_path / "index").index) == 3


def test_the_index_of_something_else_is_not_written_over(open_index, photos, table, tmp_path):
    folder = open_index(photos, index_folder=tmp_path / "index").index.folder
    with pytest.raises(ValueError, match="is the index of .*photos, not of this source. .*--index.*--rebuild"):
        open_index(table, index_folder=folder)
    EmbeddingIndex.build(tmp_path / "own", np.eye(16, dtype=np.float32))
    with pytest.raises(ValueError, match="is the index of something else, not of this source"):
        open_index(table, index_folder=tmp_path / "own")
    assert len(EmbeddingIndex.open(tmp_path / "own")) == 16


def test_a_misspelt_source_is_an_error_of_its_own(open_index, photos):
    with pytest.raises(ValueError, match="There is no file or folder '.*photo'.*Did you mean"):
        open_index(str(photos)[:-1])
    assert not Path(f"{str(photos)[:-1]}.clip-index").exists()
