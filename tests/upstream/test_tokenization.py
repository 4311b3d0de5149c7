# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""transformers' common tokenizer tests."""

import functools
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from transformers_tests.test_tokenization_common import TokenizerTesterMixin
from transformers_tests.test_tokenizers_backend_mixin import TokenizersBackendTesterMixin

from clip_hf import ClipHFTokenizer


# Stands in for a text of Project Gutenberg that the source distribution lacks; the vocabulary is learned from it, too.
SAMPLE_TEXT = """\
A lighthouse keeper wrote a letter every evening. He described the colour of the sea, the birds on the rocks below,
and the boats that came home late. Nobody had asked him to do so, and nobody answered.

One winter the lamp failed in a storm. He carried a lantern up the hundred and twelve steps and stood there until the
morning, and three boats found the harbour. When spring came, a parcel arrived with all of his letters in it, copied in
a careful hand, and a photo of the lighthouse in the snow. "We have read every one of them," said the note.
"""


# A multiple of 8, to which a test pads what it truncates.
CONTEXT_LENGTH = 80


class TokenizerRepo:
    """Makes a folder with a tokenizer for the tests of a class to load."""

    tokenizer_class = ClipHFTokenizer

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.from_pretrained_id = str(Path(folder.name) / "repo")
        lines = SAMPLE_TEXT.split("\n")
        cls.trained = ClipHFTokenizer.train(lines, vocab_size=700, context_length=CONTEXT_LENGTH)
        cls.trained.save_pretrained(cls.from_pretrained_id)
        fixtures = Path(folder.name) / "fixtures"
        fixtures.mkdir()
        (fixtures / "sample_text.txt").write_text(SAMPLE_TEXT, encoding="utf-8")
        with mock.patch("transformers_tests.test_tokenization_common.get_tests_dir", lambda: folder.name):
            super().setUpClass()


def keep_everything(test):
    """Run a test on over-long texts with `truncation=False` where it says nothing: ours cuts them by default."""

    @functools.wraps(test)
    def run(self):
        original = ClipHFTokenizer.__call__

        def call(tokenizer, *args, **kwargs):
            return original(tokenizer, *args, **{"truncation": False, **kwargs})

        with mock.patch.object(ClipHFTokenizer, "__call__", call):
            test(self)

    return run


class TokenizerTest(TokenizerRepo, TokenizerTesterMixin, unittest.TestCase):
    # For the tests called integration, which compare with these: what the tokenizer gave before it was saved.
    integration_test_input_string = "This is falsé 😊: 生活\n\n Hi   Hello<s>there  ปี ird "

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        text = cls.integration_test_input_string
        cls.integration_expected_tokens = cls.trained.tokenize(text)
        cls.integration_expected_token_ids = cls.trained.encode(text, add_special_tokens=False)
        cls.integration_expected_decoded_text = cls.trained.decode(cls.integration_expected_token_ids)

    test_maximum_encoding_length_single_input = keep_everything(
        TokenizerTesterMixin.test_maximum_encoding_length_single_input
    )
    test_maximum_encoding_length_pair_input = keep_everything(
        TokenizerTesterMixin.test_maximum_encoding_length_pair_input
    )


class TokenizersBackendTest(TokenizerRepo, TokenizersBackendTesterMixin, unittest.TestCase):
    def test_training_new_tokenizer(self):
        """The original trains 100 ids, fewer than the bytes and the two special tokens that ours always has."""
        original = ClipHFTokenizer.train_new_from_iterator

        def train(tokenizer, texts, vocab_size, **kwargs):
            self.assertRaisesRegex(ValueError, "514", original, tokenizer, texts, vocab_size, **kwargs)
            return original(tokenizer, texts, vocab_size + 514, **kwargs)

        with mock.patch.object(ClipHFTokenizer, "train_new_from_iterator", train):
            super().test_training_new_tokenizer()

    def test_training_new_tokenizer_with_special_tokens_change(self):
        """A new tokenizer's special tokens are named in `train`, and other ones added here."""
        texts = SAMPLE_TEXT.split("\n")
        with self.assertRaisesRegex(ValueError, "special_tokens_map"):
            self.trained.train_new_from_iterator(texts, 600, special_tokens_map={self.trained.bos_token: "<a>"})
        renamed = ClipHFTokenizer.train(texts, vocab_size=600, bos_token="<a>", eos_token="<b>")
        self.assertEqual((renamed.bos_token, renamed.eos_token), ("<a>", "<b>"))
        self.assertEqual(renamed.convert_tokens_to_ids(["<a>", "<b>"]), [len(renamed) - 2, len(renamed) - 1])
        self.assertEqual(renamed("sea")["input_ids"][0], renamed.bos_token_id)
        self.assertEqual(renamed("sea")["input_ids"][-1], renamed.eos_token_id)
        extended = self.trained.train_new_from_iterator(texts, 600, new_special_tokens=["<c>"])
        self.assertIn(extended.convert_tokens_to_ids("<c>"), extended("the sea<c>")["input_ids"])

    def test_add_bos_token_without_bos_token(self):
        """There is no CLIP text without its begin-of-text token."""
        with self.assertRaisesRegex(ValueError, "bos_token"):
            ClipHFTokenizer.from_pretrained(self.tmpdirname, bos_token=None)
