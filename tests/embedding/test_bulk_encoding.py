# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Features of datasets: in order, from the cache where they are right, and alike on several processes."""

import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from clip_hf.embedding import feature_store as feature_cache
from clip_hf.embedding.bulk_encoding import encode_image_column, encode_readable_images, encode_text_list
from clip_hf.embedding.encoding_options import EncodingOptions
from clip_hf.embedding.feature_store import part_ranges
from clip_hf.embedding.load_encoder import load_dual_encoder
from clip_hf.model.image_reading_clip_hf import ImageLimits, open_image
from encoding_inputs import ROWS, count_images, image, make_data, png, quiet
from several_processes import run_processes
from tiny_models import CAPTIONS, make_tiny_model


@pytest.fixture(scope="module")
def data() -> datasets.Dataset:
    return make_data()


def folder_of(cache: Path) -> Path:
    (folder,) = cache.iterdir()
    return folder


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_features_are_those_of_the_images_in_order(encoder, batch_size, num_threads):
    data = make_data(40)
    features = encode_image_column(encoder, data, options=quiet(batch_size=batch_size, num_threads=num_threads))
    assert features.dtype == np.float32 and features.shape == (40, 16)
    # Parts end after 32 rows, batches where they are full.
    assert encoder.counted == [batch_size] * (40 // batch_size) + [40 % batch_size] * (40 % batch_size > 0)
    expected = encoder.encode_images([image(index) for index in range(40)]).numpy()
    np.testing.assert_allclose(features, expected, atol=2e-6)
    assert np.abs(expected[:-1] - expected[1:]).max(axis=1).min() > 1e-3, "neighbours that are alike show no order"


def test_features_before_the_projection(encoder, data):
    features = encode_image_column(encoder, data, projected=False, options=quiet())
    expected = encoder.encode_images([image(index) for index in range(ROWS)], projected=False).numpy()
    assert features.shape == (ROWS, 32)
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_columns_of_paths_and_bytes(encoder, tmp_path):
    paths = [str(tmp_path / f"{index}.png") for index in range(4)]
    for index, path in enumerate(paths):
        Path(path).write_bytes(png(index))
    expected = encoder.encode_images([image(index) for index in range(4)]).numpy()
    data = datasets.Dataset.from_dict({"path": paths, "bytes": [png(index) for index in range(4)]})
    for column in ("path", "bytes"):
        np.testing.assert_allclose(encode_image_column(encoder, data, column, options=quiet()), expected, atol=2e-6)


def test_a_cache_hit_does_not_call_the_model(encoder, data, tmp_path):
    options = quiet(cache_dir=tmp_path / "cache")
    first = encode_image_column(encoder, data, options=options)
    assert sum(encoder.counted) == ROWS
    encoder.counted.clear()
    # Another batch size and another copy of the data: the same features.
    again = encode_image_column(encoder, make_data(), options=quiet(cache_dir=tmp_path / "cache", batch_size=5))
    assert not encoder.counted
    assert np.array_equal(first, again)
    assert sorted(path.name for path in folder_of(tmp_path / "cache").iterdir()) == [
        "manifest.json",
        *[f"part-{part:05d}.safetensors" for part in range(3)],
    ]


@pytest.mark.parametrize("what", ["weights", "image", "kind", "rows", "order", "batches"])
def test_what_decides_features_has_a_cache_of_its_own(encoder, monkeypatch, tmp_path, what):
    options, data = quiet(cache_dir=tmp_path / "cache"), make_data(5)
    monkeypatch.setattr(encoder, "depends_on_batch", what == "batches")
    encode_image_column(encoder, data, options=options)
    encoder.counted.clear()
    if what == "weights":
        with torch.no_grad():
            encoder.model.visual_projection.weight += 0.01
    options = quiet(cache_dir=tmp_path / "cache", batch_size=3) if what == "batches" else options
    data = {"image": make_data(5, {3: png(99)}), "rows": make_data(4), "order": data.select([1, 0, 2, 3, 4])}.get(
        what, data
    )
    features = encode_image_column(encoder, data, projected=what != "kind", options=options)
    assert sum(encoder.counted) == len(data)
    plain = encode_image_column(encoder, data, projected=what != "kind", options=quiet())
    np.testing.assert_allclose(features, plain, atol=1e-6)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_file_that_was_replaced_is_encoded_again(encoder, tmp_path):
    path = tmp_path / "a.png"
    data = datasets.Dataset.from_dict({"image": [str(path)]}).cast_column("image", datasets.Image())
    options, found = quiet(cache_dir=tmp_path / "cache"), []
    for index in (0, 1):
        path.write_bytes(png(index))
        os.utime(path, ns=(0, index * 10**9))
        found.append(encode_image_column(encoder, data, options=options))
    assert sum(encoder.counted) == 2 and not np.allclose(*found, atol=1e-4)


@pytest.mark.parametrize("what", ["time", "size", "path"])
def test_what_tells_a_file_from_another(encoder, tmp_path, what):
    """By the time alone, of files of one size; by the size alone; by the path."""
    path, options = tmp_path / "a.bmp", quiet(cache_dir=tmp_path / "cache")
    image(0).save(path)
    os.utime(path, ns=(0, 0))
    size = path.stat().st_size
    encode_image_column(encoder, datasets.Dataset.from_dict({"image": [str(path)]}), options=options)
    if what == "path":
        path = path.rename(tmp_path / "b.bmp")
    else:
        image(3 if what == "time" else 4).save(path)
        os.utime(path, ns=(0, 10**9 if what == "time" else 0))
    assert (path.stat().st_size == size) == (what != "size")
    data = datasets.Dataset.from_dict({"image": [str(path)]})
    found = encode_image_column(encoder, data, options=options)
    assert sum(encoder.counted) == 2
    np.testing.assert_allclose(found, encode_image_column(encoder, data, options=quiet()), atol=2e-6)


def test_an_interrupted_run_resumes_with_its_parts(encoder, data, tmp_path, monkeypatch):
    options = quiet(cache_dir=tmp_path / "cache")
    expected = encode_image_column(encoder, data, options=quiet())
    encoder.counted.clear()
    write = feature_cache.FeatureFolder.write

    def dies(self, part, features):
        if part == 1:
            raise KeyboardInterrupt
        write(self, part, features)

    monkeypatch.setattr(feature_cache.FeatureFolder, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        encode_image_column(encoder, data, options=options)
    monkeypatch.undo()
    encoder.counted.clear()
    features = encode_image_column(encoder, data, options=options)
    assert sum(encoder.counted) == ROWS - 32
    np.testing.assert_allclose(features, expected, atol=2e-6)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def _other_part(path: Path) -> None:
    shutil.copy(path.with_name("part-00000.safetensors"), path)


@pytest.mark.parametrize("damage", [_cut, _empty, _flip, _other_part])
def test_a_damaged_part_is_encoded_again(encoder, data, tmp_path, damage):
    options = quiet(cache_dir=tmp_path / "cache")
    expected = encode_image_column(encoder, data, options=options)
    damage(folder_of(tmp_path / "cache") / "part-00001.safetensors")
    encoder.counted.clear()
    with pytest.warns(UserWarning, match="part-00001.safetensors is encoded again"):
        features = encode_image_column(encoder, data, options=options)
    assert sum(encoder.counted) == 32
    assert np.array_equal(features, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_image_column(encoder, data, options=options)


def test_a_cache_of_another_model_is_refused(encoder, tmp_path, tiny_processor):
    data, options = make_data(5), quiet(cache_dir=tmp_path / "cache")
    encode_image_column(encoder, data, options=options)
    first = folder_of(tmp_path / "cache")
    other = load_dual_encoder(make_tiny_model("vit", seed=1), processor=tiny_processor)
    encode_image_column(other, data, options=options)
    (second,) = set((tmp_path / "cache").iterdir()) - {first}
    shutil.copy(first / "manifest.json", second / "manifest.json")
    with pytest.raises(ValueError, match="cache of another model or other data.*encoder is"):
        encode_image_column(other, data, options=options)
    (second / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read as a manifest"):
        encode_image_column(other, data, options=options)
    (second / "manifest.json").unlink()
    with pytest.raises(ValueError, match="no manifest.json"):
        encode_image_column(other, data, options=options)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(("content", "why"), [(b"not an image", "not an image"), (b"", "empty")])
def test_an_unreadable_image_names_its_row(encoder, content, why, num_threads):
    data = make_data(40, {33: content})
    with pytest.raises(ValueError, match=f"row 33 cannot be used.*{why}"):
        encode_image_column(encoder, data, options=quiet(num_threads=num_threads))


def test_a_missing_file_and_a_refused_image_name_row_and_path(encoder, tmp_path):
    image(0).save(tmp_path / "a.png")
    data = datasets.Dataset.from_dict({"image": [str(tmp_path / "a.png"), str(tmp_path / "b.png")]})
    with pytest.raises(ValueError, match=r"row 1 .*b\.png.* no file"):
        encode_image_column(encoder, data, options=quiet())
    # Read well, but more than 8 bits are refused by the image processor.
    Image.fromarray(np.full((64, 64), 40000, dtype=np.uint16)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"row 1 .*b\.png.*high_bit_depth"):
        encode_image_column(encoder, data, options=quiet())


def test_features_that_are_not_finite_name_the_row(encoder, data, monkeypatch):
    prepare = encoder.prepare

    def overflowing(images):
        inputs = prepare(images)
        for index, each in enumerate(images):
            if np.array_equal(np.asarray(open_image(each)), np.asarray(image(50))):
                inputs["pixel_values"][index] = torch.inf
        return inputs

    monkeypatch.setattr(encoder, "prepare", overflowing)
    with pytest.raises(ValueError, match="image of row 50 hold NaN or infinite values"):
        encode_image_column(encoder, data, options=quiet())


def test_bad_arguments(encoder, data):
    with pytest.raises(ValueError, match="no column 'picture'; it has image, label"):
        encode_image_column(encoder, data, "picture")
    with pytest.raises(ValueError, match="no rows"):
        encode_image_column(encoder, data.select([]))
    with pytest.raises(TypeError, match="given list"):
        encode_image_column(encoder, [image(0)])
    for bad in (0, True, 2.0):
        with pytest.raises(ValueError, match="`batch_size` is"):
            EncodingOptions(batch_size=bad)
    for bad in (-0.1, 1.1, float("nan"), "5%", None, True):
        with pytest.raises(ValueError, match="`max_skipped_share` is .*; it must be a share, 0 to 1"):
            EncodingOptions(max_skipped_share=bad)


@pytest.mark.parametrize(("cores", "threads"), [(3, 3), (64, 8)])
def test_threads_are_as_many_as_the_cores_of_the_process(cores, threads, monkeypatch):
    monkeypatch.setattr("clip_hf.utils.processor.os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert EncodingOptions().num_threads == threads


def test_texts_are_encoded_once_and_cached(encoder, tmp_path, monkeypatch):
    texts = [f"{caption} {index % 50}" for index in range(90) for caption in CAPTIONS[:1]]
    options = quiet(cache_dir=tmp_path / "cache")
    features = encode_text_list(encoder, texts, options=options)
    np.testing.assert_allclose(features, encoder.encode_texts(texts).numpy(), atol=2e-6)
    monkeypatch.setattr(encoder, "text_batches", lambda *_: pytest.fail("the cache was not used"))
    assert np.array_equal(encode_text_list(encoder, texts[::-1], options=options), features[::-1])
    with pytest.raises(TypeError, match="Text 0 is 3"):
        encode_text_list(encoder, [3], options=options)


@pytest.mark.parametrize("rows", [1, 31, 32, 33, 1000, 32_768, 50_001])
def test_parts_cover_the_rows(rows):
    ranges = part_ranges(rows)
    assert [row for part in ranges for row in part] == list(range(rows))
    assert max(map(len, ranges)) <= 2048
    assert len(ranges) >= min(16, rows // 32)


def _encode_on_process(rank: int, processor, cache) -> list[tuple]:
    """With a cache, without, and with an image that cannot be read."""
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=processor)
    counted = count_images(encoder.model)
    accelerator, found = Accelerator(cpu=True), []
    # Row 40 is in the second part, the second process's.
    for folder, data in ((cache, make_data()), (None, make_data()), (cache, make_data(ROWS, {40: b"broken"}))):
        options = quiet(accelerator=accelerator, cache_dir=folder)
        counted.clear()
        try:
            images = encode_image_column(encoder, data, options=options)
            found.append((sum(counted), images, encode_text_list(encoder, CAPTIONS, options=options)))
        except (ValueError, RuntimeError) as error:
            found.append((type(error).__name__, str(error)))
    return found


@pytest.mark.slow
def test_two_processes_give_what_one_gives_and_end_together(encoder, data, tiny_processor, tmp_path):
    expected = encode_image_column(encoder, data, options=quiet())
    first, second = run_processes(_encode_on_process, 2, tmp_path / "run", tiny_processor, tmp_path / "cache")
    for images_encoded, found in ((32 + 6, first), (32, second)):  # of three parts the first process has two
        for count, images, texts in found[:2]:
            assert count == images_encoded
            np.testing.assert_allclose(images, expected, atol=2e-6)
            np.testing.assert_allclose(texts, encoder.encode_texts(CAPTIONS).numpy(), atol=2e-6)
    assert first[2][0] == "RuntimeError" and "Process 1 failed" in first[2][1] and "row 40" in first[2][1]
    assert second[2][0] == "ValueError" and "row 40" in second[2][1]


# ------------------------------------------------------------------------------------- pictures that cannot be read


BROKEN = {3: b"no picture", 20: png(20)[:200], 33: b"", 60: b"\x89PNG and no more"}


def readable_of(encoder, data, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return encode_readable_images(encoder, data, options=quiet(max_skipped_share=1.0, **options))


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_unreadable_images_are_left_out_and_counted(encoder, data, batch_size, num_threads):
    found = readable_of(encoder, make_data(changed=BROKEN), batch_size=batch_size, num_threads=num_threads)
    kept = [row for row in range(ROWS) if row not in BROKEN]
    assert found.rows.tolist() == kept
    np.testing.assert_allclose(found.features, encode_image_column(encoder, data, options=quiet())[kept], atol=2e-6)
    assert found.skipped["images"] == 4 and found.skipped["of"] == ROWS
    assert found.skipped["kinds"] == {"file damaged": 1, "not an image": 1, "file empty": 1, "file truncated": 1}
    assert [f"row {row}" in " ".join(found.skipped["examples"]) for row in BROKEN] == [True] * 4


def test_the_first_skipped_files_are_named_with_what_is_wrong(encoder, tmp_path):
    paths = [str(tmp_path / f"{index}.png") for index in range(20)]
    for index, path in enumerate(paths):
        Path(path).write_bytes(png(index))
    Path(paths[7]).unlink()
    data = datasets.Dataset.from_dict({"image": [*paths, None]}).cast_column("image", datasets.Image())
    options = quiet(max_skipped_share=0.1)
    with pytest.warns(UserWarning, match=r"of birds that cannot be read: 2 of 21 rows \(9.52%\).*row 7 \(.*7\.png\)"):
        found = encode_readable_images(encoder, data, options=options, name="birds")
    assert found.skipped["kinds"] == {"file missing": 1, "image missing": 1}


@pytest.mark.parametrize(
    ("changed", "share", "fails"),
    [
        ({3: b""}, 0.05, False),
        ({3: b"", 5: b"x"}, 0.05, True),
        ({3: b""}, 0.0, True),
        ({3: b"", 5: b"x"}, 0.2, False),
        (dict.fromkeys(range(9), b"x"), 1.0, False),
    ],
)
def test_the_limit_of_skipped_images(encoder, changed, share, fails):
    """Of ten images: a single one never stops an evaluation, unless none may be skipped."""
    options = quiet(max_skipped_share=share)
    data = make_data(10, changed)
    if fails:
        with pytest.raises(ValueError, match=r"more than max_skipped_share=.*row 3 cannot be used"):
            encode_readable_images(encoder, data, options=options)
    else:
        with pytest.warns(UserWarning, match=f"{len(changed)} of 10 rows"):
            assert len(encode_readable_images(encoder, data, options=options).rows) == 10 - len(changed)


def test_too_many_skipped_images_stop_early(encoder):
    with pytest.raises(ValueError, match="max_skipped_share"):
        encode_readable_images(encoder, make_data(64, dict.fromkeys(range(64), b"x")), options=quiet(num_threads=1))
    assert encoder.counted == []


def test_no_readable_image_at_all(encoder):
    with pytest.raises(ValueError, match="No image of the data can be read: The image of row 0"):
        encode_readable_images(encoder, make_data(2, {0: b"x", 1: b""}), options=quiet(max_skipped_share=1.0))


def test_damaged_weights_are_no_unreadable_image(encoder):
    with torch.no_grad():
        encoder.model.visual_projection.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="image of row 0 hold NaN"):
        encode_readable_images(encoder, make_data(5), options=quiet(max_skipped_share=1.0))


def test_skipped_images_are_tried_again_and_no_others(encoder, data, tmp_path):
    paths = [str(tmp_path / f"{index}.png") for index in range(ROWS)]
    for index, path in enumerate(paths):
        Path(path).write_bytes(png(index))
    rows = datasets.Dataset.from_dict({"image": paths})
    # What the fingerprint does not show: the same file is too large under one limit, and is not under another.
    encoder.set_image_options(image_limits=ImageLimits(max_bytes=Path(paths[40]).stat().st_size - 1))
    refused = [row for row, path in enumerate(paths) if Path(path).stat().st_size > encoder.image_limits.max_bytes]
    options = {"cache_dir": tmp_path / "cache"}
    first = readable_of(encoder, rows, **options)
    assert first.skipped["kinds"] == {"file too large": len(refused)} and 0 < len(refused) < ROWS
    encoder.counted.clear()
    again = readable_of(encoder, rows, **options)
    assert encoder.counted == [] and again.skipped == first.skipped
    assert np.array_equal(again.features, first.features) and again.rows.tolist() == first.rows.tolist()
    with pytest.raises(ValueError, match=f"row {refused[0]} .*cannot be used"):
        encode_image_column(encoder, rows, options=quiet(**options))
    encoder.set_image_options(image_limits=ImageLimits())
    encoder.counted.clear()
    whole = encode_image_column(encoder, rows, options=quiet(**options))
    assert sum(encoder.counted) == len(refused)
    np.testing.assert_allclose(whole, encode_image_column(encoder, data, options=quiet()), atol=2e-6)
    encoder.counted.clear()
    assert np.array_equal(encode_image_column(encoder, rows, options=quiet(**options)), whole)
    assert encoder.counted == []


def test_a_part_without_any_readable_image(encoder, data, tmp_path):
    """The first of three parts, 32 rows, has no width; it takes that of the others."""
    broken = make_data(changed=dict.fromkeys(range(32), b"x"))
    options = {"cache_dir": tmp_path / "cache"}
    expected = encode_image_column(encoder, data, options=quiet())[32:]
    for _ in range(2):
        found = readable_of(encoder, broken, **options)
        assert found.rows.tolist() == list(range(32, ROWS))
        np.testing.assert_allclose(found.features, expected, atol=2e-6)


def _skip_on_process(rank: int, processor, cache) -> list:
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=processor)
    accelerator, data = Accelerator(cpu=True), make_data(changed=BROKEN)
    return [readable_of(encoder, data, accelerator=accelerator, cache_dir=own) for own in (cache, cache, None)]


@pytest.mark.slow
def test_two_processes_skip_what_one_skips(encoder, tiny_processor, tmp_path):
    expected = readable_of(encoder, make_data(changed=BROKEN))
    for found in run_processes(_skip_on_process, 2, tmp_path / "run", tiny_processor, tmp_path / "cache"):
        for own in found:
            assert own.rows.tolist() == expected.rows.tolist()
            np.testing.assert_allclose(own.features, expected.features, atol=2e-6)
            assert own.skipped["kinds"] == expected.skipped["kinds"]
            assert own.skipped["images"] == 4 and sorted(own.skipped["examples"]) == sorted(
                expected.skipped["examples"]
            )


def test_every_field_of_an_identity_is_in_its_key():
    own = feature_cache.FeatureIdentity("encoder", "data", "image", 3)
    changes = ({"encoder": "other"}, {"data": "other"}, {"kind": "text"}, {"rows": 4})
    assert len({identity.key for identity in (own, *(replace(own, **change) for change in changes))}) == 5


@pytest.mark.parametrize(
    ("stage", "shown"), [("linear_probe", "linear_probe: birds (test): "), ("", "birds (test): ")]
)
def test_the_progress_bar_says_stage_data_and_unit(encoder, data, stage, shown, capsys):
    options = EncodingOptions(stage=stage)
    encode_readable_images(encoder, data, options=options, name="birds (test)")
    error = capsys.readouterr().err
    assert f"\r{shown}" in error and " images/s" in error
    encode_text_list(encoder, CAPTIONS, options=options)
    error = capsys.readouterr().err
    assert f"\r{stage or encoder.name[-40:]}: " in error and " texts/s" in error
    encode_readable_images(encoder, data, options=replace(options, progress=False))
    assert capsys.readouterr().err == ""
