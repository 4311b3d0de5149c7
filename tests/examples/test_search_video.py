# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The example of moments on a film of its own pictures, with a tiny model."""

import search_video
from clip_hf.search import film_index
from clip_hf.video import describe_video


def test_moments_a_contact_sheet_and_clips(model_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(film_index, "SAME_COSINE", 0.9999)  # a tiny model gives all pictures about the same embedding
    arguments = ["--model", str(model_folder), "--output-dir", str(tmp_path), "--query", "a cat", "--top-k", "2"]
    moments = search_video.main(arguments)
    assert 1 <= len(moments) <= 2
    assert all(moment.file == "pictures.mp4" and 0 <= moment.start < moment.end <= 12 for moment in moments)
    assert describe_video(tmp_path / "films" / "pictures.mp4").duration == 12
    page = (tmp_path / "hits.html").read_text()
    assert page.count("<img") == len(moments) and f"pictures.mp4#t={moments[0].start:.1f}" in page
    assert len(list((tmp_path / "clips").iterdir())) == len(moments)
    assert "6 frames of 1 film" in capsys.readouterr().out

    search_video.main(arguments)
    assert "nothing has changed" in capsys.readouterr().out
