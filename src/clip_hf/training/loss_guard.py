# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Stop a training that diverges, and save the data of the step at which it did."""

import json
import math
import os
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from ..utils.atomic import replaced_file, usual_mode
from ..utils.saved_states import check_kinds


class TrainingDiverged(RuntimeError):
    """The loss or the gradient of `step` is not finite, or the loss jumped; `folder` has the step's data."""

    def __init__(self, message: str, step: int, folder: Path):
        super().__init__(message)
        self.step = step
        self.folder = folder


class LossGuard:
    """Checks the loss of each step, and stops a training that diverges.

    - If the loss or the norm of the gradient is not finite, or the loss is a spike, the step's data is saved and
      [`TrainingDiverged`] raised.
    - A spike is a loss above `max_ratio` times the median of the last `window` losses and at least `min_rise` above
      it, so that a loss near 0 may double. Spikes count only after `window // 4` losses (at least 10).
    - With several processes, each gives the loss and norm that were reduced over all, so that all raise at the same
      step; each saves its own data.

    Args:
        folder (`str` or `os.PathLike`): Where the data of a bad step goes, into a folder of its own.
        max_ratio (`float`, *optional*, defaults to 3.0): Greater than 1; with `math.inf` only a value that is not
            finite counts.
        window (`int`, *optional*, defaults to 200): Number of losses remembered.
        min_rise (`float`, *optional*, defaults to 1.0): In the unit of the loss, nats.

    Raises:
        ValueError: if an option is out of its range.
    """

    def __init__(self, folder: str | os.PathLike, max_ratio: float = 3.0, window: int = 200, min_rise: float = 1.0):
        if not max_ratio > 1:
            raise ValueError(f"`max_ratio` is {max_ratio}; it must be greater than 1.")
        if window < 1:
            raise ValueError(f"`window` is {window}; it must be at least 1.")
        if not min_rise >= 0:
            raise ValueError(f"`min_rise` is {min_rise}; it must be at least 0.")
        self.folder = Path(folder)
        self.max_ratio = max_ratio
        self.min_rise = min_rise
        self._losses: deque[float] = deque(maxlen=window)

    @property
    def highest(self) -> float:
        """The highest loss that is no spike; infinite until enough losses are known."""
        needed = min(max(10, self._losses.maxlen // 4), self._losses.maxlen)
        if len(self._losses) < needed:
            return math.inf
        median = statistics.median(self._losses)
        # A loss below 0 would make the product the lower bound of the two.
        return max(self.max_ratio * median, median + self.min_rise)

    def check(
        self,
        step: int,
        loss: float | torch.Tensor,
        batch: Mapping[str, Any],
        grad_norm: float | torch.Tensor | None = None,
        learning_rate: float | None = None,
    ) -> None:
        """Check a step by the loss and the gradient's norm that all processes share; every process calls it.

        `batch` is this process's data of the step. If the training diverges, its tensors are saved as such, the rest
        (such as `skipped`) as JSON, and [`TrainingDiverged`] is raised.
        """
        loss = float(loss)
        grad_norm = None if grad_norm is None else float(grad_norm)
        highest = self.highest
        if not math.isfinite(loss):
            problem = f"The loss of step {step} is {loss}"
        elif grad_norm is not None and not math.isfinite(grad_norm):
            problem = f"The norm of step {step}'s gradient is {grad_norm} (the loss {loss:.4g})"
        elif loss > highest:
            problem = f"The loss of step {step} is {loss:.4g}, a spike: at most {highest:.4g} was expected"
        else:
            self._losses.append(loss)
            return
        record = {"step": step, "loss": loss, "grad_norm": grad_norm, "learning_rate": learning_rate}
        record["recent_losses"] = list(self._losses)
        folder = self.folder / f"step_{step:08d}"
        try:
            _save(folder, record, batch)
            saved = f"Its data lies in {folder}."
        except (OSError, ValueError, TypeError) as error:
            saved = f"Its data could not be saved in {folder} ({error})."
        raise TrainingDiverged(
            f"{problem}. {saved} Look at the data first; else go on from a checkpoint before it with a lower learning "
            "rate, a longer warm-up or a smaller limit on the gradient's norm, or with bf16 instead of fp16.",
            step,
            folder,
        )

    def state_dict(self) -> dict:
        """The last losses, which a resumed training needs."""
        return {"losses": list(self._losses)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the last losses from a [`LossGuard.state_dict`]; ValueError if it is none."""
        check_kinds(state, {"losses": [float]}, "The guard's state")
        self._losses = deque(state["losses"], maxlen=self._losses.maxlen)


def _save(folder: Path, record: dict, batch: Mapping[str, Any]) -> None:
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    others = {name: value for name, value in batch.items() if name not in tensors}
    with replaced_file(folder / f"rank_{rank:05d}.safetensors") as path:
        # Cloned, because safetensors refuses tensors that share memory.
        with usual_mode(path):
            save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, path)
    with replaced_file(folder / f"rank_{rank:05d}.json") as path:
        path.write_text(json.dumps({**record, **others}, indent=1, default=_to_json) + "\n", encoding="utf-8")


def _to_json(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else repr(value)
