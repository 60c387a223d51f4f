"""Repair at tier 0."""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from meld_duckdb.features.load import calibration_digest
from meld_duckdb.features.repair_fit import PRIOR_DIGEST, Verdict
from meld_duckdb.planner.scorers.base import REASONS
from meld_duckdb.planner.scorers.table_repairs import TableRepairs
from meld_duckdb.planner.tables import Context
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Answer, Evidence, Query

_RANKED = 10
_UNKNOWN_OPTION = 0.5
"""Most an option is worth that is only similar to the value."""


class RepairScorer:
    """DC by `features.repair_fit`: the standing value or a better one."""

    task = "repair"
    version = 1
    """Changes whenever the same labels could answer the same query differently."""

    encodes = False
    label_tasks: tuple[str, ...] = ("detect_error",)

    def __init__(self, repairs: TableRepairs) -> None:
        self._repairs = repairs

    @property
    def digest(self) -> str:
        """Digest of the error detection behind it, the weights, and the version of the features."""
        return digest(calibration_digest("detect_error"), PRIOR_DIGEST, str(self.version))

    def least(self, query: Query, context: Context) -> float:
        """The most probable value is the answer; see `Scorer.least`."""
        return 0.0

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Say what should stand in cells; see `Scorer.score`."""
        found = verdicts(self._repairs, queries, context)
        return [_answer(q, v) for q, v in zip(queries, found, strict=True)]


def verdicts(repairs: TableRepairs, queries: Sequence[Query], context: Context) -> list[Verdict]:
    """One verdict per cell asked about, in order."""
    records = repairs.own_records(queries, context)
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, record in enumerate(records):
        groups.setdefault(tuple(record.fields), []).append(i)
    found: dict[int, Verdict] = {}
    for positions in groups.values():
        asked = [records[i] for i in positions]
        columns = [queries[i].target or "" for i in positions]
        said = repairs.fitted(asked[0], context).verdicts(asked, columns)
        found.update(zip(positions, said, strict=True))
    return [found[i] for i in range(len(queries))]


def _answer(query: Query, verdict: Verdict) -> Answer:
    ranking = verdict.ranking
    if query.domain:
        ranking = _among(query.domain, ranking)
    value, probability = ranking[0]
    evidence = [Evidence("source", verdict.reason, round(probability, 4))]
    evidence += [Evidence("runner-up", v, round(p, 4)) for v, p in ranking[1:REASONS]]
    return Answer(value, probability, 0, tuple(evidence), ranking=ranking[:_RANKED])


def _among(
    options: Sequence[str], ranking: Sequence[tuple[str, float]]
) -> tuple[tuple[str, float], ...]:
    """Probabilities of options; one that is no candidate is worth its similarity to the value."""
    known = dict(ranking)
    best = ranking[0][0]
    rest = max(0.0, 1.0 - sum(known.get(option, 0.0) for option in options))
    similar = {
        option: Levenshtein.normalized_similarity(option.lower(), best.lower())
        for option in options
        if option not in known
    }
    total = max(1.0, sum(similar.values()))
    found = {o: known.get(o, rest * _UNKNOWN_OPTION * similar.get(o, 0.0) / total) for o in options}
    return tuple(sorted(found.items(), key=lambda item: -item[1]))
