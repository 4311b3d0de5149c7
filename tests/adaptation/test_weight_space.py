# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Models between models: interpolation, soups and task vectors against plain arithmetic in float64."""

import copy

import pytest
import torch
from transformers.testing_utils import CaptureLogger

from clip_hf import ClipHFForImageClassification
from clip_hf.adaptation import (
    add_task_vectors,
    average_weights,
    greedy_soup,
    interpolate_weights,
    task_vector,
    weight_space,
)
from tiny_models import make_tiny_model, tiny_config


def tune(model, seed: int, size: float = 0.02):
    """A copy whose parameters and BatchNorm statistics moved, as fine-tuning moves them."""
    result, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for name, tensor in result.state_dict().items():
        if tensor.is_floating_point():
            noise = size * torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.mul_(1 + noise.abs().to(tensor.dtype))
            else:
                tensor.add_(noise.to(tensor.dtype))
        elif name.endswith("num_batches_tracked"):
            tensor.add_(3)
    return result


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.double() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def assert_close(model, expected, tolerance=1e-6):
    found = state(model)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.5, -0.5])
def test_interpolated_weights_are_the_weighted_mean(tiny_model, alpha):
    tuned = tune(tiny_model, 1)
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    first, second = state(tiny_model), state(tuned)
    expected = {name: (1 - alpha) * first[name] + alpha * second[name] for name in first}
    result = interpolate_weights(tiny_model, tuned, alpha)
    assert_close(result, expected)
    # The temperature's logarithm is interpolated, so the multiplier is a geometric mean.
    scale = tiny_model.logit_scale.exp() ** (1 - alpha) * tuned.logit_scale.exp() ** alpha
    torch.testing.assert_close(result.logit_scale.exp(), scale)
    assert not result.training
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(tensor, before[name])
        if not tensor.is_floating_point():
            assert torch.equal(result.state_dict()[name], tensor)


def test_the_ends_are_the_models_to_the_last_bit(tiny_model):
    tuned = tune(tiny_model, 1)
    for alpha, end in ((0, tiny_model), (1, tuned)):
        result = interpolate_weights(tiny_model, tuned, alpha).state_dict()
        for name, tensor in end.state_dict().items():
            assert torch.equal(result[name], tensor) or not tensor.is_floating_point()


def test_half_precision_is_computed_in_float32():
    first = make_tiny_model("vit")
    second = tune(first, 1)
    first.to(torch.bfloat16), second.to(torch.bfloat16)
    result = interpolate_weights(first, second, 0.3)
    for name, tensor in result.state_dict().items():
        wide = torch.lerp(first.state_dict()[name].float(), second.state_dict()[name].float(), 0.3)
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, wide.to(torch.bfloat16))
    assert interpolate_weights(first, second.float(), 0.3).logit_scale.dtype == torch.float32
    soup = average_weights([first, second.to(torch.bfloat16), first])
    weight = "text_projection.weight"
    mean = (2 * first.state_dict()[weight].double() + second.state_dict()[weight].double()) / 3
    assert soup.state_dict()[weight].dtype == torch.bfloat16
    torch.testing.assert_close(soup.state_dict()[weight], mean.to(torch.bfloat16), rtol=1e-2, atol=0)


def test_models_by_path_and_classifiers(tmp_path):
    torch.manual_seed(0)
    config = tiny_config("resnet", num_labels=3)
    first = ClipHFForImageClassification(config).eval()
    second = tune(first, 1)
    first.save_pretrained(tmp_path / "a"), second.save_pretrained(tmp_path / "b")
    result = interpolate_weights(str(tmp_path / "a"), tmp_path / "b", 0.5)
    assert isinstance(result, ClipHFForImageClassification)
    assert_close(result, {name: (state(first)[name] + state(second)[name]) / 2 for name in state(first)})
    clip = make_tiny_model("vit")
    clip.save_pretrained(tmp_path / "clip")
    assert_close(interpolate_weights(tmp_path / "clip", tune(clip, 1), 0.0), state(clip))
    with pytest.raises(ValueError, match="b is ClipHFForImageClassification and the second model is ClipHFModel"):
        interpolate_weights(tmp_path / "b", clip, 0.5)


# ------------------------------------------------------------------------------------------------------------ refusals


