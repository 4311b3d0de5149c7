# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Checkpoints to resume a training from: written completely or not at all, and checked before they are read."""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import broadcast_object_list, extract_model_from_parallel, gather_object

from ..utils.atomic import clear_leftovers, move_into_place, remove_folder, sync
from ..utils.processes import SharedOutcome
from .checkpoint_files import (
    ACCELERATE,
    MANIFEST,
    SHARED,
    ForeignCheckpoint,
    check_checkpoint,
    check_names,
    describe_files,
    foreign_names,
    names_in,
    pickles_among,
    process_file,
    read_manifest,
    sha256_of_manifest,
)
from .options import RECIPE_NAME


_PLAIN = (type(None), bool, int, float, str, bytes)


@dataclass(frozen=True)
class Restored:
    """The content of a checkpoint, except what went into the accelerator's objects.

    Args:
        step (`int`): Number of steps that were done when it was saved.
        shared (`dict`): The state that all processes share.
        per_process (`dict`, *optional*): This process's own state; None if another number of processes saved it.
        path (`Path`): The checkpoint's folder.
    """

    step: int
    shared: dict
    per_process: dict | None
    path: Path


class Checkpoints:
    """The checkpoints of one training, in a folder that all processes see; `step_00001234` is that of step 1,234.

    - A checkpoint is written under a temporary name, with the SHA-256 of every file, and renamed when all of it is on
      the disk.
    - Reading executes nothing, whoever wrote the checkpoint. One with a file that is not ours, or with more than
      tensors, numbers and texts in it, is an error and not passed over. DeepSpeed's files and FSDP's shards are
      pickles, which can run programs: they are read only if the caller trusts them.
    - The `keep` checkpoints that were written last stay. After going back to an earlier step, the checkpoints of later
      steps are therefore the older ones.
    - Every process calls each method, at the same point of the program.

    Args:
        folder (`str` or `os.PathLike`): Created if it does not exist; only one training at a time may use it.
        keep (`int`, *optional*, defaults to 2): How many checkpoints to keep. With 1, none is left to fall back to if
            it is damaged.

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
        """Write a checkpoint.

        It holds what `accelerator` has prepared (model, optimiser, scheduler, GradScaler) and the given states.

        States of other objects belong into `shared`. Objects that are registered with `accelerator` are refused,
        because Accelerate reads them with pickle, which can run programs.

        Args:
            accelerator, step: The accelerator of this process, and the number of steps that are done.
            shared (`Mapping`): State that is the same on all processes: numbers, texts, tensors, and lists and dicts
                of them.
            per_process (`Mapping`): This process's own state, of the same kinds of values.

        Returns:
            `Path`: the checkpoint's folder.

        Raises:
            TypeError: if `shared` or `per_process` hold something else, which could not be read back safely. Every
                process raises it.
            ValueError: if Accelerate writes something that could not be read back safely.
            OSError: if the checkpoint cannot be written; earlier ones are untouched. Every process raises it.
        """
        problem = None
        try:
            shared, per_process = _plain_copy(shared, "shared"), _plain_copy(per_process, "per_process")
        except TypeError as error:
            problem = str(error)
        refused = [message for message in gather_object([problem]) if message is not None]
        if refused:
            raise TypeError(refused[0])
        path = self.folder / f"step_{step:08d}"
        temporary = self.folder / f".{path.name}.tmp"
        try:
            self._together(accelerator, step, lambda: self._start(accelerator, temporary))
            self._together(accelerator, step, lambda: _write(accelerator, temporary, shared, per_process))
            names = [names_in(temporary) if accelerator.is_main_process else None]
            broadcast_object_list(names)
            foreign = foreign_names(names[0])
            if foreign:
                raise ValueError(
                    f"Accelerate wrote {', '.join(foreign)}, which a checkpoint does not hold: reading it may run "
                    "programs. Give states of registered objects and samplers in `shared` instead."
                )
            share = names[0][accelerator.process_index :: accelerator.num_processes]
            described = self._together(accelerator, step, lambda: describe_files(temporary, share, on_disk=True))
            files = {name: description for part in described for name, description in part.items()}
            self._together(accelerator, step, lambda: self._finish(accelerator, step, temporary, path, files))
        except (OSError, ValueError):  # on all processes, see `_together`
            self._clean_up(accelerator, temporary)
            raise
        self._clean_up(accelerator, temporary)
        return path

    def restore(
        self, accelerator: Accelerator, which: str | os.PathLike = "latest", trusted: bool = False
    ) -> Restored | None:
        """Read a checkpoint into what `accelerator` has prepared; call it after `accelerator.prepare`.

        Args:
            accelerator (`Accelerator`): The accelerator of this process; the number of processes may differ from that
                of the checkpoint.
            which (`str` or `os.PathLike`, *optional*, defaults to `"latest"`): `"latest"` is the newest complete one;
                damaged ones are passed over with a warning. Otherwise a checkpoint's path, or, if there is none,
                its name in this folder.
            trusted (`bool`, *optional*, defaults to `False`): Whether to read DeepSpeed's files and FSDP's shards,
                which can run programs: only for checkpoints that you wrote.

        Returns:
            [`Restored`]; None for `"latest"` if there is no checkpoint.

        Raises:
            OSError: if the named checkpoint is damaged or missing, or all are damaged.
            ValueError: if the checkpoint does not fit what `accelerator` has prepared, or holds content that we do not
                write or that is not trusted. Every process raises it.
        """
        answer = [self._choose(which, trusted) if accelerator.is_main_process else None]
        broadcast_object_list(answer)
        path, problems, error = answer[0]
        if accelerator.is_local_main_process:
            for problem in problems:
                warnings.warn(f"The checkpoint {problem}; it is passed over.", RuntimeWarning, stacklevel=2)
        if error is not None:
            raise error
        if path is None:
            return None
        seen = gather_object([path.is_dir()])
        if not all(seen):
            blind = [rank for rank, sees in enumerate(seen) if not sees]
            raise OSError(f"The processes {blind} do not see {path}; use a folder that all machines share.")
        return _read(accelerator, path)

    def _start(self, accelerator: Accelerator, temporary: Path) -> None:
        if accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            temporary.mkdir()

    def _finish(self, accelerator: Accelerator, step: int, temporary: Path, path: Path, files: dict) -> None:
        if not accelerator.is_main_process:
            return
        lost = [rank for rank in range(accelerator.num_processes) if process_file(rank) not in files]
        if lost:
            raise OSError(f"processes {lost} wrote elsewhere: the folder must be one that all machines share")
        manifest = {
            "step": step,
            "number": 1 + max((manifest["number"] for _, manifest in self._listed()), default=0),
            "num_processes": accelerator.num_processes,
            "files": dict(sorted(files.items())),
        }
        manifest["sha256"] = sha256_of_manifest(manifest)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        sync(temporary / MANIFEST)
        for parent, _, _ in os.walk(temporary, topdown=False):
            sync(parent)
        move_into_place(temporary, path)
        for old, _ in self._listed()[self.keep :]:
            remove_folder(old)

    def _clean_up(self, accelerator: Accelerator, temporary: Path) -> None:
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
        accelerator.wait_for_everyone()

    def _together(self, accelerator: Accelerator, step: int, action: Callable[[], Any]) -> list:
        """All processes' results of an action; if it fails on one, all raise an `OSError`."""
        result = None
        with SharedOutcome(accelerator.num_processes) as outcome:
            result = action()
        try:
            return outcome.gather(result)
        except Exception as error:  # what a full disk raises depends on who writes
            raise OSError(
                f"The checkpoint of step {step} could not be written in {self.folder} ({type(error).__name__}: "
                f"{error}). Earlier checkpoints are untouched. Is the disk full?"
            ) from error

    def _remove_leftovers(self) -> None:
        # A killed process may have left files that it was writing, removing or replacing.
        for leftover in list(self.folder.glob(".step_*")):
            clear_leftovers(self.folder / leftover.name.split(".")[1], every_owner=True)
            shutil.rmtree(leftover, ignore_errors=True)

    def _listed(self) -> list[tuple[Path, dict]]:
        """All checkpoints with a readable manifest, the newest first."""
        listed = []
        for path in self.folder.glob("step_*"):
            try:
                listed.append((path, read_manifest(path)))
            except (OSError, ValueError):
                continue
        return sorted(listed, key=lambda item: item[1]["number"], reverse=True)

    def _choose(self, which: str | os.PathLike, trusted: bool) -> tuple[Path | None, list[str], Exception | None]:
        """The checkpoint to read, the problems of the skipped ones, and any error; one process calls it."""
        self._remove_leftovers()
        try:
            return *(self._latest(trusted) if str(which) == "latest" else self._named(which, trusted)), None
        except ForeignCheckpoint as error:
            return None, [], ValueError(str(error))
        except OSError as error:
            return None, [], error

    def _named(self, which: str | os.PathLike, trusted: bool) -> tuple[Path, list[str]]:
        path, below = Path(which), self.folder / which
        if not path.exists() and (below.exists() or len(path.parts) == 1):
            path = below
        try:
            check_checkpoint(path, trusted)
        except (OSError, ValueError) as error:
            names = ", ".join(sorted(other.name for other, _ in self._listed())) or "none"
            raise OSError(
                f"The checkpoint {path} cannot be used: {error}. In {self.folder} there are: {names}."
            ) from None
        return Path(os.path.abspath(path)), []

    def _latest(self, trusted: bool) -> tuple[Path | None, list[str]]:
        for path in self.folder.glob("step_*"):
            check_names(path, trusted)
        listed = [path for path, _ in self._listed()]
        unreadable = sorted(set(self.folder.glob("step_*")) - set(listed), reverse=True)
        problems: dict[Path, str] = {}
        for whole in [*listed, *unreadable]:
            try:
                check_checkpoint(whole, trusted)
                break
            except (OSError, ValueError) as error:
                problems[whole] = f"{whole} is damaged ({error})"
        else:
            if problems:
                raise OSError(f"No checkpoint in {self.folder} is whole: {'; '.join(problems.values())}.")
            return None, []
        # Without a manifest, only the number of the step tells the order.
        problems |= {path: f"{path} is damaged (without a manifest)" for path in unreadable if path.name > whole.name}
        return whole, list(problems.values())


