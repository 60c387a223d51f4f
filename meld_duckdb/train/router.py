"""Train the router: which experts answer a question rightly.

    outcomes [questions, experts] -> InfoNCE over the experts, plus diversity -> U, V, shifts

Every expert answers labelled questions that none was trained on; those that are right are the
positives of a question, the others its negatives. Questions where all agree teach nothing and are
left out. What was trained is kept only where it chooses better on questions held out from it.

Paper: MELD §4.4, contrastive loss, relevance and diversity; the diversity has no formula there.
Ours is the expected likeness of two experts drawn from the softmax, which falls where the
experts drawn differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meld_duckdb.errors import TrainingError
from meld_duckdb.planner.router import Router, Vectors, choose, unit

Outcomes = NDArray[np.bool_]

_LEAST = 8
"""Questions on which experts differ below which nothing is trained."""


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """How a router is trained.

    Attributes:
        rank: Of the shared change of the questions.
        temperature: Of the loss.
        diversity: Weight of the likeness of the experts drawn, and what it costs when routers are
            compared, see `planner.router.choose`; 0 leaves it out.
        decay: Pull of all weights towards nothing, which is the untrained router.
        learning_rate: Of Adam.
        steps: Of Adam, over all questions at once; 0 leaves the router untrained.
        k: Experts of a question when routers are compared.
        weighting: How they are weighed then, see `planner.router.choose`.
        folds: Parts of the questions held out in turn for that.
        seed: Of the start and the folds.
    """

    rank: int = 16
    temperature: float = 0.05
    diversity: float = 0.0
    decay: float = 1e-3
    learning_rate: float = 3e-3
    steps: int = 200
    k: int = 3
    weighting: str = "equal"
    folds: int = 4
    seed: int = 42


@dataclass(frozen=True, slots=True)
class RouterReport:
    """What came of it: whether what was trained is kept, why, and figures."""

    used: bool
    reason: str
    metrics: dict[str, float]


def train_router(
    questions: Vectors,
    experts: Vectors,
    names: Sequence[str],
    outcomes: Outcomes,
    settings: RouterSettings,
    encoder_digest: str,
    eligible: Outcomes | None = None,
) -> tuple[Router, RouterReport]:
    """Train and judge a router.

    Args:
        questions: Vectors of the questions, float32 [n, d], unit length.
        experts: Vectors of the experts' descriptions, float32 [m, d], unit length.
        names: Names of the experts, [m].
        outcomes: Whether an expert answered a question rightly, [n, m].
        settings: See `RouterSettings`.
        encoder_digest: Identity of the encoder the vectors come from.
        eligible: Which experts a question may go to, [n, m]; None for any. No other counts.

    Returns:
        The router, untrained where training does not help, and the report.

    Raises:
        TrainingError: Shapes do not go together.
    """
    if outcomes.shape != (len(questions), len(experts)) or len(names) != len(experts):
        raise TrainingError(
            f"outcomes are {outcomes.shape}, expected ({len(questions)}, {len(experts)})"
        )
    allowed = np.ones_like(outcomes) if eligible is None else eligible
    outcomes = outcomes & allowed
    telling = np.flatnonzero(outcomes.any(axis=1) & (outcomes < allowed).any(axis=1))
    shares = outcomes.sum(axis=0) / np.maximum(1, allowed.sum(axis=0))
    metrics = {
        "questions": float(len(questions)),
        "telling": float(len(telling)),
        "best_expert": float(shares.max(initial=0.0)),
        "any_expert": float(outcomes.any(axis=1).mean()) if outcomes.size else 0.0,
    }
    if not settings.steps or len(telling) < _LEAST or len(experts) < 2:
        reason = f"{len(telling)} questions tell experts apart, at least {_LEAST} are needed"
        if not settings.steps:
            reason = "no step was asked for"
        return Router(), RouterReport(False, reason, _rounded(metrics))
    x, y, may = questions[telling], outcomes[telling], allowed[telling]
    before = _hits(Router(), x, experts, names, y, may, settings)
    after = np.zeros_like(before)
    folds = np.random.default_rng(settings.seed).permutation(len(x)) % settings.folds
    for fold in range(settings.folds):
        held = folds == fold
        router = _fit(x[~held], experts, names, y[~held], may[~held], settings, encoder_digest)
        after[held] = _hits(router, x[held], experts, names, y[held], may[held], settings)
    metrics |= {"hits_untrained": float(before.mean()), "hits_trained": float(after.mean())}
    figures = (
        f"share of right experts among the chosen {before.mean():.3f} untrained, "
        f"{after.mean():.3f} trained, on {len(x)} questions held out in turn"
    )
    if after.mean() <= before.mean():
        return Router(), RouterReport(False, figures, _rounded(metrics))
    router = _fit(x, experts, names, y, may, settings, encoder_digest)
    return router, RouterReport(True, figures, _rounded(metrics))


def _hits(
    router: Router,
    questions: Vectors,
    experts: Vectors,
    names: Sequence[str],
    outcomes: Outcomes,
    eligible: Outcomes,
    settings: RouterSettings,
) -> NDArray[np.float64]:
    """Share of the chosen experts of each question, by their weights, that are right, [n]."""
    at = {name: i for i, name in enumerate(names)}
    relevance = np.where(eligible, router.relevance(questions, experts, names), -np.inf)
    choices = choose(
        relevance,
        names,
        settings.k,
        settings.weighting,
        likeness=unit(experts) @ unit(experts).T,
        diversity=settings.diversity,
    )
    return np.array(
        [
            np.dot(choice.weights, [row[at[name]] for name in choice.experts])
            for row, choice in zip(outcomes, choices, strict=True)
        ]
    )


def _fit(
    questions: Vectors,
    experts: Vectors,
    names: Sequence[str],
    outcomes: Outcomes,
    eligible: Outcomes,
    settings: RouterSettings,
    encoder_digest: str,
) -> Router:
    import torch

    generator = torch.Generator().manual_seed(settings.seed)
    d = questions.shape[1]
    x, e = torch.tensor(questions), torch.tensor(experts)
    right, allowed = torch.tensor(outcomes), torch.tensor(eligible)
    down = torch.randn(d, settings.rank, generator=generator) / d**0.5
    up, shifts = torch.zeros(settings.rank, d), torch.zeros_like(e)
    weights = [w.requires_grad_() for w in (down, up, shifts)]
    optimiser = torch.optim.Adam(weights, lr=settings.learning_rate)
    likeness = torch.tensor(unit(experts) @ unit(experts).T) - torch.eye(len(experts))
    for _ in range(settings.steps):
        q = torch.nn.functional.normalize(x + x @ down @ up, dim=1)
        there = torch.nn.functional.normalize(e + shifts, dim=1)
        odds = (q @ there.T / settings.temperature).masked_fill(~allowed, float("-inf"))
        logs = torch.log_softmax(odds, dim=1)
        loss = -torch.logsumexp(logs.masked_fill(~right, float("-inf")), dim=1).mean()
        loss = loss + settings.decay * ((up**2).sum() + (shifts**2).sum())
        if settings.diversity:
            p = logs.exp()
            loss = loss + settings.diversity * ((p @ likeness) * p).sum(dim=1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    arrays = [w.detach().numpy().astype(np.float32) for w in weights]
    own = {name: arrays[2][i] for i, name in enumerate(names)}
    return Router(arrays[0], arrays[1], own, encoder_digest)


def _rounded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in metrics.items()}
