# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Loaders for the code that clip_hf is compared with: OpenAI's CLIP, torchvision's transforms and open_clip.

They live in the folder `.parity` at the root of the checkout, which `make parity-env` fills. A benchmark that can do
without one of them asks for it by [`optional_peer`]. The folder is never left
on `sys.path`: an importable torchvision makes transformers choose other image processors, and a comparison must not
change what it measures. It is on `sys.path` only while a loader imports, and transformers is asked first, so that its
cached answer to "is torchvision there?" stays no.
"""

import contextlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers.utils import is_torchvision_available, is_torchvision_v2_available


PARITY_FOLDER = Path(__file__).resolve().parent.parent / ".parity"

# The name under which OpenAI's folder `clip` is imported. Its own `__init__` is not run: it imports pkg_resources,
# which setuptools no longer has.
_OPENAI_PACKAGE = "openai_clip_reference"


def parity_path(*parts: str) -> Path:
    """The path of a file or folder inside `.parity`.

    Args:
        parts: Path parts below `.parity`.

    Returns:
        The path, which exists.

    Raises:
        FileNotFoundError: If it does not exist; the message says which command makes it.
    """
    path = PARITY_FOLDER.joinpath(*parts)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: run `make parity-env` to install the references.")
    return path


def optional_peer(name: str, load: Callable[[], Any], install: str) -> Any | None:
    """A peer that a benchmark can do without.

    Args:
        name: What to call it.
        load: Imports and returns it.
        install: The command that installs it.

    Returns:
        What `load` returns; None if the peer is not installed, which a line says.
    """
    try:
        return load()
    except (ImportError, FileNotFoundError) as error:
        reason = str(error).partition("\n")[0]
        print(f"{name} is left out ({reason}). To compare with it: {install}", flush=True)
        return None


def load_openai_model_module() -> types.ModuleType:
    """OpenAI's `clip/model.py`, with its classes `CLIP`, `ModifiedResNet`, `VisionTransformer`, ..."""
    return _import_openai("model")


def load_openai_tokenizer() -> object:
    """A new instance of OpenAI's `SimpleTokenizer`, with the merges of its package."""
    return _import_openai("simple_tokenizer").SimpleTokenizer()


def openai_bpe_path() -> Path:
    """The path of OpenAI's byte-pair merges, a gzipped text file."""
    return parity_path("clip", "bpe_simple_vocab_16e6.txt.gz")


def openai_transform(n_px: int) -> Callable:
    """OpenAI's image transform, from its own `clip/clip.py`.

    Args:
        n_px: Side of the output in pixels.

    Returns:
        A callable that takes a `PIL.Image.Image` of any mode and returns a float32 tensor of shape (3, n_px, n_px):
        bicubic resize of the shorter side, centre crop, conversion to RGB, scaling to 0..1, normalisation.
    """
    return load_openai_clip_module()._transform(n_px)


def load_openai_clip_module() -> types.ModuleType:
    """OpenAI's `clip/clip.py`, with its functions `load` and `tokenize`: what `import clip` gives its users."""
    parity_path("torchvision")
    with _parity_on_path():
        _import_torchvision()
    with _stand_in("pkg_resources", packaging=importlib.import_module("packaging")):
        importlib.import_module("packaging.version")
        return _import_openai("clip")


def load_torchvision() -> types.ModuleType:
    """The torchvision package; its transforms work on PIL images and tensors, its compiled operators do not."""
    parity_path("torchvision")
    with _parity_on_path():
        return _import_torchvision()


def load_open_clip() -> types.ModuleType:
    """The open_clip package, with timm and torchvision beside it."""
    parity_path("open_clip")
    with _parity_on_path():
        _import_torchvision()
        return importlib.import_module("open_clip")


def load_bitsandbytes() -> types.ModuleType:
    """The bitsandbytes package; once loaded, it stays importable."""
    parity_path("bitsandbytes")
    with _parity_on_path():
        return importlib.import_module("bitsandbytes.optim")


def load_diffusers() -> types.ModuleType:
    """The diffusers package; once loaded, it stays importable. It sees none of the packages beside it."""
    init = parity_path("diffusers", "__init__.py")
    if "diffusers" not in sys.modules:
        spec = importlib.util.spec_from_file_location("diffusers", init, submodule_search_locations=[str(init.parent)])
        sys.modules["diffusers"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["diffusers"])
    return sys.modules["diffusers"]


def clip_benchmark_folder() -> Path:
    """The folder of clip-benchmark's package. Its data files are read, its code is not imported."""
    return parity_path("clip_benchmark")


@contextlib.contextmanager
def _parity_on_path() -> Iterator[None]:
    # Both functions cache their answer, so asking before torchvision can be found fixes it for the process.
    is_torchvision_available()
    is_torchvision_v2_available()
    sys.path.append(str(PARITY_FOLDER))
    try:
        yield
    finally:
        sys.path.remove(str(PARITY_FOLDER))


@contextlib.contextmanager
def _stand_in(name: str, **attributes: object) -> Iterator[None]:
    """Let `import name` succeed inside the block where no such module is installed."""
    missing = name not in sys.modules and importlib.util.find_spec(name) is None
    if missing:
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(attributes)
    try:
        yield
    finally:
        if missing:
            del sys.modules[name]


def _import_torchvision() -> types.ModuleType:
    # The wheel is built for CUDA: its compiled operators do not load beside a CPU build of torch, and registering
    # their shapes fails. An empty module in that place lets the rest of torchvision, which is Python, import.
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
    return importlib.import_module("torchvision")


def _import_openai(module: str) -> types.ModuleType:
    folder = parity_path("clip")
    if _OPENAI_PACKAGE not in sys.modules:
        package = types.ModuleType(_OPENAI_PACKAGE)
        package.__path__ = [str(folder)]
        sys.modules[_OPENAI_PACKAGE] = package
    return importlib.import_module(f"{_OPENAI_PACKAGE}.{module}")
