# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The training loop: steps, evaluations, checkpoints and saved models, on one process or many."""

import contextlib
import gc
import math
import time
from pathlib import Path

import torch
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from ..data import SkipCounter
from ..model_card.card import ModelCardDetails
from ..utils.processes import SharedOutcome, accelerator_settings
from ..utils.saved_states import check_kinds, kinds_of
from ..utils.wording import counted
from .class_prompts import read_class_prompts
from .distillation import teach
from .distillation_loss import with_teachers
from .distributed import logit_scale_of
from .freezing import count_parameters
from .learning_rate_schedule import cosine_schedule
from .loss_guard import LossGuard
from .objective import ContrastiveObjective
from .optimizer import build_optimizer, clamp_logit_scale_
from .options import LOG_NAME, TrainingOptions
from .pair_losses import build_pair_loss
from .patch_dropout import PatchDropout
from .planning import check_average, check_plan, describe_plan, fit_batch_size, num_steps_of
from .stop_signal import StopSignal
from .trained_models import describe_training, push_model, save_model
from .training_checkpoints import Checkpoints, Restored
from .training_log import TrainingLog
from .training_setup import (
    build_loader,
    build_model,
    check_output_dir,
    load_held_out,
    load_training_data,
    prepare_model,
    prepare_output_dir,
    seed_step,
    start_accelerator,
    wrap_model,
)
from .weight_averaging import AveragedWeights


_BEST_METRIC = "zero_shot_top1"
_NOT_ON_THE_BAR = ("step", "captions_cut", "plain_images")


