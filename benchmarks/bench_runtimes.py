# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
One model of random weights in every library and runtime: images in batches of 1 and 16, short captions, and texts of
77 tokens.

Our model is written in the other libraries' formats, so that all sides have the same weights; their features are
compared with ours of before in float32. The sides: ours, eager, as it was before (MKL's products, BatchNorm not
folded) and as it is; ours compiled by `torch.compile`; ours exported for ONNX Runtime and OpenVINO in each precision;
OpenAI's code, its own model exported by hand for both runtimes, open_clip and transformers. Each has a process of its
own, because threads of one runtime spin and slow the others down; they are timed in turns, in rounds. Ours gets texts
as strings, the others as padded tokens.

With `--agreement`: how far trained models in bfloat16 and int8 agree with themselves in float32, on OpenMoji's
drawings and names; drawings that calibrate int8 are not compared. Random weights would say nothing, so it takes the
demo's models (`make demo`).

Each side holds a whole model: all of ViT-L/14's take some 25 GB, so choose `--sides` where memory is less. OpenAI's
code and open_clip are in `.parity` (`make parity-env`).
"""

import argparse
import importlib.metadata
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import torch

import references
from bench_image_processor import print_machine
from clip_hf import ClipHFConfig, ClipHFImageProcessor, ClipHFModel, ClipHFProcessor, ClipHFTokenizer, checkpoints
from clip_hf.checkpoints.tokenizer_formats import OPENAI_MERGES
from clip_hf.data import load_openmoji
from clip_hf.embedding import load_dual_encoder
from clip_hf.export import export_model
from clip_hf.export.runtime_sessions import check_precision
from clip_hf.model import linear_clip_hf


# Runtime and precision of each of our exports.
EXPORTS = {
    "ours, ONNX Runtime": ("onnx", "float32"),
    "ours, OpenVINO": ("openvino", "float32"),
    "ours, OpenVINO bfloat16": ("openvino", "bfloat16"),
    "ours, ONNX Runtime int8": ("onnx", "int8"),
    "ours, OpenVINO int8": ("openvino", "int8"),
}
BEFORE, COMPILED, BY_HAND = "ours, before", "ours, torch.compile", "OpenAI's, by hand, "
OTHERS = ("transformers", "open_clip", "OpenAI's", "OpenAI's, channels last")
SIDES = (BEFORE, "ours", COMPILED, *EXPORTS, BY_HAND + "ONNX Runtime", BY_HAND + "OpenVINO", *OTHERS)
TEXTS_PER_BATCH = 64
CALIBRATING = 256  # images that are given to exports in int8
Encoders = dict[str, Callable[[np.ndarray], np.ndarray]]


def random_model(architecture: str) -> ClipHFModel:
    """A model of random weights whose features depend on the image: a new ResNet's blocks would be switched off."""
    torch.manual_seed(0)
    model = ClipHFModel(ClipHFConfig.from_architecture(architecture)).eval()
    size = model.config.vision_config.image_size
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    if model.config.vision_config.model_type == "clip_hf_resnet":
        with torch.no_grad():
            model.vision_model.train()(torch.randn(4, 3, size, size))
    return model.eval()


def runnable(sides: list[str]) -> list[str]:
    """The sides without the exports in a precision that this processor lacks, which are printed."""
    kept = []
    for side in sides:
        try:
            check_precision(*EXPORTS.get(side, ("onnx", "float32")))
            kept.append(side)
        except ValueError as error:
            print(f"left out: {side}: {error}")
    return kept


def has_side(side: str, architecture: str) -> bool:
    is_resnet = architecture.startswith("RN")
    return side != ("transformers" if is_resnet else "OpenAI's, channels last")


def write_inputs(folder: Path, size: int, processor: ClipHFProcessor, num_short: int, num_long: int) -> None:
    """Images as arrays; captions as strings, padded to the longest in batches, and padded to 77 tokens."""
    names = load_openmoji()["train"].unique("caption")
    texts = {"short": names[:num_short], "long": [", ".join(names[i : i + 40]) for i in range(num_long)]}
    for batch in (1, 16):
        np.save(
            folder / f"images-{batch}.npy", np.random.default_rng(0).normal(size=(batch, 3, size, size)).astype("f4")
        )
    for kind, own in texts.items():
        (folder / f"{kind}.json").write_text(json.dumps(own))
        ids = processor.tokenizer(own, padding="max_length", truncation=True, max_length=77)["input_ids"]
        np.save(folder / f"{kind}.npy", np.array(ids))


