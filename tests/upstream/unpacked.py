# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Makes the tests in transformers' source distribution importable as the package `transformers_tests`.

They are not called `tests`, their name in transformers, because this folder's parent is. The source distribution holds
the modules `tests/test_*.py` alone; the few names that these import from folders it leaves out are given here.
"""

import importlib
import os
import sys
import tempfile
import types
from pathlib import Path
from unittest import mock

import transformers
from PIL import Image
from transformers.models.auto import modeling_auto


PACKAGE = "transformers_tests"
ROOT = Path(__file__).resolve().parents[2] / ".transformers-tests"

# The tests find a class by its name in these, and pass over one that they do not find. Auto classes do not: their
# tables of ours are `register`'s.
OUR_CLASSES = {
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES": {"clip_hf": "ClipHFForImageClassification"},
    "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES": {"clip_hf": "ClipHFModel"},
    "MODEL_MAPPING_NAMES": {
        "clip_hf": "ClipHFModel",
        "clip_hf_resnet": "ClipHFResNetModel",
        "clip_hf_text": "ClipHFTextModel",
        "clip_hf_vit": "ClipHFViTModel",
    },
}

# Every argument common to all configurations, with a value that is not its default.
CONFIG_COMMON_KWARGS = {
    "architectures": ["SomeModel"],
    "chunk_size_feed_forward": 3,
    "dtype": "float16",
    "id2label": {0: "cat", 1: "dog"},
    "is_encoder_decoder": True,
    "label2id": {"cat": 0, "dog": 1},
    "output_attentions": True,
    "output_hidden_states": True,
    "problem_type": "regression",
    "return_dict": False,
}


def local_picture(url: str) -> str:
    """The path of a picture that stands in for the one at `url`; other files are not needed, their URLs come back."""
    if not url.endswith((".png", ".jpg")):
        return url
    path = Path(tempfile.gettempdir()) / "clip_hf_upstream_tests" / "picture.png"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        own = path.with_name(f"{os.getpid()}.png")  # other test processes may make one, too
        Image.radial_gradient("L").resize((320, 240)).convert("RGB").save(own)
        own.replace(path)
    return str(path)


def _stand_in(name: str, **contents) -> None:
    module = types.ModuleType(name)
    vars(module).update(contents)
    sys.modules[name] = module


def install() -> None:
    """
    Make `transformers_tests` importable.

    Raises:
        RuntimeError: if the tests are not there or are those of another version than the installed transformers.
    """
    folder = ROOT / "tests"
    if not (folder / "test_modeling_common.py").is_file():
        raise RuntimeError(f"transformers' tests are not in {folder}. `make test-transformers` unpacks and runs them.")
    version = next(line for line in (ROOT / "PKG-INFO").read_text().splitlines() if line.startswith("Version: "))
    if version != f"Version: {transformers.__version__}":
        raise RuntimeError(
            f"{ROOT} holds the tests of another version ({version}) than the installed transformers "
            f"{transformers.__version__}. Remove the folder and run `make test-transformers`."
        )
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(folder)]
    sys.modules[PACKAGE] = package
    for folder_left_out in ("exporters", "generation", "utils"):
        _stand_in(f"{PACKAGE}.{folder_left_out}", __path__=[])
    _stand_in(f"{PACKAGE}.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
    _stand_in(f"{PACKAGE}.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
    _stand_in(f"{PACKAGE}.utils.test_configuration_utils", config_common_kwargs=CONFIG_COMMON_KWARGS)
    _stand_in("fetch_hub_objects_for_ci", url_to_local_path=local_picture)
    # On import, some load transformers a second time, from folders relative to their own, or read a list of models.
    with tempfile.TemporaryDirectory() as no_models:
        reports = Path(no_models) / "reports"
        reports.mkdir()
        (reports / "tiny_model_summary.json").write_text("{}")
        with (
            mock.patch("transformers.utils.direct_transformers_import", lambda path: transformers),
            mock.patch.dict(os.environ, TRANSFORMERS_TINY_MODEL_PATH=no_models),
        ):
            importlib.import_module(f"{PACKAGE}.test_configuration_common")
            importlib.import_module(f"{PACKAGE}.test_pipeline_mixin")
    for mapping, classes in OUR_CLASSES.items():
        getattr(modeling_auto, mapping).update(classes)
