# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""OpenAI's byte-pair encoding: text clean-up, the split into words, the merges file, training, and the ids of words.

`ClipHFTokenizer` puts the interface of transformers' tokenizers around it. From text to ids:

1. Clean-up: ftfy, then HTML entities, twice. Text that neither can change skips both (`is_clean`).
2. Lower case and the split into words: Python's `str.lower` and the package `regex`, as in OpenAI's code. The
   normalizers and regular expressions of `tokenizers` follow other rules and versions of Unicode.
3. Byte-pair encoding of each word by `tokenizers`, with a cache of words, which makes it several times faster than
   encoding whole texts with `tokenizers`.

Without `ftfy` (a repo's own code may run with transformers alone) clean text is still encoded; text that needs ftfy
raises an error instead of getting other ids.
"""

import gzip
import html
import importlib.util
import json
import re
import threading
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from types import ModuleType, SimpleNamespace

import regex
from tokenizers import NormalizedString, PreTokenizedString, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer


# Guarded because transformers refuses a whole repo, model included, if a package that its files import is missing.
try:
    import ftfy
    from ftfy.badness import is_bad

    def fix_text(text: str) -> str:
        """Mend `text` as `ftfy.fix_text` does."""
        return _linear_ftfy().fix_text(text)
except ImportError:

    def fix_text(text: str) -> str:
        raise ImportError(
            f"The text {text[:40]!r} may need OpenAI's clean-up, but the package ftfy is not installed. Run "
            "`pip install ftfy`, or pass clean_text=False to the tokenizer, which gives other ids."
        )

    is_bad = fix_text


BOS_TOKEN = "<|startoftext|>"
EOS_TOKEN = "<|endoftext|>"
END_OF_WORD = "</w>"

# A vocabulary without merges: 256 bytes, 256 bytes at the end of a word, two special tokens.
NUM_BASE_TOKENS = 2 * 256 + 2
# OpenAI's file has more merges than fit into the 49,408 ids of the published models.
NUM_OPENAI_MERGES = 49_408 - NUM_BASE_TOKENS

# OpenAI's pattern, used with `regex.IGNORECASE` on lower-cased text. (The flag still matters there: it lets "'s" match
# an apostrophe with U+017F, the long s, and leaves U+0345 without any match.)
WORD_PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_UNICODE_WORDS = regex.compile(WORD_PATTERN, regex.IGNORECASE)
# The same for lower-case ASCII. re.ASCII keeps U+001C to U+001F out of \s, as `regex` does.
_ASCII_WORDS = re.compile(r"[a-z]+|[0-9]|'(?:[stmd]|re|ve|ll)|<\|(?:start|end)oftext\|>|[^\sa-z0-9]+", re.ASCII)

# For the regular expressions of `tokenizers`: WORD_PATTERN with the effect of the flag written out, and the capital
# sigma that `str.lower` turns into a final one (after a cased letter and not before one; marks are skipped).
_BACKEND_PATTERN = WORD_PATTERN.replace("'s|", "'[s\u017f]|").replace("[^", "[^\u0345")
_FINAL_SIGMA = "(?<=[\\p{Lu}\\p{Ll}\\p{Lt}\\p{M}])\u03a3(?![\\p{M}\\p{Cf}'.:]*[\\p{Lu}\\p{Ll}\\p{Lt}])"

# Bounds of the word cache, some 20 MB: words, and characters of a word.
_CACHED_WORDS = 2**17
_CACHED_WORD_LENGTH = 128


# ------------------------------------------------------------------------------------------------------- text clean-up

# ftfy does not change text of these characters if it is in NFC: they are in none of ftfy's tables (HTML, controls,
# line breaks, widths, ligatures, quotes), and its search for mojibake ignores them.
_ASCII = " -%'-~"  # printable, without "&"
_QUIET = (
    "\u0500-\u1fff\u200b-\u200f\u2600-\u27bf\u2e80-\u2fff\u3001-\ud7a3\uf900-\ufaff\ufe00-\ufe0f"
    "\U0001f000-\U0001fbff\U00020000-\U0003ffff\U000e0020-\U000e007f"
)
# Only ftfy's search for mojibake may change these. The first range leaves out ligatures (U+0132, U+0149, U+01C4,
# U+01F1) and the modifier apostrophe U+02BC.
_SUSPECT = (
    "\u00a0-\u0131\u0134-\u0148\u014a-\u01c3\u01cd-\u01f0\u01f4-\u02bb\u02bd-\u04ff"
    "\u2010-\u2017\u2020-\u2027\u2030-\u205e\u20a0-\u25ff"
)
_QUIET_TEXT = re.compile(f"[\t\n\f{_ASCII}{_QUIET}]*")
# No line breaks, because ftfy treats each line separately; bounded, because it cuts long lines.
_SUSPECT_TEXT = re.compile(f"[\t{_ASCII}{_QUIET}{_SUSPECT}]{{0,100000}}")
_QUOTED_TEXT = re.compile(f"[\t{_ASCII}{_QUIET}{_SUSPECT}\u02bc\u2018-\u201f]{{0,100000}}")
_STRAIGHT_QUOTES = str.maketrans("\u02bc\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f", "'''''\"\"\"\"")


# Python sorts the marks after a letter in quadratic time.
_MARK_RUN = regex.compile(r"\p{M}{64,}")
# Texts up to this length, such as captions, skip the search for long runs of marks.
_SHORT_TEXT = 128


def normalize_linearly(form: str, text: str) -> str:
    """`unicodedata.normalize(form, text)`, but in linear time."""
    long = len(text) > _SHORT_TEXT
    return unicodedata.normalize(form, _MARK_RUN.sub(_sort_marks, text) if long else text)


def _sort_marks(run: regex.Match) -> str:
    marks = (mark for character in run[0] for mark in unicodedata.normalize("NFD", character))
    ordered: list[str] = []
    stretch: list[str] = []  # marks to sort, up to the next one that keeps its place
    for mark in marks:
        if unicodedata.combining(mark):
            stretch.append(mark)
        else:
            ordered += [*sorted(stretch, key=unicodedata.combining), mark]
            stretch = []
    return "".join(ordered + sorted(stretch, key=unicodedata.combining))


@lru_cache(maxsize=1)
def _linear_ftfy() -> ModuleType:
    """A private copy of ftfy that uses `normalize_linearly` and `_unescape_levels`."""
    copy = importlib.util.module_from_spec(ftfy.__spec__)
    ftfy.__spec__.loader.exec_module(copy)
    copy.unicodedata = SimpleNamespace(normalize=normalize_linearly)
    copy.FIXERS["unescape_html"] = _unescape_levels
    return copy


# An ampersand that was escaped repeatedly, such as "&amp;amp;amp;". Each reference is one level.
_AMPERSANDS = re.compile(r"&(?:(?:amp|AMP|#0{0,22}38|#[xX]0{0,21}26);)+")


def _unescape_levels(text: str) -> str:
    """ftfy's `unescape_html`, but many levels at once.

    ftfy calls it until nothing changes, once for each level. If there are many levels, and removing one changes
    nothing else, all but the last are removed together.
    """
    unescaped = ftfy.fixes.unescape_html(text)
    skipped = min((match[0].count(";") for match in _AMPERSANDS.finditer(text)), default=0) - 1
    if skipped < 16 or unescaped != _remove_levels(text, 1):
        return unescaped
    fixed = _linear_ftfy().fix_and_explain(unescaped, ftfy.TextFixerConfig(unescape_html=False, explain=False))
    return _remove_levels(text, skipped) if fixed.text == unescaped else unescaped


def _remove_levels(text: str, levels: int) -> str:
    return _AMPERSANDS.sub(lambda match: "&" + match[0].split(";", levels)[levels], text)


def is_clean(text: str) -> bool:
    """Whether ftfy and `html.unescape` provably return `text` itself. `False` means unknown."""
    if text.isascii():
        return ("&" not in text and text.isprintable()) or _QUIET_TEXT.fullmatch(text) is not None
    short = len(text) <= _SHORT_TEXT
    if not (unicodedata.is_normalized("NFC", text) if short else normalize_linearly("NFC", text) == text):
        return False
    if _QUIET_TEXT.fullmatch(text):
        return True
    return _SUSPECT_TEXT.fullmatch(text) is not None and not is_bad(text)


def clean_like_openai(text: str) -> str:
    """Clean `text` as OpenAI's code does: mojibake, ligatures, control characters, HTML entities, ..."""
    if is_clean(text):
        return text
    # In most text that is not clean, ftfy only straightens curly quotes.
    straight = text.translate(_STRAIGHT_QUOTES)
    if straight != text and is_clean(straight) and _QUOTED_TEXT.fullmatch(text) and not is_bad(text):
        return straight
    return html.unescape(html.unescape(fix_text(text)))


def normalize_nfc(text: str) -> str:
    """Bring `text` into normal form C, the only clean-up of transformers' `CLIPTokenizer`; refuse lone surrogates."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"The text holds a lone surrogate, {text[error.start]!r} at {error.start}, which has no UTF-8 bytes. "
                "Remove it, or use clean_text=True, which replaces it by U+FFFD."
            ) from None
    return normalize_linearly("NFC", text)


# ------------------------------------------------------------------------------------------ vocabulary and merges file


def _byte_symbols() -> list[str]:
    """The character for each byte, 0 to 255: the byte's own if it is visible, else one from U+0100 upwards."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte) if byte in visible else chr(next(hidden)) for byte in range(256)]


_BYTE_SYMBOLS = _byte_symbols()
_TO_BYTE_SYMBOLS = dict(enumerate(_BYTE_SYMBOLS))
# Ids 0 to 255: OpenAI numbers visible bytes first.
_ALPHABET = sorted(_BYTE_SYMBOLS, key=lambda symbol: (ord(symbol) >= 0x100, symbol))


def to_byte_symbols(word: str) -> str:
    """Write each UTF-8 byte of `word` as its symbol."""
    return word.encode("utf-8").decode("latin-1").translate(_TO_BYTE_SYMBOLS)


def base_symbols() -> list[str]:
    """The first 512 tokens: every byte, and every byte at the end of a word."""
    return _ALPHABET + [symbol + END_OF_WORD for symbol in _ALPHABET]


def build_vocabulary(merges: list[tuple[str, str]], bos_token: str, eos_token: str) -> dict[str, int]:
    """Token to id in OpenAI's order: bytes, bytes at the end of a word, merges, begin and end of text."""
    tokens = base_symbols() + ["".join(merge) for merge in merges] + [bos_token, eos_token]
    return {token: index for index, token in enumerate(tokens)}


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Read a merges file in OpenAI's format; see `ClipHFTokenizer.from_bpe_file`, also for the errors."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no merges file {str(path)!r}.")
    data = path.read_bytes()
    try:
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
        lines = data.decode("utf-8").split("\n")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{str(path)!r} is a damaged or incomplete gzip file ({error}); download it again."
        ) from error
    except UnicodeDecodeError:
        raise ValueError(f"{str(path)!r} is not a merges file: it is neither UTF-8 text nor gzip.") from None
    if "#version" not in lines[0]:
        raise ValueError(
            f"{str(path)!r} is not a merges file: its first line must be a header such as '#version: 0.2', "
            f"but is {lines[0][:60]!r}."
        )
    while lines and not lines[-1].strip():
        lines.pop()
    merges: list[tuple[str, str]] = []
    known = set(base_symbols())
    for number, line in enumerate(lines[1 : 1 + NUM_OPENAI_MERGES], 2):
        parts = tuple(line.split())
        if len(parts) != 2:
            problem = f"holds {len(parts)} symbols instead of 2"
        elif not known.issuperset(parts):
            problem = f"uses {sorted(set(parts) - known)}, which no line above makes"
        elif "".join(parts) in known:
            problem = f"makes {''.join(parts)!r}, which a line above makes already"
        else:
            known.add("".join(parts))
            merges.append(parts)
            continue
        raise ValueError(f"{str(path)!r}, line {number}: {line[:60]!r} {problem}.")
    return merges


