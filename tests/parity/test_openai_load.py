# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What we write in OpenAI's format, opened by OpenAI's own `clip.load`."""

import pytest
import torch
from openai_models import assert_bit_equal, in_float64, openai_model, relative_difference, token_ids
from PIL import Image

import references
from clip_hf import ARCHITECTURES, ClipHFConfig, checkpoints


@pytest.fixture(scope="module")
def clip():
    """OpenAI's module, as `import clip` gives it."""
    return references.load_openai_clip_module()


def narrow_config(name: str) -> ClipHFConfig:
    """A published shape with its depths, its images and its vocabulary, but few channels."""
    text, vision = ({**ARCHITECTURES[name][part]} for part in ("text_config", "vision_config"))
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2}
    vision |= {"width": 8} if "width" in vision else sizes
    return ClipHFConfig(text_config=text | sizes, vision_config=vision, projection_dim=32)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_clip_load_opens_all_nine_shapes(name, precision, clip, tmp_path):
    torch.manual_seed(0)
    config = narrow_config(name)
    theirs = openai_model(config, calibrate=precision == "float16")
    if precision == "float16":
        references.load_openai_model_module().convert_weights(theirs)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    checkpoints.convert(tmp_path / "theirs.pt", tmp_path / "ours")
    checkpoints.convert(tmp_path / "ours", tmp_path / "back.pt", "openai")

    weights = torch.jit.load(str(tmp_path / "back.pt")).state_dict()
    sizes = [weights.pop(key).item() for key in ("input_resolution", "context_length", "vocab_size")]
    assert sizes == [config.vision_config.image_size, 77, 49408]
    assert_bit_equal(weights, theirs.state_dict())
    model, preprocess = clip.load(str(tmp_path / "back.pt"), device="cpu", jit=False)
    # OpenAI's code halves the weights of any file when it loads them, and makes them float32 on a CPU.
    references.load_openai_model_module().convert_weights(theirs)
    assert_bit_equal(model.state_dict(), theirs.float().state_dict())

    ours, processor = checkpoints.load(tmp_path / "back.pt")
    image, texts = Image.effect_noise((300, 260), 80).convert("RGB"), ["a photo of a cat", "two dogs"]
    inputs = processor(text=texts, images=image, padding="max_length", return_tensors="pt")
    assert torch.equal(preprocess(image), inputs.pixel_values[0])
    lengths = inputs.attention_mask.sum(dim=1)
    for row, length in enumerate(lengths):
        assert torch.equal(clip.tokenize(texts)[row, :length].long(), inputs.input_ids[row, :length])
    if precision == "float16":  # a model whose features say something
        size = config.vision_config.image_size
        pixels, ids = torch.randn(2, 3, size, size) + 3 * torch.randn(2, 3, 1, 1), token_ids(config, 2)
        with torch.no_grad():
            logits = in_float64(model)(pixels.double(), ids)[0]
            assert relative_difference(logits[0], logits[1]) > 0.05
            assert relative_difference(ours.double()(ids, pixels.double()).logits_per_image, logits) <= 1e-10


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_clip_load_as_a_compiled_program_is_not_promised(clip, tmp_path):
    torch.save(openai_model(narrow_config("ViT-B/32"), calibrate=False).state_dict(), tmp_path / "theirs.pt")
    checkpoints.convert(tmp_path / "theirs.pt", tmp_path / "ours")
    checkpoints.convert(tmp_path / "ours", tmp_path / "back.pt", "openai")
    with pytest.raises(AttributeError, match="has no attribute 'encode_image'"):
        clip.load(str(tmp_path / "back.pt"), device="cpu", jit=True)
