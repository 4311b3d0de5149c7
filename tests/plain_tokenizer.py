# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""OpenAI's byte-pair encoding written out plainly, the reference for the tokenizer, and texts that are hard for it."""

import html
import json
import random
import unicodedata
from itertools import islice, pairwise

import emoji
import ftfy
import regex


WORDS = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)


def clean(text: str) -> str:
    """Repaired, unescaped, with single spaces, in lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return regex.sub(r"\s+", " ", text).strip().lower()


def byte_names() -> dict[int, str]:
    """The character that a merges file uses for each byte, in the order of the ids 0 to 255."""
    visible = [byte for byte in range(256) if chr(byte).isprintable() and byte not in (0x20, 0xA0, 0xAD)]
    names = {byte: chr(byte) for byte in visible}
    for byte in range(256):
        if byte not in names:
            names[byte] = chr(256 + len(names) - len(visible))
    return names


class PlainTokenizer:
    """Byte-pair encoding by definition; `merges` in the order in which they were learned."""

    def __init__(self, merges: list[tuple[str, str]]):
        self.names = byte_names()
        names = list(self.names.values())
        self.tokens = names + [name + "</w>" for name in names] + ["".join(pair) for pair in merges]
        self.numbers = {token: number for number, token in enumerate(self.tokens)}
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}

    def encode(self, text: str) -> list[int]:
        """Token ids without begin- and end-of-text token."""
        return [self.numbers[part] for word in WORDS.findall(clean(text)) for part in self.merge(word)]

    def merge(self, word: str) -> list[str]:
        """Merge the earliest learned pair, wherever it stands, until none of the pairs was learned."""
        parts = [self.names[byte] for byte in word.encode("utf-8")]
        parts[-1] += "</w>"
        while True:
            learned = [pair for pair in pairwise(parts) if pair in self.ranks]
            if not learned:
                return parts
            best = min(learned, key=self.ranks.__getitem__)
            merged, at = [], 0
            while at < len(parts):
                size = 2 if tuple(parts[at : at + 2]) == best else 1
                merged.append("".join(parts[at : at + size]))
                at += size
            parts = merged

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, with a space after every word."""
        bytes_of = {name: byte for byte, name in self.names.items()}
        data = bytes(bytes_of[name] for number in ids for name in self.tokens[number])
        return data.decode("utf-8", errors="replace").replace("</w>", " ")


# ------------------------------------------------------------------------------------------------- hard texts


def _characters(*ranges: tuple[int, int]) -> list[str]:
    return [chr(code) for first, last in ranges for code in range(first, last + 1)]


