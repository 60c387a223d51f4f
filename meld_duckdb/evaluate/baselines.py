"""Plain baselines, made from the same labels and questions as the product's answers.

scikit-learn and rapidfuzz are imported where they are needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from meld_duckdb.evaluate.case import Baseline, Reply
from meld_duckdb.evaluate.metrics import best_threshold

FloatArray = npt.NDArray[np.float64]
Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]

_CUT = 500
_ROWS = 512


def said(values: Sequence[bool] | npt.NDArray[np.bool_]) -> list[Reply]:
    """Replies of a binary task."""
    return [Reply("true" if v else "false") for v in values]


def given(values: Sequence[str | None]) -> list[Reply]:
    """Replies with a value."""
    return [Reply(v) for v in values]


def vectorise(*groups: Sequence[str]) -> list[Any]:
    """TF-IDF over character 3-grams of several groups of texts with joint weights (sparse)."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    model = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 3), dtype=np.float32)
    cut = [[f"  {t[:_CUT]}  " or "  " for t in group] for group in groups]
    try:
        model.fit([t for group in cut for t in group])
    except ValueError:  # nothing but stop characters: no text resembles another
        from scipy import sparse

        return [sparse.csr_matrix((len(group), 1), dtype=np.float32) for group in groups]
    return [model.transform(group) for group in cut]


def pair_cosines(pairs: Sequence[tuple[str, str]]) -> FloatArray:
    """TF-IDF cosine of each pair of texts."""
    if not pairs:
        return np.zeros(0)
    left, right = vectorise([a for a, _ in pairs], [b for _, b in pairs])
    return np.asarray(left.multiply(right).sum(axis=1), dtype=np.float64).reshape(-1)


def at_threshold(
    scores: FloatArray, labelled: FloatArray, labels: Sequence[bool]
) -> npt.NDArray[np.bool_]:
    """Say yes from the threshold that is best on the labels; never without a positive label."""
    cut = best_threshold(labelled, labels) if len(labels) else None
    return scores >= cut if cut is not None else np.zeros(len(scores), dtype=bool)


def pair_baselines(
    taught: Sequence[tuple[str, str]], labels: Sequence[bool], asked: Sequence[tuple[str, str]]
) -> dict[str, Baseline]:
    """Baselines of pairs of texts: majority, cosine with a threshold, similarities and logistic."""

    def majority() -> list[Reply]:
        return said([sum(labels) * 2 > len(labels)] * len(asked))

    def cosine() -> list[Reply]:
        scores = pair_cosines([*taught, *asked])
        return said(at_threshold(scores[len(taught) :], scores[: len(taught)], labels))

    def logistic() -> list[Reply]:
        from sklearn.linear_model import LogisticRegression

        if len(set(labels)) < 2:
            return majority()
        rows = similarities([*taught, *asked])
        model = LogisticRegression(C=10.0, max_iter=1_000)
        model.fit(rows[: len(taught)], np.asarray(labels))
        return said(model.predict_proba(rows[len(taught) :])[:, 1] >= 0.5)

    return {
        "majority": majority,
        "TF-IDF cosine, threshold": cosine,
        "similarities, logistic": logistic,
    }


def similarities(pairs: Sequence[tuple[str, str]]) -> FloatArray:
    """Five plain similarities of each pair of texts: float64 [n, 5]."""
    from rapidfuzz import fuzz

    cosines = pair_cosines(pairs)
    rows = []
    for (a, b), cosine in zip(pairs, cosines, strict=True):
        left, right = a[:_CUT].lower(), b[:_CUT].lower()
        words, others = set(left.split()), set(right.split())
        numbers = {w for w in words if any(c.isdigit() for c in w)}
        other_numbers = {w for w in others if any(c.isdigit() for c in w)}
        rows.append(
            (
                float(cosine),
                _jaccard(words, others),
                _jaccard(numbers, other_numbers),
                fuzz.token_set_ratio(left, right) / 100,
                fuzz.ratio(left, right) / 100,
            )
        )
    return np.array(rows, dtype=np.float64).reshape(len(rows), 5)


def _jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def nearest(queries: Any, rows: Any, k: int = 1) -> npt.NDArray[np.int64]:
    """Positions of the ``k`` most similar rows of each query [n, k]; ties to the lower position."""
    n = rows.shape[0]
    k = min(k, n)
    parts = [np.zeros((0, k), dtype=np.int64)]
    for start in range(0, queries.shape[0], _ROWS):
        product = queries[start : start + _ROWS] @ rows.T
        dense = product.toarray() if hasattr(product, "toarray") else np.asarray(product)
        some = np.argpartition(-dense, k - 1, axis=1)[:, :k] if k < n else np.tile(
            np.arange(n), (len(dense), 1))  # fmt: skip
        some = np.sort(some, axis=1)
        order = np.argsort(-np.take_along_axis(dense, some, axis=1), axis=1, kind="stable")
        parts.append(np.take_along_axis(some, order, axis=1))
    return np.concatenate(parts)


