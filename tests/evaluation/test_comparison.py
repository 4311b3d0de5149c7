# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Results side by side: differences, their paired intervals, and what cannot be compared."""

import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from clip_hf.evaluation.comparison import compare_results, load_results, models_in
from clip_hf.evaluation.tasks.evaluation_result import EvaluationResult


@dataclass(kw_only=True, repr=False)
class Classified(EvaluationResult):
    """A result with places of the right classes."""

    task = "zero_shot"
    targets: np.ndarray
    ranks: np.ndarray

    @property
    def metrics(self):
        right = self.ranks < 1
        by_class = [right[self.targets == label].mean() for label in np.unique(self.targets)]
        return {"top1": float(right.mean()), "mean_per_class": float(np.mean(by_class)), "roc_auc": 0.5}

    @property
    def intervals(self):
        return {"top1": (0.1, 0.9)}

    @property
    def arrays(self):
        return {"targets": self.targets, "ranks": self.ranks}


@pytest.fixture
def ranks() -> tuple[np.ndarray, np.ndarray]:
    """Two models on 400 images: the second one is right on 60 of the first one's 200 errors, wrong on 20 others."""
    first = np.repeat([0, 1], 200)
    second = first.copy()
    second[200:260], second[:20] = 0, 3
    return first, second


def save(folder, model: str, ranks: np.ndarray, data: str = "birds", targets: np.ndarray | None = None):
    targets = np.arange(len(ranks)) % 7 if targets is None else targets
    Classified(model=model, data=data, ranks=ranks, targets=targets).save(folder)
    return folder


def test_differences_and_their_intervals(tmp_path, ranks):
    folders = [save(tmp_path / name, name, own) for name, own in zip("ab", ranks)]
    comparison = compare_results(folders)
    assert comparison.models == ["a", "b"]
    top1 = next(row for row in comparison.metrics if row.metric == "top1")
    assert top1.values == [0.5, 0.6] and top1.differences[1] == pytest.approx(0.1)
    assert top1.intervals == [(0.1, 0.9), (0.1, 0.9)]
    low, high = top1.difference_intervals[1]
    # The difference of an image is 1 (60 times), -1 (20) or 0: its standard error is that of their mean.
    gained = np.repeat([1, -1, 0], [60, 20, 320])
    error = gained.std() / np.sqrt(400)
    assert low == pytest.approx(0.1 - 1.96 * error, abs=0.006) and high == pytest.approx(0.1 + 1.96 * error, abs=0.006)
    assert "**+10.00 points (+" in comparison.table()
    other = next(row for row in comparison.metrics if row.metric == "roc_auc")
    assert other.difference_intervals[1] is None and "| 50.00% | 0.00 points |" in comparison.table()


def test_significant_losses_are_bold_as_gains_are(tmp_path, ranks):
    folders = [save(tmp_path / name, name, own) for name, own in zip("ab", ranks)]
    comparison = compare_results(folders[::-1])
    assert comparison.metrics[0].differences[1] == pytest.approx(-0.1)
    assert comparison.metrics[0].difference_intervals[1][1] < 0
    assert "| **-10.00 points (-1" in comparison.table()


