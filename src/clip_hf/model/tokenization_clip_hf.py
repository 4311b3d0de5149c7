# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The tokenizer: OpenAI's token ids, exactly, behind the interface of transformers' tokenizers.

Words are encoded one by one in Python (`bpe_clip_hf.WordEncoder`), which is exact and fast. The other outputs of
transformers' tokenizers (offsets, word ids, pairs, overflowing tokens) need `tokenizers.Encoding` objects. A copy of
the backend with Python's rules makes them on demand. The saved `tokenizer.json` holds the closest rules of
`tokenizers` itself.
"""

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Encoding, processors
from tokenizers.models import BPE
from transformers.tokenization_utils_base import LARGE_INTEGER, BatchEncoding, TruncationStrategy
from transformers.tokenization_utils_tokenizers import TokenizersBackend
from transformers.utils import PaddingStrategy, logging

from .bpe_clip_hf import (
    BOS_TOKEN,
    EOS_TOKEN,
    NUM_BASE_TOKENS,
    WordEncoder,
    build_backend,
    build_vocabulary,
    clean_like_openai,
    learn_merges,
    normalize_nfc,
    read_merges,
)
from .checks_clip_hf import type_of
from .configuration_clip_hf import ClearFileErrors


logger = logging.get_logger(__name__)

VOCAB_FILES_NAMES = {"vocab_file": "vocab.json", "merges_file": "merges.txt", "tokenizer_file": "tokenizer.json"}
# Options that need `Encoding` objects.
_ENCODING_OPTIONS = (
    "is_split_into_words",
    "return_length",
    "return_offsets_mapping",
    "return_overflowing_tokens",
    "return_special_tokens_mask",
    "return_token_type_ids",
    "sanitize_control_tokens",
    "stride",
)
# Ignored in tokenizer.json and tokenizer_config.json: both special tokens are always added, and each call decides on
# truncation and padding.
_IGNORED_ENTRIES = (
    "post_processor",
    "tokenizer_padding",
    "tokenizer_truncation",
    "add_bos_token",
    "add_eos_token",
    "_json_truncation",
    "_json_padding",
)


@dataclass(frozen=True)
class _LengthRule:
    """Limit on the tokens of a text, and whether to raise or to warn if a text has more."""

    limit: int | None
    strict: bool
    warn: bool


class _LazyBatchEncoding(BatchEncoding):
    """A `BatchEncoding` whose `encodings` are made at their first use, because most users never need them."""

    make_encodings: Callable[[], list[Encoding]] | None = None

    @property
    def _encodings(self) -> list[Encoding] | None:
        if self.__dict__.get("_made") is None and self.make_encodings is not None:
            self.__dict__["_made"] = self.make_encodings()
        return self.__dict__.get("_made")

    @_encodings.setter
    def _encodings(self, encodings: list[Encoding] | None) -> None:
        self.__dict__["_made"] = encodings

    @property
    def is_fast(self) -> bool:
        """Whether offsets, word ids and the like are available."""
        return self.make_encodings is not None or self._encodings is not None


# -------------------------------------------------------------------------------------------------------- input checks


def _check_text(text: Any, name: str, is_split_into_words: bool) -> None:
    if isinstance(text, str):
        if is_split_into_words:
            raise TypeError(f"With is_split_into_words=True, `{name}` must be a list of words; given {text[:60]!r}.")
        return
    if not isinstance(text, (list, tuple)):
        raise TypeError(f"`{name}` must be a string or a list of strings; given {type_of(text)}, {text!r:.60}.")
    if not text and not is_split_into_words:
        raise ValueError(f"`{name}` is an empty list: pass at least one string (the empty string is allowed).")
    nested = is_split_into_words and any(isinstance(item, (list, tuple)) for item in text)
    for index, item in enumerate(text):
        if nested:
            if not isinstance(item, (list, tuple)):
                raise TypeError(f"`{name}[{index}]` must be a list of words like the others; given {item!r:.60}.")
            # A pair of word lists holds lists; everything else holds words.
            for part in item if all(isinstance(part, (list, tuple)) for part in item) else [item]:
                _check_strings(part, f"{name}[{index}]")
        elif isinstance(item, (list, tuple)):
            if len(item) != 2:
                raise ValueError(
                    f"`{name}[{index}]` is a list of {len(item)}, but a list or tuple inside a list must be a pair of "
                    "texts. Flatten the list, or pass is_split_into_words=True for texts that are split into words."
                )
            _check_strings(item, f"{name}[{index}]")
        elif not isinstance(item, str):
            _check_strings(text, name)


def _check_strings(items: Iterable, name: str) -> None:
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise TypeError(f"`{name}[{index}]` must be a string; given {type_of(item)}, {item!r:.60}.")


def _to_tensor(rows: list[list[int]], tensor_type: str) -> Any:
    if tensor_type not in ("pt", "np"):
        return rows
    array = np.array(rows, dtype=np.int64)
    return torch.from_numpy(array) if tensor_type == "pt" else array


def _build_special_token(token: str | AddedToken) -> AddedToken:
    """Make a special token; CLIP's two match only their exact form, even if a repository says otherwise."""
    if isinstance(token, AddedToken) and token.content not in (BOS_TOKEN, EOS_TOKEN):
        return token
    return AddedToken(str(token), lstrip=False, rstrip=False, normalized=False, special=True)