# ------------------------------------------------------------------------------------------------------------ training


def learn_merges(texts: Iterable[str], clean: Callable[[str], str], num_merges: int) -> list[tuple[str, str]]:
    """Learn at most `num_merges` byte-pair merges, most frequent pair first; the same texts always give the same ones.

    Raises:
        TypeError: if `texts` is not an iterable of strings.
        ValueError: if there are no texts.
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise TypeError(f"texts must be an iterable of strings; given {texts!r:.60}, of type {type(texts).__name__}.")
    counts = _count_words(texts, clean)
    # The trainer breaks ties by id. As special tokens, all base symbols have fixed ids, so that ties do not depend on
    # the order of the corpus. The margin makes up for the merges skipped below.
    symbols = base_symbols()
    margin = 64 + num_merges // 64
    trainer = BpeTrainer(
        vocab_size=len(symbols) + num_merges + margin,
        special_tokens=symbols,
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    tokenizer = Tokenizer(BPE(end_of_word_suffix=END_OF_WORD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(_repeat_words(counts), trainer)
    known, merges = set(symbols), []
    for first, second in json.loads(tokenizer.to_str())["model"]["merges"]:
        # Two pairs may spell the same token; a merges file has one id for it, so the second pair is skipped.
        if first + second not in known:
            known.add(first + second)
            merges.append((first, second))
    return merges[:num_merges]


def _count_words(texts: Iterable[str], clean: Callable[[str], str]) -> Counter:
    counts: Counter = Counter()
    index = -1
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"Text {index} is {text!r:.60}, of type {type(text).__name__}; all texts must be strings.")
        counts.update(split_words(clean(text)))
    if index < 0:
        raise ValueError("There are no texts to learn merges from.")
    # A special token written out in the corpus is not text.
    for token in (BOS_TOKEN, EOS_TOKEN):
        counts.pop(token, None)
    return counts


def _repeat_words(counts: Counter) -> Iterator[str]:
    for word, count in counts.items():
        symbols = to_byte_symbols(word)
        for start in range(0, count, 1024):
            yield " ".join([symbols] * min(1024, count - start))


# ------------------------------------------------------------------------------------------------------------ encoding


def build_backend(vocab: dict[str, int], merges: list[tuple[str, str]], unk_token: str) -> Tokenizer:
    """Build the `tokenizers.Tokenizer` that is saved as `tokenizer.json`.

    It gives OpenAI's ids for clean text, except for letters newer than Python's Unicode tables and for capital sigmas
    next to circled letters.
    """
    backend = Tokenizer(
        BPE(vocab=vocab, merges=merges, end_of_word_suffix=END_OF_WORD, unk_token=unk_token, fuse_unk=False)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(_FINAL_SIGMA), "\u03c2"), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_BACKEND_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    # No space after the last word. (`decoders.Strip` panics on empty text.)
    backend.decoder = decoders.Sequence(
        [
            decoders.ByteLevel(),
            decoders.Replace(Regex(END_OF_WORD + r"\z"), ""),
            decoders.Replace(END_OF_WORD, " "),
        ]
    )
    return backend


def split_words(text: str) -> list[str]:
    """Split a clean text into lower-case words as OpenAI's code does."""
    text = text.lower()
    return (_ASCII_WORDS if text.isascii() else _UNICODE_WORDS).findall(text)


