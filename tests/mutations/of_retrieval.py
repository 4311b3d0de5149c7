# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Faults in ranks and figures of retrieval."""

from .mutation import Mutation


MUTATIONS = [
    Mutation(
        "texts resampled on their own",
        "evaluation/tasks/retrieval.py",
        "_draw(generator, num_images))",
        "np.ones(num_images, np.int64))",
        "evaluation/tasks/test_retrieval.py -m 'not slow'",
    ),
    Mutation(
        "images of one text drawn singly",
        "evaluation/tasks/retrieval.py",
        "if clusters is not None:",
        "if False:",
        "evaluation/tasks/test_retrieval.py -m 'not slow'",
    ),
    Mutation(
        "equal texts count as wrong",
        "evaluation/numerics/ranking.py",
        "unlike = np.flatnonzero(candidates.identities[doubtful] != candidates.identities[right])",
        "unlike = np.arange(len(doubtful))",
        "evaluation/numerics/test_ranking.py -m 'not slow'",
    ),
    Mutation(
        "equal captions are several candidates",
        "evaluation/numerics/ranking.py",
        "if text_ids is None:",
        "if True:",
        "evaluation/numerics/test_ranking.py -k equal_texts",
    ),
    Mutation(
        "case of captions matters",
        "evaluation/numerics/ranking.py",
        "return caption.strip().lower()",
        "return caption.strip()",
        "evaluation/numerics/test_ranking.py -k caption_ids",
    ),
    Mutation(
        "chance with equal captions twice",
        "evaluation/tasks/retrieval.py",
        "pairs = np.unique(image_of_text * num_texts + text_ids)",
        "pairs = image_of_text * num_texts + text_ids",
        "evaluation/tasks/test_retrieval.py -k random_order",
    ),
    Mutation(
        "ties go to the later one",
        "evaluation/numerics/ranking.py",
        "before = doubtful < right",
        "before = doubtful > right",
        "evaluation/numerics/test_ranking.py -m 'not slow'",
    ),
    Mutation(
        "doubtful scores taken as above",
        "evaluation/numerics/ranking.py",
        "doubtful ^= above",
        "doubtful &= above",
        "evaluation/numerics/test_ranking.py -m 'not slow'",
    ),
    Mutation(
        "lossy products not noticed",
        "evaluation/numerics/ranking.py",
        "if not ((known >= low[inside]) & (known <= high[inside])).all():",
        "if False:",
        "evaluation/numerics/test_ranking.py -m 'not slow'",
    ),
    Mutation(
        "template may lack its place",
        "evaluation/tasks/retrieval.py",
        'self.template.count("{}") != 1',
        'self.template.count("{}") > 1',
        "evaluation/tasks/test_retrieval.py -m 'not slow'",
    ),
    Mutation(
        "the captions of skipped pictures stay",
        "evaluation/tasks/retrieval.py",
        "captions=[data.captions[row] for row in images.rows])",
        "captions=data.captions[: len(images.rows)])",
        "evaluation/test_suite.py -k captions_leave",
    ),
]
