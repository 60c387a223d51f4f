"""A classifier over options that learns from labelled items, and knows options it never saw.

Kernel ridge regression (TF-IDF cosines of words and 3-grams, encoder cosines, of every part of an
item) scores the options that labels name. Its leave-one-out scores come for free. They, the
nearest labelled item of every option, and the similarity of item and name of the option are the
features of a conditional logit (`features.choose`). An option without a label has the last of
these only, and the logit has learned what that is worth on options whose one label was left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from meld_duckdb.features import shapes
from meld_duckdb.features.choose import Matrix, fit_weights, option_words, probabilities
from meld_duckdb.features.text import fold, grams, words

Embed = Callable[[Sequence[str]], np.ndarray]

MOST_LABELS = 2_000
"""Labelled items that are learned from, the first ones; a fit grows with their cube."""

MOST_OPTIONS = 300
"""Options a labelled item is contrasted with when weights are fitted."""

FEATURES = (
    "labels",
    "nearest label",
    "has labels",
    "frequent",
    "related options",
    "name",
    "best part of the name",
    "words of the name",
    "shape of the values",
)

PRIOR = np.array([4.0, 2.0, -2.0, 0.0, 2.0, 10.0, 4.0, 0.5, 2.0])
"""Weights without any label. Fitted to training columns of the benchmark data, then rounded."""

_LOWER = np.array([0.0, 0.0, -np.inf, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
"""Least weights. Labels are often drawn so that rare options have at least one: what is frequent
among them may still never speak against an option."""

_FLOOR = 0.02
"""Scores of the labels below this do not tell options apart."""

_SCALES = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3)
_RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)
_DECIMALS = 5  # the sum of a product depends on its order in the last bits
_CHUNK = 128
_RIVALS = 4
_SHORT = 4
"""Options offered are a short list where labels know this many times as many: most likely rivals
of each other, which somebody has chosen, and not a random part of all options."""

_KEPT_OPTIONS = 10_000
_FOLDS = 10
_PART_CHARS = 500


@dataclass(frozen=True, slots=True)
class Item:
    """Something that has one of the options.

    Attributes:
        texts: Its texts by part, for example ``{"header": "birth place"}``; every item has the
            same parts, empty where there is nothing.
        values: Values whose shapes count; may be empty.
    """

    texts: Mapping[str, str]
    values: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Scored:
    """Probability of every option of a question, and what spoke for the best one."""

    probabilities: Matrix
    evidence: tuple[tuple[str, float], ...]


def embed_distinct(embed: Embed, texts: Sequence[str]) -> Matrix:
    """Embed every distinct text once; float64 [n, d], rounded, same order as ``texts``."""
    number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    vectors = np.asarray(embed(list(number)), dtype=np.float64).round(_DECIMALS)
    found: Matrix = vectors[[number[text] for text in texts]]
    return found


class _Terms:
    """TF-IDF of labelled texts; others are weighed by the labelled ones alone."""

    def __init__(self, documents: Sequence[Sequence[str]]) -> None:
        counts: dict[str, int] = {}
        for document in documents:
            for term in sorted(set(document)):
                counts[term] = counts.get(term, 0) + 1
        n = len(documents)
        self._column = {term: i for i, term in enumerate(counts)}
        self._weight = np.log((1 + n) / (1 + np.array(list(counts.values()), dtype=float))) + 1
        self._unseen = float(np.log(1 + n) + 1)
        self._own = self._matrix(documents)

    def cosines(self, documents: Sequence[Sequence[str]]) -> Matrix:
        found: Matrix = np.asarray((self._matrix(documents) @ self._own.T).toarray())
        return found

    def _matrix(self, documents: Sequence[Sequence[str]]) -> Any:
        from scipy import sparse

        columns: list[int] = []
        values: list[Matrix] = [np.zeros(0)]
        ends = [0]
        for document in documents:
            terms = set(document)
            known = sorted(self._column[t] for t in terms if t in self._column)
            weights = self._weight[known]
            unseen = (len(terms) - len(known)) * self._unseen**2
            norm = float(np.sqrt((weights**2).sum() + unseen)) or 1.0
            columns += known
            values.append(weights / norm)
            ends.append(len(columns))
        shape = (len(documents), len(self._column))
        return sparse.csr_matrix((np.concatenate(values), columns, ends), shape=shape)


@dataclass(frozen=True, slots=True)
class _Split:
    """Items taken apart: documents per kernel, vectors and presence per part."""

    documents: tuple[tuple[tuple[str, ...], ...], ...]
    vectors: Matrix
    present: Matrix

    def __len__(self) -> int:
        return len(self.vectors)

    def cut(self, start: int, stop: int) -> _Split:
        return _Split(
            tuple(d[start:stop] for d in self.documents),
            self.vectors[start:stop],
            self.present[start:stop],
        )


class OptionModel:
    """Chooses among options.

    Args:
        items: Labelled items; may be empty.
        answers: Their options.
        embed: Texts to vectors, float32 [n, d], L2-normalised.
        prior: Weights of `FEATURES` without labels, to which a fit is pulled.
    """

    def __init__(
        self,
        items: Sequence[Item],
        answers: Sequence[str],
        embed: Embed,
        prior: Matrix = PRIOR,
    ) -> None:
        self._items = list(items[:MOST_LABELS])
        self._answers = list(answers[:MOST_LABELS])
        self._embed = embed
        self._vocabulary = sorted(set(self._answers))
        self._number = {option: i for i, option in enumerate(self._vocabulary)}
        self._own = np.array([self._number[a] for a in self._answers], dtype=np.int64)
        self._weights = prior
        self._short_scale = 1.0
        self._option_vectors: dict[str, np.ndarray] = {}
        self._fitted = len(self._items) > 1
        if self._fitted:
            self._fit(prior)

    @property
    def options(self) -> tuple[str, ...]:
        """The options that labels name, in order of their text."""
        return tuple(self._vocabulary)

    def score(
        self, items: Sequence[Item], domains: Sequence[Sequence[str]] | None = None
    ) -> list[Scored]:
        """Score the options of every item, in their order.

        Args:
            items: The items asked about.
            domains: The options of each, never empty.
        """
        domains = domains if domains is not None else [self._vocabulary] * len(items)
        if not items:
            return []
        options = sorted({o for domain in domains for o in domain})
        at = {option: i for i, option in enumerate(options)}
        names = self._names(options)
        vectors, present = self._embedded(items)
        found: list[Scored] = []
        for start in range(0, len(items), _CHUNK):
            at_once = slice(start, start + _CHUNK)
            chunk = items[at_once]
            part = _Split(_documents(chunk), vectors[at_once], present[at_once])
            learned = self._learned(self._kernel(part)) if self._fitted else None
            rows = self._rows(chunk, part, options, names, learned)
            for i, domain in enumerate(domains[start : start + _CHUNK]):
                found.append(self._scored(rows[i, [at[o] for o in domain]]))
        return found

    def _scored(self, rows: Matrix) -> Scored:
        short = _SHORT * len(rows) <= len(self._vocabulary)
        shares = probabilities(rows, self._weights * (self._short_scale if short else 1.0))
        best = rows[int(np.argmax(shares))] * self._weights
        reasons = sorted(zip(FEATURES, best.tolist(), strict=True), key=lambda r: -r[1])
        return Scored(shares, tuple((n, round(w, 4)) for n, w in reasons if w > 0.05))

    def _fit(self, prior: Matrix) -> None:
        self._labelled = _Split(_documents(self._items), *self._embedded(self._items))
        self._terms = [_Terms(documents) for documents in self._labelled.documents]
        kernel = self._kernel(self._labelled)
        kernel = (kernel + kernel.T) / 2
        targets = np.zeros((len(self._own), len(self._vocabulary)))
        targets[np.arange(len(self._own)), self._own] = 1.0
        self._counts = targets.sum(axis=0)
        self._dual, left_out = _ridge(kernel, targets)
        fold_of = np.arange(len(self._own)) % min(_FOLDS, len(self._own))
        together = fold_of[:, None] == fold_of[None, :]
        counts = self._counts[None, :] - together @ targets
        nearest = _nearest(np.where(together, 0.0, kernel), self._own, len(self._vocabulary))
        learned = (left_out, nearest, counts)
        if len(self._vocabulary) > 1:
            self._fit_weights(learned, prior)

    def _fit_weights(self, learned: tuple[Matrix, Matrix, Matrix], prior: Matrix) -> None:
        names = self._names(self._vocabulary)
        questions, right = [], []
        for start in range(0, len(self._items), _CHUNK):
            stop = start + _CHUNK
            part = (learned[0][start:stop], learned[1][start:stop], learned[2][start:stop])
            rows = self._rows(
                self._items[start:stop],
                self._labelled.cut(start, stop),
                self._vocabulary,
                names,
                part,
            )
            for i, own in enumerate(self._own[start:stop].tolist()):
                ranked = np.argsort(-part[0][i], kind="stable")[:MOST_OPTIONS]
                domain = sorted({*ranked.tolist(), own})
                questions.append(rows[i, domain])
                right.append(domain.index(own))
        self._weights = fit_weights(questions, right, prior, _LOWER)
        self._short_scale = _rival_scale(questions, right, self._weights)

    def _rows(
        self,
        items: Sequence[Item],
        split: _Split,
        options: Sequence[str],
        names: tuple[list[str], Matrix],
        learned: tuple[Matrix, Matrix, Matrix] | None,
    ) -> Matrix:
        """Features of every option of every item, float64 [items, options, features]."""
        written, vectors = names
        rows = np.zeros((len(items), len(options), len(FEATURES)))
        if learned is not None:
            ridge, nearest, counts = learned
            known = [(i, self._number[o]) for i, o in enumerate(options) if o in self._number]
            if known:
                at, c = (list(x) for x in zip(*known, strict=True))
                seen = counts[:, c] > 0
                raised = np.log(np.maximum(ridge[:, c], _FLOOR) / _FLOOR)
                rows[:, at, 0] = np.where(seen, 0.3 * raised, 0.0)
                rows[:, at, 1] = np.where(seen, nearest[:, c], 0.0)
                rows[:, at, 2] = seen
                rows[:, at, 3] = np.where(seen, np.log(np.maximum(counts[:, c], 1.0)), 0.0)
            rows[:, :, 4] = self._related(ridge, counts, vectors)
        cosines = np.maximum(np.einsum("ipd,od->ipo", split.vectors, vectors), 0.0)
        rows[:, :, 5] = cosines.sum(axis=1) / np.maximum(split.present.sum(axis=1), 1.0)[:, None]
        rows[:, :, 6] = cosines.max(axis=1, initial=0.0)
        named = [set(text.split()) for text in written]
        for i, item in enumerate(items):
            held = set(words(fold(" ".join(item.texts.values()), 1000)))
            kind = shapes.column_kind(item.values)
            rows[i, :, 7] = [len(n & held) / len(n) if n else 0.0 for n in named]
            rows[i, :, 8] = [shapes.agrees(kind, text) for text in written]
        return rows.round(_DECIMALS)

    def _related(self, ridge: Matrix, counts: Matrix, vectors: Matrix) -> Matrix:
        """How similar the names of options are to those that labels speak for."""
        own = self._names(self._vocabulary)[1]
        alike = np.maximum(vectors @ own.T, 0.0)
        alike[alike > 0.999] = 0.0  # its own labels speak for an option already
        speaks = np.where(counts > 0, np.maximum(ridge, 0.0), 0.0)
        related: Matrix = speaks @ alike.T
        return related

    def _learned(self, kernel: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        counts = np.repeat(self._counts[None, :], len(kernel), axis=0)
        return kernel @ self._dual, _nearest(kernel, self._own, len(self._vocabulary)), counts

    def _names(self, options: Sequence[str]) -> tuple[list[str], Matrix]:
        written = [option_words(option) for option in options]
        new = [text for text in dict.fromkeys(written) if text not in self._option_vectors]
        if len(self._option_vectors) > _KEPT_OPTIONS:
            self._option_vectors, new = {}, list(dict.fromkeys(written))
        if new:
            self._option_vectors.update(zip(new, self._embed(new), strict=True))
        vectors = [self._option_vectors[text] for text in written]
        return written, np.asarray(vectors, dtype=np.float64)

    def _embedded(self, items: Sequence[Item]) -> tuple[Matrix, Matrix]:
        """Vectors [items, parts, d] and presence [items, parts] of the parts of items."""
        flat = [text for item in items for text in _texts(item)]
        present = np.array([bool(text) for text in flat], dtype=float)
        vectors = embed_distinct(self._embed, flat) * present[:, None]
        return vectors.reshape(len(items), -1, vectors.shape[1]), present.reshape(len(items), -1)

    def _kernel(self, split: _Split) -> Matrix:
        """Mean of the cosines of all parts the labelled items have, and its square."""
        total = np.zeros((len(split), len(self._labelled)))
        for terms, documents in zip(self._terms, split.documents, strict=True):
            total += terms.cosines(documents)
        total += np.maximum(np.einsum("ipd,lpd->il", split.vectors, self._labelled.vectors), 0.0)
        own = 3.0 * self._labelled.present.sum(axis=1)
        own += np.array([bool(shaped) for shaped in self._labelled.documents[-1]])
        mean = total / max(float(own.max(initial=1.0)), 1.0)
        kernel: Matrix = (mean + 2.0 * mean**2) / 3.0
        return kernel


def _texts(item: Item) -> list[str]:
    return [fold(text, _PART_CHARS) for text in item.texts.values()]


def _documents(items: Sequence[Item]) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Terms of every item: words and 3-grams of each part, then the shapes of its values."""
    parts = list(zip(*map(_texts, items), strict=True))
    split = [tuple(tuple(terms(t)) for t in column) for column in parts for terms in (words, grams)]
    return (*split, tuple(tuple(map(shapes.value_shape, item.values)) for item in items))


