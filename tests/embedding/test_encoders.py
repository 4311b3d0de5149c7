# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""One interface for models of every library: the features are those that each library gives by itself."""

import functools
import hashlib
import itertools
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from accelerate.hooks import AlignDevicesHook, ModelHook, add_hook_to_module, remove_hook_from_module
from PIL import Image
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from torch import nn
from transformers import (
    AlignConfig,
    AlignModel,
    AltCLIPConfig,
    AltCLIPModel,
    AutoModel,
    CLIPModel,
    CLIPProcessor,
    CLIPTextModel,
    FlavaConfig,
    FlavaModel,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2Model,
    Siglip2Processor,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from clip_hf import (
    ClipHFForImageClassification,
    ClipHFModel,
    ClipHFProcessor,
    ClipHFTokenizer,
    ClipHFVisionModelWithProjection,
    checkpoints,
)
from clip_hf.embedding.dual_encoder import DualEncoder, NotFiniteError
from clip_hf.embedding.load_encoder import load_dual_encoder
from clip_hf.embedding.transformers_encoder import ClipHFEncoder, SentenceTransformersEncoder, TransformersEncoder
from clip_hf.export import export_model
from clip_hf.training.freezing import freeze
from clip_hf.utils import dtypes
from clip_hf.utils.fingerprints import tokenizer_digest, weights_digest
from tiny_models import CAPTIONS, CONTEXT_LENGTH, IMAGE_SIZE, VOCAB_SIZE, make_tiny_model, tiny_config


TOKENIZER_OPTIONS = {"clean_text": False, "split_special_tokens": True, "model_max_length": 7}
TEXTS = [CAPTIONS[0], "a cat", CAPTIONS[4], "a cat", CAPTIONS[1], CAPTIONS[0]]


@pytest.fixture
def clip_folder(tmp_path, tiny_processor) -> str:
    """A folder of transformers' CLIP."""
    checkpoints.save(make_tiny_model("vit"), tiny_processor, tmp_path / "clip", format="transformers")
    return str(tmp_path / "clip")


@pytest.fixture(scope="module")
def siglip(tiny_tokenizer) -> tuple[SiglipModel, SiglipProcessor]:
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": CONTEXT_LENGTH, "projection_size": 32, **tower}
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config={"image_size": 32, "patch_size": 16, **tower}))
    image_processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return model.eval(), SiglipProcessor(image_processor, tiny_tokenizer)


@pytest.fixture
def even_images(images) -> list:
    """Images that OpenAI's code and transformers crop alike: as much is cut off on one side as on the other."""
    return [images[0].resize(size) for size in [(80, 64), (64, 64)]] + [images[2].resize((64, 100))]


def normalised(features: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(features.detach().float(), dim=-1)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, atol: float = 2e-6) -> None:
    assert actual.dtype == torch.float32 and actual.device.type == "cpu" and not actual.requires_grad
    torch.testing.assert_close(actual, expected.detach(), rtol=0, atol=atol)
    assert float((expected[0] - expected[1]).norm()) > 0.01, "rows that are alike show nothing"


def test_ours_is_encode_image_and_encode_text(tiny_model, tiny_processor, images):
    encoder = load_dual_encoder(tiny_model, processor=tiny_processor)
    assert type(encoder) is ClipHFEncoder
    inputs = tiny_processor(images=images, text=TEXTS, return_tensors="pt")
    with torch.no_grad():
        text_embeds = tiny_model.encode_text(inputs["input_ids"], inputs["attention_mask"])
        assert_close(encoder.encode_images(images), tiny_model.encode_image(inputs["pixel_values"]))
        pooled = tiny_model.vision_model(inputs["pixel_values"]).pooler_output
    assert_close(encoder.encode_texts(TEXTS), text_embeds)
    assert_close(encoder.encode_images(encoder.prepare(images), projected=False), pooled, atol=1e-5)
    assert encoder.projection_dim == 16
    assert encoder.logit_scale == pytest.approx(1 / 0.07)
    assert encoder.logit_bias == 0.0
    assert load_dual_encoder(encoder) is encoder