def interval_of(statistic, first: np.ndarray, second: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """The paired bootstrap written out: the same groups of rows are drawn for both models."""
    generator, drawn = np.random.default_rng(5), []
    rows_of = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
    for _ in range(2000):
        chosen = generator.integers(groups.max() + 1, size=groups.max() + 1)
        rows = np.concatenate([rows_of[group] for group in chosen])
        drawn.append(statistic(second, rows) - statistic(first, rows))
    return tuple(np.quantile(drawn, [0.025, 0.975]))


def test_the_interval_of_a_mean_over_classes(tmp_path):
    """Class 0 has 60 images, class 1 has 12, so that a mean over images would have a far narrower interval."""
    generator = np.random.default_rng(0)
    targets = np.repeat([0, 1], [60, 12])
    ranks = [(generator.random(72) < 0.4).astype(int) for _ in range(2)]
    folders = [save(tmp_path / name, name, own, targets=targets) for name, own in zip("ab", ranks)]
    row = next(row for row in compare_results(folders, resamples=2000).metrics if row.metric == "mean_per_class")

    def mean_of_classes(ranks, rows):
        return np.mean([(ranks[rows] < 1)[targets[rows] == label].mean() for label in np.unique(targets[rows])])

    expected = interval_of(mean_of_classes, *ranks, np.arange(72))
    assert row.difference_intervals[1] == pytest.approx(expected, abs=0.03)
    assert expected[0] < row.differences[1] < expected[1] and expected[1] - expected[0] > 0.3


def saved(model: str, metrics: dict, **more) -> str:
    """A result as a file of an evaluation holds it."""
    content = {"task": "t", "model": model, "data": "d", "split": "test", "metrics": metrics}
    empty = {name: {} for name in ("intervals", "words", "chance", "skipped", "details")}
    return json.dumps(empty | content | more)


def written(folder: Path, metrics: dict, arrays: dict, **more) -> Path:
    folder.mkdir()
    (folder / "t.json").write_text(saved(folder.name, metrics, **more))
    np.savez(folder / "t.npz", **arrays)
    return folder


def test_the_interval_of_a_median_rank(tmp_path):
    """Texts are drawn with their image; of an even number of texts the median is half way between two."""
    owners = np.repeat(np.arange(40), 2)
    generator = np.random.default_rng(1)
    ranks = [generator.integers(0, 30, 80), generator.integers(0, 24, 80)]
    name = "text_to_image_median_rank"
    folders = [
        written(tmp_path / who, {name: np.median(own) + 1}, {"text_to_image_ranks": own, "image_of_text": owners})
        for who, own in zip("ab", ranks)
    ]
    (row,) = compare_results(folders, resamples=2000).metrics
    expected = interval_of(lambda own, rows: np.median(own[rows]), *ranks, owners)
    assert row.difference_intervals[1] == pytest.approx(expected, abs=1.1) and expected[1] - expected[0] > 4
    comparison = compare_results(folders)
    assert " points" not in comparison.table()  # places are no shares, so there is no plot of them
    assert [path.name for path in comparison.save(tmp_path / "out")] == ["comparison.json", "comparison.md"]


@pytest.mark.parametrize(
    "headline",
    ["mean_per_class", *(pytest.param(name, marks=pytest.mark.slow) for name in ("top1", "top1_top5_mean"))],
)
def test_intervals_with_fewer_prompts_and_of_the_gains(tmp_path, headline):
    generator, targets = np.random.default_rng(2), np.arange(300) % 5
    arrays = [
        {name: generator.integers(0, most, 300) for name, most in (("ranks", 3), ("one_prompt_ranks", 7))}
        for _ in "ab"
    ]

    def value(ranks, rows):
        right = {"top1_top5_mean": ((ranks < 1) + (ranks < 5).astype(float)) / 2}.get(headline, ranks < 1)
        if headline == "mean_per_class":
            return np.mean(np.bincount(targets[rows], right[rows], 5) / np.bincount(targets[rows], minlength=5))
        return right[rows].mean()

    places = [(own["ranks"], own["one_prompt_ranks"]) for own in arrays]
    alone = np.arange(300)
    folders = []
    for who, own in zip("ab", arrays):
        best, less = (value(ranks, alone) for ranks in own.values())
        metrics = {headline: best, f"one_prompt_{headline}": less, "ensemble_gain": best - less}
        more = {"targets": targets, **own}
        folders.append(written(tmp_path / who, metrics, more, details={"metric": headline}))
    main, one_prompt, gain = (row.difference_intervals[1] for row in compare_results(folders).metrics)
    assert main == pytest.approx(interval_of(value, places[0][0], places[1][0], alone), abs=0.02)
    assert one_prompt == pytest.approx(interval_of(value, places[0][1], places[1][1], alone), abs=0.02)
    expected = interval_of(
        lambda own, rows: value(own[0], rows) - value(own[1], rows), np.array(places[0]), np.array(places[1]), alone
    )
    assert gain == pytest.approx(expected, abs=0.02)


def test_recall_at_any_k_has_an_interval(tmp_path):
    ranks = np.arange(100) % 5
    folders = [written(tmp_path / who, {"image_to_text_R@3": 0.6}, {"image_to_text_ranks": ranks}) for who in "ab"]
    assert compare_results(folders).metrics[0].difference_intervals[1] == (0, 0)


def test_settings_have_no_row_and_guesses_have_one(tmp_path):
    metrics = {"top1": 0.5, "lambda": 0.1, "shots_to_match_zero_shot": None}
    more = {"majority_class": 0.4, "chance": {"top1": 0.25}, "words": {"shots_to_match_zero_shot": "fewer than 1"}}
    folders = [written(tmp_path / who, metrics, {}, **more) for who in "ab"]
    comparison = compare_results(folders)
    assert [row.metric for row in comparison.metrics] == ["top1", "shots_to_match_zero_shot", "majority_class"]
    table = comparison.table()
    assert "| top1 | 50.00% | 50.00% | 0.00 points | 25.00% |" in table
    assert "| shots_to_match_zero_shot | fewer than 1 | fewer than 1 | - |  |" in table
    assert "| majority_class | 40.00% | 40.00% | - |  |" in table
    assert "majority_class" not in [tick.get_text() for tick in comparison.figure().axes[0].get_yticklabels()]


def test_other_images_that_were_skipped_are_other_images(tmp_path, ranks):
    arrays = {"targets": np.zeros(400, int), "ranks": ranks[0]}
    skipped = [{"test": {"images": 1, "of": 401, "examples": [f"row {row}"]}} for row in (3, 4)]
    folders = [written(tmp_path / who, {"top1": 0.5}, arrays, skipped=own) for who, own in zip("ab", skipped)]
    assert compare_results(folders).metrics[0].difference_intervals[1] is None
    (tmp_path / "c").mkdir()
    same = written(tmp_path / "c" / "x", {"top1": 0.5}, arrays, skipped=skipped[0])
    assert compare_results([folders[0], same]).metrics[0].difference_intervals[1] == (0, 0)
    none = written(tmp_path / "d", {"top1": 0.5}, arrays)
    assert compare_results([folders[0], none]).metrics[0].difference_intervals[1] is None


def test_results_of_several_models_in_a_folder(tmp_path, ranks):
    save(tmp_path / "a", "first", ranks[0])
    save(tmp_path / "b", "second", ranks[0])
    (tmp_path / "a" / "scaling.json").write_text('{"task": "scaling", "model": "3 models", "data": "", "metrics": {}}')
    save(tmp_path / "a", "./first/", ranks[0], data="cats")
    save(tmp_path / "a", "", ranks[0], data="dogs")
    assert len(load_results(tmp_path / "a")) == 3 and models_in(tmp_path / "a") == ["first"]
    save(tmp_path / "a", "second", ranks[0], data="fish")
    for read in (load_results, lambda folder: compare_results([folder, tmp_path / "b"])):
        with pytest.raises(ValueError, match="a holds results of 2 models: first, second. Give a folder for each"):
            read(tmp_path / "a")
    (tmp_path / "a" / "damaged.json").write_text("{")
    assert models_in(tmp_path / "a") == ["first", "second"] and models_in(tmp_path / "none") == []


def test_a_seed_below_0(tmp_path, ranks):
    folders = [save(tmp_path / name, name, ranks[0]) for name in "ab"]
    with pytest.raises(ValueError, match="`seed` is -1; it must be 0 or more"):
        compare_results(folders, seed=-1)


def test_equal_models_do_not_differ(tmp_path, ranks):
    folders = [save(tmp_path / name, name, ranks[0]) for name in "ab"]
    top1 = compare_results(folders).metrics[0]
    assert top1.differences[1] == 0 and top1.difference_intervals[1] == (0.0, 0.0)
    assert "**" not in compare_results(folders).table()


def test_predictions_say_as_much_as_places(tmp_path, ranks):
    """As of a linear probe, which saves no places."""
    folders = [save(tmp_path / name, name, own) for name, own in zip("ab", ranks)]
    expected = compare_results(folders).metrics[0].difference_intervals
    for folder, own in zip(folders, ranks):
        targets = np.arange(len(own)) % 7
        np.savez(folder / "zero_shot-birds-test.npz", targets=targets, predictions=np.where(own < 1, targets, 8))
    assert compare_results(folders).metrics[0].difference_intervals == expected


def test_texts_are_drawn_with_their_image(tmp_path):
    """Of 100 images with 4 texts each, the second model finds all texts of 30, and the first those of 10 others."""
    owners = np.repeat(np.arange(100), 4)
    ends = {"a": np.isin(owners, np.arange(10)), "b": np.isin(owners, np.arange(10, 40))}
    for name, found in ends.items():
        arrays = {"text_to_image_ranks": np.where(found, 0, 9), "image_of_text": owners}
        written(tmp_path / name, {"text_to_image_R@1": float(found.mean())}, arrays)
    (row,) = compare_results([tmp_path / "a", tmp_path / "b"], resamples=4000).metrics
    low, high = row.difference_intervals[1]
    error = np.repeat([1, -1, 0], [30, 10, 60]).std() / np.sqrt(100)  # of images; of texts it were half of that
    assert low == pytest.approx(0.2 - 1.96 * error, abs=0.012) and high == pytest.approx(0.2 + 1.96 * error, abs=0.012)


def test_other_images_have_no_paired_interval(tmp_path, ranks):
    folders = [save(tmp_path / "a", "a", ranks[0])]
    folders.append(save(tmp_path / "b", "b", ranks[1], targets=np.zeros(400, int)))
    assert compare_results(folders).metrics[0].difference_intervals[1] is None


def test_three_models_some_of_which_lack_a_result(tmp_path, ranks):
    folders = [save(tmp_path / name, name, own) for name, own in zip("abc", (*ranks, ranks[0]))]
    save(folders[0], "a", ranks[0], data="maps")
    save(folders[2], "c", ranks[1], data="maps")
    save(folders[1], "b", ranks[1], data="boats")
    comparison = compare_results(folders)
    maps = next(row for row in comparison.metrics if row.data == "maps")
    assert maps.values == [0.5, None, 0.6]
    assert comparison.left_out == ["zero_shot boats test"]
    assert "| 50.00% | - | - | 60.00% | **+10.00 points (" in comparison.table()
    paths = comparison.save(tmp_path / "out")
    assert [path.name for path in paths] == ["comparison.json", "comparison.md", "comparison.png"]
    assert all(path.stat().st_size for path in paths)
    assert json.loads(paths[0].read_text())["models"] == ["a", "b", "c"]


def test_models_of_one_name_are_called_as_their_folders(tmp_path, ranks):
    folders = [save(tmp_path / name, "clip", own) for name, own in zip("ab", ranks)]
    assert compare_results(folders).models == [str(folder) for folder in folders]
    assert compare_results(folders, names=["old", "new"]).models == ["old", "new"]


def test_what_cannot_be_compared(tmp_path, ranks):
    one = save(tmp_path / "one", "a", ranks[0])
    with pytest.raises(ValueError, match="nothing to compare in 1"):
        compare_results([one])
    with pytest.raises(ValueError, match="no folder .*missing"):
        compare_results([one, tmp_path / "missing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no results"):
        compare_results([one, tmp_path / "empty"])
    with pytest.raises(ValueError, match="same data and split: a has zero_shot birds test; b has zero_shot maps"):
        compare_results([one, save(tmp_path / "other", "b", ranks[0], data="maps")])
    with pytest.raises(ValueError, match="3 names for 2"):
        compare_results([one, one], names=["a", "b", "c"])


def test_a_damaged_file_is_named(tmp_path, ranks):
    folder = save(tmp_path / "one", "a", ranks[0])
    path = folder / "zero_shot-birds-test.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match="zero_shot-birds-test.json cannot be read"):
        load_results(folder)


def test_results_of_another_version_or_with_an_entry_taken_out_are_refused(tmp_path):
    """Each entry that reading needs; those that came later may be missing."""
    (tmp_path / "a").mkdir()
    content = json.loads(saved("a", {"top1": 0.5}))
    for name in ("split", "words", "chance", "details", "skipped", "intervals"):
        older = {key: value for key, value in content.items() if key != name}
        (tmp_path / "a" / "t.json").write_text(json.dumps(older))
        message = (
            f"t.json cannot be read: it has no `{name}`: it was edited, or written by a version .* Evaluate again"
        )
        with pytest.raises(ValueError, match=message):
            load_results(tmp_path / "a")
    (tmp_path / "a" / "t.json").write_text(json.dumps(content))
    assert load_results(tmp_path / "a")[0]["metrics"] == {"top1": 0.5}


def test_arrays_of_python_objects_are_refused(tmp_path):
    folder = written(tmp_path / "a", {"top1": 0.5}, {"ranks": np.array([{"a": 1}], object)})
    with pytest.raises(ValueError, match="t.npz holds Python objects, which no evaluation writes"):
        load_results(folder)


@pytest.mark.parametrize("given", [None, ["full", "half"]])
def test_other_settings_are_said_once_for_all_results(tmp_path, given):
    """Precision only where the names do not say it."""
    for name, more in (("a", {}), ("b", {"image_options": {"draft": True}, "dtype": "bfloat16", "runtime": "torch"})):
        folder = written(tmp_path / name, {"top1": 0.5}, {}, **more)
        (folder / "u.json").write_text(saved(name, {"top1": 0.5}, task="u", **more))
    comparison = compare_results([tmp_path / "a", tmp_path / "b"], given)
    (note,) = comparison.notes
    assert note.startswith("Settings differ in t on d (test), u on d (test): ") and "Differences may" in note
    precision = ("precision unknown, ", "torch, bfloat16, ") if given else ("", "")
    assert f": {precision[0]}images read as its image processor says; " in note
    assert f": {precision[1]}images read with draft." in note
    assert comparison.table().endswith(note) and note in comparison.terminal_tables()
    assert compare_results([tmp_path / "a", tmp_path / "a"]).notes == []


# ---------------------------------------------------------------------------------------------------- damaged results


def flipped(data: bytes, bit: int) -> bytes:
    result = bytearray(data)
    result[bit // 8] ^= 1 << bit % 8
    return bytes(result)


def whole_results(folder) -> tuple[Path, Path]:
    """A file of results and its arrays."""
    folder.mkdir(exist_ok=True)
    (folder / "a.json").write_text(saved("a", {"top1": 0.5}, intervals={"top1": [0.4, 0.6]}))
    np.savez_compressed(folder / "a.npz", ranks=np.arange(50) % 2, targets=np.arange(50), predictions=np.arange(50))
    assert load_results(folder)[0]["arrays"].keys() == {"ranks", "targets", "predictions"}
    return folder / "a.json", folder / "a.npz"


def test_flipped_bits_are_a_clear_error(tmp_path):
    for path in whole_results(tmp_path):
        data = path.read_bytes()
        read = refused = 0
        for bit in range(0, 8 * len(data), 37):
            path.write_bytes(flipped(data, bit))
            try:
                load_results(tmp_path)
                read += 1  # in a comment, a date or a digit
            except ValueError as error:
                assert "cannot be read" in str(error) or "holds no results" in str(error)
                refused += 1
        path.write_bytes(data)
        assert refused > read / 10
        for length in range(0, len(data), 11):
            path.write_bytes(data[:length])
            with pytest.raises(ValueError, match="cannot be read"):
                load_results(tmp_path)
        path.write_bytes(data)


WRONG_ENTRIES = {
    "metrics": [None, [], "x", *({"top1": value} for value in ("x", [1], {}, True, 7.5, -0.1, np.nan, np.inf, 0.52))],
    "intervals": [
        *(None, [], 3),
        *({"top1": value} for value in (1, [1], ["a", "b"], {"a": 1}, [0.9, 0.1], [0.4, 1.2], [np.nan, 0.6])),
    ],
    "notes": [3, "x", {}, [3]],
    "majority_class": [1.5, "x", np.nan],
    "task": [None, 1, [], {}],
    "split": [None, 1, []],
    "chance": [None, [], {"top1": "x"}, {"top1": 2}],
    "words": [None, [], "x", {"top1": 3}],
    "skipped": [None, [], {"test": 3}, {"test": {"images": "x"}}],
    "details": [None, "x", {"class_names": 3}, {"num_images": "x"}],
    "model": [None, {}],
    "image_options": [None, [], "draft"],
    "runtime": [None, 3],
    "dtype": [None, []],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, all in WRONG_ENTRIES.items() for value in all])
def test_entries_of_a_wrong_kind_are_a_clear_error(name, value, tmp_path):
    path, _ = whole_results(tmp_path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, name: value}))
    inner = next(iter(value), name) if isinstance(value, dict) else name
    with pytest.raises(ValueError, match=f"a.json cannot be read: .*({name}|{inner})"):
        load_results(tmp_path)


