"""Words and word pairs of very many texts as numbers, by array operations on their bytes.

A million texts take seconds and no Python object a term: a term is a hash of `BITS` bits, so two
terms may share a number. With a hundred million texts' worth of numbers that happens seldom enough
to change no ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BITS = 24
"""A term is a number below ``2 ** BITS``; words have the lower half, all else the upper."""

SHORT_ROW = 8
"""Words up to which a text also enters with the beginnings and ends of its words."""

AFFIX = 4
"""Characters of a word's beginning and end."""

_CHUNK = 20_000
_HALF = np.uint64(1 << (BITS - 1))
_SHIFT = np.uint64(65 - BITS)
_MASK = np.uint64((1 << BITS) - 1)
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
# The inverse of _BASE modulo 2 ** 64: a hash of part of a text is a difference of running sums.
_INVERSE = np.uint64(pow(int(_BASE), -1, 2**64))
_NEWLINE = 10
_IS_WORD = np.zeros(256, dtype=bool)
_IS_WORD[[*range(48, 58), *range(97, 123), *range(128, 256)]] = True


@dataclass(frozen=True, slots=True)
class Terms:
    """Distinct terms of texts, ascending within a text.

    Attributes:
        columns: int32, the terms of all texts one after another.
        starts: int64 [n + 1]: where the terms of each text begin.
    """

    columns: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def part(self, start: int, stop: int) -> Terms:
        """The terms of the texts from ``start`` up to ``stop``."""
        first, last = self.starts[start], self.starts[stop]
        return Terms(self.columns[first:last], self.starts[start : stop + 1] - first)

    def kept(self, keep: np.ndarray) -> Terms:
        """Only the terms for which ``keep`` is true; bool, as long as ``columns``."""
        before = np.concatenate(([0], np.cumsum(keep)))
        return Terms(self.columns[keep], before[self.starts])

    def words(self) -> Terms:
        """Only the words."""
        return self.kept(self.columns < int(_HALF))

    def rows(self) -> np.ndarray:
        """The text of each term."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def matrix(self, weights: np.ndarray) -> Any:
        """``csr_matrix`` float32 [n, 2 ** BITS] of the weights, rows L2-normalised."""
        from scipy import sparse

        values = weights[self.columns]
        rows = self.rows()
        norms = np.sqrt(np.bincount(rows, weights=values * values, minlength=len(self)))
        values /= np.where(norms == 0, 1, norms)[rows].astype(np.float32)
        return sparse.csr_matrix((values, self.columns, self.starts), shape=(len(self), 1 << BITS))


def hashed_terms(texts: Sequence[str], check: Callable[[], None]) -> Terms:
    """Split folded texts into words, pairs of neighbouring words, and, of short texts, word ends.

    Letters beyond ASCII and everything else encoded with them count as parts of words.

    Args:
        texts: Folded texts, without line breaks.
        check: Called now and then; may raise to stop.
    """
    columns, lengths = [np.empty(0, dtype=np.int32)], [np.empty(0, dtype=np.int64)]
    for start in range(0, len(texts), _CHUNK):
        check()
        part = texts[start : start + _CHUNK]
        keys = _keys(part)
        columns.append((keys & _MASK).astype(np.int32))
        row = (keys >> np.uint64(BITS)).astype(np.int64)
        lengths.append(np.bincount(row, minlength=len(part)))
    starts = np.concatenate(([0], np.cumsum(np.concatenate(lengths))))
    return Terms(np.concatenate(columns), starts)


def _keys(texts: Sequence[str]) -> np.ndarray:
    """Distinct (text, term) as one number each, ascending."""
    joined = "\n" + "\n".join(texts) + "\n"
    data = np.frombuffer(joined.encode("utf-8", "surrogatepass"), dtype=np.uint8)
    edges = np.diff(_IS_WORD[data].astype(np.int8))
    start, stop = np.flatnonzero(edges == 1) + 1, np.flatnonzero(edges == -1) + 1
    row = np.searchsorted(np.flatnonzero(data == _NEWLINE), start) - 1
    hash_of = _hasher(data)
    words = _mixed(hash_of(start, stop))
    next_to = np.flatnonzero(row[1:] == row[:-1])
    terms = [
        words >> _SHIFT,
        _HALF | (_mixed(words[next_to] * _MIX + words[next_to + 1]) >> _SHIFT),
    ]
    rows = [row, row[next_to]]
    in_short = np.bincount(row, minlength=len(texts))[row] <= SHORT_ROW
    some = np.flatnonzero(in_short & (stop - start > AFFIX))
    for salt, (a, b) in enumerate(
        ((start[some], start[some] + AFFIX), (stop[some] - AFFIX, stop[some])), 1
    ):
        terms.append(_HALF | (_mixed(hash_of(a, b) + np.uint64(salt)) >> _SHIFT))
        rows.append(row[some])
    keys = np.concatenate(rows).astype(np.uint64) << np.uint64(BITS) | np.concatenate(terms)
    keys.sort()
    return keys[np.concatenate(([True], keys[1:] != keys[:-1]))] if len(keys) else keys


def _hasher(data: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Polynomial hashes of parts of the data, whatever their place."""
    sums = np.zeros(len(data) + 1, dtype=np.uint64)
    np.cumsum(data.astype(np.uint64) * _powers(_BASE, len(data)), out=sums[1:])
    back = _powers(_INVERSE, len(data))
    return lambda start, stop: (sums[stop] - sums[start]) * back[start]


def _powers(base: np.uint64, n: int) -> np.ndarray:
    powers = np.full(n, base, dtype=np.uint64)
    powers[:1] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _mixed(hashes: np.ndarray) -> np.ndarray:
    hashes = (hashes ^ (hashes >> np.uint64(33))) * _MIX
    return np.asarray(hashes ^ (hashes >> np.uint64(29)))
