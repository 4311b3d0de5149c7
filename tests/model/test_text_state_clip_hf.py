# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What makes the cache of text classifiers encode again: every bit of the weights, settings, modes."""

import copy
import itertools

import numpy as np
import pytest
import torch

from clip_hf import build_text_classifier
from clip_hf.model.text_state_clip_hf import (
    _WORD_WEIGHTS,
    _checksum,
    _plain_tensors,
    _plain_values,
    _word_sums,
    _word_sums_of_torch,
)
from clip_hf.model.zero_shot_clip_hf import TextClassifierCache
from tiny_models import make_tiny_model


LABELS = ["cat", "dog playing in the snow", "number seven"]
TEMPLATE = "a photo of a {}."


@pytest.fixture(scope="module")
def model():
    return make_tiny_model("vit")


TENSORS = {
    "float32": lambda: torch.randn(40, 300),
    "float16, odd": lambda: torch.randn(3001).half(),
    "bfloat16": lambda: torch.randn(70, 100).bfloat16(),
    "with NaN": lambda: torch.full((40, 300), torch.nan),
    "int8": lambda: torch.randint(-128, 127, (100, 100), dtype=torch.int8),
    "bool": lambda: torch.rand(5000) < 0.5,
    "transposed": lambda: torch.randn(300, 40).T,
    "part of another": lambda: torch.randn(4001)[1:],
    "one number": lambda: torch.tensor(3.0),
    "nothing": lambda: torch.zeros(0),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_a_checksum_changes_with_every_bit_and_every_place(kind):
    tensor = TENSORS[kind]()
    others = [torch.randn(2000), torch.randn(3)]
    before = _checksum([tensor, *others])
    assert _checksum([tensor.clone(), *others]) == before
    if tensor.numel() < 2:
        return
    flat = tensor.contiguous().view(-1)
    for place in (0, flat.numel() // 2, flat.numel() - 1):
        changed = flat.clone().view(torch.uint8)
        changed[place * flat.element_size()] ^= 1  # the lowest bit of the number
        assert _checksum([changed.view(flat.dtype).view(tensor.shape), *others]) != before
    for first, second in ((0, 1), (0, 513), (1, flat.numel() - 1)):
        swapped = flat.clone()
        swapped[[first, second]] = swapped[[second, first]]
        equal = torch.equal(swapped.view(torch.uint8), flat.view(torch.uint8))
        assert (_checksum([swapped.view(tensor.shape), *others]) == before) == equal


def test_a_checksum_notices_permuted_unit_rows():
    rows = torch.eye(256)
    assert _checksum([rows]) != _checksum([rows.roll(2, 0)])
    assert _checksum([rows[:128], rows[128:]]) != _checksum([rows[128:], rows[:128]])


def test_sums_on_other_devices_are_the_same():
    bits = torch.randint(0, 256, (200 * 4096 + 4,), dtype=torch.uint8)
    assert torch.equal(_word_sums(bits), _word_sums_of_torch(bits))  # as on a GPU
    content = bits.numpy().tobytes()
    for shift in (0, 1):
        words = np.frombuffer(content[4 * shift : len(content) - 4 + 4 * shift], "<i8").reshape(-1, 512)[[0, 150, 199]]
        sums = [sum(int(a) * int(b) for a, b in zip(row, _WORD_WEIGHTS[shift])) for row in words]
        assert _word_sums(bits)[shift, [0, 150, 199]].tolist() == [(x + 2**63) % 2**64 - 2**63 for x in sums]
    assert (_WORD_WEIGHTS % 2 == 1).all()


@pytest.mark.parametrize("shape", [(128, 128), (4096, 300)], ids=["small", "in pieces"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8])
def test_a_checksum_notices_changes_of_many_top_bits(dtype, shape):
    values = torch.randint(1, 100, shape).to(dtype)
    before = _checksum([values])
    top = torch.zeros(values.numel(), values.element_size(), dtype=torch.uint8).view(*shape, values.element_size())
    top[..., -1] = 128
    masks = {"all": top}
    for name, own in {"a column": np.s_[:, 3], "odd columns": np.s_[:, 1::2], "a row": np.s_[5]}.items():
        masks[name] = torch.zeros_like(top)
        masks[name][own] = top[own]
    for words in ((1, 3), (0, 511), (511, 512), (3, 7)):  # words of 8 bytes
        masks[words] = torch.zeros_like(top)
        masks[words].view(-1)[[8 * word + 7 for word in words]] = 128
    for name, mask in masks.items():
        changed = (values.view(torch.uint8).view(top.shape) ^ mask).view(torch.uint8)
        assert _checksum([changed.view(-1).view(dtype).view(shape)]) != before, name


def test_quantised_values_are_noticed():
    values = torch.randn(64, 64)
    quantised = [torch.quantize_per_tensor(each, 0.1, 0, torch.qint8) for each in (values, values, -values)]
    sums = [_checksum(list(_plain_tensors(each))) for each in quantised]
    assert sums[0] == sums[1] != sums[2]


def rows_of(tokenizer, label):
    return sorted(set(tokenizer(TEMPLATE.format(label))["input_ids"]))


def test_only_the_embeddings_of_the_prompts_tokens_matter(tiny_processor):
    model, cache, tokenizer = make_tiny_model("vit"), TextClassifierCache(), tiny_processor.tokenizer
    cat, map_ = (cache.get(model, tokenizer, [label], TEMPLATE) for label in ("cat", "map"))
    weight = model.text_model.embeddings.token_embedding.weight.data
    own, other = (set(rows_of(tokenizer, label)) for label in ("cat", "map"))
    weight[sorted(set(range(598)) - own - other - {tokenizer.pad_token_id})] += 1
    assert (
        cache.get(model, tokenizer, ["cat"], TEMPLATE) is cat
        and cache.get(model, tokenizer, ["map"], TEMPLATE) is map_
    )
    for row in sorted(own | {tokenizer.pad_token_id}):
        before = cache.get(model, tokenizer, ["cat"], TEMPLATE)
        weight[row, 3] += 0.5
        after = cache.get(model, tokenizer, ["cat"], TEMPLATE)
        assert after is not before
        torch.testing.assert_close(after, build_text_classifier(model, tokenizer, ["cat"], TEMPLATE), rtol=0, atol=0)
        assert cache.get(model, tokenizer, ["cat"], TEMPLATE) is after
        kept = cache.get(model, tokenizer, ["map"], TEMPLATE) is map_
        assert kept == (row in own - other - {tokenizer.pad_token_id})
        map_ = cache.get(model, tokenizer, ["map"], TEMPLATE)
    assert len(cache) == 2


class Doubled(torch.nn.Embedding):
    """Looks at more than the rows of its ids."""

    def forward(self, ids):
        return super().forward(ids) + self.weight.sum(dim=0)


def double_forward(table):
    plain = table.forward
    table.forward = lambda ids: plain(ids) + table.weight.sum(dim=0)


@pytest.mark.parametrize(
    "change",
    [
        lambda table: setattr(table, "__class__", Doubled),
        double_forward,
        lambda table: (
            table.register_forward_hook(lambda module, args, output: output + module.weight.sum(dim=0)) and None
        ),
    ],
    ids=["class", "forward", "hook"],
)
def test_all_of_an_embedding_of_another_kind_matters(tiny_processor, change):
    model, cache = make_tiny_model("vit"), TextClassifierCache()
    change(model.text_model.embeddings.token_embedding)
    before = cache.get(model, tiny_processor, ["cat"], TEMPLATE)
    assert cache.get(model, tiny_processor, ["cat"], TEMPLATE) is before
    unused = next(row for row in range(598) if row not in rows_of(tiny_processor.tokenizer, "cat"))
    model.text_model.embeddings.token_embedding.weight.data[unused] += torch.arange(32)
    after = cache.get(model, tiny_processor, ["cat"], TEMPLATE)
    torch.testing.assert_close(after, build_text_classifier(model, tiny_processor, ["cat"], TEMPLATE), rtol=0, atol=0)
    assert not torch.allclose(after, before, atol=1e-3)


def test_switching_modules_saved_with_an_adapter_encodes_again(tiny_processor):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules=["visual_projection"], modules_to_save=["text_projection"])
    model, cache = get_peft_model(make_tiny_model("vit"), config).eval(), TextClassifierCache()
    model.add_adapter("other", config)
    for name, factor in (("default", -2.5), ("other", 0.5)):
        weight = model.base_model.model.text_projection.modules_to_save[name].weight.data
        weight.copy_(weight.roll(1, 0) * factor)
    results = [cache.get(model, tiny_processor, LABELS, TEMPLATE)]
    model.set_adapter("other")
    model.base_model.model.text_projection.modules_to_save["other"].weight.data.add_(0.1)
    results.append(cache.get(model, tiny_processor, LABELS, TEMPLATE))
    with model.disable_adapter():
        results.append(cache.get(model, tiny_processor, LABELS, TEMPLATE))
        torch.testing.assert_close(
            results[-1], build_text_classifier(model, tiny_processor, LABELS, TEMPLATE), rtol=0, atol=0
        )
    model.set_adapter("default")
    results.append(cache.get(model, tiny_processor, LABELS, TEMPLATE))
    torch.testing.assert_close(results[0], results[3], rtol=0, atol=0)
    assert not any(torch.allclose(a, b, atol=1e-2) for a, b in itertools.combinations(results[:3], 2))


def heads(model):
    for layer in model.text_model.encoder.layers:
        layer.self_attn.num_heads, layer.self_attn.head_dim = 2, 16


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model.text_model.encoder.layers[1].layer_norm1, "eps", 1.0),
        lambda model: setattr(model.config.text_config, "eos_token_id", 598),
        heads,
        lambda model: model.text_projection.register_forward_hook(lambda module, args, output: output.roll(1, -1)),
        lambda model: model.text_projection.register_forward_pre_hook(lambda module, args: (args[0].roll(1, -1),)),
    ],
    ids=["eps", "config", "heads", "hook", "pre-hook"],
)
def test_changed_settings_encode_again(tiny_processor, change):
    model, cache = make_tiny_model("vit"), TextClassifierCache()
    before = cache.get(model, tiny_processor, LABELS, TEMPLATE)
    assert cache.get(model, tiny_processor, LABELS, TEMPLATE) is before
    change(model)
    after = cache.get(model, tiny_processor, LABELS, TEMPLATE)
    torch.testing.assert_close(after, build_text_classifier(model, tiny_processor, LABELS, TEMPLATE), rtol=0, atol=0)
    assert not torch.allclose(after, before, atol=1e-4)


