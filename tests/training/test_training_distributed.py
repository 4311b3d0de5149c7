# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Several processes: FSDP2 with its logit scale, checks that they agree, BatchNorm over all of them."""

import copy
import os
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from clip_hf import ClipHFModel, contrastive_loss
from clip_hf.training.distributed import (
    check_processes_agree,
    logit_bias_of,
    logit_scale_of,
    make_logit_scale_shardable_,
    restore_scalar_logit_scale,
    sync_batch_norm,
)
from clip_hf.training.freezing import freeze
from clip_hf.training.optimizer import OptimizerOptions, build_optimizer, clamp_logit_scale_
from clip_hf.training.stop_signal import StopSignal
from clip_hf.training.weight_averaging import AveragedWeights
from clip_hf.utils.processes import check_launch
from several_processes import run_processes
from tiny_models import TOWERS, make_tiny_model


OPTIONS = OptimizerOptions(learning_rate=1e-2)
LAYERS = {"ClipHFEncoderLayer", "ClipHFResNetBottleneck"}


def batch_of(rows: slice) -> dict:
    generator = torch.Generator().manual_seed(0)
    pixel_values = torch.randn(4, 3, 64, 64, generator=generator, dtype=torch.float64)
    input_ids = torch.randint(0, 598, (4, 6), generator=generator)
    input_ids[:, -1] = 599
    return {"pixel_values": pixel_values[rows], "input_ids": input_ids[rows]}


def small_model(tower: str) -> ClipHFModel:
    model = make_tiny_model(tower).double()
    # So high that the step would go beyond what is allowed.
    nn.init.constant_(model.logit_scale, 4.604)
    if tower == "resnet":
        freeze(model, ["batch_norm"])
    return model


def one_step(model: nn.Module, rows: slice, gather: bool, early: bool = False) -> tuple[float, torch.optim.Optimizer]:
    """A step of training; `early` takes the logit scale before the forward, when FSDP2 still has it sharded."""
    model.train()
    optimizer = build_optimizer(model, OPTIONS)
    scale = logit_scale_of(model) if early else None
    output = model(**batch_of(rows))
    scale = scale if early else logit_scale_of(model)
    assert scale.shape == ()
    loss = contrastive_loss(output.image_embeds, output.text_embeds, scale.exp(), gather=gather)
    loss.backward()
    return loss.item(), optimizer


def full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def sharded_step(tower: str, rank: int, early: bool, mesh) -> dict:
    plain = small_model(tower)
    model, other = make_logit_scale_shardable_(copy.deepcopy(plain)), copy.deepcopy(plain)
    initial = copy.deepcopy(plain.state_dict())
    for module in model.modules():
        if type(module).__name__ in LAYERS:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    expected_loss, plain_optimizer = one_step(plain, slice(0, 4), gather=False)
    loss, optimizer = one_step(model, slice(2 * rank, 2 * rank + 2), gather=True, early=early)
    total = torch.tensor(loss, dtype=torch.float64)
    dist.all_reduce(total)
    found = {"loss": abs(total.item() / 2 - expected_loss)}
    wanted = {name: parameter.grad for name, parameter in plain.named_parameters() if parameter.requires_grad}
    # The gradients of some biases are 0 but for rounding.
    largest = max(grad.abs().max().item() for grad in wanted.values())
    found["gradient"] = max(
        (full(parameter.grad).reshape(wanted[name].shape) - wanted[name]).abs().max().item() / largest
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    )
    grad = full(model.logit_scale.grad).item()
    found["logit_scale_gradient"] = abs(grad / plain.logit_scale.grad.item() - 1)
    for one, its_optimizer in ((plain, plain_optimizer), (model, optimizer)):
        # Adam divides a gradient by its size: of one that is rounding alone it would make a whole step.
        for parameter in one.parameters():
            if parameter.grad is not None and full(parameter.grad).abs().max() < 1e-9:
                parameter.grad = None
        its_optimizer.step()
        nn.init.constant_(one.logit_scale, 5.0)
        clamp_logit_scale_(one)
    options = StateDictOptions(full_state_dict=True)
    state = restore_scalar_logit_scale(get_model_state_dict(model, options=options))
    other.load_state_dict(state)
    weights = plain.state_dict()
    found["weights"] = max((value - weights[name]).abs().max().item() for name, value in other.state_dict().items())
    # A state dict with a scalar goes into the sharded model.
    set_model_state_dict(model, dict(initial), options=options)
    loaded = restore_scalar_logit_scale(get_model_state_dict(model, options=options))
    found["loaded"] = max((value - initial[name]).abs().max().item() for name, value in loaded.items())
    found["shape"] = tuple(model.logit_scale.shape)
    try:
        AveragedWeights(model)
    except ValueError as error:
        found["average"] = str(error)
    return found


def disagreements(rank: int, accelerator: Accelerator) -> list[str]:
    check_processes_agree(accelerator, {"rows": 5, "options": {"seed": 0}})
    found = []
    for values in ({"seed": 0, "rows": 5 + rank}, {"seed": 0} if rank else {"seed": 0, "epochs": 1}):
        try:
            check_processes_agree(accelerator, values)
        except ValueError as error:
            found.append(str(error))
    os.environ["WORLD_SIZE"] = "3"
    try:
        check_launch(accelerator)
    except RuntimeError as error:
        found.append(str(error))
    os.environ["WORLD_SIZE"] = "2"
    check_launch(accelerator)
    return found