def test_modes_of_modules_and_gradients_stay_as_they_are(tiny_processor, images):
    model = make_tiny_model("resnet").train()
    model.vision_model.eval()
    before = [module.training for module in model.modules()]
    weights = weights_digest(model)
    encoder = load_dual_encoder(model, processor=tiny_processor)
    encoder.encode_images(images)
    for _ in encoder.text_batches(TEXTS):
        assert torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == before
    assert weights_digest(model) == weights  # BatchNorm's statistics too


def test_a_resnet_that_is_loaded_is_folded_and_one_in_memory_is_not(tmp_path, tiny_processor, images):
    model = make_tiny_model("resnet")
    checkpoints.save(model, tiny_processor, tmp_path / "model")
    encoders = [load_dual_encoder(tmp_path / "model", device="cpu") for _ in range(2)]
    given = load_dual_encoder(model, processor=tiny_processor)
    with pytest.raises(ValueError, match="cannot be trained"):
        encoders[0].model.train()
    assert model.train().eval() is given.model
    # Of the folded weights: features of the two ways differ by rounding, so caches keep them apart.
    assert encoders[0].fingerprint == encoders[1].fingerprint != given.fingerprint
    features = encoders[0].encode_images(images)
    assert torch.equal(features, encoders[1].encode_images(images))
    assert (features - given.encode_images(images)).abs().max() < 1e-5  # rounding of float32, over some 50 layers


def test_texts_are_encoded_once_and_come_back_in_order(tiny_processor):
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    counted = []
    encoder.model.text_model.register_forward_pre_hook(
        lambda _, args, kwargs: counted.append(len(kwargs.get("input_ids", args[0] if args else ()))), with_kwargs=True
    )
    features = encoder.encode_texts(TEXTS)
    assert sum(counted) == 4
    assert torch.equal(features[0], features[5]) and torch.equal(features[1], features[3])
    for text, row in zip(TEXTS, features, strict=True):
        torch.testing.assert_close(encoder.encode_texts([text])[0], row, rtol=0, atol=2e-6)
    batches = list(encoder.text_batches(TEXTS))
    assert sorted(index for batch, _ in batches for index in batch) == list(range(6))


def test_transformers_clip_equals_ours(clip_folder, even_images):
    ours = load_dual_encoder(clip_folder)
    theirs = load_dual_encoder(
        CLIPModel.from_pretrained(clip_folder), processor=CLIPProcessor.from_pretrained(clip_folder)
    )
    assert type(ours) is ClipHFEncoder and type(theirs) is TransformersEncoder
    assert not theirs.depends_on_padding
    for projected in (True, False):
        expected = ours.encode_images(even_images, projected=projected)
        assert_close(theirs.encode_images(even_images, projected=projected), expected, atol=1e-5)
    assert_close(theirs.encode_texts(TEXTS), ours.encode_texts(TEXTS))
    assert (theirs.projection_dim, theirs.logit_scale) == (ours.projection_dim, pytest.approx(ours.logit_scale))
    assert theirs.fingerprint != ours.fingerprint


def test_siglip_is_padded_to_its_full_length(siglip, images):
    model, processor = siglip
    encoder = load_dual_encoder(model, processor=processor)
    assert encoder.depends_on_padding
    full_length = {"padding": "max_length", "max_length": CONTEXT_LENGTH, "truncation": True}
    inputs = processor(text=TEXTS, images=images, return_tensors="pt", **full_length)
    with torch.no_grad():
        expected = model(**inputs)
    assert_close(encoder.encode_texts(TEXTS), expected.text_embeds)
    assert_close(encoder.encode_images(images), expected.image_embeds)
    assert_close(encoder.encode_images(images, projected=False), expected.vision_model_output.pooler_output)
    cosines = encoder.encode_texts(TEXTS) @ encoder.encode_images(images).T
    torch.testing.assert_close(cosines * encoder.logit_scale + encoder.logit_bias, expected.logits_per_text)
    assert encoder.projection_dim == 32


def test_images_that_the_processor_leaves_in_other_modes_are_converted(siglip, images):
    encoder = load_dual_encoder(siglip[0], processor=siglip[1])
    grey = images[0].convert("L")
    assert_close(encoder.encode_images([grey, images[1]]), encoder.encode_images([grey.convert("RGB"), images[1]]))


