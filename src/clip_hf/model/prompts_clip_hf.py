# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Prompt sets for zero-shot classification, by name.

The wording is OpenAI's, published with CLIP: the ImageNet sets in the notebook
`Prompt_Engineering_for_ImageNet.ipynb`, the others in `data/prompts.md` (Radford et al. 2021, section 3.1.4). Other
sets are marked. The data is Python, not JSON, because a model repo can ship only Python files as its code.
"""

from .checks_clip_hf import no_such


_A_AND_THE = ("a", "the")
_ACTION_MEDIA = ("photo", "video", "example", "demonstration")
_ACTION_VERBS = ("", "using ", "doing ", "during ", "performing ", "practicing ")


def _a_and_the(*templates: str) -> tuple[str, ...]:
    return tuple(template.replace("{the}", article) for article in _A_AND_THE for template in templates)


_DRAWN_OR_MADE = _a_and_the(
    "a painting of {the} {}.",
    "{the} plastic {}.",
    "a sculpture of {the} {}.",
    "a sketch of {the} {}.",
    "a tattoo of {the} {}.",
    "{the} toy {}.",
    "a rendition of {the} {}.",
    "{the} embroidered {}.",
    "{the} cartoon {}.",
    "{the} {} in a video game.",
    "{the} plushie {}.",
    "{the} origami {}.",
    "art of {the} {}.",
    "graffiti of {the} {}.",
    "a drawing of {the} {}.",
    "a doodle of {the} {}.",
)

_PHOTOGRAPHED = _a_and_the(
    "a bad photo of {the} {}.",
    "a good photo of {the} {}.",
    "a photo of {the} {}.",
    "a photo of {the} clean {}.",
    "a photo of {the} dirty {}.",
    "a photo of {the} cool {}.",
    "a photo of {the} hard to see {}.",
    "a photo of {the} large {}.",
    "a photo of {the} nice {}.",
    "a photo of {the} small {}.",
    "a photo of {the} weird {}.",
    "a black and white photo of {the} {}.",
    "a blurry photo of {the} {}.",
    "a bright photo of {the} {}.",
    "a close-up photo of {the} {}.",
    "a cropped photo of {the} {}.",
    "a dark photo of {the} {}.",
    "a jpeg corrupted photo of {the} {}.",
    "a low resolution photo of {the} {}.",
    "a pixelated photo of {the} {}.",
    "a rendering of {the} {}.",
    "itap of {the} {}.",
)

PROMPT_SETS: dict[str, tuple[str, ...]] = {
    # The stock pipeline's template is "This is a photo of {}."; this is the paper's.
    "simple": ("a photo of a {}.",),
    # ImageNet: the 80 of the paper, and the 7 that forward selection over them picked (same notebook).
    "openai_imagenet": (
        *_PHOTOGRAPHED,
        *_DRAWN_OR_MADE,
        "a photo of many {}.",
        "a photo of one {}.",
        "a photo of my {}.",
        "itap of my {}.",
    ),
    "openai_imagenet_subset": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
    # Of ActionCLIP (Wang et al. 2021; released code, `utils/Text_Prompt.py`), for actions in films.
    "actionclip": (
        "a photo of action {}",
        "a picture of action {}",
        "Human action of {}",
        "{}, an action",
        "{} this is an action",
        "{}, a video of action",
        "Playing action of {}",
        "{}",
        "Playing a kind of action, {}",
        "Doing a kind of action, {}",
        "Look, the human is {}",
        "Can you recognize the action of {}?",
        "Video classification of {}",
        "A video of {}",
        "The man is {}",
        "The woman is {}",
    ),
    # By domain, each with the dataset of the paper that it was written for.
    "actions": tuple(  # UCF101
        f"a {medium} of {article} person {verb}{{}}."
        for medium in _ACTION_MEDIA
        for article in _A_AND_THE
        for verb in _ACTION_VERBS
    ),
    "aircraft": _a_and_the("a photo of {the} {}, a type of aircraft."),  # FGVC Aircraft
    "birds": ("a photo of a {}, a type of bird.",),  # Birdsnap
    "caltech101": (*_a_and_the("a photo of {the} {}."), *_DRAWN_OR_MADE),
    "cars": (  # Stanford Cars
        "a photo of a {}.",
        "a photo of the {}.",
        "a photo of my {}.",
        "i love my {}!",
        "a photo of my dirty {}.",
        "a photo of my clean {}.",
        "a photo of my new {}.",
        "a photo of my old {}.",
    ),
    "cifar": _a_and_the(  # CIFAR10 and CIFAR100
        "a photo of {the} {}.",
        "a blurry photo of {the} {}.",
        "a black and white photo of {the} {}.",
        "a low contrast photo of {the} {}.",
        "a high contrast photo of {the} {}.",
        "a bad photo of {the} {}.",
        "a good photo of {the} {}.",
        "a photo of {the} small {}.",
        "a photo of {the} big {}.",
    ),
    "counts": ("a photo of {} objects.",),  # CLEVR counts
    "countries": (  # Country211
        "a photo i took in {}.",
        "a photo i took while visiting {}.",
        "a photo from my home country of {}.",
        "a photo from my visit to {}.",
        "a photo showing the country of {}.",
    ),
    "digits": ('a photo of the number: "{}".',),  # MNIST
    "emotions": (  # FER2013
        "a photo of a {} looking face.",
        "a photo of a face showing the emotion: {}.",
        "a photo of a face looking {}.",
        "a face that looks {}.",
        "they look {}.",
        "look at how {} they are.",
    ),
    "flowers": ("a photo of a {}, a type of flower.",),  # Flowers102
    "food": ("a photo of {}, a type of food.",),  # Food101
    "histopathology": ("this is a photo of {}",),  # PatchCamelyon
    # Ours: the paper found that quotes around the text in the image help.
    "ocr": ('a photo of the text: "{}".',),
    "pets": ("a photo of a {}, a type of pet.",),  # Oxford-IIIT Pets
    "reviews": ("a {} review of a movie.",),  # Rendered SST2
    "satellite": tuple(  # EuroSAT
        f"a centered satellite photo of {article}{{}}." for article in ("", "a ", "the ")
    ),
    "satellite_or_aerial": tuple(  # RESISC45
        f"{view} {medium} of {article}{{}}."
        for medium in ("imagery", "photo", "view")
        for view in ("satellite", "aerial")
        for article in ("", "a ", "the ")
    ),
    "scenes": _a_and_the("a photo of {the} {}."),  # SUN397, STL10
    "textures": tuple(  # Describable Textures
        f"a photo of {article} {{}} {noun}."
        for article in _A_AND_THE
        for noun in ("texture", "pattern", "thing", "object")
    ),
    "traffic_signs": tuple(  # GTSRB
        f'a {view} photo of a "{{}}" traffic sign.' for view in ("zoomed in", "centered", "close up")
    ),
    "video_actions": tuple(  # Kinetics700
        f"a {medium} of {doing}{{}}."
        for medium in _ACTION_MEDIA
        for doing in ("", *(f"a person {verb}" for verb in _ACTION_VERBS))
    ),
}


def prompt_set_names() -> list[str]:
    """Names of the built-in prompt sets, sorted.

    Returns:
        `list[str]`: what [`load_prompt_set`], [`build_text_classifier`] and the pipeline's `hypothesis_template`
        accept as a name.
    """
    return sorted(PROMPT_SETS)


def get_prompt_set(name: str) -> tuple[str, ...]:
    """Templates of a built-in prompt set; raise ValueError, with the names, if there is none of this name."""
    if name not in PROMPT_SETS:
        raise ValueError(no_such("prompt set", name, prompt_set_names()))
    return PROMPT_SETS[name]