def test_alpha_beyond_the_models_needs_models_that_are_alike():
    first, stranger = make_tiny_model("vit"), make_tiny_model("vit", seed=1)
    with pytest.raises(
        ValueError, match=r"`alpha` is 1.5, outside 0 to 1, and .* nothing in common.* [12]\.\d\d times"
    ):
        interpolate_weights(first, stranger, 1.5)
    interpolate_weights(first, tune(first, 1), 1.5)
    with CaptureLogger(weight_space.logger) as logged:
        interpolate_weights(first, stranger, 0.5)
    assert "nothing in common" in logged.out
    for alpha in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`alpha` is (nan|inf); it must be finite"):
            interpolate_weights(first, first, alpha)
    with pytest.raises(TypeError, match="`alpha` is str"):
        interpolate_weights(first, first, "0.5")


def test_a_negative_variance_is_refused():
    first = make_tiny_model("resnet")
    tuned = tune(first, 1)
    name = next(key for key in first.state_dict() if key.endswith("running_var"))
    first.state_dict()[name].fill_(1.0), tuned.state_dict()[name].fill_(0.1)
    with pytest.raises(ValueError, match=f"{name} would be negative"):
        interpolate_weights(first, tuned, 1.5)
    with pytest.raises(ValueError, match=f"{name} would be negative"):
        add_task_vectors(first, {task_vector(first, tuned): 2.0})


def test_unlike_models_are_refused_with_the_names():
    vit, resnet = make_tiny_model("vit"), make_tiny_model("resnet")
    with pytest.raises(ValueError, match="the first model is a ViT and the second model is a ResNet"):
        interpolate_weights(vit, resnet, 0.5)
    deep = make_tiny_model("vit")
    deep.text_model.register_buffer("more", torch.zeros(1))
    with pytest.raises(ValueError, match="the second model has 1 weight that the first model lacks: text_model.more"):
        interpolate_weights(vit, deep, 0.5)
    wide = make_tiny_model("vit", projection_dim=24)
    with pytest.raises(ValueError, match=r"differ in shape: text_projection.weight \(\(16, 32\) and \(24, 32\)\)"):
        average_weights([vit, wide])
    config = vit.config.to_dict()
    config["vision_config"]["hidden_act"] = "gelu"
    other = type(vit)(type(vit.config).from_dict(config))
    with pytest.raises(ValueError, match=r"differ: vision_config.hidden_act \('quick_gelu' and 'gelu'\)"):
        interpolate_weights(vit, other, 0.5)
    folded = make_tiny_model("resnet").fold_batch_norm()
    with pytest.raises(ValueError, match="the second model has folded BatchNorm layers"):
        interpolate_weights(resnet, folded, 0.5)


def test_adapters_are_to_be_merged_first(tmp_path):
    peft = pytest.importorskip("peft")
    vit = make_tiny_model("vit")
    adapted = peft.get_peft_model(copy.deepcopy(vit), peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="the second model has LoRA layers .* Merge them .* `merge_lora"):
        interpolate_weights(vit, adapted, 0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="adapter is an adapter, not a model. Merge it"):
        average_weights([vit, tmp_path / "adapter"])


# ------------------------------------------------------------------------------------------------- soups, task vectors


def test_a_uniform_soup_is_the_mean(tiny_model, tmp_path):
    models = [tiny_model, *(tune(tiny_model, seed) for seed in (1, 2))]
    models[2].save_pretrained(tmp_path / "third")
    soup = average_weights([*models[:2], tmp_path / "third"])
    states = [state(model) for model in models]
    assert_close(soup, {name: sum(each[name] for each in states) / 3 for name in states[0]})
    with pytest.raises(ValueError, match="no models to average"):
        average_weights([])


def test_a_greedy_soup_keeps_what_does_not_make_it_worse():
    start = make_tiny_model("vit")
    models = [copy.deepcopy(start) for _ in range(4)]
    # The score is best at 1.0: alone 0.6 (place 1) is best, and 1.2 (place 3) with it is better, 3 and -1 are not.
    for model, value in zip(models, (3.0, 0.6, -1.0, 1.5)):
        model.logit_scale.data.fill_(value)

    def score(model):
        return -abs(float(model.logit_scale.detach()) - 1.0)

    soup = greedy_soup(models, score)
    assert soup.kept == [1, 3]
    assert soup.scores == pytest.approx([-2.0, -0.4, -2.0, -0.5])
    assert soup.score == pytest.approx(-0.05, abs=1e-6) == score(soup.model)
    assert soup.model.logit_scale.item() == pytest.approx(1.05)
    assert [model.logit_scale.item() for model in models] == pytest.approx([3.0, 0.6, -1.0, 1.5])
    # Of equal models all are kept, in the order given.
    assert greedy_soup([start, start, start], lambda model: 1.0).kept == [0, 1, 2]
    with pytest.raises(ValueError, match="the score of model 0` is nan"):
        greedy_soup([start], lambda model: float("nan"))


