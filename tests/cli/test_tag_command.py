# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The command `clip-hf tag` on folders and other sources: what it writes, what it refuses, what it embeds again."""

import csv
import io
import json
import os
import shutil

import numpy as np
import pytest

from _clip_hf_cli import tag as tag_arguments
from clip_hf.cli import main
from clip_hf.embedding import load_dual_encoder
from clip_hf.search import LabelScorer, LabelThresholds, load_moderation_labels, read_labelled_sample, read_tags
from clip_hf.search.label_thresholds import PRECISION
from clip_hf.search.xmp_sidecars import XMP_STYLES
from encoding_inputs import write_model_and_photos
from pair_data import image_of


LABELS = ["cat", "dogs in the snow", "number seven"]
PHOTOS = 6


@pytest.fixture(scope="module")
def made(tiny_processor, tmp_path_factory):
    """A folder with a tiny model and photos; not to be changed."""
    return write_model_and_photos(tmp_path_factory.mktemp("tag"), tiny_processor, PHOTOS)


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A working folder with photos of its own."""
    shutil.copytree(made / "photos", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tag(made, folder, capsys):
    """A function that runs the command: exit status, standard output and standard error."""

    def run(*arguments) -> tuple[int, str, str]:
        status = main(["tag", *map(str, arguments), "--model", str(made / "model")])
        return status, *capsys.readouterr()

    return run


def scores_of(made, pictures, labels=LABELS) -> np.ndarray:
    encoder = load_dual_encoder(made / "model")
    return LabelScorer(encoder, labels).score(encoder.encode_images(pictures).numpy())


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_arguments_have_the_librarys_values():
    assert tag_arguments.XMP_STYLES == XMP_STYLES
    assert tag_arguments.PRECISION == PRECISION


def test_tables_json_lines_and_sidecars_agree_with_the_scores(tag, made, folder):
    pictures = sorted((folder / "photos").iterdir())
    before = {path: path.read_bytes() for path in pictures}
    scores = scores_of(made, pictures)
    threshold = float(np.median(scores)) * 1.001
    status, out, err = tag("photos", "--labels", *LABELS, "--threshold", threshold, "--jsonl", "t.jsonl", "--xmp")
    assert status == 0
    rows = lines_of(folder / "t.jsonl")
    for path, row, expected in zip(pictures, rows, scores, strict=True):
        wanted = [LABELS[place] for place in np.argsort(-expected) if expected[place] >= threshold]
        assert row["image"] == str(path) and row["labels"] == wanted
        # Vectors in an index are float16.
        np.testing.assert_allclose(row["scores"], sorted(expected[expected >= threshold])[::-1], rtol=0.02, atol=1e-6)
        sidecar = path.with_name(f"{path.name}.xmp")
        assert (read_tags(sidecar) if wanted else sidecar.exists()) == (wanted or False)
        assert path.read_bytes() == before[path]
    counts = [sum(label in row["labels"] for row in rows) for label in LABELS]
    assert 0 < sum(counts) < 3 * PHOTOS
    table = [line.split("  ") for line in out.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in table]
    for label, count in zip(LABELS, counts):
        assert [label, str(count), f"{threshold:.4g}"] in cells
    assert f"{PHOTOS} pictures, {sum(not row['labels'] for row in rows)} without a label" in out
    for path, row in zip(pictures, rows):
        shown = ", ".join(f"{label} {score:.2f}" for label, score in zip(row["labels"], row["scores"]))
        assert [path.name, *([shown] if shown else [])] in cells
    assert f"{sum(bool(row['labels']) for row in rows)} sidecars written." in err


def test_a_folder_is_embedded_once(tag, folder, monkeypatch):
    assert tag("photos", "--labels", "cat")[0] == 0
    assert (folder / "photos.clip-index").is_dir()
    monkeypatch.setattr("clip_hf.embedding.DualEncoder._encode_prepared", lambda *_: pytest.fail("embedded again"))
    status, out, _ = tag("photos", "--labels", "a dog", "cat", "--threshold", 0)
    assert status == 0 and "6 pictures, 0 without a label" in out
    # The index is a source, too, and one elsewhere is built where it is named.
    assert tag("photos.clip-index", "--labels", "cat")[0] == 0
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert tag("photos", "--labels", "cat", "--index", "elsewhere")[0] == 0 and (folder / "elsewhere").is_dir()


def test_the_model_is_that_of_the_index(tag, folder, capsys):
    _, with_model, _ = tag("photos", "--labels", *LABELS)
    assert main(["tag", "photos", "--labels", *LABELS]) == 0
    assert capsys.readouterr().out == with_model


def test_a_source_that_is_not_there_is_told_before_a_model_is_loaded(folder, capsys):
    assert main(["tag", "photoz", "--labels", "cat", "--model", "no/such-model"]) == 1
    assert "photoz" in capsys.readouterr().err


def test_an_unreadable_picture_is_named_and_left_out(tag, folder):
    (folder / "photos" / "broken\n.png").write_bytes(b"no picture")
    (folder / "photos" / "empty.png").write_bytes(b"")
    (folder / "photos" / "clip.mp4").write_bytes(b"video")
    status, _, err = tag("photos", "--labels", "cat", "--jsonl", "t.jsonl")
    assert status == 1 and "--max-skipped-share" in err
    status, _, err = tag("photos", "--labels", "cat", "--jsonl", "t.jsonl", "--max-skipped-share", "0.5")
    assert status == 0 and len(lines_of(folder / "t.jsonl")) == PHOTOS
    assert "broken\\n.png" in err and "empty.png" in err


def test_sidecars_that_cannot_be_written_are_named_at_the_end(tag, folder):
    (folder / "photos" / "0.png.xmp").write_text("<html>")
    status, out, err = tag("photos", "--labels", "cat", "--threshold", 0, "--xmp")
    assert status == 1
    assert "0.png.xmp' is no XMP that tags can be added to" in err and "5 sidecars written." in err
    assert "6 pictures, 0 without a label" in out
    assert (folder / "photos" / "0.png.xmp").read_text() == "<html>"


def test_pictures_that_would_share_a_sidecar_are_refused_before_any_is_written(tag, folder):
    image_of(0).save(folder / "photos" / "0.jpg")
    status, _, err = tag("photos", "--labels", "cat", "--threshold", 0, "--xmp", "--xmp-style", "replace")
    assert status == 1 and "would share one sidecar" in err
    assert not list((folder / "photos").glob("*.xmp"))
    (folder / "photos" / "0.jpg").unlink()
    assert tag("photos", "--labels", "cat", "--threshold", 0, "--xmp", "--xmp-style", "replace")[0] == 0
    assert (folder / "photos" / "0.xmp").is_file()


def test_bytes_that_are_not_utf8_in_a_name(tag, folder):
    name = os.fsdecode(b"photos/\xff.png")
    image_of(0).save(folder / name)
    assert tag("photos", "--labels", "cat", "--threshold", 0, "--xmp", "--jsonl", "t.jsonl")[0] == 0
    assert read_tags(folder / f"{name}.xmp") == ["cat"]
    assert str(folder / name) in read_labelled_sample(folder / "t.jsonl").pictures


class AsciiTerminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_a_terminal_that_has_only_ascii(tag, folder, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", AsciiTerminal(written, encoding="ascii", write_through=True))
    assert tag("photos", "--labels", "café", "--threshold", 0)[0] == 0
    assert b"6 pictures, 0 without a label" in written.getvalue() and b"caf\\xe9" in written.getvalue()


# ---------------------------------------------------------------------------------------------------------- thresholds


@pytest.fixture
def sample(made, folder):
    """A labelled sample on which "cat" can be told by its score, "number seven" is rare and the dogs are random."""
    rows = []
    (folder / "sample").mkdir()
    for number in range(60):
        image_of(number).save(folder / "sample" / f"{number}.png")
    pictures = [folder / "sample" / f"{number}.png" for number in range(60)]
    order = np.argsort(-scores_of(made, pictures)[:, 0])
    for rank, number in enumerate(order):
        labels = ["cat"] * (rank < 25) + ["dogs in the snow"] * (rank % 2) + ["number seven"] * (rank < 3)
        rows.append((f"sample/{number}.png", ";".join(labels)))
    with open(folder / "sample.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "labels"), *rows])
    return folder / "sample.csv"


def test_thresholds_are_fitted_reported_saved_and_used_again(tag, made, folder, sample):
    status, out, _ = tag(
        "photos", "--labels", *LABELS, "--calibrate", sample, "--thresholds", "t.json", "--jsonl", "a.jsonl"
    )
    assert status == 0
    fitted = LabelThresholds.load(folder / "t.json")
    kinds = {label: threshold.kind for label, threshold in fitted.labels.items()}
    assert kinds == {"cat": "fitted", "dogs in the snow": "target not reached", "number seven": "too few examples"}
    cat = fitted.labels["cat"]
    assert fitted.pictures == 60 and cat.examples == 25 and cat.precision >= 0.9
    assert fitted.labels["number seven"].threshold == 0.5
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in out.splitlines()]
    assert [
        "cat",
        "25",
        f"{cat.threshold:.4g}",
        str(cat.tagged),
        str(cat.right),
        f"{cat.precision:.3f}",
        f"{cat.recall:.3f}",
    ] in cells
    assert ["dogs in the snow", "30", "-", "0", "0", "-", "-", "target not reached"] in cells
    assert ["number seven", "3", "0.5", "0", "0", "-", "-", "too few examples"] in cells
    assert "Thresholds for a precision of 0.9, fitted on 60 pictures" in out and "never" in out
    assert "Of all labels, at most about 10% get a threshold whose precision is clearly below the target" in out
    expected = scores_of(made, sorted((folder / "photos").iterdir()))[:, 0] >= cat.threshold
    assert ["cat" in row["labels"] for row in lines_of(folder / "a.jsonl")] == expected.tolist()
    # Labels and prompts come from the file.
    assert tag("photos", "--thresholds", "t.json", "--jsonl", "b.jsonl")[0] == 0
    assert lines_of(folder / "a.jsonl") == lines_of(folder / "b.jsonl")
    assert tag("photos", "--thresholds", "t.json", "--labels", "cat", "--jsonl", "c.jsonl")[0] == 0
    alone = [["cat"] if is_cat else [] for is_cat in expected]
    assert [row["labels"] for row in lines_of(folder / "c.jsonl")] == alone


def test_what_json_lines_hold_is_a_sample(tag, folder, sample):
    assert tag("sample", "--labels", "cat", "--threshold", 0, "--jsonl", "own.jsonl")[0] == 0
    status, out, _ = tag("photos", "--labels", "cat", "--calibrate", "own.jsonl", "--precision", 0.5)
    assert status == 0 and "Thresholds for a precision of 0.5, fitted on 60 pictures of own.jsonl" in out


def test_unreadable_pictures_of_a_sample_do_not_shift_the_others(tag, folder, sample, made):
    tag("photos", "--labels", *LABELS, "--calibrate", sample, "--thresholds", "t.json")
    (folder / "sample" / "broken.png").write_bytes(b"no picture")
    header, *rows = sample.read_text().splitlines()
    sample.write_text("\n".join([header, "sample/broken.png,cat", *rows]))
    with pytest.warns(UserWarning, match="broken.png"):
        assert tag("photos", "--labels", *LABELS, "--calibrate", sample, "--thresholds", "u.json")[0] == 0
    first, second = LabelThresholds.load(folder / "t.json"), LabelThresholds.load(folder / "u.json")
    assert second.labels["cat"].threshold == pytest.approx(first.labels["cat"].threshold, rel=1e-4)
    assert second.pictures == 60


def test_thresholds_of_another_model_or_other_prompts_are_refused(tag, folder, sample):
    tag("photos", "--labels", *LABELS, "--calibrate", sample, "--thresholds", "t.json")
    status, _, err = tag("photos", "--thresholds", "t.json", "--template", "a {}")
    assert status == 1 and "were fitted for other prompts, such as 'This is a photo of cat.'" in err
    status, _, err = tag("photos", "--thresholds", "t.json", "--background-color", "red")
    assert status == 1 and "Thresholds fit the scores of one model only" in err
    status, _, err = tag("photos", "--thresholds", "t.json", "--labels", "cat", "bird")
    assert status == 1 and "There are no thresholds for the labels 'bird'" in err


# ----------------------------------------------------------------------------------------------------- labels, options


def test_files_of_labels(tag, folder):
    (folder / "labels.txt").write_text("cat\n\n number seven \ncat\nnumber seven\n")
    status, _, err = tag("photos", "--labels", "labels.txt", "--threshold", 0, "--jsonl", "t.jsonl")
    assert status == 0
    assert "2 labels occurred more than once; each counts once: 'cat', 'number seven'" in err
    assert sorted(lines_of(folder / "t.jsonl")[0]["labels"]) == ["cat", "number seven"]
    (folder / "labels.json").write_text('["cat"]')
    assert tag("photos", "--labels", "labels.json")[0] == 0
    for content in ("\n\n", "  \n"):
        (folder / "labels.txt").write_text(content)
        status, _, err = tag("photos", "--labels", "labels.txt")
        assert status == 1 and "labels.txt" in err


def test_moderation(tag, folder):
    status, _, err = tag("photos", "--labels", "moderation", "--threshold", 0, "--jsonl", "t.jsonl")
    assert status == 0
    moderation = load_moderation_labels()
    assert all(limit in err for limit in moderation.limits)
    assert sorted(lines_of(folder / "t.jsonl")[0]["labels"]) == sorted(moderation.labels)
    status, _, err = tag("photos", "--labels", "moderation", "--template", "{}")
    assert status == 1 and "captions of their own; leave --template out" in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["photos"], "Name labels (--labels), or a file of thresholds"),
        (["photos", "--labels", "cat", "--precision", "0.8"], "--precision is what --calibrate aims at"),
        (
            ["photos", "--labels", "cat", "--calibrate", "s", "--precision", "1"],
            "--precision is 1; it must be above 0",
        ),
        (
            ["photos", "--labels", "cat", "--calibrate", "s", "--precision", "0"],
            "--precision is 0; it must be above 0",
        ),
        (["photos", "--labels", "moderation", "cat"], "moderation is a set of labels"),
        (["photos", "--labels", "cat", "a.txt"], "among the 2 values given 'a.txt' is a file"),
        (["photos", "--labels", "a.txt", "b.json"], "among the 2 values given 'a.txt', 'b.json' are files"),
        (["photos", "--thresholds", "t.json", "--threshold", "0.5"], "leave --threshold out"),
        (["photos", "--thresholds", "none.json"], "none.json is not there"),
        (["photos", "--labels", "cat", "--calibrate", "none"], "must be a folder with a subfolder for each label"),
        (["photos", "--labels", "cat", "--template", "no place"], "does not say where the label goes"),
        (["none", "--labels", "cat"], "none"),
        (["photos", "--labels", "a\tb", "--threshold", "0", "--xmp"], "a character that XMP cannot hold"),
    ],
)
def test_what_is_refused(arguments, message, tag, folder, monkeypatch):
    if "--xmp" not in arguments and "--template" not in arguments:
        monkeypatch.setattr("clip_hf.cli.tag.load_index_encoder", lambda *_: pytest.fail("a model was loaded"))
    status, out, err = tag(*arguments)
    assert status == 1 and message in err and out == ""
    assert not list(folder.glob("**/*.xmp"))


def test_labels_of_a_sample_that_were_not_asked_for(tag, folder):
    (folder / "s.csv").write_text("image,labels\nphotos/0.png,cta\n")
    status, _, err = tag("photos", "--labels", "cat", "--calibrate", "s.csv")
    assert status == 1 and "'cta'. Did you mean 'cat'?" in err


def test_rows_of_a_table(tag, folder):
    (folder / "t.csv").write_text("image,caption\nphotos/0.png,a\nphotos/1.png,b\n")
    status, out, _ = tag("t.csv", "--labels", "cat", "--threshold", 0, "--jsonl", "t.jsonl", "--xmp")
    assert status == 0 and "2 pictures" in out
    assert [row["image"] for row in lines_of(folder / "t.jsonl")] == [str(folder / f"photos/{n}.png") for n in (0, 1)]
    assert (folder / "photos/1.png.xmp").is_file() and not (folder / "photos/2.png.xmp").exists()
