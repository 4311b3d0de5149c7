# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The video model: its heads against a plain reference, where they start, what they learn, and how they are kept."""

import math

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification

from clip_hf import (
    ClipHFConfig,
    ClipHFForVideoClassification,
    ClipHFModel,
    ClipHFVideoConfig,
    ClipHFVideoModel,
    checkpoints,
)
from clip_hf.checkpoints.reading import read_checkpoint
from clip_hf.export.sources import check_exportable
from clip_hf.model.configuration_clip_hf_video import TEMPORAL_HEADS
from plain_video_heads import clip_embedding
from tiny_models import IMAGE_SIZE, make_tiny_model, tiny_config


TRAINED_HEADS = TEMPORAL_HEADS[1:]
FRAMES = 4


def make_video_model(head: str, tower: str = "vit", **options) -> ClipHFVideoModel:
    torch.manual_seed(0)
    return ClipHFVideoModel.from_clip(make_tiny_model(tower), head, num_frames=FRAMES, **options)


@torch.no_grad()
def randomise(head: nn.Module) -> None:
    for parameter in head.parameters():
        parameter.copy_(0.5 * torch.randn(parameter.shape))


@pytest.fixture
def clips() -> torch.Tensor:
    """Three clips of four frames that differ."""
    generator = torch.Generator().manual_seed(3)
    casts = 3 * torch.randn(3, FRAMES, 3, 1, 1, generator=generator)
    return torch.randn(3, FRAMES, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator) + casts


# ------------------------------------------------------------------------------------------------------- the reference


@pytest.mark.parametrize("frames", [FRAMES, 1, 3, 7])
@pytest.mark.parametrize("head", TEMPORAL_HEADS)
def test_heads_equal_the_plain_reference(head, frames, clips):
    """Value and gradients, in float64, of random weights; also for other numbers of frames than the model's."""
    model = make_video_model(head, temporal_num_layers=2).double()
    randomise(model.temporal_head)
    clips = torch.cat([clips, clips.flip(1)], dim=1)[:, :frames].double()
    features = ClipHFModel.get_image_features(_as_image_model(model), clips.flatten(0, 1)).pooler_output
    weights = dict(model.temporal_head.named_parameters())
    expected = torch.stack(
        [clip_embedding(rows, weights, model.config) for rows in features.unflatten(0, (3, frames))]
    )
    embeds = model.encode_video(clips)
    torch.testing.assert_close(embeds, expected, rtol=0, atol=1e-12)
    direction = torch.randn_like(embeds)
    inputs = [*weights.values(), model.visual_projection.weight]
    ours = torch.autograd.grad((embeds * direction).sum(), inputs)
    plain = torch.autograd.grad((expected * direction).sum(), inputs)
    for value, reference in zip(ours, plain, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-8, atol=1e-12)


def _as_image_model(model: ClipHFVideoModel) -> ClipHFModel:
    config = ClipHFConfig.from_dict({**model.config.to_dict(), "model_type": "clip_hf"})
    image_model = ClipHFModel(config).to(model.dtype).eval()
    image_model.vision_model, image_model.visual_projection = model.vision_model, model.visual_projection
    return image_model


def test_meanp_is_the_normalised_mean_of_normalised_frames(tower, clips):
    image_model = make_tiny_model(tower)
    model = ClipHFVideoModel.from_clip(image_model)
    frames = image_model.encode_image(clips.flatten(0, 1)).unflatten(0, (3, FRAMES))
    expected = nn.functional.normalize(frames.mean(dim=1), dim=-1)
    torch.testing.assert_close(model.encode_video(clips), expected, rtol=0, atol=1e-6)
    assert torch.equal(model.encode_video(clips[:, :1]), model.encode_video(clips[:, 0]))  # a picture is a clip
    torch.testing.assert_close(model.encode_image(clips[:, 0]), image_model.encode_image(clips[:, 0]))


