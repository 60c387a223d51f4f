"""The gate of tier 2: whether the language model answers questions with one key, and how.

A gate is a file ``<workspace>/calibration/<task>-<key>.json``, written by the training after all
tiers answered labels that none of them had seen. Without one, the shipped calibration decides
(`cascade`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from meld_duckdb.errors import ArtefactCorrupt, ArtefactMissing
from meld_duckdb.features.stack import Stack
from meld_duckdb.planner.artefacts import Watched, read_versioned
from meld_duckdb.planner.expert_card import Key
from meld_duckdb.records import digest

FORMAT = "meld-gate/1"

_HINT = "train again with meld train --stages experts, or remove the file"


@dataclass(frozen=True, slots=True)
class Gate:
    """What was decided for one task and key.

    Attributes:
        task: Name of the task.
        key: Which questions, see `expert_card.expert_key`.
        use: Whether the language model is asked at all.
        reason: Why, with the figures behind it.
        low: Rows with a probability of the tiers before above this ...
        high: ... and below this are asked.
        stack: How its log-odds are added to those of the tiers before; None where its answer
            takes their place.
        model_digest: Identity of the language model it was measured with.
        experts: Identity of the experts it was measured with, see `mixture.Mixture.digest`.
        metrics: Held-out figures of the tiers.
    """

    task: str
    key: Key
    use: bool
    reason: str
    low: float
    high: float
    stack: Stack | None
    model_digest: str
    experts: str
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Identity of everything in it that can change an answer."""
        stack = "" if self.stack is None else json.dumps(self.stack.to_dict())
        return digest(FORMAT, str(self.use), str(self.low), str(self.high), stack)

    def escalates(self, probability: float | None) -> bool:
        """Tell whether a row goes to the language model, given what the tiers before say."""
        return self.use and (probability is None or self.low < probability < self.high)


def gate_name(task: str, key: Key) -> str:
    """Name of a gate's file."""
    return f"{task}-{digest(*key)[:16]}.json"


def gate_json(gate: Gate) -> str:
    """What `read_gate` reads."""
    return json.dumps({"format": FORMAT, **asdict(gate)}, indent=1, ensure_ascii=False) + "\n"


def read_gate(path: Path) -> Gate:
    """Read and check a gate.

    Raises:
        ArtefactCorrupt: The file does not say what it should.
        ArtefactIncompatible: Another version of the product wrote it.
    """
    found = read_versioned(path, FORMAT, "gate of tier 2", _HINT)
    try:
        found["key"] = tuple(str(part) for part in found["key"])
        stack = found["stack"]
        found["stack"] = None if stack is None else Stack.from_dict(stack)
        gate = Gate(**found)
        if not isinstance(gate.use, bool) or not 0 <= abs(gate.low) + abs(gate.high) < float("inf"):
            raise ValueError("a number is missing")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactCorrupt(f"{path} is no gate of tier 2: {error}", hint=_HINT) from error
    return gate


class Gates:
    """The gates in a directory, read again when it changes. Safe for threads.

    A gate holds for the language model and the experts that it was measured with, chosen and put
    together as then; where it does not, the shipped calibration decides.

    Args:
        folder: The directory; it need not be there.
        model_digest: Identity of the language model that the settings name.
        experts: Identity of a task's experts, of their router and of the settings about them.
        notice: Called with one line where a gate does not hold any more.
    """

    def __init__(
        self,
        folder: Path,
        model_digest: Callable[[], str],
        experts: Callable[[str], str],
        notice: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._model_digest, self._experts = model_digest, experts
        self._notice = notice
        self._told: set[str] = set()
        self._gates = Watched((folder,), self._read)

    def find(self, task: str, key: Key) -> Gate | None:
        """The gate for questions of a task with a key; None where there is none that holds."""
        return self.of(task).get(key)

    def of(self, task: str) -> Mapping[Key, Gate]:
        """The gates of a task that hold, by key.

        Raises:
            ArtefactCorrupt: A gate, or an expert of the task, is damaged.
        """
        gates = [gate for gate in self._gates.get() if gate.task == task]
        if not gates:
            return {}
        try:
            model = self._model_digest()
        except ArtefactMissing:  # it cannot be asked either; tier 0 answers without it
            return {}
        experts = self._experts(task)
        found: dict[Key, Gate] = {}
        for gate in gates:
            if gate.model_digest != model:
                self._tell(gate, "another language model")
            elif gate.experts != experts:
                self._tell(gate, "other experts, another router or other settings of them")
            else:
                found[gate.key] = gate
        return found

    def _read(self) -> list[Gate]:
        return [read_gate(path) for path in sorted(self._folder.glob("*.json"))]

    def _tell(self, gate: Gate, other: str) -> None:
        line = (
            f"the calibration {gate_name(gate.task, gate.key)} was made with {other} and is not "
            "used: meld train --stages experts"
        )
        if line not in self._told:
            self._told.add(line)
            self._notice(line)
