# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Mean 11-point average precision, as PASCAL VOC 2007 defines it."""

from typing import Any

from clip_hf.evaluation.numerics.metrics import map_11point
from clip_hf.metrics.checked_metric import BOOLS, CLIP_PAPER, FLOATS, CheckedMetric, Paper


_EVERINGHAM_2010 = Paper(
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
    """\
@article{everingham2010pascal,
    title = {The Pascal Visual Object Classes (VOC) Challenge},
    author = {Everingham, Mark and Van Gool, Luc and Williams, Christopher K. I. and Winn, John and Zisserman, Andrew},
    journal = {International Journal of Computer Vision},
    volume = {88},
    year = {2010}
}
""",
)


# evaluate makes the metric's name of the class's, and would make map11_point of Map11Point.
class Map_11point(CheckedMetric):
    """Mean 11-point average precision, as PASCAL VOC 2007 defines it.

    For each class, images are sorted by score, and the largest precision at recall r or more is averaged over the
    recalls r = 0, 0.1, ..., 1. The metric is the mean over classes. Images with equal scores enter together. The CLIP
    paper uses it for VOC 2007.

    Args:
        predictions: For each image, a score for each class: `(n, c)`.
        references: For each image and class, whether the image has the class, as True and False or 1 and 0: `(n, c)`.
            Each class has at least one image.
        sample_weight: How much each image counts, `(n,)`. By default all the same.

    Returns:
        map_11point: From 0 to 1.

    Examples:
        The images of class 0 come first and third: precision is 1 up to recall 1/2 (6 of the 11 points) and 2/3 beyond
        (5 points), so that its average is (6 + 5 * 2/3) / 11 = 28/33. The one of class 1 comes first: 1. The mean is
        61/66.

        >>> from clip_hf import metrics
        >>> metric = metrics.load("map_11point")
        >>> scores = [[0.9, 0.1], [0.5, 0.8], [0.4, 0.2]]
        >>> result = metric.compute(predictions=scores, references=[[1, 0], [0, 1], [1, 0]])
        >>> round(result["map_11point"] * 66, 9)
        61.0
    """

    columns = ({"predictions": FLOATS, "references": BOOLS},)
    papers = (_EVERINGHAM_2010, CLIP_PAPER)

    def _compute(self, predictions: Any, references: Any, sample_weight: Any = None) -> dict[str, float]:
        return {"map_11point": map_11point(predictions, references, sample_weight)}