def test_a_model_whose_special_token_pools_is_bucketed(tiny_tokenizer, tiny_processor):
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 64, "project_dim": 32, "pad_token_id": 1, **tower}
    vision = {"image_size": IMAGE_SIZE, "patch_size": 16, **tower}
    torch.manual_seed(0)
    model = AltCLIPModel(AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    with torch.no_grad():
        for parameter in model.text_model.parameters():
            parameter *= 8 if parameter.ndim > 1 else 1  # or the first token would hardly depend on the others
    encoder = load_dual_encoder(model, processor=(tiny_processor.image_processor, tiny_tokenizer))
    assert not encoder.depends_on_padding
    inputs = tiny_tokenizer(TEXTS, padding="max_length", max_length=CONTEXT_LENGTH, return_tensors="pt")
    with torch.no_grad():
        expected = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
    assert_close(encoder.encode_texts(TEXTS), normalised(expected))


def make_other(kind: str, processor: ClipHFProcessor) -> tuple[nn.Module, object]:
    """A random model of transformers with what prepares its inputs."""
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": CONTEXT_LENGTH, **tower}
    vision = {"image_size": IMAGE_SIZE, "patch_size": 16, **tower}
    torch.manual_seed(0)
    if kind == "align":
        efficient_net = {"image_size": IMAGE_SIZE, "hidden_dim": 32, "depth_divisor": 8, "width_coefficient": 0.1}
        config = AlignConfig(text_config=text, vision_config=efficient_net, projection_dim=32)
        config.temperature_init_value = 0.05
        model = AlignModel(config)
    elif kind == "flava":
        fused = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
        towers = {"text_config": text, "image_config": vision, "multimodal_config": fused}
        model = FlavaModel(FlavaConfig(**towers, projection_dim=16, hidden_size=32))
    else:
        vision = {"num_patches": 16, "patch_size": 16, **tower}
        model = Siglip2Model(Siglip2Config(text_config={**text, "projection_size": 32}, vision_config=vision))
        patches = Siglip2ImageProcessorPil(patch_size=16, max_num_patches=16)
        return model.eval(), Siglip2Processor(patches, processor.tokenizer)
    return model.eval(), (processor.image_processor, processor.tokenizer)


@pytest.mark.parametrize(("kind", "scale"), [("align", 20.0), ("flava", 1 / 0.07), ("siglip2", 1.0)])
def test_other_dual_encoders(kind, scale, tiny_processor, images):
    model, processor = make_other(kind, tiny_processor)
    encoder = load_dual_encoder(model, processor=processor)
    inputs = tiny_processor.tokenizer(TEXTS, padding="max_length", max_length=CONTEXT_LENGTH, return_tensors="pt")
    with torch.no_grad():
        text_features = model.get_text_features(**inputs).pooler_output
        image_features = model.get_image_features(**encoder.prepare(images)).pooler_output
    if kind == "flava":  # features of every token; its contrastive loss takes the first
        text_features, image_features = text_features[:, 0], image_features[:, 0]
    torch.testing.assert_close(encoder.encode_texts(TEXTS), normalised(text_features), rtol=0, atol=5e-6)
    torch.testing.assert_close(encoder.encode_images(images), normalised(image_features), rtol=0, atol=5e-6)
    before = encoder.encode_images(images, projected=False)
    expected = model.image_projection(before) if kind == "flava" else before
    torch.testing.assert_close(expected.detach(), image_features, rtol=1e-4, atol=1e-5)
    assert encoder.logit_scale == pytest.approx(scale, rel=1e-4)
    assert encoder.depends_on_padding == (kind == "siglip2")


@pytest.mark.parametrize("prefix", ["", "sentence_transformers:"])
def test_sentence_transformers_clip(clip_folder, even_images, prefix):
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(clip_folder, device="cpu")
    encoder = load_dual_encoder(f"{prefix}{clip_folder}" if prefix else theirs)
    assert type(encoder) is SentenceTransformersEncoder
    encode = {"normalize_embeddings": True, "convert_to_tensor": True}
    assert_close(encoder.encode_images(even_images), theirs.encode(even_images, **encode).clone())
    assert_close(encoder.encode_texts(TEXTS), theirs.encode(TEXTS, **encode).clone())
    ours = load_dual_encoder(clip_folder)
    expected = ours.encode_images(even_images, projected=False)
    assert_close(encoder.encode_images(even_images, projected=False), expected, atol=1e-5)
    assert (encoder.projection_dim, encoder.logit_scale) == (16, pytest.approx(ours.logit_scale))
    assert len(encoder.fingerprint) == 32


@pytest.mark.parametrize("kind", ["ours", "siglip", "sentence_transformers"])
def test_texts_of_equal_tokens_are_one(kind, siglip, clip_folder, tiny_processor):
    """What differs in case only, and what differs past the context length."""
    long = "a cat " * CONTEXT_LENGTH
    texts = [f"{long} one", "a cat", "A CAT", "a dog", f"{long} two", long]
    if kind == "siglip":  # with a tokenizer that cuts only what it is asked to cut
        tokenizer = CLIPProcessor.from_pretrained(clip_folder).tokenizer
        encoder = load_dual_encoder(siglip[0], processor=(siglip[1].image_processor, tokenizer))
    else:
        prefix = {"ours": "", "sentence_transformers": "sentence_transformers:"}[kind]
        encoder = load_dual_encoder(f"{prefix}{clip_folder}")
    encoder.encode_texts(texts[:1] * 3)  # leaves settings behind in the tokenizer
    tokens = encoder.token_ids(texts)
    assert encoder.token_ids(texts[1:2]) == tokens[1:2]  # alone as among others
    assert tokens[0] == tokens[4] == tokens[5] and tokens[1] == tokens[2] and len(set(tokens)) == 3
    features = encoder.encode_texts(texts)
    for first, second in itertools.combinations(range(len(texts)), 2):
        near = torch.dist(features[first], features[second]) < 1e-5
        assert near == (tokens[first] == tokens[second]), (texts[first], texts[second])
    with pytest.raises(TypeError, match="not one string"):
        encoder.token_ids("a cat")


def test_names_say_what_is_not_plain_float32(clip_folder, tiny_processor):
    encoder = load_dual_encoder(f"{clip_folder}/", device="cpu")
    assert encoder.name == f"{clip_folder}/"
    encoder.model.to(torch.bfloat16)
    assert encoder.name == f"{clip_folder} (torch, bfloat16)" and encoder.given_name == f"{clip_folder}/"


@pytest.mark.parametrize("kind", ["clip_hf", "openai", "open_clip", "transformers"])
def test_every_format_loads_as_ours(kind, tmp_path, tiny_processor, images):
    config = tiny_config("vit")
    for part in (config.text_config, config.vision_config):
        part.hidden_size, part.intermediate_size, part.num_attention_heads = 64, 256, 1  # as OpenAI's code needs
    torch.manual_seed(0)
    model = ClipHFModel(config).eval()
    path = tmp_path / ("model.pt" if kind == "openai" else "model")
    if kind == "openai":
        checkpoints.save(model, None, path, format=kind)
        encoder = load_dual_encoder(path, processor=tiny_processor)
    else:
        checkpoints.save(model, tiny_processor, path, format=kind)
        encoder = load_dual_encoder(path)
    assert type(encoder) is ClipHFEncoder
    expected = load_dual_encoder(model, processor=tiny_processor)
    assert_close(encoder.encode_images(images), expected.encode_images(images))
    assert_close(encoder.encode_texts(TEXTS), expected.encode_texts(TEXTS))


def test_siglip_folder_loads_through_the_auto_classes(siglip, clip_folder, tmp_path, images):
    model, processor = siglip
    # With a tokenizer that plain transformers knows.
    processor = SiglipProcessor(processor.image_processor, CLIPProcessor.from_pretrained(clip_folder).tokenizer)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "siglip")
    encoder = load_dual_encoder(tmp_path / "siglip", dtype="float64")
    assert type(encoder) is TransformersEncoder
    assert encoder.model.dtype == torch.float64
    assert_close(encoder.encode_images(images), load_dual_encoder(model, processor=processor).encode_images(images))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_is_what_suits_the_device(dtype, clip_folder, tiny_processor, monkeypatch):
    asked = []
    monkeypatch.setattr(dtypes, "pick_dtype", lambda device: asked.append(str(device)) or dtype)
    for options in ({"model": clip_folder}, {"model": make_tiny_model("vit"), "processor": tiny_processor}):
        assert load_dual_encoder(dtype="auto", device="cpu", **options).dtype == dtype
    assert load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor, dtype="auto").dtype == dtype
    assert asked == ["cpu"] * 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_float32_features(dtype, tiny_processor, images):
    full = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    half = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor, dtype=dtype)
    for features, expected in (
        (half.encode_images(images), full.encode_images(images)),
        (half.encode_texts(TEXTS), full.encode_texts(TEXTS)),
    ):
        assert features.dtype == torch.float32
        # Normalised after the promotion.
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(features)), rtol=0, atol=1e-6)
        torch.testing.assert_close(features, expected, rtol=0, atol=0.05)
    assert half.fingerprint != full.fingerprint