def write_models(architecture: str, folder: Path, sides: list[str]) -> None:
    """Our model in all formats that the sides need, and the exports, whose sizes are printed."""
    model = random_model(architecture)
    processor = ClipHFProcessor(
        ClipHFImageProcessor(
            size=model.config.vision_config.image_size, crop_size=model.config.vision_config.image_size
        ),
        ClipHFTokenizer.from_bpe_file(OPENAI_MERGES),
    )
    checkpoints.save(model, processor, folder / "ours")
    checkpoints.save(model, processor, folder / "openai.pt", format="openai")
    if "open_clip" in sides:
        checkpoints.save(model, processor, folder / "open_clip", format="open_clip")
    if "transformers" in sides:
        checkpoints.save(model, processor, folder / "transformers", format="transformers")
    images = None
    for side, (runtime, precision) in EXPORTS.items():
        if side in sides:
            options = {}
            if precision == "int8":
                images = images or load_openmoji()["train"].select(range(CALIBRATING))["image"]
                options = {"images": list(images), "allow_loss": True}
            export_model(model, folder / side, runtime, precision, processor=processor, **options)
            print_sizes(side, folder / side)
    if any(side.startswith(BY_HAND) for side in sides):
        export_openai(folder)
        for path in (folder / "by_hand", folder / "by_hand_openvino"):
            print_sizes(f"OpenAI's {path.name}", path)


def print_sizes(name: str, folder: Path) -> None:
    megabytes = {
        tower: sum(path.stat().st_size for path in folder.glob(f"{tower}*")) / 1e6 for tower in ("image", "text")
    }
    print(f"{name}: " + ", ".join(f"{tower} tower {size:,.1f} MB" for tower, size in megabytes.items()))


def load_openai(folder: Path) -> torch.nn.Module:
    state = torch.jit.load(folder / "openai.pt", map_location="cpu").state_dict()
    for name in ("input_resolution", "context_length", "vocab_size"):
        state.pop(name, None)
    model = references.load_openai_model_module().build_model(dict(state)).float().eval()
    model.load_state_dict({name: weight.float() for name, weight in state.items()})  # it was rounded to half precision
    return model


class OpenAIText(torch.nn.Module):
    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model.encode_text(input_ids)


def export_openai(folder: Path) -> None:
    """OpenAI's own towers by `torch.onnx.export`, and those converted by OpenVINO, all float32."""
    import openvino

    model = load_openai(folder)
    size = model.visual.input_resolution
    towers = {
        "image": (model.visual, torch.zeros(2, 3, size, size)),
        "text": (OpenAIText(model), torch.zeros(2, 77, dtype=torch.int64)),
    }
    for name in ("by_hand", "by_hand_openvino"):
        (folder / name).mkdir()
    for tower, (module, example) in towers.items():
        path = folder / "by_hand" / f"{tower}.onnx"
        print(f"exporting OpenAI's {tower} tower by hand", flush=True)
        batch = ({0: torch.export.Dim.DYNAMIC},)
        torch.onnx.export(
            module, (example,), path, input_names=["x"], dynamic_shapes=batch, dynamo=True, verbose=False
        )
        converted = openvino.convert_model(path)
        openvino.save_model(converted, folder / "by_hand_openvino" / f"{tower}.xml", compress_to_fp16=False)


# ------------------------------------------------------------------------------------------------- one side, a process


def open_ours(side: str, folder: Path) -> tuple[Encoders, Callable[[list[str]], np.ndarray]]:
    encoder = load_dual_encoder(str(folder / (side if side in EXPORTS else "ours")))
    model = encoder.model
    if side == BEFORE:
        linear_clip_hf.mkl_is_slower = lambda: False
        model = ClipHFModel.from_pretrained(folder / "ours")
        encoder = load_dual_encoder(model, processor=encoder.processor)
    elif side not in EXPORTS:
        model.fold_batch_norm()
    encode = torch.compile(model.encode_image) if side == COMPILED else model.encode_image
    return {"images": lambda x: encode(torch.from_numpy(x)).numpy()}, lambda texts: encoder.encode_texts(texts).numpy()


def open_by_hand(side: str, folder: Path) -> Encoders:
    if side.endswith("OpenVINO"):
        import openvino

        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }

        def open_tower(tower: str) -> Callable[[np.ndarray], np.ndarray]:
            path = folder / "by_hand_openvino" / f"{tower}.xml"
            request = openvino.Core().compile_model(path, "CPU", options).create_infer_request()
            return lambda x: np.array(request.infer([x])[0])
    else:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()

        def open_tower(tower: str) -> Callable[[np.ndarray], np.ndarray]:
            path = folder / "by_hand" / f"{tower}.onnx"
            session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
            return lambda x: session.run(None, {"x": x})[0]

    return {"images": open_tower("image"), "texts": open_tower("text")}


