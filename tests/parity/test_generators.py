# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Our towers inside tiny pipelines of diffusers, exported for transformers and as they are."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
)

import references
from clip_hf import ClipHFTextEncoder, ClipHFTextModelWithProjection, ClipHFVisionModelWithProjection, checkpoints
from clip_hf.guidance import ClipGuidance
from tiny_models import CAPTIONS, CONTEXT_LENGTH, IMAGE_SIZE, make_tiny_model


PROMPT = CAPTIONS[0]
WIDTH, PROJECTED = 32, 16


@pytest.fixture(scope="module")
def diffusers():
    module = references.load_diffusers()
    module.utils.logging.set_verbosity_error()
    return module


@pytest.fixture(scope="module")
def model():
    return make_tiny_model("vit")


@pytest.fixture(scope="module")
def folder(model, tiny_processor, tmp_path_factory):
    """Each tower as a folder of transformers, named as in `TOWERS`."""
    base = tmp_path_factory.mktemp("towers")
    for tower in checkpoints.TOWERS:
        checkpoints.save(model, tiny_processor, base / tower, format="transformers", tower=tower)
    return base


@pytest.fixture
def text_encoder(model):
    """A text encoder of ours by the model's weights."""
    return as_part(ClipHFTextEncoder, model)


def as_part(cls, model):
    config = model.config.vision_config if "Vision" in cls.__name__ else model.config.text_config
    part = cls(copy.deepcopy(config)).eval()
    part.load_state_dict({name: value for name, value in model.state_dict().items() if name in part.state_dict()})
    return part


def unet(diffusers, width, **options):
    torch.manual_seed(1)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        norm_num_groups=4,
        attention_head_dim=4,
        **options,
    ).eval()


def common_parts(diffusers):
    torch.manual_seed(2)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()
    return {"vae": vae, "scheduler": diffusers.DDIMScheduler(clip_sample=False, steps_offset=1)}


def stable_diffusion(diffusers, text_encoder, tokenizer, **parts):
    parts = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False} | parts
    pipeline = diffusers.StableDiffusionPipeline(
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet(diffusers, WIDTH),
        **common_parts(diffusers),
        **parts,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline, prompt=PROMPT, **options):
    """The picture (16, 16, 3) of two steps from fixed noise."""
    options = {"height": 16, "width": 16, "num_inference_steps": 2, "output_type": "np"} | options
    return pipeline(prompt, generator=torch.Generator().manual_seed(0), **options).images[0]


def padded_ids(tiny_processor, prompt=PROMPT):
    options = {"padding": "max_length", "max_length": CONTEXT_LENGTH, "return_tensors": "pt"}
    return tiny_processor.tokenizer(prompt, **options).input_ids


def same(found, expected, tolerance=2e-5):
    """Whether two arrays or tensors differ by at most the tolerance anywhere."""
    found, expected = (torch.as_tensor(each).detach().double() for each in (found, expected))
    return float((found - expected).abs().max()) <= tolerance


# -------------------------------------------------------------------------------------------- Stable Diffusion 1 and 2


def test_exported_text_tower_gives_our_features(diffusers, folder, model, tiny_processor):
    encoder, tokenizer = CLIPTextModel.from_pretrained(folder / "text"), CLIPTokenizer.from_pretrained(folder / "text")
    pipeline = stable_diffusion(diffusers, encoder, tokenizer)
    embeds, _ = pipeline.encode_prompt(PROMPT, "cpu", 1, False)
    with torch.no_grad():
        expected = model.text_model(padded_ids(tiny_processor)).last_hidden_state
    assert embeds.shape == (1, CONTEXT_LENGTH, WIDTH)
    assert same(embeds, expected)
    assert np.isfinite(draw(pipeline)).all()
    assert not same(draw(pipeline), draw(pipeline, CAPTIONS[1]), 1e-4)