class _WordIds(dict):
    """Cache from a lower-case word to the tuple of its token ids; a missing word is encoded by the BPE model."""

    def __init__(self, model: BPE):
        super().__init__()
        self._model = model

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(token.id for token in self._model.tokenize(to_byte_symbols(word)))
        if len(word) <= _CACHED_WORD_LENGTH:
            if len(self) >= _CACHED_WORDS:
                self.clear()
            self[word] = ids
        return ids


class _Lowercase:
    """Python's `str.lower` as a normalizer of `tokenizers`, with the alignment that offsets need."""

    def normalize(self, normalized: NormalizedString) -> None:
        """Lower-case `normalized` in place."""
        if normalized.normalized == normalized.normalized.lower():
            return
        # The only character whose lower case is longer. It does not affect the lower case of the others.
        normalized.replace("\u0130", "i\u0307")
        characters = iter(normalized.normalized.lower())
        normalized.map(lambda _: next(characters))


class _SplitWords:
    """OpenAI's split into words as a pre-tokenizer of `tokenizers`."""

    def pre_tokenize(self, pretokenized: PreTokenizedString) -> None:
        """Split every part of `pretokenized` in place."""
        pretokenized.split(self._split)

    def _split(self, _: int, text: NormalizedString) -> list[NormalizedString]:
        return _cut_slices(text, [match.span() for match in _UNICODE_WORDS.finditer(str(text))])


