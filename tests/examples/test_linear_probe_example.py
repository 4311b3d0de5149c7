# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The linear probe's example on digits, with a tiny model that was never trained."""

import json

import pytest
from PIL import Image

from linear_probe import main


def test_digits_are_probed_offline(model_folder, tmp_path, capsys, undrawn_plots):
    out = tmp_path / "out"
    arguments = ["--model", str(model_folder), "--data", "digits", "--limit", "150", "--output-dir", str(out)]
    result = main(arguments)
    printed = capsys.readouterr().out
    # Random features tell digits apart far better than chance, which is 10%.
    assert 0.3 < result.accuracy <= 1
    assert result.num_features == 32  # before the projection, which is to 16
    assert result.rows["test"] == 150
    assert f"{100 * result.accuracy:.2f}%" in printed and str(out / "linear_probe-digits-test.png") in printed
    saved = json.loads((out / "linear_probe-digits-test.json").read_text())
    assert saved["metrics"]["lambda"] == result.best_lambda
    # The second time the features come from the disk, and are the same.
    assert (out / "features").is_dir()
    assert main(arguments).sweep == result.sweep


def test_data_without_a_test_split_are_refused(model_folder, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "photos" / name / "1.png")
    with pytest.raises(ValueError, match="Classifiers need the splits train and test; there are all"):
        main(["--model", str(model_folder), "--data", str(tmp_path / "photos"), "--output-dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