def _plain_copy(value: Any, where: str) -> Any:
    """The value with plain dicts, as `torch.load` can read them back; TypeError if it holds what it cannot."""
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in _PLAIN:
                raise TypeError(f"{where} has the key {key!r} of type {type(key).__name__}; use texts or numbers.")
        return {key: _plain_copy(item, f"{where}[{key!r}]") for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain_copy(item, f"{where}[{index}]") for index, item in enumerate(value))
    if isinstance(value, torch.Tensor):
        return value.detach()
    if type(value) not in _PLAIN:
        raise TypeError(
            f"{where} is of type {type(value).__name__}, which a checkpoint does not hold; use numbers, texts, "
            "tensors, and lists and dicts of them."
        )
    return value


def _write(accelerator: Accelerator, folder: Path, shared: dict, per_process: dict) -> None:
    hook = accelerator.register_save_state_pre_hook(_without_wrappers)
    try:
        accelerator.save_state(str(folder / ACCELERATE))
    finally:
        hook.remove()
    torch.save(per_process, folder / process_file(accelerator.process_index))
    if accelerator.is_main_process:
        torch.save(shared, folder / SHARED)


def _unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    return extract_model_from_parallel(model, keep_torch_compile=False)


def _without_wrappers(models: list, weights: list, folder: str) -> None:
    # DistributedDataParallel and torch.compile put prefixes before the names of the weights, which would then load
    # only with the same wrappers.
    if weights:
        weights[:] = [_unwrapped(model).state_dict() for model in models]