def _cut_slices(text: NormalizedString, spans: list[tuple[int, int]]) -> list[NormalizedString]:
    # The time of a slice grows with its offset, so halves are cut first.
    if len(spans) <= 64:
        return [text[start:end] for start, end in spans]
    middle = len(spans) // 2
    cut = spans[middle][0]
    second = [(start - cut, end - cut) for start, end in spans[middle:]]
    return _cut_slices(text[:cut], spans[:middle]) + _cut_slices(text[cut:], second)


class WordEncoder:
    """Token ids of clean texts, without begin- and end-of-text token, for one state of a `tokenizers.Tokenizer`."""

    def __init__(self, backend: Tokenizer):
        self.backend = backend
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        self.lock = threading.Lock()
        self._ids = _WordIds(backend.model).__getitem__
        self._exact_backend: Tokenizer | None = None
        # transformers looks for added tokens in the text itself or, if `normalized`, in the lower-cased text.
        added = backend.get_added_tokens_decoder().values()
        self._added = _compile_any_of(token.content for token in added if not token.normalized)
        self._added_in_lower = _compile_any_of(token.content.lower() for token in added if token.normalized)
        self._special_ids: tuple[bytes, list[int], list[int]] = (b"", [], [])

    def encode(self, text: str, split_special_tokens: bool) -> list[int]:
        """Encode a clean text."""
        if (self._added and self._added.search(text)) or (
            self._added_in_lower and self._added_in_lower.search(text.lower())
        ):
            with self.lock:
                backend = self.exact_backend
                backend.no_truncation()
                backend.no_padding()
                backend.encode_special_tokens = split_special_tokens
                return backend.encode(text, add_special_tokens=False).ids
        return list(chain.from_iterable(map(self._ids, split_words(text))))

    def special_ids(self) -> tuple[list[int], list[int]]:
        """Ids that the post-processor puts before and after a text: begin and end of text."""
        processor = self.backend.post_processor
        state = processor.__getstate__()
        if self._special_ids[0] != state:
            encoding = processor.process(self.backend.encode("a", add_special_tokens=False))
            start = encoding.special_tokens_mask.index(0)
            end = len(encoding.ids) - encoding.special_tokens_mask[::-1].index(0)
            self._special_ids = (state, encoding.ids[:start], encoding.ids[end:])
        return self._special_ids[1:]

    def freeze(self) -> None:
        """Ignore later changes to the backend's added tokens."""
        with self.lock:
            _ = self.exact_backend

    @property
    def exact_backend(self) -> Tokenizer:
        """A copy of the backend that lower-cases and splits as Python does and makes `Encoding` objects.

        It is several times slower than `encode`. Hold `lock` while using it: truncation and padding are its settings.
        """
        if self._exact_backend is None:
            backend = Tokenizer.from_str(self.backend.to_str())
            backend.normalizer = normalizers.Normalizer.custom(_Lowercase())
            backend.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.PreTokenizer.custom(_SplitWords()),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
            self._exact_backend = backend
        self._exact_backend.post_processor = self.backend.post_processor
        return self._exact_backend


def _compile_any_of(contents: Iterable[str]) -> re.Pattern | None:
    alternatives = [re.escape(unicodedata.normalize("NFC", content)) for content in contents]
    return re.compile("|".join(alternatives)) if alternatives else None
