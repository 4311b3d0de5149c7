# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Faults in near-duplicates, their report and moves, contact sheets, and the approximate index."""

from .mutation import Mutation


MUTATIONS = [
    Mutation(
        "tails left out of the bounds",
        "search/near_duplicates.py",
        "return np.concatenate([heads, tails[:, None]], axis=1)",
        "return np.concatenate([heads, 0 * tails[:, None]], axis=1)",
        "search/test_near_duplicates.py",
    ),
    Mutation(
        "pairs above the diagonal only in the first block of columns",
        "search/near_duplicates.py",
        "for start in range(top, len(heads), _BLOCK[1]):",
        "for start in range(top, top + 1, _BLOCK[1]):",
        "search/test_near_duplicates.py -k whole_matrix",
    ),
    Mutation(
        "a threshold of one misses copies",
        "search/near_duplicates.py",
        "limit, at_once = threshold - (rows.dim + 8) * np.finfo(np.float64).eps, 1",
        "limit, at_once = threshold + 1e-9, 1",
        "search/test_near_duplicates.py",
    ),
    Mutation(
        "fewest bytes are kept",
        "search/near_duplicates.py",
        "order = np.lexsort((ids[own], -sizes[own], -pixels[own]))",
        "order = np.lexsort((ids[own], sizes[own], -pixels[own]))",
        "search/test_near_duplicates.py -k best_picture",
    ),
    Mutation(
        "a pair a row, but not a column, comes first",
        "search/near_duplicates.py",
        "is_next = (_ranks(pairs[0]) < at_once) | (_ranks(pairs[1]) < at_once)",
        "is_next = _ranks(pairs[0]) < at_once",
        "search/test_near_duplicates.py -k nearly_equal",
    ),
    Mutation(
        "a move is logged after it happened",
        "search/picture_moves.py",
        """            _log_move(self._folder, _Move(old, new, old.stat().st_size))
            try:
                _move(old, new)
""",
        """            try:
                _move(old, new)
                _log_move(self._folder, _Move(old, new, new.stat().st_size))
""",
        "search/test_picture_moves.py -k any_step",
    ),
    Mutation(
        "what a crash left in both places is moved with a number",
        "search/picture_moves.py",
        "if self._begun.get(new) == old and _are_copies(old, new):",
        "if False:",
        "search/test_picture_moves.py -k any_step",
    ),
    Mutation(
        "an equal file that was there before counts as moved",
        "search/picture_moves.py",
        "if self._begun.get(new) == old and _are_copies(old, new):",
        "if _are_copies(old, new):",
        "search/test_picture_moves.py -k overwritten",
    ),
    Mutation(
        "a log takes files from elsewhere",
        "search/picture_moves.py",
        ' and ".." not in old.parts + new.parts',
        "",
        "search/test_picture_moves.py -k is_no_move",
    ),
    Mutation(
        "a log puts files elsewhere",
        "search/picture_moves.py",
        "if not _is_inside(move.old, pictures):",
        "if False:",
        "search/test_picture_moves.py -k nothing_elsewhere",
    ),
    Mutation(
        "a file is its own copy",
        "search/picture_moves.py",
        "return status.st_nlink > 1 and os.path.realpath(left) != os.path.realpath(right)",
        "return True",
        "search/test_picture_moves.py -k own_copy",
    ),
    Mutation(
        "copies that a crash cut stay",
        "search/picture_moves.py",
        "            _temporary(path).unlink()\n",
        "            pass\n",
        "search/test_picture_moves.py -k any_step",
    ),
    Mutation(
        "reports name the old places of moved pictures",
        "search/duplicate_report.py",
        'picture = places.get(item["id"]) or source.picture(item["id"])',
        'picture = source.picture(item["id"])',
        "search/test_duplicate_report.py -k after_the_move",
    ),
    Mutation(
        "a picture is moved although the best is gone",
        "search/duplicate_report.py",
        "if _has_changed(paths[group.kept], rows[group.kept]):",
        "if False:",
        "search/test_duplicate_report.py -k best_is_gone",
    ),
    Mutation(
        "a copy is not compared",
        "search/picture_moves.py",
        "if digest_file(temporary) != digest_file(old):",
        "if False:",
        "search/test_picture_moves.py -k differs",
    ),
    Mutation(
        "names are not escaped",
        "search/contact_sheet.py",
        "return escape(escape_name(text), quote=True)",
        "return escape_name(text)",
        "search/test_contact_sheet.py",
    ),
    Mutation(
        "transparency is not put on white",
        "search/thumbnails.py",
        '"scale", _WHITE, draft_edge',
        '"scale", None, draft_edge',
        "search/test_contact_sheet.py",
    ),
    Mutation(
        "the recall of texts is not held to the limit",
        "search/approximate_index.py",
        "reached = min(found.recall for found in recalls(slice(0, None, 2)))",
        "reached = recalls(slice(0, None, 2))[1].recall",
        "search/test_approximate_index.py -k low_recall",
    ),
    Mutation(
        "the recall is that of the queries with which the effort was found",
        "search/approximate_index.py",
        "recalls(slice(1, None, 2))",
        "recalls(slice(0, None, 2))",
        "search/test_approximate_index.py -k as_measured",
    ),
    Mutation(
        "a file is read whatever its digest",
        "search/approximate_index.py",
        'if digest_file(place / _FILE) != manifest["digest"]:',
        "if False:",
        "search/test_approximate_index.py -k damaged",
    ),
    Mutation(
        "padding becomes the last row",
        "search/approximate_index.py",
        "numbers = np.unique(numbers[numbers >= 0])",
        "numbers = np.unique(numbers)",
        "search/test_approximate_index.py",
    ),
]
