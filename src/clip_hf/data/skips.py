# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Rows that cannot be used: their problems, their number, and the limit on them."""

import errno
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from _clip_hf_cli.control_characters import escape_controls

from ..utils.saved_states import check_kinds
from ..utils.wording import counted


# Before this many rows are read, a share says little.
_MIN_ROWS = 1000
_EXAMPLES_PER_KIND = 3
_FILES, _SPACE = "Raise the limit (`ulimit -n`) or use fewer threads or processes", "Make room on the disk"
# What a process lacks, and what to do.
_SHORTAGES = {
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENOMEM: "Use fewer threads or processes, or lower the limits of images (`ImageLimits`)",
}
# What is wrong with its disks.
_FAULTS = {
    errno.EIO: "Check the disk or the network drive",
    errno.ESTALE: "Mount the network drive anew",
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
}
# Places kept for each kind; beyond that only the count is kept.
_PLACES_PER_KIND = 10_000
_REMARKS = {
    "captions_cut": "{count} captions were cut at {context_length} tokens.",
    "plain_images": "{count} pictures are of one colour without their transparency: give a `background_color`.",
}
_COUNTS, _TEXTS = {str: int}, {str: [str]}
_STATE = {"num_used": int, "kinds": _COUNTS, "examples": _TEXTS, "noticed": _COUNTS, "places": _TEXTS}


class DamagedFile(ValueError):
    """A file or shard of data that cannot be read further."""


class UnreachableFile(DamagedFile):
    """A file or shard that may be whole: another try may read it."""


@dataclass(frozen=True)
class SkippedRow:
    """A row that was left out.

    Args:
        kind (`str`): What is wrong, in few words, the same for all rows with the same trouble: `"file truncated"`.
        where (`str`): The row: `"row 17"`, of streams with its shard.
        message (`str`): A sentence for the user.
        name (`str`, *optional*, defaults to `""`): The image's file, if it is known.
    """

    kind: str
    where: str
    message: str
    name: str = ""

    def __post_init__(self):
        # Names of files may steer the terminal that a message goes to.
        object.__setattr__(self, "message", escape_controls(self.message))

    @property
    def place(self) -> str:
        """The row and its file."""
        return escape_controls(f"{self.where} ({self.name})" if self.name else self.where)


def stop_if_exhausted(error: BaseException, what: str) -> None:
    """Raise an `OSError` if `error`, met while `what` was read, comes from this process or machine.

    Such an error says nothing about the file, which must not be skipped because of it: too many open files, no memory,
    a full or failing disk.
    """
    seen, cause = set(), error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        for each in (cause, getattr(cause, "reason", None)):  # of urllib
            number = errno.ENOMEM if isinstance(each, MemoryError) else getattr(each, "errno", None)
            # Clients of object stores give their servers' errors such numbers, and the cause.
            is_fault = number in _FAULTS and each.__cause__ is None
            if isinstance(each, OSError | MemoryError) and (number in _SHORTAGES or is_fault):
                advice = _FAULTS.get(number) or _SHORTAGES[number]
                raise OSError(
                    number,
                    f"{os.strerror(number)}: {what} could not be read, which says nothing about the data. {advice}, "
                    "and run again",
                ) from error
        cause = cause.__cause__ or cause.__context__


