# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Rows as they are stored: normalised, rounded, and as int8 codes whose error is known.

A row `x` stands for the unit vector `u = x / |x|`. Its code is `s * c`: 8-bit whole numbers `c` from -127 to 127 and one
float32 `s`. With it lies `e`, which is at least the length of `u - s * c`. So a whole-number product of codes says
within which bounds the cosine lies (see `exact_scan.py`).
"""

import numpy as np


LARGEST_CODE = 127


def normalise_rows(vectors: np.ndarray, first: int = 0, what: str = "row") -> np.ndarray:
    """L2-normalise rows of any floating type and any length in float64; no length is too large or too small.

    Args:
        vectors (`np.ndarray`): Rows (n, dim) of a floating type.
        first (`int`): Number of the first row, for messages; `what` is what a row is called there.

    Raises:
        ValueError: if a row is zero, or holds NaN or an infinite value; names the first one.
    """
    rows = vectors.astype(np.float64)
    largest = np.abs(rows).max(axis=1, initial=0.0)
    bad = np.flatnonzero(~(np.isfinite(largest) & (largest > 0)))
    if bad.size:
        fault = "is all zeros" if largest[bad[0]] == 0 else "holds NaN or an infinite value"
        raise ValueError(f"{what} {first + bad[0]} {fault}; it has no direction. Leave it out.")
    rows /= largest[:, None]
    rows /= row_norms(rows)[:, None]
    return rows


def row_norms(rows: np.ndarray) -> np.ndarray:
    """The lengths of float64 rows (n, dim); each depends on its own row alone, to the last bit."""
    return np.sqrt((rows * rows).sum(axis=1))


def encode_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of rows that are not zero, whatever their lengths.

    Args:
        rows (`np.ndarray`): Rows (n, dim) of a floating type, near unit length.

    Returns:
        `tuple`: the codes (n, dim) int8, and (n, 2) float32 of scales and errors.
    """
    rows = rows.astype(np.float64)
    dim = rows.shape[1]
    rows /= row_norms(rows)[:, None]
    scales = (np.abs(rows).max(axis=1) / LARGEST_CODE).astype(np.float32)
    codes = np.clip(np.rint(rows / scales[:, None].astype(np.float64)), -LARGEST_CODE, LARGEST_CODE)
    rows -= codes * scales[:, None].astype(np.float64)
    # The roundings of `u`, of the difference and of its length are each below dim + 8 units of 2**-53.
    errors = row_norms(rows) * (1 + (dim + 8) * 2.0**-52) + (dim + 8) * 2.0**-52
    rounded = np.nextafter(errors.astype(np.float32), np.float32(np.inf))
    return codes.astype(np.int8), np.stack([scales, rounded], axis=1)
