# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Several evaluations in one run: the command `clip-hf evaluate`, `clip-hf compare`, and what they refuse."""

import inspect
import json
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

import clip_hf.evaluation
from clip_hf import ClipHFModel, checkpoints
from clip_hf.cli import main
from clip_hf.embedding import load_dual_encoder
from clip_hf.evaluation import (
    TASKS,
    EvaluationResult,
    EvaluationTask,
    FewShotOptions,
    LinearProbeOptions,
    SuiteOptions,
    ZeroShotOptions,
    class_embeddings,
    evaluate_few_shot,
    evaluate_linear_probe,
    evaluate_retrieval,
    evaluate_robustness,
    evaluate_zero_shot,
    few_shot,
    linear_probe,
    load_class_names,
    load_classification,
    load_splits,
    run_suite,
    subset_classes,
)
from clip_hf.evaluation.tasks import robustness
from clip_hf.evaluation.tasks.zero_shot import EqualClassesWarning
from clip_hf.export import ClipHFExportedModel
from clip_hf.utils.processor import read_processor
from clip_hf.utils.wording import safe_name
from several_processes import run_processes
from tiny_models import make_tiny_model


COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220)}


def drawing(colour: str, number: int) -> Image.Image:
    """A square of a colour on a ground of noise; no two are the same."""
    pixels = np.random.default_rng(number).integers(0, 90, (40, 40, 3), dtype=np.uint8)
    pixels[8:32, 8:32] = np.array(COLOURS[colour]) - number
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder with a subfolder for each split and class."""
    folder = tmp_path_factory.mktemp("colours")
    for split, first, count in (("train", 0, 6), ("test", 20, 4)):
        for index, colour in enumerate(COLOURS):
            (folder / split / colour).mkdir(parents=True)
            for number in range(count):
                image = drawing(colour, first + 10 * index + number)
                image.save(folder / split / colour / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """Captioned images in a folder of `datasets`, two captions each."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = [
        {"image": drawing(colour, number), "caption": [f"a {colour} square {number}", f"number {number} in {colour}"]}
        for number, colour in enumerate([*COLOURS] * 3)
    ]
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.List(datasets.Value("string"))})
    datasets.DatasetDict({"test": datasets.Dataset.from_list(rows, features=features)}).save_to_disk(str(folder))
    return folder


@pytest.fixture(scope="module")
def models(tiny_processor, tmp_path_factory) -> dict[str, Path]:
    """A tiny model with each tower, saved."""
    folders = {tower: tmp_path_factory.mktemp(tower) / "model" for tower in ("vit", "resnet")}
    for tower, folder in folders.items():
        checkpoints.save(make_tiny_model(tower), tiny_processor, folder)
    return folders


@pytest.fixture(autouse=True)
def plots(request) -> None:
    """Are drawn in one test, and in those of each task."""
    if request.function is not test_every_task_from_one_command:
        request.getfixturevalue("undrawn_plots")


QUICK = ("--resamples", "50", "--shots", "1", "2", "--few-shot-seeds", "2")
LABEL_TASKS = ("zero_shot", "linear_probe", "few_shot")


def evaluate(model, *arguments) -> int:
    return main(["evaluate", str(model), *map(str, arguments)])


def metrics_of(folder: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text())["metrics"] for path in sorted(folder.glob("*.json"))}


@dataclass(kw_only=True, repr=False)
class Ending(EvaluationResult):
    """A result of nothing."""

    task = "ending"

    model: str = ""
    data: str = ""
    split: str = ""
    count: int = 0

    @property
    def metrics(self):
        return {}


def test_every_task_from_one_command(models, data, pairs, tmp_path, capsys):
    arguments = ("--tasks", *LABEL_TASKS, "retrieval", "--data", data, pairs, "--output-dir", tmp_path, *QUICK)
    assert evaluate(models["vit"], *arguments) == 0
    out = capsys.readouterr().out
    names = [f"{task}-{data.name}-test" for task in sorted(LABEL_TASKS)] + [f"retrieval-{pairs.name}-test"]
    found = metrics_of(tmp_path)
    assert sorted(found) == sorted(names)
    for name in names:
        assert (tmp_path / f"{name}.md").stat().st_size and (tmp_path / f"{name}.png").stat().st_size
    assert "Left out, retrieval on" in out and "Left out, linear_probe on" in out
    summary = (tmp_path / "summary.md").read_text()
    for name, metrics in found.items():
        assert all(f"| {metric} |" in summary for metric in metrics), name
    zero_shot = found[f"zero_shot-{data.name}-test"]["top1"]
    assert re.search(rf"^top1 +{100 * zero_shot:.2f}% ", out, re.MULTILINE)
    assert found[f"few_shot-{data.name}-test"]["zero_shot"] == zero_shot


