# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Checkpoints of a training: written whole or not at all, checked when they are read, the same on all processes."""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, extract_model_from_parallel, gather_object

from ..atomic import remove_folder


_MANIFEST = "manifest.json"
_ACCELERATE = "accelerate"
_SHARED = "shared.pt"
_PLAIN = (type(None), bool, int, float, str, bytes)


@dataclass(frozen=True)
class Restored:
    """
    A checkpoint that was read.

    Args:
        step (`int`):
            The step it was saved at.
        shared (`dict`):
            What all processes saved together.
        per_process (`dict`, *optional*):
            What this process saved; None if there were another number of processes.
        num_processes (`int`):
            How many processes there were.
        path (`Path`):
            The checkpoint's folder.
    """

    step: int
    shared: dict
    per_process: dict | None
    num_processes: int
    path: Path


class Checkpoints:
    """
    The checkpoints of one training, in a folder that all processes see; `step_00001234` holds that of step 1,234.

    - A checkpoint is written next to its place and gets its name when it is whole, with the SHA-256 of every file.
    - The newest `keep` stay. Newest is what was written last: after going back to an earlier step, the later ones of
      the abandoned training are the older ones.
    - All methods are for all processes together, at the same place.

    Args:
        folder (`str` or `os.PathLike`):
            Made if need be, of one training at a time.
        keep (`int`, *optional*, defaults to 2):
            How many checkpoints to keep. With one only, there is none to fall back to where it is damaged.

    Raises:
        ValueError: if `keep` is less than 1.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 2):
        if keep < 1:
            raise ValueError(f"`keep` is {keep}; it must be at least 1.")
        self.folder = Path(os.path.abspath(folder))
        self.keep = keep

    def save(
        self, accelerator: Accelerator, step: int, *, shared: Mapping[str, Any], per_process: Mapping[str, Any]
    ) -> Path:
        """
        Write a checkpoint: what `accelerator` has prepared (model, optimiser, scheduler, GradScaler) and registered,
        and what is given here.

        Args:
            accelerator (`Accelerator`):
                Of this process.
            step (`int`):
                Number of steps that are done.
            shared (`Mapping`):
                What is the same on all processes: numbers, texts, tensors, and lists and dicts of them.
            per_process (`Mapping`):
                The same kinds of values, this process's own.

        Returns:
            `Path`: the checkpoint's folder.

        Raises:
            TypeError: if `shared` or `per_process` hold something else, which could not be read back safely. Every
                process raises it.
            OSError: if the checkpoint cannot be written; those from before are untouched. Every process raises it.
        """
        refused = [_not_plain({"shared": shared, "per_process": per_process})]
        refused = [message for message in gather_object(refused) if message is not None]
        if refused:
            raise TypeError(refused[0])
        path = self.folder / f"step_{step:08d}"
        temporary = self.folder / f".{path.name}.tmp"
        try:
            self._together(step, lambda: self._start(accelerator, temporary))
            self._together(step, lambda: _write(accelerator, temporary, shared, per_process))
            names = [_files(temporary) if accelerator.is_main_process else None]
            broadcast_object_list(names)
            own = names[0][accelerator.process_index :: accelerator.num_processes]
            described = self._together(step, lambda: _describe(temporary, own))
            files = {name: description for part in described for name, description in part.items()}
            self._together(step, lambda: self._finish(accelerator, step, temporary, path, files))
        except OSError:  # on all processes, see `_together`
            self._clean_up(accelerator, temporary)
            raise
        self._clean_up(accelerator, temporary)
        return path

    def restore(self, accelerator: Accelerator, which: str | os.PathLike = "latest") -> Restored | None:
        """
        Read a checkpoint into what `accelerator` has prepared. To be called after `accelerator.prepare`.

        Args:
            accelerator (`Accelerator`):
                Of this process; there may be more or fewer processes than when the checkpoint was written.
            which (`str` or `os.PathLike`, *optional*, defaults to `"latest"`):
                `"latest"`: the newest whole one; those that are damaged are passed over with a warning. Or a
                checkpoint's folder, or its name in this folder.

        Returns:
            [`Restored`]; None where `"latest"` was asked for and there is none.

        Raises:
            OSError: if all checkpoints are damaged, or the one asked for is, or is not there.
            ValueError: if the checkpoint does not fit what `accelerator` has prepared. Every process raises it.
        """
        answer = [self._choose(which) if accelerator.is_main_process else None]
        broadcast_object_list(answer)
        path, problems, error = answer[0]
        if accelerator.is_local_main_process:
            for problem in problems:
                warnings.warn(f"The checkpoint {problem}; it is passed over.", RuntimeWarning, stacklevel=2)
        if error is not None:
            raise OSError(error)
        if path is None:
            return None
        self._check_visible(accelerator, path)
        return _read(accelerator, path)

    def _start(self, accelerator: Accelerator, temporary: Path) -> None:
        if accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            temporary.mkdir()

    def _finish(self, accelerator: Accelerator, step: int, temporary: Path, path: Path, files: dict) -> None:
        if not accelerator.is_main_process:
            return
        lost = [rank for rank in range(accelerator.num_processes) if _process_file(rank) not in files]
        if lost:
            raise OSError(f"processes {lost} wrote elsewhere: the folder must be one that all machines share")
        manifest = {
            "step": step,
            "number": 1 + max((manifest["number"] for _, manifest in self._listed()), default=0),
            "num_processes": accelerator.num_processes,
            "files": dict(sorted(files.items())),
        }
        (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        if path.exists():
            remove_folder(path)
        os.rename(temporary, path)
        for old, _ in self._listed()[self.keep :]:
            remove_folder(old)

    def _clean_up(self, accelerator: Accelerator, temporary: Path) -> None:
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
        accelerator.wait_for_everyone()

    def _together(self, step: int, action: Callable[[], Any]) -> list:
        """All processes' results of an action. If it fails on one, all raise, and none waits for another for ever."""
        error = result = None
        try:
            result = action()
        except Exception as caught:  # what a full disk raises depends on who writes
            error = caught
        outcomes = gather_object([(result, None if error is None else f"{type(error).__name__}: {error}")])
        problems = [problem for _, problem in outcomes if problem is not None]
        if problems:
            raise OSError(
                f"The checkpoint of step {step} could not be written in {self.folder} ({problems[0]}). The "
                "checkpoints from before are untouched. Is the disk full?"
            ) from error
        return [result for result, _ in outcomes]

    def _remove_leftovers(self) -> None:
        # What a killed process was writing or removing.
        for leftover in self.folder.glob(".step_*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _listed(self) -> list[tuple[Path, dict]]:
        """All checkpoints whose manifest can be read, the newest first."""
        found = []
        for path in self.folder.glob("step_*"):
            try:
                found.append((path, _read_manifest(path)))
            except (OSError, ValueError):
                continue
        return sorted(found, key=lambda item: item[1]["number"], reverse=True)

    def _choose(self, which: str | os.PathLike) -> tuple[Path | None, list[str], str | None]:
        """The checkpoint to read, those that are passed over, and what is wrong; on one process."""
        if str(which) != "latest":
            path = Path(which) if Path(which).exists() else self.folder / which
            try:
                _check_whole(path)
            except (OSError, ValueError) as error:
                names = ", ".join(sorted(other.name for other, _ in self._listed())) or "none"
                return None, [], f"The checkpoint {path} cannot be used: {error}. In {self.folder} there are: {names}."
            return Path(os.path.abspath(path)), [], None
        self._remove_leftovers()
        listed = [path for path, _ in self._listed()]
        unreadable = sorted(set(self.folder.glob("step_*")) - set(listed), reverse=True)
        problems: dict[Path, str] = {}
        whole = None
        for path in [*listed, *unreadable]:
            try:
                _check_whole(path)
                whole = path
                break
            except (OSError, ValueError) as error:
                problems[path] = f"{path} is damaged ({error})"
        if whole is None:
            error = f"No checkpoint in {self.folder} is whole: {'; '.join(problems.values())}." if problems else None
            return None, [], error
        # Without a manifest the step's number is all that tells the order.
        problems |= {path: f"{path} is damaged (without a manifest)" for path in unreadable if path.name > whole.name}
        return whole, list(problems.values()), None

    def _check_visible(self, accelerator: Accelerator, path: Path) -> None:
        seen = gather_object([path.is_dir()])
        if not all(seen):
            blind = [rank for rank, sees in enumerate(seen) if not sees]
            raise OSError(f"The processes {blind} do not see {path}; use a folder that all machines share.")


def _files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def _not_plain(values: dict[str, Mapping[str, Any]]) -> str | None:
    try:
        for where, value in values.items():
            _check_plain(value, where)
    except TypeError as error:
        return str(error)
    return None


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if type(key) not in _PLAIN:
                raise TypeError(f"{where} has the key {key!r} of type {type(key).__name__}; use texts or numbers.")
            _check_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    elif type(value) not in _PLAIN and not isinstance(value, torch.Tensor):
        raise TypeError(
            f"{where} is of type {type(value).__name__}, which a checkpoint does not hold; use numbers, texts, "
            "tensors, and lists and dicts of them."
        )


def _plain_copy(value: Any) -> Any:
    # Mappings of other classes could not be read back.
    if isinstance(value, Mapping):
        return {key: _plain_copy(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain_copy(item) for item in value)
    return value.detach() if isinstance(value, torch.Tensor) else value


def _write(accelerator: Accelerator, folder: Path, shared: Mapping[str, Any], per_process: Mapping[str, Any]) -> None:
    hook = accelerator.register_save_state_pre_hook(_without_wrappers)
    try:
        accelerator.save_state(str(folder / _ACCELERATE))
    finally:
        hook.remove()
    torch.save(_plain_copy(per_process), folder / _process_file(accelerator.process_index))
    if accelerator.is_main_process:
        torch.save(_plain_copy(shared), folder / _SHARED)


def _process_file(rank: int) -> str:
    return f"process_{rank:05d}.pt"


def _unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    return extract_model_from_parallel(model, keep_torch_compile=False)


def _without_wrappers(models: list, weights: list, folder: str) -> None:
    # DistributedDataParallel and torch.compile put prefixes before the names of the weights, so that they would load
    # only where there are as many processes again.
    if weights:
        weights[:] = [_unwrapped(model).state_dict() for model in models]


def _into_unwrapped(models: list, folder: str) -> None:
    models[:] = [_unwrapped(model) for model in models]


def _read(accelerator: Accelerator, path: Path) -> Restored:
    manifest = _read_manifest(path)
    same = manifest["num_processes"] == accelerator.num_processes
    hook = accelerator.register_load_state_pre_hook(_into_unwrapped)
    try:
        accelerator.load_state(str(path / _ACCELERATE))
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise ValueError(
            f"The checkpoint {path} is whole, but does not fit this training ({error}). Model, frozen parts, "
            "optimiser and precision must be those that it was saved with."
        ) from error
    finally:
        hook.remove()
    # Accelerate restores its count of accumulated batches only where there was a process of this rank.
    step = [accelerator.step]
    broadcast_object_list(step)
    accelerator.step = step[0]
    own = path / _process_file(accelerator.process_index)
    return Restored(
        step=manifest["step"],
        shared=torch.load(path / _SHARED, map_location="cpu", weights_only=True),
        per_process=torch.load(own, map_location="cpu", weights_only=True) if same else None,
        num_processes=manifest["num_processes"],
        path=path,
    )


def _describe(folder: Path, names: list[str]) -> dict[str, dict]:
    """Size and hash of files; hashing leaves Python's lock, so that threads are processors."""

    def describe(name: str) -> dict:
        with open(folder / name, "rb") as file:
            return {"size": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    with ThreadPoolExecutor(max_workers=4) as pool:
        return dict(zip(names, pool.map(describe, names), strict=True))


def _read_manifest(path: Path) -> dict:
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        missing = _MANIFEST if path.is_dir() else "the folder"
        raise FileNotFoundError(f"{missing} is missing") from None
    except ValueError as error:
        raise ValueError(f"{_MANIFEST} cannot be read ({error})") from None
    types = {"step": int, "number": int, "num_processes": int, "files": dict}
    known = isinstance(manifest, dict) and all(isinstance(manifest.get(key), kind) for key, kind in types.items())
    if not known or not all({"size", "sha256"} <= set(described) for described in manifest["files"].values()):
        raise ValueError(f"{_MANIFEST} is no manifest of a checkpoint")
    return manifest


def _check_whole(path: Path) -> None:
    """Raise OSError or ValueError unless every file is there and is what was written."""
    files = _read_manifest(path)["files"]
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise FileNotFoundError(f"{name} is missing")
        size = file.stat().st_size
        if size != expected["size"]:
            raise ValueError(f"{name} has {size:,} bytes instead of {expected['size']:,}")
    for name, found in _describe(path, list(files)).items():
        if found["sha256"] != files[name]["sha256"]:
            raise ValueError(f"{name} is not what was written: its SHA-256 differs")


__all__ = ["Checkpoints", "Restored"]