def test_the_output_is_that_of_clips(clips, text_inputs):
    model = make_video_model("LSTM")
    output = model(**text_inputs, pixel_values=clips, return_loss=False)
    assert output.video_embeds is output.image_embeds and output.logits_per_video is output.logits_per_image
    assert output.logits_per_video.shape == (3, 4)
    assert output.vision_model_output.pooler_output.shape == (3, 16)
    assert output.vision_model_output.last_hidden_state.shape[0] == 3 * FRAMES
    assert torch.equal(model.get_video_features(clips).pooler_output, output.vision_model_output.pooler_output)
    same = model.get_video_features(clips, pooled_only=True)
    torch.testing.assert_close(same.pooler_output, output.vision_model_output.pooler_output)
    loss = model(**{k: v[:3] for k, v in text_inputs.items()}, pixel_values=clips, return_loss=True).loss
    assert loss.isfinite()


# ----------------------------------------------------------------------------------------------------------- the start


@pytest.mark.parametrize("head", ["Transf", "LSTM"])
def test_heads_start_as_meanp(head, tower, clips):
    model, mean = make_video_model(head, tower), make_video_model("meanP", tower)
    for count in (FRAMES, 2):
        torch.testing.assert_close(
            model.encode_video(clips[:, :count]), mean.encode_video(clips[:, :count]), rtol=0, atol=1e-6
        )


def test_the_convolution_starts_as_a_shift(clips):
    model, mean = make_video_model("Conv_1D").double(), make_video_model("meanP").double()
    clips = clips.double()
    still = clips[:, :1].expand(-1, FRAMES, -1, -1, -1)
    torch.testing.assert_close(model.encode_video(still), mean.encode_video(still), rtol=0, atol=1e-12)
    # Of other clips, the channels that are shifted lose one end and have the other twice.
    frames = torch.stack([mean.encode_image(clips[:, t]) for t in range(FRAMES)], dim=1)
    expected, ends = 2 * frames.mean(dim=1), (frames[:, 0] - frames[:, -1]) / FRAMES
    expected[:, :4] += ends[:, :4]
    expected[:, 12:] -= ends[:, 12:]
    torch.testing.assert_close(
        model.encode_video(clips), nn.functional.normalize(expected, dim=-1), rtol=0, atol=1e-12
    )
    assert (model.encode_video(clips) * mean.encode_video(clips)).sum(-1).min() > 0.99


def test_transf_cls_does_not_start_as_meanp(clips):
    cosines = (make_video_model("Transf_cls").encode_video(clips) * make_video_model("meanP").encode_video(clips)).sum(
        -1
    )
    assert cosines.max() < 0.9


@pytest.mark.parametrize("head", TRAINED_HEADS)
def test_every_head_parameter_moves_within_two_steps(head, clips):
    model = make_video_model(head, temporal_num_layers=2)
    target = nn.functional.normalize(torch.randn(3, 16), dim=-1)
    optimizer = torch.optim.SGD(model.temporal_parameters(), lr=0.5)
    before = model.encode_video(clips).detach()
    seen = set()
    for _ in range(2):
        optimizer.zero_grad()
        (-(model.encode_video(clips) * target).sum()).backward()
        seen |= {name for name, p in model.temporal_head.named_parameters() if p.grad.abs().max() > 0}
        optimizer.step()
    # A softmax does not change if all its keys are shifted, so their bias has no gradient but rounding.
    names = {name for name, _ in model.temporal_head.named_parameters() if not name.endswith("k_proj.bias")}
    assert names <= seen
    after = model.encode_video(clips)
    assert (after - before).abs().max() > 1e-3
    assert (after * target).sum() > (before * target).sum()