def test_a_probe_is_on_features_before_the_projection_and_seeds_are_those_asked_for(models, data, tmp_path):
    """The figures are those of the functions, called with what the paper says."""
    arguments = ("--tasks", "linear_probe", "few_shot", "--data", data, "--output-dir", tmp_path, *QUICK, "--seed", 7)
    assert evaluate(models["vit"], *arguments) == 0
    encoder = load_dual_encoder(models["vit"])
    parts = load_splits(str(data))
    images = {name: [row["image"]["path"] for row in part.data] for name, part in parts.items()}

    def features(projected: bool) -> list:
        found = [(encoder.encode_images(images[name], projected=projected), parts[name].targets) for name in images]
        return [each for pair in found for each in pair]

    train_x, train_y, test_x, test_y = (np.asarray(each) for each in features(projected=False))
    assert train_x.shape == (18, 32) and features(projected=True)[0].shape == (18, 16)
    options = LinearProbeOptions(seed=7, resamples=0)
    expected = linear_probe(train_x, train_y, None, None, test_x, test_y, options=options)
    arrays = np.load(tmp_path / f"linear_probe-{data.name}-test.npz")
    np.testing.assert_allclose(arrays["coefficients"], expected.classifier.coefficients, rtol=1e-3, atol=1e-5)
    content = json.loads((tmp_path / f"few_shot-{data.name}-test.json").read_text())["details"]
    assert content["seeds"] == [7, 8]
    few = few_shot(*map(np.asarray, features(projected=True)), options=FewShotOptions(shots=(1, 2), seeds=(7, 8)))
    np.testing.assert_allclose(content["probe"]["scores"], few.probe.scores)
    np.testing.assert_allclose(content["probe"]["penalties"], few.probe.penalties, rtol=1e-4)


@pytest.fixture(scope="module")
def shifted(tmp_path_factory) -> dict[str, Path]:
    """Images with labels of ImageNet and of ImageNet-R, of which the first is ImageNet's class 1 (goldfish)."""
    folders = {}
    for name, labels in (("imagenet", [1, 1, 2, 999, 500, 9]), ("imagenet_r", [0, 1, 5, 199, 7])):
        folders[name] = tmp_path_factory.mktemp(name) / "data"
        rows = [{"image": drawing("red", 30 + number), "label": label} for number, label in enumerate(labels)]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        split = "validation" if name == "imagenet" else "test"
        data = datasets.Dataset.from_list(rows, features=features)
        datasets.DatasetDict({split: data}).save_to_disk(str(folders[name]))
    return folders


def test_accuracy_under_shift(models, shifted, tmp_path, capsys, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        robustness, "compare_under_shift", lambda found, **more: seen.update(found=found, **more) or Ending()
    )
    sources = [f"{name}={folder}" for name, folder in shifted.items()]
    arguments = ("--tasks", "robustness", "--data", *sources, "--templates", "a photo of a {}.", *QUICK)
    assert evaluate(models["vit"], *arguments, "--output-dir", tmp_path) == 0
    encoder = load_dual_encoder(models["vit"])
    names = load_class_names("class_names.json#imagenet")
    classifier = class_embeddings(encoder, names, ["a photo of a {}."])
    scores = encoder.encode_images([drawing("red", 30 + number) for number in range(6)]).numpy() @ classifier.T
    labels, images = np.array([1, 1, 2, 999, 500, 9]), np.arange(6)
    assert seen["found"]["imagenet"] == pytest.approx((scores.argmax(axis=1) == labels).mean())
    subset = [labels[0] for labels in subset_classes("imagenet_r")]
    among = np.isin(labels, subset)
    assert 0 < among.sum() < 6
    right = scores[images[among]][:, subset].argmax(axis=1) == [subset.index(label) for label in labels[among]]
    assert seen["subset_accuracies"] == {"imagenet_r": pytest.approx(right.mean())}
    assert set(seen["found"]) == {"imagenet", "imagenet_r"}


def test_data_that_robustness_does_not_use_are_refused(models, shifted, data, tmp_path, capsys):
    sources = [*(f"{name}={folder}" for name, folder in shifted.items()), str(data)]
    assert evaluate(models["vit"], "--tasks", "robustness", "--data", *sources, "--output-dir", tmp_path / "out") == 1
    assert f"No task fits the data {str(data)!r}." in capsys.readouterr().err


