# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The built-in prompt sets hold what OpenAI published, and users' own come from files."""

import hashlib
import json

import pytest

from clip_hf import load_prompt_set, prompt_set_names
from clip_hf.model.prompts_clip_hf import PROMPT_SETS


# Number of templates, and the start of the SHA-256 of the sorted published templates, one a line.
PUBLISHED = {
    "aircraft": (2, "91522de75ad44711"),
    "caltech101": (34, "0a6b75d0787fb2d0"),
    "cars": (8, "816eaf5186e3ac84"),
    "cifar": (18, "d6ee29646b422971"),
    "countries": (5, "1e5fc4f21ec21cb7"),
    "digits": (1, "c0341e0a1fdfd8fb"),
    "emotions": (6, "2c89a8a2b3ee64d8"),
    "flowers": (1, "bfcd4bbb214d5015"),
    "food": (1, "77a79bac7d9cf25b"),
    "openai_imagenet": (80, "a8a4822f2921936e"),
    "pets": (1, "16a0790f0e45e97e"),
    "satellite": (3, "0953ea3fd8c1f0d5"),
    "textures": (8, "3e9362b02a3f41b9"),
    "traffic_signs": (3, "1e720b38db04fcde"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_templates_are_the_published_ones(name):
    templates = load_prompt_set(name)
    digest = hashlib.sha256("\n".join(sorted(templates)).encode()).hexdigest()
    assert (len(templates), digest[:16]) == PUBLISHED[name]


@pytest.mark.parametrize("name", prompt_set_names())
def test_every_set_is_a_list_of_different_templates(name):
    templates = load_prompt_set(name)
    assert templates and len(set(templates)) == len(templates)
    assert all(template.count("{}") == 1 and template.count("{") == 1 for template in templates)
    assert all("  " not in template and template == template.strip() for template in templates)
    templates.append("changed")
    assert "changed" not in load_prompt_set(name)  # a copy each time


def test_the_subset_is_part_of_the_80():
    assert set(load_prompt_set("openai_imagenet_subset")) < set(load_prompt_set("openai_imagenet"))
    assert len(load_prompt_set("openai_imagenet_subset")) == 7
    assert load_prompt_set("simple") == ["a photo of a {}."]


def test_names_are_sorted_and_complete():
    assert prompt_set_names() == sorted(PROMPT_SETS)
    # A name is a single word, so that it cannot be taken for a template, nor for a file.
    assert all(name.replace("_", "").isalnum() for name in prompt_set_names())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("opnai_imagenet", "no prompt set 'opnai_imagenet'. Did you mean 'openai_imagenet'. Available: actionclip"),
        ("xyzzy", r"no prompt set 'xyzzy'. Available: actionclip, actions, aircraft"),
    ],
)
def test_an_unknown_name_lists_the_names(name, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?").replace("'.", "'.?.")):
        load_prompt_set(name)


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("own.txt", "a drawing of {}\n\na map of {}.\n", ["a drawing of {}", "a map of {}."]),
        ("own.json", json.dumps(["a {}", "the {}"]), ["a {}", "the {}"]),
        (
            "own.json",
            json.dumps({"cat": ["a cat", "un chat"], "dog": "a dog"}),
            {"cat": ["a cat", "un chat"], "dog": ["a dog"]},
        ),
    ],
)
def test_own_prompts_come_from_files(tmp_path, file, text, expected):
    path = tmp_path / file
    path.write_text(text, encoding="utf-8")
    assert load_prompt_set(path) == expected
    assert load_prompt_set(str(path)) == expected


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("own.txt", "", "does not hold a prompt set: The list of templates is empty"),
        ("own.txt", "a photo\n", "does not hold a prompt set: The template 'a photo' does not say where"),
        ("own.json", "{", "does not hold a prompt set: Expecting property name"),
        ("own.json", "3", "does not hold a prompt set: The templates must be a string or a list"),
        ("own.json", '{"cat": 3}', "does not hold a prompt set: The prompts of 'cat' must be"),
    ],
)
def test_bad_files(tmp_path, file, text, message):
    path = tmp_path / file
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_prompt_set(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"There is no prompt file '.*own.json'"):
        load_prompt_set(tmp_path / "own.json")
