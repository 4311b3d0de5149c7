# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Faults in the exact index: its bounds, its scan, its commits and its filters."""

from .mutation import Mutation


MUTATIONS = [
    Mutation(
        "errors of rows count by half",
        "search/row_codes.py",
        "return errors + f * (1 + errors) + rounding",
        "return errors / 2 + f * (1 + errors) + rounding",
        "search/test_row_codes.py",
    ),
    Mutation(
        "errors of queries count by half",
        "search/row_codes.py",
        "return errors + f * (1 + errors) + rounding",
        "return errors + f / 2 * (1 + errors) + rounding",
        "search/test_row_codes.py",
    ),
    Mutation(
        "rows are not rotated",
        "search/row_codes.py",
        "_encode(_rotate(_unit(rows)))",
        "_encode(_unit(rows))",
        "search/test_row_codes.py -k length",
    ),
    Mutation(
        "rows and queries are not rotated",
        "search/row_codes.py",
        "_rotate(_unit(",
        "np.array(_unit(",
        "search/test_exact_scan.py -k dominates",
        times=2,
    ),
    Mutation(
        "long rows overflow",
        "search/row_codes.py",
        "    rows /= largest[:, None]\n",
        "",
        "search/test_row_codes.py -k any_length",
    ),
    Mutation(
        "rows that do not count raise thresholds",
        "search/exact_scan.py",
        "if chunk.dropped is not None:",
        "if False:",
        "search/test_exact_scan.py -k 'do_not_count'",
    ),
    Mutation(
        "equal scores in any order",
        "search/exact_scan.py",
        'np.lexsort((pairs["place"], -pairs["lower"], pairs["query"]))',
        'np.lexsort((-pairs["place"], -pairs["lower"], pairs["query"]))',
        "search/test_exact_scan.py -k 'hard and equal'",
    ),
    Mutation(
        "the k-th bound is the best one's",
        "search/exact_scan.py",
        "np.arange(len(self.queries))) + self.k - 1",
        "np.arange(len(self.queries)))",
        "search/test_exact_scan.py -k 'hard and random'",
    ),
    Mutation(
        "the kernel is not checked",
        "search/exact_scan.py",
        "if _int_mm_is_right(dim):",
        "if True:",
        "search/test_exact_scan.py -k kernel",
    ),
    Mutation(
        "a missing file is not read again",
        "search/embedding_index.py",
        "if IndexManifest.read(self.folder).generation == manifest.generation:",
        "if True:",
        "search/test_index_segments.py -k reads_again",
    ),
    Mutation(
        "leftovers stay",
        "search/index_segments.py",
        "        if record is None:\n            shutil.rmtree(entry.path, ignore_errors=True)\n",
        "        if record is None:\n",
        "search/test_index_segments.py -k 'dies and compact'",
    ),
    Mutation(
        "writers do not read others' commits",
        "search/embedding_index.py",
        "            self._read()\n            delete_leftovers(self.folder, self._manifest)\n            yield",
        "            yield",
        "search/test_index_segments.py -k wait_for_each_other",
    ),
    Mutation(
        "numbers of removed rows are used again",
        "search/embedding_index.py",
        "return next_id + count",
        "return count",
        "search/test_embedding_index.py -k used_again",
    ),
    Mutation(
        "merged rows come back",
        "search/embedding_index.py",
        "itertools.chain(self._stored_parts(keep, first), new)",
        "itertools.chain(self._stored_parts(self._keep, first), new)",
        "search/test_embedding_index.py -k small_commits",
    ),
    Mutation(
        "a pattern reaches from one text of a list into the next",
        "search/row_filters.py",
        'return f"[^{_END}]" + part',
        'return "." + part',
        "search/test_row_filters.py -k keeps",
    ),
    Mutation(
        "a row without texts matches",
        "search/row_filters.py",
        "found = found & (pc.list_value_length(column) > 0)",
        "found = found | (pc.list_value_length(column) < 0)",
        "search/test_row_filters.py -k keeps",
    ),
]
