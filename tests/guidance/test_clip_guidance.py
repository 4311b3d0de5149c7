# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The loss that guides pictures: against formulas in float64, finite differences and the processor's own pixels."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from clip_hf import ClipHFImageProcessor, ClipHFProcessor
from clip_hf.guidance import ClipGuidance, CutOuts, DifferentiablePreprocessing, spherical_distance
from tiny_models import CAPTIONS, make_tiny_model


def plain_spherical_distance(a, b):
    """`2 * asin(|u - v| / 2)^2` of the unit vectors, in float64."""
    u, v = (x.double() / x.double().pow(2).sum(-1, keepdim=True).sqrt() for x in (a, b))
    return 2 * torch.asin((u - v).pow(2).sum(-1).sqrt() / 2) ** 2


def finite_differences(function, x, places, step=1e-6):
    """Central differences of a scalar function at flat indices of `x`, in float64."""
    result = []
    for place in places:
        ends = []
        for sign in (1, -1):
            moved = x.detach().clone()
            moved.view(-1)[place] += sign * step
            ends.append(float(function(moved)))
        result.append((ends[0] - ends[1]) / (2 * step))
    return torch.tensor(result, dtype=torch.float64)


@pytest.fixture
def pictures():
    """Smooth pictures (2, 3, 48, 80) in float64, well inside 0 to 1."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(2, 3, 6, 10, generator=generator, dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(coarse, size=(48, 80), mode="bilinear")
    return 0.2 + 0.6 * smooth


# -------------------------------------------------------------------------------------------------- spherical distance


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_spherical_distance_is_the_formula(dtype):
    a, b = torch.randn(7, 1, 5).to(dtype), 3 * torch.randn(4, 5).to(dtype)
    found = spherical_distance(a, b)
    assert found.shape == (7, 4)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(
        found.double(), plain_spherical_distance(a, b), rtol=1e-12 if dtype.itemsize == 8 else 3e-6, atol=1e-6
    )


def test_spherical_distance_by_hand():
    a, b = torch.tensor([[1.0, 0], [1, 0], [1, 0], [2, 2]]), torch.tensor([[0.0, 3], [2, 0], [-1, 0], [1, 0]])
    expected = [math.pi**2 / 8, 0, math.pi**2 / 2, math.pi**2 / 32]
    assert spherical_distance(a, b).tolist() == pytest.approx(expected, abs=1e-6)


def test_gradient_of_the_spherical_distance():
    a, b = (torch.randn(3, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(spherical_distance, (a, b))
    expected = torch.autograd.grad(plain_spherical_distance(a, b).sum(), a)[0]
    torch.testing.assert_close(torch.autograd.grad(spherical_distance(a, b).sum(), a)[0], expected)


def test_gradient_is_finite_where_vectors_agree_or_are_opposite():
    a = torch.tensor([[1.0, 2, 3], [1, 2, 3]], requires_grad=True)
    b = torch.tensor([[1.0, 2, 3], [-1, -2, -3]])
    (gradient,) = torch.autograd.grad(spherical_distance(a, b).sum(), a)
    assert bool(gradient.isfinite().all())


def test_vectors_of_two_widths_are_refused():
    with pytest.raises(ValueError, match=r"shapes \(2, 3\) and \(2, 4\)"):
        spherical_distance(torch.ones(2, 3), torch.ones(2, 4))


# ------------------------------------------------------------------------------------------------------- preprocessing


@pytest.mark.parametrize("size", [(64, 64), (80, 64), (200, 101), (37, 90), (130, 131), (40, 40)])
@pytest.mark.parametrize("resample", [2, 3])
def test_pixels_are_the_processors(size, resample, images):
    image_processor = ClipHFImageProcessor(size=64, crop_size=64, resample=resample)
    image = next(image for image in images if image.size != size).resize(size, Image.Resampling.BICUBIC)
    picture = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].double() / 255
    found = DifferentiablePreprocessing(image_processor)(picture)
    expected = image_processor(image, return_tensors="pt").pixel_values
    assert found.shape == expected.shape
    # In steps of 8 bits: Pillow rounds twice, and the largest weights of a bicubic pass sum up to 1.25.
    steps = (found - expected).abs() * torch.tensor(image_processor.image_std).view(3, 1, 1) * 255
    assert steps.max() < (1e-3 if size == (64, 64) else 1.3)
    assert steps.mean() < 0.45


@pytest.mark.parametrize(
    "options",
    [
        {"size": 64, "crop_size": 40},
        {"size": 30, "crop_size": 64},  # padded with black
        {"size": {"height": 50, "width": 60}, "do_center_crop": False},
        {"do_resize": False, "crop_size": 64},
        {"size": 64, "crop_size": 64, "do_normalize": False},
        {"size": 64, "crop_size": 64, "rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 1.0},
    ],
)
def test_every_option_of_the_processor(options, images):
    image_processor = ClipHFImageProcessor(**options)
    picture = torch.from_numpy(np.array(images[2])).permute(2, 0, 1)[None].double() / 255
    found = DifferentiablePreprocessing(image_processor)(picture)
    expected = image_processor(images[2], return_tensors="pt").pixel_values.double()
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 0.01 * (expected.max() - expected.min())


def test_gradient_of_the_preprocessing(pictures):
    preprocess = DifferentiablePreprocessing(ClipHFImageProcessor(size=16, crop_size=16))
    weights = torch.randn(2, 3, 16, 16, dtype=torch.float64)

    def function(x):
        return (preprocess(x) * weights).sum()

    x = pictures.requires_grad_()
    (gradient,) = torch.autograd.grad(function(x), x)
    places = [40, 5000, 7777, 11000, 20000]
    torch.testing.assert_close(
        gradient.view(-1)[places], finite_differences(function, x, places), rtol=1e-6, atol=1e-8
    )
    assert (gradient != 0).any(dim=1).sum() > 1000


def test_what_has_no_gradient_is_refused():
    with pytest.raises(ValueError, match="resizes with LANCZOS"):
        DifferentiablePreprocessing(ClipHFImageProcessor(resample=1))
    with pytest.raises(TypeError, match="ClipHFImageProcessor, not"):
        DifferentiablePreprocessing("openai")


@pytest.mark.parametrize(
    ("pictures", "error", "message"),
    [
        (torch.rand(3, 8, 8), ValueError, r"shape \(3, 8, 8\)"),
        (torch.rand(1, 4, 8, 8), ValueError, r"shape \(1, 4, 8, 8\)"),
        (torch.rand(0, 3, 8, 8), ValueError, "shape"),
        (torch.rand(1, 3, 8, 8) * 2 - 1, ValueError, r"from -0\.9.*must be from 0 to 1"),
        (torch.full((1, 3, 8, 8), torch.nan), ValueError, "from nan to nan"),
        (torch.ones(1, 3, 8, 8, dtype=torch.uint8), TypeError, "torch.uint8"),
        ([1], TypeError, "must be a tensor of floats"),
    ],
)
def test_bad_pictures(pictures, error, message, tiny_processor):
    preprocess = DifferentiablePreprocessing(tiny_processor.image_processor)
    for function in (preprocess, CutOuts(64)):
        with pytest.raises(error, match=message):
            function(pictures)


# ------------------------------------------------------------------------------------------------------------ cut-outs


def test_cut_outs_are_seeded(pictures):
    first, second, other = CutOuts(16, 5, seed=1), CutOuts(16, 5, seed=1), CutOuts(16, 5, seed=2)
    parts = first(pictures)
    assert parts.shape == (5, 2, 3, 16, 16)
    assert torch.equal(parts, second(pictures))
    assert not torch.equal(parts, other(pictures))
    again = first(pictures)
    assert not torch.equal(parts, again)
    assert torch.equal(again, second(pictures))


def test_cut_outs_are_parts_of_the_picture():
    """A picture whose colours are its places: each cut-out is a square of at least `min_size` pixels inside it."""
    height, width = 40, 60
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    picture = torch.stack([rows, columns, rows * 0])[None]
    sides = []
    for part in CutOuts(8, 200, min_size=10)(picture)[:, 0]:
        tall = float(part[0, -1, 0] - part[0, 0, 0]) * (height - 1) * 8 / 7
        wide = float(part[1, 0, -1] - part[1, 0, 0]) * (width - 1) * 8 / 7
        assert tall == pytest.approx(wide, rel=0.1)
        sides.append(tall)
    assert 8 < min(sides) < 13
    assert 36 < max(sides) < 42
    small = CutOuts(8, 200, min_size=10, power=4)(picture)[:, 0, 0]
    assert (small[:, -1, 0] - small[:, 0, 0]).mean() * (height - 1) * 8 / 7 < sum(sides) / 200 - 5


@pytest.mark.parametrize("augment", [False, True])
def test_gradient_of_the_cut_outs(pictures, augment):
    weights = torch.randn(3, 2, 3, 12, 12, dtype=torch.float64)

    def function(x):
        return (CutOuts(12, 3, augment=augment, seed=4)(x) * weights).sum()

    x = pictures.requires_grad_()
    (gradient,) = torch.autograd.grad(function(x), x)
    places = gradient.abs().view(-1).topk(6).indices.tolist()
    torch.testing.assert_close(
        gradient.view(-1)[places], finite_differences(function, x, places), rtol=1e-5, atol=1e-7
    )


def test_augmented_cut_outs_differ_from_plain_ones_and_stay_in_range(pictures):
    plain, augmented = CutOuts(16, 8)(pictures), CutOuts(16, 8, augment=True)(pictures)
    assert augmented.shape == plain.shape
    assert 0 <= augmented.min() <= augmented.max() <= 1
    assert (augmented - plain).abs().mean() > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "`size` is 0"),
        ({"size": -4}, "`size` is -4"),
        ({"size": 8.0}, "`size` is 8.0"),
        ({"size": 8, "num": 0}, "`num` is 0"),
        ({"size": 8, "min_size": -1}, "`min_size` is -1"),
        ({"size": 8, "power": 0}, "`power` is 0"),
        ({"size": 8, "power": math.nan}, "`power` is nan"),
    ],
)
def test_bad_cut_outs(options, message):
    with pytest.raises(ValueError, match=message):
        CutOuts(**options)


# ------------------------------------------------------------------------------------------------------------ guidance


def test_loss_is_the_weighted_mean_of_its_formula(tiny_model, tiny_processor, images, pictures):
    model = tiny_model.double()
    texts = {CAPTIONS[0]: 2.0, CAPTIONS[1]: -0.5}
    guidance = ClipGuidance(model, tiny_processor, texts, [(images[0], 0.25)], cut_outs=CutOuts(64, 3, seed=5))
    found = guidance(pictures.float())
    inputs = tiny_processor(text=list(texts), images=images[0], return_tensors="pt")
    targets = torch.cat([model.encode_text(inputs.input_ids), model.encode_image(inputs.pixel_values.double())])
    mean, std = (
        torch.tensor(each, dtype=torch.float64).view(3, 1, 1)
        for each in (tiny_processor.image_processor.image_mean, tiny_processor.image_processor.image_std)
    )
    expected = torch.zeros(2, dtype=torch.float64)
    for part in CutOuts(64, 3, seed=5)(pictures.float()):
        embeds = model.encode_image((part.double() - mean) / std)
        for target, weight in zip(targets, (2.0, -0.5, 0.25), strict=True):
            expected += weight * plain_spherical_distance(embeds, target) / 3 / 2.75
    assert found.shape == (2,)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("whole", [False, True])
def test_gradient_of_the_loss(tiny_model, tiny_processor, pictures, whole):
    guidance = ClipGuidance(tiny_model.double(), tiny_processor, CAPTIONS[:2], whole=whole)

    def function(x):
        if not whole:
            guidance.cut_outs = CutOuts(64, 2, seed=6)
        return guidance(x).sum()

    x = pictures.requires_grad_()
    (gradient,) = torch.autograd.grad(function(x), x)
    places = gradient.abs().view(-1).topk(4).indices.tolist()
    expected = finite_differences(function, x, places, step=1e-5)
    torch.testing.assert_close(gradient.view(-1)[places], expected, rtol=1e-4, atol=1e-9)


def test_the_callers_model_stays_as_it_is(tiny_model, tiny_processor, pictures):
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    tiny_model.train()
    guidance = ClipGuidance(tiny_model, tiny_processor, ["a cat"], cut_outs=CutOuts(64, 2))
    guidance(pictures.float().requires_grad_()).sum().backward()
    assert tiny_model.training
    assert all(weight.requires_grad and weight.grad is None for weight in tiny_model.parameters())
    assert all(torch.equal(before[name], value) for name, value in tiny_model.state_dict().items())
    shared = zip(tiny_model.parameters(), guidance.model.parameters(), strict=True)
    assert all(one.data_ptr() == other.data_ptr() for one, other in shared)


def test_descent_raises_the_cosine(tiny_model, tiny_processor):
    guidance = ClipGuidance(tiny_model, tiny_processor, [CAPTIONS[0]], cut_outs=CutOuts(64, 4))
    logits = torch.randn(1, 3, 9, 9).repeat_interleave(8, 2).repeat_interleave(8, 3).requires_grad_()
    held_out = ClipGuidance(tiny_model, tiny_processor, [CAPTIONS[0]], cut_outs=CutOuts(64, 16, seed=99))
    with torch.no_grad():
        cosine, loss = float(guidance.cosines(logits.sigmoid())[0, 0]), float(held_out(logits.sigmoid()))
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(15):
        optimizer.zero_grad()
        guidance(logits.sigmoid()).sum().backward()
        optimizer.step()
    with torch.no_grad():
        assert float(guidance.cosines(logits.sigmoid())[0, 0]) > cosine + 0.05
        assert float(held_out(logits.sigmoid())) < loss - 0.05


@pytest.mark.parametrize("tower", ["visual", "text"])
def test_a_model_that_gives_nan_is_named(tower, tiny_processor, pictures):
    model = make_tiny_model("vit")
    torch.nn.init.constant_(model.get_parameter(f"{tower}_projection.weight"), math.nan)
    model.name_or_path = "my/broken"
    with pytest.raises(FloatingPointError, match="The model my/broken gives NaN"):
        guidance = ClipGuidance(model, tiny_processor, ["a cat"], cut_outs=CutOuts(64, 1))
        assert tower == "visual"
        guidance(pictures)


def test_built_in_inference_mode(tiny_processor, images, pictures):
    model = make_tiny_model("vit")
    with torch.inference_mode():
        guidance = ClipGuidance(model, tiny_processor, {"a cat": 2.0}, images[:1], cut_outs=CutOuts(64, 2))
        loaded_inside = make_tiny_model("vit")
    expected = ClipGuidance(model, tiny_processor, {"a cat": 2.0}, images[:1], cut_outs=CutOuts(64, 2))
    gradients = []
    for each in (guidance, expected):
        x = pictures.float().requires_grad_()
        gradients += torch.autograd.grad(each(x).sum(), x)
    torch.testing.assert_close(*gradients)
    with pytest.raises(ValueError, match="loaded inside `torch.inference_mode"):
        ClipGuidance(loaded_inside, tiny_processor, ["a cat"])


def test_compiled_and_offloaded_models(tiny_processor, pictures):
    model = make_tiny_model("vit")
    expected = ClipGuidance(model, tiny_processor, ["a cat"], whole=True)(pictures)
    assert torch.equal(ClipGuidance(torch.compile(model), tiny_processor, ["a cat"], whole=True)(pictures), expected)
    with pytest.raises(ValueError, match="`model` are offloaded; load it whole"):
        ClipGuidance(model.to("meta"), tiny_processor, ["a cat"])


def test_a_processor_that_is_not_square(tiny_model, tiny_processor, pictures):
    image_processor = ClipHFImageProcessor(size={"height": 96, "width": 64}, do_center_crop=False)
    processor = ClipHFProcessor(image_processor, tiny_processor.tokenizer)
    guidance = ClipGuidance(tiny_model, processor, ["a cat"], whole=True)
    pixel_values = guidance.preprocess(pictures.float())
    assert pixel_values.shape == (2, 3, 96, 64)
    expected = tiny_model.encode_image(pixel_values, interpolate_pos_encoding=True) @ guidance.targets.T
    torch.testing.assert_close(guidance.cosines(pictures.float()), expected)


def test_half_precision(tiny_model, tiny_processor, pictures):
    full = ClipGuidance(tiny_model, tiny_processor, ["a cat"], whole=True)(pictures)
    half = ClipGuidance(tiny_model.to(torch.bfloat16), tiny_processor, ["a cat"], whole=True)(pictures.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full.float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (((), ()), {}, ValueError, "There is no target"),
        ((["a cat", " "],), {}, ValueError, "text is empty"),
        ((["a cat " * 30],), {}, ValueError, "62 tokens, but at most 24 fit"),
        (([3],), {}, TypeError, "text must be a string, not"),
        (("a cat",), {}, TypeError, "`texts` must be a list"),
        (({"a cat": 0},), {}, ValueError, "weight of the text 'a cat' is 0"),
        (({"a cat": math.nan},), {}, ValueError, "is nan"),
        (([("a cat", "big")],), {}, ValueError, "'big'"),
        ((["a cat"],), {"cut_outs": CutOuts(32)}, ValueError, r"give CutOuts\(64\)"),
        ((["a cat"],), {"cut_outs": CutOuts(64), "whole": True}, ValueError, "leave `cut_outs` out"),
        (((), ["no such file.png"]), {}, ValueError, "no such file"),
    ],
)
def test_bad_targets(arguments, options, error, message, tiny_processor):
    with pytest.raises(error, match=message):
        ClipGuidance(make_tiny_model("vit"), tiny_processor, *arguments, **options)


def test_other_models_and_processors(tiny_processor):
    with pytest.raises(TypeError, match="ClipHFModel.from_pretrained"):
        ClipGuidance(torch.nn.Linear(2, 2), tiny_processor, ["a cat"])
    with pytest.raises(TypeError, match="ClipHFProcessor.from_pretrained"):
        ClipGuidance(make_tiny_model("vit"), tiny_processor.tokenizer, ["a cat"])
    assert isinstance(tiny_processor, ClipHFProcessor)