PIECES: dict[str, list[str]] = {
    "words": "a photo of the cat sitting on mats naïve coöperate Straße ÉCOLE Zürich año Ångström".split(),
    "contractions": "it's IT'S we'RE I'VE don'T he'Ll I'M you'd 's 'S 'ſ 'T 're'S ''s '' ' 'k 'K".split(),
    "case": "İstanbul I ı ß ẞ ΑΣ ΟΔΥΣΣΕΥΣ Σ σς ΣΑ ΑΣ̈ Ǆ ǅ ǆ ǈ ǲ ﬅ ſ K Å Ω ᾼ ᾳ ͅ Ⅷ ⅷ Ⓐ ⓐ Ꭰ ꭰ ᲀ Გ ა".split(),
    "ligatures": "ﬁ ﬂ ﬃ ﬆ ĳ Ĳ ŉ œ Œ æ".split(),
    "quotes": "‘ ’ ‚ ‛ “ ” „ ‟ « » ‹ › ` ´ ʼ ′ ″ ' \"".split(),
    "html": (
        "&amp; &amp;amp; &amp;amp;amp; &lt;b&gt; &amp;lt; &#39; &#x27; &amp;#39; &quot; &nbsp; &EACUTE; &eacute "
        "&notit; &copy &#128; &#150; &#0; &#xD800; &#x1F600; &#32; & &; &#; &#x; &unknown; <br/> < > "
        "&NewLine; &Tab; &zwj;"
    ).split(),
    "mojibake": (
        "cafÃ© â€œquotedâ€\x9d itâ€™s Ã  la ÃƒÂ© âœ” Ð¿Ñ€Ð¸ ä¸­æ–‡ Â£5 Â© ðŸ˜€ Ã¶Ã¤Ã¼ Ã voilÃ â€¦ â€“ ÂÂ вЂ“ Ñ Ãƒ "
        "CafÃƒÂ© ÃŸ ï¬\x81 ï»¿ œ~ Ø§Ù„ à¤• √± ≈° ГўВЂВ™a ā€“ β€™"
    ).split(),
    "controls": _characters((0, 31), (127, 159)) + ["\x1b[31m", "\x1b[0;1m", "\ufeff", "\ufffe", "\uffff", "\ufffd"],
    "invisible": _characters((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0xFFF9, 0xFFFC))
    + ["\xad", "\u180e"],
    "spaces": [chr(code) for code in range(0x110000) if chr(code).isspace()] + ["  ", "\r\n", "\n\n", " \t "],
    "width": ["ＬＯＵＤ", "ｎｏｉｓｅ", "！", "１２３", "ｶﾞ", "ﾊﾟ", "ﾡ", "￥", "＆ａｍｐ；", "\u3000", "＇Ｓ", "＜｜"],
    "cjk": "一只猫 猫が好き ねこ カタカナ 고양이 각 漢字 𠮷野家 々 〆 、 。 「 」 ㍿ ㈱ ① 豈".split(),
    "scripts": "кошка Ёлка گربه बिल्ली แมว חתול ᏣᎳᎩ კატა կատու ፅ ᚠᚢ ދިވެހި 𐐀𐐨 𞤀𞤢 𑢠𑣀 ꙁ ⲁⲂ".split(),
    "emoji": "😀 👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 ❤️ 1️⃣ ©️ ™ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ☺︎ 🫠 🪿".split(),
    "marks": [
        "é",
        "e\u0301",
        "o\u0308\u0304",
        "ộ",
        "o\u0323\u0302",
        "\u0301",
        "\u0344",
        "\u1e9b\u0323",
        "각",
        "ཱི",
        "가",
    ],
    "digits": "0 7 42 3.14 1,000 ² ½ Ⅻ ٣ ߄ ५ ৬ ๗ 〇 五 𝟙 🄁 ㊿ ➓ ௰ ፼ 𐄇".split(),
    "signs": (
        "!? ... --- _ __ #tag @you http://x.y/?a=b&c=d $5 50% a_b a-b C++ :) ^_^ \\n <| |> <|text|> ~ | € £ ¥ § ¶ ° ·"
    ).split(),
    "surrogates": ["\ud800", "\udfff", "\ud83d\ude00", "\ude00\ud83d"],
    "long": ["ab" * 300, "é" * 200, "漢" * 150, "." * 400, "1" * 100, "Σ" * 80, "xyz'" * 50],
    "new": _characters((0x1C89, 0x1C8A), (0xA7CB, 0xA7CE), (0xA7DA, 0xA7DC), (0x10D50, 0x10D58), (0x105C0, 0x105C8)),
}


def hard_texts(count: int, seed: int = 0) -> list[str]:
    """
    Texts put together from pieces of all kinds, from one piece to 30, and from random characters.

    None holds a special token, in any case or escaped, because the tokenizer follows transformers' rule for those.
    """
    generator = random.Random(seed)
    kinds = list(PIECES)
    assigned = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")]
    texts = ["", " ", "\x00", *(piece for pieces in PIECES.values() for piece in pieces)]
    while len(texts) < count:
        # A few kinds a text, so that kinds meet each other but mojibake or CJK also stand alone.
        chosen = generator.sample(kinds, generator.randint(1, 4))
        parts = [generator.choice(PIECES[generator.choice(chosen)]) for _ in range(generator.randint(1, 30))]
        if generator.random() < 0.2:
            parts += generator.choices(assigned, k=generator.randint(1, 20))
            generator.shuffle(parts)
        texts.append(generator.choice(["", " ", " "]).join(parts))
    assert not any("oftext|" in clean(text) for text in texts)
    return texts[:count]


LANGUAGES = ("en", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "zh", "ru", "tr", "ar")


def emoji_names(step: int, languages: tuple[str, ...] = LANGUAGES) -> list[str]:
    """Every `step`-th emoji with its name, in each of the languages."""
    for language in languages:
        emoji.config.load_language(language)
    return [
        f"{symbol} {names[language].strip(':').replace('_', ' ')}"
        for symbol, names in islice(emoji.EMOJI_DATA.items(), 0, None, step)
        for language in languages
        if language in names
    ]


def merges_of(tokenizer) -> list[tuple[str, str]]:
    """The merges of one of our tokenizers, in order."""
    return [tuple(merge) for merge in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]


def text_ids(tokenizer, texts, **kwargs) -> list:
    """All ids of texts, without begin- and end-of-text token."""
    return tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False, **kwargs)["input_ids"]
