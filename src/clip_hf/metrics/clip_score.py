# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""CLIPScore and RefCLIPScore of images and texts, from their embeddings."""

from typing import Any

from clip_hf.evaluation.numerics.caption_scores import clip_score, ref_clip_score
from clip_hf.metrics.checked_metric import FLOATS, CheckedMetric, Paper


_HESSEL_2021 = Paper(
    "https://arxiv.org/abs/2104.08718",
    """\
@inproceedings{hessel2021clipscore,
    title = {{CLIPScore}: A Reference-free Evaluation Metric for Image Captioning},
    author = {Hessel, Jack and Holtzman, Ari and Forbes, Maxwell and Le Bras, Ronan and Choi, Yejin},
    booktitle = {Conference on Empirical Methods in Natural Language Processing},
    year = {2021}
}
""",
)


class ClipScore(CheckedMetric):
    """CLIPScore and RefCLIPScore of images and texts (Hessel et al. 2021).

    CLIPScore is 2.5 * max(cosine, 0) of the embeddings of an image and a text. RefCLIPScore is the harmonic mean of
    CLIPScore and the text's largest cosine with a reference text, or 0 if that cosine is negative. Both are averaged
    over the pairs. Hessel et al. use the embeddings of CLIP ViT-B/32, with texts that begin with "A photo depicts";
    scores of other models or prompts are not comparable.

    Args:
        image_embeds: For each pair, the image's embedding, which need not be normalised: `(n, dim)`.
        text_embeds: For each pair, the text's embedding: `(n, dim)`.
        reference_embeds: For each pair, the embeddings of reference texts, at least one: a list of n arrays
            `(references, dim)`. By default there are none.
        weight: What the cosine is multiplied by. By default 2.5.
        average: If False, the scores of all pairs are given instead of their mean. By default True.

    Returns:
        clip_score: From 0 to `weight`.
        ref_clip_score: If there are references.

    Examples:
        The cosine is (3 * 4 + 4 * 3) / (5 * 5) = 0.96, and 2.5 * 0.96 = 2.4. The reference has the cosine 0.6 with the
        text: 2 * 2.4 * 0.6 / (2.4 + 0.6) = 0.96.

        >>> from clip_hf import metrics
        >>> metric = metrics.load("clip_score")
        >>> result = metric.compute(image_embeds=[[3, 4]], text_embeds=[[4, 3]], reference_embeds=[[[0, 2]]])
        >>> {name: round(value, 9) for name, value in result.items()}
        {'clip_score': 2.4, 'ref_clip_score': 0.96}
    """

    columns = ({"image_embeds": FLOATS, "text_embeds": FLOATS},)
    papers = (_HESSEL_2021,)

    def _compute(
        self,
        image_embeds: Any,
        text_embeds: Any,
        reference_embeds: Any = None,
        weight: float = 2.5,
        average: bool = True,
    ) -> dict[str, Any]:
        scores = {"clip_score": clip_score(image_embeds, text_embeds, weight)}
        if reference_embeds is not None:
            scores["ref_clip_score"] = ref_clip_score(image_embeds, text_embeds, reference_embeds, weight)
        return {name: float(values.mean()) if average else values.tolist() for name, values in scores.items()}
