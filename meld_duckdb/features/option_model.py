"""A classifier over options that learns from labelled items, and knows options it never saw.

Kernel ridge regression on a sum of kernels (TF-IDF cosines of several texts of an item, encoder
cosines) scores the options that labels name; its leave-one-out scores come for free, and they, the
nearest labelled item of every option, and the similarity of item and option name are the features
of a conditional logit (`features.choose`). An option without a label has the last of these only, and
the logit has learned on options whose one label was left out what that is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from meld_duckdb.features.choose import Matrix, fit_weights, option_words, probabilities
from meld_duckdb.features.text import fold, grams, words

MOST_LABELS = 3_000
"""Labelled items that are learned from; a fit grows with their cube."""

MOST_OPTIONS = 400
"""Options a labelled item is contrasted with when weights are fitted."""

_RIDGES = (0.03, 0.1, 0.3, 1.0)
_TEXT = 500
_HIDDEN = 10


@dataclass(frozen=True, slots=True)
class Item:
    """Something that has one of the options.

    Attributes:
        texts: Its texts by part, for example ``{"header": "birth place"}``.
        vectors: float32 [parts, d], their embeddings in the order of ``texts``; a zero row where a
            part has no text.
    """

    texts: Mapping[str, str]
    vectors: np.ndarray


@dataclass(frozen=True, slots=True)
class Scored:
    """Probability of every option of a question, and what spoke for the best one."""

    probabilities: Matrix
    evidence: tuple[tuple[str, float], ...]


FEATURES = ("labels", "nearest label", "learned", "frequent", "name", "words of the name")


class OptionModel:
    """Chooses among options.

    Args:
        items: Labelled items; may be empty.
        answers: Their options.
        embed_options: Texts of options to vectors, float32 [n, d], L2-normalised.
    """

    def __init__(
        self,
        items: Sequence[Item],
        answers: Sequence[str],
        embed_options: Callable[[Sequence[str]], np.ndarray],
    ) -> None:
        self._items = list(items[:MOST_LABELS])
        self._answers = list(answers[:MOST_LABELS])
        self._embed = embed_options
        self._vocabulary = sorted(set(self._answers))
        self._number = {option: i for i, option in enumerate(self._vocabulary)}
        self._prior = np.array([4.0, 2.0, 0.0, 0.0, 12.0, 2.0])
        self._weights = self._prior
        self._spaces = [
            _Space([split(fold(item.texts[part], _TEXT)) for item in self._items])
            for part in (self._items[0].texts if self._items else ())
            for split in (words, grams)
        ]
        if len(self._items) > 1:
            self._fit()

    def score(self, items: Sequence[Item], domains: Sequence[Sequence[str]]) -> list[Scored]:
        """Score the options of every item, in their order; a domain may not be empty."""
        if not items:
            return []
        learned = self._learned_scores(items)
        names = self._name_scores(items, sorted({o for domain in domains for o in domain}))
        found: list[Scored] = []
        for i, domain in enumerate(domains):
            rows = np.stack([self._row(o, learned, names, i) for o in domain])
            shares = probabilities(rows, self._weights)
            best = rows[int(np.argmax(shares))] * self._weights
            reasons = sorted(zip(FEATURES, best.tolist(), strict=True), key=lambda r: -r[1])
            found.append(Scored(shares, tuple((n, w) for n, w in reasons if w > 0.05)))
        return found

    def _row(
        self,
        option: str,
        learned: tuple[Matrix, Matrix, Matrix],
        names: tuple[dict[str, int], Matrix, Matrix],
        i: int,
        hidden: bool = False,
    ) -> Matrix:
        """Features of one option of one item, in the order of `FEATURES`."""
        ridge, nearest, counts = learned
        at, similar, shared = names
        named = (similar[i, at[option]], shared[i, at[option]])
        c = self._number.get(option)
        if hidden or c is None or counts[i, c] <= 0:
            return np.array([0.0, 0.0, 0.0, 0.0, *named])
        return np.array([ridge[i, c], nearest[i, c], 1.0, np.log(counts[i, c]), *named])

    def _fit(self) -> None:
        kernel = self._kernel(self._items, self._items)
        targets = np.zeros((len(self._items), len(self._vocabulary)))
        own = np.array([self._number[a] for a in self._answers])
        targets[np.arange(len(own)), own] = 1.0
        best = None
        for ridge in _RIDGES:
            inverse = np.linalg.inv(kernel + ridge * np.eye(len(kernel)))
            left_out = targets - (inverse @ targets) / np.diag(inverse)[:, None]
            error = float(((left_out - targets) ** 2).sum())
            if best is None or error < best[0] - 1e-9:
                best = (error, left_out, inverse @ targets)
        if best is None:
            return
        _, left_out, self._dual = best
        self._targets = targets
        alone = kernel.copy()
        np.fill_diagonal(alone, -1.0)
        counts = targets.sum(axis=0)[None, :] - targets
        learned = (left_out, _nearest(alone, own, len(self._vocabulary)), counts)
        self._fit_weights(learned, own)

    def _fit_weights(self, learned: tuple[Matrix, Matrix, Matrix], own: np.ndarray) -> None:
        names = self._name_scores(self._items, self._vocabulary)
        options = self._vocabulary
        if len(options) < 2:
            return
        questions, right = [], []
        for i, answer in enumerate(self._answers):
            ranked = np.argsort(-learned[0][i], kind="stable")[:MOST_OPTIONS]
            domain = [options[c] for c in sorted({*ranked.tolist(), int(own[i])})]
            # Every tenth option is treated as if it had no label, so that the weights know what a
            # name alone is worth beside options with labels.
            hidden = [self._number[o] % _HIDDEN == i % _HIDDEN for o in domain]
            questions.append(
                np.stack([self._row(o, learned, names, i, h) for o, h in zip(domain, hidden, strict=True)])
            )
            right.append(domain.index(answer))
        lower = np.array([0.0, 0.0, -np.inf, -np.inf, 0.0, 0.0])
        self._weights = fit_weights(questions, right, self._prior, lower)

    def _learned_scores(self, items: Sequence[Item]) -> tuple[Matrix, Matrix, Matrix]:
        n_options = len(self._vocabulary)
        if len(self._items) < 2:
            empty = np.zeros((len(items), n_options))
            return empty, empty, empty
        kernel = self._kernel(items, self._items)
        own = np.array([self._number[a] for a in self._answers])
        counts = np.repeat(self._targets.sum(axis=0)[None, :], len(items), axis=0)
        return kernel @ self._dual, _nearest(kernel, own, n_options), counts

    def _kernel(self, left: Sequence[Item], right: Sequence[Item]) -> Matrix:
        """Mean of the cosines of all parts: words, 3-grams and vectors, float64 [left, right]."""
        total = np.zeros((len(left), len(right)))
        parts = list(self._items[0].texts)
        for p, part in enumerate(parts):
            folded = [fold(item.texts[part], _TEXT) for item in left]
            for split, space in zip((words, grams), self._spaces[2 * p :], strict=False):
                total += (space.transform([split(t) for t in folded]) @ space.matrix.T).toarray()
            vectors = [np.stack([item.vectors[p] for item in side]) for side in (left, right)]
            total += np.maximum(vectors[0] @ vectors[1].T, 0.0) ** 2
        return total / (3 * len(parts))

    def _name_scores(
        self, items: Sequence[Item], options: Sequence[str]
    ) -> tuple[dict[str, int], Matrix, Matrix]:
        """How similar each option's name is to each item: encoder cosine, share of its words."""
        written = [option_words(option) for option in options]
        vectors = self._embed(written)
        cosines = np.stack([(item.vectors @ vectors.T) for item in items])
        weights = np.array([[bool(t) for t in item.texts.values()] for item in items], dtype=float)
        weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
        similar = np.einsum("ipo,ip->io", cosines, weights)
        held = [set(words(fold(" ".join(item.texts.values()), 1000))) for item in items]
        named = [set(text.split()) for text in written]
        shared = np.array([[len(n & h) / len(n) if n else 0.0 for n in named] for h in held])
        return {option: i for i, option in enumerate(options)}, similar, shared


