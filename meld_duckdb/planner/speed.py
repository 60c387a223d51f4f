"""How fast this machine works: measured by every real run, kept in the workspace, for estimates.

Prompts of one kind, that is of one instruction and one way to be answered, are alike in how much of
them is shared and how much is written, so the seconds per token of the last calls tell what the
next one takes. So do those per pair of an expert of tier 1.
"""

from __future__ import annotations

import contextlib
import json
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from meld_duckdb import safe_json
from meld_duckdb.engine.adapters import Adapter
from meld_duckdb.engine.backend import Around, Backend, worded_failures
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Completion, Prompt
from meld_duckdb.tasks.pairs import TextPair
from meld_duckdb.workspace import write_atomic

_KEPT = 8
"""Calls of a kind that are remembered."""

_SMALL = 4
"""A call is small where another one had so many times its units."""

_LOADING = "loading"

Measured = dict[str, list[tuple[float, float]]]
"""By kind the (units, seconds) of calls, the newest last."""


class Speeds:
    """Seconds that work took. Safe for threads; of two processes that write, one wins.

    Args:
        path: Where they are kept; None for nowhere.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._measured: Measured = {} if path is None else _read(path)

    def note(self, kind: str, units: float, seconds: float) -> None:
        """Remember that so many units of a kind of work took so long."""
        if units <= 0:
            return
        key = _here(kind)
        with self._lock:
            known = self._measured if self._path is None else _read(self._path)
            known[key] = [*known.get(key, []), (float(units), seconds)][-_KEPT:]
            self._measured = known
            if self._path is not None:
                with contextlib.suppress(OSError):  # an estimate will measure again
                    write_atomic(self._path, json.dumps(known))

    def per_unit(self, kind: str) -> float | None:
        """Seconds per unit of a kind of work; None where none was done yet.

        Calls much smaller than others do not count: what is done once weighs more in them.
        """
        with self._lock:
            calls = self._measured.get(_here(kind))
        if not calls:
            return None
        least = max(n for n, _ in calls) / _SMALL
        large = [(n, seconds) for n, seconds in calls if n >= least]
        return sum(seconds for _, seconds in large) / sum(n for n, _ in large)

    def note_loading(self, name: str, seconds: float) -> None:
        """Remember how long a model took to load."""
        self.note(f"{_LOADING} {name}", 1, seconds)

    def loading(self, name: str) -> float | None:
        """Seconds that a model takes to load; None where it was not loaded yet."""
        return self.per_unit(f"{_LOADING} {name}")


def prompt_kind(engine: str, prompt: Prompt) -> str:
    """The kind of work a prompt is for an engine, given by its digest."""
    return f"{'scored' if prompt.choices else 'generated'} {digest(engine, prompt.system)}"


class MeasuredBackend(Around):
    """A backend that notes how long its prompts took."""

    def __init__(self, backend: Backend, speeds: Speeds) -> None:
        super().__init__(backend)
        self._speeds = speeds

    def complete(
        self, prompts: Sequence[Prompt], adapter: Adapter | None = None
    ) -> Iterator[list[tuple[int, Completion]]]:
        """Answer all prompts; see `Backend.complete`.

        A call with prompts of several kinds, as of several clients at once, tells nothing.
        """
        kinds = {prompt_kind(self._backend.digest, prompt) for prompt in prompts}
        parts = iter(self._backend.complete(prompts, adapter))
        seconds, n_tokens = 0.0, 0
        while True:
            started = time.perf_counter()
            with worded_failures():
                part = next(parts, None)
            seconds += time.perf_counter() - started
            if part is None:
                break
            n_tokens += sum(c.prompt_tokens for _, c in part if c.error is None)
            yield part
        if len(kinds) == 1:
            self._speeds.note(kinds.pop(), n_tokens, seconds)


Score = Callable[[Sequence[TextPair]], np.ndarray]


def measured_score(name: str, score: Score, speeds: Speeds) -> Score:
    """What scores pairs for an expert of tier 1, with a note how long they took."""

    def scored(pairs: Sequence[TextPair]) -> np.ndarray:
        started = time.perf_counter()
        found = score(pairs)
        speeds.note(expert_kind(name), len(pairs), time.perf_counter() - started)
        return found

    return scored


def expert_kind(name: str) -> str:
    """The kind of work a pair is for an expert, given by its digest."""
    return f"expert {name}"


def _here(kind: str) -> str:
    """A kind of work on this machine: a workspace may lie where others reach it."""
    return digest(kind, platform.node(), platform.machine())[:16]


def _read(path: Path) -> Measured:
    """What was measured before; nothing where the file is not there or damaged."""
    try:
        found = safe_json.read(path)
        return {
            str(kind): [(float(n), float(s)) for n, s in calls if n > 0]
            for kind, calls in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
