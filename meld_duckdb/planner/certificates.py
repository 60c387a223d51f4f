"""Certificates: what was shown of the answers to a population, kept in the workspace.

A certificate is a file ``<workspace>/calibration/certificates/<task>-<key>.json``. It holds for the
questions it was made of, about tables with the content they had, answered by the models, labels and
settings of then; it is not used once any of these is another. Rows that were asked about keep what
the oracle said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from meld_duckdb.errors import ArtefactCorrupt, ConfigError
from meld_duckdb.features.audit import Kind
from meld_duckdb.planner.artefacts import Watched, read_versioned
from meld_duckdb.planner.options import Options
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Answer, Evidence
from meld_duckdb.workspace import write_atomic

FORMAT = "meld-certificate/1"
FOLDER = "certificates"

Oracle = Literal["labels", "language model"]

_HINT = "certify again with FROM meld.certify, or remove the file"
_NO_ANSWER = "no_answer: the oracle could not say anything about this row"


@dataclass(frozen=True, slots=True)
class Shown:
    """One goal that was reached.

    Attributes:
        kind: What was shown.
        target: The least share of it.
        bound: The largest share that was shown.
        n: Rows that the share is of, as far as they are known: all; those answered yes.
        sample: Rows drawn at random and asked about.
        escalated: Rows asked about because the cheap tier is unsure of them.
        confidence: Rows that the cheap tier is less confident of were all asked about; 0 for none.
    """

    kind: Kind
    target: float
    bound: float
    n: int
    sample: int
    escalated: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was shown of a population.

    Attributes:
        task: Name of the task.
        tables: Digests of the tables, sorted.
        population: Digest of the questions and of what the cheap tier answers to them.
        n: Questions in it.
        known: Those that a label of the workspace answers.
        shown: The goals; all of them hold with probability 1 - ``delta``.
        delta: How likely one of them does not.
        threshold: Option ``threshold`` of the call.
        tier: The cheap tier.
        oracle: Who was asked: a table of labels, or the language model and labels learned.
        cheap_digest: Identity of everything that can change what the cheap tier answers.
        oracle_digest: Likewise for the language model; empty for labels.
        answers: What the oracle said, by digest of the question: answer and probability; an answer
            of None where it could not say.
    """

    task: str
    tables: tuple[str, ...]
    population: str
    n: int
    known: int
    shown: tuple[Shown, ...]
    delta: float
    threshold: float | None
    tier: str
    oracle: Oracle
    cheap_digest: str
    oracle_digest: str
    answers: Mapping[str, tuple[str | None, float | None]]

    @property
    def name(self) -> str:
        """Name of its file."""
        key = digest(
            *self.tables,
            self.population,
            *(f"{s.kind} {s.target!r}" for s in self.shown),
            repr((self.delta, self.threshold, self.tier)),
            self.oracle,
            self.cheap_digest,
            self.oracle_digest,
        )
        return f"{self.task}-{key[:24]}.json"

    def covers(self, options: Options) -> bool:
        """Tell whether it shows what a call wants."""
        shown = {s.kind: s.target for s in self.shown}
        return (
            all(target <= shown.get(kind, 0.0) for kind, target in options.targets.items())
            and self.delta <= options.delta
            and self.threshold == options.threshold
            and self.tier == cheap_tier(options)
        )

    def correct(self, query: str, answer: Answer) -> Answer:
        """The answer to a question: the oracle's if it was asked, else the cheap tier's.

        Args:
            query: Digest of the question.
            answer: What the cheap tier says.
        """
        if query not in self.answers:
            return answer
        value, probability = self.answers[query]
        tier = 0 if self.oracle == "labels" else 2
        if value is None:
            return Answer(tier=tier, error=_NO_ANSWER)
        evidence = (Evidence("oracle", self.oracle, 1.0), *answer.evidence)
        return Answer(value, probability, tier, evidence)


def cheap_tier(options: Options) -> str:
    """The tier whose answers a guarantee is about: tier 0, unless the call says tier 1."""
    return "t1" if options.tier == "t1" else "t0"


class Certificates:
    """The certificates of a workspace, read again when they change. Safe for threads.

    Args:
        calibration: Folder of the workspace that they lie in; it need not be there.
        keep: Whether new ones are written.
    """

    def __init__(self, calibration: Path, *, keep: bool) -> None:
        self.folder = calibration / FOLDER
        self._keep = keep
        self._watched = Watched((self.folder,), self._read)

    def put(self, certificate: Certificate) -> None:
        """Keep a certificate."""
        if self._keep:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"format": FORMAT, **asdict(certificate)}, ensure_ascii=False)
            write_atomic(self.folder / certificate.name, text + "\n")

    def find(
        self, task: str, tables: Sequence[str], options: Options, cheap_digest: str
    ) -> list[Certificate]:
        """The certificates for questions of a task about some tables that a call may use.

        Those by labels come first, then those that show most. Whether the language model is still
        the one that was asked is for the caller to see.
        """
        found = [
            one
            for one in self._watched.get()
            if one.task == task
            and one.tables == tuple(sorted(tables))
            and one.cheap_digest == cheap_digest
            and one.covers(options)
        ]
        return sorted(found, key=lambda one: (one.oracle != "labels", -one.shown[0].target))

    def all(self) -> list[Certificate]:
        """All of them, by name."""
        return list(self._watched.get())

    def _read(self) -> list[Certificate]:
        return [read_certificate(path) for path in sorted(self.folder.glob("*.json"))]


def read_certificate(path: Path) -> Certificate:
    """Read and check a certificate.

    Raises:
        ArtefactCorrupt: The file does not say what it should.
        ArtefactIncompatible: Another version of the product wrote it.
    """
    found = read_versioned(path, FORMAT, "certificate", _HINT)
    try:
        found["tables"] = tuple(found["tables"])
        found["shown"] = tuple(Shown(**one) for one in found["shown"])
        found["answers"] = {k: (v, p) for k, (v, p) in found["answers"].items()}
        certificate = Certificate(**found)
        if certificate.name != path.name:
            raise ValueError("it was changed after it was written")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactCorrupt(f"{path} is no certificate: {error}", hint=_HINT) from error
    return certificate


def none_found(task: str, options: Options) -> ConfigError:
    """The error of a call that wants a guarantee which no certificate gives."""
    wanted = ", ".join(f"{kind} := {target:g}" for kind, target in options.targets.items())
    tables = "'l', 'r'" if task == "match" else "'t'"
    how = (
        f"FROM meld.certify('{task}', {tables}, {wanted})"
        if task != "schema_match"
        else f"FROM meld.match_schemas('l', 'r', {wanted})"
    )
    return ConfigError(
        f"there is no certificate of {wanted} for these rows, or tables, labels, models or options "
        "have changed since",
        hint=f"index the tables (FROM meld.index), then {how}; FROM meld.certificates() lists them",
    )
