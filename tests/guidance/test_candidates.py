# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Choosing among pictures: order by the plain cosine, heads of LAION's shapes from both kinds of file, bad files."""

import os

import pytest
import torch
from safetensors.torch import save_file

from clip_hf import ClipHFImageProcessor, ClipHFProcessor
from clip_hf.guidance import LinearHead, load_linear_head, rerank, score_images
from tiny_models import CAPTIONS, make_tiny_model


def broken(model, weight):
    """The model with NaN in a weight, under a name."""
    torch.nn.init.constant_(model.get_parameter(weight), torch.nan)
    model.name_or_path = "my/broken"
    return model


def linear_state(width=16):
    return {"weight": torch.randn(1, width), "bias": torch.randn(1)}


def mlp_state(width=16):
    """The names of LAION's second predictor: dropout has the numbers between."""
    widths, numbers = (width, 12, 8, 6, 4, 1), (0, 2, 4, 6, 7)
    return {
        f"layers.{number}.{name}": value
        for number, n_in, n_out in zip(numbers, widths[:-1], widths[1:], strict=True)
        for name, value in (("weight", torch.randn(n_out, n_in)), ("bias", torch.randn(n_out)))
    }


STATES = {"linear": linear_state, "mlp": mlp_state}


def write(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def test_rerank_is_the_order_of_plain_cosines(tiny_model, tiny_processor, images):
    found = rerank(images, CAPTIONS[2], tiny_model.train(), tiny_processor, batch_size=2)
    tiny_model.eval()
    inputs = tiny_processor(text=CAPTIONS[2], images=images, return_tensors="pt")
    with torch.no_grad():
        a = tiny_model.get_image_features(inputs.pixel_values).pooler_output.double()
        b = tiny_model.get_text_features(inputs.input_ids).pooler_output.double()
    cosines = torch.nn.functional.cosine_similarity(a, b)
    assert found.scores == pytest.approx(cosines.tolist(), abs=1e-5)
    assert found.order == sorted(range(len(images)), key=lambda i: -cosines[i])
    assert max(found.scores) - min(found.scores) > 1e-3


def test_equal_candidates_keep_their_order(tiny_processor, images):
    found = rerank([images[0]] * 3, "a cat", make_tiny_model("vit"), tiny_processor)
    assert found.order == [0, 1, 2]


@pytest.mark.parametrize(
    ("candidates", "text", "options", "error", "message"),
    [
        ([], "a cat", {}, ValueError, "at least one image"),
        ("picture.png", "a cat", {}, ValueError, "a list of at least one image"),
        (["picture.png"], "a cat", {}, ValueError, "picture.png"),
        (["a"], "  ", {}, ValueError, "text is empty"),
        (["a"], None, {}, TypeError, "must be a string"),
        (["a"], "a cat", {"batch_size": -1}, ValueError, "`batch_size` is -1"),
    ],
)
def test_bad_candidates(candidates, text, options, error, message, tiny_processor):
    with pytest.raises(error, match=message):
        rerank(candidates, text, make_tiny_model("vit"), tiny_processor, **options)


@pytest.mark.parametrize("weight", ["visual_projection.weight", "text_projection.weight"])
def test_a_model_that_gives_nan_is_named(weight, tiny_processor, images):
    with pytest.raises(FloatingPointError, match="The model my/broken gives NaN"):
        rerank(images[:2], "a cat", broken(make_tiny_model("vit"), weight), tiny_processor)


def test_compiled_and_offloaded_judges(tiny_processor, images):
    model = make_tiny_model("vit")
    expected = rerank(images[:2], "a cat", model, tiny_processor)
    assert rerank(images[:2], "a cat", torch.compile(model), tiny_processor) == expected
    with pytest.raises(ValueError, match="`model` are offloaded"):
        rerank(images[:2], "a cat", model.to("meta"), tiny_processor)


@pytest.mark.parametrize("size", [{"height": 96, "width": 64}, {"height": 32, "width": 48}])
def test_a_processor_of_another_size(size, tiny_model, tiny_processor, images):
    image_processor = ClipHFImageProcessor(size=size, do_center_crop=False)
    processor = ClipHFProcessor(image_processor, tiny_processor.tokenizer)
    found = rerank(images[:2], "a cat", tiny_model, processor)
    inputs = processor(text="a cat", images=images[:2], return_tensors="pt")
    with torch.no_grad():
        embeds = tiny_model.encode_image(inputs.pixel_values, interpolate_pos_encoding=True)
        expected = embeds @ tiny_model.encode_text(inputs.input_ids)[0]
    assert found.scores == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.parametrize("kind", STATES)
def test_heads_of_both_shapes_and_files(kind, ending, tmp_path, tiny_processor, images):
    state = STATES[kind]()
    head = load_linear_head(write(state, tmp_path / f"head.{ending}"))
    assert isinstance(head, LinearHead)
    assert head.width == 16
    model = make_tiny_model("vit")
    found = score_images(images, head, model, tiny_processor, batch_size=2)
    pixel_values = tiny_processor(images=images, return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = model.encode_image(pixel_values).double()
    for name in [name for name in state if name.endswith("weight")]:
        expected = expected @ state[name].double().T + state[name.replace("weight", "bias")].double()
    torch.testing.assert_close(found.double(), expected[:, 0], rtol=1e-4, atol=1e-5)


def test_a_head_in_half_precision_with_a_prefix_and_without_bias(tmp_path):
    weight = torch.randn(1, 16).half()
    head = load_linear_head(write({"module.head.weight": weight}, tmp_path / "head.safetensors"))
    embeds = torch.randn(3, 16, requires_grad=True)
    torch.testing.assert_close(head(embeds), embeds @ weight.float()[0])
    assert torch.autograd.grad(head(embeds).sum(), embeds)[0].abs().sum() > 0


def test_a_head_of_another_width(tmp_path, tiny_processor):
    head = load_linear_head(write(linear_state(768), tmp_path / "head.pth"))
    with pytest.raises(ValueError, match="width 768, not of shape .*another CLIP"):
        score_images(["not read"], head, make_tiny_model("vit"), tiny_processor)


def test_heads_in_memory(tiny_processor, images):
    model, layer = make_tiny_model("vit"), torch.nn.Linear(16, 1)
    with pytest.raises(TypeError, match=r"must be a LinearHead, not a Linear: `load_linear_head"):
        score_images(images[:2], layer, model, tiny_processor)
    scores = score_images(images[:2], LinearHead(layer), model, tiny_processor)
    assert scores.shape == (2,)
    assert not scores.requires_grad
    with pytest.raises(ValueError, match="The head has 2 outputs"):
        score_images(images[:2], LinearHead(torch.nn.Linear(16, 2)), model, tiny_processor)


def test_a_head_loaded_in_inference_mode_has_a_gradient(tmp_path):
    path = write(linear_state(), tmp_path / "head.safetensors")
    with torch.inference_mode():
        head = load_linear_head(path)
    embeds = torch.randn(3, 16, requires_grad=True)
    head(embeds).sum().backward()
    torch.testing.assert_close(embeds.grad, head[0].weight.expand(3, 16))


class Malicious:
    """Runs a program when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    torch.save({"weight": torch.ones(1, 4), "bias": Malicious(tmp_path / "ran")}, tmp_path / "head.pth")
    with pytest.raises(ValueError, match="could run code"):
        load_linear_head(tmp_path / "head.pth")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "head.pth", weights_only=False)
    assert (tmp_path / "ran").exists()  # it would have


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.full((1, 4), torch.nan)}, "NaN or infinite values in weight"),
        ({"weight": torch.ones(2, 4)}, "has 2 outputs"),
        ({"bias": torch.ones(1)}, "do not follow on each other"),
        ({"weight": torch.ones(1, 4), "bias": torch.ones(2)}, "do not follow on each other"),
        (mlp_state() | {"layers.2.weight": torch.ones(8, 11)}, "do not follow on each other"),
        ({"a.weight": torch.ones(1, 4), "b.weight": torch.ones(1, 4)}, "two layers have the same number"),
        ({"weight": torch.ones(4)}, r"weight of shape \(4,\) has no place"),
        ({"conv.kernel": torch.ones(1, 4)}, "conv.kernel of shape"),
        ({"weight": torch.ones(1, 0)}, r"weight of shape \(1, 0\) has no place"),
        ({"weight": torch.ones(1, 4, dtype=torch.complex64)}, "no real floats: {'weight': torch.complex64}|types C64"),
        ({"weight": torch.ones(1, 4, dtype=torch.int8)}, "no real floats: {'weight': torch.int8}"),
    ],
)
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_files_that_are_no_head(state, message, ending, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_linear_head(write(state, tmp_path / f"head.{ending}"))


@pytest.mark.parametrize("weight", [torch.ones(1, 4).to_sparse(), torch.ones(1, 4, device="meta")])
def test_weights_without_values_are_refused(weight, tmp_path):
    with pytest.raises(ValueError, match=r"tensors without values \(meta\), or sparse ones: weight"):
        load_linear_head(write({"weight": weight}, tmp_path / "head.pth"))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_layers_between_which_there_may_be_activations_are_refused(count, tmp_path):
    """The weights of a perceptron have the names and shapes of linear layers in sequence."""
    modules = [each for _ in range(count - 1) for each in (torch.nn.Linear(4, 4), torch.nn.ReLU())]
    state = torch.nn.Sequential(*modules, torch.nn.Linear(4, 1)).state_dict()
    with pytest.raises(ValueError, match=f"has {count} linear layers, .*Activations .* cannot be seen.*Build the"):
        load_linear_head(write(state, tmp_path / "head.pth"))


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        load_linear_head(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        load_linear_head(tmp_path)
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="not loaded|not a file of weights"):
        load_linear_head(tmp_path / "bad.pth")