def test_fingerprint_is_that_of_weights_settings_and_processing(tmp_path, tiny_processor):
    model = make_tiny_model("vit")
    fingerprint = load_dual_encoder(model, processor=tiny_processor).fingerprint
    for name in ("a", "b"):
        checkpoints.save(model, tiny_processor, tmp_path / name, format="clip_hf")
        assert load_dual_encoder(tmp_path / name).fingerprint == fingerprint
    encoder = load_dual_encoder(model, processor=tiny_processor)
    encoder.encode_texts(TEXTS)  # leaves truncation and padding behind in the tokenizer
    assert encoder.fingerprint == fingerprint
    others = [load_dual_encoder(make_tiny_model("vit", seed=1), processor=tiny_processor).fingerprint]
    activation = make_tiny_model("vit")
    activation.config.vision_config.hidden_act = "gelu"
    others.append(load_dual_encoder(activation, processor=tiny_processor).fingerprint)
    image_processor = type(tiny_processor.image_processor)(size=IMAGE_SIZE, crop_size=IMAGE_SIZE, resample=2)
    others.append(load_dual_encoder(model, processor=(image_processor, tiny_processor.tokenizer)).fingerprint)
    with torch.no_grad():
        model.visual_projection.weight[0, 0] += 1e-6
    others.append(encoder.fingerprint)
    model.visual_projection.weight.data.mul_(2)  # torch does not count this
    others.append(encoder.fingerprint)
    model.visual_projection.weight.data[0, 1] += 1e-3  # a single value
    others.append(encoder.fingerprint)
    assert len({fingerprint, *others}) == 7