class SkipCounter:
    """Counts the rows that a training or an evaluation skips, and stops it when they are too many.

    It also counts what the collator noticed in the other rows: captions that were cut, and images of one colour
    once they had lost their transparency.

    Args:
        max_skipped_share (`float`, *optional*, defaults to 0.05): The largest share of skipped rows among all that
            were read, 0 to 1.
        min_rows (`int`, *optional*, defaults to 1000): The number of rows from which on the share is checked.
        noun (`str`, *optional*, defaults to `"row"`): What a row is called in messages, such as `"film"`.
    """

    def __init__(self, max_skipped_share: float = 0.05, min_rows: int = _MIN_ROWS, noun: str = "row"):
        self.max_skipped_share = max_skipped_share
        self.min_rows, self.noun = min_rows, noun
        self.num_used = 0
        self.kinds: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        # A row comes again in each epoch; dicts keep the order in which rows were met.
        self.places: dict[str, dict[str, None]] = {}
        self.noticed: Counter[str] = Counter()

    @property
    def num_skipped(self) -> int:
        """Rows skipped so far."""
        return self.kinds.total()

    @property
    def counts(self) -> dict[str, int]:
        """What a log holds: the rows that were skipped, the captions that were cut, the images of one colour."""
        return {"skipped": self.num_skipped, **{name: self.noticed[name] for name in _REMARKS}}

    @property
    def share(self) -> float:
        """Share of the skipped among all rows that were read, 0 to 1."""
        return self.num_skipped / max(self.num_used + self.num_skipped, 1)

    def add(self, skipped: Iterable[SkippedRow], num_used: int, noticed: Mapping[str, int] | None = None) -> None:
        """Count a batch: the rows skipped on the way to it (`"skipped"`), its `num_used` pairs, and `"noticed"`."""
        self.num_used += num_used
        self.noticed.update(noticed or {})
        for row in skipped:
            self.kinds[row.kind] += 1
            self._add_place(row.kind, row.place)
            examples = self.examples.setdefault(row.kind, [])
            if len(examples) < _EXAMPLES_PER_KIND and row.message not in examples:
                examples.append(row.message)

    def _add_place(self, kind: str, place: str) -> None:
        places = self.places.setdefault(kind, {})
        if len(places) < _PLACES_PER_KIND:
            places[place] = None

    def check(self) -> None:
        """Raise a `ValueError` with examples if the share of skipped rows is above the limit."""
        if self.num_used + self.num_skipped >= self.min_rows and self.share > self.max_skipped_share:
            examples = " ".join(self.examples[kind][0] for kind, _ in self.kinds.most_common(3))
            raise ValueError(
                f"{self.summary()} That is more than max_skipped_share={self.max_skipped_share:g} allows. "
                f"{examples} Repair the data, or raise `max_skipped_share` (--max-skipped-share) to go on with the "
                "rest."
            )

    def summary(self) -> str:
        """One sentence: how many rows were skipped, by kind. A row counts each time that it was due."""
        total = self.num_used + self.num_skipped
        if not self.kinds:
            return f"No {self.noun} of {total:,} was skipped."
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.most_common())
        verb = "was" if self.num_skipped == 1 else "were"
        return f"{self.num_skipped:,} of {counted(total, self.noun)} ({self.share:.2%}) {verb} skipped: {kinds}."

    def places_text(self) -> str:
        """Which rows were skipped, a line for each kind, with the first few and their files; empty if none was.

        Such as `file truncated: 2 different rows, 14 times: row 7 (images/7.png), row 31 (images/31.png)`.
        """
        lines = []
        for kind, count in self.kinds.most_common():
            places = list(self.places.get(kind, ()))
            least = "at least " if len(places) == _PLACES_PER_KIND else ""
            shown = ", ".join(places[:_EXAMPLES_PER_KIND]) + (", ..." if len(places) > _EXAMPLES_PER_KIND else "")
            lines.append(
                f"{kind}: {least}{counted(len(places), f'different {self.noun}')}, {counted(count, 'time')}: {shown}"
            )
        return "\n".join(lines)

    def remarks(self, context_length: int) -> str:
        """What was noticed of the pairs that were used, a sentence for each kind; captions are cut at this length."""
        counts = [(text, self.noticed[name]) for name, text in _REMARKS.items() if self.noticed[name]]
        used = max(self.num_used, 1)
        shares = [(text, f"{n:,} of {self.num_used:,} ({n / used:.2%})") for text, n in counts]
        return " ".join(text.format(count=share, context_length=context_length) for text, share in shares)

    def state_dict(self) -> dict:
        """What was counted, as plain Python values."""
        return {
            "num_used": self.num_used,
            "kinds": dict(self.kinds),
            "examples": {kind: list(messages) for kind, messages in self.examples.items()},
            "noticed": dict(self.noticed),
            "places": {kind: list(places) for kind, places in self.places.items()},
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from what was counted before; ValueError if it is no [`SkipCounter.state_dict`]."""
        check_kinds(state, _STATE, "The state of the skipped rows")
        self.num_used, self.kinds, self.examples, self.noticed, self.places = 0, Counter(), {}, Counter(), {}
        self.merge(state)

    def merge(self, state: dict) -> None:
        """Add what another process counted, its [`SkipCounter.state_dict`]; of a kind's examples its own stay."""
        self.num_used += state["num_used"]
        self.kinds.update(state["kinds"])
        self.noticed.update(state["noticed"])
        self.examples |= {kind: list(messages) for kind, messages in state["examples"].items()}
        for kind, places in state["places"].items():
            for place in places:
                self._add_place(kind, place)
