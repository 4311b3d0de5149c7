# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Why a test of transformers may skip itself on our classes. A skip for any other reason counts as a failure, so that a
new version of transformers, or a change here, cannot take tests away unnoticed.
"""

import re


# A regular expression that matches the whole reason that transformers gives, and why that is right.
SKIPS = [
    (r"test requires (accelerator|multiple accelerators|MPS)", "needs hardware that this machine has not"),
    (r"test requires Flash Attention( 3| 4)?", "needs a package of kernels for GPUs"),
    (r"test requires the kernels library", "needs a package of kernels for GPUs"),
    (r"test requires deepspeed", "needs a package for many GPUs"),
    (r"test requires (librosa|Torchcodec)", "sound and video are no inputs of CLIP"),
    (r"(feature_extractor|video_processor) attribute not present in .*", "sound and video are no inputs of CLIP"),
    (r"(Processor has no chat template|.* doesn't accept chat templates at input)", "CLIP does not chat"),
    (
        r"Processor doesn't support `_get_num_multimodal_tokens` yet",
        "CLIP's texts have no placeholders for images",
    ),
    (r"No (decoder-only|sequence-to-sequence) language modeling head to check", "CLIP generates no text"),
    # The text tower's parts do: see `TextOverrides` and tests/model/test_modeling_clients.py.
    (r"This model doesn't use `inputs_embeds`", "where the end of a text is, only its token ids say"),
    (r"This model has no `base_model_class` defined in tester\.", "about rotary positions; CLIP's are learned"),
    (r"This model does not (have RoPE|support RoPE scaling)", "about rotary positions; CLIP's are learned"),
    (r".* has no axial RoPE layer defined\.", "about rotary positions; CLIP's are learned"),
    (r"Model does not have position embeddings", "about `resize_position_embeddings`, which no CLIP has"),
    (r"Model does not support sliding window mask", "CLIP attends to everything"),
    (r"This model has no (sparse experts|`output_router_logits` in its config)\.", "CLIP has no experts"),
    (r"\w+ does not support grouped_mm", "about experts; CLIP has none"),
    (r"Model does not have a TP plan\.", "no tensor-parallel plan is offered"),
    (r"No conversion found for .*", "our weights are saved under the names they have"),
    (r"\w+ (class )?has no _keep_in_fp32_modules n?or .*", "without BatchNorm all weights may be in half precision"),
    (r"test_resize_embeddings is set to `False`", "a vision tower has no vocabulary"),
    (r"(Model|This model) is not( a)? composite( model)?\.?", "about models of several towers, for a single one"),
    (r"No subconfigs so the test does not make sense", "about models of several towers, for a single one"),
    # transformers' wording in the test of the other kind of model; each of ours runs the one that is for its kind.
    (r"\w+ does not support SDPA", "about models of several towers, for a single one, or the other way round"),
    # Of conftest.py, for tests that pass without a model.
    (r"test_get_(audio|video)_features_\w+ built no model", "sound and video are no inputs of CLIP"),
    (r"test_get_image_features_pooler_output built no model", "about models that generate texts from images"),
    (r"test_get_(text|image)_features_\w+ built no model", "about methods that the whole model has, for another"),
    (r"test_(generation_tester_mixin_inheritance|model_base_model_prefix) built no model", "CLIP generates no text"),
    (r"test_(num_layers_is_small|model_main_input_name) built no model", "looks at a class and its tester alone"),
    (r"test_config_attn_implementation_setter built no model", "looks at a configuration alone"),
    (r"test_(problem_types|can_load_ignoring_mismatched_shapes) built no model", "about classifiers, for another"),
    (r"test_load_with_mismatched_shapes built no model", "about classifiers of texts"),
    (
        r"test_(inputs_embeds_matches_input_ids|model_forward_default_config_values) built no model",
        "about models without a head, for one with a head",
    ),
    (r"test_torch_save_load built no model", "about models with a head, for one without"),
]


def justification(reason: str) -> str | None:
    """Why a test may skip itself for this reason; None if it may not."""
    for pattern, why in SKIPS:
        if re.fullmatch(pattern, reason, re.DOTALL):
            return why
    return None
