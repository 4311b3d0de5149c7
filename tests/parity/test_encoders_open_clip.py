# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""open_clip's models behind the interface of evaluations: features as it gives them, and before the projection."""

import json
import logging

import pytest
import torch
from openai_models import calibrate_model, config_of, openai_model

import references
from clip_hf import ClipHFImageProcessor, checkpoints
from clip_hf.checkpoints.tokenizer_formats import OPENAI_MERGES
from clip_hf.embedding.load_encoder import load_dual_encoder
from clip_hf.embedding.open_clip_encoder import OpenClipEncoder
from tiny_models import CAPTIONS


TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
PLAIN = {"image_size": 64, "width": 64, "layers": 2, "head_width": 64}
VISION = {
    "vit": {**PLAIN, "patch_size": 16},
    "vit-average": {**PLAIN, "patch_size": 16, "pool_type": "avg", "final_ln_after_pool": True},
    "vit-attention": {
        **PLAIN,
        "patch_size": 16,
        "attentional_pool": True,
        "attn_pooler_heads": 4,
    },
    "resnet": {**PLAIN, "layers": [1, 1, 1, 1], "width": 16},
    "timm-linear": {"timm_model_name": "test_vit", "timm_proj": "linear", "timm_pool": "avg", "image_size": 160},
    "timm-mlp": {"timm_model_name": "test_resnet", "timm_proj": "mlp", "timm_pool": "avg", "image_size": 64},
    "timm-classifier": {"timm_model_name": "test_vit", "timm_proj": "", "timm_pool": "avg", "image_size": 160},
    "timm-none": {"timm_model_name": "test_vit", "timm_proj": "none", "timm_pool": "avg", "image_size": 160},
    "timm-attention": {"timm_model_name": "resnet18", "timm_proj": "", "timm_pool": "rot_attn", "image_size": 224},
}


@pytest.fixture
def open_clip():
    logging.getLogger().setLevel(logging.WARNING)
    return references.load_open_clip()


@pytest.fixture
def make(open_clip, tmp_path):
    """`make(tower)`: the name of a random model that open_clip knows, with a file of its weights."""

    def make(tower: str) -> str:
        dim = 64 if tower == "timm-none" else 32
        path = tmp_path / f"tiny-{tower}.json"
        path.write_text(json.dumps({"embed_dim": dim, "vision_cfg": VISION[tower], "text_cfg": TEXT}))
        open_clip.add_model_config(path)
        torch.manual_seed(0)
        model = open_clip.create_model(f"tiny-{tower}", load_weights=False)
        if not tower.startswith("timm"):
            calibrate_model(model, VISION[tower]["image_size"])
        torch.save(model.state_dict(), tmp_path / "weights.pt")
        return f"open_clip:tiny-{tower}/{tmp_path / 'weights.pt'}"

    return make


def raw_projection(visual: torch.nn.Module, tower: str):
    """The tower's projection as a function, by its own parts."""
    if tower == "resnet":
        return visual.attnpool.c_proj
    if tower == "timm-classifier":
        return visual.trunk.get_classifier()
    return visual.head if tower.startswith("timm") else lambda features: features @ visual.proj


