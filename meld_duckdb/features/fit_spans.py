"""A learned reader of values out of texts: which span of a text is the value of an attribute?

Tokens are told apart by attribute first (`TokenModel`), from all labels at once, because the value
of one attribute is not the value of another. Boosted trees then weigh spans: what the tokens inside
and around them say, the values that labels name, their patterns, lengths and neighbours. What the
trees are fitted on never saw the text it describes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from meld_duckdb.features.attribute import (
    FEATURES,
    Label,
    Memory,
    Place,
    best_spans,
    span_features,
    span_text,
)
from meld_duckdb.features.spans import Text, fold_value
from meld_duckdb.features.spans_tokens import Embed, FloatArray, TokenModel
from meld_duckdb.features.trees import TreeEnsemble

MOST_LABELS = 10_000
"""Labels that are learned from, the first ones."""

MOST_ATTRIBUTES = 150
"""Attributes that tokens are told apart by, the most frequent ones."""

MOST_QUESTIONS = 3_000
"""Labels the trees are fitted on."""

_NONE: Counter[Hashable] = Counter()


@dataclass(frozen=True, slots=True)
class Found:
    """A span of a text with its probability of being the value."""

    value: str
    probability: float


class SpanModel:
    """Fitted to labels of any number of attributes.

    Args:
        labels: Labelled texts; a text may have labels of several attributes.
        embed: Embeds words and texts; None to do without.
        trees: Weighs spans; None to fit it to the labels.
    """

    def __init__(
        self,
        labels: Sequence[Label],
        embed: Embed | None = None,
        trees: TreeEnsemble | None = None,
    ) -> None:
        labels = [x for x in labels if x.text.words][:MOST_LABELS]
        counts = Counter(x.attribute for x in labels)
        self._columns = {a: i + 1 for i, (a, _) in enumerate(counts.most_common(MOST_ATTRIBUTES))}
        self._absent = Counter(x.attribute for x in labels if not x.value)
        labels = [x for x in labels if x.attribute in self._columns]
        by_text: dict[str, list[Label]] = {}
        for label in labels:
            by_text.setdefault(label.text.text, []).append(label)
        self._memory = Memory(labels)
        groups = list(by_text.values())
        owners = [self._owners(group) for group in groups]
        texts = [g[0].text for g in groups]
        self._tokens = TokenModel(texts, owners, len(self._columns) + 1, embed)
        self._trees = trees if trees is not None else self._fit(groups)

    @property
    def attributes(self) -> Mapping[str, int]:
        """The attributes that labels name, with the class number of each."""
        return self._columns

    def _owners(self, group: Sequence[Label]) -> list[int]:
        """The class of every token of one labelled text."""
        owners = [0] * len(group[0].text.words)
        for label in group:
            place = label.place
            if place is not None:
                span = range(place[0], place[1] + 1)
                owners[span.start : span.stop] = [self._columns[label.attribute]] * len(span)
        return owners

    def _fit(self, groups: Sequence[Sequence[Label]]) -> TreeEnsemble | None:
        rows, right = self.training_rows(groups)
        if len(rows) < 40 or not 0 < right.sum() < len(right):
            return None
        return fit_trees(rows, right)

    def training_rows(self, groups: Sequence[Sequence[Label]]) -> tuple[np.ndarray, np.ndarray]:
        """Features and answers of the spans of labelled texts, each text left out for itself."""
        rows, right, asked = [], [], 0
        for group, scores in zip(groups, self._tokens.left_out, strict=False):
            own = Memory.of_text(group)
            for label in group if asked < MOST_QUESTIONS else ():
                asked += 1
                places, features = self._describe(label.text, label.attribute, scores, own)
                rows.append(features)
                wanted = fold_value(label.value)
                right += [span_text(label.text, p) == wanted for p in places]
        matrix = np.concatenate(rows) if rows else np.empty((0, len(FEATURES)), dtype=np.float32)
        return matrix, np.array(right, dtype=np.int64)

    def _describe(
        self, text: Text, name: str, scores: FloatArray, own: Counter[Hashable]
    ) -> tuple[list[Place], np.ndarray]:
        column = self._columns[name]
        places = best_spans(text, name, scores, column, self._memory, own)
        return places, span_features(text, name, places, scores, column, self._memory, own)

    def read(self, questions: Sequence[tuple[Text, str]]) -> list[list[Found] | None]:
        """Rank the spans of texts for attributes.

        Returns:
            For every (text, attribute) the spans, most probable first; the probabilities sum to
            at most 1, and what is missing to 1 says that none of them is the value. None where no
            label names the attribute or the text holds no token.
        """
        known = [(t, a) for t, a in questions if t.words and a in self._columns]
        trees = self._trees
        if trees is None or not known:
            return [None] * len(questions)
        texts = {t.text: t for t, _ in known}
        scores = dict(zip(texts, self._tokens.scores(list(texts.values())), strict=True))
        asked = [(t, self._describe(t, a, scores[t.text], _NONE)) for t, a in known]
        predicted = trees.predict(np.concatenate([features for _, (_, features) in asked]))
        ends = np.cumsum([len(places) for _, (places, _) in asked])[:-1]
        ranked = iter(
            [
                _ranked(text, places, part)
                for (text, (places, _)), part in zip(asked, np.split(predicted, ends), strict=True)
            ]
        )
        return [next(ranked) if t.words and a in self._columns else None for t, a in questions]


def _ranked(text: Text, places: Sequence[Place], probabilities: np.ndarray) -> list[Found]:
    best: dict[str, float] = {}
    for place, probability in zip(places, probabilities.tolist(), strict=True):
        value = text.part(*place)
        best[value] = max(best.get(value, 0.0), probability)
    total = max(1.0, sum(best.values()))
    order = sorted(best, key=lambda v: -best[v])
    return [Found(value, best[value] / total) for value in order]


def fit_trees(rows: np.ndarray, right: np.ndarray) -> TreeEnsemble:
    """Fit trees that say which spans are right."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        learning_rate=0.08,
        max_iter=100,
        max_leaf_nodes=15,
        min_samples_leaf=max(5, min(30, len(rows) // 100)),
        l2_regularization=5.0,
        early_stopping=False,
        random_state=0,
    )
    model.fit(rows, right)
    return TreeEnsemble.from_sklearn(model, FEATURES)
