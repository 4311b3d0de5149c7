# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The search example on its own pictures, with a tiny model."""

import search_photos


def test_three_searches_and_a_contact_sheet(model_folder, tmp_path, capsys):
    found = search_photos.main(["--model", str(model_folder), "--output-dir", str(tmp_path), "--query", "a cat"])
    by_text, by_photo, without = found.values()
    best = by_text.hits[0].id
    assert list(found) == ["a cat", f"like {best}", f"like {best}, but less of a cat"]
    assert all(len(results.hits) == 3 for results in found.values())
    assert by_photo.hits[0].id == best and by_photo.hits[0].score > 0.999
    assert without.best_score < 0.999
    page = (tmp_path / "hits.html").read_text()
    assert page.count("<img") == 9
    printed = capsys.readouterr().out
    assert "6 pictures" in printed and f"like {best}" in printed

    search_photos.main(["--model", str(model_folder), "--output-dir", str(tmp_path), "--query", "a cat"])
    assert "nothing has changed" in capsys.readouterr().out
