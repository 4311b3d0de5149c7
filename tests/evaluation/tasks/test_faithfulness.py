# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Deletion and insertion in closed form, pointing by hand, random weights, and maps that mean nothing."""

import functools
import itertools

import numpy as np
import pytest
import torch

from clip_hf.evaluation.numerics.bootstrap import bootstrap_mean_interval
from clip_hf.evaluation.tasks.faithfulness import (
    MEANINGLESS_MAPS,
    blurred,
    choice_game,
    deletion_curve,
    insertion_curve,
    pointing_game,
    probability_score,
    random_weights_check,
)
from clip_hf.explain import METHODS, image_maps
from tiny_models import make_tiny_model


SIDE = 4
N = SIDE**2


@pytest.fixture
def ramps() -> torch.Tensor:
    """Three grey pictures (3, 3, 4, 4) whose pixels are 1 to 16, in an order of their own."""
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(N, generator=generator) for _ in range(3)]) + 1
    return orders.double().view(3, 1, SIDE, SIDE).expand(-1, 3, -1, -1).contiguous()


def total(pictures: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """A linear score: the sum of a picture's first channel, times 1, 2, 3 for images 0, 1, 2."""
    return pictures[:, 0].sum(dim=(1, 2)) * (rows + 1)


# What is left when the k largest of 1 ... N are gone is a triangular number.
LEFT = np.array([(N - k) * (N - k + 1) / 2 for k in range(N + 1)])
# The sum of the triangular numbers is N (N + 1) (N + 2) / 6; the trapezoids take half of the first and the last.
AREA = (N * (N + 1) * (N + 2) / 6 - LEFT[0] / 2) / N


def test_deletion_of_a_linear_score_has_its_closed_form(ramps):
    curve = deletion_curve(total, ramps, ramps[:, 0], steps=N, batch_size=5)
    assert np.allclose(curve.scores, LEFT * np.array([[1], [2], [3]]))
    assert np.allclose(curve.values, AREA * np.array([1, 2, 3]))
    assert np.allclose(curve.shares, np.arange(N + 1) / N)
    assert curve.mean == pytest.approx(2 * AREA)
    assert curve.interval == bootstrap_mean_interval(curve.values)


def test_insertion_is_what_deletion_leaves(ramps):
    zero = torch.zeros(3, 1, 1)
    curve = insertion_curve(total, ramps, ramps[:, 0], steps=N, base=zero, resamples=0)
    assert np.allclose(curve.values, (LEFT[0] - AREA) * np.array([1, 2, 3]))
    assert curve.interval is None
    worst = insertion_curve(total, ramps, -ramps[:, 0], steps=N, base=zero)
    assert np.allclose(worst.values, AREA * np.array([1, 2, 3]))


def test_the_order_of_the_score_beats_every_other(ramps):
    best = deletion_curve(total, ramps, ramps[:, 0], steps=8).values
    for seed in range(5):
        noise = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
        assert (deletion_curve(total, ramps, noise, steps=8).values > best).all()


def test_equal_pixels_go_in_random_order(ramps):
    # By rows from the top, the curve of a picture that is bright there would be that of a good map.
    picture = torch.zeros(1, 3, 32, 32)
    picture[:, :, :16] = 1
    curve = deletion_curve(total, picture, torch.zeros(1, 4, 4), steps=16)
    assert np.allclose(curve.scores[0], 512 * (1 - curve.shares), atol=40)
    other = deletion_curve(total, picture, torch.zeros(1, 4, 4), steps=16, seed=1)
    assert not np.array_equal(other.scores, curve.scores)


def test_steps_and_grids_may_differ_from_the_pixels():
    picture = torch.zeros(1, 3, 16, 16)
    picture[:, :, :8, 8:] = 1  # the upper right quarter
    grid = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    curve = deletion_curve(total, picture, grid, steps=4)
    assert curve.scores[0, 0] == 64
    assert curve.scores[0, 1] < 10  # nearly all of it went first; resizing rounds the corner
    assert curve.scores[0, 4] == 0


def test_a_blur_keeps_the_mean_and_hides_detail():
    even = torch.full((1, 3, 32, 48), 0.7)
    assert torch.allclose(blurred(even), even, atol=1e-6)
    board = ((torch.arange(32)[:, None] + torch.arange(32)) % 2).float().expand(1, 3, 32, 32)
    assert (blurred(board) - 0.5).abs().max() < 0.02


def test_the_score_of_a_model_is_the_probability_of_the_text(tiny_model, pixel_values):
    texts = torch.nn.functional.normalize(torch.randn(5, 16), dim=-1)
    targets = torch.tensor([4, 0, 2, 2])
    rows = torch.tensor([3, 0])
    logits = tiny_model.logit_scale.exp() * tiny_model.encode_image(pixel_values[rows]) @ texts.T
    found = probability_score(tiny_model, texts, targets)(pixel_values[rows], rows)
    assert torch.allclose(found, logits.softmax(dim=1)[[0, 1], [2, 4]])
    curve = deletion_curve(probability_score(tiny_model, texts, targets), pixel_values, torch.rand(4, 4, 4), steps=2)
    assert ((curve.values > 0) & (curve.values < 1)).all()


# ------------------------------------------------------------------------------------------------------ pointing game


def halves(count: int) -> torch.Tensor:
    """Masks (count, 8, 8) of the left half."""
    masks = torch.zeros(count, 8, 8, dtype=torch.bool)
    masks[:, :, :4] = True
    return masks


def test_pointing_by_hand():
    maps = torch.tensor([[[9.0, 1], [2, 3]], [[1, 9], [2, 3]], [[-3, -2], [-1, -2]], [[5, 5], [5, 5]]])
    game = pointing_game(maps, halves(4))
    assert game.values.tolist() == [1, 0, 1, 0.5]
    assert game.mean == 0.625
    assert (game.chance, game.best) == (0.5, 1)
    assert game.interval == bootstrap_mean_interval(game.values)


def test_a_coarse_place_counts_by_what_the_mask_covers_of_it():
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[:, 1:3, 2:8] = True  # two rows of six; of the upper right place 2 of 4 rows
    game = pointing_game(torch.tensor([[[0.0, 1], [0, 0]], [[1.0, 0], [0, 0]]]), masks)
    assert game.values.tolist() == [8 / 16, 4 / 16]
    assert (game.chance, game.best) == (12 / 64, 8 / 16)
    # Three places on eight columns: the first ends within the third pixel.
    game = pointing_game(torch.tensor([[[1.0, 0, 0]]]).expand(2, 1, 3), masks)
    assert np.allclose(game.values, 2 * (8 / 3 - 2) / (8 * 8 / 3))


def test_a_map_as_fine_as_the_mask_plays_the_usual_game():
    generator = torch.Generator().manual_seed(0)
    maps, masks = torch.rand(50, 8, 8, generator=generator), torch.rand(50, 8, 8, generator=generator) < 0.3
    best = maps.flatten(1).argmax(dim=1)
    assert pointing_game(maps, masks).values.tolist() == masks.flatten(1)[torch.arange(50), best].float().tolist()


def test_a_point_may_miss_by_the_tolerance():
    maps = torch.zeros(1, 8, 8)
    maps[0, 3, 5] = 1  # two pixels right of the mask's last column
    assert pointing_game(maps, halves(1), tolerance=1).mean == 0
    game = pointing_game(maps, halves(1), tolerance=2)
    assert (game.mean, game.chance) == (1, 6 / 8)


def test_choice_between_the_things_of_an_image():
    masks = torch.cat([halves(1), ~halves(1)] * 3)
    left = torch.tensor([[[3.0, 1], [2, 0]]])
    maps = torch.cat([left, -left, left, left, torch.ones(2, 2, 2)])
    game = choice_game(maps, masks, [0, 0, 1, 1, 2, 2])
    assert game.values.tolist() == [1, 1, 1, 0, 0.5, 0.5]  # told apart, always left, no preference
    assert game.chance == 0.5
    assert choice_game(maps[:1], masks[:1], [0]).chance == 1


def test_places_that_the_model_did_not_see_are_never_highest():
    maps = torch.tensor([[[1.0, torch.nan], [0, 0]]])
    assert pointing_game(maps, halves(1)).mean == 1
    with pytest.raises(ValueError, match="Map 0 is NaN everywhere"):
        pointing_game(torch.full((1, 2, 2), torch.nan), halves(1))


def test_meaningless_maps_point_as_guessing_does():
    # Drawings anywhere: a quarter of the picture, in any of its quarters.
    masks = torch.zeros(400, 32, 32, dtype=torch.bool)
    for number, mask in enumerate(masks):
        top, left = divmod(number % 4, 2)
        mask[16 * top : 16 * top + 16, 16 * left : 16 * left + 16] = True
    pictures, texts = torch.rand(400, 3, 32, 32), torch.ones(1, 2)
    for make in MEANINGLESS_MAPS.values():
        maps = make(None, pictures, texts)[:, 0]
        for game in (pointing_game(maps, masks), choice_game(maps, masks, np.arange(400) // 4)):
            low, high = game.interval
            assert low - 0.01 <= game.chance == 0.25 <= high + 0.01


# ----------------------------------------------------------------------------------------------------- random weights


@pytest.mark.parametrize("name", MEANINGLESS_MAPS)
def test_maps_that_know_nothing_of_the_model_are_noticed(tiny_model, pixel_values, name):
    check = random_weights_check(MEANINGLESS_MAPS[name], tiny_model, pixel_values, torch.ones(2, 16), resamples=50)
    if name == "random":
        assert "they are random" in check.problem
        assert abs(check.repeated) < 0.3
    else:
        assert "do not show what this model learnt" in check.problem
        assert np.allclose(check.correlations, 1)
        assert check.repeated == pytest.approx(1)


def test_a_map_that_is_the_same_everywhere_is_noticed(tiny_model, pixel_values):
    def even(model, pixel_values, text_embeds):
        return torch.ones(len(pixel_values), len(text_embeds), 2, 2)

    check = random_weights_check(even, tiny_model, pixel_values, torch.ones(1, 16))
    assert check.problem and (check.correlations == 1).all()


def test_weights_are_destroyed_from_the_top_down_in_a_copy(tiny_model, pixel_values, tower):
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    changed = []

    def look(model, pixel_values, text_embeds):
        changed.append({name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])})
        return torch.rand(len(pixel_values), len(text_embeds), 3, 3)

    check = random_weights_check(look, tiny_model, pixel_values, torch.ones(1, 16))
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny_model.state_dict().items())
    assert changed[:2] == [set(), set()]  # the model as it is, twice
    parts = {
        "vit": ("projection", "layer 2", "layer 1", "layer 0", "embeddings"),
        "resnet": ("projection", "attention pool", "stage 3", "stage 2", "stage 1", "stage 0", "stem"),
    }[tower]
    assert check.stages == parts
    assert check.correlations.shape == (len(parts), 4)
    assert all(fewer < more for fewer, more in itertools.pairwise(changed[1:]))
    assert "visual_projection.weight" in changed[2]
    matrices = {name for name in before if name.startswith("vision_model") and before[name].ndim > 1}
    assert matrices <= changed[-1]
    assert not any(name.startswith("text_model") for name in changed[-1])
    for name in matrices:
        assert torch.equal(tiny_model.state_dict()[name], before[name])