def test_the_initial_value_of_every_tensor():
    torch.manual_seed(0)
    config = tiny_config("vit", projection_dim=128).to_dict()
    models = {
        head: ClipHFVideoModel(
            ClipHFVideoConfig.from_dict({**config, "temporal_head": head, "temporal_num_layers": 2})
        )
        for head in TEMPORAL_HEADS
    }
    assert models["meanP"].temporal_parameters() == []
    kernel = models["Conv_1D"].temporal_head.conv.weight[:, 0]
    assert kernel.sum() == 128
    assert [tuple(row.nonzero().flatten().tolist()) for row in kernel[[0, 31, 32, 95, 96, 127]]] == [
        *[(0,)] * 2,
        *[(1,)] * 2,
        *[(2,)] * 2,
    ]
    for name, tensor in models["LSTM"].temporal_head.named_parameters():
        gates = tensor.unflatten(0, (4, 128))
        assert gates[2].abs().max() == 0, name
        random = gates[[0, 1, 3]]
        assert random.abs().max() <= 128**-0.5
        assert random.std().item() == pytest.approx((3 * 128) ** -0.5, rel=5 / math.sqrt(2 * random.numel()))
    for head in ("Transf", "Transf_cls"):
        weights = models[head].temporal_head.state_dict()
        is_zero = {name for name, tensor in weights.items() if tensor.abs().max() == 0}
        last = {f"encoder.layers.{layer}.{name}" for layer in range(2) for name in ("self_attn.out_proj", "mlp.fc2")}
        zeros = {name for name in weights if name.endswith("bias") and ("proj" in name or "norm" in name)}
        zeros |= {f"{name}.{kind}" for name in last for kind in ("weight", "bias")} if head == "Transf" else set()
        assert is_zero == zeros
        assert weights["position_embedding.weight"].std().item() == pytest.approx(0.5, rel=0.1)
        assert weights["encoder.layers.0.self_attn.q_proj.weight"].std().item() == pytest.approx(1 / 16, rel=0.05)
        assert weights["encoder.layers.1.mlp.fc1.weight"].std().item() == pytest.approx(384**-0.5, rel=0.05)
    assert models["Transf_cls"].temporal_head.class_embedding.std().item() == pytest.approx(0.5, rel=0.3)
    assert models["Transf"].temporal_head.encoder.layers[0].self_attn.num_heads == 2  # 64 channels each


# ------------------------------------------------------------------------------------------------------- order in time


