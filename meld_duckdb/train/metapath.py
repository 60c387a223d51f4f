"""Search for the meta-path of a task: which steps complete its records before it is asked.

Greedy: in every round each step that is not yet taken, and each path a user proposes, is tried at
the end of the path; the best one is taken if it raises the score by at least ``least``. Ties go to
the shorter path, then by name. Steps only fill (`planner.metapath`), so the search selects which
experts take part; their order hardly matters.

Paper: MELD §4.2, greedy search of meta-paths; stop rule, length and ties are not given there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meld_duckdb.errors import TrainingError
from meld_duckdb.planner.metapath import LONGEST, STEPS, Path

LEAST = 0.005
"""Gain below which a path is not lengthened."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A line of the log: a path that was tried in a round, its score, whether it was taken."""

    round: int
    path: Path
    score: float
    accepted: bool


def search_path(
    score: Callable[[Path], float],
    sub_paths: Sequence[Path] = (),
    *,
    least: float = LEAST,
    longest: int = LONGEST,
) -> tuple[Path, list[Tried]]:
    """Search for a path.

    Args:
        score: Evaluates a path on labels that were set aside; higher is better.
        sub_paths: Paths that users propose; each is tried as one unit.
        least: Gain that a longer path must bring.
        longest: Steps of a path, at most.

    Returns:
        The path, and what was tried.

    Raises:
        TrainingError: A proposed path names an unknown step.
    """
    for path in sub_paths:
        unknown = [step for step in path if step not in STEPS]
        if unknown or not path:
            raise TrainingError(
                f"the path {path!r} has the unknown step {unknown[0] if unknown else ''!r}",
                hint=f"steps are {', '.join(sorted(STEPS))}",
            )
    units = sorted({(step,) for step in STEPS} | set(sub_paths), key=lambda u: (len(u), u))
    found: Path = ()
    best = score(found)
    log = [Tried(0, found, best, True)]
    for number in range(1, longest + 1):
        tried: list[tuple[float, Path]] = []
        for unit in units:
            path = (*found, *unit)
            if len(path) <= longest and not set(unit) & set(found):
                tried.append((score(path), path))
        if not tried:
            break
        top, path = min(tried, key=lambda t: (-t[0], len(t[1]), t[1]))
        accepted = top >= best + least
        log += [Tried(number, p, s, accepted and p == path) for s, p in tried]
        if not accepted:
            break
        found, best = path, top
    return found, log
