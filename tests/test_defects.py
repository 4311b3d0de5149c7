# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Defects that transformers' common model tests let through, put into a copy of the library one by one.

Each must make a test of ours fail. `make test-slow PYTEST_ARGS="tests/test_defects.py -s"` prints the table.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


TESTS = Path(__file__).resolve().parent
SOURCE = TESTS.parent / "src" / "clip_hf"


@dataclass
class Defect:
    name: str
    file: str
    changes: dict[str, str]  # text in the file -> what stands there instead
    tests: str  # the test file that must notice, and which of its tests


DEFECTS = [
    Defect(
        "another GELU",
        "modeling_clip_hf_transformer.py",
        {'ClipHFQuickGELU() if config.hidden_act == "quick_gelu" else ACT2FN[config.hidden_act]': 'ACT2FN["gelu"]'},
        "test_modeling_clip_hf.py -k plain_reference",
    ),
    Defect(
        "another LayerNorm epsilon",
        "modeling_clip_hf_transformer.py",
        {"eps=config.layer_norm_eps": "eps=1e-6"},
        "test_modeling_clip_hf.py -k plain_reference",
    ),
    Defect(
        "no causal mask",
        "modeling_clip_hf_transformer.py",
        {'kwargs["is_causal"] = True': 'mask, kwargs["is_causal"] = None, False'},
        "test_modeling_clip_hf.py -k plain_reference",
    ),
    Defect(
        "attention mask ignored",
        "modeling_clip_hf_transformer.py",
        {"attention_mask=attention_mask, past_key_values": "attention_mask=None, past_key_values"},
        "test_modeling_clip_hf.py -k 'equals_transformers or padding_changes_nothing'",
    ),
    Defect(
        "attention mask ignored where texts are packed",
        "modeling_clip_hf_transformer.py",
        {"keep if attention_mask is None else keep & attention_mask.bool()": "keep"},
        "test_training_speed_paths.py -k packed_texts_equal",
    ),
    Defect(
        "packed texts in another order",
        "modeling_clip_hf_base.py",
        {"torch.minimum(last - lengths + 1 + column, last)": "torch.maximum(last - column, last - lengths + 1)"},
        "test_training_speed_paths.py -k packed_texts_equal",
    ),
    Defect(
        "beginnings shared whatever their positions",
        "modeling_clip_hf_transformer.py",
        {"input_ids.long() * self.config.max_position_embeddings + position_ids": "input_ids.long()"},
        "test_training_speed_paths.py -k packed_texts_equal",
    ),
    Defect(
        "tokens shared after beginnings that differ",
        "modeling_clip_hf_base.py",
        {"(texts != texts.roll(1, dims=0)).cummax(dim=1).values": "texts != texts.roll(1, dims=0)"},
        "test_training_speed_paths.py -k packed_texts_equal",
    ),
    Defect(
        "last-token pooling",
        "modeling_clip_hf_transformer.py",
        {"is_eos.int().argmax(dim=-1)": "torch.full((len(is_eos),), is_eos.shape[1] - 1)"},
        "test_modeling_clip_hf.py -k 'plain_reference or padding_changes_nothing'",
    ),
    Defect(
        "no feature normalisation",
        "modeling_clip_hf.py",
        {
            "nn.functional.normalize(features.pooler_output, dim=-1)": "features.pooler_output",
            "nn.functional.normalize(images.pooler_output, dim=-1)": "images.pooler_output",
            "nn.functional.normalize(texts.pooler_output, dim=-1)": "texts.pooler_output",
        },
        "test_modeling_clip_hf.py -k 'plain_reference or normalised'",
    ),
    Defect(
        "no LayerNorm before the vision transformer",
        "modeling_clip_hf_transformer.py",
        {
            "self.pre_layrnorm(self.embeddings(": "(self.embeddings(",
        },
        "test_modeling_clip_hf.py -k plain_reference",
    ),
    Defect(
        "eager attention's scale off by 10%",
        "modeling_clip_hf_base.py",
        {"key.transpose(-1, -2)) * scaling": "key.transpose(-1, -2)) * scaling * 1.1"},
        "test_modeling_clip_hf.py -k 'plain_reference or equals_transformers'",
    ),
    Defect(
        "logit scale not initialised",
        "modeling_clip_hf.py",
        {"init.constant_(self.logit_scale, self.config.logit_scale_init_value)": "pass"},
        "test_initialization.py",
    ),
    Defect(
        "bilinear resize",
        "image_processing_clip_hf.py",
        {"resample = PILImageResampling.BICUBIC": "resample = PILImageResampling.BILINEAR"},
        "test_image_processing_clip_hf.py",
    ),
    Defect(
        "ImageNet's mean",
        "image_processing_clip_hf.py",
        {"image_mean = OPENAI_CLIP_MEAN": "image_mean = [0.485, 0.456, 0.406]"},
        "test_image_processing_clip_hf.py",
    ),
    Defect(
        "no conversion to RGB",
        "image_processing_clip_hf.py",
        {"do_convert_rgb = True\n": "do_convert_rgb = False\n"},
        "test_image_processing_clip_hf.py",
    ),
    Defect(
        "no NFC",
        "bpe_clip_hf.py",
        {
            "normalize=normalize_linearly": "normalize=lambda form, text: text",
            'unicodedata.is_normalized("NFC", text) if short': "True if short",
            'normalize_linearly("NFC", text) == text': "True",
            'return normalize_linearly("NFC", text)': "return text",
        },
        "test_tokenization_clip_hf.py",
    ),
]


def run_tests(folder: Path, tests: str) -> subprocess.CompletedProcess:
    """Run tests with the library's copy in `folder` in front of the installed one."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = f'"{sys.executable}" -m pytest -q -p no:cacheprovider --tb=no {tests}'
    return subprocess.run(command, shell=True, cwd=TESTS, env=environment, capture_output=True, text=True)


def copy_library(folder: Path) -> Path:
    shutil.copytree(SOURCE, folder / "clip_hf", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("tests", sorted({defect.tests for defect in DEFECTS}))
def test_a_sound_copy_passes(tests, tmp_path):
    result = run_tests(copy_library(tmp_path), tests)
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_defect_is_noticed(defect, tmp_path):
    path = copy_library(tmp_path) / "clip_hf" / defect.file
    contents = path.read_text()
    for text, replacement in defect.changes.items():
        assert text in contents, f"{defect.file} no longer has {text!r}: bring the defect up to date"
        contents = contents.replace(text, replacement)
    path.write_text(contents)
    result = run_tests(tmp_path, defect.tests)
    failed = re.findall(r"^FAILED (\S+)", result.stdout, re.MULTILINE)
    assert result.returncode == 1, result.stdout + result.stderr
    assert failed, result.stdout
    print(f"\n| {defect.name} | {len(failed)} tests, first {failed[0]} |")
