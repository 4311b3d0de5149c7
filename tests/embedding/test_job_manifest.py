# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The manifest of embedding jobs: which destination, source and options a job may go on with."""

import json
import shutil

import pytest
from job_inputs import ENCODING, SMALL, files_in

from clip_hf.embedding import (
    EmbeddingJob,
    EmbeddingOptions,
    embed,
    load_dual_encoder,
    read_embeddings,
)
from encoding_inputs import quiet
from pair_data import image_of
from tiny_models import make_tiny_model


def test_the_place_of_data_and_model_does_not_matter(encoder, photos, tmp_path, plain):
    shutil.copytree(photos, tmp_path / "elsewhere" / "images")
    embed(encoder, tmp_path / "elsewhere" / "images", tmp_path / "out", options=SMALL, encoding=ENCODING)
    files = files_in(tmp_path / "out")
    assert {name for name in plain if files[name] != plain[name]} == {"manifest.json"}  # which names the source


def test_another_model_source_or_option_is_refused_by_name(encoder, photos, tmp_path, plain, tiny_processor):
    other = load_dual_encoder(make_tiny_model("vit", seed=1), processor=tiny_processor)
    finer = EmbeddingOptions(rows_per_part=4, dtype="float32")
    for arguments, message in (
        ((other, photos, tmp_path / "plain", SMALL, ENCODING), "model fingerprint is "),
        ((encoder, photos, tmp_path / "plain", finer, ENCODING), "options rows_per_part is 8 there and 4 now"),
        ((encoder, photos, tmp_path / "plain", SMALL, quiet(batch_size=8)), "options batch_size is 4 there and 8 now"),
    ):
        with pytest.raises(ValueError, match=f"holds embeddings of another job, .*{message}"):
            EmbeddingJob(*arguments)
    image_of(99).save(photos / "99.png")
    with pytest.raises(ValueError, match="source fingerprint is .*source rows is 22 there and 23 now"):
        EmbeddingJob(encoder, photos, tmp_path / "plain", SMALL, ENCODING)
    assert files_in(tmp_path / "plain") == plain


def test_a_destination_that_would_harm_something_is_refused(encoder, photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; the destination must be a folder"):
        EmbeddingJob(encoder, photos, tmp_path / "file")
    for inside in (photos / "out", photos, photos / "." / "x" / ".." / "out"):
        with pytest.raises(ValueError, match="lies in the source .*, whose files it would become"):
            EmbeddingJob(encoder, photos, inside)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="is not empty and holds no manifest.json"):
        EmbeddingJob(encoder, photos, tmp_path / "used")
    with pytest.raises(OSError):
        EmbeddingJob(encoder, photos, tmp_path / "file" / "below")
    EmbeddingJob(encoder, photos, tmp_path / "photos_too")


def test_a_list_of_paths_is_kept_for_the_next_run(encoder, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    embed(encoder, ["00.png", "01.png"], tmp_path / "out", options=SMALL, encoding=ENCODING)
    assert (tmp_path / "out" / "source.txt").read_text() == f"{photos}/00.png\n{photos}/01.png\n"
    assert embed(encoder, [], tmp_path / "out", options=SMALL, encoding=ENCODING).timing is None
    with pytest.raises(ValueError, match="source.txt lists other images"):
        embed(encoder, ["02.png"], tmp_path / "out", options=SMALL, encoding=ENCODING)


def test_paths_with_odd_characters_are_kept_or_refused(encoder, tmp_path):
    odd = ["a\rb.png", " c.png", "d .png", "\u2028e.png", "f\x0cg.png"]
    for name in odd:
        image_of(0).save(tmp_path / name, format="png")
    summary = embed(encoder, [tmp_path / name for name in odd], tmp_path / "out", options=SMALL, encoding=ENCODING)
    assert (summary.rows, summary.bad) == (len(odd), {})
    again = embed(encoder, [tmp_path / name for name in odd], tmp_path / "out", options=SMALL, encoding=ENCODING)
    assert again.timing is None
    for name in ("a.png\r", "a\nb.png", " "):
        with pytest.raises(ValueError, match="is no path that a list can hold: .* rename the file"):
            embed(encoder, [tmp_path / "d .png", name], tmp_path / "odd", options=SMALL, encoding=ENCODING)


@pytest.mark.parametrize("section", ["model", "source", "options"])
def test_a_manifest_without_its_sections_is_an_error_that_names_it(section, encoder, photos, tmp_path, plain):
    path = tmp_path / "plain" / "manifest.json"
    for value in ({}, {section: []}):
        manifest = json.loads(path.read_text())
        manifest.pop(section, None)
        path.write_text(json.dumps({**manifest, **value}))
        for action in (
            lambda: read_embeddings(tmp_path / "plain"),
            lambda: EmbeddingJob(encoder, photos, tmp_path / "plain", SMALL, ENCODING),
        ):
            with pytest.raises(ValueError, match=f"manifest.json is damaged: '{section}' is missing.* Put back a"):
                action()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"modalities": "video"}, "`modalities` is 'video'; it must be one of 'images', 'texts', 'both'"),
        ({"file_format": "hdf5"}, "`file_format` is 'hdf5'; it must be one of 'safetensors', 'npy'"),
        ({"dtype": "int8"}, "`dtype` is 'int8'; it must be one of 'float16', 'float32'"),
        ({"rows_per_part": 0}, "`rows_per_part` is 0"),
        ({"shard": (4, 4)}, "`shard` is 4/4; it must be i/n with i from 0 to n-1"),
    ],
)
def test_options_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingOptions(**values)


def test_sources_that_hold_nothing_to_embed_are_refused(encoder, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    image_of(0).save(tmp_path / "one.png")
    texts = EmbeddingOptions(modalities="texts")
    for source, options, message in (
        (tmp_path / "empty", SMALL, "holds no images, Parquet files, tars or metadata"),
        (tmp_path / "empty.txt", SMALL, "is empty: it has no rows"),
        ([], SMALL, "The list of images is empty"),
        ([tmp_path / "one.png"], texts, "has no captions, so no texts can be embedded"),
        (tmp_path / "nowhere", SMALL, "There is no file or folder"),
    ):
        with pytest.raises(ValueError, match=message):
            EmbeddingJob(encoder, source, tmp_path / "out", options, ENCODING)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
