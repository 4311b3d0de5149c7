# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Patch dropout: against a plain tower of the kept patches, the number of tokens, the unmasked tail, exactness."""

import pytest
import torch
from accelerate import Accelerator

from clip_hf.training import ContrastiveObjective, Training, parse_options
from clip_hf.training.patch_dropout import PatchDropout
from tiny_models import make_tiny_model


def tokens_of(tower, run) -> list[int]:
    """How many tokens each pass of the tower's first layer computes for an image."""
    seen = []
    handle = tower.encoder.layers[0].register_forward_hook(lambda module, args, output: seen.append(args[0].shape[1]))
    run()
    handle.remove()
    return seen


def test_the_kept_patches_are_computed_as_alone(pixel_values):
    model = make_tiny_model("vit").double().train()
    tower, pixel_values = model.vision_model, pixel_values.double()
    tower.patch_dropout = 0.75
    torch.manual_seed(5)
    actual = tower(pixel_values).pooler_output
    torch.manual_seed(5)
    kept = torch.rand(4, 16).argsort(dim=1, descending=True)[:, :4]
    assert len({frozenset(row.tolist()) for row in kept}) == 4
    for row, places in enumerate(kept):
        # The whole image's embeddings, of which the class token and four patches go through a tower without dropout.
        embeddings = tower.embeddings(pixel_values[row : row + 1])
        hidden = tower.pre_layrnorm(torch.cat([embeddings[:, :1], embeddings[:, 1 + places]], dim=1))
        for layer in tower.encoder.layers:
            hidden = layer(hidden)
        expected = tower.post_layernorm(hidden[:, 0])[0]
        torch.testing.assert_close(actual[row], expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("share", "tokens"), [(0.0, 17), (0.5, 9), (0.9, 3), (0.99, 2)])
def test_fewer_tokens_are_computed_in_training_only(share, tokens, pixel_values):
    tower = make_tiny_model("vit").vision_model
    tower.patch_dropout = share
    assert tokens_of(tower, lambda: tower(pixel_values)) == [17]
    assert tokens_of(tower.train(), lambda: tower(pixel_values)) == [tokens]
    assert tower.config.to_dict().get("patch_dropout") is None


def test_chunks_give_the_gradients_of_the_same_draws(text_inputs, pixel_values):
    gradients = []
    for chunk_size in (None, 4):
        model = make_tiny_model("vit").double().train()
        model.vision_model.patch_dropout = 0.5
        torch.manual_seed(0)
        objective = ContrastiveObjective(Accelerator(cpu=True), model, grad_cache_chunk_size=chunk_size)
        objective.backward({"pixel_values": pixel_values.double(), **text_inputs})
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("num_steps", "unmasked", "masked"), [(10, 0.0, 10), (10, 0.25, 7), (30, 0.1, 27), (3, 0.1, 2)]
)
def test_the_last_share_of_the_steps_sees_all_patches(num_steps, unmasked, masked):
    model = make_tiny_model("vit")
    dropout = PatchDropout(model, 0.5, num_steps, unmasked)
    shares = []
    for step in range(num_steps):
        dropout.start_step(step)
        shares.append(model.vision_model.patch_dropout)
    assert shares == [0.5] * masked + [0.0] * (num_steps - masked)


def test_a_training_drops_patches_until_its_tail(recipe_of, tmp_path):
    recipe = recipe_of("vit", patch_dropout=0.5, unmasked_share=0.5, max_steps=4, batch_size=4)
    training = Training(parse_options([str(recipe), "--output_dir", str(tmp_path / "out")]))
    patches = training.clip.vision_model.embeddings.num_patches
    steps = enumerate(training.loader)
    run = lambda: [training.step(step, batch) for step, batch in steps]  # noqa: E731
    assert tokens_of(training.clip.vision_model, run) == [1 + patches // 2] * 2 + [1 + patches] * 2


def test_what_has_no_patches_or_is_frozen_is_refused():
    with pytest.raises(ValueError, match=r"`patch_dropout` is 0.5, and the image tower is a ClipHFResNetModel"):
        PatchDropout(make_tiny_model("resnet"), 0.5, 10)
    with pytest.raises(ValueError, match="`unmasked_share` belongs to `patch_dropout`"):
        parse_options(["--unmasked_share", "0.1"])
    with pytest.raises(ValueError, match="`freeze` has vision: a frozen image tower"):
        parse_options(["--patch_dropout", "0.5", "--freeze", "vision"])
    with pytest.raises(ValueError, match="`patch_dropout` is 1.0; it must be at least 0 and less than 1"):
        parse_options(["--patch_dropout", "1.0"])