class CountTask(EvaluationTask):
    """Counts the images."""

    result = Ending

    def load(self, sources, settings):
        return {"test": load_classification(sources[0], settings.data_options)}

    def run(self, encoder, parts, settings):
        return Ending(model=encoder.name, data=parts["test"].name, count=len(parts["test"]))


def test_a_new_task_is_a_class_and_a_line(models, data, tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "ending", CountTask())
    options = SuiteOptions(tasks=["ending"], data=[str(data)], output_dir=tmp_path)
    (result,) = run_suite(models["vit"], options)
    assert result.count == 12 and metrics_of(tmp_path) == {f"ending-{data.name}": {}}


def test_results_say_which_runtime_they_were_computed_with(models, exported_folder, data, tmp_path, capsys):
    """The figures of an export are those of PyTorch, and both can be compared."""
    exported, results = exported_folder("vit", "onnx"), {}
    folders = {None: tmp_path / "torch", "onnx": tmp_path / "onnx", "openvino": tmp_path / "openvino"}
    for runtime, folder in folders.items():
        model, options = (models["vit"], ()) if runtime is None else (exported, ("--runtime", runtime))
        assert evaluate(model, "--data", data, "--output-dir", folder, *QUICK, *options) == 0
        (path,) = folder.glob("zero_shot-*.json")
        results[runtime] = json.loads(path.read_text())
    names = {runtime: result["model"] for runtime, result in results.items()}
    assert names[None] == str(models["vit"])
    assert names["onnx"] == f"{exported} (onnx, float32)" and names["openvino"] == f"{exported} (openvino, float32)"
    figures = [result["metrics"] for result in results.values()]
    assert figures[0] == pytest.approx(figures[1]) and figures[0] == pytest.approx(figures[2])
    assert evaluate(exported, "--data", data, "--output-dir", folders["onnx"], "--runtime", "openvino") == 1
    assert f"holds results of {names['onnx']}" in capsys.readouterr().err  # they do not mix
    assert main(["compare", *map(str, folders.values()), "--output-dir", str(tmp_path / "compared")]) == 0
    assert "(openvino, float32)" in (tmp_path / "compared" / "comparison.md").read_text()
    for model, message in ((exported, "is an export, whose card"), (data, "is no folder with a model of ours")):
        assert evaluate(model, "--data", data, "--output-dir", tmp_path / "card", "--update-card") == 1
        assert message in capsys.readouterr().err and not (tmp_path / "card").exists()  # before anything is done


@pytest.mark.slow
def test_results_say_half_precision_and_how_images_were_read(models, data, tiny_processor, tmp_path, capsys):
    """In the file, the table, the card and the comparison; plain float32 says nothing."""
    model = tmp_path / "model"
    checkpoints.save(make_tiny_model("vit"), tiny_processor, model)
    half = ("--dtype", "bfloat16", "--device", "cpu", "--background-color", "white", "--draft")
    for name, options in (("full", ("--background-color", "255,255,255")), ("half", half), ("plain", ())):
        arguments = ("--data", data, "--output-dir", tmp_path / name, *QUICK, "--update-card")
        assert evaluate(model, *arguments, *options) == 0
        assert (f"{model} (torch, bfloat16) on" in capsys.readouterr().out) == (name == "half")
    contents = {name: json.loads(next((tmp_path / name).glob("zero*.json")).read_text()) for name in ("half", "plain")}
    assert contents["half"]["model"] == f"{model} (torch, bfloat16)" and contents["plain"]["model"] == str(model)
    assert (contents["half"]["runtime"], contents["half"]["dtype"]) == ("torch", "bfloat16")
    assert contents["half"]["image_options"] == {"background_color": [255, 255, 255], "draft": True}
    assert (contents["plain"]["dtype"], contents["plain"]["image_options"]) == ("float32", {})
    for page in (tmp_path / "half").glob("zero*.md"):
        assert "Image files were read with background_color 255,255,255, draft." in page.read_text()
    card = (model / "README.md").read_text()
    for ending in ("", " (torch, bfloat16, background_color 255,255,255, draft)", " (background_color 255,255,255)"):
        assert f"| zero_shot top1{ending} |" in card  # three results that do not replace each other

    folders = [str(tmp_path / name) for name in ("plain", "half", "full")]
    assert main(["compare", *folders, "--output-dir", str(tmp_path / "compared")]) == 0
    out, name = capsys.readouterr().out, f"zero_shot on {data.name} (test)"
    plain, first = "images read as its image processor says", "images read with background_color 255,255,255"
    note = f"Settings differ in {name}: {folders[0]}: torch, float32, {plain}; {folders[1]}: torch, bfloat16, {first}"
    assert note in out and note in (tmp_path / "compared" / "comparison.md").read_text()
    assert main(["compare", folders[0], folders[0], "--output-dir", str(tmp_path / "same")]) == 0
    assert "Settings differ" not in capsys.readouterr().out
    assert evaluate(model, "--data", data, "--output-dir", tmp_path / "plain", "--dtype", "bfloat16") == 1
    assert f"holds results of {model}; those of {model} (torch, bfloat16) would mix" in capsys.readouterr().err


