# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
transformers' common pipeline tests, on repos of ours with each vision tower. What a pipeline has to give is in
`pipeline_tasks.py`; from transformers come loading, batches, half precision and the comparison with the hub's API.
"""

import tempfile
import unittest
from pathlib import Path
from unittest import mock

from model_testers import ClassifierTester, ClipTester, ResNetTester, TextTester, ViTTester
from transformers_tests import test_pipeline_mixin
from transformers_tests.test_pipeline_mixin import PipelineTesterMixin

import clip_hf
from clip_hf import (
    ClipHFForImageClassification,
    ClipHFImageProcessor,
    ClipHFModel,
    ClipHFResNetModel,
    ClipHFTextModel,
    ClipHFTokenizer,
    ClipHFViTModel,
)


TASKS = {
    "feature-extraction": "FeatureExtractionTask",
    "image-classification": "ImageClassificationTask",
    "image-feature-extraction": "ImageFeatureExtractionTask",
    "zero-shot-image-classification": "ZeroShotImageClassificationTask",
}
TAKES_TEXT = ("feature-extraction", "zero-shot-image-classification")
TAKES_IMAGES = ("image-classification", "image-feature-extraction", "zero-shot-image-classification")
TEXTS = ["This is a test", "This is another longer test", "a photo of a cat", "a photo of a dog", "number seven"]


class PipelineTests:
    """Saves a repo for each task where `PipelineTesterMixin` looks for it, and tells it of our classes."""

    vision_tester_class: type
    vision_model_class: type

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # `PipelineTesterMixin` has a test of every task of transformers, which skips itself for a model without it.
        ours = [f"test_pipeline_{task.replace('-', '_')}{suffix}" for task in TASKS for suffix in ("", "_fp16")]
        for name in dir(PipelineTesterMixin):
            if name.startswith("test_pipeline_") and name not in ours:
                setattr(cls, name, None)

    @classmethod
    def setUpClass(cls):
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.pipeline_model_mapping = {
            "feature-extraction": ClipHFTextModel,
            "image-classification": ClipHFForImageClassification,
            "image-feature-extraction": cls.vision_model_class,
            "zero-shot-image-classification": ClipHFModel,
        }
        summary = cls.save_repos(Path(temporary.name))
        # The comparison of arguments with the hub's API fails for the stock zero-shot pipeline, which names its images
        # otherwise and is never compared in transformers. `pipeline_tasks.py` calls ours with the hub's names.
        hub_specs = dict(test_pipeline_mixin.task_to_pipeline_and_spec_mapping)
        del hub_specs["zero-shot-image-classification"]
        replacements = {
            "TRANSFORMERS_TINY_MODEL_PATH": temporary.name,
            "tiny_model_summary": summary,
            "transformers_module": clip_hf,  # where it finds classes by name
            "task_to_pipeline_and_spec_mapping": hub_specs,
            "pipeline_test_mapping": {task: {"test": f"pipeline_tasks.{name}"} for task, name in TASKS.items()},
        }
        for name, value in replacements.items():
            patch = mock.patch.object(test_pipeline_mixin, name, value)
            patch.start()
            cls.addClassCleanup(patch.stop)

    @classmethod
    def save_repos(cls, folder: Path) -> dict[str, dict[str, list[str]]]:
        """Save a repo of each model class, and return the names of the classes in it."""
        text_tester, vision_tester = TextTester(), cls.vision_tester_class()
        tokenizer = ClipHFTokenizer.train(TEXTS, 520, context_length=text_tester.max_position_embeddings)
        text_tester.vocab_size, text_tester.eos_token_id = len(tokenizer), tokenizer.eos_token_id
        size = vision_tester.image_size
        image_processor = ClipHFImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
        whole_tester = ClipTester(vision_tester)
        whole_tester.text_model_tester = text_tester
        summary = {}
        testers = [text_tester, ClassifierTester(vision_tester), vision_tester, whole_tester]
        for (task, model_class), tester in zip(cls.pipeline_model_mapping.items(), testers, strict=True):
            repo = folder / model_class.config_class.model_type / model_class.__name__
            model_class(tester.get_config()).save_pretrained(repo)
            classes = {"tokenizer_classes": [], "processor_classes": []}
            if task in TAKES_TEXT:
                tokenizer.save_pretrained(repo)
                classes["tokenizer_classes"].append(ClipHFTokenizer.__name__)
            if task in TAKES_IMAGES:
                image_processor.save_pretrained(repo)
                classes["processor_classes"].append(ClipHFImageProcessor.__name__)
            summary[model_class.__name__] = classes
        return summary

    # The next four ask for timm in transformers, whose models some pipelines of images can hold. Ours do not.
    def test_pipeline_image_classification(self):
        self.run_task_tests(task="image-classification")

    def test_pipeline_image_classification_fp16(self):
        self.run_task_tests(task="image-classification", dtype="float16")

    def test_pipeline_image_feature_extraction(self):
        self.run_task_tests(task="image-feature-extraction")

    def test_pipeline_image_feature_extraction_fp16(self):
        self.run_task_tests(task="image-feature-extraction", dtype="float16")


class ViTPipelineTest(PipelineTests, PipelineTesterMixin, unittest.TestCase):
    vision_tester_class = ViTTester
    vision_model_class = ClipHFViTModel


class ResNetPipelineTest(PipelineTests, PipelineTesterMixin, unittest.TestCase):
    vision_tester_class = ResNetTester
    vision_model_class = ClipHFResNetModel