def open_torch(side: str, folder: Path) -> Encoders:
    """OpenAI's code, open_clip or transformers."""
    if side == "transformers":
        from transformers import CLIPModel

        model = CLIPModel.from_pretrained(folder / "transformers").eval()
        # It reads the texts' ends from the ids, so they need no mask: padding is on the right.
        return {
            "images": lambda x: model.get_image_features(torch.from_numpy(x)).pooler_output.numpy(),
            "texts": lambda x: model.get_text_features(torch.from_numpy(x)).pooler_output.numpy(),
        }
    if side == "open_clip":
        model = references.load_open_clip().create_model(f"local-dir:{folder / 'open_clip'}").float().eval()
    else:
        model = load_openai(folder)
    layout = torch.channels_last if side.endswith("channels last") else torch.contiguous_format
    model.to(memory_format=layout)
    return {
        "images": lambda x: model.encode_image(torch.from_numpy(x).contiguous(memory_format=layout)).numpy(),
        "texts": lambda x: model.encode_text(torch.from_numpy(x)).numpy(),
    }


def open_side(side: str, folder: Path) -> Callable[[str], np.ndarray]:
    """A function of the name of inputs, such as `images-16` or `short`, to features that are not yet normalised."""
    ours = None
    if side.startswith("ours"):
        encoders, ours = open_ours(side, folder)
    else:
        encoders = (open_by_hand if side.startswith(BY_HAND) else open_torch)(side, folder)
    inputs = {path.stem: np.load(path) for path in folder.glob("*.npy")}

    def run(name: str) -> np.ndarray:
        if name.startswith("images"):
            return encoders["images"](inputs[name])
        if ours is not None:
            return ours(json.loads((folder / f"{name}.json").read_text()))
        parts = []
        for start in range(0, len(inputs[name]), TEXTS_PER_BATCH):
            batch = inputs[name][start : start + TEXTS_PER_BATCH]
            if side == "transformers":  # as its processor pads: to the longest
                end = batch.argmax(axis=1).max() + 1
                batch = np.ascontiguousarray(batch[:, :end])
            parts.append(encoders["texts"](batch))
        return np.concatenate(parts)

    return run


@torch.no_grad()
def serve(side: str, folder: Path) -> None:
    """Answer each line of standard input, `NAME REPEATS`, by the median of seconds; `NAME PATH.npy` by features."""
    run = open_side(side, folder)
    print("ready", flush=True)
    for line in sys.stdin:
        name, argument = line.rstrip("\n").split("\t")
        if argument.isdigit():
            seconds = []
            for _ in range(int(argument)):
                start = time.perf_counter()
                run(name)
                seconds.append(time.perf_counter() - start)
            print(f"answer {statistics.median(seconds)}", flush=True)
        else:
            features = run(name)
            np.save(argument, features / np.linalg.norm(features, axis=-1, keepdims=True))
            print("answer 0", flush=True)


class Side:
    """A side in its process."""

    def __init__(self, side: str, folder: Path, threads: int):
        command = [sys.executable, __file__, "--serve", side, "--folder", str(folder), "--threads", str(threads)]
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )

    def wait(self) -> None:
        """Return once it is ready; RuntimeError if it cannot be."""
        self._read("ready")

    def _read(self, word: str) -> str:
        for line in self.process.stdout:
            if line.startswith(word):
                return line.removeprefix(word).strip()
        self.errors.seek(0)
        raise RuntimeError(f"{self.process.args[3]}: it ended.\n{self.errors.read()[-1500:]}")

    def ask(self, name: str, argument: object) -> float:
        self.process.stdin.write(f"{name}\t{argument}\n")
        self.process.stdin.flush()
        return float(self._read("answer"))

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


# ------------------------------------------------------------------------------------------------------------- reports


def compare(architecture: str, sides: list[str], args: argparse.Namespace, folder: Path) -> None:
    sides = [side for side in sides if has_side(side, architecture)]
    print(f"\n## {architecture}")
    write_models(architecture, folder, sides)
    config = ClipHFConfig.from_architecture(architecture)
    processor = ClipHFProcessor.from_pretrained(folder / "ours")
    write_inputs(folder, config.vision_config.image_size, processor, args.short, args.long)
    running = {}
    try:
        running |= {side: Side(side, folder, args.threads) for side in sides}
        for side in sides:
            try:
                running[side].wait()
            except RuntimeError as error:
                running.pop(side).end()
                print(f"left out: {error}")
        for name in args.inputs:
            report(name, running, args, folder)
    finally:
        for each in running.values():
            each.end()


