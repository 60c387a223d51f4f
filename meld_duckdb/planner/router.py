"""The router: which experts a question goes to.

A question and an expert are vectors of the encoder; both are moved by what was trained, and
compared by their cosine:

    question  q = unit(x + x U V)        U [d, r], V [r, d], shared by all questions
    expert    e = unit(y + its own shift)
    relevance s = q . e

Without training U, V and the shifts are nothing, and questions go to the experts whose
descriptions they resemble; so do they to an expert that is younger than the router.

Paper: MELD §4.4 (sparse gate over experts, sharing the encoder of the retrieval).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meld_duckdb.errors import ArtefactCorrupt
from meld_duckdb.planner.artefacts import read_versioned
from meld_duckdb.records import digest

Vectors = NDArray[np.float32]

FORMAT = "meld-router/1"
WEIGHTS = "router.safetensors"
META = "router.json"

DECIMALS = 4
"""Decimals of a relevance that count: the rest depends on what else is embedded with it."""

TEMPERATURE = 0.05
"""Of the softmax that turns relevance into weights."""

_HINT = "train it again with meld train --stages experts, or remove the directory router"


@dataclass(frozen=True, slots=True)
class Choice:
    """Where one question goes.

    Attributes:
        experts: Names, most relevant first.
        weights: Of their adapters, in the same order; they sum to 1.
        relevance: Of each; 1 of the only expert of a task, which nothing is compared with.
    """

    experts: tuple[str, ...]
    weights: tuple[float, ...]
    relevance: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Router:
    """What was trained; see the head of this file.

    Attributes:
        down: U, float32 [d, r].
        up: V, float32 [r, d].
        shifts: Of each expert by name, float32 [d].
        encoder_digest: Identity of the encoder it was trained on; empty for an untrained one.
    """

    down: Vectors | None = None
    up: Vectors | None = None
    shifts: Mapping[str, Vectors] = field(default_factory=dict)
    encoder_digest: str = ""

    @property
    def digest(self) -> str:
        """Identity of what was trained; empty for an untrained one."""
        if not self.encoder_digest:
            return ""
        weights = [w.tobytes().hex() for w in (self.down, self.up) if w is not None]
        shifts = [part for n, s in sorted(self.shifts.items()) for part in (n, s.tobytes().hex())]
        return digest(FORMAT, self.encoder_digest, *weights, *shifts)

    def relevance(self, questions: Vectors, experts: Vectors, names: Sequence[str]) -> Vectors:
        """Relevance of experts to questions.

        Args:
            questions: Vectors of the questions, float32 [n, d].
            experts: Vectors of the experts' descriptions, float32 [m, d].
            names: Names of the experts, [m].

        Returns:
            Cosines, float32 [n, m].
        """
        asked = questions
        if self.down is not None and self.up is not None:
            moved = questions @ self.down @ self.up
            asked = np.asarray(questions + moved, dtype=np.float32)
        there = experts.copy()
        for i, name in enumerate(names):
            if name in self.shifts:
                there[i] += self.shifts[name]
        cosines = np.asarray(unit(asked) @ unit(there).T, dtype=np.float32)
        return cosines.round(DECIMALS)


def choose(
    relevance: Vectors,
    names: Sequence[str],
    k: int,
    weighting: str,
    *,
    likeness: NDArray[np.floating] | None = None,
    diversity: float = 0.0,
) -> list[Choice]:
    """Choose the ``k`` experts of each question.

    Args:
        relevance: [n, m]; minus infinity where an expert is none of the question's.
        names: Names of the experts, [m]; they break ties.
        k: Experts of a question, at most.
        weighting: ``"equal"``: 1/k each; ``"router"``: the softmax of their relevance in tenths,
            so that many questions share one merged adapter. One without a tenth is not chosen.
        likeness: Cosines between experts, [m, m]; needed for diversity.
        diversity: What likeness to an expert already chosen costs; 0 for the k most relevant.

    Returns:
        One choice per question, in order.
    """
    ordered = np.argsort(np.array(names), kind="stable")
    choices = []
    for row in relevance:
        left = [i for i in ordered[np.argsort(-row[ordered], kind="stable")] if row[i] > -np.inf]
        chosen: list[int] = []
        while left and len(chosen) < k:
            best = left[0]
            if diversity and likeness is not None and chosen:
                gain = [row[i] - diversity * likeness[i, chosen].max() for i in left]
                best = left[int(np.argmax(np.round(gain, DECIMALS)))]
            chosen.append(best)
            left.remove(best)
        own = row[chosen].astype(np.float64)
        weights = _in_tenths(own) if weighting == "router" else [1 / max(1, len(own))] * len(own)
        counted = [at for at, weight in enumerate(weights) if weight > 0]
        choices.append(
            Choice(
                tuple(names[chosen[at]] for at in counted),
                tuple(weights[at] for at in counted),
                tuple(float(own[at].round(DECIMALS)) for at in counted),
            )
        )
    return choices


def _in_tenths(relevance: NDArray[np.float64]) -> list[float]:
    """Softmax in tenths that sum to 1: the largest remainders get what rounding down leaves."""
    shares = np.exp((relevance - relevance.max()) / TEMPERATURE)
    tenths = 10 * shares / shares.sum()
    whole = np.floor(tenths.round(DECIMALS))
    whole[np.argsort(whole - tenths, kind="stable")[: 10 - int(whole.sum())]] += 1
    return [float(n) / 10 for n in whole]


def unit(vectors: Vectors) -> Vectors:
    """Rows of length 1; rows of zeros stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    found: Vectors = vectors / np.maximum(lengths, 1e-12)
    return found


def write_router(router: Router, folder: Path, metrics: Mapping[str, float]) -> None:
    """Write a router into a directory that is there."""
    from safetensors.numpy import save_file

    tensors = {f"shift {name}": shift for name, shift in router.shifts.items()}
    if router.down is not None and router.up is not None:
        tensors |= {"down": router.down, "up": router.up}
    save_file(dict(sorted(tensors.items())), str(folder / WEIGHTS))
    meta = {"format": FORMAT, "encoder": router.encoder_digest, "metrics": dict(metrics)}
    (folder / META).write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n", "utf-8")


def read_router(folder: Path) -> Router:
    """Read a router; an untrained one where the directory is not there.

    Raises:
        ArtefactCorrupt: It is damaged.
        ArtefactIncompatible: Another version of the product wrote it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not folder.is_dir():
        return Router()
    meta = read_versioned(folder / META, FORMAT, "router", _HINT)
    try:
        tensors = load_file(str(folder / WEIGHTS))
        shifts = {
            name.removeprefix("shift "): value
            for name, value in tensors.items()
            if name.startswith("shift ")
        }
        return Router(tensors.get("down"), tensors.get("up"), shifts, str(meta["encoder"]))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ArtefactCorrupt(f"{folder} holds no router: {error}", hint=_HINT) from error
