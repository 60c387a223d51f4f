"""How far a run is: which stage of how many, and how long the rest takes.

What a stage took the last time, whatever its inputs were, is what it is expected to take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meld_duckdb.progress import duration
from meld_duckdb.train.expert import may_have_expert
from meld_duckdb.train.rows import TrainingRow


class Schedule:
    """The stages of one run.

    Args:
        names: Of all stages that are known from the start, in order; others may follow.
        records: Of stages that were finished before, by name; see `stages.read_stages`.
    """

    def __init__(self, names: Sequence[str], records: Mapping[str, Mapping[str, Any]]) -> None:
        self._names = list(names)
        self._seconds = {name: float(record["seconds"]) for name, record in records.items()}
        self._at = -1

    def begin(self, name: str) -> str:
        """Go to a stage; gives its place in the run, such as ``"[2/6] "``."""
        if name not in self._names:
            self._names.insert(self._at + 1, name)
        self._at = self._names.index(name)
        return f"[{self._at + 1}/{len(self._names)}] "

    @property
    def left(self) -> str:
        """How long this stage and the rest take, in words; empty where nothing is known of them."""
        return _words(self._names[max(0, self._at) :], self._seconds)

    @property
    def rest_s(self) -> float:
        """Seconds that the stages after this one take, as far as is known."""
        return sum(self._seconds.get(name, 0.0) for name in self._names[self._at + 1 :])


def _words(names: Sequence[str], seconds: Mapping[str, float]) -> str:
    known = [seconds[name] for name in names if name in seconds]
    if not known or sum(known) < 1:
        return ""
    bound = "about" if len(known) == len(names) else "more than"
    return f"{bound} {duration(sum(known))} left in all"


def names_of(stage: str, labels: Mapping[str, Sequence[TrainingRow]]) -> list[str]:
    """Names of the stages behind one of `pipeline.RETRIEVAL`, for these labels."""
    if stage == "annotate":
        return ["annotate match"] if labels.get("match") else []
    if stage == "expert":
        return [f"expert {task}" for task, rows in labels.items() if may_have_expert(task, rows)]
    return [stage]