# ----------------------------------------------------------------------------------------------------------- tokenizer


class ClipHFTokenizer(ClearFileErrors, TokenizersBackend):
    """Byte-pair tokenizer that gives the token ids of OpenAI's CLIP exactly.

    How it differs from transformers' `CLIPTokenizer`:

    - Text is cleaned as OpenAI's code does (ftfy, HTML entities); `clean_text=False` switches that off.
    - Lower case, white space and the split into words follow Python and `regex`, as in OpenAI's code, for all Unicode.
    - Without a `truncation` argument, texts longer than `model_max_length` (or `max_length`) are cut but keep their
      end-of-text token, with one warning per tokenizer; `truncation=False` keeps everything, `strict=True` raises.
    - A call raises `TypeError` for a text that is not a string, and `ValueError` for an empty or wrongly nested list
      and for a `max_length` that leaves no room for text.
    - It is several times faster on captions; see `benchmarks/bench_tokenizer.py`.
    - It is made from OpenAI's merges file ([`~ClipHFTokenizer.from_bpe_file`]), from texts
      ([`~ClipHFTokenizer.train`]) or from any CLIP repository of the hub (`from_pretrained`).

    Special tokens written out in a text (`<|endoftext|>`, in exactly this form, after clean-up) follow transformers'
    rule: they become the special token unless `split_special_tokens=True`.

    Offsets (`return_offsets_mapping`, `char_to_token`, ...) index `tokenizer.clean(text)`. With
    `is_split_into_words=True` each word is cleaned and encoded separately, and offsets start again at each word.

    Texts are padded with the end-of-text token, as in the hub's repositories; OpenAI pads with 0. Features are the
    same, because attention is causal and features are read at the first end-of-text token. `attention_mask` is 1 from
    the begin-of-text token to the first end-of-text token and 0 on padding.

    Args:
        vocab (`str` or `dict[str, int]`): token to id, or the path of a `vocab.json`.
        merges (`str` or `list`): merges in order, as pairs, or the path of a `merges.txt`.
        unk_token (`str`): token for bytes that the vocabulary lacks; OpenAI's and trained ones have all bytes.
        bos_token (`str`): begin-of-text token, put before every text.
        eos_token (`str`): end-of-text token, put after every text; features are read there.
        pad_token (`str`): token that fills shorter texts of a batch.
        clean_text (`bool`): whether to repair text with ftfy and to resolve HTML entities; if not, text is only
            brought into normal form C.
        strict (`bool`): whether to raise an error instead of cutting a text.
        kwargs: further arguments of transformers' tokenizers, such as `model_max_length` (default 77).

    Raises:
        ValueError: if the vocabulary or the merges are missing, or their file cannot be read.

    ```python
    >>> tokenizer = ClipHFTokenizer.from_bpe_file("bpe_simple_vocab_16e6.txt.gz")
    >>> tokenizer(["a photo of a cat", "a dog"], padding=True)["input_ids"]
    [[49406, 320, 1125, 539, 320, 2368, 49407], [49406, 320, 1929, 49407, 49407, 49407, 49407]]
    ```
    """

    vocab_files_names = VOCAB_FILES_NAMES
    model_input_names = ["input_ids", "attention_mask"]
    model = BPE
    # Made on demand. Not in `__dict__`, so that copies, pickles and the fingerprints of `datasets` leave it out.
    __slots__ = ("_word_encoder",)

    def __new__(cls, *args, **kwargs):
        (self := super().__new__(cls))._word_encoder = None
        return self

    def __init__(
        self,
        vocab: str | dict[str, int] | None = None,
        merges: str | list | None = None,
        unk_token: str = EOS_TOKEN,
        bos_token: str = BOS_TOKEN,
        eos_token: str = EOS_TOKEN,
        pad_token: str = EOS_TOKEN,
        clean_text: bool = True,
        strict: bool = False,
        **kwargs,
    ):
        if bos_token is None or eos_token is None:
            raise ValueError("bos_token and eos_token cannot be None, because CLIP puts every text between the two.")
        vocab, merges = self._resolve_vocabulary(vocab, merges, kwargs)
        for name in _IGNORED_ENTRIES:
            kwargs.pop(name, None)
        self._tokenizer = build_backend(vocab, merges, str(unk_token))
        names = {"unk_token": unk_token, "bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token}
        special_tokens = {name: _build_special_token(token) for name, token in names.items() if token is not None}
        by_content = {str(token): token for token in special_tokens.values()}
        if "added_tokens_decoder" in kwargs:
            kwargs["added_tokens_decoder"] = {
                index: by_content.get(str(token), token) for index, token in kwargs["added_tokens_decoder"].items()
            }
        if kwargs.get("model_max_length") is None:
            kwargs["model_max_length"] = 77
        super().__init__(**special_tokens, clean_text=clean_text, strict=strict, **kwargs)
        self.clean_text = clean_text
        self.strict = strict

    @classmethod
    def _resolve_vocabulary(
        cls, vocab: str | dict | None, merges: str | list | None, kwargs: dict[str, Any]
    ) -> tuple[dict[str, int], list[tuple[str, str]]]:
        """Read the vocabulary's files, if any; removes `tokenizer_file` and `tokenizer_object` from `kwargs`."""
        tokenizer_file, tokenizer_object = kwargs.pop("tokenizer_file", None), kwargs.pop("tokenizer_object", None)
        if vocab is None and (tokenizer_file is not None or tokenizer_object is not None):
            text = tokenizer_object.to_str() if tokenizer_object else Path(tokenizer_file).read_text(encoding="utf-8")
            model = json.loads(text)["model"]
            vocab, merges = model["vocab"], model["merges"]
        if vocab is None or merges is None:
            missing = "a vocabulary" if vocab is None else "merges"
            raise ValueError(
                f"Cannot make a {cls.__name__} without {missing}. Use from_pretrained for a folder with tokenizer.json"
                " or with both vocab.json and merges.txt, from_bpe_file for OpenAI's merges, or train."
            )
        if isinstance(vocab, (str, Path)) and isinstance(merges, (str, Path)):
            try:
                vocab, merges = BPE.read_file(str(vocab), str(merges))
            except Exception as error:  # `tokenizers` raises plain Exception
                raise ValueError(
                    f"Cannot read {str(vocab)!r} and {str(merges)!r} as vocab and merges: {error}"
                ) from error
        if not isinstance(vocab, Mapping) or isinstance(merges, (str, Path)):
            raise TypeError("`vocab` and `merges` must both be file paths, or a dict and a list of pairs.")
        pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
        return dict(vocab), pairs

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs) -> dict[str, Any]:
        """Convert as transformers does, but take the vocabulary out of `tokenizer.json` in remote code too."""
        return super().convert_to_native_format(trust_remote_code=False, **kwargs)

    @classmethod
    def from_bpe_file(cls, path: str | Path, context_length: int = 77, **kwargs) -> "ClipHFTokenizer":
        """Make a tokenizer from a merges file in OpenAI's format, such as its `bpe_simple_vocab_16e6.txt.gz`.

        The file is UTF-8 text, gzipped or not: a header line with `#version`, then one merge per line, two symbols
        separated by a space. As in OpenAI's code, the first 48,894 merges are used (its file has more).

        Args:
            path (`str` or `Path`): the merges file.
            context_length (`int`): most tokens of a text, special tokens included.
            kwargs: further arguments of the constructor.

        Returns:
            `ClipHFTokenizer`: ids 0 to 511 are bytes and bytes at the end of a word, followed by the merges, the
            begin- and the end-of-text token.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged or is not a merges file; the message names the line.
        """
        return cls._from_merges(read_merges(Path(path)), context_length, kwargs)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, context_length: int = 77, **kwargs) -> "ClipHFTokenizer":
        """Train a tokenizer on texts. The same texts always give the same tokenizer.

        The vocabulary has OpenAI's layout: 256 bytes, 256 bytes at the end of a word, merges, begin and end of text.
        So it can encode every text, and no other text gives the end-of-text token.

        Args:
            texts (iterable of `str`): the corpus; read once, so it may be a generator. It is cleaned as in encoding.
            vocab_size (`int`): number of ids, at least 514. A small corpus may give fewer.
            context_length (`int`): most tokens of a text, special tokens included.
            kwargs: further arguments of the constructor.

        Returns:
            `ClipHFTokenizer`: the tokenizer; `len(tokenizer)` is the `vocab_size` that its model must have.

        Raises:
            TypeError: if `texts` is not an iterable of strings.
            ValueError: if `vocab_size` is less than 514, or there are no texts.
        """
        if isinstance(vocab_size, bool) or not isinstance(vocab_size, int) or vocab_size < NUM_BASE_TOKENS:
            raise ValueError(
                f"vocab_size must be an integer of at least {NUM_BASE_TOKENS} (256 bytes, 256 bytes at the end of a "
                f"word, 2 special tokens); given {vocab_size!r}."
            )
        clean = clean_like_openai if kwargs.get("clean_text", True) else normalize_nfc
        num_merges = vocab_size - NUM_BASE_TOKENS
        merges = learn_merges(texts, clean, num_merges)
        if len(merges) < num_merges:
            logger.info(
                f"The texts give only {len(merges)} merges: the vocabulary has {len(merges) + NUM_BASE_TOKENS} ids "
                f"instead of {vocab_size}. Use len(tokenizer) as the model's vocab_size."
            )
        return cls._from_merges(merges, context_length, kwargs)

    @classmethod
    def _from_merges(cls, merges: list[tuple[str, str]], context_length: int, kwargs: dict) -> "ClipHFTokenizer":
        if isinstance(context_length, bool) or not isinstance(context_length, int) or context_length < 3:
            raise ValueError(
                f"context_length must be an integer of at least 3 (begin of text, a token, end of text); "
                f"given {context_length!r}."
            )
        kwargs.setdefault("bos_token", BOS_TOKEN)
        kwargs.setdefault("eos_token", EOS_TOKEN)
        # Not the default name: if the end-of-text token has another, it would add an id to the vocabulary.
        kwargs.setdefault("unk_token", kwargs["eos_token"])
        kwargs.setdefault("pad_token", kwargs["eos_token"])
        vocab = build_vocabulary(merges, str(kwargs["bos_token"]), str(kwargs["eos_token"]))
        return cls(vocab=vocab, merges=merges, model_max_length=context_length, **kwargs)

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[str] | Iterable[list[str]],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: list | None = None,
        special_tokens_map: dict[str, str] | None = None,
        **kwargs,
    ) -> "ClipHFTokenizer":
        """Train a tokenizer with this one's settings on other texts; see [`~ClipHFTokenizer.train`].

        Args:
            text_iterator (iterable of `str` or of `list[str]`): the corpus, or batches of it.
            vocab_size (`int`): number of ids, at least 514, new special tokens not counted.
            length (`int`, *optional*): not used; there is no progress bar.
            new_special_tokens (`list`, *optional*): special tokens to add after the vocabulary.
            special_tokens_map, kwargs: not supported, because they would change the layout of the vocabulary.

        Raises:
            ValueError: if an argument is not supported, or as in `train`.
        """
        if special_tokens_map or kwargs:
            unsupported = sorted(kwargs) + (["special_tokens_map"] if special_tokens_map else [])
            raise ValueError(
                f"{', '.join(unsupported)} cannot be used here, because the vocabulary's layout and its two special "
                f"tokens are CLIP's. Use {type(self).__name__}.train with bos_token and eos_token to name them."
            )
        texts = chain.from_iterable([batch] if isinstance(batch, str) else batch for batch in text_iterator)
        names = {name: getattr(self, name) for name in ("unk_token", "bos_token", "eos_token", "pad_token")}
        options = {name: getattr(self, name) for name in ("clean_text", "strict", "padding_side", "truncation_side")}
        context_length = min(self.model_max_length, 2**31)
        tokenizer = type(self).train(texts, vocab_size, context_length, **names, **options)
        if new_special_tokens:
            tokenizer.add_special_tokens({"extra_special_tokens": list(new_special_tokens)})
        return tokenizer

    def clean(self, text: str) -> str:
        """Clean a text: ftfy and HTML entities, or only normal form C if not `clean_text`.

        Offsets refer to the result. White space and case do not change; the same object comes back if nothing does.

        Raises:
            ValueError: if `clean_text` is `False` and the text holds a lone surrogate.
        """
        return clean_like_openai(text) if self.clean_text else normalize_nfc(text)

    def _clean_nested(self, text: Any) -> Any:
        if isinstance(text, str):
            return self.clean(text)
        items = map(self._clean_nested, text)
        return tuple(items) if isinstance(text, tuple) else list(items)

    def _get_padding_truncation_strategies(
        self, padding: Any = False, truncation: Any = None, max_length: int | None = None, **kwargs
    ) -> tuple:
        """What transformers makes of a call's arguments; the second, None, stands for "cut with a warning"."""
        # In transformers, `max_length` implies truncation, but not together with padding.
        implied = truncation is None and (max_length is None or padding is not False)
        if truncation is None and max_length is not None:
            truncation = True
        padding, truncation, max_length, kwargs = super()._get_padding_truncation_strategies(
            padding, truncation, max_length, **kwargs
        )
        return padding, None if implied else truncation, max_length, kwargs

    def _encode_plus(self, text: Any, text_pair: Any = None, **options) -> BatchEncoding:
        options = {"truncation_strategy": TruncationStrategy.DO_NOT_TRUNCATE, "max_length": None, **options}
        strict = options.pop("strict", None)
        _check_text(text, "text", options.get("is_split_into_words", False))
        if text_pair is not None:
            _check_text(text_pair, "text_pair", options.get("is_split_into_words", False))
        implied = options["truncation_strategy"] is None
        if implied:
            if options["max_length"] is None and self.model_max_length < LARGE_INTEGER:
                options["max_length"] = self.model_max_length
            cuts = options["max_length"] is not None
            options["truncation_strategy"] = TruncationStrategy("longest_first" if cuts else "do_not_truncate")
        rule = self._length_rule(strict, implied, options)
        encoder = self._get_word_encoder()
        texts = [text] if isinstance(text, str) else text
        if self._needs_encodings(texts, text_pair, options):
            text_pair = None if text_pair is None else self._clean_nested(text_pair)
            return self._encode_with_backend(encoder, (self._clean_nested(text), text_pair), options, rule)
        return self._encode_words(encoder, [self.clean(item) for item in texts], isinstance(text, str), options, rule)

    def _length_rule(self, strict: bool | None, implied: bool, options: dict[str, Any]) -> _LengthRule:
        truncates = options["truncation_strategy"] != TruncationStrategy.DO_NOT_TRUNCATE
        # Nothing is lost without truncation, or if the rest is returned too.
        loses_tokens = truncates and not options.get("return_overflowing_tokens")
        return _LengthRule(
            limit=options["max_length"] if truncates else None,
            strict=loses_tokens and (self.strict if strict is None else strict),
            warn=loses_tokens
            and implied
            and options.get("verbose", True)
            and not self.deprecation_warnings.get("text-is-cut", False),
        )

    def _needs_encodings(self, texts: list, text_pair: Any, options: dict[str, Any]) -> bool:
        return (
            text_pair is not None
            or any(options.get(name) for name in _ENCODING_OPTIONS)
            or options["truncation_strategy"] == TruncationStrategy.ONLY_SECOND
            or "token_type_ids" in self.model_input_names
            or not all(isinstance(text, str) for text in texts)
        )

    def _encode_words(
        self, encoder: WordEncoder, texts: list[str], is_single: bool, options: dict[str, Any], rule: _LengthRule
    ) -> BatchEncoding:
        """Encode clean texts word by word; `Encoding` objects are made on demand."""
        before, after = encoder.special_ids() if options.get("add_special_tokens", True) else ([], [])
        split_special_tokens = options.get("split_special_tokens")
        if split_special_tokens is None:
            split_special_tokens = self.split_special_tokens
        input_ids = [encoder.encode(text, split_special_tokens) for text in texts]
        if rule.limit is not None:
            room = self._room(rule.limit, len(before) + len(after))
            self._check_lengths([len(ids) + rule.limit - room for ids in input_ids], texts, rule)
            if self.truncation_side == "right":
                input_ids = [ids[:room] for ids in input_ids]
            else:
                input_ids = [ids[max(len(ids) - room, 0) :] for ids in input_ids]
        input_ids = [before + ids + after for ids in input_ids]
        longest = max(input_ids, key=len)
        self._eventual_warn_about_too_long_sequence(longest, options.get("max_length"), options.get("verbose", True))
        options = {**options, "padding_side": options.get("padding_side") or self.padding_side}
        data = {"input_ids": input_ids, "attention_mask": self._pad_rows(input_ids, options)}
        keep_mask = options.get("return_attention_mask")
        if not ("attention_mask" in self.model_input_names if keep_mask is None else keep_mask):
            del data["attention_mask"]
        tensor_type = options.get("return_tensors")
        if is_single and tensor_type is None:
            data = {name: rows[0] for name, rows in data.items()}
        elif tensor_type is not None and len({len(ids) for ids in input_ids}) == 1:
            # Much faster than in transformers, which gets rows of different lengths and raises its error for them.
            data = {name: _to_tensor(rows, tensor_type) for name, rows in data.items()}
        result = _LazyBatchEncoding(data, tensor_type=tensor_type, n_sequences=1)
        plain = {**options, "return_tensors": None, "verbose": False}
        silent = _LengthRule(rule.limit, strict=False, warn=False)
        result.make_encodings = lambda: self._encode_with_backend(encoder, (texts, None), plain, silent).encodings
        return result

    def _pad_rows(self, input_ids: list[list[int]], options: dict) -> list[list[int]]:
        """Pad the rows in place as `options` say, and return the attention mask."""
        lengths = [len(ids) for ids in input_ids]
        strategy = options.get("padding_strategy", PaddingStrategy.DO_NOT_PAD)
        if strategy == PaddingStrategy.DO_NOT_PAD:
            return [[1] * length for length in lengths]
        target = options["max_length"] if strategy == PaddingStrategy.MAX_LENGTH else max(lengths)
        if options.get("pad_to_multiple_of"):
            target = -(-target // options["pad_to_multiple_of"]) * options["pad_to_multiple_of"]
        pad = [self.pad_token_id]
        attention_mask = []
        for index, length in enumerate(lengths):
            missing = target - length
            if options["padding_side"] == "right":
                input_ids[index] = input_ids[index] + pad * missing
                attention_mask.append([1] * length + [0] * missing)
            else:
                input_ids[index] = pad * missing + input_ids[index]
                attention_mask.append([0] * missing + [1] * length)
        return attention_mask

    def _encode_with_backend(
        self, encoder: WordEncoder, texts: tuple[Any, Any], options: dict[str, Any], rule: _LengthRule
    ) -> BatchEncoding:
        """Encode clean texts and their pairs by transformers' code around `tokenizers`."""
        with encoder.lock:
            exact_tokenizer = copy.copy(self)
            exact_tokenizer._tokenizer = encoder.exact_backend
            encode = super(ClipHFTokenizer, exact_tokenizer)._encode_plus
            if rule.limit is not None and options.get("add_special_tokens", True):
                is_pair = bool(texts[1])
                if not options.get("is_split_into_words"):
                    is_pair |= any(not isinstance(item, str) for item in texts[0])
                self._room(rule.limit, self.num_special_tokens_to_add(is_pair))
            if rule.strict or rule.warn:
                uncut = {
                    "truncation_strategy": TruncationStrategy.DO_NOT_TRUNCATE,
                    "padding_strategy": PaddingStrategy.DO_NOT_PAD,
                    "return_tensors": None,
                    "verbose": False,
                }
                encodings = encode(*texts, **{**options, **uncut}).encodings
                self._check_lengths([len(encoding.ids) for encoding in encodings], texts[0], rule)
            return encode(*texts, **options)

    @staticmethod
    def _room(limit: int, added: int) -> int:
        """The number of tokens of text that fit into `limit` tokens with `added` special tokens."""
        if limit < added:
            raise ValueError(f"max_length={limit} leaves no room for {added} special tokens; use at least {added}.")
        return limit - added

    def _check_lengths(self, lengths: list[int], texts: str | list, rule: _LengthRule) -> None:
        """Raise or warn if there are more than `rule.limit` tokens, special tokens included."""
        if not (rule.strict or rule.warn) or max(lengths) <= rule.limit:
            return
        index = next(index for index, length in enumerate(lengths) if length > rule.limit)
        text = texts if isinstance(texts, str) or len(texts) != len(lengths) else texts[index]
        problem = f"Text {index} has {lengths[index]} tokens, but at most {rule.limit} fit: {text!r:.60}"
        if rule.strict:
            raise ValueError(f"{problem}. Shorten it, or pass strict=False to have it cut.")
        self.deprecation_warnings["text-is-cut"] = True
        logger.warning(
            f"{problem}. It is cut but keeps its end-of-text token. Pass truncation=True to cut without this warning, "
            "truncation=False to keep everything, strict=True to get an error. This warning appears once."
        )

    def _get_word_encoder(self) -> WordEncoder:
        backend, encoder = self._tokenizer, self._word_encoder
        size = backend.get_vocab_size(with_added_tokens=True)
        if encoder is None or encoder.backend is not backend or encoder.vocab_size != size:
            self._word_encoder = encoder = WordEncoder(backend)
        return encoder

    def _add_tokens(self, new_tokens: list, special_tokens: bool = False) -> int:
        if self._word_encoder is not None:
            # Earlier batches may still need its encodings, without the new tokens.
            self._word_encoder.freeze()
            self._word_encoder = None
        return super()._add_tokens(new_tokens, special_tokens)

    def update_post_processor(self) -> None:
        """Put begin- and end-of-text token around every text."""
        self._tokenizer.post_processor = processors.RobertaProcessing(
            (self.eos_token, self.eos_token_id),
            (self.bos_token, self.bos_token_id),
            trim_offsets=False,
            add_prefix_space=False,
        )

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write `vocab.json` and `merges.txt`, which `from_pretrained` reads if there is no `tokenizer.json`, into a
        folder that exists; the names begin with `filename_prefix` and a hyphen. Return both paths.
        """
        model = json.loads(self._tokenizer.to_str())["model"]
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        vocab_file = Path(save_directory, f"{prefix}vocab.json")
        merges_file = Path(save_directory, f"{prefix}merges.txt")
        vocab_file.write_text(json.dumps(model["vocab"], ensure_ascii=False) + "\n", encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]
        merges_file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(vocab_file), str(merges_file)

    def __getstate__(self):
        return vars(self).copy()


# Makes saving copy our files and name the class in `auto_map`.
ClipHFTokenizer.register_for_auto_class("AutoTokenizer")
