"""Choosing one of several options: a conditional logit over features of every option.

Each question has its own options; an option is described by a row of features, and

    P(option) = softmax(features · weights)

over the options of the question. Few weights, so a handful of labelled questions fits them, and
what comes out is a probability.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

_PARTS = re.compile(r"[^\W\d_]+|\d+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_RIDGE = 1.0
"""Pull of the weights towards the prior weights, in labelled questions."""


def option_words(option: str) -> str:
    """Write a name such as ``dbo:BirthPlace`` or ``people.person.place_of_birth`` out as words.

    The last parts say most and are kept where a name is long.
    """
    found = _PARTS.findall(_CAMEL.sub(" ", option[:500]))
    kept: list[str] = []
    for word in found:
        if not kept or kept[-1] != word.lower():
            kept.append(word.lower())
    return " ".join(kept[-12:])


def probabilities(features: Matrix, weights: Matrix) -> Matrix:
    """Probabilities of the options of one question.

    Args:
        features: float64 [options, features].
        weights: float64 [features].

    Returns:
        float64 [options], summing to 1.
    """
    if not len(features):
        return np.zeros(0)
    scores = features @ weights
    raised = np.exp(scores - scores.max())
    found: Matrix = raised / raised.sum()
    return found


def fit_weights(
    questions: Sequence[Matrix], right: Sequence[int], prior: Matrix, lower: Matrix | None = None
) -> Matrix:
    """Fit the weights to labelled questions by penalised maximum likelihood.

    Args:
        questions: Features of the options of every question.
        right: Position of the right option of every question.
        prior: Weights without any label; the fit is pulled towards them.
        lower: Least value of each weight, for features that can only speak for an option.

    Returns:
        float64 [features].
    """
    from scipy.optimize import minimize

    if not questions:
        return prior
    rows = np.concatenate(list(questions))
    owner = np.repeat(np.arange(len(questions)), [len(q) for q in questions])
    starts = np.concatenate([[0], np.cumsum([len(q) for q in questions])[:-1]]).astype(np.int64)
    gold = rows[starts + np.asarray(right, dtype=np.int64)]
    scale = np.maximum(rows.std(axis=0), 1e-6)

    def loss(weights: Matrix) -> tuple[float, Matrix]:
        scores = rows @ weights
        top = np.maximum.reduceat(scores, starts)
        raised = np.exp(scores - top[owner])
        total = np.add.reduceat(raised, starts)
        shares = raised / total[owner]
        pull = (weights - prior) * scale
        value = float(np.sum(np.log(total) + top) - np.sum(gold @ weights))
        gradient = shares @ rows - gold.sum(axis=0)
        return value + _RIDGE * float(pull @ pull), gradient + 2 * _RIDGE * pull * scale

    bounds = None if lower is None else [(low, None) for low in lower.tolist()]
    found = minimize(loss, prior, jac=True, method="L-BFGS-B", bounds=bounds)
    fitted: Matrix = np.asarray(found.x, dtype=np.float64)
    return fitted
