# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""int8 codes of unit vectors, the lengths of their errors, and the bounds of cosines that follow.

The code of a unit vector `u` is `s * c`: whole numbers `c` from -127 to 127 and a float32 `s`. `u` is rotated first,
by an orthogonal `R` that is always the same, so that one large value does not make the codes of the others coarse.
Rotations leave cosines as they are. With each code lies `e`, at least the length of `R u - s * c`.

**Bound.** Let `q` be a unit query with the code `d`, scaled and with its levels summed, and `f` at least the length of
`R q - d`. Then

    <q, u> - <d, s c> = <R q, R u - s c> + <R q - d, s c>,

so `<q, u>` is within `e + f (1 + e)` of `<d, s c>`, because `R q` has length 1 and `s c` at most `1 + e`.

**Rounding.** `e` and `f` hold what float32 arithmetic adds to them (`_rounding_of_codes`). Whole numbers' products are
exact. To turn them into float32, scale them and add them up are five roundings, each at most 2**-24 of `(1 + e) |d|`,
where `|d|` sums the lengths of the levels. `QueryCodes.widths` adds three times that and more, which also covers the
roundings of the float64 score.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np


LARGEST_CODE = 127
_UNIT_ROUNDING = 2.0**-24  # of float32


def normalise_rows(vectors: np.ndarray, first: int = 0, what: str = "row") -> np.ndarray:
    """L2-normalise rows of any floating type in float64; no length is too large or too small.

    Args:
        vectors (`np.ndarray`): Rows (n, dim) of a floating type, in any order of memory; the result is in C order.
        first (`int`): Number of the first row, for messages.
        what (`str`): What messages call a row.

    Raises:
        ValueError: if a row is zero, or holds NaN or an infinite value; names the first one.
    """
    rows = vectors.astype(np.float64, order="C")  # sums depend on the order of memory
    largest = np.maximum(rows.max(axis=1, initial=0.0), -rows.min(axis=1, initial=0.0))
    bad = np.flatnonzero(~(np.isfinite(largest) & (largest > 0)))
    if bad.size:
        fault = "is all zeros" if largest[bad[0]] == 0 else "holds NaN or an infinite value"
        raise ValueError(f"{what} {first + bad[0]} {fault}; it has no direction. Leave it out.")
    rows /= largest[:, None]
    rows /= row_lengths(rows)[:, None]
    return rows


def row_lengths(rows: np.ndarray) -> np.ndarray:
    """The lengths of float64 rows (n, dim). Each depends on its own row alone, to the last bit."""
    return np.sqrt((rows * rows).sum(axis=1))


def encode_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the directions of rows.

    Args:
        rows (`np.ndarray`): Rows (n, dim) of a floating type, about of unit length.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: the codes `c` (n, dim) int8, and (n, 2) float32: `s` and `e` of each row.
    """
    codes, scales, rest = _encode(_rotate(_unit(rows)))
    errors = _lengths(rest) * (1 + 2**-20) + _rounding_of_codes(rows.shape[1])
    return codes, np.stack([scales, _round_up(errors)], axis=1)


@dataclass(frozen=True)
class QueryCodes:
    """Codes of queries, each the sum of one or two levels; the second encodes what the first leaves.

    Args:
        codes (`np.ndarray`): (levels * q, dim) int8, the first levels of all queries first.
        scales (`np.ndarray`): (levels * q,) float32.
        errors (`np.ndarray`): The errors `f` (q,) float64.
        sizes (`np.ndarray`): Sums of the levels' lengths (q,) float64, or more.
    """

    codes: np.ndarray
    scales: np.ndarray
    errors: np.ndarray
    sizes: np.ndarray

    def widths(self, errors: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """How far scores may lie from the products of codes, for rows with the errors `e` and queries by number."""
        f = self.errors[queries]
        rounding = 16 * _UNIT_ROUNDING * (1 + errors) * (1 + self.sizes[queries]) + self.codes.shape[1] * 2.0**-48
        return errors + f * (1 + errors) + rounding


def encode_queries(queries: np.ndarray, levels: int) -> QueryCodes:
    """Codes of unit queries (q, dim)."""
    rest = _rotate(_unit(queries))
    sizes = np.zeros(len(queries))
    codes, scales = [], []
    for _ in range(levels):
        whole = rest
        level, scale, rest = _encode(whole)
        codes.append(level)
        scales.append(scale)
        sizes += _lengths(whole) + _lengths(rest)
    errors = _lengths(rest) * (1 + 2**-20) + _rounding_of_codes(queries.shape[1])
    return QueryCodes(np.concatenate(codes), np.concatenate(scales), errors, sizes)


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float32)
    return rows / _lengths(rows)[:, None].astype(np.float32)


def _lengths(rows: np.ndarray) -> np.ndarray:
    """float64 lengths of float32 rows, right to about 1e-15 of them."""
    return np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))


def _round_up(errors: np.ndarray) -> np.ndarray:
    return np.nextafter(errors.astype(np.float32), np.float32(np.inf))


def _encode(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes (n, dim) int8 and scales (n,) of float32 rows, and what these leave of the rows."""
    largest = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    scales = np.maximum(largest / np.float32(LARGEST_CODE), np.float32(2.0**-100))  # a rest may be zero
    codes = np.rint(rows / scales[:, None])
    np.clip(codes, -LARGEST_CODE, LARGEST_CODE, out=codes)
    return codes.astype(np.int8), scales, rows - codes * scales[:, None]


# ------------------------------------------------------------------------------------------------------- the rotation


@functools.cache
def _hadamard(size: int) -> np.ndarray:
    """The Hadamard matrix of a power of two, entries 1 and -1, float32."""
    if size == 1:
        return np.ones((1, 1), np.float32)
    half = _hadamard(size // 2)
    return np.block([[half, half], [half, -half]])


def _sides(dim: int) -> tuple[int, int]:
    """The largest power of two up to `dim`, as a product of two near its root."""
    exponent = dim.bit_length() - 1
    return 2 ** (exponent // 2), 2 ** (exponent - exponent // 2)


def _rotate(rows: np.ndarray) -> np.ndarray:
    """Rotate float32 rows (n, dim): signs, then Hadamard transforms of the first and of the last values.

    Where `dim` is no power of two, the two transforms overlap, so that every value reaches all others.
    """
    numbers = np.arange(rows.shape[1], dtype=np.uint64)
    rows = rows * (1 - 2 * ((numbers * numbers * 40503 + numbers * 30011 >> 9) & 1).astype(np.float32))
    a, b = _sides(rows.shape[1])
    for first in sorted({0, rows.shape[1] - a * b}):
        part = rows[:, first : first + a * b]
        mixed = (part.reshape(-1, b) @ _hadamard(b)).reshape(-1, a, b)
        part[:] = (_hadamard(a) @ mixed).reshape(len(rows), a * b)
        part /= np.float32(math.sqrt(a * b))
    return rows


def _rounding_of_codes(dim: int) -> float:
    """What float32 arithmetic adds to the length of an error at most.

    The product of a unit vector and a Hadamard matrix of size `m`, over `sqrt(m)`, is off by at most `m * sqrt(m)`
    roundings: each value by `m` times the sum of magnitudes, at most `sqrt(m)`. All else is below 16 roundings.
    """
    a, b = _sides(dim)
    return _UNIT_ROUNDING * (2 * (a * math.sqrt(a) + b * math.sqrt(b)) + 16) * 1.01
