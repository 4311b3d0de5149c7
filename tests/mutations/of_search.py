# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Faults in queries, in what counts as fitting, and in the answers of `clip-hf search`."""

from .mutation import Mutation


MUTATIONS = [
    Mutation(
        "a minus is a plus",
        "search/queries.py",
        '-1.0 if pending == "-" else 1.0',
        "1.0",
        "search/test_queries.py -k terms_of_a_command_line",
    ),
    Mutation(
        "a missing picture is a text",
        "search/queries.py",
        "    raise FileNotFoundError(",
        "    return None\n    raise FileNotFoundError(",
        "search/test_queries.py -k missing_is_no_text",
    ),
    Mutation(
        "the sum of a query is not checked for zero",
        "search/queries.py",
        "_SHORTEST = 1e-4",
        "_SHORTEST = 0.0",
        "search/test_queries.py -k cancel",
    ),
    Mutation(
        "whole captions instead of mixed ones",
        "search/no_match.py",
        "texts = mix_captions(load_background_texts())",
        "texts = list(load_background_texts()) * 2",
        "search/test_no_match.py -k at_most_the_share",
    ),
    Mutation(
        "scores of another state of the index",
        "search/no_match.py",
        "if self.index.generation not in self._best:",
        "if not self._best:",
        "search/test_no_match.py -k rows_that_there_are_now",
    ),
    Mutation(
        "pictures find their copies",
        "search/no_match.py",
        ">= NEAR_COPY).any(0)",
        ">= 1.5).any(0)",
        "search/test_no_match.py -k others_than_copies",
    ),
    Mutation(
        "stand-ins search all rows",
        "search/no_match.py",
        "return _best_scores(self.index, features, where)",
        "return _best_scores(self.index, features, None)",
        "search/test_no_match.py -k filter_leaves_fewer",
    ),
    Mutation(
        "stand-ins that cancel are searched",
        "search/no_match.py",
        "rows, queries = rows[:, is_left], queries[is_left]",
        "queries = np.nan_to_num(queries)",
        "search/test_no_match.py -k cancel",
    ),
    Mutation(
        "a quoted query is one text",
        "search/queries.py",
        "else _SIGN_BETWEEN.split(token)",
        "else [token]",
        "search/test_queries.py -k terms_of_a_command_line",
    ),
    Mutation(
        "a sign within a path splits it",
        "search/queries.py",
        "if _PATH.match(path) or os.path.isfile(path)",
        "if False",
        "search/test_queries.py -k terms_of_a_command_line",
    ),
    Mutation(
        "large weights overflow",
        "search/queries.py",
        "weights = weights / np.abs(weights).max()",
        "weights = weights / 1.0",
        "search/test_queries.py -k rounding",
    ),
    Mutation(
        "numbers within lists of metadata stay",
        "search/search_results.py",
        "return [plain_value(each) for each in value]",
        "return list(value)",
        "search/test_search_results.py -k json",
    ),
    Mutation(
        "the sheet is not written for a reader that has enough of the output",
        "cli/search.py",
        "    finally:  # also for a reader that has enough of the output",
        "    except ZeroDivisionError:",
        "cli/test_search_command.py -k has_enough",
    ),
    Mutation(
        "hits that do not fit stay",
        "search/search_results.py",
        "kept &= scores > (-math.inf if lowest is None else lowest)",
        "kept &= scores > -math.inf",
        "search/test_search_results.py -k no_match_leaves_out",
    ),
    Mutation(
        "the index's image options are forgotten",
        "cli/indexed_sources.py",
        "images |= {",
        "images = images or {",
        "cli/test_search_command.py -k image_options",
    ),
]