def _nearest(kernel: Matrix, own: np.ndarray, n_options: int) -> Matrix:
    """The largest kernel value among the labelled items of each option; 0 where none."""
    found = np.zeros((len(kernel), n_options))
    for c in range(n_options):
        of = np.flatnonzero(own == c)
        if len(of):
            found[:, c] = np.maximum(kernel[:, of].max(axis=1), 0.0)
    return found


class _Space:
    """TF-IDF of the labelled items: what else is asked at the same time changes no weight."""

    def __init__(self, documents: Sequence[Collection[str]]) -> None:
        counts: dict[str, int] = {}
        for document in documents:
            for term in sorted(set(document)):
                counts[term] = counts.get(term, 0) + 1
        total = len(documents)
        self._column = {term: i for i, term in enumerate(counts)}
        self._weight = {t: math.log((1 + total) / (1 + n)) + 1 for t, n in counts.items()}
        self._unseen = math.log(1 + total) + 1
        self.matrix = self.transform(documents)

    def transform(self, documents: Sequence[Collection[str]]) -> Any:
        """Rows of a ``csr_matrix`` [documents, terms], L2-normalised with unseen terms counted."""
        from scipy import sparse

        rows: list[int] = []
        columns: list[int] = []
        values: list[float] = []
        for row, document in enumerate(documents):
            terms = sorted(set(document))
            weights = [self._weight.get(term, self._unseen) for term in terms]
            norm = math.sqrt(math.fsum(w * w for w in weights)) or 1.0
            for term, weight in zip(terms, weights, strict=True):
                if term in self._column:
                    rows.append(row)
                    columns.append(self._column[term])
                    values.append(weight / norm)
        shape = (len(documents), len(self._column))
        return sparse.csr_matrix((values, (rows, columns)), shape=shape)