def test_task_vectors_add_negate_and_scale(tiny_model):
    first, second = tune(tiny_model, 1, 0.01), tune(tiny_model, 2, 0.01)
    vectors = [task_vector(tiny_model, tuned) for tuned in (first, second)]
    base, states = state(tiny_model), [state(first), state(second)]
    expected = {k: base[k] + 0.5 * (states[0][k] - base[k]) - 0.3 * (states[1][k] - base[k]) for k in base}
    assert_close(add_task_vectors(tiny_model, {vectors[0]: 0.5, vectors[1]: -0.3}), expected)
    assert_close(add_task_vectors(tiny_model, {vectors[0]: 1.0}), states[0])
    assert_close(add_task_vectors(tiny_model, {}), base, 0)
    other = task_vector(*(make_tiny_model("vit", projection_dim=24) for _ in range(2)))
    with pytest.raises(ValueError, match="the base|a task vector"):
        add_task_vectors(tiny_model, {other: 1.0})
    with pytest.raises(TypeError, match="A key of `vectors` is str"):
        add_task_vectors(tiny_model, {"model": 1.0})
    for wrong in ([vectors[0]], vectors[0]):
        with pytest.raises(TypeError, match=r"`vectors` is a (list|TaskVector); give each with its weight"):
            add_task_vectors(tiny_model, wrong)


# -------------------------------------------------------------------------------- tied, not finite, of two precisions


def test_tied_weights_are_combined_once():
    first = make_tiny_model("vit")
    first.text_model.again = first.text_projection
    second = tune(first, 1)
    assert second.text_model.again is second.text_projection
    start, end = (each.text_projection.weight.detach().double() for each in (first, second))
    made = {
        0.25: interpolate_weights(first, second, 0.25),
        1 / 3: average_weights([first, second, first]),
        0.5: add_task_vectors(first, {task_vector(first, second): 0.5}),
    }
    for share, model in made.items():
        assert model.text_model.again.weight is model.text_projection.weight
        expected = (1 - share) * start + share * end
        torch.testing.assert_close(model.text_projection.weight.double(), expected, rtol=1e-6, atol=1e-6)


def test_weights_that_are_not_finite_are_refused_with_their_name(tiny_model):
    broken = copy.deepcopy(tiny_model)
    broken.text_projection.weight.data[0, 0] = float("nan")
    message = "has weights that are NaN or infinite: text_projection.weight"
    for alpha in (0.0, 0.5, 2.0):
        with pytest.raises(ValueError, match=f"the second model {message}"):
            interpolate_weights(tiny_model, broken, alpha)
    with pytest.raises(ValueError, match=message):
        average_weights([broken])
    with pytest.raises(ValueError, match=f"the base {message}"):
        add_task_vectors(broken, {})
    with pytest.raises(ValueError, match=f"the tuned model {message}"):
        task_vector(tiny_model, broken)
    # Finite weights whose difference is not: the ends are exact, and beyond them is nothing.
    ends = [copy.deepcopy(tiny_model) for _ in range(2)]
    for sign, each in zip((-1, 1), ends):
        each.logit_scale.data.fill_(sign * 3e38)
    for alpha in (0, 1):
        assert torch.equal(interpolate_weights(*ends, alpha).logit_scale, ends[alpha].logit_scale)
    with pytest.raises(ValueError, match=r"logit_scale would be NaN or infinite in torch.float32"):
        interpolate_weights(*ends, 0.5)


def test_the_widest_precision_is_kept_in_any_order():
    half, single = make_tiny_model("vit").half(), make_tiny_model("vit")
    double = make_tiny_model("vit").double()
    for models, dtype in (([half, half], torch.float16), ([half, single], torch.float32), ([single, double], None)):
        for pair in (models, models[::-1]):
            soups = average_weights(pair), greedy_soup(pair, lambda model: 0.0).model
            for result in (*soups, interpolate_weights(*pair, 0.5)):
                assert {each.dtype for each in result.parameters()} == {dtype or torch.float64}


def test_averaged_strangers_are_warned_of_and_one_model_is_no_list(tiny_model, tmp_path):
    models = [make_tiny_model("vit", seed=seed) for seed in (0, 1)]
    with CaptureLogger(weight_space.logger) as logged:
        average_weights([models[0], tune(models[0], 1)])
    assert not logged.out
    with CaptureLogger(weight_space.logger) as logged:
        average_weights(models)
    assert "the first model and another model have nothing in common" in logged.out
    for combine in (average_weights, lambda given: greedy_soup(given, lambda model: 0.0)):
        for wrong in ("folder", tmp_path, models[0], 3):
            with pytest.raises(TypeError, match="`models` is an? .*; give a list of models or paths"):
                combine(wrong)
