# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Explanations of one picture: its own pixels, what the crop leaves out, and what is read and refused."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from clip_hf import ClipHFImageProcessor, ClipHFProcessor, UnreadableImage
from clip_hf.explain import METHODS, ImageExplanation, explain_image, image_explanation, image_maps, relevance
from clip_hf.explain.heat_drawing import draw_heat
from clip_hf.explain.image_explanation import read_picture
from clip_hf.explain.image_maps import UNITS
from tiny_models import IMAGE_SIZE, as_transformers_clip, make_tiny_model


TEXTS = ["a photo of a cat", "two dogs"]


def test_a_wide_picture_is_explained_where_the_crop_showed_it(tower, tiny_processor, images):
    model, picture = make_tiny_model(tower), images[2]  # 200 x 101
    result = explain_image(model, tiny_processor, picture, TEXTS)
    assert result.maps.shape == (2, 101, 200) and result.maps.dtype == np.float32 and result.image.size == (200, 101)
    left, top, right, bottom = result.seen_box
    # Resized to 126 x 64, of which 31 to 95 are kept: pixels 49.2 to 150.8 of 200.
    assert (left, top, right, bottom) == (49, 0, 151, 101)
    inside = np.zeros((101, 200), bool)
    inside[top:bottom, left:right] = True
    assert np.isfinite(result.maps[:, inside]).all() and np.isnan(result.maps[:, ~inside]).all()
    pixel_values = tiny_processor(images=picture, return_tensors="pt").pixel_values
    text_embeds = model.encode_text(**tiny_processor(text=TEXTS, return_tensors="pt"))
    expected = image_maps(model, pixel_values, text_embeds)[0].numpy()
    np.testing.assert_allclose(result.grid_maps, expected, rtol=1e-4, atol=1e-6)
    cosines = (model.encode_image(pixel_values) @ text_embeds.T)[0].detach().numpy()
    np.testing.assert_allclose(result.cosines, cosines, atol=1e-5)


def test_values_lie_where_their_cells_are(tiny_processor):
    """A cell's value is that of the pixel at its centre; between centres it changes linearly."""
    picture = read_picture(tiny_processor, Image.new("RGB", (128, 128)))
    grid = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    maps = picture.spread(grid)
    cells = maps[0, 15::32, 15::32] / 2 + maps[0, 16::32, 16::32] / 2
    np.testing.assert_allclose(cells[1:3, 1:3], grid[0, 1:3, 1:3], atol=1e-5)
    np.testing.assert_allclose(np.diff(maps[0, 40, 16:112]), 1 / 32, atol=1e-5)
    assert picture.seen_box() == (0, 0, 128, 128) and maps[0, 0, 0] == 0 and maps[0, -1, -1] == 15


def test_a_strip_and_a_padded_picture():
    model = make_tiny_model("vit")
    processor = ClipHFImageProcessor(size=IMAGE_SIZE, crop_size=IMAGE_SIZE)
    strip = read_picture(processor, Image.new("RGB", (3, 400)))
    left, top, right, bottom = strip.seen_box()
    assert (left, right) == (0, 3) and bottom - top == 3
    padded = read_picture(ClipHFImageProcessor(do_resize=False, crop_size=IMAGE_SIZE), Image.new("RGB", (32, 40)))
    assert padded.seen_box() == (0, 0, 32, 40)
    np.testing.assert_array_equal(padded.places(0)[[0, -1]] * 64, [16.5, 47.5])
    assert model.config.vision_config.image_size == IMAGE_SIZE


def rgba() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 4), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["rgba", "path", "bytes", "16 bits", "background", "exif", "palette", "file"])
def test_pictures_are_read_as_the_pipeline_reads_them(kind, tiny_processor, tmp_path):
    image, options = rgba(), {}
    if kind == "path":
        image.save(tmp_path / "x.png")
        image = str(tmp_path / "x.png")
    elif kind == "bytes":
        image = encoded(image, format="PNG")
    elif kind == "file":
        (tmp_path / "x.png").write_bytes(encoded(image, format="PNG"))
        image = (tmp_path / "x.png").open("rb")
    elif kind == "16 bits":
        image = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (50, 70), dtype=np.uint16))
        options = {"high_bit_depth": "scale"}
    elif kind == "background":
        options = {"background_color": "white"}
    elif kind == "exif":
        exif = Image.Exif()
        exif[0x0112] = 6
        image = encoded(image.convert("RGB"), format="PNG", exif=exif)
    elif kind == "palette":
        image = image.convert("RGB").quantize(16)
    picture = read_picture(tiny_processor, image, **options)
    if kind == "file":
        image.close()
        image = str(tmp_path / "x.png")
    expected = tiny_processor(images=image, return_tensors="pt", **options).pixel_values
    assert torch.equal(picture.pixel_values, expected)
    assert picture.image.size == ((50, 70) if kind == "exif" else (70, 50)) and picture.image.mode == "RGB"


