# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The command `clip-hf classify` against the pipeline: what it takes, in which order it answers, and how it fails."""

import io
import json
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.utils import logging

import clip_hf
from clip_hf import checkpoints
from clip_hf.cli import classify as cli_classify
from clip_hf.cli import main
from clip_hf.model.modeling_clip_hf_video import ClipHFVideoModel
from clip_hf.model.processing_clip_hf import ClipHFProcessor
from clip_hf.model.video_processing_clip_hf import ClipHFVideoProcessor
from films import numbered_frames, write_film
from tiny_models import make_tiny_model


NO_OUTPUT = "clip-hf: standard output is closed; lead it somewhere, such as to /dev/null.\n"
LABELS = ["cat", "dogs in the snow", "number seven"]


@pytest.fixture(autouse=True)
def progress_bars():
    """The command turns transformers' progress bars off."""
    enabled = logging.is_progress_bar_enabled()
    yield
    if enabled:
        logging.enable_progress_bar()


@pytest.fixture(scope="module")
def model(tiny_processor, tmp_path_factory):
    """A folder with a tiny model; not to be changed."""
    path = tmp_path_factory.mktemp("model") / "repo"
    checkpoints.save(make_tiny_model("vit"), tiny_processor, path)
    return path


def write_image(path, seed: int):
    """An image of random blocks, so that a model of random weights thinks differently of each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((80, 64), Image.NEAREST).save(path)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder `photos` of seven images in the working directory."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(["a.png", "b.jpg", "c.png", "sub/a.png", "sub/b.webp", "z.bmp", "z.png"]):
        write_image(tmp_path / "photos" / name, seed)
    return tmp_path / "photos"


NAMES = [f"photos/{name}" for name in ("a.png", "b.jpg", "c.png", "sub/a.png", "sub/b.webp", "z.bmp", "z.png")]


def run(capsys, model, *arguments, labels=LABELS) -> SimpleNamespace:
    """Run the command; its exit status and what it printed."""
    capsys.readouterr()
    try:
        status = main(["classify", *map(str, arguments), "--model", str(model), "--labels", *labels])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return SimpleNamespace(status=status, out=out, err=err)


def answers(done) -> dict[str, list]:
    """What `--json` wrote: the predictions of each image, in the order of the lines."""
    lines = [json.loads(line, parse_constant=pytest.fail) for line in done.out.split("\n")[:-1]]
    assert all(set(line) == {"image", "predictions"} for line in lines)
    return {line["image"]: line["predictions"] for line in lines}


def assert_same(predictions, expected):
    assert [entry["label"] for entry in predictions] == [entry["label"] for entry in expected]
    assert [e["score"] for e in predictions] == pytest.approx([e["score"] for e in expected], rel=1e-5)


# ----------------------------------------------------------------------------------------------------- what it answers


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], {}),
        (["--top-k", "1"], {"top_k": 1}),
        (["--threshold", "0.3"], {"threshold": 0.3}),
        (["--multi-label", "--threshold", "0.4"], {"multi_label": True, "threshold": 0.4}),
        (["--template", "a map of {}.", "the {}"], {"hypothesis_template": ["a map of {}.", "the {}"]}),
        (["--template", "openai_imagenet_subset"], {"hypothesis_template": "openai_imagenet_subset"}),
        (["--dtype", "bfloat16", "--device", "cpu"], {"dtype": "bfloat16"}),
    ],
)
def test_it_answers_as_the_pipeline_does(model, folder, capsys, arguments, options):
    done = run(capsys, model, folder.name, "--json", "--batch-size", 3, *arguments)
    assert done.status == 0, done.err
    classify = clip_hf.pipeline(model, device="cpu", **options)
    expected = classify(NAMES, LABELS, batch_size=3)
    assert list(answers(done)) == NAMES
    for predictions, others in zip(answers(done).values(), expected):
        assert_same(predictions, others)
    assert len({tuple(e["score"] for e in others) for others in expected}) > 3  # or the order would show nothing


@pytest.mark.parametrize("format", ["open_clip", "transformers"])
def test_a_model_of_another_format(model, folder, capsys, tmp_path, format):
    checkpoints.convert(model, tmp_path / "other", format)
    ours, other = (answers(run(capsys, path, "photos", "--json")) for path in (model, tmp_path / "other"))
    for name in NAMES:
        assert [e["score"] for e in ours[name]] == pytest.approx([e["score"] for e in other[name]], rel=1e-4)


def test_files_and_folders_are_answered_in_the_order_of_the_command_line(model, folder, capsys):
    (folder / ".hidden.png").write_bytes((folder / "a.png").read_bytes())
    write_image(folder / "__MACOSX" / "a.png", 0)
    (folder / "notes.txt").write_text("no image")
    (folder / "image_without_ending").write_bytes((folder / "a.png").read_bytes())
    named = ["photos/z.png", "photos/sub", "photos/image_without_ending", "photos/z.png"]
    done = run(capsys, model, *named, "--json", "--batch-size", 2)
    lines = [json.loads(line)["image"] for line in done.out.splitlines()]
    assert lines == [named[0], "photos/sub/a.png", "photos/sub/b.webp", *named[2:]]
    assert list(answers(run(capsys, model, "photos", "--json"))) == NAMES


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_hyphen_reads_paths_from_stdin(model, folder, capsys, monkeypatch, ending):
    odd = os.fsencode(folder) + b"/caf\xe9.png"
    with open(odd, "wb") as file:
        file.write((folder / "a.png").read_bytes())
    lines = ending.join([b"photos/c.png", b"", odd, b"photos/sub", b""])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    done = run(capsys, model, "photos/z.bmp", "-", "--json")
    assert done.status == 0, done.err
    expected = ["photos/z.bmp", "photos/c.png", os.fsdecode(odd), "photos/sub/a.png", "photos/sub/b.webp"]
    assert list(answers(done)) == expected


def test_a_byte_order_mark_is_neither_path_nor_label_nor_template(model, folder, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfphotos/c.png\r\n")))
    for name, text in (("l.txt", "cat\r\ndog\r\n"), ("t.txt", "a {}.\r\n")):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    done = run(capsys, model, "-", "--json", "--template", "t.txt", labels=["l.txt"])
    assert done.status == 0, done.err
    expected = clip_hf.pipeline(model, device="cpu")("photos/c.png", ["cat", "dog"], hypothesis_template="a {}.")
    assert_same(answers(done)["photos/c.png"], expected)


@pytest.mark.slow
def test_answers_come_while_the_pipe_pauses(model, folder):
    """Also after a whole batch, and more than once."""
    command = [sys.executable, "-m", "clip_hf", "classify", "-", "--batch-size", "2", "--top-k", "1"]
    done = subprocess.Popen(
        [*command, "--model", str(model), "--labels", *LABELS],
        cwd=folder.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    watch = threading.Timer(300, done.kill)  # after which the lines that are waited for are empty
    watch.start()
    for names in (NAMES[:1], NAMES[1:3], NAMES[3:6]):
        done.stdin.write("".join(f"{name}\n" for name in names))
        done.stdin.flush()
        assert [done.stdout.readline().split("\t")[0] for _ in names] == names
    done.stdin.write(NAMES[6])  # without the end of the line
    out, _ = done.communicate(timeout=300)
    watch.cancel()
    assert (done.returncode, out.split("\t")[0]) == (0, NAMES[6])


def test_json_has_characters_as_they_are_where_they_can_be_written(model, folder, capsys):
    done = run(capsys, model, "photos/a.png", "--json", labels=["Bär", "Öl"])
    assert "Bär" in done.out and {entry["label"] for entry in answers(done)["photos/a.png"]} == {"Bär", "Öl"}


def test_a_missing_file_is_named_once(model, folder, capsys):
    done = run(capsys, model, "photos/nope.jpg")
    assert done.err.endswith("clip-hf classify: photos/nope.jpg: there is no such file.\n")


@pytest.mark.parametrize(
    ("name", "text"),
    [("l.txt", "cat\nnumber seven\n"), ("L.TXT", "cat\nnumber seven\n"), ("l.json", '["cat", "number seven"]')],
)
def test_labels_come_from_a_file(model, folder, capsys, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    done = run(capsys, model, "photos/a.png", "--json", labels=[name])
    assert {entry["label"] for entry in answers(done)["photos/a.png"]} == {"cat", "number seven"}


def test_labels_that_come_with_the_library(model, folder, capsys):
    done = run(capsys, model, "photos/a.png", "--json", "--top-k", 99, labels=["class_names.json#eurosat"])
    assert len(answers(done)["photos/a.png"]) == 10


def test_a_pipe_gets_a_line_a_label(model, folder, capsys):
    done = run(capsys, model, "photos/a.png", "photos/z.png", "--top-k", 2)
    expected = clip_hf.pipeline(model, device="cpu")(["photos/a.png", "photos/z.png"], LABELS, top_k=2)
    lines = [line.split("\t") for line in done.out.splitlines()]
    assert [line[:2] for line in lines] == [
        [path, entry["label"]] for path, result in zip(("photos/a.png", "photos/z.png"), expected) for entry in result
    ]
    assert [float(line[2]) for line in lines] == pytest.approx([e["score"] for r in expected for e in r], abs=1e-5)
    assert run(capsys, model, "photos/a.png", "--threshold", 1).out == ""


def test_what_would_break_a_line_is_escaped(model, folder, capsys, monkeypatch):
    odd, labels = "photos/tab\tnew\nline\\.png", ["a\tb\x1b", "c\u2028d"]
    (folder / "a.png").rename(odd)
    done = run(capsys, model, odd, "no\nfile", "--json", labels=labels)
    predictions = answers(done)[odd]
    assert {entry["label"] for entry in predictions} == set(labels)
    assert done.err.endswith(r"clip-hf classify: no\nfile: there is no such file." + "\n")
    shown = {labels[0]: r"a\tb\x1b", labels[1]: r"c\u2028d"}
    path = r"photos/tab\tnew\nline\\.png"
    lines = [f"{path}\t{shown[entry['label']]}\t{entry['score']:.6f}" for entry in predictions]
    assert run(capsys, model, odd, labels=labels).out.split("\n") == [*lines, ""]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "\x1b\x1b" not in (table := run(capsys, model, odd, labels=labels).out) and r"a\tb\x1b" in table


def test_a_terminal_gets_a_table_for_each_image(model, folder, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = run(capsys, model, "photos/a.png").out.splitlines()
    rows = [line for line in lines if "%" in line]
    assert "photos/a.png" in lines[0] and len(rows) == 3
    assert len({line.index("%") for line in rows}) == 1
    for line in rows:
        assert line.count("█") == round(float(line.split("%")[0].split()[-1]) / 5)
    assert "no label reaches" in run(capsys, model, "photos/a.png", "--threshold", 1).out


# ----------------------------------------------------------------------------------------------------- how it does it


def test_labels_are_encoded_once_and_images_are_read_as_they_are_needed(model, folder, capsys, monkeypatch):
    passes, read = [], []
    original = clip_hf.ClipHFModel.get_text_features
    monkeypatch.setattr(
        clip_hf.ClipHFModel,
        "get_text_features",
        lambda self, *args, **kwargs: passes.append(1) or original(self, *args, **kwargs),
    )

    def paths():
        for number in range(40):
            read.append(number)
            yield NAMES[number % len(NAMES)]

    classifier = clip_hf.pipeline(model, device="cpu")
    scoring = {"labels": LABELS}
    results = cli_classify.classify_images(classifier, paths(), scoring, {"labels": LABELS}, batch_size=4)
    seen = []
    for path, _ in results:
        seen.append(path)
        assert len(read) <= len(seen) + 8  # the batch at work and the one that is read meanwhile
    assert seen == [NAMES[number % len(NAMES)] for number in range(40)]
    assert len(passes) == 1


def test_a_batch_is_read_while_the_model_works(model, folder, monkeypatch):
    classifier = clip_hf.pipeline(model, device="cpu")
    preprocess, forward, began = classifier.preprocess, classifier.forward, threading.Semaphore(0)

    def count_and_preprocess(path):
        began.release()
        return preprocess(path)

    def wait_and_forward(*args, **kwargs):
        # Of the batch at work, and of the one after it.
        assert all(began.acquire(timeout=60) for _ in range(4))
        monkeypatch.setattr(classifier, "forward", forward)
        return forward(*args, **kwargs)

    monkeypatch.setattr(classifier, "preprocess", count_and_preprocess)
    monkeypatch.setattr(classifier, "forward", wait_and_forward)
    results = cli_classify.classify_images(classifier, NAMES[:4], {"labels": LABELS}, {"labels": LABELS}, 2)
    assert [path for path, _ in results] == NAMES[:4]


def test_images_of_different_sizes_form_no_batch(model, folder, tiny_processor):
    classifier = clip_hf.pipeline(model, device="cpu")
    preprocess = classifier.preprocess
    sizes = iter([64, 32, 64])
    classifier.preprocess = lambda path: {"pixel_values": preprocess(path)["pixel_values"][:, :, : next(sizes), :]}
    forward, shapes = classifier.forward, []

    def record(inputs, **kwargs):
        shapes.append(tuple(inputs["pixel_values"].shape))
        return forward({"pixel_values": torch.nn.functional.interpolate(inputs["pixel_values"], (64, 64))}, **kwargs)

    classifier.forward = record
    results = list(cli_classify.classify_images(classifier, NAMES[:3], {"labels": LABELS}, {"labels": LABELS}, 3))
    assert sorted(shapes) == [(1, 3, 32, 64), (1, 3, 64, 64), (1, 3, 64, 64)]
    assert [path for path, _ in results] == NAMES[:3] and all(isinstance(result, list) for _, result in results)


# -------------------------------------------------------------------------------------------------------- how it fails


def test_an_unreadable_image_is_one_line_and_the_others_go_on(model, folder, capsys):
    (folder / "b.jpg").write_bytes(b"no image")
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes()[:100])
    Image.fromarray(np.full((80, 80), 40_000, np.uint16)).save(folder / "z.png")  # 16 bits
    (folder / "empty").mkdir()
    done = run(capsys, model, "photos", "missing.png", "photos/empty", "photos/a.png", "--json", "--batch-size", 2)
    assert done.status == 1
    bad = ["photos/b.jpg", "photos/c.png", "photos/z.png", "missing.png", "photos/empty"]
    lines = [line for line in done.err.splitlines() if line.startswith("clip-hf")]
    assert [line.split(": ")[1] for line in lines] == bad
    assert not any("Image 0" in line for line in lines) and "no image in this folder" in lines[-1]
    read = [json.loads(line)["image"] for line in done.out.splitlines()]
    assert read == [name for name in NAMES if name not in bad] + ["photos/a.png"]
    alone = answers(run(capsys, model, "photos/z.bmp", "--json"))
    assert_same(answers(done)["photos/z.bmp"], alone["photos/z.bmp"])


def test_images_are_read_as_the_options_say(model, folder, capsys):
    Image.fromarray(np.arange(0, 64_000, 10, dtype=np.uint16).reshape(80, 80)).save(folder / "16.png")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 4), np.uint8)
    Image.fromarray(pixels).save(folder / "rgba.png")
    names = ["photos/16.png", "photos/rgba.png"]
    done = run(capsys, model, *names, "--json")
    assert done.status == 1 and "16.png: the values go from 0 to 63990" in done.err and "high_bit_depth" in done.err
    options = ["--high-bit-depth", "scale", "--background-color", "255,0,0"]
    found = answers(run(capsys, model, *names, "--json", *options))
    classify = clip_hf.pipeline(model, device="cpu")
    expected = classify(names, LABELS, high_bit_depth="scale", background_color=(255, 0, 0))
    for name, predictions in zip(names, expected):
        assert_same(found[name], predictions)
    plain = answers(done)["photos/rgba.png"]
    assert max(abs(a["score"] - b["score"]) for a, b in zip(plain, found["photos/rgba.png"])) > 1e-4
    Image.fromarray(pixels[..., :3]).resize((900, 1200)).save(folder / "large.jpg")
    found = answers(run(capsys, model, "photos/large.jpg", "--json", "--draft"))["photos/large.jpg"]
    assert_same(found, classify(folder / "large.jpg", LABELS, draft=True))
    assert found != classify(str(folder / "large.jpg"), LABELS)
    done = run(capsys, model, "photos/z.bmp", "--max-image-bytes", 10)
    assert done.status == 1 and "more than the 10 bytes" in done.err


def test_an_empty_path_is_no_folder(model, folder, capsys):
    assert run(capsys, model, "").err.endswith("clip-hf classify: : the path is blank.\n")


@pytest.mark.parametrize(
    ("arguments", "closed", "message"),
    [
        (["classify", "-"], "<&-", "clip-hf classify: Standard input is closed, so no paths can be read from it.\n"),
        (
            ["classify", "photos"],
            ">&-",
            "clip-hf: standard output is closed; lead it somewhere, such as to /dev/null.\n",
        ),
        (
            ["compare", "a", "b"],
            ">&-",
            "clip-hf: standard output is closed; lead it somewhere, such as to /dev/null.\n",
        ),
        pytest.param(["classify", "nothing.png"], "2>&-", "", marks=pytest.mark.slow),
    ],
)
def test_a_closed_stream_is_one_line(model, folder, arguments, closed, message):
    options = ["--model", str(model), "--labels", *LABELS] if arguments[0] == "classify" else []
    code = "import sys; from _clip_hf_cli import main; sys.exit(main())"  # as `clip-hf` is installed
    command = ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-c", code, *arguments, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


def test_scores_that_are_not_finite_are_no_answer(model, folder, capsys, tmp_path, tiny_processor):
    broken = make_tiny_model("vit")
    with torch.no_grad():
        broken.visual_projection.weight[0, 0] = float("nan")
    checkpoints.save(broken, tiny_processor, tmp_path / "broken")
    done = run(capsys, tmp_path / "broken", "photos/a.png", "--json")
    assert (done.status, done.out) == (1, "")
    assert "photos/a.png: the model's scores are not finite" in done.err


@pytest.mark.parametrize(
    ("arguments", "labels", "status", "message"),
    [
        (["--top-k", "0"], LABELS, 2, "argument --top-k: '0' must be a whole number, at least 1"),
        (["--batch-size", "two"], LABELS, 2, "argument --batch-size: 'two' must be a whole number"),
        (["--threshold", "1.5"], LABELS, 2, "argument --threshold: '1.5' must be a number from 0 to 1"),
        (["--threshold", "nan"], LABELS, 2, "argument --threshold: 'nan' must be a number from 0 to 1"),
        (["--treshold", "0.5"], LABELS, 2, "unknown option --treshold. Did you mean --threshold?"),
        (["--template", "no placeholder"], LABELS, 1, "placeholder"),
        (["--template", "openai_imagnet"], LABELS, 1, "openai_imagenet"),
        (["--device", "gpu"], LABELS, 1, "The device 'gpu' is not on this machine; PyTorch"),
        (["--template", "openai_imagenet", "an emoji of {}."], LABELS, 1, "'openai_imagenet' must stand alone"),
        (
            ["--template", "prompts.txt", "{}"],
            LABELS,
            1,
            "'prompts.txt' holds prompts of its own and must stand alone",
        ),
        (["--template", "{}", "clip_benchmark:vtab/pets"], LABELS, 1, "pets' holds prompts of its own and must stand"),
        ([], ["cat", "cat"], 1, "occur more than once: ['cat']"),
        ([], ["names.TXT"], 1, "The file of labels names.TXT is not there."),
        ([], ["nowhere/names.json"], 1, "The file of labels nowhere/names.json is not there."),
        ([], ["photos/a.png"], 1, "'photos/a.png' are neither a file .txt or .json"),
        ([], ["mine.json#pets"], 1, "'mine.json#pets' are neither a file .txt or .json"),
    ],
)
def test_bad_options_fail_before_the_model_is_loaded(folder, capsys, monkeypatch, arguments, labels, status, message):
    monkeypatch.setattr(cli_classify, "pipeline", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    done = run(capsys, "model", "photos/a.png", *arguments, labels=labels)
    assert (done.status, done.out) == (status, "")
    assert message in done.err


def test_a_misspelt_file_of_labels(folder, capsys):
    (folder.parent / "labels.txt").write_text("cat\ndog\n")
    done = run(capsys, "model", "photos/a.png", labels=["lables.txt"])
    assert done.status == 1 and "lables.txt is not there. Did you mean 'labels.txt'?" in done.err


def test_a_mapping_of_prompts_must_have_every_label(folder, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(cli_classify, "pipeline", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    (tmp_path / "prompts.json").write_text(json.dumps({"cat": ["a cat."]}))
    done = run(capsys, "model", "photos/a.png", "--template", "prompts.json", labels=["cat", "dog"])
    assert done.status == 1 and "no prompts for 1 of the labels: ['dog']" in done.err


def test_nothing_on_stdin_is_an_error(model, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    done = run(capsys, model, "-")
    assert (done.status, done.out) == (1, "") and "No image was named" in done.err


@pytest.mark.slow
def test_a_reader_that_has_enough_ends_it_without_a_word(model, folder):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "clip_hf", "classify", "photos", "--model", str(model), "--labels", *LABELS],
        cwd=folder.parent,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=600,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 1
    assert "roken" not in done.stderr and "Exception" not in done.stderr


def test_a_film_for_a_model_of_pictures_is_called_a_film(model, tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"a film")
    classifier = clip_hf.pipeline(model, device="cpu")
    ((_, error),) = cli_classify.classify_images(
        classifier, [str(tmp_path / "film.mp4")], {"labels": LABELS}, {"labels": LABELS}, 1
    )
    assert "this is a film, and the model takes pictures" in str(error)


def test_films_of_a_folder_count_for_a_video_model(tiny_processor, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ClipHFVideoModel.from_clip(make_tiny_model("vit"), "meanP", num_frames=2).save_pretrained("video")
    options = tiny_processor.image_processor
    reader = ClipHFVideoProcessor(size=options.size, crop_size=options.crop_size, num_frames=2)
    ClipHFProcessor(reader, tiny_processor.tokenizer).save_pretrained("video")
    (tmp_path / "films" / "sub").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    names = ["films/a.mp4", "films/sub/b.mp4"]
    for name in names:
        write_film(name, numbered_frames(9))
    answer = run(capsys, "video", "films", "--top-k", "1")
    assert answer.status == 0 and [line.split("\t")[0] for line in answer.out.splitlines()] == names
    assert "there is no image and no film in this folder" in run(capsys, "video", "empty").err
