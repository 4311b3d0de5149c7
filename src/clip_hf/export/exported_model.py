# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""An exported model: two towers in a runtime, behind the methods of our model."""

import os
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from ..checkpoints.dual_models import read_config
from ..model.modeling_clip_hf import ClipHFOutput
from ..model.modeling_clip_hf_base import check_pixel_values, check_tensor
from .exported_folder import TOWERS, read_record, tower_file
from .runtime_sessions import open_session
from .runtimes import RUNTIMES, check_precision, check_runtime


# Options of calls that change nothing here.
_NO_OPTIONS = {"pooled_only", "return_logits"}
# Options of `from_pretrained` for the hub, and those that say how weights are read, of which there are none.
_HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
_LOADING_OPTIONS = {
    *("config", "output_loading_info", "trust_remote_code", "code_revision", "low_cpu_mem_usage", "use_safetensors"),
    *("weights_only", "adapter_kwargs", "_from_auto", "_from_pipeline", "_commit_hash", "variant"),
}
AUTOMATIC_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Values of `device_map` that name no device."""


class ClipHFExportedConfig(PreTrainedConfig):
    """What an exported folder holds.

    Args:
        tower_format (`str`): Format of the towers, `"onnx"` or `"openvino"`.
        precision (`str`): `"float32"`, `"bfloat16"` (the runtime's products) or `"int8"`.
        projection_dim (`int`): Width of the space that images and texts share.
        image_size (`int`): Height and width of the images, in pixels.
        context_length (`int`): The longest text, in tokens.
        fixed_length (`bool`): Whether every text must have `context_length` tokens, as SigLIP's.
        has_projection (`bool`): Whether `pooled_features` are those before a projection of the image tower; without
            one they are the features before they are normalised.
        logit_scale (`float`): Logarithm of the factor of the cosines.
        logit_bias (`float`, *optional*): Term added to the scaled cosines.
        source_config (`dict`): The configuration of the model that was exported.
    """

    model_type = "clip_hf_exported"

    tower_format: str = "onnx"
    precision: str = "float32"
    projection_dim: int = 512
    image_size: int = 224
    context_length: int = 77
    fixed_length: bool = False
    has_projection: bool = True
    logit_scale: float | int = 0.0
    logit_bias: float | int | None = None
    source_config: dict | None = None


class ClipHFExportedModel(PreTrainedModel):
    """A CLIP whose towers run in ONNX Runtime or OpenVINO, on the processor.

    Unlike a [`ClipHFModel`]:

    - it has no weights but `logit_scale` and `logit_bias`, runs on the CPU only, takes and gives float32;
    - it cannot be trained or saved: copy the folder;
    - images must have the size that the model was made for;
    - features come from whichever [`from_pretrained`] opened; `record` is the content of its `export.json`.
    """

    config_class = ClipHFExportedConfig
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    # Texts are padded to the longest of their batch, and every token of padding costs as much as a word does, because
    # exported towers do not pack texts: 1,000 captions of 6 to 30 tokens take ViT-B/32's text tower in OpenVINO 5.0 s
    # a core in batches of 1,024 tokens, 7.7 s in batches of 16,384. Lengths are not rounded up: OpenVINO prepares each
    # new shape, but that costs less than padding to multiples of 8 (6.1 s).
    max_tokens_per_batch = 1024

    def __init__(self, config: ClipHFExportedConfig, folder: str | os.PathLike | None = None, **options):
        super().__init__(config)
        if folder is None:
            raise TypeError(
                "An exported model is opened from its folder: ClipHFExportedModel.from_pretrained(folder)."
            )
        self.folder, self.runtime = Path(folder), options.pop("runtime", None) or config.tower_format
        self.precision = options.pop("precision", None) or config.precision
        self.record = read_record(self.folder)
        self._source_text = _source_text(config)
        self.logit_scale = _parameter(config.logit_scale)
        self.logit_bias = None if config.logit_bias is None else _parameter(config.logit_bias)
        self._image, self._text = (
            open_session(self.folder / tower_file(tower, config.tower_format), self.runtime, self.precision)
            for tower in TOWERS
        )
        super().train(False)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        runtime: str | None = None,
        dtype: torch.dtype | str | None = None,
        **kwargs: Any,
    ) -> "ClipHFExportedModel":
        """Open an exported folder.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): The folder, or its name on the hub.
            runtime (`str`, *optional*): What runs it: `"onnx"` or `"openvino"`, which runs ONNX towers, too. By
                default that for which it was made.
            dtype (`torch.dtype` or `str`, *optional*): `bfloat16` or `float32`: the precision of OpenVINO's products
                in towers of one of these; by default that of the export.
            **kwargs: Of transformers' other options `subfolder`, those of the hub (`revision`, `token`, `cache_dir`,
                `local_files_only`, `force_download`), `config`, and `torch_dtype`, another name of `dtype`.
                `device_map` may name the processor, or be `"auto"`.

        Raises:
            ValueError: if the folder is no whole export, or there is no such runtime or precision here; if another
                device is asked for, or `quantization_config`.
            TypeError: if there is no such option.
            OSError: if there is no such folder or repo.
            MissingExtra: if the runtime is not installed.
        """
        name, subfolder = os.fspath(pretrained_model_name_or_path), kwargs.pop("subfolder", None) or ""
        torch_dtype = kwargs.pop("torch_dtype", None)
        dtype = torch_dtype if dtype is None else dtype
        _check_loading(kwargs)
        folder = name
        if not os.path.isdir(name):
            hub = {key: kwargs[key] for key in _HUB_OPTIONS if kwargs.get(key)}
            folder = snapshot_download(name, allow_patterns=f"{subfolder}/*" if subfolder else None, **hub)
        folder = os.path.join(folder, subfolder) if subfolder else folder
        config = kwargs.get("config")
        if not isinstance(config, ClipHFExportedConfig):
            config = ClipHFExportedConfig.from_dict(read_config(folder))
        if config.tower_format not in RUNTIMES:
            raise ValueError(
                f"`tower_format` in the config.json of {name} is {config.tower_format!r:.80}; it must be "
                f"{' or '.join(map(repr, RUNTIMES))}. Copy the whole folder again, or export the model again."
            )
        runtime = runtime or config.tower_format
        check_runtime(runtime)
        if config.tower_format not in RUNTIMES[runtime].formats:
            made_for = RUNTIMES[config.tower_format].title
            raise ValueError(
                f"{name} was exported for {made_for}, and {RUNTIMES[runtime].title} cannot read that. Leave out "
                f'`runtime`, or export the model with runtime="{runtime}".'
            )
        precision = _precision(config, dtype)
        check_precision(runtime, precision, "precision" if dtype is None else "dtype")
        model = cls(config, folder, runtime=runtime, precision=precision)
        model.name_or_path = config.name_or_path = name
        return (model, {"missing_keys": []}) if kwargs.get("output_loading_info") else model

    def __reduce__(self):
        # Sessions cannot be pickled; another process opens the folder anew.
        return _reopen, (str(self.folder), self.runtime, self.precision, self.name_or_path)

    def _apply(self, fn, recurse: bool = True):
        try:
            moved = fn(self.logit_scale.detach())
            asked = f"{moved.dtype} on {moved.device}"
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # PyTorch's, if there is no such device
            moved, asked = None, f"another device, which failed ({str(error).splitlines()[0]})"
        if moved is None or moved.device.type != "cpu" or moved.dtype != torch.float32:
            raise ValueError(
                f"Exported models run on the processor only, and give float32; asked for was {asked}. Load the model "
                "that was exported for that."
            )
        return self

    def train(self, mode: bool = True):
        """
        Raises:
            ValueError: if `mode` is True.
        """
        if mode and hasattr(self, "_text"):
            raise ValueError("An exported model cannot be trained: train the model, and export it again.")
        return super().train(False)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> NoReturn:
        """
        Raises:
            ValueError: always.
        """
        raise ValueError(f"An exported model is saved by copying its folder, {self.folder}.")

    def pooled_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Features before the image tower's projection, if it has one (batch, dim), not normalised."""
        return self._run_images(pixel_values, "pooled_features")

    def encode_image(self, pixel_values: torch.Tensor, **kwargs) -> torch.Tensor:
        """L2-normalised image embeddings (batch, projection_dim) of `pixel_values` (batch, 3, height, width)."""
        _check_ignored(kwargs)
        return self._run_images(pixel_values, "image_embeds")

    def encode_text(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> torch.Tensor:
        """L2-normalised text embeddings (batch, projection_dim) of `input_ids` (batch, length), padded on the right.

        Raises:
            ValueError: if `input_ids` are not integers of shape (batch, length), or beyond the vocabulary; if the
                texts are too long, or `attention_mask` hides more than padding on the right, which changes nothing;
                if a text of a CLIP has no end-of-text token, or its mask hides that.
            TypeError: if they are no tensors.
        """
        _check_ignored(kwargs)
        self._check_ids(input_ids)
        length, longest = input_ids.shape[-1], self.config.context_length
        if length > longest or (self.config.fixed_length and length != longest):
            exactly = "exactly" if self.config.fixed_length else "at most"
            raise ValueError(f"The texts have {length} tokens; this model takes {exactly} {longest}.")
        self._check_texts(input_ids, attention_mask)
        ids = input_ids.detach().to("cpu", torch.int64).contiguous().numpy()
        return torch.from_numpy(self._text("text_embeds", {"input_ids": ids}))

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """As [`ClipHFModel.get_image_features`], but `pooler_output` is normalised."""
        return BaseModelOutputWithPooling(pooler_output=self.encode_image(pixel_values, **kwargs))

    @can_return_tuple
    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """As [`ClipHFModel.get_text_features`], but `pooler_output` is normalised."""
        return BaseModelOutputWithPooling(
            pooler_output=self.encode_text(input_ids, attention_mask=attention_mask, **kwargs)
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> ClipHFOutput:
        """Embed texts and images and compare each with each, as [`ClipHFModel`] does; there is no loss."""
        _check_ignored(kwargs)
        images = None if pixel_values is None else self.encode_image(pixel_values)
        texts = None if input_ids is None else self.encode_text(input_ids, attention_mask)
        if images is None and texts is None:
            raise ValueError("Both `input_ids` and `pixel_values` are missing; give texts, images, or both.")
        logits = None
        if images is not None and texts is not None:
            with torch.autocast("cpu", enabled=False):
                logits = images @ texts.T * self.logit_scale.exp()
                logits = logits if self.logit_bias is None else logits + self.logit_bias
        return ClipHFOutput(
            logits_per_image=logits,
            logits_per_text=None if logits is None else logits.T,
            text_embeds=texts,
            image_embeds=images,
        )

    def _check_ids(self, input_ids: torch.Tensor) -> None:
        check_tensor("input_ids", input_ids, "the tokenizer: tokenizer(texts, return_tensors='pt')")
        if input_ids.ndim != 2 or input_ids.dtype not in (torch.int32, torch.int64) or input_ids.shape[1] == 0:
            raise ValueError(
                f"`input_ids` has the shape {tuple(input_ids.shape)} and dtype {input_ids.dtype}; it must be (batch, "
                "length) of integers (int64 or int32), at least one a text, as the tokenizer makes it with "
                "return_tensors='pt'."
            )
        if not input_ids.numel():
            return
        low, high = input_ids.aminmax()
        vocab_size = self._source_text["vocab_size"]
        if low < 0 or high >= vocab_size:
            raise ValueError(
                f"`input_ids` has ids from {low} to {high}; the model's vocabulary has {vocab_size} ids, from 0. Use "
                "the tokenizer that was saved with the model."
            )

    def _check_texts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
        """Refuse what would give features of something else: towers that are exported cannot look at values."""
        seen = torch.ones_like(input_ids, dtype=torch.bool)
        if attention_mask is not None:
            check_tensor("attention_mask", attention_mask, "the tokenizer: tokenizer(texts, return_tensors='pt')")
            if attention_mask.shape != input_ids.shape:
                raise ValueError(
                    f"`attention_mask` has the shape {tuple(attention_mask.shape)}; it must have that of `input_ids`, "
                    f"{tuple(input_ids.shape)}."
                )
            seen = attention_mask.bool().to(input_ids.device)
        if self.config.fixed_length and not bool(seen.all()):
            raise ValueError(
                "`attention_mask` hides padding, which this model's features depend on: leave it out, as the "
                "tokenizers of SigLIP do."
            )
        if bool((seen[:, 1:] > seen[:, :-1]).any()):
            raise ValueError(
                "The texts are padded on the left; an exported model takes padding on the right: set "
                '`tokenizer.padding_side = "right"`.'
            )
        if not bool(seen.any(dim=-1).all()):
            raise ValueError("`attention_mask` is 0 everywhere in a text; it must be 1 at the text's tokens.")
        if not self.config.fixed_length:
            self._check_ends(input_ids, seen)

    def _check_ends(self, input_ids: torch.Tensor, seen: torch.Tensor) -> None:
        """Refuse texts whose features the model takes at another token than a tower, which gets no mask."""
        text_config, model_type = self._source_text, self.config.source_config["model_type"]
        end = text_config.get("eos_token_id")
        if (model_type, end) == ("clip", 2):  # transformers' first configurations of CLIP: the largest id is the end
            is_end = input_ids == input_ids.amax(dim=-1, keepdim=True)
        else:
            is_end = input_ids == end
        first_end = is_end.int().argmax(dim=-1, keepdim=True)  # (batch, 1)
        is_seen = is_end.any(dim=-1) & seen.gather(1, first_end)[:, 0]
        if text_config.get("allow_missing_eos"):
            is_seen |= seen.all(dim=-1)  # the last token is then the end
        without = (~is_seen).nonzero().flatten().tolist()
        if without:
            raise ValueError(
                f"The texts {without[:8]} of the batch have no end-of-text token (id {end}), at which CLIP takes a "
                "text's features, or `attention_mask` hides it. Tokenize with the tokenizer that was saved with the "
                "model."
            )

    def _run_images(self, pixel_values: torch.Tensor, output: str) -> torch.Tensor:
        size = self.config.image_size
        check_pixel_values(pixel_values, 3)
        if tuple(pixel_values.shape[1:]) != (3, size, size):
            raise ValueError(
                f"`pixel_values` have the shape {tuple(pixel_values.shape)}; this model takes (batch, 3, {size}, "
                f"{size})."
            )
        pixels: np.ndarray = pixel_values.detach().to("cpu", torch.float32).contiguous().numpy()
        return torch.from_numpy(self._image(output, {"pixel_values": pixels}))


def check_device(device: torch.device | str | int | None) -> None:
    """ValueError if an exported model cannot run on a device, which may be the number of an accelerator."""
    is_processor = device < 0 if isinstance(device, int) else str(device).partition(":")[0] == "cpu"
    if device is not None and not is_processor:
        raise ValueError(
            f"Exported models run on the processor only; `device` is {str(device)!r}. Leave it out, or run the model "
            "that was exported in PyTorch."
        )


def _parameter(value: float) -> nn.Parameter:
    # Here and in float32, whatever PyTorch's defaults are.
    return nn.Parameter(torch.tensor(float(value), dtype=torch.float32, device="cpu"), requires_grad=False)


def _check_loading(options: dict[str, Any]) -> None:
    """Refuse the options of `from_pretrained` that ask for something that an exported model does not do."""
    options = {name: value for name, value in options.items() if value is not None and value is not False}
    if "quantization_config" in options or options.get("load_in_8bit") or options.get("load_in_4bit"):
        raise ValueError(
            'An exported model is not quantised as it is loaded: export it with precision="int8" (`clip-hf export '
            "--precision int8`)."
        )
    device_map = options.pop("device_map", None)
    for device in device_map.values() if isinstance(device_map, dict) else [device_map]:
        check_device(None if device in AUTOMATIC_MAPS else device)
    unknown = [name for name in options if name not in (*_LOADING_OPTIONS, *_HUB_OPTIONS)]
    if unknown:
        raise TypeError(
            f"An exported model has no option {unknown[0]!r}; it is opened with `runtime` and `dtype`, and where it "
            f"is: subfolder, {', '.join(_HUB_OPTIONS)}."
        )


def _reopen(folder: str, runtime: str, precision: str, name: str) -> ClipHFExportedModel:
    model = ClipHFExportedModel.from_pretrained(
        folder, runtime=runtime, dtype=None if precision == "int8" else precision
    )
    model.name_or_path = model.config.name_or_path = name
    return model


def _source_text(config: ClipHFExportedConfig) -> dict[str, Any]:
    """Configuration of the text tower that was exported; ValueError if the folder's configuration lacks it."""
    source = config.source_config if isinstance(config.source_config, dict) else {}
    text_config = source.get("text_config")
    if "model_type" not in source or not isinstance(text_config, dict) or "vocab_size" not in text_config:
        raise ValueError(
            "The export's config.json has no whole `source_config`, the configuration of the model that was exported, "
            "with `text_config` and its `vocab_size`. Copy the whole folder again, or export the model again."
        )
    return text_config


def _check_ignored(options: dict[str, Any]) -> None:
    """TypeError if an option that an exported model cannot follow asks for something."""
    asked = [
        name for name, value in options.items() if name not in _NO_OPTIONS and value is not None and value is not False
    ]
    if asked:
        raise TypeError(
            f"An exported model has no option {asked[0]!r}; its towers take `pixel_values` and `input_ids` only. Use "
            "the model that was exported."
        )


def _precision(config: ClipHFExportedConfig, dtype: torch.dtype | str | None) -> str:
    """The precision to run with: that of the export, or the one that `dtype` asks for."""
    wanted = None if dtype is None else str(dtype).removeprefix("torch.")
    if wanted in (None, "auto", config.precision):
        return config.precision
    if config.precision == "int8" or wanted not in ("float32", "bfloat16"):
        raise ValueError(
            f"`dtype` is {wanted}, but the towers are {config.precision}: int8 towers run as they are, others in "
            "float32 or bfloat16."
        )
    return wanted