def _ridge(kernel: Matrix, targets: Matrix) -> tuple[Matrix, Matrix]:
    """Fit with the ridge whose left-out error is least.

    Whole folds are left out, not single items: an option whose labels are all left out is then
    one of several without a label, as it will be among the options of a question.

    Returns:
        (dual weights, left-out scores), each float64 [items, options].
    """
    values, vectors = np.linalg.eigh(kernel)
    values = np.maximum(values, 0.0)
    folds = min(_FOLDS, len(kernel))
    best: tuple[float, Matrix, Matrix] | None = None
    for ridge in _RIDGES:
        inverse = (vectors / (values + ridge)) @ vectors.T
        dual = inverse @ targets
        left_out = np.empty_like(targets)
        for first in range(folds):
            at = slice(first, None, folds)
            left_out[at] = targets[at] - np.linalg.solve(inverse[at, at], dual[at])
        error = float(((left_out - targets) ** 2).sum())
        if best is None or error < best[0] - 1e-9:
            best = (error, dual, left_out)
    if best is None:
        return np.zeros_like(targets), np.zeros_like(targets)
    return best[1], best[2]


def _rival_scale(questions: Sequence[Matrix], right: Sequence[int], weights: Matrix) -> float:
    """The factor of the weights that suits the right options and their strongest rivals best."""
    losses = []
    for scale in _SCALES:
        loss = 0.0
        for rows, own in zip(questions, right, strict=True):
            scores = np.asarray(rows @ weights)
            others = np.sort(np.delete(scores, own))[::-1][:_RIVALS]
            loss += float(np.log(np.exp(np.minimum(scale * (others - scores[own]), 60)).sum() + 1))
        losses.append(loss)
    return _SCALES[int(np.argmin(losses))]


def _nearest(kernel: Matrix, own: np.ndarray, n_options: int) -> Matrix:
    """The largest kernel value among the labelled items of each option; 0 where none."""
    found = np.zeros((len(kernel), n_options))
    for c in range(n_options):
        found[:, c] = kernel[:, own == c].max(axis=1, initial=0.0)
    return found