def stops_at(rank: int, accelerator: Accelerator) -> int | None:
    with StopSignal() as stop:
        for step in range(6):
            if (step, rank) == (3, 1):
                os.kill(os.getpid(), signal.SIGTERM)
            if stop.should_stop(accelerator):
                return step
    return None


def _two_processes(rank: int) -> dict:
    accelerator = Accelerator(cpu=True)
    mesh = init_device_mesh("cpu", (2,))
    found = {"texts": disagreements(rank, accelerator), "stopped": stops_at(rank, accelerator)}
    for tower in TOWERS:
        found[tower] = sharded_step(tower, rank, early=False, mesh=mesh)
    found["early"] = sharded_step("vit", rank, early=True, mesh=mesh)
    return found


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> list[dict]:
    return run_processes(_two_processes, 2, tmp_path_factory.mktemp("results"))


@pytest.mark.parametrize("which", [*TOWERS, "early"])
def test_fsdp2_takes_the_step_of_one_process(two_processes, which):
    for result in two_processes:
        found = result[which]
        assert found["shape"] == (1,)
        assert {name: value for name, value in found.items() if isinstance(value, float) and not value < 1e-10} == {}
        assert "sharded (FSDP2)" in found["average"]


def test_processes_that_disagree_all_say_how(two_processes):
    for result in two_processes:
        rows, epochs, launch = result["texts"]
        assert "`rows`: 5 on process 0, 6 on process 1." in rows and "seed" not in rows
        assert "`epochs`: 1 on process 0, missing on process 1." in epochs
        assert "WORLD_SIZE is 3, but Accelerate runs 2" in launch


def test_all_processes_stop_at_the_same_step(two_processes):
    assert [result["stopped"] for result in two_processes] == [3, 3]


def test_one_process_agrees_with_itself():
    check_processes_agree(Accelerator(cpu=True), {"rows": 5})


@pytest.mark.parametrize("prefix", ["", "wrapper."])
def test_either_shape_loads_into_either_model(prefix):
    plain = make_tiny_model("vit")
    vector = make_logit_scale_shardable_(make_tiny_model("vit"))
    assert isinstance(vector.logit_scale, nn.Parameter) and vector.logit_scale.shape == (1,)
    assert make_logit_scale_shardable_(vector) is vector and vector.logit_scale.shape == (1,)
    for source in (plain, vector):
        for target in (copy.deepcopy(plain), copy.deepcopy(vector)):
            nn.init.constant_(source.logit_scale, 1.25)
            state = {prefix + name: value for name, value in source.state_dict().items()}
            module = nn.ModuleDict({"wrapper": target}) if prefix else target
            module.load_state_dict(state)
            assert logit_scale_of(target).item() == 1.25
            assert state[f"{prefix}logit_scale"].shape == source.logit_scale.shape
    state = restore_scalar_logit_scale(vector.state_dict())
    assert state["logit_scale"].shape == () and vector.logit_scale.shape == (1,)
    frozen = make_tiny_model("vit")
    frozen.logit_scale.requires_grad_(False)
    assert not make_logit_scale_shardable_(frozen).logit_scale.requires_grad


def test_a_vector_gives_the_gradient_of_a_scalar():
    gradients = []
    for model in (make_tiny_model("vit"), make_logit_scale_shardable_(make_tiny_model("vit"))):
        (3 * logit_scale_of(model).exp()).backward()
        gradients.append(model.logit_scale.grad.reshape(()).item())
    assert gradients[0] == gradients[1] != 0


def test_saved_scalar_loads_with_from_pretrained(tmp_path: Path):
    vector = make_logit_scale_shardable_(make_tiny_model("vit"))
    nn.init.constant_(vector.logit_scale, 1.25)
    vector.save_pretrained(tmp_path, state_dict=restore_scalar_logit_scale(vector.state_dict()))
    loaded = ClipHFModel.from_pretrained(tmp_path)
    assert loaded.logit_scale.shape == () and loaded.logit_scale.item() == 1.25


def test_batch_norm_over_all_processes(monkeypatch):
    model = make_tiny_model("resnet")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"does not run on a CPU, and the model has \d+ such layers"):
        sync_batch_norm(model)
    assert sync_batch_norm(make_tiny_model("vit"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    converted = sync_batch_norm(copy.deepcopy(model))
    kinds = {type(module) for module in converted.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {nn.SyncBatchNorm}
    assert all(torch.equal(value, state[name]) for name, value in converted.state_dict().items())
    assert converted.state_dict().keys() == state.keys()
    freeze(model, ["batch_norm"])
    sync_batch_norm(model)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())


def test_a_logit_bias_is_treated_as_the_scale_is():
    plain = make_tiny_model("vit", logit_bias_init_value=-10.0)
    vector = make_logit_scale_shardable_(make_tiny_model("vit", logit_bias_init_value=-10.0))
    assert vector.logit_bias.shape == (1,) and logit_bias_of(vector).shape == () and logit_bias_of(plain).item() == -10
    state = restore_scalar_logit_scale(vector.state_dict())
    assert state["logit_bias"].shape == ()
    plain.load_state_dict(state)
    vector.load_state_dict(state)
    assert logit_bias_of(make_tiny_model("vit")) is None