def _into_unwrapped(models: list, folder: str) -> None:
    models[:] = [_unwrapped(model) for model in models]


def _read(accelerator: Accelerator, path: Path) -> Restored:
    manifest = read_manifest(path)
    same = manifest["num_processes"] == accelerator.num_processes
    hook = accelerator.register_load_state_pre_hook(_into_unwrapped)
    try:
        if accelerator.distributed_type == DistributedType.DEEPSPEED and not pickles_among(list(manifest["files"])):
            raise ValueError("it was not saved with DeepSpeed")  # DeepSpeed silently skips missing files
        accelerator.load_state(str(path / ACCELERATE))
    except Exception as error:  # a checkpoint that does not fit may raise anything
        raise ValueError(
            f"The checkpoint {path} is whole, but does not fit this training ({' '.join(str(error).split())[:300]}). "
            "Model, frozen parts, optimiser, precision and kind of launch must be those that it was saved with: give "
            f"the training's own recipe, {path.parents[1] / RECIPE_NAME}."
        ) from error
    finally:
        hook.remove()
    # Accelerate restores its count of accumulated batches only for ranks that saved one.
    step = [accelerator.step]
    broadcast_object_list(step)
    accelerator.step = step[0]
    process_path = path / process_file(accelerator.process_index)
    return Restored(
        step=manifest["step"],
        shared=torch.load(path / SHARED, map_location="cpu", weights_only=True),
        per_process=torch.load(process_path, map_location="cpu", weights_only=True) if same else None,
        path=path,
    )