class _Doubling(ModelHook):
    def post_forward(self, module, output):
        return 2 * output


def test_hooks_and_methods_of_a_modules_own_are_in_the_fingerprint(tiny_processor):
    def roll(module, args, output=None):
        return (args[0] if output is None else output).roll(1, -1)

    model = make_tiny_model("vit")
    encoder, layer = load_dual_encoder(model, processor=tiny_processor), model.visual_projection
    fingerprint, others = encoder.fingerprint, []
    for register in (
        layer.register_forward_hook,
        layer.register_forward_pre_hook,
        model.text_projection.register_forward_hook,
        nn.modules.module.register_module_forward_hook,
    ):
        handle = register(roll)
        others.append(encoder.fingerprint)
        handle.remove()
    with_another = layer.register_forward_hook(lambda module, args, output: -output)
    others.append(encoder.fingerprint)
    with_another.remove()
    layer.forward = functools.partial(roll, layer)
    others.append(encoder.fingerprint)
    del layer.forward
    add_hook_to_module(layer, _Doubling())
    others.append(encoder.fingerprint)
    remove_hook_from_module(layer)
    for value in (1.0, -1.0):
        layer.register_buffer("sign", torch.tensor(value), persistent=False)
        others.append(encoder.fingerprint)
    del layer.sign
    assert encoder.fingerprint == fingerprint and len({fingerprint, *others}) == 1 + len(others)


