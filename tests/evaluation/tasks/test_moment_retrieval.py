# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Moments of films by sentences: data, our search within a film, figures, and what is refused."""

import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from clip_hf.cli import main
from clip_hf.embedding import VideoEncoder, load_dual_encoder
from clip_hf.evaluation import MomentOptions, SuiteOptions, compare_results, evaluate_moments, load_moments, run_suite
from clip_hf.evaluation.numerics.moment_metrics import first_moment_iou, moment_average_precisions
from clip_hf.evaluation.registry.evaluation_data import CaptionedDataOptions
from clip_hf.model.video_reading_clip_hf import ClipSampling, read_frames
from clip_hf.utils.moment_merging import merge_moments
from encoding_inputs import count_images, quiet
from films import write_film
from tiny_models import CAPTIONS, make_tiny_model


SCENES = ((3, 0), (4, 1), (3, 2))  # seconds and pattern; ten seconds in all
RATE = 4


def pattern(number: int) -> np.ndarray:
    blocks = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return blocks.repeat(16, axis=0).repeat(16, axis=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two films of three scenes, a table of QVHighlights' form, and one of ours."""
    folder = tmp_path_factory.mktemp("moments")
    (folder / "films").mkdir()
    for film, first in (("one", 0), ("two", 10)):
        frames = [pattern(first + number) for seconds, number in SCENES for _ in range(seconds * RATE)]
        write_film(folder / "films" / f"{film}_0.0_10.0.mp4", frames, rate=RATE)
    rows = [
        ("one", CAPTIONS[0], [[0, 3]]),
        ("one", CAPTIONS[1], [[3, 7]]),
        ("two", CAPTIONS[2], [[0, 3], [7, 10]]),
        ("two", CAPTIONS[3], [[2, 6]]),
    ]
    with open(folder / "highlight_val_release.jsonl", "w", encoding="utf-8") as file:
        for number, (film, query, windows) in enumerate(rows):
            row = {"qid": number, "query": query, "duration": 10, "vid": f"{film}_0.0_10.0"}
            file.write(json.dumps({**row, "relevant_windows": windows, "saliency_scores": [[4, 3, 2]]}) + "\n")
    with open(folder / "moments.csv", "w", encoding="utf-8") as file:
        file.write("video,query,windows\n")
        for film, query, windows in rows:
            file.write(f'films/{film}_0.0_10.0.mp4,"{query}","{json.dumps(windows)}"\n')
    return folder


@pytest.fixture
def data(folder):
    return load_moments(folder / "moments.csv")


@pytest.fixture
def model(tiny_processor):
    return load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)


def test_both_forms_of_a_table_are_the_same_data(folder, data):
    options = CaptionedDataOptions(image_root=str(folder / "films"))
    published = load_moments(folder / "highlight_val_release.jsonl", options)
    assert published.queries == data.queries == CAPTIONS[:4]
    assert [windows.tolist() for windows in published.windows] == [windows.tolist() for windows in data.windows]
    assert published.films["video"] == data.films["video"]
    assert data.film_of_query.tolist() == [0, 0, 1, 1]
    assert published.name == "highlight_val_release"
    again = load_moments(published.data)
    assert again.queries == data.queries and again.film_of_query.tolist() == [0, 0, 1, 1]
    assert len(load_moments(folder / "moments.csv", CaptionedDataOptions(limit=2))) == 2


