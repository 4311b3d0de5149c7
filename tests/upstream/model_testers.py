# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Small models and their inputs, in the form that transformers' common model tests ask for: an object with `get_config`,
`prepare_config_and_inputs_for_common`, and the sizes that the tests compare with.
"""

import torch
from transformers_tests.test_modeling_common import floats_tensor, ids_tensor

from clip_hf import ClipHFConfig, ClipHFResNetConfig, ClipHFTextConfig, ClipHFViTConfig


PROJECTION_DIM = 24
NUM_LABELS = 3


class TextTester:
    """A text tower; every other text is padded."""

    is_training = True
    # More than 6: the tests fill smaller batches up with random ids, of which none need be an end-of-text token.
    batch_size = 8
    seq_length = 7
    vocab_size = 99
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    max_position_embeddings = 16
    # Not the vocabulary's last id as by default, for some tests cut the vocabulary short.
    eos_token_id = 2

    def get_config(self) -> ClipHFTextConfig:
        return ClipHFTextConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=37,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            max_position_embeddings=self.max_position_embeddings,
            projection_dim=PROJECTION_DIM,
            bos_token_id=1,
            eos_token_id=self.eos_token_id,
        )

    def prepare_config_and_inputs_for_common(self):
        input_ids = 3 + ids_tensor([self.batch_size, self.seq_length], self.vocab_size - 3)
        attention_mask = torch.ones_like(input_ids)
        input_ids[1::2, -1] = self.eos_token_id
        input_ids[::2, -3:] = self.eos_token_id
        attention_mask[::2, -2:] = 0
        return self.get_config(), {"input_ids": input_ids, "attention_mask": attention_mask}


class VisionTester:
    """Images for a vision tower."""

    is_training = True
    batch_size = 8
    image_size: int

    def prepare_config_and_inputs_for_common(self):
        pixel_values = floats_tensor([self.batch_size, 3, self.image_size, self.image_size])
        return self.get_config(), {"pixel_values": pixel_values}


class ViTTester(VisionTester):
    """A Vision Transformer; its sequence is the class token and 16 patches."""

    image_size = 32
    patch_size = 8
    seq_length = 17
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4

    def get_config(self) -> ClipHFViTConfig:
        return ClipHFViTConfig(
            hidden_size=self.hidden_size,
            intermediate_size=37,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            image_size=self.image_size,
            patch_size=self.patch_size,
            projection_dim=PROJECTION_DIM,
        )


class ResNetTester(VisionTester):
    """A ResNet: four stages, then an attention pool over the mean and 2 x 2 positions."""

    image_size = 64
    width = 4
    num_attention_heads = 4
    expected_num_hidden_layers = 5  # feature maps, of the stem and four stages

    def get_config(self) -> ClipHFResNetConfig:
        return ClipHFResNetConfig(
            width=self.width,
            stage_depths=[1, 1, 1, 1],
            num_attention_heads=self.num_attention_heads,
            image_size=self.image_size,
            projection_dim=PROJECTION_DIM,
        )


class ClipTester:
    """A whole model with either vision tower: as many texts as images."""

    is_training = True

    def __init__(self, vision_tester: VisionTester):
        self.text_model_tester = TextTester()
        self.vision_model_tester = vision_tester
        self.batch_size = vision_tester.batch_size
        self.seq_length = self.text_model_tester.seq_length

    def get_config(self) -> ClipHFConfig:
        return ClipHFConfig(
            text_config=self.text_model_tester.get_config(),
            vision_config=self.vision_model_tester.get_config(),
            projection_dim=PROJECTION_DIM,
        )

    def prepare_config_and_inputs_for_common(self):
        _, texts = self.text_model_tester.prepare_config_and_inputs_for_common()
        _, images = self.vision_model_tester.prepare_config_and_inputs_for_common()
        return self.get_config(), {**texts, **images}


class ClassifierTester:
    """A vision tower, either, with a classifier; all but the config is the tower's."""

    def __init__(self, vision_tester: VisionTester):
        self.vision_tester = vision_tester

    def __getattr__(self, name: str):
        return getattr(self.vision_tester, name)

    def get_config(self) -> ClipHFConfig:
        return ClipHFConfig(
            text_config=TextTester().get_config(),
            vision_config=self.vision_tester.get_config(),
            projection_dim=PROJECTION_DIM,
            num_labels=NUM_LABELS,
        )

    def prepare_config_and_inputs_for_common(self):
        _, images = self.vision_tester.prepare_config_and_inputs_for_common()
        return self.get_config(), images