def test_templates_and_options(tiny_processor, images):
    model = make_tiny_model("vit")
    plain = explain_image(model, tiny_processor, images[0], ["cat", "dog"])
    prompted = explain_image(model, tiny_processor, images[0], ["cat", "dog"], templates="a photo of a {}")
    written = explain_image(model, tiny_processor, images[0], ["a photo of a cat", "a photo of a dog"])
    np.testing.assert_allclose(prompted.grid_maps, written.grid_maps, rtol=1e-4, atol=1e-6)
    assert not np.allclose(plain.grid_maps, prompted.grid_maps) and prompted.texts == ["cat", "dog"]
    fine = explain_image(model, tiny_processor, images[0], ["cat"], method="occlusion", window=16, stride=8)
    assert fine.grid_maps.shape == (1, 8, 8) and fine.maps.shape == (1, 64, 80)
    maps = relevance(model, tiny_processor, images[0], ["cat", "dog"], method="chefer")
    np.testing.assert_array_equal(maps, plain.maps)


def explained(grid_maps, *, size=(400, 200), cell=None, processor=None) -> ImageExplanation:
    """An explanation of a grey picture whose maps are given; without a processor it is shown whole, as 128 x 64."""
    whole = ClipHFImageProcessor(size=IMAGE_SIZE, do_center_crop=False)
    picture = read_picture(processor or whole, Image.new("RGB", size, "gray"))
    grid_maps = np.asarray(grid_maps, np.float32)
    texts = [f"text {number}" for number in range(len(grid_maps))]
    edges = (picture.cell_edges(0, grid_maps.shape[2], cell), picture.cell_edges(1, grid_maps.shape[1], cell))
    maps, cosines = picture.spread(grid_maps, cell), np.zeros(len(texts), np.float32)
    return ImageExplanation(picture.image, texts, "occlusion", maps, grid_maps, picture.seen_box(), edges, cosines)


@pytest.mark.parametrize("cells", [2, 4])
def test_top_points_are_middles_of_cells_and_mirrored_in_mirrored_pictures(cells):
    grids = np.eye(cells * cells).reshape(-1, cells, cells)
    points = explained(grids).top_points()
    width, height = 400 / cells, 200 / cells
    for number, point in enumerate(points):
        row, column = divmod(number, cells)
        np.testing.assert_allclose(np.add(point, 0.5), [(column + 0.5) * width, (row + 0.5) * height], atol=0.51)
    assert explained(grids[:, :, ::-1]).top_points() == [(399 - x, y) for x, y in points]
    assert explained(grids[:, ::-1]).top_points() == [(x, 199 - y) for x, y in points]