def test_what_a_model_learnt_goes_with_its_weights(pixel_values):
    # A map of the model's own patch projection: it stays as it is until that is destroyed.
    def patches(model, pixel_values, text_embeds):
        features = model.vision_model.embeddings.patch_embedding(pixel_values).abs().mean(dim=1)
        return features[:, None].expand(-1, len(text_embeds), -1, -1)

    generator = torch.Generator().manual_seed(0)
    model = make_tiny_model("vit")
    model.vision_model.embeddings.patch_embedding.weight.data.zero_()
    model.vision_model.embeddings.patch_embedding.weight.data[:, :, 3, 4] = 1
    pictures = torch.randn(8, 3, 64, 64, generator=generator)
    check = random_weights_check(patches, model, pictures, torch.ones(2, 16), seed=3)
    assert np.allclose(check.correlations[:-1], 1)
    assert check.means[-1] < 0.5 and check.problem == ""


@pytest.mark.parametrize("method", METHODS)
def test_maps_of_each_method_can_be_measured(tiny_model, pixel_values, method):
    texts = torch.nn.functional.normalize(torch.randn(2, 16), dim=-1)
    make = functools.partial(image_maps, method=method)
    check = random_weights_check(make, tiny_model, pixel_values, texts, resamples=20)
    assert check.repeated == pytest.approx(1)
    assert check.means[-1] < 0.99
    maps = make(tiny_model, pixel_values, texts)[:, 0]
    curve = deletion_curve(probability_score(tiny_model, texts, torch.zeros(4, dtype=torch.int64)), pixel_values, maps)
    assert curve.scores.shape == (4, 17)


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"maps": np.zeros((3, 4, 4))}, TypeError, "must be a tensor"),
        ({"maps": torch.zeros(3, 1, 4, 4)}, ValueError, "take the map of one text an image"),
        ({"maps": torch.zeros(2, 4, 4)}, ValueError, "for 3 images"),
        ({"maps": torch.full((3, 4, 4), torch.nan)}, ValueError, "NaN or infinity"),
        ({"steps": 0}, ValueError, "`steps` is 0"),
        ({"batch_size": 0}, ValueError, "`batch_size` is 0"),
        ({"base": torch.zeros(2, 5)}, ValueError, "does not broadcast"),
        ({"score": lambda pictures, rows: pictures}, ValueError, "`score` returned"),
        ({"score": lambda pictures, rows: pictures[:, 0, 0, 0] / 0}, ValueError, "a finite number"),
        ({"score": lambda pictures, rows: 0.5}, ValueError, "`score` returned"),
    ],
)
@pytest.mark.parametrize("measure", [deletion_curve, insertion_curve])
def test_wrong_inputs_of_curves_are_named(ramps, measure, change, kind, message):
    arguments = {"score": total, "pixel_values": ramps, "maps": torch.zeros(3, 4, 4), **change}
    with pytest.raises(kind, match=message):
        measure(arguments.pop("score"), arguments.pop("pixel_values"), arguments.pop("maps"), **arguments)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"masks": torch.ones(2, 8, 8)}, TypeError, "must be bool"),
        ({"masks": torch.ones(8, 8) > 0}, ValueError, "for 8 images"),
        ({"masks": torch.zeros(2, 8, 8) > 0}, ValueError, "Mask 0 is empty"),
        ({"maps": torch.full((2, 2, 2), torch.inf)}, ValueError, "infinity"),
        ({"tolerance": -1}, ValueError, "`tolerance` is -1"),
    ],
)
def test_wrong_inputs_of_the_pointing_game_are_named(change, kind, message):
    arguments = {"maps": torch.rand(2, 2, 2), "masks": halves(2), **change}
    with pytest.raises(kind, match=message):
        pointing_game(arguments.pop("maps"), arguments.pop("masks"), **arguments)