def test_figures_are_those_of_the_search_film_by_film(model, data):
    passes = count_images(model.model)
    result = evaluate_moments(model, data, MomentOptions(fps=2, encoding=quiet(), resamples=50))
    assert sum(passes) == 40  # each film once, 20 frames
    ious, precisions = [], []
    for query, film, windows in zip(data.queries, data.film_of_query, data.windows):
        frames = list(read_frames(data.films[int(film)]["video"]["path"], fps=2))
        features = model.encode_images([image for _, image in frames]).numpy()
        times = np.array([seconds for seconds, _ in frames])
        starts = np.append(0, (times[1:] + times[:-1]) / 2)
        scores = features @ model.encode_texts([query]).numpy()[0]
        moments = [each[:2] for each in merge_moments(starts, np.append(starts[1:], 10), scores, times=times)]
        ious.append(first_moment_iou(moments, windows))
        precisions.append(moment_average_precisions(moments[:10], windows))
    np.testing.assert_allclose(result.first_ious, ious, atol=1e-6)
    np.testing.assert_allclose(result.average_precisions, precisions, atol=1e-6)
    right = {
        "R1@0.5": np.mean(np.array(ious) >= 0.5),
        "R1@0.7": np.mean(np.array(ious) >= 0.7),
        "mAP@0.5": np.mean(precisions, axis=0)[0],
        "mAP@0.7": np.mean(precisions, axis=0)[4],
        "mAP@0.75": np.mean(precisions, axis=0)[5],
        "mAP": np.mean(precisions),
        "mean_iou": np.mean(ious),
    }
    assert result.values == pytest.approx(right, abs=1e-6)
    assert (result.num_queries, result.num_films, result.fps) == (4, 2, 2)
    for name, (low, high) in result.intervals.items():
        assert low <= right[name] <= high
    # The whole film as one moment: 3, 4, 3 and 4 of 10 seconds.
    assert result.chance["mean_iou"] == pytest.approx(0.35)
    assert result.chance["R1@0.5"] == 0


def test_a_model_that_knows_the_scenes_finds_them(model, data):
    # Texts are those of the scenes' own pictures: what is left to do is the search.
    scenes = [pattern(number) for number in (0, 1, 10, 11)]
    pictures = model.encode_images([Image.fromarray(scene) for scene in scenes])
    model.encode_texts = lambda texts: pictures[[CAPTIONS.index(text) for text in texts]]
    data.__dict__["windows"] = [np.array([window], float) for window in ((0, 3), (3, 7), (0, 3), (3, 7))]
    result = evaluate_moments(model, data, MomentOptions(fps=RATE, encoding=quiet(), resamples=0))
    assert result.values["R1@0.7"] == result.values["mAP@0.75"] == 1
    assert result.values["mean_iou"] > 0.9  # frames are a quarter of a second apart
    np.testing.assert_allclose(result.first_moments, [[0, 3], [3, 7], [0, 3], [3, 7]], atol=0.26)