def test_figures_are_those_of_the_arrays_beside_them(tmp_path):
    targets, texts = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 2])
    arrays = {"targets": targets, "predictions": targets, "ranks": np.array([0, 1, 5, 0]), "image_of_text": texts}
    arrays |= {"one_prompt_ranks": np.array([0, 1, 5, 6]), "text_to_image_ranks": np.array([0, 1, 3, 3])}
    figures = {"top1": 0.5, "top5": 0.75, "mean_per_class": 2 / 3, "one_prompt_top1": 0.25, "ensemble_gain": 0.25}
    figures |= {"text_to_image_R@2": 0.5, "text_to_image_median_rank": 3.0, "roc_auc": 0.3, "lambda": 7.5}
    details = {"metric": "top1"}
    load_results(written(tmp_path / "right", figures, arrays, details=details))
    for name, value in figures.items():
        folder = written(tmp_path / name, {**figures, name: value + 0.01}, arrays, details=details)
        if name in ("roc_auc", "lambda"):  # whose data are not saved
            load_results(folder)
        else:
            with pytest.raises(
                ValueError, match=f"t.json cannot be read: the metric {name} is .* arrays beside it give"
            ):
                load_results(folder)
    with pytest.raises(ValueError, match="t.npz holds arrays of other lengths for the same rows: .*'targets': 3"):
        load_results(written(tmp_path / "short", figures, {**arrays, "targets": targets[:3]}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"task": "\xff"}', "not UTF-8"),
        (b"\x00" * 10, "is no JSON file"),
    ],
)
def test_what_is_no_json_is_a_clear_error(content, message, tmp_path):
    path, _ = whole_results(tmp_path)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"a.json cannot be read: .*{message}"):
        load_results(tmp_path)


