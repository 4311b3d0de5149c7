# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How much memory and time does `clip-hf convert` take, for random weights of a published size?

Beside it, the usual way for a TorchScript archive: `torch.jit.load`, float32, a new model, `save_pretrained`. It
    runs what
lies in the archive, and compares no features.

Each conversion is a process of its own, whose peak of resident memory the system measures: Python, torch and the
    parity
report included. The limit is 1.3 times the size of the source and one GiB.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file

from clip_hf import ClipHFConfig, ClipHFModel
from clip_hf.checkpoints import open_clip_format as open_clip
from clip_hf.checkpoints.openai_names import (
    is_float32_in_mixed_precision,
    our_shapes,
    rename,
    source_shape,
    weight_table,
)
from clip_hf.checkpoints.stored_tensor import StoredTensor


GIB = 2**30
SOURCES = (
    "TorchScript, half precision",
    "TorchScript, float32",
    "state dict, half precision",
    "state dict, float32",
    "open_clip, float32",
)


def random_weights(config: ClipHFConfig, half: bool) -> dict[str, torch.Tensor]:
    """Weights of OpenAI's names with which features neither vanish nor grow."""
    generator = torch.Generator().manual_seed(0)
    shapes, result = our_shapes(config), {}
    for weight in weight_table(config):
        name, shape = weight.source, source_shape(weight, shapes)
        if name.endswith("num_batches_tracked"):
            result[name] = torch.zeros((), dtype=torch.int64)
            continue
        fan_in = torch.Size(shape[1:]).numel()
        tensor = torch.randn(shape, generator=generator).mul_(max(fan_in, 100) ** -0.5)
        if name.endswith("running_var") or (len(shape) == 1 and name.endswith(".weight")):
            tensor.abs_().add_(0.5)
        if name == "logit_scale":
            tensor.fill_(4.6052)
        result[name] = tensor.half() if half and not is_float32_in_mixed_precision(name) else tensor
    return result


def save_torchscript(weights: dict[str, torch.Tensor], path: Path) -> None:
    """A TorchScript archive, laid out as the published ones, of modules that hold the weights and compute nothing."""
    root = torch.nn.Module()
    for name, tensor in weights.items():
        *path_to, last = name.split(".")
        module = root
        for part in path_to:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]
        if tensor.is_floating_point():
            module.register_parameter(last, torch.nn.Parameter(tensor, requires_grad=False))
        else:
            module.register_buffer(last, tensor)
    torch.jit.script(root).save(str(path))


def make_source(kind: str, architecture: str, folder: str) -> None:
    """Write one of `SOURCES`."""
    config = ClipHFConfig.from_architecture(architecture)
    weights = random_weights(config, half="half" in kind)
    path = Path(folder, "source.pt")
    if kind.startswith("TorchScript"):
        sizes = {
            "input_resolution": config.vision_config.image_size,
            "context_length": config.text_config.max_position_embeddings,
            "vocab_size": config.text_config.vocab_size,
        }
        weights |= {name: torch.tensor(size) for name, size in sizes.items()}
        save_torchscript(weights, path)
    elif kind.startswith("open_clip"):
        path = path.with_suffix("")
        path.mkdir()
        model_cfg = open_clip.config_to_open_clip(config, "random weights")
        (path / open_clip.CONFIG_NAME).write_text(json.dumps({"model_cfg": model_cfg}))
        save_file(weights, path / open_clip.WEIGHT_NAMES[0])
    else:
        torch.save(weights, path)


def convert_the_usual_way(source: str, destination: str, architecture: str) -> None:
    """Load an archive with torch, rename its weights, and save a model of them."""
    state_dict = torch.jit.load(source, map_location="cpu").state_dict()
    config = ClipHFConfig.from_architecture(architecture)
    stored = {
        name: StoredTensor.of(tensor) for name, tensor in state_dict.items() if tensor.ndim or name == "logit_scale"
    }
    renamed, _ = rename(stored, config, source)
    model = ClipHFModel(config)
    model.load_state_dict({name: tensor.read().float() for name, tensor in renamed.items()})
    model.save_pretrained(destination)


def measure(command: list[str]) -> tuple[float, int, str]:
    """Seconds, peak of resident memory in bytes, and output of a process."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, usage.ru_maxrss * 1024, output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--architecture", default="RN50x64", help="one of the published models (default: %(default)s)")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES)
    parser.add_argument("--folder", help="where to write; by default a temporary folder")
    options = parser.parse_args()
    print(f"{datetime.date.today()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, ", end="")
    print(f"Python {platform.python_version()}, torch {version('torch')}, safetensors {version('safetensors')}")
    for kind in options.sources:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            # In a process of its own, so that its memory is not this one's.
            code = f"import bench_conversion as b; b.make_source({kind!r}, {options.architecture!r}, {folder!r})"
            here = Path(__file__).resolve().parent
            subprocess.run([sys.executable, "-c", code], check=True, cwd=here)
            source = Path(folder, "source" if kind.startswith("open_clip") else "source.pt")
            size = sum(path.stat().st_size for path in ([source] if source.is_file() else source.iterdir()))
            program = "import sys; from clip_hf.cli import main; sys.exit(main())"
            command = [sys.executable, "-c", program, "convert", str(source), str(Path(folder, "converted"))]
            seconds, peak, output = measure(command)
            usual = None
            if kind.startswith("TorchScript"):
                arguments = f"{str(source)!r}, {str(Path(folder, 'usual'))!r}, {options.architecture!r}"
                code = f"import sys; sys.path.insert(0, {str(here)!r}); import bench_conversion as b; "
                usual = measure([sys.executable, "-c", f"{code}b.convert_the_usual_way({arguments})"])
            written = sum(path.stat().st_size for path in Path(folder, "converted").glob("*.safetensors"))
        limit = 1.3 * size + GIB
        print(f"\n{options.architecture}, {kind}: source {size / GIB:.2f} GiB, written {written / GIB:.2f} GiB")
        print(f"peak memory {peak / GIB:.2f} GiB, {peak / limit:.2f} of the limit of {limit / GIB:.2f} GiB")
        print(f"time {seconds:.1f} s, the check of features included")
        if usual:
            print(
                f"the usual way: peak memory {usual[1] / GIB:.2f} GiB ({usual[1] / peak:.1f}x), time {usual[0]:.1f} s"
            )
        print(
            "\n".join(
                f"  {line}" for line in output.splitlines() if line.startswith(("weights", "features", "dtypes"))
            )
        )
        if peak > limit:
            raise SystemExit("more memory than allowed")


if __name__ == "__main__":
    main()
