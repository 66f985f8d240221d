"""Seeded noise as a pure function: the same seed and arguments always give the same number.

Nothing here has a state, so a market built on it continues exactly where it stopped after a restart.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
_Words = npt.NDArray[np.uint64]

# Each octave of a path wanders four times slower and twice as far as the one before, which together move
# like a random walk from a second up to the longest period and stay within bounds beyond it.
_PERIODS_S = 4.0 ** np.arange(8)


def word(label: str) -> int:
    """A text as an integer part for `uniform`."""
    return zlib.crc32(label.encode())


def uniform(seed: int, *parts: npt.ArrayLike) -> FloatArray:
    """Uniform numbers in [0, 1), one per element of the broadcast integer parts, at least 1-dimensional."""
    mixed = _mix(np.atleast_1d(np.asarray(seed, dtype=np.int64)).astype(np.uint64))
    for part in parts:
        mixed = _mix(mixed ^ np.asarray(part, dtype=np.int64).astype(np.uint64))
    return (mixed >> np.uint64(11)) / float(1 << 53)


def wander(seed: int, label: str, ts: npt.ArrayLike) -> FloatArray:
    """A continuous bounded path over time (epoch seconds); its variance grows by about 1 a second."""
    at = np.atleast_1d(np.asarray(ts, dtype=np.float64))[:, None] / _PERIODS_S
    left = np.floor(at)
    octave = np.arange(len(_PERIODS_S))
    here = _signed(seed, label, octave, left)
    there = _signed(seed, label, octave, left + 1)
    path = (here + (there - here) * (at - left)) * np.sqrt(_PERIODS_S)
    return np.asarray(path.sum(axis=1))


def _signed(seed: int, label: str, octave: IntArray, index: FloatArray) -> FloatArray:
    return 2.0 * uniform(seed, word(label), octave, index.astype(np.int64)) - 1.0


def _mix(words: _Words) -> _Words:
    """The splitmix64 finaliser: neighbouring inputs give unrelated outputs. Wraps around by design."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