def test_our_encoder_draws_the_same_pictures(diffusers, folder, text_encoder, tiny_tokenizer):
    theirs = stable_diffusion(
        diffusers, CLIPTextModel.from_pretrained(folder / "text"), CLIPTokenizer.from_pretrained(folder / "text")
    )
    ours = stable_diffusion(diffusers, text_encoder, tiny_tokenizer)
    assert same(draw(ours), draw(theirs))
    assert same(draw(ours, negative_prompt=CAPTIONS[3]), draw(theirs, negative_prompt=CAPTIONS[3]))


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_clip_skip(diffusers, text_encoder, tiny_processor, model, clip_skip):
    pipeline = stable_diffusion(diffusers, text_encoder, tiny_processor.tokenizer)
    embeds, _ = pipeline.encode_prompt(PROMPT, "cpu", 1, False, clip_skip=clip_skip)
    with torch.no_grad():
        output = model.text_model(padded_ids(tiny_processor), output_hidden_states=True)
        expected = model.text_model.final_layer_norm(output.hidden_states[-1 - clip_skip])
    torch.testing.assert_close(embeds, expected)
    assert not same(draw(pipeline, clip_skip=clip_skip), draw(pipeline), 1e-4)


def test_a_saved_pipeline_comes_back(diffusers, text_encoder, folder, tmp_path):
    tokenizer = CLIPTokenizer.from_pretrained(folder / "text")
    pipeline = stable_diffusion(diffusers, text_encoder, tokenizer)
    pipeline.save_pretrained(tmp_path)
    back = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path)
    back.set_progress_bar_config(disable=True)
    assert isinstance(back.text_encoder, ClipHFTextEncoder)
    assert same(draw(back, clip_skip=1), draw(pipeline, clip_skip=1))


@pytest.mark.parametrize("kind", ["theirs", "ours"])
def test_textual_inversion(diffusers, folder, text_encoder, kind, model, tmp_path):
    encoder = CLIPTextModel.from_pretrained(folder / "text") if kind == "theirs" else text_encoder
    pipeline = stable_diffusion(diffusers, encoder, CLIPTokenizer.from_pretrained(folder / "text"))
    before = draw(pipeline)
    learned = torch.randn(2, WIDTH)
    save_file({"<toy>": learned}, tmp_path / "learned.safetensors")
    pipeline.load_textual_inversion(str(tmp_path), weight_name="learned.safetensors")
    ids = pipeline.tokenizer("<toy> <toy>_1", add_special_tokens=False).input_ids
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight[ids], learned)
    assert same(draw(pipeline), before)
    embeds, _ = pipeline.encode_prompt("a photo of <toy>", "cpu", 1, False)
    table = model.text_model.embeddings.token_embedding.weight
    extended = copy.deepcopy(model.text_model)
    extended.embeddings.token_embedding = torch.nn.Embedding.from_pretrained(torch.cat([table.detach(), learned]))
    options = {"padding": "max_length", "max_length": CONTEXT_LENGTH, "return_tensors": "pt"}
    with torch.no_grad():
        extended.config.vocab_size += 2
        ids = pipeline.tokenizer("a photo of <toy> <toy>_1", **options).input_ids
        assert same(embeds, extended(ids).last_hidden_state)


def lora_file(path, prefix, model):
    """A LoRA of rank 2 of the text encoder's first layer, and the weights it gives that layer."""
    torch.manual_seed(5)
    changed, tensors = copy.deepcopy(model), {}
    attention = changed.text_model.encoder.layers[0].self_attn
    for name in ("q_proj", "v_proj"):
        down, up = torch.randn(2, WIDTH), torch.randn(WIDTH, 2)
        key = f"text_encoder.{prefix}encoder.layers.0.self_attn.{name}"
        tensors |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
        getattr(attention, name).weight.data += up @ down
    save_file(tensors, path)
    return changed


