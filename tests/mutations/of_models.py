# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Faults that transformers' common model tests let through, and their like in the paths of training."""

from .mutation import Mutation


MUTATIONS = [
    Mutation(
        "another GELU",
        "modeling_clip_hf_transformer.py",
        'ClipHFQuickGELU() if config.hidden_act == "quick_gelu" else ACT2FN[config.hidden_act]',
        'ACT2FN["gelu"]',
        "test_modeling_clip_hf.py -k plain_reference",
    ),
    Mutation(
        "another LayerNorm epsilon",
        "modeling_clip_hf_transformer.py",
        "eps=config.layer_norm_eps",
        "eps=1e-6",
        "test_modeling_clip_hf.py -k plain_reference",
        times=5,
    ),
    Mutation(
        "no causal mask",
        "modeling_clip_hf_transformer.py",
        'kwargs["is_causal"] = True',
        'mask, kwargs["is_causal"] = None, False',
        "test_modeling_clip_hf.py -k plain_reference",
    ),
    Mutation(
        "attention mask ignored",
        "modeling_clip_hf_transformer.py",
        "attention_mask=attention_mask, past_key_values",
        "attention_mask=None, past_key_values",
        "test_modeling_clip_hf.py -k 'equals_transformers or padding_changes_nothing'",
    ),
    Mutation(
        "attention mask ignored where texts are packed",
        "modeling_clip_hf_transformer.py",
        "keep if attention_mask is None else keep & attention_mask.bool()",
        "keep",
        "test_training_speed_paths.py -k packed_texts_equal",
    ),
    Mutation(
        "packed texts in another order",
        "modeling_clip_hf_base.py",
        "torch.minimum(last - lengths + 1 + column, last)",
        "torch.maximum(last - column, last - lengths + 1)",
        "test_training_speed_paths.py -k packed_texts_equal",
    ),
    Mutation(
        "beginnings shared whatever their positions",
        "modeling_clip_hf_transformer.py",
        "input_ids.long() * self.config.max_position_embeddings + position_ids",
        "input_ids.long()",
        "test_training_speed_paths.py -k packed_texts_equal",
    ),
    Mutation(
        "tokens shared after beginnings that differ",
        "modeling_clip_hf_base.py",
        "(texts != texts.roll(1, dims=0)).cummax(dim=1).values",
        "texts != texts.roll(1, dims=0)",
        "test_training_speed_paths.py -k packed_texts_equal",
    ),
    Mutation(
        "last-token pooling",
        "modeling_clip_hf_transformer.py",
        "is_eos.int().argmax(dim=-1)",
        "torch.full((len(is_eos),), is_eos.shape[1] - 1)",
        "test_modeling_clip_hf.py -k 'plain_reference or padding_changes_nothing'",
    ),
    Mutation(
        "no feature normalisation",
        "modeling_clip_hf.py",
        "nn.functional.normalize(features.pooler_output, dim=-1)",
        "features.pooler_output",
        "test_modeling_clip_hf.py -k 'plain_reference or normalised'",
        more={
            "nn.functional.normalize(images.pooler_output, dim=-1)": "images.pooler_output",
            "nn.functional.normalize(texts.pooler_output, dim=-1)": "texts.pooler_output",
        },
        times=2,
    ),
    Mutation(
        "no LayerNorm before the vision transformer",
        "modeling_clip_hf_transformer.py",
        "self.pre_layrnorm(self.embeddings(",
        "(self.embeddings(",
        "test_modeling_clip_hf.py -k plain_reference",
    ),
    Mutation(
        "eager attention's scale off by 10%",
        "modeling_clip_hf_base.py",
        "key.transpose(-1, -2)) * scaling",
        "key.transpose(-1, -2)) * scaling * 1.1",
        "test_modeling_clip_hf.py -k 'plain_reference or equals_transformers'",
    ),
    Mutation(
        "logit scale not initialised",
        "modeling_clip_hf.py",
        "init.constant_(self.logit_scale, self.config.logit_scale_init_value)",
        "pass",
        "test_initialization.py",
    ),
    Mutation(
        "bilinear resize",
        "image_processing_clip_hf.py",
        "resample = PILImageResampling.BICUBIC",
        "resample = PILImageResampling.BILINEAR",
        "test_image_processing_clip_hf.py",
    ),
    Mutation(
        "ImageNet's mean",
        "image_processing_clip_hf.py",
        "image_mean = OPENAI_CLIP_MEAN",
        "image_mean = [0.485, 0.456, 0.406]",
        "test_image_processing_clip_hf.py",
    ),
    Mutation(
        "no conversion to RGB",
        "image_processing_clip_hf.py",
        "do_convert_rgb = True\n",
        "do_convert_rgb = False\n",
        "test_image_processing_clip_hf.py",
    ),
    Mutation(
        "no NFC",
        "bpe_clip_hf.py",
        "normalize=normalize_linearly",
        "normalize=lambda form, text: text",
        "test_tokenization_clip_hf.py",
        more={
            'unicodedata.is_normalized("NFC", text) if short': "True if short",
            'normalize_linearly("NFC", text) == text': "True",
            'return normalize_linearly("NFC", text)': "return text",
        },
    ),
]