@pytest.mark.parametrize("tower", [tower for tower in VISION if tower != "timm-attention"])
def test_features_are_open_clips(tower, make, open_clip, images):
    name = make(tower)
    encoder = load_dual_encoder(name, device="cpu")
    assert type(encoder) is OpenClipEncoder and encoder.name == name
    model, _, preprocess = open_clip.create_model_and_transforms(
        f"tiny-{tower}", pretrained=name.partition("/")[2], device="cpu"
    )
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"tiny-{tower}")
    with torch.no_grad():
        pixels = torch.stack([preprocess(image) for image in images])
        image_features, text_features = model.encode_image(pixels), model.encode_text(tokenizer(CAPTIONS))
        expected = torch.nn.functional.normalize(image_features, dim=-1)
        assert (expected[0] - expected[1]).norm() > 1e-3
        torch.testing.assert_close(encoder.encode_images(images), expected, rtol=0, atol=2e-6)
        before = encoder.encode_images(images, projected=False)
        projected = raw_projection(model.visual, tower)(before)
        torch.testing.assert_close(projected, image_features, rtol=1e-4, atol=1e-5)
    assert before.shape[1] > 32 or tower == "vit-attention"  # whose pool has the width of the projection already
    expected = torch.nn.functional.normalize(text_features, dim=-1)
    repeated = encoder.encode_texts([*CAPTIONS, *CAPTIONS])
    torch.testing.assert_close(repeated, torch.cat([expected, expected]), rtol=0, atol=2e-6)
    assert encoder.logit_scale == pytest.approx(model.logit_scale.exp().item(), rel=1e-6)
    again = load_dual_encoder(model, processor=(preprocess, tokenizer))
    assert again.fingerprint == encoder.fingerprint
    with torch.no_grad():
        model.logit_scale += 1
    assert again.fingerprint != encoder.fingerprint


def test_what_ends_with_its_projection_is_refused(make, images):
    encoder = load_dual_encoder(make("timm-attention"), device="cpu")
    assert encoder.encode_images(images).shape == (len(images), 32)
    with pytest.raises(ValueError, match="attention pool.*projected=True"):
        encoder.encode_images(images, projected=False)


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_the_same_weights_through_our_model(tower, make, open_clip, images):
    name = make(tower)
    theirs = load_dual_encoder(name, device="cpu")
    config = open_clip.get_model_config(f"tiny-{tower}")
    model, processor = checkpoints.load(name.partition("/")[2], config=config, preprocess={}, merges=OPENAI_MERGES)
    assert isinstance(processor.image_processor, ClipHFImageProcessor)
    ours = load_dual_encoder(model, processor=processor)
    for projected in (True, False):
        expected = theirs.encode_images(images, projected=projected)
        actual = ours.encode_images(images, projected=projected)
        assert (actual - expected).norm() <= 1e-4 * expected.norm()
    torch.testing.assert_close(ours.encode_texts(CAPTIONS), theirs.encode_texts(CAPTIONS), rtol=0, atol=5e-6)
    assert ours.logit_scale == pytest.approx(theirs.logit_scale, rel=1e-6)


@pytest.mark.parametrize("shape", ["small ResNet", "small ViT"])
def test_openais_own_class(shape, images):
    config = config_of(shape)
    model = openai_model(config)
    transform = references.openai_transform(config.vision_config.image_size)
    encoder = load_dual_encoder(model, processor=(transform, references.load_open_clip().get_tokenizer("RN50")))
    with torch.no_grad():
        image_features = model.encode_image(torch.stack([transform(image) for image in images]))
    before = encoder.encode_images(images, projected=False)
    visual = model.visual
    projected = visual.attnpool.c_proj(before) if hasattr(visual, "attnpool") else before @ visual.proj
    torch.testing.assert_close(projected, image_features, rtol=1e-4, atol=1e-5)
    assert encoder.encode_texts(CAPTIONS).shape == (len(CAPTIONS), 32)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype, make, images):
    name = make("vit")
    full, half = load_dual_encoder(name, device="cpu"), load_dual_encoder(name, device="cpu", dtype=dtype)
    for projected in (True, False):
        expected, actual = (each.encode_images(images, projected=projected) for each in (full, half))
        assert actual.dtype == torch.float32
        assert (actual - expected).norm() <= 0.05 * expected.norm()
    assert half.encode_texts(CAPTIONS).dtype == torch.float32
    assert half.fingerprint != full.fingerprint


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("open_clip:ViT-B-3/openai", ValueError, "no architecture 'ViT-B-3'. Did you mean 'ViT-B-32'"),
        ("open_clip:ViT-B-32", ValueError, "Name the weights.*openai"),
        ("open_clip:ViT-B-32/no-such-tag", OSError, "cannot load ViT-B-32"),
    ],
)
def test_what_cannot_be_loaded(name, error, message, open_clip):
    with pytest.raises(error, match=message):
        load_dual_encoder(name)
