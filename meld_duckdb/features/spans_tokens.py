"""Which attribute does every token of a text belong to? Kernel ridge regression over tokens.

The kernel of two tokens is the cosine of their descriptions, more where their texts are about the
same. All classes share one factorisation, and what a fit without a text would have said of that
text follows from it: labels can be described honestly without folds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meld_duckdb.features.spans import Text, token_features, topic_words

FloatArray = NDArray[np.float64]
Embed = Callable[[Sequence[str]], np.ndarray]

MOST_TOKENS = 6_000
"""Tokens that are learned from; a fit grows with their cube."""

_RIDGE = 0.3
_TOPIC = 4.0  # without an encoder
_TOPIC_WORDS, _TOPIC_MEANING = 2.0, 4.0
_MEANING, _MEANING_AROUND = 0.6, 0.2
_UNRELATED = 0.2  # a cosine that two words have by chance
_DECIMALS = 4  # the rest depends on what else is in the encoder's batch
_CHARS = 300
_BATCH = 32


class NameSpace:
    """TF-IDF vectors of lists of names; names that were not fitted on are left out."""

    def __init__(self, lists: Sequence[Sequence[str]]) -> None:
        self._number: dict[str, int] = {}
        for names in lists:
            for name in names:
                self._number.setdefault(name, len(self._number))
        counts = np.ones(max(1, len(self._number)))
        for names in lists:
            for name in set(names):
                counts[self._number[name]] += 1
        self._idf = np.log((1 + len(lists)) / counts) + 1

    def matrix(self, lists: Sequence[Sequence[str]]) -> Any:
        """Sparse [lists, names], rows of length one (or none)."""
        from scipy import sparse

        rows = [[self._number[x] for x in names if x in self._number] for names in lists]
        flat = np.array([x for r in rows for x in r], dtype=np.int64)
        owner = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        weights = self._idf[flat]
        norms = np.sqrt(np.bincount(owner, weights**2, minlength=len(rows)))
        weights = weights / np.maximum(norms, 1e-9)[owner]
        return sparse.csr_matrix((weights, (owner, flat)), shape=(len(rows), len(self._idf)))


class _Vectors:
    """Encoder vectors of texts, each embedded once; zeros for texts that say nothing."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._known: dict[str, np.ndarray] = {}

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [texts, dimension]."""
        cut = [t[:_CHARS] for t in texts]
        new = [t for t in dict.fromkeys(cut) if t not in self._known]
        if new:
            vectors = np.asarray(self._embed(new), dtype=np.float32).round(_DECIMALS)
            self._known.update(zip(new, vectors, strict=True))
        return np.stack([self._known[t] for t in cut])


@dataclass(frozen=True, slots=True)
class _Meaning:
    """Encoder vectors of tokens, of the tokens before and behind them, and of their texts."""

    here: np.ndarray
    before: np.ndarray
    behind: np.ndarray
    texts: np.ndarray


class TokenModel:
    """The token classifier.

    Args:
        texts: Labelled texts with at least one token each; those beyond `MOST_TOKENS` are left out.
        owners: Class number of every token of every text, 0 for no class.
        n_classes: Number of classes, class 0 among them.
        embed: Embeds words and texts; None to do without.

    Attributes:
        left_out: Scores [tokens, classes] of every learned text, by a fit without that text.
    """

    def __init__(
        self,
        texts: Sequence[Text],
        owners: Sequence[Sequence[int]],
        n_classes: int,
        embed: Embed | None = None,
    ) -> None:
        from scipy import linalg

        ends = np.cumsum([len(t.words) for t in texts])
        texts = texts[: max(1, int((ends <= MOST_TOKENS).sum()))]
        self._tokens = NameSpace([d for t in texts for d in _described(t)])
        self._topics = NameSpace([topic_words(t) for t in texts])
        self._rows = self._tokens.matrix([d for t in texts for d in _described(t)])
        self._topic_rows = self._topics.matrix([topic_words(t) for t in texts])
        self._vectors = None if embed is None else _Vectors(embed)
        self._meaning = self._means(texts)
        self._owner = np.repeat(np.arange(len(texts)), [len(t.words) for t in texts])
        classes = np.array([c for line in owners[: len(texts)] for c in line], dtype=np.int64)
        wanted = np.eye(n_classes)[classes]
        kernel = self._kernel(texts)
        kernel.flat[:: len(kernel) + 1] += _RIDGE
        inverse = linalg.inv(kernel, overwrite_a=True, check_finite=False)
        self._weights: FloatArray = inverse @ wanted
        self.left_out = []
        starts = np.searchsorted(self._owner, np.arange(len(texts) + 1))
        for first, last in itertools.pairwise(starts):
            block = slice(first, last)
            residual = np.linalg.solve(inverse[block, block], self._weights[block])
            self.left_out.append(wanted[block] - residual)

    def _kernel(self, texts: Sequence[Text]) -> FloatArray:
        rows = self._tokens.matrix([d for t in texts for d in _described(t)])
        topics = self._topics.matrix([topic_words(t) for t in texts])
        owner = np.repeat(np.arange(len(texts)), [len(t.words) for t in texts])
        near: FloatArray = (topics @ self._topic_rows.T).toarray()
        kernel: FloatArray = (rows @ self._rows.T).toarray()
        mine, learned = self._means(texts), self._meaning
        if mine is None or learned is None:
            near *= _TOPIC
        else:
            close = np.clip(mine.texts @ learned.texts.T, 0.0, 1.0)
            near = _TOPIC_WORDS * near + _TOPIC_MEANING * close**2
            kernel += _MEANING * _related(mine.here, learned.here)
            kernel += _MEANING_AROUND * _related(mine.before, learned.before)
            kernel += _MEANING_AROUND * _related(mine.behind, learned.behind)
        kernel *= 1 + near[owner][:, self._owner]
        return kernel

    def _means(self, texts: Sequence[Text]) -> _Meaning | None:
        if self._vectors is None:
            return None
        words = [w for t in texts for w in t.words]
        spoken = [w if w.isalpha() else "" for w in words]
        here = self._vectors.rows([*spoken, ""])
        here[[not w for w in [*spoken, ""]]] = 0.0
        blank = len(words)
        at = np.arange(blank)
        ends = np.cumsum([len(t.words) for t in texts])
        starts = np.concatenate([[0], ends[:-1]])
        before = np.where(np.isin(at, starts), blank, at - 1)
        behind = np.where(np.isin(at, ends - 1), blank, at + 1)
        return _Meaning(
            here[:-1], here[before], here[behind], self._vectors.rows([t.text for t in texts])
        )

    def scores(self, texts: Sequence[Text]) -> list[FloatArray]:
        """Score of every class for every token, [tokens, classes] a text; near 1 if right."""
        result = []
        for start in range(0, len(texts), _BATCH):
            batch = texts[start : start + _BATCH]
            ends = np.cumsum([len(t.words) for t in batch])[:-1]
            result += np.split(self._kernel(batch) @ self._weights, ends)
        return result


def _related(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(rows @ others.T - _UNRELATED, 0.0, 1.0))


def _described(text: Text) -> list[list[str]]:
    return [token_features(text, i) for i in range(len(text.words))]