def test_what_changes_nothing_is_not_in_the_fingerprint(tiny_processor, pixel_values):
    model = make_tiny_model("vit")
    encoder = load_dual_encoder(model, processor=tiny_processor)
    fingerprint = encoder.fingerprint
    model.vision_model(pixel_values, output_hidden_states=True)
    freeze(model, ["vision_tower"])
    add_hook_to_module(model.visual_projection, AlignDevicesHook("cpu"), append=True)
    add_hook_to_module(model.visual_projection, AlignDevicesHook("cpu"), append=True)
    assert any(module._forward_hooks for module in model.modules()) and "forward" in vars(model.visual_projection)
    assert any(module._forward_pre_hooks for module in model.modules())
    assert encoder.fingerprint == fingerprint
    remove_hook_from_module(model.visual_projection)
    assert "forward" in vars(model.visual_projection) and encoder.fingerprint == fingerprint


def test_what_decides_tokens_is_in_the_fingerprint(tmp_path, tiny_processor):
    tiny_processor.tokenizer.save_pretrained(tmp_path)

    def other(**options) -> ClipHFTokenizer:
        return ClipHFTokenizer.from_pretrained(tmp_path, **options)

    found = [tokenizer_digest(each) for each in (tiny_processor.tokenizer, other())]
    assert found[0] == found[1]
    found += [tokenizer_digest(other(**{name: value})) for name, value in TOKENIZER_OPTIONS.items()]
    assert len({str(each) for each in found}) == 1 + len(TOKENIZER_OPTIONS)


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer"])
def test_a_part_of_a_tokenizer_is_in_the_fingerprint(part):
    """Of a library's tokenizer, as SigLIP's: the same vocabulary, other ids."""
    parts = {"normalizer": normalizers.Lowercase(), "pre_tokenizer": pre_tokenizers.Whitespace()}
    found = []
    for own in (parts, {name: value for name, value in parts.items() if name != part}):
        backend = Tokenizer(WordLevel({"?": 0, "a": 1, "A": 2, "cat": 3, "A cat": 4, "a cat": 5}, unk_token="?"))
        for name, value in own.items():
            setattr(backend, name, value)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
        found.append((tokenizer("A cat")["input_ids"], tokenizer_digest(tokenizer)))
    assert found[0][0] != found[1][0] and found[0][1] != found[1][1]


def test_switching_adapters_changes_the_fingerprint(tiny_processor):
    from peft import LoraConfig, get_peft_model

    model = make_tiny_model("vit")
    config = LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False)
    adapted = get_peft_model(model, config)
    encoder = load_dual_encoder(model, processor=tiny_processor)
    found = [(encoder.fingerprint, encoder.encode_texts(TEXTS))]
    with adapted.disable_adapter():
        found.append((encoder.fingerprint, encoder.encode_texts(TEXTS)))
    assert not torch.allclose(found[0][1], found[1][1], atol=1e-3)
    assert found[0][0] != found[1][0]
    assert encoder.fingerprint == found[0][0]


def test_hashing_weights_is_fast():
    module = nn.Linear(4096, 4096)  # 17 million weights
    content = module.weight.detach().numpy()

    def seconds(function) -> float:
        """Of the processor, on which other programs have no influence."""
        start = time.process_time()
        function()
        return time.process_time() - start

    plain = min(seconds(lambda: hashlib.blake2b(content)) for _ in range(3))
    assert min(seconds(lambda: weights_digest(module)) for _ in range(3)) < 3 * plain


def test_damaged_weights_name_the_first_row(tiny_processor, images):
    model = make_tiny_model("vit")
    encoder = load_dual_encoder(model, processor=tiny_processor)
    with torch.no_grad():
        model.visual_projection.weight[0, 0] = torch.nan
        model.text_projection.weight[0, 0] = torch.inf
    with pytest.raises(NotFiniteError, match="image 0 hold NaN.*float32"):
        encoder.encode_images(images)
    with pytest.raises(ValueError, match="text 0 .'a cat'"):
        encoder.encode_texts(["a cat"])


