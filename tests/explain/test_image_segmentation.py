# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Segmentations in a picture's own pixels, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from clip_hf.explain import UNSEEN, dense_features, segment_image
from tiny_models import make_tiny_model


LABELS = ["a photo of a cat", "two dogs", "a map of the world"]


@pytest.mark.parametrize("size", [None, 128])
def test_a_wide_picture_is_segmented_where_the_model_saw_it(tower, size, tiny_processor, images):
    model, picture = make_tiny_model(tower), images[2]  # 200 x 101, of which the middle is shown
    result = segment_image(model, tiny_processor, picture, LABELS, size=size)
    left, top, right, bottom = result.seen_box
    assert result.class_map.shape == (101, 200) and (top, bottom) == (0, 101) and left > 40 and right < 160
    seen = np.zeros((101, 200), bool)
    seen[top:bottom, left:right] = True
    np.testing.assert_array_equal(result.class_map == UNSEEN, ~seen)
    np.testing.assert_array_equal(np.isnan(result.scores), np.broadcast_to(~seen, result.scores.shape))
    np.testing.assert_array_equal(result.class_map[seen], result.scores[:, seen].argmax(axis=0))
    options = {} if size is None else {"size": size, "crop_size": size}
    pixels = tiny_processor(images=picture, return_tensors="pt", **options).pixel_values
    embeds = model.encode_text(**tiny_processor(text=LABELS, return_tensors="pt"))
    grid = (dense_features(model, pixels) @ embeds.T)[0].detach()
    corner = result.scores[:, top, left]  # flat beyond the first centre
    np.testing.assert_allclose(corner, grid[0, 0], atol=1e-5)


def test_it_is_drawn(tiny_processor, images):
    result = segment_image(make_tiny_model("vit"), tiny_processor, images[2], LABELS, method="surgery")
    drawing = result.draw()
    assert drawing.mode == "RGB" and drawing.width > drawing.height / 4


def test_the_whole_picture_can_be_shown(tower, tiny_processor, images):
    result = segment_image(make_tiny_model(tower), tiny_processor, images[2], LABELS, whole=True)
    assert result.seen_box == (0, 0, 200, 101) and (result.class_map != UNSEEN).all()
    edge = 16 if tower == "vit" else 32
    assert result.grid_scores.shape == (3, 64 // edge, 128 // edge)  # 64 x 127 to the nearest place


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        ([], {}, ValueError, "label"),
        (["a cat", "a cat"], {}, ValueError, "a cat"),
        ("a cat", {}, TypeError, "Labels"),
        (LABELS, {"method": "clip"}, ValueError, "must be one of maskclip"),
        (LABELS, {"size": 84}, ValueError, "must be a multiple of"),
        (LABELS, {"size": 0}, ValueError, "size"),
    ],
)
def test_what_is_refused(labels, options, error, message, tower, tiny_processor, images):
    with pytest.raises(error, match=message), torch.no_grad():
        segment_image(make_tiny_model(tower), tiny_processor, images[0], labels, **options)


def test_the_whole_picture_is_seen_at_its_aspect(tower, tiny_processor, images):
    model, picture = make_tiny_model(tower), images[2]  # 200 x 101
    result = segment_image(model, tiny_processor, picture, LABELS, whole=True, size=64)
    edge = 16 if tower == "vit" else 32
    assert result.grid_scores.shape == (3, 64 // edge, 128 // edge)  # 126.7 to the nearest multiple
    assert result.seen_box == (0, 0, 200, 101) and (result.class_map != UNSEEN).all()
    resized = {"size": {"height": 64, "width": 128}, "do_center_crop": False}
    pixels = tiny_processor(images=picture, return_tensors="pt", **resized).pixel_values
    embeds = model.encode_text(**tiny_processor(text=LABELS, return_tensors="pt"))
    expected = (dense_features(model, pixels) @ embeds.T)[0].permute(2, 0, 1).detach()
    np.testing.assert_allclose(result.grid_scores, expected, atol=1e-5)
    assert sum(result.shares().values()) == pytest.approx(1) and list(result.shares()) == LABELS


def test_what_fills_no_patch_is_not_seen(tower, tiny_processor):
    """A crop of 100 pixels has 96 in whole patches; a ViT is not shown the last 4, a ResNet sees them."""
    picture = Image.new("RGB", (100, 100), "red")
    options = {"do_resize": False, "crop_size": {"height": 100, "width": 100}}
    result = segment_image(make_tiny_model(tower), tiny_processor, picture, LABELS, **options)
    edge = 96 if tower == "vit" else 100
    assert result.seen_box == (0, 0, edge, edge) and (result.class_map[edge:] == UNSEEN).all()
    assert (result.class_map[:edge, :edge] != UNSEEN).all()


def test_arrays_are_saved(tiny_processor, images, tmp_path):
    result = segment_image(make_tiny_model("vit"), tiny_processor, images[2], LABELS, method="windows", window=48)
    result.save_arrays(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as saved:
        np.testing.assert_array_equal(saved["class_map"], result.class_map)
        assert saved["labels"].tolist() == LABELS and saved["method"] == "windows"