class Training:
    """What a training works with, and the steps that [`train`] takes; errors are those of [`train`]."""

    def __init__(self, options: TrainingOptions, evaluated_by: str | None = None):
        check_output_dir(options)
        self.folder = Path(options.output_dir)
        self.accelerator = start_accelerator(options)
        data, held_out = load_training_data(options)
        self.options = options = fit_batch_size(options, self.accelerator, data)
        self.num_steps, self.steps_per_epoch = num_steps_of(options, data)
        self.num_pairs = None if options.streaming else len(data)
        model, self.processor = build_model(options, data)
        self.loader = build_loader(options, self.accelerator, data, self.processor, self.num_steps)
        self.held_out = load_held_out(options, held_out, data, self.processor)
        self.clip = prepare_model(options, self.accelerator, model)
        self.patch_dropout = PatchDropout(self.clip, options.patch_dropout, self.num_steps, options.unmasked_share)
        prompts, device = None, self.accelerator.device
        if options.loss == "classes":
            prompts = read_class_prompts(data, options.pair_options, self.processor)
        self.teachers, records = teach(options, self.loader, self.processor.image_processor, device)
        self.teacher_names = [record.name for record in records]
        pair_loss = build_pair_loss(options, self.clip, prompts)
        self.pair_loss = with_teachers(options, pair_loss, records, self.clip).to(device)
        optimizer = build_optimizer(self.clip, options.optimizer_options, list(self.pair_loss.parameters()))
        if self.accelerator.is_main_process:
            check_plan(optimizer, self.num_steps, options.batch_size, options.max_steps)
            check_average(options, self.num_steps)
        self.schedule = cosine_schedule(optimizer, options.warmup_steps_of(self.num_steps), self.num_steps)
        plan = describe_plan(options, self.clip, self.num_steps, self.num_pairs, self.held_out, evaluated_by)
        self.accelerator.print(plan)
        self.model, self.optimizer = wrap_model(options, self.accelerator, self.clip, optimizer)
        self.average = AveragedWeights(self.clip, options.ema_decay) if options.ema_decay is not None else None
        self.objective = ContrastiveObjective(
            self.accelerator,
            self.model,
            self.pair_loss,
            grad_cache_chunk_size=options.grad_cache_chunk_size,
        )
        self.guard = LossGuard(self.folder / "diverged", options.max_loss_ratio)
        self.skips = SkipCounter(options.max_skipped_share)
        self.checkpoints = Checkpoints(self.folder / "checkpoints", options.keep_checkpoints)
        self.log = TrainingLog(self.folder / LOG_NAME, active=self.accelerator.is_main_process)
        self.best: dict[str, float] = {}
        self.metrics: dict[str, float] = {}  # of the last evaluation
        self.replacing = contextlib.ExitStack()  # keeps what --overwrite replaces, until the first update

    def start(self) -> int:
        """Restore a checkpoint if asked to, and prepare the folder; returns the number of steps that are done."""
        step = 0
        if self.options.resume is not None:
            restored = self.checkpoints.restore(self.accelerator, self.options.resume, self.options.trust_checkpoint)
            if restored is not None:
                step = restored.step
                self.take_over(restored)
            self.accelerator.print(f"Going on after step {step:,}." if step else "No checkpoint yet: from the start.")
        with contextlib.ExitStack() as stack:
            stack.enter_context(prepare_output_dir(self.options, self.accelerator.is_main_process))
            self.accelerator.wait_for_everyone()
            self.log.start(step)
            self.accelerator.init_trackers("clip_hf", config=_tracker_config(self.options))
            self.replacing = stack.pop_all()
        return step

    def take_over(self, restored: Restored) -> None:
        """Go on from the states of a checkpoint; ValueError if they belong to another kind of training."""
        shared = restored.shared
        if (self.average is None) != ("average" not in shared):
            raise ValueError(
                "`ema_decay` must be set both in the checkpoint's training and in this one, or in neither."
            )
        kinds = {"loader": dict, "skips": dict}
        process_states = restored.per_process
        if process_states is None:  # saved by another number of processes; map-style data have one state for all
            process_states = shared
        else:
            check_kinds(process_states, kinds, f"{restored.path}: what a process saved")
        kinds |= {"guard": dict, "best": {str: float}, "metrics": {str: float}, "num_steps": int}
        loss_state = self.pair_loss.state_dict()
        kinds |= {"loss": kinds_of(loss_state)} if loss_state else {}
        kinds |= {"schedule": kinds_of(self.schedule.state_dict())} | ({"average": dict} if self.average else {})
        check_kinds(shared, kinds, f"{restored.path}: what all processes share")
        if restored.step > self.num_steps:
            raise ValueError(
                f"{restored.path} has done {counted(restored.step, 'step')}, and this training has "
                f"{self.num_steps:,}: train longer (`max_steps`, `epochs`), or resume from an earlier checkpoint."
            )
        if shared["num_steps"] != self.num_steps:
            self.accelerator.print(
                f"The checkpoint's training had {counted(shared['num_steps'], 'step')}, this one has "
                f"{self.num_steps:,}: from here on the learning rate is that of the new schedule."
            )
        self.loader.load_state_dict(process_states["loader"])
        if process_states is not shared or self.accelerator.is_main_process:  # the shared count is that of all
            self.skips.load_state_dict(process_states["skips"])
        self.schedule.load_state_dict(shared["schedule"])
        self.guard.load_state_dict(shared["guard"])
        if loss_state:
            self.pair_loss.load_state_dict(shared["loss"])
        self.best, self.metrics = shared["best"], shared["metrics"]
        if self.average is not None:
            self.average.load_state_dict(shared["average"])

    def save_checkpoint(self, step: int) -> None:
        """Save all that a resumed training needs: on this number of processes or, for map-style data, on another."""
        process_states = {"loader": self.loader.state_dict(), "skips": self.skips.state_dict()}
        shared = {**process_states, "skips": self.total_skips().state_dict(), "guard": self.guard.state_dict()}
        # Not registered with the accelerator, which unpickles, and so executes, what it reads for registered objects.
        shared |= {"schedule": self.schedule.state_dict(), "num_steps": self.num_steps}
        shared |= {"best": self.best, "metrics": self.metrics}
        if self.pair_loss.state_dict():
            shared["loss"] = self.pair_loss.state_dict()
        if self.average is not None:
            shared["average"] = self.average.state_dict()
        self.checkpoints.save(self.accelerator, step, shared=shared, per_process=process_states)

    def step(self, step: int, batch: dict) -> dict[str, float]:
        """Make one update; returns the step's entry in the log, with the figures of all processes together."""
        seed_step(self.options.seed, step, self.accelerator.process_index)
        self.patch_dropout.start_step(step)
        skipped, noticed = batch.pop("skipped"), batch.pop("noticed")
        if self.teachers is not None:
            self.teachers.add_features(batch)
        device = self.accelerator.device
        tensors = {
            name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }
        loss = self.accelerator.reduce(self.objective.backward(tensors), "mean").item()
        counts = self.count_skipped(skipped, len(tensors["input_ids"]), noticed)
        entry = {"step": step, "loss": loss, "learning_rate": self.schedule.get_last_lr()[0], **counts}
        norm = None
        if self.options.max_grad_norm is not None:
            parameters = [*self.model.parameters(), *self.pair_loss.parameters()]
            norm = self.accelerator.clip_grad_norm_(parameters, self.options.max_grad_norm)
            entry["grad_norm"] = float(norm)
        # With fp16 a gradient overflows now and then; the scaler then leaves the step out.
        norm = None if self.options.mixed_precision == "fp16" else norm
        self.replacing.close()  # the training has started, so what it replaces is removed
        self.guard.check(step, loss, {**tensors, "skipped": skipped}, norm, entry["learning_rate"])
        self.optimizer.step()
        self.optimizer.zero_grad()
        clamp_logit_scale_(self.clip)
        self.schedule.step()
        if self.average is not None:
            self.average.update(self.clip)
        with torch.no_grad():
            entry["temperature"] = math.exp(-logit_scale_of(self.clip).item())
        return entry

    def count_skipped(self, skipped: list, num_used: int, noticed: dict[str, int]) -> dict[str, int]:
        """Count what was skipped and cut up to a batch, over all processes; too many skipped rows are an error."""
        self.skips.add(skipped, num_used, noticed)
        with SharedOutcome(self.accelerator.num_processes) as outcome:
            self.skips.check()
        names = list(self.skips.counts)
        counts = torch.tensor([*self.skips.counts.values(), outcome.error is not None], device=self.accelerator.device)
        # One reduction a step tells whether any process has an error; only then are the errors gathered.
        *counts, num_errors = self.accelerator.reduce(counts, "sum").tolist()
        if num_errors:
            outcome.gather()
        return dict(zip(names, counts, strict=True))

    def total_skips(self) -> SkipCounter:
        """What all processes skipped."""
        total = SkipCounter(self.options.max_skipped_share)
        for state in gather_object([self.skips.state_dict()]):
            total.merge(state)
        return total

    def evaluate(self, step: int) -> dict[str, float]:
        """Evaluate on the held-out pairs, and save the model if it is the best so far."""
        if self.held_out is None:
            return {}
        with self.averaged_weights():
            metrics = self.held_out.evaluate(self.accelerator, self.model)
            if metrics[_BEST_METRIC] > self.best.get(_BEST_METRIC, -1.0):
                self.best = {"step": step, **metrics}
                self.save("best", step, metrics)
        self.metrics = metrics
        self.log.add({"step": step, **metrics})
        self.accelerator.log({f"held_out/{name}": value for name, value in metrics.items()}, step=step)
        return metrics

    def averaged_weights(self) -> contextlib.AbstractContextManager:
        """Within it the model has the weights to evaluate and save: the average, if there is one."""
        return contextlib.nullcontext() if self.average is None else self.average.applied_to(self.clip)

    def save(self, name: str, step: int, metrics: dict[str, float]) -> ModelCardDetails:
        """Save the model as it is, with processor and card, into the folder `name`; returns what the card says."""
        about = (self.clip.config, self.num_pairs, self.held_out, count_parameters(self.clip), self.teacher_names)
        details = describe_training(self.options, step, metrics, *about)
        save_model(self.folder / name, self.accelerator, self.model, self.processor, details)
        return details

    def finish(self) -> None:
        """Save the last model, and push it if asked to."""
        with self.averaged_weights():
            details = self.save("last", self.num_steps, self.metrics)
        skips = self.total_skips()
        if self.accelerator.is_main_process:
            if self.options.push_to_hub:
                push_model(self.folder / "last", self.options.push_to_hub, details)
            report = [skips.summary(), skips.remarks(self.processor.tokenizer.model_max_length)]
            if skips.num_skipped:
                print(skips.places_text())
            print(*filter(None, report), f"The model is in {self.folder / 'last'}, the log in {self.log.path}.")