def test_results_are_saved_and_compared(model, data, tmp_path, undrawn_plots):
    options = MomentOptions(encoding=quiet(), resamples=50)
    first = evaluate_moments(model, data, options)
    paths = first.save(tmp_path / "first")
    assert sorted(path.suffix for path in paths) == [".json", ".md", ".npz", ".png"]
    other = evaluate_moments(load_dual_encoder(make_tiny_model("resnet"), processor=model.processor), data, options)
    other.model = "other"
    other.save(tmp_path / "second")
    comparison = compare_results([tmp_path / "first", tmp_path / "second"])
    rows = {row.metric: row for row in comparison.metrics}
    assert rows["mAP"].differences[1] == pytest.approx(other.values["mAP"] - first.values["mAP"])
    assert rows["mean_iou"].difference_intervals[1] is not None
    names = {figure.metric_name: figure.metric_value for figure in first.eval_results()}
    assert names["moments mean_iou"] == pytest.approx(100 * first.values["mean_iou"], abs=0.01)
    content = json.loads((tmp_path / "first" / "moments-moments-all.json").read_text())
    content["metrics"]["mAP"] = 0.987
    (tmp_path / "first" / "moments-moments-all.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"mAP is 0\.987"):
        compare_results([tmp_path / "first", tmp_path / "second"])


def test_an_encoder_of_films_lends_its_frames(model, data):
    options = MomentOptions(encoding=quiet(), resamples=0)
    films = VideoEncoder(model, ClipSampling(4))
    assert evaluate_moments(films, data, options).values == evaluate_moments(model, data, options).values


def test_frames_are_kept_and_bad_films_skipped(model, folder, tmp_path):
    (tmp_path / "moments.jsonl").write_text(
        "".join(
            json.dumps({"video": name, "query": CAPTIONS[0], "windows": [[0, 3]]}) + "\n"
            for name in (str(folder / "films" / "one_0.0_10.0.mp4"), "bad.mp4", "missing.mp4")
        )
    )
    (tmp_path / "bad.mp4").write_bytes(b"no film at all")
    data = load_moments(tmp_path / "moments.jsonl", CaptionedDataOptions(image_root="/"))
    passes = count_images(model.model)
    options = MomentOptions(encoding=quiet(cache_dir=tmp_path / "cache", max_skipped_share=0.7), resamples=0)
    for expected in (10, 10):
        with pytest.warns(UserWarning, match="Films of moments .* cannot be read"):
            result = evaluate_moments(model, data, options)
        assert sum(passes) == expected
    assert result.num_queries == result.num_films == 1
    assert result.skipped["all"]["images"] == 2
    evaluate_moments(model, data, MomentOptions(fps=2, encoding=options.encoding, resamples=0))
    assert sum(passes) == 30  # another rate is other data
    with pytest.raises(ValueError, match=r"The film of place 1 \(.*bad.mp4\) cannot be used"):
        evaluate_moments(model, data, MomentOptions(encoding=quiet(max_skipped_share=0.1)))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"windows": [[3, 1]]}, "window 3 to 1 s must begin"),
        ({"windows": [[-1, 1]]}, "window -1 to 1 s must begin"),
        ({"windows": [[2, 2]]}, "end after it begins"),
        ({"windows": []}, "at least one"),
        ({"windows": None}, "at least one"),
        ({"windows": [0, 3]}, "is not [start, end]"),
        ({"windows": [[0, float("nan")]]}, "two numbers of seconds"),
        ({"windows": [[0, "3"]]}, "two numbers of seconds"),
        ({"windows": "soon"}, "which is no JSON"),
        ({"query": " "}, "has no query"),
        ({"query": None}, "has no query"),
        ({"windows": [[0, 30]]}, "outside its film, which has 10.00 s"),
        ({"windows": [[10.5, 11]]}, "outside its film"),
    ],
)
def test_bad_rows_are_named(row, message, folder, model, tmp_path):
    film = str(folder / "films" / "one_0.0_10.0.mp4")
    good = {"video": film, "query": CAPTIONS[0], "windows": [[0, 3]]}
    (tmp_path / "moments.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(good | row) + "\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate_moments(
            model,
            load_moments(tmp_path / "moments.jsonl", CaptionedDataOptions(image_root="/")),
            MomentOptions(encoding=quiet()),
        )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("clip", "query", "windows"), "no column 'video'; it has 'clip', 'query', 'windows'"),
        (("video", "sentence", "windows"), "--caption-column"),
        (("video", "query", "times"), "no column 'windows' or 'relevant_windows'"),
    ],
)
def test_missing_columns_are_named_with_those_there_are(columns, message, tmp_path):
    (tmp_path / "moments.jsonl").write_text(json.dumps(dict.fromkeys(columns, "a")) + "\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        load_moments(tmp_path / "moments.jsonl")


def test_sources_that_hold_no_moments_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="this is a folder"):
        load_moments(folder / "films")
    with pytest.raises(ValueError, match="no file or folder"):
        load_moments(tmp_path / "nothing.jsonl")
    with pytest.raises(ValueError, match="`fps` is 0"):
        MomentOptions(fps=0)
    with pytest.raises(ValueError, match="`max_moments`"):
        MomentOptions(max_moments=0)


def test_a_dataset_with_a_column_of_films(folder, data):
    columns = {"video": [str(folder / "films" / "one_0.0_10.0.mp4")], "query": ["a"], "windows": [[[0.0, 3.0]]]}
    given = datasets.Dataset.from_dict(columns).cast_column("video", datasets.Video(decode=False))
    assert load_moments(given).films["video"][0]["path"] == data.films["video"][0]["path"]


def test_the_suite_runs_it_beside_other_tasks(model, folder, tmp_path, undrawn_plots):
    options = SuiteOptions(
        tasks=["moments"],
        data=[str(folder / "moments.csv")],
        output_dir=tmp_path,
        encoding=quiet(),
        fps=2,
        resamples=20,
    )
    (result,) = run_suite(model, options, report=lambda text: None)
    assert result.fps == 2 and (tmp_path / "moments-moments-all.json").is_file()


def test_the_command(tiny_processor, folder, tmp_path, capsys, undrawn_plots):
    make_tiny_model("vit").save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    table = str(folder / "highlight_val_release.jsonl")
    command = ["evaluate", str(tmp_path / "model"), "--tasks", "moments", "--data", table, "--output-dir"]
    command += [str(tmp_path / "results"), "--image-root", str(folder / "films"), "--resamples", "20"]
    assert main(command) == 0
    assert "mAP@0.75" in capsys.readouterr().out
    assert main([*command, "--fps", "0"]) != 0
    assert "`fps` is 0" in capsys.readouterr().err