def test_the_row_that_overflows_is_named(tiny_processor, images, monkeypatch):
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    prepared = encoder.prepare(images)
    prepared["pixel_values"][3] = torch.inf
    with pytest.raises(NotFiniteError) as caught:
        encoder.encode_images(prepared)
    assert caught.value.row == 3


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [([], ValueError, "no texts"), ("a cat", TypeError, "not one string"), (["a", 3], TypeError, "Text 1 is 3")],
)
def test_bad_texts(texts, error, message, tiny_processor):
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    with pytest.raises(error, match=message):
        encoder.encode_texts(texts)
    with pytest.raises(error, match=message):
        next(encoder.text_batches(texts))


def test_no_images(tiny_processor):
    with pytest.raises(ValueError, match="no images"):
        load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor).encode_images([])


def test_what_cannot_be_loaded(tmp_path, clip_folder, tiny_processor):
    with pytest.raises(OSError, match="hf download nobody/no-such-clip --local-dir"):
        load_dual_encoder("nobody/no-such-clip")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        load_dual_encoder(tmp_path / "missing.pt")
    with pytest.raises(TypeError, match="given int"):
        load_dual_encoder(3)
    with pytest.raises(TypeError, match="needs its processor"):
        load_dual_encoder(make_tiny_model("vit"))
    with pytest.raises(TypeError, match="needs a processor with an image processor and a tokenizer"):
        load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor.tokenizer)
    with pytest.raises(TypeError, match="has no `get_image_features`"):
        load_dual_encoder(nn.Linear(2, 2), processor=tiny_processor)
    with pytest.raises(TypeError, match="has no `get_image_features`"):
        load_dual_encoder(make_tiny_model("vit").text_model, processor=tiny_processor)
    with pytest.raises(ValueError, match="`dtype` is 'int8'; it must be"):
        load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor, dtype="int8")
    with pytest.raises(ValueError, match="used as it is"):
        load_dual_encoder(load_dual_encoder(clip_folder), device="cpu")
    with pytest.raises(ValueError, match="`runtime` is 'tensorrt'; it must be one of 'torch', 'onnx', 'openvino'"):
        load_dual_encoder(clip_folder, "tensorrt")
    with pytest.raises(ValueError, match="passed by its name: `processor=...`"):
        load_dual_encoder(make_tiny_model("vit"), tiny_processor)


def test_a_tower_alone_is_refused(tmp_path, clip_folder, tiny_processor):
    folder = tmp_path / "text"
    CLIPTextModel.from_pretrained(clip_folder).save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    with pytest.raises(ValueError):
        load_dual_encoder(folder)
    partial = tmp_path / "partial"
    model = ClipHFModel.from_pretrained(clip_folder)
    state = {name: value for name, value in model.state_dict().items() if "visual_projection" not in name}
    model.save_pretrained(partial, state_dict=state)
    ClipHFProcessor.from_pretrained(clip_folder).save_pretrained(partial)
    with pytest.raises(ValueError, match="lacks 1 of the model's weights .visual_projection.weight"):
        load_dual_encoder(partial)


def test_a_classifier_is_refused_as_one_and_not_for_its_tokenizer(tmp_path, tiny_processor):
    clip = make_tiny_model("vit")
    head = ClipHFForImageClassification.from_text_classifier(
        clip, torch.randn(2, clip.config.projection_dim), ["a", "b"]
    )
    head.save_pretrained(tmp_path)
    tiny_processor.image_processor.save_pretrained(tmp_path)
    task = "zero-shot-image-classification"
    for load in (
        load_dual_encoder,
        ClipHFModel.from_pretrained,
        AutoModel.from_pretrained,
        lambda folder: export_model(folder, tmp_path / "exported"),
        lambda folder: transformers.pipeline(task, model=folder),
    ):
        with pytest.raises(ValueError, match="a fixed set of classes .ClipHFForImageCl.*pipeline.'image-c"):
            load(str(tmp_path))
    assert ClipHFForImageClassification.from_pretrained(tmp_path).num_labels == 2
    ClipHFVisionModelWithProjection.from_pretrained(tmp_path)  # it has that tower


