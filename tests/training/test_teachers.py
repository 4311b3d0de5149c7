# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel

from clip_hf import ClipHFImageProcessor, ClipHFProcessor, ClipHFTokenizer, ClipHFVisionModelWithProjection
from clip_hf.embedding import load_dual_encoder
from clip_hf.training.teachers import Teachers, load_teachers
from tiny_models import CAPTIONS, IMAGE_SIZE, MORE_TEXTS, as_transformers_clip, make_tiny_model


TEXTS = [CAPTIONS[0], MORE_TEXTS[0], CAPTIONS[0]]


@pytest.fixture
def crops() -> torch.Tensor:
    """Three crops (3, 3, 64, 64), uint8."""
    coarse = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC) for pixels in coarse]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def encoder_of(tokenizer, tower="vit", size=IMAGE_SIZE, resize_to=None, **settings):
    """A tiny model with an image processor of its own."""
    image_processor = ClipHFImageProcessor(
        size={"shortest_edge": resize_to or size}, crop_size={"height": size, "width": size}, **settings
    )
    config = make_tiny_model(tower).config.vision_config.to_dict() | {"image_size": size}
    model = make_tiny_model(tower, seed=3, vision_config=config)
    return load_dual_encoder(model, processor=ClipHFProcessor(image_processor, tokenizer))


def test_a_teacher_sees_the_crops_pixel_for_pixel_in_its_own_normalisation(crops, tiny_processor):
    # It would resize to 80 pixels and cut out the middle, and has another mean than the student.
    teacher = encoder_of(tiny_processor.tokenizer, resize_to=80, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7])
    found = Teachers([teacher], tiny_processor.image_processor).features(crops, TEXTS)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]))
    pixels = (crops.float() / 255 - mean) / std
    with torch.no_grad():
        images = teacher.model.encode_image(pixels)
    assert found.shape == (3, 32) and found.dtype == torch.float32
    assert torch.equal(found[:, :16], images)
    assert torch.equal(found[:, 16:], teacher.encode_texts(TEXTS))
    assert torch.dist(found[0, :16], found[1, :16]) > 0.03


def test_a_teacher_of_another_library_with_another_tokenizer(crops, tiny_processor):
    model = as_transformers_clip(make_tiny_model("vit"))
    assert isinstance(model, CLIPModel)
    tokenizer = ClipHFTokenizer.train(MORE_TEXTS, vocab_size=520, context_length=24)
    processor = CLIPImageProcessor(size={"shortest_edge": 72}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    tokenizer.model_max_length = 24
    teacher = load_dual_encoder(model, processor=(processor, tokenizer))
    found = Teachers([teacher], tiny_processor.image_processor).features(crops, TEXTS)
    pixels = processor(list(crops), do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        images = torch.nn.functional.normalize(model.get_image_features(pixels).pooler_output, dim=-1)
    assert torch.allclose(found[:, :16], images, atol=1e-6)
    assert torch.equal(found[:, 16:], teacher.encode_texts(TEXTS))


def test_several_teachers_in_order_and_their_records(crops, tiny_processor):
    tokenizer = tiny_processor.tokenizer
    encoders = [encoder_of(tokenizer), encoder_of(tokenizer, tower="resnet")]
    teachers = Teachers(encoders, tiny_processor.image_processor)
    both = teachers.features(crops, TEXTS)
    alone = [Teachers([each], tiny_processor.image_processor).features(crops, TEXTS) for each in encoders]
    assert torch.equal(both, torch.cat(alone, dim=1))
    assert [record.dim for record in teachers.records] == [16, 16]
    assert [record.fingerprint for record in teachers.records] == [each.fingerprint for each in encoders]
    assert teachers.records[0].logit_scale == pytest.approx(1 / 0.07)


def test_a_teacher_has_no_gradient_and_stays_in_evaluation_mode(crops, tiny_processor):
    encoder = encoder_of(tiny_processor.tokenizer, tower="resnet")
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    found = Teachers([encoder], tiny_processor.image_processor).features(crops, TEXTS)
    assert not found.requires_grad and not encoder.model.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.model.state_dict().items())


def test_another_image_size_is_refused_or_resized(crops, tiny_processor):
    teacher = encoder_of(tiny_processor.tokenizer, size=96)
    with pytest.raises(ValueError, match="takes images of 96 x 96 pixels, and the student's crops have 64 x 64 "):
        Teachers([teacher], tiny_processor.image_processor)
    found = Teachers([teacher], tiny_processor.image_processor, resize=True).features(crops, TEXTS)
    resized = [
        Image.fromarray(crop.permute(1, 2, 0).numpy()).resize((96, 96), Image.Resampling.BICUBIC) for crop in crops
    ]
    assert torch.equal(found[:, :16], teacher.encode_images(resized))


def test_processing_that_is_not_pixel_by_pixel_is_refused(tiny_processor):
    teacher = encoder_of(tiny_processor.tokenizer)
    prepare = teacher.prepare
    teacher.prepare = lambda images: {"pixel_values": (lambda x: x - x.mean())(prepare(images)["pixel_values"])}
    with pytest.raises(ValueError, match="does not prepare images pixel by pixel"):
        Teachers([teacher], tiny_processor.image_processor)
    teacher.prepare = lambda images: {**prepare(images), "pixel_mask": torch.ones(1)}
    with pytest.raises(ValueError, match="takes pixel_values, pixel_mask, not only images"):
        Teachers([teacher], tiny_processor.image_processor)


def test_what_is_no_teacher_is_named(tiny_processor, tmp_path):
    with pytest.raises(ValueError, match="no teacher; give at least one"):
        Teachers([], tiny_processor.image_processor)
    with pytest.raises(OSError, match=f"The teacher {tmp_path}/none cannot be used"):
        load_teachers([f"{tmp_path}/none"], tiny_processor.image_processor)
    ClipHFVisionModelWithProjection(make_tiny_model("vit").config.vision_config).save_pretrained(tmp_path / "images")
    tiny_processor.save_pretrained(tmp_path / "images")
    with pytest.raises(ValueError, match="images cannot be used; it must be a CLIP with an image and a text encoder"):
        load_teachers([str(tmp_path / "images")], tiny_processor.image_processor)