def report(name: str, running: dict[str, Side], args: argparse.Namespace, folder: Path) -> None:
    """Time all sides on inputs of this name, in rounds, and print medians, ratios and how features differ."""
    features = {}
    for side, process in running.items():
        process.ask(name, folder / "features.npy")  # warms up as well
        features[side] = np.load(folder / "features.npy")
    repeats = 3 if name == "images-1" else 1
    seconds = {side: [] for side in running}
    for _ in range(args.rounds):
        for side, process in running.items():
            seconds[side].append(process.ask(name, repeats))
    medians = {side: statistics.median(own) for side, own in seconds.items()}
    base = next(iter(features))
    bases = [side for side in ("transformers", "OpenAI's, channels last", BEFORE) if side in medians]
    ratios = " ".join(f"{'x ' + side:>25}" for side in bases)
    print(f"\n{name}, medians of {args.rounds} rounds; features against {base}'s")
    print(f"{'':34}{'a second':>10} {ratios} {'max |difference|':>18} {'min cosine':>11}")
    for side, own in medians.items():
        ratios = " ".join(f"{medians[other] / own:25.2f}" for other in bases)
        difference = np.abs(features[side] - features[base]).max()
        cosine = (features[side] * features[base]).sum(axis=-1).min()
        print(f"{side:34}{len(features[side]) / own:10.2f} {ratios} {difference:18.1e} {cosine:11.6f}")


def report_agreement(paths: list[str], sides: list[str], folder: Path, count: int | None) -> None:
    """Cosines and top-1 agreement of exports with float32 in PyTorch, on OpenMoji's drawings and their names."""
    rows = datasets.concatenate_datasets(list(load_openmoji().values()))
    names = rows.unique("caption")
    # Spread evenly, because the drawings are sorted by subject.
    calibrating = set(range(0, len(rows), len(rows) // CALIBRATING))
    images = rows.select([place for place in range(len(rows)) if place not in calibrating][:count])["image"][:]
    calibration = rows.select(sorted(calibrating))["image"][:]
    for path in paths:
        encoder = load_dual_encoder(path, device="cpu")
        expected = encoder.encode_images(images), encoder.encode_texts(names)
        best = (expected[0] @ expected[1].T).argmax(dim=1)
        print(f"\n{path}: {len(images)} images, {len(names)} names; minimum and mean cosine")
        for side in [side for side in EXPORTS if side in sides]:
            runtime, precision = EXPORTS[side]
            destination = folder / side / Path(path).parent.name
            options = {"images": calibration, "allow_loss": True} if precision == "int8" else {}
            export_model(encoder.model, destination, runtime, precision, processor=encoder.processor, **options)
            other = load_dual_encoder(destination)
            actual = other.encode_images(images), other.encode_texts(names)
            cosines = [(mine * plain).sum(dim=1) for mine, plain in zip(actual, expected, strict=True)]
            agreement = ((actual[0] @ actual[1].T).argmax(dim=1) == best).double().mean()
            figures = ", ".join(f"{own.min():.6f} {own.mean():.6f}" for own in cosines)
            print(f"{side:26} images, texts: {figures}; top-1 agreement {agreement:.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--towers", nargs="+", default=["ViT-B/32", "RN50", "ViT-L/14"], help="architectures")
    parser.add_argument("--inputs", nargs="+", default=["images-1", "images-16", "short", "long"])
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="three rounds, 200 short captions")
    parser.add_argument("--short", type=int, default=1000, help="how many short captions")
    parser.add_argument("--long", type=int, default=64, help="how many texts of 77 tokens")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--agreement", action="store_true", help="agreement of trained models instead of speed")
    parser.add_argument("--models", nargs="+", default=["outputs/demo/vit/last", "outputs/demo/resnet/last"])
    parser.add_argument("--images", type=int, help="with --agreement, how many images; by default all")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.short = 3, 200
    torch.set_num_threads(args.threads)
    if args.serve:
        serve(args.serve, args.folder)
        return
    print_machine()
    print(", ".join(f"{each} {importlib.metadata.version(each)}" for each in ("onnxruntime", "openvino", "nncf")))
    sides = runnable(args.sides)
    if args.agreement:
        with tempfile.TemporaryDirectory() as folder:
            report_agreement(args.models, sides, Path(folder), args.images)
        return
    for architecture in args.towers:
        with tempfile.TemporaryDirectory() as folder:
            compare(architecture, sides, args, Path(folder))


if __name__ == "__main__":
    main()
