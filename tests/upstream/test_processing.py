# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""transformers' common processor tests, and that the parts of a loaded processor are ours."""

import json
import tempfile
import unittest

from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, CLIPProcessor, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.processing_utils import ProcessorMixin
from transformers_tests.test_processing_common import ProcessorTesterMixin

from clip_hf import ClipHFImageProcessor, ClipHFProcessor, ClipHFTokenizer


CAPTIONS = ["lower newer", "upper older longer string", "a photo of a cat on a red mat", "two dogs in the snow"]
OURS = (ClipHFProcessor, ClipHFImageProcessor, ClipHFTokenizer)


def classes(processor) -> tuple[type, ...]:
    return type(processor), type(processor.image_processor), type(processor.tokenizer)


class ProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = ClipHFProcessor

    @classmethod
    def _setup_image_processor(cls) -> ClipHFImageProcessor:
        return ClipHFImageProcessor(size={"shortest_edge": 20}, crop_size={"height": 18, "width": 18})

    @classmethod
    def _setup_tokenizer(cls) -> ClipHFTokenizer:
        return ClipHFTokenizer.train(CAPTIONS, vocab_size=600)

    @staticmethod
    def does_processor_return_mm_offsets(processor_class, method_name: str) -> bool:
        """Compares with `ProcessorMixin`, which is not the first of the bases here."""
        return getattr(processor_class, method_name) is not getattr(ProcessorMixin, method_name)

    def test_parts_of_own_repo_are_ours(self):
        """Auto classes resolve processors and tokenizers by class name, so a clash would go unnoticed."""
        self.assertEqual(classes(ClipHFProcessor.from_pretrained(self.tmpdirname)), OURS)
        self.assertEqual(classes(AutoProcessor.from_pretrained(self.tmpdirname)), OURS)
        parts = (AutoImageProcessor.from_pretrained(self.tmpdirname), AutoTokenizer.from_pretrained(self.tmpdirname))
        self.assertEqual(tuple(map(type, parts)), OURS[1:])

    def test_parts_of_transformers_repo_are_ours(self):
        """The same where the files name transformers' classes; these are still what the Auto classes load."""
        bpe = json.loads(self._setup_tokenizer().backend_tokenizer.to_str())["model"]
        tokenizer = CLIPTokenizer(vocab=bpe["vocab"], merges=[tuple(pair) for pair in bpe["merges"]])
        stock = CLIPProcessor(CLIPImageProcessorPil(), tokenizer)
        with tempfile.TemporaryDirectory() as folder:
            stock.save_pretrained(folder)
            self.assertEqual(classes(ClipHFProcessor.from_pretrained(folder)), OURS)
            self.assertEqual(classes(AutoProcessor.from_pretrained(folder)), classes(stock))