def moving_frames(count: int, motion: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (count, 6, 16) of frames in which something moves, and its direction, 0 or 1; the mean tells nothing.

    `slide` goes from one end to the other; `turn` makes half a turn from any angle.
    """
    direction = torch.randint(0, 2, (count,))
    time = (torch.arange(6) + 0.5) / 6
    sign = (2 * direction - 1)[:, None]
    if motion == "slide":
        place = (2 * time - 1) * sign + 0.2 * torch.randn(count, 1)
        path = torch.stack([place, torch.zeros_like(place)], dim=-1)
    else:
        angle = 2 * math.pi * torch.rand(count, 1) + sign * math.pi * time
        path = torch.stack([angle.cos(), angle.sin()], dim=-1)
    frames = torch.cat(
        [torch.ones(count, 6, 1), 0.5 * path, 0.1 * torch.randn(count, 1, 13).expand(-1, 6, -1)], dim=-1
    )
    return nn.functional.normalize(frames, dim=-1), direction


def accuracy_after_training(head_name: str, motion: str) -> float:
    """Accuracy of telling the direction, of a head with a linear layer before and a classifier after it."""
    torch.manual_seed(1)
    config = tiny_config("vit").to_dict()
    config = ClipHFVideoConfig.from_dict(
        {**config, "temporal_head": head_name, "num_frames": 6, "temporal_num_layers": 1}
    )
    head = ClipHFVideoModel(config).temporal_head
    projection, classifier = nn.Linear(16, 16, bias=False), nn.Linear(16, 2, bias=False)
    nn.init.eye_(projection.weight)
    optimizer = torch.optim.AdamW(
        [
            {"params": [*head.parameters()], "lr": 1e-2},
            {"params": [*projection.parameters(), *classifier.parameters()], "lr": 3e-3},
        ]
    )

    def logits(frames: torch.Tensor) -> torch.Tensor:
        embeds = head(nn.functional.normalize(projection(frames), dim=-1))
        return 10 * classifier(nn.functional.normalize(embeds, dim=-1))

    for _ in range(150):
        frames, direction = moving_frames(64, motion)
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits(frames), direction).backward()
        optimizer.step()
    with torch.no_grad():
        frames, direction = moving_frames(1000, motion)
        return (logits(frames).argmax(1) == direction).float().mean().item()


@pytest.mark.parametrize(
    ("head", "motion", "learns"),
    [
        ("meanP", "slide", False),
        ("Conv_1D", "slide", True),
        ("Conv_1D", "turn", False),  # linear in the frames: it sees the first less the last
        ("LSTM", "turn", True),
        ("Transf", "turn", True),
    ],
)
def test_which_head_learns_the_direction(head, motion, learns):
    accuracy = accuracy_after_training(head, motion)
    assert accuracy > 0.9 if learns else 0.4 < accuracy < 0.6


@pytest.mark.parametrize("head", TEMPORAL_HEADS)
def test_the_order_of_frames_counts_for_all_heads_but_meanp(head, clips):
    model = make_video_model(head).double()
    randomise(model.temporal_head)
    forwards, backwards = model.encode_video(clips.double()), model.encode_video(clips.flip(1).double())
    difference = (forwards - backwards).abs().max()
    assert difference < 1e-12 if head == "meanP" else difference > 1e-4


# -------------------------------------------------------------------------------------------------- kept and converted


@pytest.mark.parametrize("head", TEMPORAL_HEADS)
def test_saving_and_loading_changes_nothing(head, tower, clips, tmp_path):
    model = make_video_model(head, tower, temporal_num_layers=1)
    randomise(model.temporal_head)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is ClipHFVideoModel and type(AutoConfig.from_pretrained(tmp_path)) is ClipHFVideoConfig
    assert loaded.config.temporal_head == head and loaded.config.num_frames == FRAMES
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(loaded.encode_video(clips), model.encode_video(clips))


def test_a_video_model_of_an_image_models_folder(tower, clips, tmp_path):
    image_model = make_tiny_model(tower)
    image_model.save_pretrained(tmp_path / "image")
    model, info = ClipHFVideoModel.from_pretrained(
        tmp_path / "image", temporal_head="LSTM", num_frames=FRAMES, output_loading_info=True
    )
    assert set(info["missing_keys"]) == {f"temporal_head.{name}" for name in model.temporal_head.state_dict()}
    assert not info["unexpected_keys"]
    expected = ClipHFVideoModel.from_clip(image_model).encode_video(clips)
    torch.testing.assert_close(model.encode_video(clips), expected, rtol=0, atol=1e-6)
    model.save_pretrained(tmp_path / "video")
    config = AutoConfig.from_pretrained(tmp_path / "video")
    assert config.architectures == ["ClipHFVideoModel"]
    assert config.auto_map == {
        "AutoConfig": "configuration_clip_hf_video.ClipHFVideoConfig",
        "AutoModel": "modeling_clip_hf_video.ClipHFVideoModel",
    }
    with pytest.raises(ValueError, match="'clip_hf_video'; it must be one of 'clip_hf'"):
        ClipHFModel.from_pretrained(tmp_path / "video")


@pytest.mark.parametrize("format", ["openai", "open_clip"])
def test_a_video_model_of_other_formats(format, tiny_processor, clips, tmp_path):
    # OpenAI's code has heads of 64 channels, and MLPs of four times the width.
    tower = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 1}
    text = {**tower, "vocab_size": 600, "max_position_embeddings": 24}
    vision = {**tower, "image_size": IMAGE_SIZE, "patch_size": 16}
    image_model = make_tiny_model("vit", text_config=text, vision_config=vision)
    path = tmp_path / ("clip.pt" if format == "openai" else "clip")
    checkpoints.save(image_model, tiny_processor, path, format=format)
    model = ClipHFVideoModel.from_pretrained(path, temporal_head="Transf", temporal_num_layers=1)
    expected = ClipHFVideoModel.from_clip(image_model).encode_video(clips)
    torch.testing.assert_close(model.float().encode_video(clips), expected, rtol=0, atol=2e-3)


def test_from_clip_shares_the_towers(clips):
    image_model = make_tiny_model("vit").train()
    model = ClipHFVideoModel.from_clip(image_model, "Transf", num_frames=5, temporal_num_layers=2)
    assert model.training
    assert model.vision_model is image_model.vision_model and model.logit_scale is image_model.logit_scale
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert (model.config.temporal_head, model.config.num_frames, model.config.temporal_num_layers) == ("Transf", 5, 2)
    again = ClipHFVideoModel.from_clip(model, "LSTM")
    assert (again.config.temporal_head, again.config.num_frames) == ("LSTM", 5)
    half = ClipHFVideoModel.from_clip(make_tiny_model("vit").bfloat16(), "LSTM")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    with pytest.raises(ValueError, match="must be a ClipHFModel"):
        ClipHFVideoModel.from_clip(nn.Linear(1, 1))


# ---------------------------------------------------------------------------------------------------- as torch uses it


@pytest.mark.parametrize("head", TRAINED_HEADS)
def test_half_precision(head, tower, clips):
    model = make_video_model(head, tower)
    expected = model.encode_video(clips)
    half = model.bfloat16().encode_video(clips.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() * expected).sum(-1).min() > 0.99


@pytest.mark.parametrize("head", ["Transf", "Transf_cls"])
def test_eager_attention_equals_sdpa(head, clips):
    model = make_video_model(head).double()
    randomise(model.temporal_head)
    assert model.temporal_head.config._attn_implementation == "sdpa"
    expected = model.encode_video(clips.double())
    model.set_attn_implementation("eager")
    assert model.temporal_head.config._attn_implementation == "eager"
    torch.testing.assert_close(model.encode_video(clips.double()), expected, rtol=0, atol=1e-12)


def test_gradient_checkpointing_gives_the_same_gradients(clips):
    model = make_video_model("Transf", temporal_num_layers=2).train()
    randomise(model.temporal_head)

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model.encode_video(clips).sum(dim=0)[0].backward()
        return [parameter.grad.clone() for parameter in model.temporal_parameters()]

    expected = gradients()
    model.gradient_checkpointing_enable()
    for value, reference in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("head", ["Conv_1D", "Transf", "Transf_cls"])
def test_torch_compile_traces_heads(head):
    head = make_video_model(head, temporal_num_layers=1).temporal_head
    frames = nn.functional.normalize(torch.randn(2, FRAMES + 1, 16), dim=-1)
    compiled = torch.compile(head, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(frames), head(frames))


@pytest.mark.slow
def test_torch_compile_traces_the_whole_pass(clips):
    model = make_video_model("Transf", temporal_num_layers=1)
    compiled = torch.compile(model.get_video_features, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(clips).pooler_output, model.get_video_features(clips).pooler_output)


def test_batch_norm_sees_all_frames(clips):
    model, image_model = make_video_model("meanP", "resnet").train(), make_tiny_model("resnet").train()
    model.encode_video(clips)
    image_model.encode_image(clips.flatten(0, 1))
    name = next(key for key in model.vision_model.state_dict() if key.endswith("running_mean"))
    assert torch.equal(model.vision_model.state_dict()[name], image_model.vision_model.state_dict()[name])


def test_input_embeddings_and_head_parameters():
    model = make_video_model("LSTM")
    assert model.get_input_embeddings() is model.text_model.embeddings.token_embedding
    assert {id(p) for p in model.temporal_parameters()} == {id(p) for p in model.temporal_head.parameters()}


# ------------------------------------------------------------------------------------------------------ classification


def test_a_text_classifier_becomes_the_weights(clips, tmp_path):
    model = make_video_model("LSTM")
    classifier = nn.functional.normalize(torch.randn(3, 16), dim=-1)
    fixed = ClipHFForVideoClassification.from_text_classifier(model, classifier, ["run", "jump", "sit"])
    logits = model.logit_scale.exp() * model.encode_video(clips) @ classifier.T
    torch.testing.assert_close(fixed(clips).logits, logits, rtol=1e-5, atol=1e-5)
    assert fixed.config.id2label == {0: "run", 1: "jump", 2: "sit"}
    labels = torch.tensor([0, 2, 1])
    torch.testing.assert_close(fixed(clips, labels=labels).loss, nn.functional.cross_entropy(logits, labels))
    fixed.save_pretrained(tmp_path)
    loaded = AutoModelForVideoClassification.from_pretrained(tmp_path)
    assert type(loaded) is ClipHFForVideoClassification and loaded.config.label2id["sit"] == 2
    assert torch.equal(loaded(clips).logits, fixed(clips).logits)
    with pytest.raises(ValueError, match=r"has the shape \(3, 16\); it must be \(2, 16\)"):
        ClipHFForVideoClassification.from_text_classifier(model, classifier, ["run", "jump"])


def test_a_classifier_of_a_video_models_folder(tower, clips, tmp_path):
    model = make_video_model("Transf", tower, temporal_num_layers=1)
    randomise(model.temporal_head)
    model.save_pretrained(tmp_path)
    fixed, info = ClipHFForVideoClassification.from_pretrained(tmp_path, num_labels=40, output_loading_info=True)
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"} and not info["unexpected_keys"]
    expected = model.encode_video(clips) @ fixed.classifier.weight.T
    torch.testing.assert_close(fixed(clips).logits, expected, rtol=1e-4, atol=1e-5)
    assert fixed.classifier.weight.std().item() == pytest.approx(1.0, rel=0.15)
    assert fixed.classifier.bias.abs().max() == 0


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 4, IMAGE_SIZE, IMAGE_SIZE), r"must be \(batch, frames, 3, height, width\) for clips"),
        ((2, 0, 3, IMAGE_SIZE, IMAGE_SIZE), "for clips, or"),
        ((3, IMAGE_SIZE, IMAGE_SIZE), "for clips, or"),
        ((2, 4, IMAGE_SIZE, IMAGE_SIZE), r"must be \(batch, 3, height, width\)"),
        ((2, 2, 3, IMAGE_SIZE, 32), "Resize them"),
    ],
)
def test_wrong_shapes(shape, message):
    with pytest.raises(ValueError, match=message):
        make_video_model("LSTM").encode_video(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temporal_head": "meanp"}, "no temporal head 'meanp'. Did you mean 'meanP'"),
        ({"temporal_head": "GRU"}, "Available: meanP, Conv_1D, Transf, LSTM, Transf_cls"),
        ({"num_frames": 0}, "`num_frames` is 0; it must be from 1"),
        ({"temporal_num_layers": 10**9}, "`temporal_num_layers` is 1000000000; it must be from 1 to 1,000"),
        ({"temporal_heads": "LSTM"}, "Unknown option `temporal_heads`.*Did you mean `temporal_head`"),
        ({"num_frames": "8"}, "num_frames"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        ClipHFVideoConfig(**options)
    if "temporal_heads" not in options and options.get("num_frames") != "8":
        with pytest.raises(ValueError, match=message):
            ClipHFVideoModel.from_clip(make_tiny_model("vit"), **options)


@pytest.mark.parametrize("options", [{"num_frames": 8}, {"temporal_head": "LSTM"}, {"temporal_num_layers": 1}])
def test_another_head_than_the_saved_one_is_refused(options, tmp_path):
    make_video_model("Transf", temporal_num_layers=2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="saved with another temporal head.*from_clip"):
        ClipHFVideoModel.from_pretrained(tmp_path, **options)
    with pytest.raises(ValueError, match="saved with another temporal head.*from_clip"):
        ClipHFForVideoClassification.from_pretrained(tmp_path, **options)


def test_conversion_and_export_say_that_they_take_no_video_model(tmp_path):
    model = make_video_model("LSTM")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a video model.* cannot be converted"):
        read_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="Video models cannot be exported"):
        check_exportable(model)
