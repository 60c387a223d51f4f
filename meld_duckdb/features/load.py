"""The fitted models of tier T0, as shipped with the package or written by a calibration run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from meld_duckdb.errors import ArtefactCorrupt, ArtefactIncompatible, ArtefactMissing
from meld_duckdb.features.text import IdfWeights
from meld_duckdb.features.trees import TreeEnsemble
from meld_duckdb.records import digest

PACKAGE = "meld_duckdb.calibration"
"""Where the shipped files are."""

VERSION = 1
"""Version of the file format that this code reads."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a calibration run has fitted for one task.

    Attributes:
        task: The task's name.
        variants: Name of the variant to its model.
        words: Generic word weights for records whose tables are not known.
        trained_on: Data sets whose train splits were fitted on.
        held_out: Data sets that no part of this calibration has seen.
        metrics: What was measured when it was fitted.
        fitted_by: The command that reproduces it.
    """

    task: str
    variants: Mapping[str, TreeEnsemble]
    words: IdfWeights
    trained_on: tuple[str, ...]
    held_out: tuple[str, ...]
    metrics: Mapping[str, Any]
    fitted_by: str

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits of everything that can change an answer."""
        models = [f"{name}={self.variants[name].digest}" for name in sorted(self.variants)]
        return digest(self.task, *models, json.dumps(self.words.to_dict(), sort_keys=True))

    def to_dict(self) -> dict[str, Any]:
        """Return a form for JSON."""
        return {
            "task": self.task,
            "version": VERSION,
            "trained_on": list(self.trained_on),
            "held_out": list(self.held_out),
            "fitted_by": self.fitted_by,
            "metrics": dict(self.metrics),
            "variants": {name: model.to_dict() for name, model in self.variants.items()},
            "words": self.words.to_dict(),
        }

    @staticmethod
    def from_dict(data: object) -> Calibration:
        """Read what `to_dict` wrote.

        Raises:
            ArtefactCorrupt: If a part is missing or malformed.
            ArtefactIncompatible: If the file has another format version.
        """
        if not isinstance(data, Mapping):
            raise ArtefactCorrupt("the calibration is not an object")
        if data.get("version") != VERSION:
            raise ArtefactIncompatible(
                f"the calibration has version {data.get('version')!r}, expected {VERSION}",
                hint="run its calibration command again",
            )
        task, variants, metrics = data.get("task"), data.get("variants"), data.get("metrics")
        if not isinstance(task, str) or not isinstance(variants, Mapping) or not variants:
            raise ArtefactCorrupt("the calibration names no task or has no variant")
        if not isinstance(metrics, Mapping):
            raise ArtefactCorrupt("the calibration has no metrics")
        return Calibration(
            task,
            {str(name): TreeEnsemble.from_dict(model) for name, model in variants.items()},
            IdfWeights.from_dict(data.get("words")),
            _names(data, "trained_on"),
            _names(data, "held_out"),
            metrics,
            str(data.get("fitted_by", "")),
        )


def _names(data: Mapping[str, object], key: str) -> tuple[str, ...]:
    names = data.get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ArtefactCorrupt(f"the calibration has no list of names {key!r}")
    return tuple(names)


@cache
def load_calibration(task: str) -> Calibration:
    """Load the shipped calibration of a task.

    Raises:
        ArtefactMissing: The package carries none.
        ArtefactCorrupt: It is not what a calibration command writes.
    """
    path = resources.files(PACKAGE) / f"{task}.json"
    if not path.is_file():
        raise ArtefactMissing(f"no calibration of {task}", hint="install the package again")
    return _parse(path.read_text(encoding="utf-8"), f"the calibration of {task}")


def read_calibration(path: Path) -> Calibration:
    """Read a calibration file.

    Raises:
        ArtefactMissing: If there is no such file.
        ArtefactCorrupt: If it is damaged.
    """
    if not path.is_file():
        raise ArtefactMissing(f"no calibration at {path}")
    return _parse(path.read_text(encoding="utf-8"), f"the calibration at {path}")


def _parse(text: str, what: str) -> Calibration:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ArtefactCorrupt(f"{what} is not JSON", hint="install the package again") from error
    return Calibration.from_dict(data)
