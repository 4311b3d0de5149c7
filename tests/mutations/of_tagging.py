# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Faults in tags, their thresholds, sidecars, and the contradiction score."""

from .mutation import Mutation


MUTATIONS = [
    Mutation(
        "captions with the label's words compete with it",
        "search/tagging.py",
        "[not _words(label) <= text for text in words]",
        "[True for text in words]",
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
        "wilson_lower_bound(right, counts, confidence) >= precision",
        "right / counts >= precision",
        "search/test_label_thresholds.py",
    ),
    Mutation(
        "promises on what the threshold was fitted on",
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
        '"".join(f"<{rdf}li>{escape(tag)}</{rdf}li>\\n" for tag in missing)',
        '"".join(f"<{rdf}li>{tag}</{rdf}li>\\n" for tag in missing)',
        "search/test_xmp_sidecars.py",
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
        "np.where(is_rival, background, -np.inf)",
        "np.where(True, background, -np.inf)",
        "search/test_contradiction.py",
    ),
]