@pytest.mark.parametrize(("kind", "prefix"), [("theirs", "text_model."), ("theirs", ""), ("ours", "text_model.")])
def test_lora_on_the_text_encoder(diffusers, folder, text_encoder, kind, prefix, model, tiny_processor, tmp_path):
    encoder = CLIPTextModel.from_pretrained(folder / "text") if kind == "theirs" else text_encoder
    pipeline = stable_diffusion(diffusers, encoder, CLIPTokenizer.from_pretrained(folder / "text"))
    changed = lora_file(tmp_path / "lora.safetensors", prefix, model)
    pipeline.load_lora_weights(str(tmp_path), weight_name="lora.safetensors")
    embeds, _ = pipeline.encode_prompt(PROMPT, "cpu", 1, False)
    with torch.no_grad():
        ids = padded_ids(tiny_processor)
        assert same(embeds, changed.text_model(ids).last_hidden_state, 1e-4)
        assert not same(embeds, model.text_model(ids).last_hidden_state, 1e-2)
    pipeline.unload_lora_weights()
    embeds, _ = pipeline.encode_prompt(PROMPT, "cpu", 1, False)
    with torch.no_grad():
        assert same(embeds, model.text_model(ids).last_hidden_state)


def test_our_encoder_with_names_that_lack_text_model(diffusers, text_encoder, tiny_tokenizer, model, tmp_path):
    """diffusers does not bring them into line; docs/explain/generators.md says what to do."""
    pipeline = stable_diffusion(diffusers, text_encoder, tiny_tokenizer)
    lora_file(tmp_path / "lora.safetensors", "", model)
    with pytest.raises(IndexError):
        pipeline.load_lora_weights(str(tmp_path), weight_name="lora.safetensors")


# ---------------------------------------------------------------------------------------------------------------- SDXL


