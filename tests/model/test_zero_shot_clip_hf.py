# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Text classifiers against the plain loop over prompts, what they refuse, and when the cache encodes again."""

import copy
import functools
import gc
import pickle
import weakref
from collections import OrderedDict, defaultdict, deque
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
from torch.nn import functional as F

from clip_hf import ClipHFTokenizer, build_text_classifier
from clip_hf.model.prompts_clip_hf import PROMPT_SETS
from clip_hf.model.zero_shot_clip_hf import TextClassifierCache, eval_mode, evaluated
from tiny_models import CAPTIONS, CONTEXT_LENGTH, MORE_TEXTS, as_transformers_clip, make_tiny_model


EOS = 599  # the id of the token at the end of each prompt
LABELS = ["cat", "dog playing in the snow", "number seven"]
TEMPLATES = ["a photo of a {}.", "{label}, handwritten", "a {} on a {}", "the {0}", "a photo of a {}."]
OWN_PROMPTS = {
    "cat": ["a cat", "a small animal, folded", "a {} on a red mat"],
    "dog playing in the snow": "two dogs",
    "number seven": ["7", "7", "seven"],
    "not asked for": ["a map"],
}


@pytest.fixture(scope="module")
def model():
    return make_tiny_model("vit")


class WithEncodeText(torch.nn.Module):
    """A model that has `encode_text` only."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def encode_text(self, input_ids, attention_mask=None):
        return self.model.encode_text(input_ids, attention_mask)


@torch.no_grad()
def plain_loop(model, tokenizer, prompts):
    """(len(prompts), dim): for each list of prompts, encode one by one, normalise, average, normalise."""
    rows = []
    for own in prompts:
        inputs = [tokenizer(prompt, truncation=True, return_tensors="pt") for prompt in own]
        embeddings = [model.get_text_features(**one).pooler_output[0] for one in inputs]
        rows.append(F.normalize(torch.stack([F.normalize(e, dim=0) for e in embeddings]).mean(dim=0), dim=0))
    return torch.stack(rows)


@contextmanager
def counted_text_passes(model):
    """A list that gets (batch, length) of every pass of the text tower."""
    passes = []

    def count(module, args, kwargs):
        passes.append(tuple((kwargs["input_ids"] if "input_ids" in kwargs else args[0]).shape))

    handle = model.text_model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield passes
    finally:
        handle.remove()


def expected_prompts(templates):
    if isinstance(templates, dict):
        own = [templates[label] for label in LABELS]
        own = [[prompts] if isinstance(prompts, str) else prompts for prompts in own]
        return [[prompt.replace("{}", label) for prompt in prompts] for label, prompts in zip(LABELS, own)]
    templates = PROMPT_SETS.get(templates, [templates]) if isinstance(templates, str) else templates
    return [
        [t.replace("{label}", "{}").replace("{0}", "{}").replace("{}", label) for t in templates] for label in LABELS
    ]


@pytest.mark.slow
@pytest.mark.parametrize("max_tokens_per_batch", [1, 40, 2**14])
@pytest.mark.parametrize(
    "templates",
    ["a photo of a {}.", TEMPLATES, "openai_imagenet", OWN_PROMPTS],
    ids=["template", "list", "named set", "mapping"],
)
def test_classifier_is_the_plain_loop(model, tiny_processor, templates, max_tokens_per_batch):
    model = copy.deepcopy(model).double()
    expected = plain_loop(model, tiny_processor.tokenizer, expected_prompts(templates))
    assert torch.pdist(expected).min() > 0.01  # or the comparison would show nothing
    classifier = build_text_classifier(
        model, tiny_processor, LABELS, templates, max_tokens_per_batch=max_tokens_per_batch
    )
    torch.testing.assert_close(classifier, expected, rtol=0, atol=1e-13)
    assert not classifier.requires_grad and not classifier.is_inference()


def test_one_template_gives_the_models_embeddings(model, tiny_processor):
    inputs = tiny_processor(text=[f"a photo of a {x}." for x in LABELS], padding=True, return_tensors="pt")
    expected = model.encode_text(inputs["input_ids"], inputs["attention_mask"])
    torch.testing.assert_close(build_text_classifier(model, tiny_processor, LABELS), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("wrap", [as_transformers_clip, WithEncodeText])
def test_other_models_with_text_features_work(model, tiny_processor, wrap):
    expected = build_text_classifier(model, tiny_processor, LABELS, TEMPLATES)
    classifier = build_text_classifier(wrap(model), tiny_processor.tokenizer, LABELS, TEMPLATES)
    torch.testing.assert_close(classifier, expected, rtol=0, atol=1e-6)


def test_a_model_without_text_features_is_refused(tiny_processor):
    with pytest.raises(TypeError, match="Linear has neither `get_text_features` nor `encode_text`"):
        build_text_classifier(torch.nn.Linear(1, 1), tiny_processor, LABELS)


@pytest.mark.parametrize(
    ("dtype", "result", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-6),
        (torch.bfloat16, torch.float32, 0.05),
        (torch.float16, torch.float32, 0.01),
    ],
)
def test_dtypes(model, tiny_processor, dtype, result, tolerance):
    expected = build_text_classifier(model, tiny_processor, LABELS, TEMPLATES)
    classifier = build_text_classifier(copy.deepcopy(model).to(dtype), tiny_processor, LABELS, TEMPLATES)
    assert classifier.dtype == result
    assert (classifier.norm(dim=-1) - 1).abs().max() < 1e-6
    torch.testing.assert_close(classifier.float(), expected, rtol=0, atol=tolerance)


def test_each_different_prompt_is_encoded_once(model, tiny_processor):
    prompts = {"a": ["one", "two", "one"], "b": ["two", "three"]}
    with counted_text_passes(model) as passes:
        build_text_classifier(model, tiny_processor, ["a", "b"], prompts)
        assert [batch for batch, _ in passes] == [3]
        build_text_classifier(model, tiny_processor, [f"label {i}" for i in range(300)])
        assert [batch for batch, _ in passes] == [3, 300]


def test_batches_keep_to_the_token_limit(model, tiny_processor):
    labels = ["cat " * i for i in range(1, 8)]
    with counted_text_passes(model) as passes:
        build_text_classifier(model, tiny_processor, labels, "openai_imagenet", max_tokens_per_batch=200)
    assert max(batch * length for batch, length in passes) <= 200
    assert sum(batch for batch, _ in passes) == 7 * 80
    assert [length for _, length in passes] == sorted([length for _, length in passes], reverse=True)
    with counted_text_passes(model) as passes:  # a text that is longer than the limit is alone
        build_text_classifier(model, tiny_processor, labels, max_tokens_per_batch=1)
    assert [batch for batch, _ in passes] == [1] * 7


def test_short_texts_are_not_padded_to_long_ones(model, tiny_processor):
    labels = [f"{'cat ' * (1 + index % 10)}{index}" for index in range(300)]
    lengths = [len(ids) for ids in tiny_processor.tokenizer(labels)["input_ids"]]
    with counted_text_passes(model) as passes:
        build_text_classifier(model, tiny_processor, labels, "{}")
    assert sum(batch for batch, _ in passes) == 300
    assert 2 <= len(passes) <= 300 // 64 + 1
    assert sum(batch * length for batch, length in passes) < 1.3 * sum(lengths) < 300 * max(lengths)


def test_padding_never_shifts_a_prompt(model, tiny_processor):
    expected = build_text_classifier(model, tiny_processor, LABELS, TEMPLATES)
    tokenizer = copy.deepcopy(tiny_processor.tokenizer)
    tokenizer.padding_side = "left"
    classifier = build_text_classifier(model, tokenizer, LABELS, TEMPLATES)
    torch.testing.assert_close(classifier, expected, rtol=0, atol=1e-6)


def test_a_label_may_stand_in_a_prompt_more_than_once(model, tiny_processor):
    expected = plain_loop(model, tiny_processor.tokenizer, [[f"{x} or {x}, {x}"] for x in LABELS])
    for template in ("{} or {}, {}", "{label} or {0}, {label}", "{0} or {0}, {0}"):
        classifier = build_text_classifier(model, tiny_processor, LABELS, template)
        torch.testing.assert_close(classifier, expected, rtol=0, atol=1e-6)
    braces = build_text_classifier(model, tiny_processor, LABELS, "{{{}}}")
    expected = plain_loop(model, tiny_processor.tokenizer, [[f"{{{x}}}"] for x in LABELS])
    torch.testing.assert_close(braces, expected, rtol=0, atol=1e-6)


def test_long_prompts_are_truncated(model, tiny_processor):
    long = "the number seven " * CONTEXT_LENGTH
    classifier = build_text_classifier(model, tiny_processor, [long, "cat"], "{}")
    expected = plain_loop(model, tiny_processor.tokenizer, [[long], ["cat"]])
    torch.testing.assert_close(classifier, expected, rtol=0, atol=1e-6)


def test_prompts_are_no_longer_than_the_models_context(model, tiny_processor):
    long = "the number seven " * CONTEXT_LENGTH
    expected = build_text_classifier(model, tiny_processor, [long, "cat"], "{}")
    tokenizer = copy.deepcopy(tiny_processor.tokenizer)
    tokenizer.model_max_length = 10 * CONTEXT_LENGTH
    classifier = build_text_classifier(model, tokenizer, [long, "cat"], "{}")
    torch.testing.assert_close(classifier, expected, rtol=0, atol=1e-6)


def test_tokenizer_kwargs_reach_the_tokenizer(model, tiny_processor):
    short = build_text_classifier(model, tiny_processor, LABELS, tokenizer_kwargs={"max_length": 4})
    assert not torch.allclose(short, build_text_classifier(model, tiny_processor, LABELS), atol=1e-3)
    padded = build_text_classifier(model, tiny_processor, LABELS, tokenizer_kwargs={"padding": "max_length"})
    torch.testing.assert_close(padded, build_text_classifier(model, tiny_processor, LABELS), rtol=0, atol=1e-6)


def test_a_training_model_is_evaluated_and_left_in_training(tiny_processor):
    model = make_tiny_model("vit")
    expected = build_text_classifier(model, tiny_processor, LABELS)
    model.train()
    model.vision_model.eval()
    for module in model.text_model.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.5
    torch.testing.assert_close(build_text_classifier(model, tiny_processor, LABELS), expected, rtol=0, atol=1e-6)
    assert model.training and model.text_model.training and not model.vision_model.training
    with pytest.raises(RuntimeError, match="stop"), eval_mode(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError("stop")
    assert model.text_model.training and not model.vision_model.training


def test_a_copy_in_evaluation_mode_shares_the_weights(tower):
    model = make_tiny_model(tower)
    assert evaluated(model) is model
    model.train()
    model.text_projection.requires_grad_(False)
    copied = evaluated(model)
    assert model.training and not any(module.training for module in copied.modules())
    assert [name for name, _ in copied.named_modules()] == [name for name, _ in model.named_modules()]
    for (name, tensor), other in zip(
        copied.state_dict(keep_vars=True).items(), model.state_dict(keep_vars=True).values()
    ):
        assert tensor is other, name
    model.text_projection.weight = torch.nn.Parameter(torch.zeros_like(model.text_projection.weight))
    assert not copied.text_projection.weight.any()  # what is put into one is in the other


def test_what_is_bound_to_a_module_is_bound_to_its_copy():
    class Part(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.forward = self.mode  # a bound method, as accelerate's hooks leave
            self.partial = functools.partial(Part.mode, self)
            self.compiled = torch.compile(torch.nn.Dropout(0.5), backend="eager")
            self.scripted = torch.jit.script(torch.nn.Dropout(0.5))
            self.again = self.scripted

        def mode(self, *args):
            return self.training

    model = Part().train()
    copied = evaluated(model)
    assert (model(), model.partial()) == (True, True)
    assert (copied(), copied.partial()) == (False, False)
    ones = torch.ones(1000)
    assert torch.equal(copied.compiled(ones), ones) and torch.equal(copied.scripted(ones), ones)
    assert not torch.equal(model.compiled(ones), ones) and not torch.equal(model.scripted(ones), ones)
    assert copied.again is copied.scripted
    assert model.training and model.compiled.training and model.scripted.training


class Pair(NamedTuple):
    first: object
    second: object


class Holder(torch.nn.Module):
    """Calls its dropout, whichever way `self.way` leads to it."""

    def __init__(self, way):
        super().__init__()
        self.dropout, self.call = torch.nn.Dropout(0.5), way[1]
        self.way = way[0](self.dropout)

    def hook(self, module, args, output):
        return self.dropout(output)

    def forward(self, x):
        return self.call(self.way)(x)


WAYS = {
    "dict": (lambda d: {"x": d}, lambda way: way["x"]),
    "OrderedDict": (lambda d: OrderedDict(x=d), lambda way: way["x"]),
    "defaultdict": (lambda d: defaultdict(list, x=[d]), lambda way: (way["y"], way["x"][0])[1]),
    "key": (lambda d: {d: 1}, lambda way: next(iter(way))),
    "named tuple": (lambda d: Pair(1, d), lambda way: way.second),
    "nested": (lambda d: [({"x": Pair([d], 1)},)], lambda way: way[0][0]["x"].first[0]),
    "keyword": (lambda d: functools.partial(lambda x, layer: layer(x), layer=d), lambda way: way),
    "function of a partial": (lambda d: functools.partial(d.forward), lambda way: way),
    "set": (lambda d: {d}, lambda way: next(iter(way))),
    "frozenset": (lambda d: frozenset([d]), lambda way: next(iter(way))),
    "deque": (lambda d: deque([d], maxlen=1), lambda way: way[0]),
}


@pytest.mark.parametrize("way", WAYS)
def test_whatever_leads_to_a_module_leads_to_its_copy(way):
    model, ones = Holder(WAYS[way]).train(), torch.ones(1000)
    copied = evaluated(model)
    assert torch.equal(copied(ones), ones) and not torch.equal(model(ones), ones)
    assert type(copied.way) is type(model.way)
    assert getattr(copied.way, "maxlen", None) == getattr(model.way, "maxlen", None)


def test_containers_that_hold_themselves_and_what_is_shared():
    model = torch.nn.Sequential(torch.nn.Dropout(0.5)).train()
    model.plain, model.counts, model.ring = [1, [2]], {"calls": 0}, [model[0]]
    model.ring.append((model.ring, "end"))
    model.again = model.ring
    model.empty_ring = []
    model.empty_ring.append(model.empty_ring)
    copied = evaluated(model)
    assert copied.plain is model.plain and copied.counts is model.counts and copied.empty_ring is model.empty_ring
    assert copied.ring is not model.ring and copied.again is copied.ring
    assert copied.ring[0] is copied[0] and copied.ring[1][0] is copied.ring and copied.ring[1][1] == "end"
    assert model.ring[0] is model[0] and model.ring[1][0] is model.ring


def test_hooks_bound_to_a_module_are_bound_to_its_copy():
    model = Holder((lambda d: [d], lambda way: torch.nn.Identity())).train()
    model.inner = torch.nn.Identity()
    model.inner.register_forward_hook(model.hook)
    ones = torch.ones(1000)
    assert torch.equal(evaluated(model).inner(ones), ones)
    assert not torch.equal(model.inner(ones), ones)


def test_slots_are_copied():
    class Slots(torch.nn.Linear):
        __slots__ = ("__hidden", "layer", "unset")

        def __init__(self):
            super().__init__(2, 2)
            self.dropout = torch.nn.Dropout(0.5)
            Slots.layer.__set__(self, [self.dropout])
            Slots._Slots__hidden.__set__(self, 3)

    model = Slots().train()
    copied = evaluated(model)
    assert Slots.layer.__get__(copied)[0] is copied.dropout and not copied.dropout.training
    assert Slots._Slots__hidden.__get__(copied) == 3
    assert not hasattr(copied, "unset")


# ----------------------------------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([], ValueError, "There are no labels"),
        ((), ValueError, "There are no labels"),
        ("cat, dog", TypeError, r"not one string: given 'cat, dog', pass \['cat', 'dog'\]"),
        (["cat", 3.0], TypeError, "Label 1 is 3.0, a float"),
        (["cat", None], TypeError, "Label 1 is None"),
        (["cat", " "], ValueError, "Label 1 is blank"),
        (["cat", "dog", "cat"], ValueError, r"occur more than once: \['cat'\]"),
        ({"cat": 1}, TypeError, "given a dict"),
        ({"cat"}, TypeError, "given a set"),
        (None, TypeError, "given a NoneType"),
    ],
)
def test_bad_labels(model, tiny_processor, labels, error, message):
    with counted_text_passes(model) as passes, pytest.raises(error, match=message):
        build_text_classifier(model, tiny_processor, labels)
    assert passes == []


@pytest.mark.parametrize(
    ("templates", "error", "message"),
    [
        ("a photo", ValueError, "'a photo' does not say where the label goes: write {} there"),
        (["a {}", "a photo"], ValueError, "'a photo' does not say where"),
        ("openai_imagnet", ValueError, "no prompt set 'openai_imagnet'. Did you mean 'openai_imagenet'"),
        ("", TypeError, "must be a string that is not blank"),
        ([], ValueError, "The list of templates is empty"),
        ({}, ValueError, "The mapping from labels to prompts is empty"),
        ("a {", ValueError, "'a {' has unbalanced braces"),
        ("a {c}", ValueError, "has the placeholder {c}; only {} and {label} are filled"),
        ("a {:>999999999999}", ValueError, "has the placeholder {:>999999999999}; only {} and {label} are filled"),
        ("a {label!r}", ValueError, "has the placeholder {label!r}; only {} and {label} are filled"),
        (["a {}", 3], TypeError, "3 among the templates must be a string"),
        (3, TypeError, "The templates must be a string or a list of strings; given 3, an int"),
        (b"a {}", TypeError, "given b'a {}', a bytes"),
        ({"cat": ["a cat"]}, ValueError, r"no prompts for 2 of the labels: \['dog"),
        ({"cat": []}, ValueError, "The list of prompts of 'cat' is empty"),
        ({"cat": [3]}, TypeError, "3 among the prompts of 'cat' must be"),
    ],
)
def test_bad_templates(model, tiny_processor, templates, error, message):
    with counted_text_passes(model) as passes, pytest.raises(error, match=message):
        build_text_classifier(model, tiny_processor, LABELS, templates)
    assert passes == []


# ----------------------------------------------------------------------------------------------------------- the cache


def sgd_step(model):
    model.text_model(torch.tensor([[598, 1, 599]])).pooler_output.sum().backward()
    torch.optim.SGD(model.text_model.parameters(), lr=0.1).step()


def edit_data(model):
    model.text_model.encoder.layers[1].mlp.fc1.weight.data += 0.01


@torch.no_grad()
def edit_in_place(model):
    model.text_model.embeddings.token_embedding.weight[EOS, 3] += 0.01


def replace_module(model):
    model.text_projection = torch.nn.Linear(32, 16, bias=False)


def add_lora(model):
    from peft import LoraConfig, inject_adapter_in_model

    # Not `model.add_adapter`, which transformers 5.24 refuses with a peft before 0.22.
    inject_adapter_in_model(LoraConfig(target_modules=["q_proj"], init_lora_weights=False), model)


def swap_rows(model):
    weight = model.text_model.encoder.layers[0].mlp.fc2.weight.data
    weight[[0, 1]] = weight[[1, 0]]


def swap_in_a_row(model):
    weight = model.text_model.embeddings.token_embedding.weight.data
    weight[:, [2, 3]] = weight[:, [3, 2]]


def swap_projection(model):
    model.text_projection.weight.data.copy_(model.text_projection.weight.data.flip(0).clone())


@pytest.mark.parametrize(
    "change",
    [
        sgd_step,
        swap_rows,
        swap_in_a_row,
        swap_projection,
        lambda model: model.text_model.embeddings.token_embedding.weight.data[EOS].neg_(),
        lambda model: model.text_model.final_layer_norm.weight.data[0].add_(1),
        lambda model: model.text_model.encoder.layers[1].self_attn.v_proj.bias.data[-1].add_(0.5),
        edit_data,
        edit_in_place,
        replace_module,
        add_lora,
        lambda model: model.load_state_dict(make_tiny_model("vit", seed=1).state_dict()),
        lambda model: model.to(torch.float64),
        lambda model: model.text_model.final_layer_norm.register_parameter("bias", None),
    ],
    ids=[
        "step",
        "rows",
        "columns",
        "projection",
        "token",
        "norm",
        "bias",
        "data",
        "in place",
        "module",
        "lora",
        "load_state_dict",
        "dtype",
        "removed",
    ],
)
def test_changed_weights_encode_again(tiny_processor, change):
    model, cache = make_tiny_model("vit"), TextClassifierCache()
    with counted_text_passes(model) as passes:
        before = cache.get(model, tiny_processor, LABELS, TEMPLATES)
        assert cache.get(model, tiny_processor, list(LABELS), tuple(TEMPLATES)) is before
        assert len(passes) == 1
        change(model)
        passes.clear()
        after = cache.get(model, tiny_processor, LABELS, TEMPLATES)
        assert len(passes) == 1
        assert cache.get(model, tiny_processor, LABELS, TEMPLATES) is after
        assert len(passes) == 1
    torch.testing.assert_close(after, build_text_classifier(model, tiny_processor, LABELS, TEMPLATES), rtol=0, atol=0)
    assert len(cache) == 1  # that of the old weights is gone


def test_an_offloaded_text_tower_is_not_trusted(tiny_processor):
    from accelerate import cpu_offload

    model, cache = make_tiny_model("vit"), TextClassifierCache()
    expected = build_text_classifier(model, tiny_processor, LABELS, TEMPLATES)
    model = cpu_offload(model, execution_device="cpu")
    first = cache.get(model, tiny_processor, LABELS, TEMPLATES)
    second = cache.get(model, tiny_processor, LABELS, TEMPLATES)
    assert second is not first  # its values may have changed
    torch.testing.assert_close((first, second), (expected, expected), rtol=0, atol=1e-6)


def test_switching_adapters_encodes_again(tiny_processor):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    model, cache = get_peft_model(make_tiny_model("vit"), config), TextClassifierCache()
    model.add_adapter("other", config)

    def fresh():
        classifier = cache.get(model, tiny_processor, LABELS, TEMPLATES)
        torch.testing.assert_close(
            classifier, build_text_classifier(model, tiny_processor, LABELS, TEMPLATES), rtol=0, atol=1e-6
        )
        return classifier

    default = fresh()
    model.set_adapter("other")
    other = fresh()
    assert not torch.allclose(default, other, atol=1e-4)
    with model.disable_adapter():
        plain = fresh()
    assert not torch.allclose(plain, other, atol=1e-4)
    model.merge_adapter()
    torch.testing.assert_close(fresh(), other, rtol=0, atol=1e-5)
    merged = model.unload()  # the merged weights stay
    torch.testing.assert_close(cache.get(merged, tiny_processor, LABELS, TEMPLATES), other, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.train(),
        lambda model: model.vision_model(torch.randn(2, 3, 64, 64)),  # new BatchNorm statistics in training
        lambda model: model.visual_projection.weight.data.mul_(2),
        lambda model: torch.nn.init.constant_(model.logit_scale, 1.0),
    ],
    ids=["train", "image tower", "image projection", "scale"],
)
def test_what_does_not_touch_the_text_keeps_the_classifier(tower, tiny_processor, change):
    model, cache = make_tiny_model(tower).train(), TextClassifierCache()
    with counted_text_passes(model) as passes:
        before = cache.get(model, tiny_processor, LABELS, TEMPLATES)
        change(model)
        assert cache.get(model, tiny_processor, LABELS, TEMPLATES) is before
    assert len(passes) == 1


def test_other_labels_templates_and_tokenizers_are_other_classifiers(model, tiny_processor):
    cache = TextClassifierCache()
    first = cache.get(model, tiny_processor, LABELS, TEMPLATES)
    reverse = cache.get(model, tiny_processor, LABELS[::-1], TEMPLATES)
    torch.testing.assert_close(reverse.flip(0), first, rtol=0, atol=1e-6)
    cache.get(model, tiny_processor, LABELS, "a photo of a {}.")
    cache.get(model, tiny_processor, LABELS, OWN_PROMPTS)
    cache.get(model, tiny_processor, LABELS, TEMPLATES, {"max_length": 4})
    cache.get(model, copy.deepcopy(tiny_processor.tokenizer), LABELS, TEMPLATES)
    assert len(cache) == 6
    assert cache.get(model, tiny_processor.tokenizer, LABELS, TEMPLATES) is first
    cache.clear()
    assert len(cache) == 0


def test_tokens_added_to_the_tokenizer_encode_again():
    tokenizer = ClipHFTokenizer.train([*CAPTIONS, *MORE_TEXTS], vocab_size=560, context_length=CONTEXT_LENGTH)
    model, cache = make_tiny_model("vit"), TextClassifierCache()
    model.config.text_config.eos_token_id = tokenizer.eos_token_id
    before = cache.get(model, tokenizer, LABELS, TEMPLATES)
    tokenizer.add_tokens([LABELS[0]])
    after = cache.get(model, tokenizer, LABELS, TEMPLATES)
    assert not torch.allclose(after[0], before[0], atol=1e-3)
    torch.testing.assert_close(after, build_text_classifier(model, tokenizer, LABELS, TEMPLATES), rtol=0, atol=0)


def test_the_least_recently_used_classifier_goes_first(model, tiny_processor):
    cache = TextClassifierCache()
    cache.max_entries = 2
    a, b = (cache.get(model, tiny_processor, [label], TEMPLATES) for label in "ab")
    assert cache.get(model, tiny_processor, ["a"], TEMPLATES) is a
    cache.get(model, tiny_processor, ["c"], TEMPLATES)
    assert len(cache) == 2
    assert cache.get(model, tiny_processor, ["a"], TEMPLATES) is a
    assert cache.get(model, tiny_processor, ["b"], TEMPLATES) is not b


def test_the_cache_keeps_no_model_alive(tiny_processor):
    model, cache = make_tiny_model("vit"), TextClassifierCache()
    cache.get(model, tiny_processor, LABELS, TEMPLATES)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None
    assert len(cache) == 0


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
def test_a_copied_cache_is_empty_and_works(model, tiny_processor, duplicate):
    cache = TextClassifierCache()
    first = cache.get(model, tiny_processor, LABELS, TEMPLATES)
    copied = duplicate(cache)
    assert len(copied) == 0
    torch.testing.assert_close(copied.get(model, tiny_processor, LABELS, TEMPLATES), first, rtol=0, atol=0)