def test_plain_values():
    part = torch.nn.Linear(1, 1)
    attributes = {"a": 1, "b": [True, None], "c": ("x",), "d": {"e": 2.0}, "f": part, "g": [part], "h": {part: 1}}
    attributes |= {"training": True, "_modules": {}, "i": [[1]], "j": torch.ones(1), "k": len}
    expected = (("a", 1), ("b", True, None), ("c", "x"), ("d", "e", 2.0))
    assert _plain_values(attributes) == expected


@pytest.mark.parametrize("mode", [lambda: torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode])
def test_autocast_and_inference_mode_have_their_own_classifiers(model, tiny_processor, mode):
    cache = TextClassifierCache()
    with mode():
        inside = cache.get(model, tiny_processor, LABELS, TEMPLATE)
        assert cache.get(model, tiny_processor, LABELS, TEMPLATE) is inside
    outside = cache.get(model, tiny_processor, LABELS, TEMPLATE)
    torch.testing.assert_close(outside, build_text_classifier(model, tiny_processor, LABELS, TEMPLATE), rtol=0, atol=0)
    assert not outside.is_inference()
    with mode():
        assert cache.get(model, tiny_processor, LABELS, TEMPLATE) is inside
    with torch.autocast("cpu", dtype=torch.float16):
        assert cache.get(model, tiny_processor, LABELS, TEMPLATE) is not inside


@pytest.mark.parametrize(
    ("name", "value"), [("model_max_length", 6), ("truncation_side", "left"), ("padding_side", "left")]
)
def test_settings_of_the_tokenizer_encode_again(model, tiny_processor, name, value):
    tokenizer, cache = copy.deepcopy(tiny_processor.tokenizer), TextClassifierCache()
    template = "a photo of a {} on a red mat in the snow, folded, and " * 3
    before = cache.get(model, tokenizer, LABELS, template)
    setattr(tokenizer, name, value)
    after = cache.get(model, tokenizer, LABELS, template)
    assert after is not before
    torch.testing.assert_close(after, build_text_classifier(model, tokenizer, LABELS, template), rtol=0, atol=0)
    assert torch.allclose(after, before, atol=1e-3) == (name == "padding_side")
