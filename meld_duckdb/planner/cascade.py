"""Which tier may settle a row: decided per task and base model by a shipped calibration.

``calibration/tiers.json`` records, for the base models measured, whether tier 2 (the language
model) adds to tier 0 on training rows. A tier that does not help is not paid for, and the entry
says why. A base model without an entry is asked about the rows tier 0 is unsure of. An entry says
whether the model answered with an expert of the starter (``adapted``), and may
also say whether labels of other tables help as demonstrations (``demonstrations_across_tables``).
Whether tier 1 helps, each expert's own card says (`expert_card`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from meld_duckdb.planner.options import Options
from meld_duckdb.tasks.base import Answer

UNSURE = (0.1, 0.9)
"""Tier-0 probabilities between these are escalated to a base model that was not measured."""

SMALL = 3.0
"""Billions of parameters below which, or where a name does not tell, a base model is small."""

_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([bBmM])(?![a-zA-Z0-9])")


Ask = Literal["never", "unsure", "always"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What tiers 1 and 2 are asked.

    Attributes:
        engine: Whether the language model is asked at all.
        low: Rows with a tier-0 probability above this ...
        high: ... and below this are escalated; rows without a tier-0 answer always are.
        reason: Why the language model is or is not asked.
        expert: Whether an expert of tier 1 is asked about the rows its card names
            (``"unsure"``), about every row (``"always"``) or about none (``"never"``).
    """

    engine: bool
    low: float
    high: float
    reason: str
    expert: Ask = "unsure"

    def escalates(self, tentative: Answer | None) -> bool:
        """Tell whether a row with this tier-0 answer goes to the language model."""
        if not self.engine:
            return False
        if tentative is None or tentative.probability is None or tentative.error is not None:
            return True
        return self.low < tentative.probability < self.high


def choose_policy(
    task: str, model: str, options: Options, adapted: Callable[[], bool] = lambda: True
) -> Policy:
    """Choose the policy of one call.

    Args:
        task: Name of the task.
        model: Base model as in the settings.
        options: Options of the call; ``tier`` overrides the calibration.
        adapted: Tells whether the model would answer with an expert; what was measured with one
            says nothing of the model alone.
    """
    if options.tier == "t0":
        return Policy(False, 0.0, 1.0, "option tier is 't0'", "never")
    if options.tier == "t1":
        return Policy(False, 0.0, 1.0, "option tier is 't1'", "always")
    if options.tier == "t2":
        return Policy(True, -1.0, 2.0, "option tier is 't2'", "never")
    entry = _measured().get(task, {}).get(model)
    if entry is None:
        return Policy(True, *UNSURE, f"base model {model!r} was not measured")
    use, reason = bool(entry["use"]), str(entry["reason"])
    if use and entry.get("adapted") and not adapted():
        use, reason = False, "it was measured with an expert, and there is none here"
    if not use:
        return Policy(False, 0.0, 1.0, reason)
    return Policy(True, float(entry["low"]), float(entry["high"]), reason)


def demonstrations_across_tables(task: str, model: str) -> bool:
    """Tell whether a prompt may show labels of other tables than those asked about.

    A small base model copies what it is shown, and what holds in one table need not hold in
    another: it is shown them only if its calibration says that this helps. Large models, by the
    size in their name, generalise.

    Args:
        task: Name of the task.
        model: Base model as in the settings.
    """
    entry = _measured().get(task, {}).get(model, {})
    if "demonstrations_across_tables" in entry:
        return bool(entry["demonstrations_across_tables"])
    return not is_small(model)


def is_small(model: str) -> bool:
    """Tell whether a base model has fewer than `SMALL` parameters, or a name that does not say."""
    sizes = [
        float(number) / (1 if unit in "bB" else 1000)
        for number, unit in _SIZE.findall(model.rsplit("/", 1)[-1])
    ]
    return not sizes or max(sizes) < SMALL


@cache
def _measured() -> dict[str, dict[str, dict[str, Any]]]:
    path = resources.files("meld_duckdb.calibration") / "tiers.json"
    if not path.is_file():
        return {}
    measured: dict[str, dict[str, dict[str, Any]]] = json.loads(path.read_text("utf-8"))
    return measured