def nearest_ids(
    left: Sequence[str], right: Sequence[str], ids: Sequence[str], k: int
) -> list[Reply]:
    """Blocking by TF-IDF cosine over character 3-grams."""
    if not left or not right:
        return [Reply() for _ in left]
    queries, rows = vectorise(left, right)
    found = nearest(queries, rows, k)
    return [Reply(ranking=tuple(ids[j] for j in row)) for row in found.tolist()]


def choice_baselines(
    taught: Sequence[str],
    answers: Sequence[str],
    asked: Sequence[str],
    options: Sequence[Sequence[str]],
    encode: Encode | None,
) -> dict[str, Baseline]:
    """Baselines of tasks that choose: majority, name similarity, nearest labelled text.

    Args:
        taught: Texts of the labelled queries.
        answers: Their answers.
        asked: Texts of the questions.
        options: What each question may be answered with.
        encode: Texts to L2-normalised vectors; None to leave the encoder out.
    """
    counts = Counter(answers)

    def majority() -> list[Reply]:
        return given([max(o, key=lambda x: counts[x], default=None) for o in options])

    def named() -> list[Reply]:
        names = sorted({o for some in options for o in some})
        at = {o: i for i, o in enumerate(names)}
        queries, rows = vectorise(asked, [_spelled(o) for o in names])
        scores = (queries @ rows.T).toarray()
        return given([_best(o, scores[i], at) for i, o in enumerate(options)])

    def by_texts(rows: Any, queries: Any) -> list[Reply]:
        if not taught:
            return [Reply() for _ in asked]
        product = queries @ rows.T
        dense = product.toarray() if hasattr(product, "toarray") else np.asarray(product)
        found = []
        for i, some in enumerate(options):
            allowed = set(some)
            order = np.argsort(-dense[i], kind="stable").tolist()
            first = next((answers[j] for j in order if answers[j] in allowed), None)
            found.append(first if first is not None else next(iter(some), None))
        return given(found)

    found: dict[str, Baseline] = {
        "majority": majority,
        "name similarity": named,
        "nearest label, TF-IDF": lambda: by_texts(*vectorise(taught, asked)),
    }
    if encode is not None and taught:
        found["nearest label, encoder"] = lambda: by_texts(
            encode([t[:_CUT] for t in taught]), encode([t[:_CUT] for t in asked])
        )
    return found


def _spelled(option: str) -> str:
    return " ".join(option.replace("_", " ").replace(".", " ").replace("-", " ").split())


def _best(options: Sequence[str], scores: Any, at: Mapping[str, int]) -> str | None:
    return max(options, key=lambda o: float(scores[at[o]]), default=None)


def value_baselines(
    taught: Sequence[tuple[str, str]],
    answers: Sequence[str],
    asked: Sequence[tuple[str, str]],
) -> dict[str, Baseline]:
    """Baselines of open tasks, where a question is (group, text) and only its group's labels count.

    Most frequent value, value of the nearest labelled text, longest known value in the text.
    """
    by_group: dict[str, list[int]] = {}
    for i, (group, _) in enumerate(taught):
        by_group.setdefault(group, []).append(i)

    def common(group: str) -> str | None:
        known = Counter(answers[i] for i in by_group.get(group, ()))
        return max(known, key=lambda v: known[v], default=None)

    def frequent() -> list[Reply]:
        best = {group: common(group) for group in by_group}
        return given([best.get(group) for group, _ in asked])

    def neighbour() -> list[Reply]:
        found: list[str | None] = [None] * len(asked)
        for group, at in by_group.items():
            mine = [i for i, (g, _) in enumerate(asked) if g == group]
            if mine:
                rows, queries = vectorise([taught[i][1] for i in at], [asked[i][1] for i in mine])
                for i, j in zip(mine, nearest(queries, rows)[:, 0].tolist(), strict=True):
                    found[i] = answers[at[j]]
        return given(found)

    def remembered(fallback: bool) -> list[Reply]:
        known = {
            g: sorted({answers[i] for i in at if answers[i]}, key=lambda v: (-len(v), v))
            for g, at in by_group.items()
        }
        best = {group: common(group) if fallback else None for group in by_group}
        return given(
            [
                next((v for v in known.get(g, ()) if v.lower() in t.lower()), best.get(g))
                for g, t in asked
            ]
        )

    return {
        "most frequent value": frequent,
        "nearest label, TF-IDF": neighbour,
        "known value in the text": lambda: remembered(False),
        "known value, else most frequent": lambda: remembered(True),
    }
