# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
What is checked of a pipeline, by task. `PipelineTesterMixin` makes an object of one of these classes, and calls
`get_test_pipeline` and, with its results, `run_pipeline_test`; transformers' own are not in its source distribution.
"""

import unittest
from dataclasses import fields

import numpy as np
import torch
from huggingface_hub import (
    ImageClassificationOutputElement,
    ZeroShotImageClassificationOutputElement,
    ZeroShotImageClassificationParameters,
)
from PIL import Image
from transformers import pipeline
from transformers.testing_utils import compare_pipeline_output_to_hub_spec
from unpacked import local_picture

from clip_hf import ClipHFZeroShotImageClassificationPipeline


PICTURE = local_picture("picture.png")


class Task(unittest.TestCase):
    """A pipeline that takes images."""

    task: str
    # Set when the pipeline is made, for the batches that `PipelineTesterMixin` runs are without options.
    options: dict = {}

    def get_test_pipeline(self, model, tokenizer, image_processor, dtype):
        # `pipeline` casts only what it loads itself, by a name.
        model = model.to(getattr(torch, dtype))
        made = pipeline(self.task, model=model, tokenizer=tokenizer, image_processor=image_processor, **self.options)
        return made, [Image.open(PICTURE), PICTURE]

    def check_scores(self, result: list[dict], labels: list[str], spec: type):
        """Each label once, best first, with probabilities, in the form of the hub's API."""
        for item in result:
            compare_pipeline_output_to_hub_spec(item, spec)
        self.assertEqual(sorted(item["label"] for item in result), sorted(labels))
        scores = [item["score"] for item in result]
        self.assertEqual(scores, sorted(scores, reverse=True))
        self.assertTrue(all(isinstance(score, float) for score in scores))
        self.assertAlmostEqual(sum(scores), 1.0, delta=1e-2)  # also in float16


class ZeroShotImageClassificationTask(Task):
    task = "zero-shot-image-classification"
    options = {"candidate_labels": ["cat", "dog", "number seven"]}

    def run_pipeline_test(self, classifier, examples):
        self.assertIs(type(classifier), ClipHFZeroShotImageClassificationPipeline)
        labels = self.options["candidate_labels"]
        self.check_scores(classifier(examples[0]), labels, ZeroShotImageClassificationOutputElement)
        results = classifier([examples[0]] * 5, candidate_labels=["a", "b", "c"], batch_size=2)
        self.assertEqual(len(results), 5)
        for result in results:
            self.check_scores(result, ["a", "b", "c"], ZeroShotImageClassificationOutputElement)
        names = {field.name for field in fields(ZeroShotImageClassificationParameters)}
        options = {"candidate_labels": ["a", "b"], "hypothesis_template": "a map of {}"}
        self.assertEqual(names, set(options))
        self.check_scores(classifier(PICTURE, **options), ["a", "b"], ZeroShotImageClassificationOutputElement)


class ImageClassificationTask(Task):
    task = "image-classification"

    def run_pipeline_test(self, classifier, examples):
        labels = list(classifier.model.config.id2label.values())
        self.assertGreater(len(labels), 2)
        self.check_scores(classifier(PICTURE), labels, ImageClassificationOutputElement)
        self.assertEqual(len(classifier(PICTURE, top_k=2)), 2)
        modes = [Image.open(PICTURE).convert(mode) for mode in ("RGB", "RGBA", "LA", "L", "P", "CMYK")]
        results = classifier([*modes, PICTURE])
        self.assertEqual(len(results), 7)
        for result in results:
            self.check_scores(result, labels, ImageClassificationOutputElement)


class ImageFeatureExtractionTask(Task):
    task = "image-feature-extraction"

    def run_pipeline_test(self, extractor, examples):
        features = extractor(examples[0])
        self.assertEqual(len(features), 1)
        self.assertEqual(np.array(extractor(examples)).shape, (2, *np.array(features).shape))
        pooled = extractor(PICTURE, pool=True, return_tensors=True)
        self.assertEqual(tuple(pooled.shape), (1, extractor.model.config.hidden_size))
        with self.assertRaisesRegex(ValueError, "interpolate_pos_encoding"):
            extractor(PICTURE, image_processor_kwargs={"crop_size": {"height": 128, "width": 128}})


class FeatureExtractionTask(Task):
    task = "feature-extraction"

    def get_test_pipeline(self, model, tokenizer, dtype):
        made = pipeline(self.task, model=model.to(getattr(torch, dtype)), tokenizer=tokenizer)
        return made, ["This is a test", "This is another test"]

    def run_pipeline_test(self, extractor, examples):
        width = extractor.model.config.hidden_size
        (features,) = extractor("This is a test")
        self.assertEqual({len(token) for token in features}, {width})
        self.assertEqual([len(result) for result in extractor(examples)], [1, 1])
        longest = extractor.model.config.max_position_embeddings
        self.assertEqual(np.array(extractor("a test " * 100, truncation=True)).shape, (1, longest, width))
        cut = extractor("a test of length", tokenize_kwargs={"max_length": 4, "truncation": True}, return_tensors=True)
        self.assertEqual(tuple(cut.shape), (1, 4, width))