def test_a_top_point_lies_in_what_was_seen():
    # Three cells of 50 pixels of the 128, so that the last one is cut: 100 to 128 of 128 are 312.5 to 400 of 400.
    assert explained([[[0, 0, 1]]], cell=50).top_points() == [(356, 78)]
    # A crop of 64 around 32 x 40 pixels: outside of 16 to 48 there are zeros.
    padding = ClipHFImageProcessor(do_resize=False, crop_size=IMAGE_SIZE)
    grid = [[[9, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]
    assert explained(grid, size=(32, 40), processor=padding).top_points() == [(23, 12)]


def test_a_map_without_a_positive_value_has_no_top_point():
    result = explained([[[0, 0]], [[-2, -1]], [[-1, 2]]])
    assert result.top_points()[:2] == [None, None] and result.top_points()[2] is not None


def test_top_points_and_arrays(tiny_processor, images, tmp_path):
    result = explain_image(make_tiny_model("vit"), tiny_processor, images[2], TEXTS)
    for (x, y), values in zip(result.top_points(), result.maps, strict=True):
        # Half a pixel beside the centre of the cell at most, in both directions.
        steps = sum(np.nanmax(np.abs(np.diff(values, axis=axis))) for axis in (0, 1))
        assert values[y, x] >= np.nanmax(values) - steps
    result.save_arrays(tmp_path / "maps.npz")
    with np.load(tmp_path / "maps.npz") as stored:
        np.testing.assert_array_equal(stored["maps"], result.maps)
        np.testing.assert_array_equal(stored["grid_maps"], result.grid_maps)
        assert stored["texts"].tolist() == TEXTS and tuple(stored["seen_box"]) == result.seen_box
        assert str(stored["method"]) == "chefer" and stored["cosines"].shape == (2,)
    assert [path.name for path in tmp_path.iterdir()] == ["maps.npz"]
    with pytest.raises(IsADirectoryError):
        result.save_arrays(tmp_path)


def test_a_drawing_shows_the_hot_place_and_shades_the_unseen():
    """One panel is the picture, one each map; the hot half has the scale's last colour, the cold one its first."""
    maps = np.full((2, 60, 120), np.nan, np.float32)
    maps[:, :, 30:90] = 0
    maps[0, :, 30:60] = 1.0
    maps[1, :, 30:60] = 0.5
    drawing = draw_heat(Image.new("RGB", (120, 60), "white"), maps, ["hot $x", "<b>\x1b"], (30, 0, 90, 60), "Test")
    pixels = np.asarray(drawing).astype(int)
    assert drawing.mode == "RGB" and drawing.width > 700
    redness = pixels[..., 0] - pixels[..., 2]
    columns = np.flatnonzero((redness > 60).sum(axis=0) > 40)
    assert len(columns)
    grey = (np.ptp(pixels, axis=2) < 8) & (pixels[..., 0] > 120) & (pixels[..., 0] < 200)
    assert grey.sum() > 3 * 2 * 1000  # both sides of three panels


@pytest.mark.parametrize("size", [(2000, 200), (200, 2000), (400, 200), (200, 200)])
def test_a_drawing_of_a_long_picture_shows_what_was_seen_large_and_has_no_blank_between(size):
    edge, (width, height) = 200, size
    left, top = (width - edge) // 2, (height - edge) // 2
    maps = np.full((1, height, width), np.nan, np.float32)
    maps[:, top : top + edge, left : left + edge] = 1
    box = (left, top, left + edge, top + edge)
    pixels = np.asarray(draw_heat(Image.new("RGB", size, "white"), maps, ["a"], box, "Test")).astype(int)
    panels = pixels[:, : pixels.shape[1] * 4 // 5]  # without the legend
    red = (panels[..., 0] - panels[..., 1] > 60).any(axis=0).sum()
    assert red > 140  # 28 before it was enlarged
    inked = np.flatnonzero((panels < 250).any(axis=(1, 2)))
    assert np.diff(inked).max() < 50 and pixels.shape[0] - inked[-1] < 100


def test_titles_of_texts_that_differ_at_the_end_differ():
    """Long texts differ in a drawing wherever they do in words that fit into two lines, or at the ends."""
    maps, image = np.zeros((1, 40, 40), np.float32), Image.new("RGB", (40, 40))
    beginning = "hand with fingers splayed: "
    drawings = [
        np.asarray(draw_heat(image, maps, [title], (0, 0, 40, 40), "Test"))
        for title in (beginning + "dark skin tone", beginning + "medium-light skin tone", "x" * 200, "x" * 199 + "y")
    ]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(drawings, 2))


def test_two_maps_share_one_scale():
    maps = np.stack([np.full((40, 40), 1.0), np.full((40, 40), 0.1)]).astype(np.float32)
    together = np.asarray(draw_heat(Image.new("RGB", (40, 40)), maps, ["a", "b"], (0, 0, 40, 40), "Test"))
    height, width = together.shape[:2]
    # The middles of the second and the third panel.
    hot, cool = (together[height * 2 // 3, int(width * share)].astype(int) for share in (0.42, 0.7))
    assert np.abs(hot - cool).sum() > 60


def test_a_drawing_says_where_nothing_speaks_for_a_text(monkeypatch):
    titles, units = [], []

    def note(image, maps, names, box, label, unit):
        titles.extend(names)
        units.append(unit)

    monkeypatch.setattr(image_explanation, "draw_heat", note)
    explained([[[0, -1]], [[0, 1]]]).draw()
    assert units == ["drop of the cosine"] and UNITS.keys() == METHODS.keys()
    assert titles == ["text 0\ncosine 0.000\nnothing speaks for it", "text 1\ncosine 0.000"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_drawn(method, tower, tiny_processor, images, undrawn_plots):
    result = explain_image(make_tiny_model(tower), tiny_processor, images[3], TEXTS[:1], method=method)
    assert result.method == method and result.draw().mode == "RGB"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"texts": []}, ValueError, "There are no labels"),
        ({"texts": "a cat"}, TypeError, "must be a list of strings, not one string"),
        ({"texts": ["a", "a"]}, ValueError, "must differ"),
        ({"texts": ["cat " * 40]}, ValueError, r"has 42 tokens and the model takes 24\. Shorten it"),
        ({"method": "gradcam"}, ValueError, "Did you mean 'grad_cam'"),
        ({"layers": 9}, ValueError, "`layers` is 9; .* 1 to 3 in this model"),
        ({"image": b"no picture"}, UnreadableImage, "not an image|cannot|identif|format"),
        ({"image": "nowhere.png"}, UnreadableImage, "nowhere.png"),
        ({"image": np.zeros((8, 8, 3), np.uint8)}, TypeError, r"pass PIL.Image.fromarray\(array\)"),
        ({"image": 7}, TypeError, "expected a PIL image"),
        ({"processor": object()}, TypeError, "`processor` is an object; explanations need a ClipHFProcessor"),
        ({"frobnicate": 1}, TypeError, "frobnicate"),
    ],
)
def test_bad_input(change, error, message, tiny_processor, images):
    given = {"model": make_tiny_model("vit"), "processor": tiny_processor, "image": images[0], "texts": TEXTS}
    with pytest.raises(error, match=message):
        explain_image(**given | change)


def test_transformers_clip_is_refused(tiny_processor, images):
    with pytest.raises(TypeError, match="`model` is a CLIPModel; "):
        explain_image(as_transformers_clip(make_tiny_model("vit")), tiny_processor, images[0], TEXTS)


def test_a_16_bit_picture_is_refused_as_the_pipeline_refuses_it(tiny_processor):
    deep = Image.fromarray(np.linspace(0, 65535, 4096, dtype=np.uint16).reshape(64, 64))
    with pytest.raises(UnreadableImage, match="high_bit_depth='scale'"):
        explain_image(make_tiny_model("vit"), tiny_processor, deep, TEXTS)


def test_what_a_vit_leaves_out_is_not_explained(tiny_tokenizer, images):
    """Resized to 126 x 64 and not cropped: 7 patches of 16 pixels end at 112. The gradient shows what is seen."""
    processor = ClipHFProcessor(ClipHFImageProcessor(size=IMAGE_SIZE, do_center_crop=False), tiny_tokenizer)
    model = make_tiny_model("vit")
    pixel_values = processor(images=images[2], return_tensors="pt").pixel_values.requires_grad_()
    embeds = model.encode_image(pixel_values, interpolate_pos_encoding=True)
    (slopes,) = torch.autograd.grad(embeds[0, 0], pixel_values)
    assert int(slopes.abs().sum((0, 1, 2)).nonzero().max()) == 111 and pixel_values.shape[3] == 126
    result = explain_image(model, processor, images[2], TEXTS)
    assert result.grid_maps.shape == (2, 4, 7) and result.seen_box == (0, 0, round(200 * 112 / 126), 101)
    assert np.isfinite(result.maps[..., :178]).all() and np.isnan(result.maps[..., 178:]).all()


@pytest.mark.parametrize("options", [{}, {"method": "occlusion", "stride": 9}])
def test_cells_that_do_not_fill_the_crop_lie_where_they_are(options, tower, tiny_tokenizer, images):
    processor = ClipHFProcessor(ClipHFImageProcessor(size=IMAGE_SIZE, do_center_crop=False), tiny_tokenizer)
    result = explain_image(make_tiny_model(tower), processor, images[2], TEXTS, **options)
    cell = options.get("stride", {"vit": 16, "resnet": 32}[tower])
    for column in range(112 // cell):
        x, y = ((column + 0.5) * cell * 200 / 126, 0.5 * cell * 101 / 64)  # the picture is 200 x 101
        expected = result.grid_maps[:, 0, column]
        found = result.maps[:, int(y), int(x)]
        # Half a pixel beside the centre at most, in both directions.
        steps = (
            np.abs(np.diff(result.maps[..., :177], axis=2)).max()
            + np.abs(np.diff(result.maps[..., :177], axis=1)).max()
        )
        np.testing.assert_allclose(found, expected, atol=steps)
    spread_over_all = read_picture(processor, images[2]).spread(result.grid_maps)
    assert not np.allclose(spread_over_all[..., :177], result.maps[..., :177])


def test_a_strip_whose_crop_lies_within_one_pixel():
    processor = ClipHFImageProcessor(size=256, crop_size=224)
    for length in (400, 401):
        picture = read_picture(processor, Image.new("RGB", (1, length)))
        left, top, right, bottom = picture.seen_box()
        assert (left, right, bottom - top) == (0, 1, 1) and abs(top - length / 2) <= 1
        maps = picture.spread(np.ones((1, 7, 7), np.float32))
        assert np.isfinite(maps).sum() == 1