def _tracker_config(options: TrainingOptions) -> dict:
    """Options as trackers take them: numbers, texts and truth values."""
    return {key: value if isinstance(value, int | float | str) else str(value) for key, value in vars(options).items()}


@accelerator_settings()
def train(options: TrainingOptions, bar_position: int = 0, evaluated_by: str | None = None) -> list[dict]:
    """Train, evaluate and save: what `clip-hf train` does. Every process of a launch calls it.

    Args:
        options ([`TrainingOptions`]): All that can be set; [`parse_options`] reads them from a recipe and a command
            line.
        bar_position (`int`, *optional*, defaults to 0): Line of the progress bar, for trainings side by side.
        evaluated_by (`str`, *optional*): What the plan says of held-out pairs where there are none, because the caller
            measures the model.

    Returns:
        `list[dict]`: the log, an entry for each step and each evaluation, see [`TrainingLog`]; on other processes than
        the first those entries that are in the file by then.

    Raises:
        OSError, ValueError: before the first step, if the data, the model or an option cannot be used; later, if a
            checkpoint cannot be written, or too many rows are skipped. Every process raises.
        RuntimeError: if the processes that were launched do not know each other.
        TrainingDiverged: if the loss or the gradient is not finite, or the loss has a spike.
    """
    training = Training(options, evaluated_by)
    done = training.start()
    eval_steps = max(1, round(options.eval_every * training.steps_per_epoch))
    name, quiet = training.folder.name, not training.accelerator.is_main_process
    bar = tqdm(total=training.num_steps, initial=done, desc=name, unit="step", position=bar_position, disable=quiet)
    with training.replacing, StopSignal() as stop, bar:
        started = time.perf_counter()
        for step, batch in enumerate(training.loader, start=done):
            entry = training.step(step, batch)
            now = time.perf_counter()
            entry["pairs_per_second"] = training.options.batch_size / (now - started)
            training.log.add(entry)
            shown = {key: f"{value:.3g}" for key, value in entry.items() if key not in _NOT_ON_THE_BAR}
            bar.set_postfix(shown, refresh=False)
            bar.update()
            done = step + 1
            if done % options.log_every == 0:
                training.accelerator.log({key: value for key, value in entry.items() if key != "step"}, step=step)
            if done % eval_steps == 0 or done == training.num_steps:
                metrics = training.evaluate(done)
                if metrics and not quiet:
                    bar.write(f"{name}, step {done}: " + ", ".join(f"{k} {100 * v:.1f}%" for k, v in metrics.items()))
            stopped = stop.should_stop(training.accelerator)
            if options.save_every and (done % options.save_every == 0 or done == training.num_steps or stopped):
                training.save_checkpoint(done)
            if stopped:
                break
            started = time.perf_counter()
    if done == training.num_steps:
        training.finish()
    else:
        training.accelerator.print(f"Stopped after step {done:,} as asked; --resume latest goes on.")
    accelerator, log = training.accelerator, training.log.entries()
    # Not `end_training`, after which this process could start no other training with the same peers.
    for tracker in accelerator.trackers:
        tracker.finish()
    # DistributedDataParallel must go before the process group: if it is the last to hold it, the program may hang.
    del training
    accelerator.free_memory()
    gc.collect()
    return log