@pytest.mark.parametrize("runtime", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_every_task_with_an_export(models, exported_folder, data, pairs, tmp_path, runtime):
    """The figures are PyTorch's but for rounding, which may swap two images."""
    arguments = ("--tasks", *LABEL_TASKS, "retrieval", "--data", data, pairs, *QUICK)
    exported, dtype = exported_folder("vit", runtime), ("--dtype", "auto")
    if read_processor().has_bfloat16 and runtime == "openvino":
        dtype = ("--dtype", "float32")
    for model, name, options in ((models["vit"], "torch", ()), (exported, "exported", dtype)):
        assert evaluate(model, *arguments, "--output-dir", tmp_path / name, *options) == 0
    found, expected = metrics_of(tmp_path / "exported"), metrics_of(tmp_path / "torch")
    assert found.keys() == expected.keys() and len(found) == 4
    for name, metrics in expected.items():
        metric = next(metric for metric in ("top1", "zero_shot", "image_to_text_R@1") if metric in metrics)
        assert found[name][metric] == pytest.approx(metrics[metric], abs=0.1), name
    content = json.loads((tmp_path / "exported" / f"linear_probe-{data.name}-test.json").read_text())
    assert (content["runtime"], content["model"]) == (runtime, f"{exported} ({runtime}, float32)")


def test_a_probe_needs_features_that_the_model_gives(data, monkeypatch, exported_folder, tmp_path, capsys):
    """An export has those before the projection. Of a model without, the other tasks run."""
    model, arguments = exported_folder("vit", "onnx"), ("--data", data, "--output-dir", tmp_path / "out", *QUICK)
    assert evaluate(model, "--tasks", "linear_probe", "--data", data, *QUICK[:2], "--output-dir", tmp_path) == 0

    def refuse(self, pixel_values):
        raise ValueError("The tower gives no features before the projection.")

    monkeypatch.setattr(ClipHFExportedModel, "pooled_image_features", refuse)
    assert evaluate(model, "--tasks", "few_shot", "linear_probe", *arguments) == 1
    assert "The task linear_probe cannot be run." in (error := capsys.readouterr().err)
    assert "gives no features before the projection" in error and not list((tmp_path / "out").glob("*.json"))
    assert evaluate(model, "--tasks", "few_shot", *arguments) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tasks", "zero_shot", "zero_shot"), "`tasks` names something twice"),
        (("--resamples", "-1"), "`resamples` is -1"),
        (("--shots", "1", "0"), "`shots` are [1, 0]"),
        (("--few-shot-seeds", "0"), "`few_shot_seeds` 0; give at least one of each"),
        (("--output-dir", __file__), "is a file; give a folder for the results"),
    ],
)
def test_bad_options_are_found_before_anything_is_loaded(data, tmp_path, capsys, arguments, message):
    assert evaluate(tmp_path / "nothing", "--data", data, "--output-dir", tmp_path / "out", *arguments) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--compute", "1", "2"), "Given 2 models; a line needs three or more"),
        (("--names", "a", "a"), "--names has a name twice: a, a"),
    ],
)
def test_bad_options_of_compare_are_found_before_anything_is_evaluated(tmp_path, capsys, arguments, message):
    assert main(["compare", "a", "b", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_the_default_folder_names_runtime_and_precision(models, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for options in ((), ("--dtype", "bfloat16"), ("--dtype", "bfloat16", "--runtime", "torch")):
        assert evaluate(models["vit"], "--data", data, *QUICK, "--device", "cpu", *options) == 0
    name = safe_name(str(models["vit"]))
    found = sorted(path.name for path in (tmp_path / "evaluation").iterdir())
    assert found == [name, f"{name}-bfloat16", f"{name}-torch-bfloat16"]


def test_classes_that_are_one_are_said_once(models, pairs, tmp_path, capsys):
    """A run of several tasks on data with two such classes."""
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "CAT", "dog")):
            (tmp_path / "data" / split / f"a {name}").mkdir(parents=True)
            for image in range(2):
                drawing("red", 10 * number + image).save(tmp_path / "data" / split / f"a {name}" / f"{image}.png")
    arguments = ("--tasks", "zero_shot", "few_shot", "--data", tmp_path / "data", "--output-dir", tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("error", EqualClassesWarning)
        assert evaluate(models["vit"], *arguments, *QUICK, "--shots", "1") == 0
    done = capsys.readouterr()
    assert (done.out + done.err).count("'a CAT' = 'a cat'") == 1
    for task in ("zero_shot", "few_shot"):
        assert "'a CAT' = 'a cat'" in (tmp_path / "out" / f"{task}-data-test.md").read_text()


def test_evaluations_have_one_shape_of_arguments():
    for name in TASKS:
        parameters = inspect.signature(getattr(clip_hf.evaluation, f"evaluate_{name}")).parameters
        assert list(parameters) == ["model", "data", "options", "processor"], name
        assert parameters["processor"].kind is inspect.Parameter.KEYWORD_ONLY
        assert TASKS[name].name == name


def test_the_functions_give_what_the_command_gives(models, data, shifted, tmp_path):
    command = ("--tasks", *LABEL_TASKS, "--data", data, "--output-dir", tmp_path, *QUICK)
    assert evaluate(models["vit"], *command) == 0
    shots = FewShotOptions(shots=(1, 2), seeds=(0, 1), fully_supervised=True)
    results = (
        evaluate_linear_probe(models["vit"], str(data), LinearProbeOptions(resamples=0)),
        evaluate_few_shot(load_dual_encoder(models["vit"]), load_splits(str(data)), shots),
        evaluate_zero_shot(models["vit"], str(data), ZeroShotOptions(resamples=0)),
    )
    found = metrics_of(tmp_path)
    for result in results:
        expected = found[f"{result.task}-{data.name}-test"]
        assert {name: value for name, value in result.metrics.items() if np.isfinite(value)} == pytest.approx(
            {name: value for name, value in expected.items() if value is not None}
        )
    with pytest.raises(ValueError, match="`data` must have 'imagenet' and at least one shift; it has imagenet"):
        evaluate_robustness(models["vit"], {"imagenet": str(data)})
    with pytest.raises(ValueError, match="Did you mean 'imagenet_v2'"):
        evaluate_robustness(models["vit"], {"imagenet": "", "imagenet_v3": ""})


def test_images_are_encoded_once_and_a_run_goes_on(models, data, tmp_path, monkeypatch):
    arguments = ("--data", data, "--output-dir", tmp_path, *QUICK)
    assert evaluate(models["vit"], "--tasks", "zero_shot", *arguments) == 0
    counted = []
    method = ClipHFModel.get_image_features
    monkeypatch.setattr(
        ClipHFModel,
        "get_image_features",
        lambda self, pixel_values, *args, **kwargs: (
            counted.append(len(pixel_values)) or method(self, pixel_values, *args, **kwargs)
        ),
    )
    before = metrics_of(tmp_path)
    assert evaluate(models["vit"], "--tasks", "zero_shot", *arguments) == 0
    assert counted == [] and metrics_of(tmp_path) == before
    assert evaluate(models["vit"], "--tasks", "few_shot", *arguments) == 0
    assert sum(counted) == 18  # those to train on


def test_another_model_has_features_of_its_own(models, data, tmp_path):
    for tower in models:
        arguments = ("--data", data, "--output-dir", tmp_path / tower, "--cache-dir", tmp_path / "cache", *QUICK)
        assert evaluate(models[tower], *arguments) == 0
    alone = tmp_path / "alone"
    assert evaluate(models["resnet"], "--data", data, "--output-dir", alone, *QUICK) == 0
    assert metrics_of(alone) == metrics_of(tmp_path / "resnet")
    ranks = [np.load(next((tmp_path / tower).glob("*.npz")))["predictions"].tolist() for tower in models]
    assert ranks[0] != ranks[1]


def test_the_card_gets_the_figures(models, data, tiny_processor, tmp_path):
    folder = tmp_path / "model"
    checkpoints.save(make_tiny_model("vit"), tiny_processor, folder)
    arguments = ("--data", data, "--output-dir", tmp_path / "results", *QUICK, "--update-card")
    assert evaluate(folder, *arguments) == 0
    card = (folder / "README.md").read_text()
    (figures,) = metrics_of(tmp_path / "results").values()
    assert "model-index" in card and "zero_shot top1" in card
    assert f"value: {round(100 * figures['top1'], 2)}" in card


def in_process(rank: int, model: str, data: str, output: str) -> int:
    """What `torchrun` starts; the rank is in the environment, too."""
    return evaluate(model, "--tasks", *LABEL_TASKS, "--data", data, "--output-dir", output, "--device", "cpu", *QUICK)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(models, data, tmp_path):
    arguments = (str(models["resnet"]), str(data))
    assert in_process(0, *arguments, str(tmp_path / "one")) == 0
    assert run_processes(in_process, 2, tmp_path, *arguments, str(tmp_path / "two")) == [0, 0]
    one, two = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    assert len(one) == 3 and one.keys() == two.keys()
    for name, metrics in one.items():
        for metric, value in metrics.items():
            same = value is None if two[name][metric] is None else two[name][metric] == pytest.approx(value, rel=1e-6)
            assert same, (name, metric)


@pytest.mark.slow
def test_models_are_compared(models, data, tmp_path, capsys):
    arguments = ("--data", data, "--output-dir", tmp_path, *QUICK, "--names", "ViT", "ResNet")
    assert main(["compare", *map(str, models.values()), *map(str, arguments)]) == 0
    out = capsys.readouterr().out
    assert re.search("^metric +ViT +ResNet +less ViT +chance$", out, re.MULTILINE)
    content = json.loads((tmp_path / "comparison.json").read_text())
    top1 = next(row for row in content["metrics"] if row["metric"] == "top1")
    assert top1["differences"][1] == pytest.approx(top1["values"][1] - top1["values"][0])
    assert top1["difference_intervals"][1] is not None
    # Nothing is replaced unasked, nor is a model evaluated before that is known.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert main(["compare", *map(str, models.values()), *map(str, arguments)]) == 1
    error = capsys.readouterr().err
    assert "comparison.json and 4 others would be replaced" in error and "--overwrite" in error
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert main(["compare", *map(str, models.values()), *map(str, arguments), "--overwrite"]) == 0
    assert json.loads((tmp_path / "comparison.json").read_text())["metrics"] == content["metrics"]
    # Folders of results are compared as they are.
    again = ["compare", str(tmp_path / "1-model"), str(tmp_path / "2-model"), "--output-dir", str(tmp_path / "again")]
    assert main([*again, *QUICK]) == 0
    assert json.loads((tmp_path / "again" / "comparison.json").read_text())["metrics"] == content["metrics"]


def test_a_folder_holds_the_results_of_one_model(models, data, tmp_path, capsys):
    arguments = ("--data", data, "--output-dir", tmp_path / "one", *QUICK)
    assert evaluate(models["vit"], *arguments) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*")}
    assert evaluate(models["resnet"], *arguments) == 1
    assert f"holds results of {models['vit']}; those of {models['resnet']} would mix" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*")} == before
    assert evaluate(f"{models['vit']}/", *arguments, "--tasks", "few_shot") == 0  # the same one goes on
    assert len(metrics_of(tmp_path / "one")) == 2


def test_overwriting_leaves_no_results_of_earlier_models(models, data, pairs, tmp_path, capsys):
    """Nor of other data; the features stay, as does what is not ours."""
    twice, made = [str(models["vit"]), str(models["resnet"])], tmp_path / "1-model"
    options = ("--output-dir", str(tmp_path), *QUICK)
    assert main(["compare", *twice, "--data", str(data), *options]) == 0
    (made / "notes.json").write_text("{}")
    features = sorted(made.joinpath("features").rglob("*"))
    retrieval = ["--data", str(pairs), "--tasks", "retrieval", "--overwrite"]
    assert main(["compare", *twice[::-1], *retrieval, "--seed", "-1", *options]) == 1  # which removes nothing
    assert list(metrics_of(tmp_path / "2-model")) == [f"zero_shot-{data.name}-test"]
    assert main(["compare", *twice[::-1], *retrieval, *options]) == 0
    names = {path.name for path in made.iterdir()} - {"features", "notes.json", "summary.md"}
    assert {name.partition(".")[0] for name in names} == {f"retrieval-{pairs.name}-test"}
    assert (made / "notes.json").exists() and set(features) <= set(made.joinpath("features").rglob("*"))
    (made / "notes.json").unlink()
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert {row["task"] for row in content["metrics"]} == {"retrieval"} and content["models"] == twice[::-1]
    # A comparison does not overwrite the folders that it compares.
    assert main(["compare", str(models["vit"]), str(made), *retrieval, *options]) == 1
    assert "1-model, which is one of the folders to compare; give another --output-dir" in capsys.readouterr().err


def test_error_against_compute(tmp_path, capsys):
    for name, accuracy in (("a", 0.5), ("b", 0.6), ("c", 0.68)):
        (tmp_path / name).mkdir()
        content = {"task": "zero_shot", "model": name, "data": "birds", "split": "test", "metrics": {"top1": accuracy}}
        content |= {part: {} for part in ("intervals", "words", "chance", "skipped", "details")}
        (tmp_path / name / "zero_shot.json").write_text(json.dumps(content))
        (tmp_path / name / "summary.md").write_text("")
    folders = [str(tmp_path / name) for name in "abc"]
    out_dir = ["--output-dir", str(tmp_path / "out")]
    assert main(["compare", *folders, *out_dir, "--compute", "1", "2", "4"]) == 0
    # Errors 0.5, 0.4 and 0.32 fall by a fifth with each doubling.
    slope = json.loads((tmp_path / "out" / "scaling.json").read_text())["metrics"]["slope"]
    assert slope == pytest.approx(np.log(0.8) / np.log(2))
    assert main(["compare", *folders, *out_dir, "--compute", "1", "2"]) == 1
    assert "--compute has 2 values for 3 models" in capsys.readouterr().err
    (tmp_path / "out" / "comparison.json").unlink()
    for ending in ("md", "png"):
        (tmp_path / "out" / f"comparison.{ending}").unlink()
    assert main(["compare", *folders, *out_dir, "--compute", "1", "2", "4"]) == 1
    assert "scaling.json and 2 others would be replaced" in capsys.readouterr().err
    assert main(["compare", *folders, *out_dir]) == 0  # which writes no scaling


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to evaluate on: name it with --data"),
        (["--data", "fodo101"], "fodo101"),
        (
            ["--data", "{data}", "--tasks", "retrieval"],
            r"None of the data fit the task 'retrieval'(.|\n)*or add data that fit it to `data` \(--data\)",
        ),
        (["--data", "{data}", "{pairs}"], r"No task fits the data (.|\n)*or add a task that fits them to `tasks`"),
        (["--data", "{data}", "--seed", "-1"], "`seed` is -1; it must be 0 or more"),
        (["--data", "{data}", "{data}"], "names something twice"),
        (["--data", "{data}", "--tasks", "robustness"], "needs ImageNet and at least one of its variants"),
        (
            ["--data", "{data}", "--tasks", "few_shot"],
            r"--shots.* of .* have fewer training rows: 'blue' \(6\).* every class has is 6",
        ),
        (["--data", "{data}", "--split", "validation"], "no split `validation`"),
        (["--data", "{data}", "--label-column", "kind"], "kind"),
        (["--data", "{data}", "--templates", "a photo"], "does not say where the label goes"),
        (["--data", "cifar10"], "cifar10=.*|hub"),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_anything_is_encoded(
    arguments, message, models, data, pairs, tmp_path, capsys
):
    arguments = [argument.format(data=data, pairs=pairs) for argument in arguments]
    assert evaluate(models["vit"], *arguments, "--output-dir", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error.startswith("clip-hf evaluate: ")
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_there(data, tmp_path, capsys):
    assert evaluate(tmp_path / "nothing", "--data", data, "--output-dir", tmp_path / "out") == 1
    assert "nothing" in capsys.readouterr().err


def test_one_image_that_cannot_be_read_is_skipped_and_named(models, data, tmp_path, capsys):
    """In every task, with the figures of data without the image."""
    damaged, without = tmp_path / "a" / "colours", tmp_path / "b" / "colours"
    for folder in (damaged, without):
        shutil.copytree(data, folder)
        for split in ("train", "test"):
            (folder / split / "green" / "0.png").unlink()
    for split in ("train", "test"):
        (damaged / split / "green" / "0.png").write_bytes(b"\x89PNG and no more")
    with pytest.warns(UserWarning, match=r"colours \(test\) that cannot be read: 1 of 12 rows .*green/0.png"):
        for folder in (damaged, without):
            arguments = ("--tasks", *LABEL_TASKS, "--data", folder, "--output-dir", folder.parent / "out", *QUICK)
            assert evaluate(models["vit"], *arguments) == 0
    assert re.search("^skipped_images +1 of 12$", capsys.readouterr().out, re.MULTILINE)
    found = metrics_of(tmp_path / "a" / "out")
    assert len(found) == 3 and found == metrics_of(tmp_path / "b" / "out")
    for path in (tmp_path / "a" / "out").glob("*.json"):
        skipped = json.loads(path.read_text())["skipped"]
        parts = ["test"] if path.name.startswith("zero_shot") else ["train", "test"]
        assert {part: own["images"] for part, own in skipped.items()} == dict.fromkeys(parts, 1)
        assert "green/0.png" in skipped["test"]["examples"][0] and skipped["test"]["kinds"] == {"file damaged": 1}
        assert "green/0.png" in path.with_suffix(".md").read_text()
    none = ("--data", damaged, "--output-dir", tmp_path / "none", "--max-skipped-share", "0")
    assert evaluate(models["vit"], *none) == 1
    assert re.search(r"max_skipped_share=0 allows.*green/0\.png", capsys.readouterr().err)


def test_too_many_images_that_cannot_be_read(models, data, tmp_path, capsys):
    shutil.copytree(data / "test", tmp_path / "colours")
    for number in range(2):
        (tmp_path / "colours" / "red" / f"{number}.png").write_bytes(b"")
    arguments = ("--data", tmp_path / "colours", "--output-dir", tmp_path / "out", *QUICK)
    assert evaluate(models["vit"], *arguments) == 1
    error = capsys.readouterr().err
    assert re.search(r"2 of .*rows .* skipped: 2 file empty.*max_skipped_share=0.05 allows.*red/0\.png", error)
    with pytest.warns(UserWarning, match="2 of 12 rows"):
        assert evaluate(models["vit"], *arguments, "--max_skipped_share", "0.2") == 0


def test_captions_leave_with_their_image(models, pairs, tmp_path):
    whole = datasets.load_from_disk(str(pairs))["test"].cast_column("image", datasets.Image(decode=False))
    rows = whole.to_list()
    rows[4]["image"] = {"bytes": b"no picture", "path": None}
    broken = datasets.Dataset.from_list(rows, features=whole.features)
    encoder = load_dual_encoder(models["vit"])
    with pytest.warns(UserWarning, match="row 4 cannot be used"):
        found = evaluate_retrieval(encoder, broken)
    expected = evaluate_retrieval(encoder, whole.select([row for row in range(9) if row != 4]))
    assert found.values == expected.values and found.chance == expected.chance
    assert found.text_to_image_ranks.tolist() == expected.text_to_image_ranks.tolist()
    assert (found.num_images, found.num_texts, found.skipped["all"]["images"]) == (8, 16, 1)


@pytest.mark.slow
def test_skipped_images_under_shift(models, shifted, tmp_path, monkeypatch):
    """The first of ImageNet's images cannot be read: its label must leave with it."""
    folder = tmp_path / "imagenet"
    rows = datasets.load_from_disk(str(shifted["imagenet"]))["validation"].cast_column(
        "image", datasets.Image(decode=False)
    )
    broken = [
        {**row, "image": {"bytes": b"x", "path": None}} if number == 0 else row for number, row in enumerate(rows)
    ]
    features = rows.features
    datasets.DatasetDict({"validation": datasets.Dataset.from_list(broken, features=features)}).save_to_disk(
        str(folder)
    )
    without = datasets.DatasetDict({"validation": rows.select(range(1, 6))})
    without.save_to_disk(str(tmp_path / "without"))
    seen = []
    ending = Ending()
    monkeypatch.setattr(robustness, "compare_under_shift", lambda found, **more: seen.append((found, more)) or ending)
    for imagenet in (folder, tmp_path / "without"):
        sources = [f"imagenet={imagenet}", f"imagenet_r={shifted['imagenet_r']}"]
        arguments = ("--tasks", "robustness", "--data", *sources, "--templates", "a photo of a {}.", *QUICK)
        assert evaluate(models["vit"], *arguments, "--output-dir", tmp_path / imagenet.name / "out") == 0
        if imagenet == folder:
            assert ending.skipped["imagenet"]["images"] == 1 and list(ending.skipped) == ["imagenet"]
    assert seen[0] == seen[1]
    assert seen[0][1]["majority_classes"] == {"imagenet": 1 / 5, "imagenet_r": 1 / 5}


def test_data_that_are_called_alike_are_refused_before_any_work(data, models, tmp_path, capsys):
    sources = [tmp_path / name / "shapes" for name in ("cars", "pets")]
    for source in sources:
        shutil.copytree(data / "test", source)
    arguments = ["evaluate", models["vit"], "--data", *sources, "--output-dir", tmp_path / "results"]
    assert main([str(argument) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert re.search(r"cars/shapes and .*pets/shapes are both called 'shapes' .*--output-dir", error)
    assert not (tmp_path / "results").exists()
