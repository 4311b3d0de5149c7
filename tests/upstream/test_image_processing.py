# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""transformers' common image processor tests."""

import subprocess
import unittest
from unittest import mock

from transformers_tests.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin

from clip_hf import ClipHFImageProcessor


class SmallImageProcessorTester(ImageProcessingTester):
    """An image processor with all its options set, and images of 30 to 80 pixels a side."""

    def __init__(self, parent):
        super().__init__(
            parent,
            max_resolution=80,
            do_resize=True,
            size={"shortest_edge": 20},
            do_center_crop=True,
            crop_size={"height": 18, "width": 18},
            do_normalize=True,
            image_mean=[0.5, 0.4, 0.3],
            image_std=[0.2, 0.3, 0.4],
            do_convert_rgb=True,
        )

    def _get_image_processing_classes(self) -> dict[str, type]:
        """As `clip_hf` registers it: one class for both of transformers' backends, for it needs no torchvision."""
        return {"torchvision": ClipHFImageProcessor, "pil": ClipHFImageProcessor}


class ImageProcessorTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = SmallImageProcessorTester
    test_cast_dtype = True

    def test_image_processor_preprocess_arguments(self):
        """The original knows two older ways to refuse an option; ours is an error."""
        processor = ClipHFImageProcessor()
        with self.assertRaisesRegex(TypeError, "extra_argument"):
            processor(self.image_processor_tester.prepare_image_inputs(), extra_argument=True)

    def test_override_instance_attributes_does_not_affect_other_instances(self):
        """The original asks for dicts and lists; transformers' own CLIP has had other types since version 5, too."""
        processor, other = ClipHFImageProcessor(), ClipHFImageProcessor()
        original = other.to_dict()
        processor.size.shortest_edge = 1
        processor.crop_size.height = 1
        self.assertIsInstance(processor.image_mean, tuple)
        self.assertEqual(other.to_dict(), original)
        self.assertEqual(ClipHFImageProcessor().to_dict(), original)

    def test_pil_can_run_without_torchvision(self):
        """In a fresh process, which has to import clip_hf to know the class."""
        original_run = subprocess.run
        first_line = "from transformers import AutoImageProcessor\n"

        def run(command, **kwargs):
            python, option, script, *arguments = command
            self.assertIn(first_line, script)
            script = script.replace(first_line, first_line + "import clip_hf\n")
            return original_run([python, option, script, *arguments], **kwargs)

        with mock.patch("subprocess.run", run):
            super().test_pil_can_run_without_torchvision()
