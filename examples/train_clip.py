# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Train a CLIP on captioned images, from scratch or from a pretrained one.

    python examples/train_clip.py examples/recipes/openmoji_resnet.json --output_dir outputs/resnet
    torchrun --nproc_per_node 2 examples/train_clip.py examples/recipes/openmoji_vit.json --output_dir outputs/vit

A recipe is a JSON file of options; options on the command line overrule it. The data are OpenMoji's drawings, or any
data set with a column of images and one of captions. With several processes, each takes `batch_size` pairs a step, the
negatives come from all of them, and the update is that of one process with the whole batch. (But for BatchNorm in a
ResNet: each process normalises with its own pairs, and the first one's statistics are saved.)
"""

import copy
import itertools
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import datasets
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import HfArgumentParser, get_cosine_schedule_with_warmup

from clip_hf import (
    ARCHITECTURES,
    ClipHFConfig,
    ClipHFImageProcessor,
    ClipHFModel,
    ClipHFProcessor,
    ClipHFTokenizer,
    build_text_classifier,
    contrastive_loss,
)
from clip_hf.data import (
    OPENMOJI_TEMPLATES,
    ImageTextCollator,
    ImageTextDataset,
    load_openmoji,
    read_captions,
    replaced_folder,
)
from clip_hf.training import adamw_from_paper, clamp_logit_scale_


LOG = "training_log.json"


def option(default, text: str):
    """A field of [`Options`]: its default and its help."""
    return field(default=default, metadata={"help": text})


@dataclass
class Options:
    """What can be set, on the command line or in a recipe."""

    output_dir: str = option("outputs/clip", "Folder for the trained model, its processor and the training's log.")
    overwrite: bool = option(False, "Replace what is in output_dir.")
    dataset: str = option("openmoji", "`openmoji`, a folder of `save_to_disk`, a folder of images, or a hub name.")
    image_column: str = option("image", "Column of the images.")
    caption_column: str = option("caption", "Column of the captions; of a list of captions one is drawn.")
    templates: list[str] = field(
        default_factory=list,
        metadata={"help": "Texts around a caption (`{}`), of which one is drawn each time."},
    )
    cache_images: bool = option(False, "Keep the resized images in memory.")
    num_workers: int = option(0, "Processes that load images for each training process.")
    model: str | None = option(None, "Folder or hub name of a model to start from. Without it: from scratch.")
    config: str = option("ViT-B/32", "From scratch: a published architecture, or a JSON file for ClipHFConfig.")
    tokenizer: str | None = option(None, "From scratch: a tokenizer's folder or hub name. Without it one is trained.")
    vocab_size: int = option(4096, "From scratch: size of the vocabulary to train.")
    resize_to: int | None = option(None, "From scratch: an image's shorter side before the crop, in pixels.")
    epochs: int = option(32, "Passes over the data.")
    max_steps: int | None = option(None, "Number of steps, instead of epochs.")
    batch_size: int = option(128, "Pairs in a step of each process.")
    learning_rate: float = option(5e-4, "Highest learning rate.")
    weight_decay: float = option(0.2, "Weight decay of weights that are not gains or biases.")
    warmup_share: float = option(0.1, "Share of the steps in which the learning rate rises; a cosine to 0 follows.")
    eval_every: int = option(10, "Epochs between evaluations on the test split; the end is always evaluated.")
    mixed_precision: str = option("no", "`no`, `fp16` or `bf16`; `no` on a CPU.")
    cpu: bool = option(False, "Train on the CPU even if there is a GPU.")
    seed: int = option(0, "Seed of weights, order, crops and captions.")

    def __post_init__(self):
        for name in ("epochs", "batch_size", "learning_rate", "eval_every"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must be greater than 0.")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"`max_steps` is {self.max_steps}; it must be at least 1, or left out.")
        if not 0.0 <= self.warmup_share < 1.0:
            raise ValueError(f"`warmup_share` is {self.warmup_share}; it must be at least 0 and less than 1.")
        output_dir = Path(self.output_dir)
        if output_dir.exists() and (output_dir.is_file() or any(output_dir.iterdir())):
            if not self.overwrite:
                raise ValueError(f"`output_dir` {self.output_dir} is not empty; choose another, or pass --overwrite.")
            if not (output_dir / LOG).exists():
                raise ValueError(f"`output_dir` {self.output_dir} holds no training to overwrite; choose another.")


def parse_options(arguments: Sequence[str]) -> Options:
    """Options from a command line, which may start with a recipe."""
    parser = HfArgumentParser(Options, description=__doc__.strip().splitlines()[0])
    if arguments and arguments[0].endswith(".json"):
        path, arguments = Path(arguments[0]), arguments[1:]
        recipe = json.loads(path.read_text(encoding="utf-8"))
        unknown = sorted(set(recipe) - {known.name for known in fields(Options)})
        if unknown:
            raise ValueError(f"{path} has options that there are not: {', '.join(unknown)}.")
        parser.set_defaults(**recipe)
    return parser.parse_args_into_dataclasses(arguments)[0]


def load_data(options: Options) -> datasets.DatasetDict:
    """A `train` split, and perhaps a `test` split to evaluate on."""
    folder = Path(options.dataset)
    if options.dataset == "openmoji":
        return load_openmoji()
    if any((folder / name).exists() for name in ("dataset_dict.json", "state.json")):
        try:
            data = datasets.load_from_disk(str(folder))
        except IndexError as error:  # what `datasets` makes of a folder without rows
            raise ValueError(f"The data set {folder} is empty.") from error
    elif folder.is_dir():
        data = datasets.load_dataset("imagefolder", data_dir=str(folder))
    else:
        data = datasets.load_dataset(options.dataset)
    data = datasets.DatasetDict(train=data) if isinstance(data, datasets.Dataset) else data
    if "train" not in data:
        raise ValueError(f"The data set {options.dataset} has no split `train`; it has {', '.join(data)}.")
    return data


def build_model(options: Options, texts: Iterable[str]) -> tuple[ClipHFModel, ClipHFProcessor]:
    """The model to train and its processor: pretrained ones, or new ones with a vocabulary learned from `texts`."""
    if options.model:
        return ClipHFModel.from_pretrained(options.model), ClipHFProcessor.from_pretrained(options.model)
    config = options.config
    if isinstance(config, str):  # a recipe may hold the arguments themselves
        config = ARCHITECTURES.get(config) or json.loads(Path(config).read_text(encoding="utf-8"))
    config = copy.deepcopy(config)
    if options.tokenizer:
        tokenizer = ClipHFTokenizer.from_pretrained(options.tokenizer)
    else:
        context_length = config["text_config"].get("max_position_embeddings", 77)
        tokenizer = ClipHFTokenizer.train(texts, options.vocab_size, context_length)
    config["text_config"]["vocab_size"] = len(tokenizer)
    model = ClipHFModel(ClipHFConfig(**config))
    size = model.config.vision_config.image_size
    image_processor = ClipHFImageProcessor(
        size={"shortest_edge": options.resize_to or size}, crop_size={"height": size, "width": size}
    )
    return model, ClipHFProcessor(image_processor, tokenizer)


def build_loader(
    options: Options, dataset: datasets.Dataset, processor: ClipHFProcessor, templates: list[str]
) -> DataLoader:
    """Shuffled batches of pairs."""
    pairs = ImageTextDataset(
        dataset,
        processor.image_processor,
        image_column=options.image_column,
        caption_column=options.caption_column,
        templates=templates,
        seed=options.seed,
        cache_images=options.cache_images,
    )
    return DataLoader(
        pairs,
        batch_size=options.batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=ImageTextCollator(processor),
        num_workers=options.num_workers,
    )


@torch.no_grad()
def zero_shot_accuracy(
    model: ClipHFModel, processor: ClipHFProcessor, data: datasets.DatasetDict, options: Options, templates: list[str]
) -> dict[str, float]:
    """Percentage of test images whose name comes first among the names of all images (top-1), or in the first five."""
    train_names, test_names = (
        [captions[0] for captions in read_captions(data[split], options.caption_column)] for split in ("train", "test")
    )
    places = {name: place for place, name in enumerate(sorted({*train_names, *test_names}))}
    classifier = build_text_classifier(model, processor, list(places), templates)  # (names, dim)
    was_training, ranks = model.training, []
    model.eval()
    for start in range(0, len(test_names), 128):
        rows = slice(start, start + 128)
        images = processor(images=data["test"][rows][options.image_column], return_tensors="pt").to(model.device)
        cosines = model.encode_image(images["pixel_values"]) @ classifier.T  # (batch, names)
        right = torch.tensor([places[name] for name in test_names[rows]], device=model.device)
        ranks.append((cosines > cosines.gather(1, right[:, None])).sum(dim=1))
    model.train(was_training)
    return {f"top{k}": 100.0 * (torch.cat(ranks) < k).float().mean().item() for k in (1, 5)}


def save(options: Options, model: ClipHFModel, processor: ClipHFProcessor, log: list[dict]) -> None:
    """Put model, processor and log into the output folder: all of them or, if this stops half-way, nothing."""
    with replaced_folder(options.output_dir) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        record = {"options": asdict(options), "log": log}
        (folder / LOG).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def train_step(accelerator: Accelerator, model: torch.nn.Module, optimizer, batch: dict) -> torch.Tensor:
    """One update; returns the loss of the whole batch, that of all processes."""
    text_ids = batch.pop("text_ids")
    clip = accelerator.unwrap_model(model)
    # Through the wrapper, whose forward and backward keep the processes in step.
    output = model(**batch)
    loss = contrastive_loss(
        output.image_embeds, output.text_embeds, clip.logit_scale.exp(), gather=True, text_ids=text_ids
    )
    optimizer.zero_grad()
    accelerator.backward(loss)  # averages the gradients: that of the mean of the processes' losses
    optimizer.step()
    clamp_logit_scale_(clip)
    return accelerator.reduce(loss.detach(), "mean")


def train(options: Options, bar_position: int = 0) -> list[dict]:
    """Train, evaluate and save; returns the log, an entry for each step and each evaluation.

    `bar_position` is the line of the progress bar, for trainings side by side.
    """
    # Accelerate's own sampler gives an epoch one order, whatever the number of processes.
    sampling = DataLoaderConfiguration(use_seedable_sampler=True, data_seed=options.seed)
    # Unless told that there is only a CPU, Accelerate would let several processes train without each other.
    cpu = options.cpu or not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision=options.mixed_precision, dataloader_config=sampling)
    set_seed(options.seed)
    data = load_data(options)
    templates = options.templates or (list(OPENMOJI_TEMPLATES) if options.dataset == "openmoji" else ["{}"])
    captions = itertools.chain.from_iterable(read_captions(data["train"], options.caption_column))
    model, processor = build_model(options, (t.replace("{}", caption) for caption in captions for t in templates))
    # Convolutions on a CPU are a tenth faster with the channels last.
    model.train().to(memory_format=torch.channels_last)
    loader = build_loader(options, data["train"], processor, templates)
    pairs = loader.dataset
    optimizer = adamw_from_paper(model, options.learning_rate, options.weight_decay)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    if len(loader) == 0:
        needed = f"{accelerator.num_processes} x {options.batch_size}"
        raise ValueError(f"{len(pairs)} pairs do not fill a step of {needed}; choose a smaller `batch_size`.")
    steps = options.max_steps or options.epochs * len(loader)
    # Not prepared by Accelerate, which would step it once for each process.
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(options.warmup_share * steps), steps)
    log, step = [], 0
    name, quiet = Path(options.output_dir).name, not accelerator.is_main_process
    progress = tqdm(total=steps, unit="step", desc=name, position=bar_position, disable=quiet)
    for epoch in range(math.ceil(steps / len(loader))):
        pairs.set_epoch(epoch)
        started = time.perf_counter()
        for batch in itertools.islice(loader, steps - step):
            entry = {"step": step, "learning_rate": schedule.get_last_lr()[0]}
            entry["loss"] = train_step(accelerator, wrapped, optimizer, batch).item()
            if not math.isfinite(entry["loss"]):
                raise FloatingPointError(f"Step {step} has the loss {entry['loss']}; lower `learning_rate`.")
            schedule.step()
            step, now = step + 1, time.perf_counter()
            entry["temperature"] = math.exp(-model.logit_scale.item())
            entry["pairs_per_second"] = accelerator.num_processes * options.batch_size / (now - started)
            started = now
            log.append(entry)
            progress.set_postfix({name: f"{value:.3g}" for name, value in entry.items() if name != "step"})
            progress.update()
        if accelerator.is_main_process and "test" in data and (step == steps or (epoch + 1) % options.eval_every == 0):
            accuracy = zero_shot_accuracy(model, processor, data, options, templates[:1])
            log.append({"step": step, "epoch": epoch + 1, **accuracy})
            progress.write(f"{name}, epoch {epoch + 1}: top-1 {accuracy['top1']:.1f}%, top-5 {accuracy['top5']:.1f}%")
    progress.close()
    if accelerator.is_main_process:
        save(options, model, processor, log)
        print(f"Saved the model, its processor and the log of the training in {options.output_dir}")
    accelerator.wait_for_everyone()
    return log


if __name__ == "__main__":
    train(parse_options(sys.argv[1:]))
    PartialState().destroy_process_group()