def test_open_clip_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match="pip install open_clip_torch"):
        load_dual_encoder("open_clip:ViT-B-32/openai")


class _LikeOpenClip(nn.Module):
    """A model with the interface of open_clip's, of one linear layer for each kind of input."""

    def __init__(self, visual: nn.Module):
        super().__init__()
        self.visual, self.words = visual, nn.EmbeddingBag(10, 3)
        self.logit_scale, self.logit_bias = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(-10.0))

    def encode_image(self, pixel_values):
        return self.visual(pixel_values)

    def encode_text(self, token_ids):
        return self.words(token_ids)


def test_a_model_like_open_clips(images):
    visual = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    model = _LikeOpenClip(visual)
    processor = (
        lambda image: torch.from_numpy(np.asarray(image.resize((8, 8))) / np.float32(255)).permute(2, 0, 1),
        lambda texts: torch.tensor([[len(text) % 10] * 5 for text in texts]),
    )
    encoder = load_dual_encoder(model, processor=processor)
    pixel_values = torch.stack([processor[0](image) for image in images])
    assert_close(encoder.encode_images(images), normalised(model.encode_image(pixel_values)))
    assert_close(encoder.encode_texts(TEXTS), normalised(model.encode_text(processor[1](TEXTS))))
    assert (encoder.logit_scale, encoder.logit_bias) == (pytest.approx(np.exp(2)), -10.0)
    with pytest.raises(ValueError, match="Sequential, which gives no features before the projection"):
        encoder.encode_images(images, projected=False)
    with pytest.raises(TypeError, match="processor=.preprocess, tokenizer."):
        load_dual_encoder(model, processor=processor[0])


def test_drafts_need_the_size_of_open_clips_transform(tmp_path):
    model = _LikeOpenClip(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)))
    opened = []

    def tokenize(texts: list[str]) -> torch.Tensor:
        return torch.zeros(len(texts), 5, dtype=torch.int64)

    class Transform:
        transforms = (SimpleNamespace(size=8), SimpleNamespace(size=(8, 6)), SimpleNamespace(mean=0))

        def __call__(self, image):
            opened.append(image.size)
            return torch.zeros(3, 8, 8)

    encoder = load_dual_encoder(model, processor=(Transform(), tokenize))
    encoder.set_image_options(draft=True)
    Image.new("RGB", (70, 33)).save(tmp_path / "a.jpg")
    encoder.encode_images([tmp_path / "a.jpg"])
    assert opened == [(35, 17)]
    encoder = load_dual_encoder(model, processor=(lambda image: torch.zeros(3, 8, 8), tokenize))
    with pytest.raises(ValueError, match="`draft` needs the size to which images are resized, which .* does not tell"):
        encoder.set_image_options(draft=True)
    assert not encoder.draft


def test_image_and_text_features_must_share_a_space(images):
    model = _LikeOpenClip(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)))
    processor = (lambda image: torch.ones(3, 8, 8), lambda texts: torch.ones(len(texts), 5, dtype=torch.long))
    with pytest.raises(ValueError, match="5 dimensions and text features of 3"):
        load_dual_encoder(model, processor=processor).encode_images(images)


def test_the_base_class_says_what_a_model_needs():
    with pytest.raises(TypeError, match="abstract"):
        DualEncoder(nn.Linear(2, 2), None, "none")


def test_an_encoder_prints_in_a_line(clip_folder):
    encoder = load_dual_encoder(clip_folder, device="cpu")
    assert repr(encoder) == f"{type(encoder).__name__}({encoder.name!r}, device='cpu', dtype=torch.float32)"
    encoder.model.to(torch.bfloat16)
    assert repr(encoder).endswith("dtype=torch.bfloat16)")


@pytest.mark.parametrize("device", ["tpu", 3, "meta", torch.device("meta")])
def test_a_device_that_is_not_there_is_named(device, tiny_processor):
    with pytest.raises(ValueError, match=f"The device '{device}' is not on this machine; PyTorch .* finds cpu"):
        load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor, device=device)
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor, device=torch.device("cpu"))
    assert encoder.model.device.type == "cpu"