@pytest.mark.parametrize(
    "arrays",
    [
        {"ranks": np.array(["a", "b"])},
        {"ranks": np.array(3)},
        {"ranks": np.zeros((2, 2, 2), int)},
        {"image_of_text": np.array([-1, 0])},
        {"image_of_text": np.array([2**40, 0])},
        {"targets": np.array([0.5, 1.5])},
    ],
)
def test_arrays_of_a_wrong_kind_are_a_clear_error(arrays, tmp_path):
    _, path = whole_results(tmp_path)
    np.savez_compressed(path, **arrays)
    with pytest.raises(ValueError, match="a.json cannot be read: a.npz holds"):
        load_results(tmp_path)


def test_an_array_that_claims_more_than_any_memory_is_a_clear_error(tmp_path):
    _, path = whole_results(tmp_path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (10**15,)})
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("ranks.npy", header.getvalue())
    with pytest.raises(ValueError, match=r"a.json cannot be read: a.npz is damaged \(.*MemoryError"):
        load_results(tmp_path)


def test_a_member_that_is_no_array_is_a_clear_error(tmp_path):
    _, path = whole_results(tmp_path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("ranks.npy", b"nonsense")
    with pytest.raises(ValueError, match="a.json cannot be read: a.npz holds ranks"):
        load_results(tmp_path)


def test_a_figure_beyond_any_float_is_a_clear_error(tmp_path):
    path, _ = whole_results(tmp_path)
    content = json.loads(path.read_text())
    content["metrics"]["top1"] = 10**400
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="a.json cannot be read: the metric top1 is 1000"):
        load_results(tmp_path)