def test_wrong_inputs_of_the_choice_are_named():
    with pytest.raises(ValueError, match="`image_of` has the shape"):
        choice_game(torch.rand(2, 2, 2), halves(2), [0])
    with pytest.raises(ValueError, match="NaN or infinity"):
        choice_game(torch.full((2, 2, 2), torch.nan), halves(2), [0, 0])


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"limit": 1}, ValueError, "`limit` is 1"),
        ({"resamples": 0}, ValueError, "`resamples` is 0"),
        ({"model": torch.nn.Identity()}, TypeError, "ClipHFModel"),
        ({"make_maps": lambda *inputs: torch.rand(4, 2, 2)}, ValueError, r"must be a tensor \(images, texts, rows"),
        ({"make_maps": lambda *inputs: torch.full((4, 1, 2, 2), torch.nan)}, ValueError, "without NaN"),
    ],
)
def test_wrong_inputs_of_the_random_weights_check_are_named(pixel_values, change, kind, message):
    arguments = {"make_maps": MEANINGLESS_MAPS["centre"], "model": make_tiny_model("vit"), **change}
    options = {name: arguments.pop(name) for name in ("limit", "resamples") if name in arguments}
    with pytest.raises(kind, match=message):
        random_weights_check(*arguments.values(), pixel_values, torch.ones(1, 16), **options)
