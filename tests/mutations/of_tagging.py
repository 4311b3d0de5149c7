# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Faults in tags, their thresholds, sidecars, and the contradiction score."""

from .mutation import Mutation


MUTATIONS = [
    Mutation(
        "captions with the label's words compete with it",
        "search/tagging.py",
        "row[list(set.intersection(*(places.get(word, set()) for word in _words(label))))] = False",
        "pass",
        "search/test_tagging.py",
    ),
    Mutation(
        "the scale of the model is not used",
        "search/tagging.py",
        "self._scale = encoder.logit_scale",
        "self._scale = 1.0",
        "search/test_tagging.py",
    ),
    Mutation(
        "a score equal to its threshold does not reach it",
        "search/tagging.py",
        "scores[place] >= limits[place]",
        "scores[place] > limits[place]",
        "search/test_tagging.py",
    ),
    Mutation(
        "a caption of the background counts twice",
        "search/tagging.py",
        "tuple(dict.fromkeys(load_background_texts() if background is None else background))",
        "tuple(load_background_texts() if background is None else background)",
        "search/test_tagging.py",
    ),
    Mutation(
        "pictures of one score are tagged in part",
        "search/label_thresholds.py",
        "np.append(scores[:-1] != scores[1:], True)",
        "np.ones(len(scores), bool)",
        "search/test_label_thresholds.py",
    ),
    Mutation(
        "thresholds without a margin",
        "search/label_thresholds.py",
        "wilson_lower_bound(right, counts, confidence)[is_cut] >= precision",
        "(right / counts)[is_cut] >= precision",
        "search/test_label_thresholds.py",
    ),
    Mutation(
        "the lowest of all scores that reach the target",
        "search/label_thresholds.py",
        "cuts[reaches.argmax() + fails[0] - 1] if len(fails) else cuts[-1]",
        "cuts[reaches][-1]",
        "search/test_label_thresholds.py",
    ),
    Mutation(
        "figures of what the threshold was fitted on",
        "search/label_thresholds.py",
        "fit_threshold(scores[others], has_label[others], target.precision, target.confidence)",
        "threshold",
        "search/test_label_thresholds.py",
    ),
    Mutation(
        "thresholds of another model are taken",
        "search/label_thresholds.py",
        'if scorer.model["fingerprint"] != self.model["fingerprint"]:',
        "if False:",
        "search/test_label_thresholds.py",
    ),
    Mutation(
        "labels of a sample shift where a picture cannot be read",
        "cli/tag.py",
        "has_label[rows]",
        "has_label[: len(rows)]",
        "cli/test_tag_command.py -k unreadable_pictures_of_a_sample",
    ),
    Mutation(
        "tags are not escaped",
        "search/xmp_sidecars.py",
        '"".join(f"<{rdf}li>{escape(tag)}</{rdf}li>\\n" for tag in tags)',
        '"".join(f"<{rdf}li>{tag}</{rdf}li>\\n" for tag in tags)',
        "search/test_xmp_sidecars.py",
    ),
    Mutation(
        "lists at any depth are the picture's",
        "search/xmp_sidecars.py",
        "names = [name for name, _ in self._stack[self._rdf_depth :]]",
        "names = [_DESCRIPTION, *[name for name, _ in self._stack[self._rdf_depth :]][-3:]]",
        "search/test_xmp_sidecars.py",
    ),
    Mutation(
        "characters that the declared encoding lacks",
        "search/xmp_sidecars.py",
        'encoding = "utf-8" if _declared_encoding(data) == "utf-8" else "ascii"',
        'encoding = "utf-8"',
        "search/test_xmp_sidecars.py -k names_of_encodings",
    ),
    Mutation(
        "a document type is read",
        "search/xmp_sidecars.py",
        "self._parser.StartDoctypeDeclHandler = self._refuse_doctype",
        "pass",
        "search/test_xmp_sidecars.py",
    ),
    Mutation(
        "a new list lacks the tags of others",
        "search/xmp_sidecars.py",
        "wanted = [*sidecar.lists[_SUBJECT].items, *tags] if tag_list.bag is None else tags",
        "wanted = tags",
        "search/test_xmp_sidecars.py",
    ),
    Mutation(
        "the text is one of its alternatives",
        "search/contradiction.py",
        "background[own[rows, None] == other] = -np.inf",
        "pass",
        "search/test_contradiction.py",
    ),
]