@pytest.mark.parametrize("kind", ["theirs", "ours"])
@pytest.mark.parametrize("clip_skip", [None, 1])
def test_two_towers_of_sdxl(diffusers, folder, text_encoder, kind, clip_skip, model, tiny_processor):
    tokenizer = CLIPTokenizer.from_pretrained(folder / "text")
    encoders = {
        "theirs": lambda: (
            CLIPTextModel.from_pretrained(folder / "text"),
            CLIPTextModelWithProjection.from_pretrained(folder / "text_with_projection"),
        ),
        "ours": lambda: (text_encoder, as_part(ClipHFTextModelWithProjection, model)),
    }[kind]()
    options = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + PROJECTED,
    }
    pipeline = diffusers.StableDiffusionXLPipeline(
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet(diffusers, 2 * WIDTH, **options),
        **common_parts(diffusers),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    embeds, _, pooled, _ = pipeline.encode_prompt(
        PROMPT, device="cpu", do_classifier_free_guidance=False, clip_skip=clip_skip
    )
    with torch.no_grad():
        output = model.get_text_features(padded_ids(tiny_processor), output_hidden_states=True)
    hidden = output.hidden_states[-2 - (clip_skip or 0)]
    assert same(embeds, torch.cat([hidden, hidden], dim=-1))
    assert same(pooled, output.pooler_output)
    assert np.isfinite(draw(pipeline, clip_skip=clip_skip)).all()


# -------------------------------------------------------------------------------------------------------- image towers


@pytest.mark.parametrize("kind", ["theirs", "ours"])
def test_image_tower_of_ip_adapter(diffusers, folder, text_encoder, kind, model, tiny_processor, images, tmp_path):
    tokenizer = CLIPTokenizer.from_pretrained(folder / "text")
    (tmp_path / "models").mkdir()
    if kind == "theirs":
        checkpoints.save(
            model,
            tiny_processor,
            tmp_path / "models" / "image_encoder",
            format="transformers",
            tower="vision_with_projection",
        )
        pipeline = stable_diffusion(diffusers, text_encoder, tokenizer)
    else:
        image_processor = tiny_processor.image_processor
        parts = {
            "image_encoder": as_part(ClipHFVisionModelWithProjection, model),
            "feature_extractor": image_processor,
        }
        pipeline = stable_diffusion(diffusers, text_encoder, tokenizer, **parts)
    torch.manual_seed(6)
    adapter = {
        "image_proj.proj.weight": torch.randn(4 * WIDTH, PROJECTED),
        "image_proj.proj.bias": torch.randn(4 * WIDTH),
        "image_proj.norm.weight": torch.ones(WIDTH),
        "image_proj.norm.bias": torch.zeros(WIDTH),
    }
    crossing = [module for name, module in pipeline.unet.named_modules() if name.endswith("attn2")]
    for place, module in enumerate(crossing):
        shape = module.to_k.weight.shape
        for name in ("to_k_ip", "to_v_ip"):
            adapter[f"ip_adapter.{2 * place + 1}.{name}.weight"] = torch.randn(shape)
    save_file(adapter, tmp_path / "models" / "adapter.safetensors")
    pipeline.load_ip_adapter(str(tmp_path), subfolder="models", weight_name="adapter.safetensors")
    expected_class = CLIPVisionModelWithProjection if kind == "theirs" else ClipHFVisionModelWithProjection
    assert isinstance(pipeline.image_encoder, expected_class)
    square = images[1]  # has the model's size, so that no processor resizes
    embeds, _ = pipeline.encode_image(square, "cpu", 1)
    with torch.no_grad():
        pixel_values = tiny_processor(images=square, return_tensors="pt").pixel_values
        expected = model.get_image_features(pixel_values).pooler_output
    assert same(embeds, expected, 1e-4)
    other = Image.fromarray(255 - np.asarray(square))
    assert not same(draw(pipeline, ip_adapter_image=square), draw(pipeline, ip_adapter_image=other), 1e-4)


@pytest.mark.parametrize("kind", ["theirs", "ours"])
def test_safety_checker(diffusers, folder, text_encoder, kind, model, tiny_processor, images):
    """Made of our image tower and the embeddings of what is not wanted."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    config = CLIPConfig.from_dict(
        {
            "vision_config": CLIPVisionModel.from_pretrained(folder / "vision").config.to_dict(),
            "projection_dim": PROJECTED,
        }
    )
    checker = StableDiffusionSafetyChecker(config).eval()
    checker.vision_model = (
        CLIPVisionModel.from_pretrained(folder / "vision") if kind == "theirs" else copy.deepcopy(model.vision_model)
    )
    checker.visual_projection.load_state_dict(model.visual_projection.state_dict())
    pipeline = stable_diffusion(
        diffusers,
        text_encoder,
        CLIPTokenizer.from_pretrained(folder / "text"),
        safety_checker=checker,
        feature_extractor=CLIPImageProcessor.from_pretrained(folder / "vision"),
        requires_safety_checker=True,
    )
    with torch.no_grad():
        concepts = model.encode_text(**tiny_processor(text=CAPTIONS, return_tensors="pt"))
        embeds = model.encode_image(tiny_processor(images=[images[1]], return_tensors="pt").pixel_values)
        cosines = (concepts @ embeds[0]).tolist()
    checker.concept_embeds.data[: len(concepts)] = concepts
    checker.special_care_embeds_weights.data.fill_(2.0)
    checker.concept_embeds_weights.data.fill_(2.0)
    picture = np.asarray(images[1], dtype=np.float32)[None] / 255
    highest = int(np.argmax(cosines))
    for margin, flagged in ((-0.01, True), (0.01, False)):
        checker.concept_embeds_weights.data[highest] = cosines[highest] + margin
        out, found = pipeline.run_safety_checker(picture.copy(), "cpu", torch.float32)
        assert found == [flagged]
        assert bool((out == 0).all()) == flagged


# ------------------------------------------------------------------------------------------------------------ guidance


def test_guidance_through_the_decoder(diffusers, model, tiny_processor):
    """The gradient of the loss with respect to a pipeline's latents, which a step along it lowers."""
    vae = common_parts(diffusers)["vae"].requires_grad_(False)
    guidance = ClipGuidance(model, tiny_processor, [PROMPT], whole=True)
    torch.manual_seed(8)
    latents = torch.randn(1, 4, 8, 8)

    def loss_of(latents):
        return guidance((vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)).sum()

    latents.requires_grad_()
    loss = loss_of(latents)
    (gradient,) = torch.autograd.grad(loss, latents)
    assert gradient.norm() > 0
    with torch.no_grad():
        assert loss_of(latents - 0.1 * gradient / gradient.norm()) < loss
    assert IMAGE_SIZE == guidance.model.config.vision_config.image_size
