"""Read the fitted models that ship with the package.

A calibration file is JSON: ``task``, ``version``, ``variants`` (each with ``model``, a tree
ensemble, and the cut that goes with it), where it was trained, what was held out, and its metrics.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Any

from meld_duckdb.errors import ArtefactCorrupt, ArtefactIncompatible, ArtefactMissing
from meld_duckdb.features.text import IdfWeights
from meld_duckdb.features.trees import TreeEnsemble
from meld_duckdb.records import digest

VERSION = 1
"""Version of the file format that this code reads."""


@dataclass(frozen=True)
class Variant:
    """One fitted model.

    Attributes:
        model: The trees.
        threshold: Probability from which a binary task answers its first label.
        minimum: Probability below which an open task abstains.
    """

    model: TreeEnsemble
    threshold: float
    minimum: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """The calibration of one task; ``content`` is the file as read."""

    task: str
    content: Mapping[str, Any]
    variants: Mapping[str, Variant]

    def variant(self, name: str) -> Variant:
        """One variant by its name.

        Raises:
            ArtefactCorrupt: The file lacks it.
        """
        if name not in self.variants:
            raise ArtefactCorrupt(f"the calibration of {self.task} has no variant {name!r}")
        return self.variants[name]

    def text(self, key: str) -> str:
        """A text member of the file."""
        return str(self.content[key])

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Data sets whose training splits were fitted on."""
        return tuple(self.content["trained_on"])

    @property
    def held_out(self) -> tuple[str, ...]:
        """Data sets that no part of the calibration has seen."""
        return tuple(self.content["held_out"])

    @cached_property
    def words(self) -> IdfWeights:
        """The shipped word weights, for records whose tables are not known."""
        return IdfWeights.from_dict(self.content["words"])


@cache
def load_calibration(task: str) -> Calibration:
    """Load the shipped calibration of a task.

    Raises:
        ArtefactMissing: The package carries none.
        ArtefactCorrupt: It is not what a calibration command writes.
    """
    return read_calibration(task, _text(task))


@cache
def calibration_digest(task: str) -> str:
    """Digest of the shipped calibration file; see `load_calibration`."""
    return digest("calibration", _text(task))


def read_calibration(task: str, text: str) -> Calibration:
    """Read a calibration from the text of its file; see `load_calibration`."""
    try:
        content = json.loads(text)
        if content["version"] != VERSION:
            raise ArtefactIncompatible(
                f"the calibration of {task} has version {content['version']!r}, expected {VERSION}",
                hint="run its calibration command again",
            )
        variants = {name: _variant(given) for name, given in content["variants"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactCorrupt(f"the calibration of {task} cannot be read: {error!r}") from error
    return Calibration(task, content, variants)


def _variant(given: Mapping[str, Any]) -> Variant:
    return Variant(
        TreeEnsemble.from_dict(given["model"]),
        float(given.get("threshold", 0.5)),
        float(given.get("minimum", 0.0)),
    )


def _text(task: str) -> str:
    path = resources.files("meld_duckdb.calibration") / f"{task}.json"
    if not path.is_file():
        raise ArtefactMissing(
            f"the package carries no calibration of {task}", hint="reinstall meld-duckdb"
        )
    return path.read_text("utf-8")