@pytest.mark.parametrize(
    ("change", "sizes"),
    [
        ({"num_images": 24}, "a, 36 images, 2 classes; b, 24 images, 2 classes"),
        ({"class_names": ["cat"]}, "a, 36 images, 2 classes; b, 36 images, 1 class"),
        ({"class_names": ["cat", "cow"]}, "a, 36 images, 2 classes; b, 36 images, 2 classes"),
    ],
)
def test_results_of_other_data_under_one_name_are_refused(change, sizes, tmp_path, ranks):
    for name, details in (("a", {}), ("b", change)):
        save(tmp_path / name, name, ranks[0])
        (path,) = (tmp_path / name).glob("*.json")
        result = json.loads(path.read_text())
        result["details"] = {"num_images": 36, "class_names": ["cat", "dog"], **details}
        path.write_text(json.dumps(result))
    with pytest.raises(ValueError, match=re.escape(f"is of other data in each of two results ({sizes})")):
        compare_results([tmp_path / "a", tmp_path / "b"])


def test_the_axis_says_interval_only_above_one(tmp_path):
    def label_of(name: str, intervals: dict) -> str:
        folders = [written(tmp_path / f"{name}{place}", {"top1": 0.5}, {}, intervals=intervals) for place in "ab"]
        return compare_results(folders).figure().subfigs[0].axes[-1].get_xlabel()

    assert label_of("with", {"top1": [0.4, 0.6]}) == "score (%), 95% interval"
    assert label_of("without", {}) == "score (%)"
