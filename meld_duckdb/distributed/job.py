"""A job: its folder, its stages, and what it leaves behind.

OUTPUT/part-000000-KEY.parquet   results, one file per finished partition
OUTPUT/manifest.json             written last: the job is finished, and these are its files
OUTPUT/.meld-job/                what the job is, its tables in chunks, its stages
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import meld_duckdb
from meld_duckdb.distributed.answers import WorkspaceCache
from meld_duckdb.distributed.chunks import Chunks
from meld_duckdb.distributed.cluster import Cluster, running, work
from meld_duckdb.distributed.parts import Entry, Parts
from meld_duckdb.distributed.sources import Source
from meld_duckdb.distributed.worker import Answering, Stage, work_here
from meld_duckdb.errors import ArtefactError, ConfigError, EngineError
from meld_duckdb.locks import FileLock
from meld_duckdb.planner.session import Session
from meld_duckdb.records import digest
from meld_duckdb.service import LocalService
from meld_duckdb.settings import AnswerSettings, Settings, resolve
from meld_duckdb.tasks import ASKED
from meld_duckdb.workspace import write_atomic

FOLDER = ".meld-job"
MANIFEST = "manifest.json"
FEW = 8
"""Partitions of work without models that the driver does itself: actors take seconds to start."""

_LOCK_S = 2.0

Tell = Callable[[str, int, int], None]
"""Is told a stage, how many of its partitions are finished, and how many there are."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a job did.

    Attributes:
        output: Folder of the results.
        rows: Rows in them.
        partitions: Files that they are in.
        computed: Partitions of all stages that this run computed; the others were finished before.
        failures: Questions that were not answered.
        first_failure: Why the first of them was not; empty without any.
        seconds: What this run took.
    """

    output: Path
    rows: int
    partitions: int
    computed: int
    failures: int
    first_failure: str
    seconds: float


@dataclass(slots=True)
class Job:
    """A job under way; see `started`.

    Attributes:
        output: Folder of the results.
        cluster: Who does the work.
        settings: Settings of the actors.
        answering: The same, as it goes to the actors.
        identity: Digest of what the workspace knows and the settings that can change an answer.
        batch_rows: Rows of a partition.
        tell: Is told how far it is.
    """

    output: Path
    cluster: Cluster
    settings: Settings
    answering: Answering
    identity: str
    batch_rows: int
    tell: Tell
    began: float = field(default_factory=time.perf_counter)
    computed: int = 0

    @property
    def folder(self) -> Path:
        """Where the job keeps what is not a result."""
        return self.output / FOLDER

    def chunks(self, source: Source, name: str) -> Chunks:
        """A source in chunks."""
        return source.read(self.folder / "tables" / name, self.batch_rows)

    def parts(self, name: str, *, final: bool = False) -> Parts:
        """Where a stage's partitions go."""
        own = self.folder / "stages" / name
        files = self.output if final else own / "files"
        return Parts(files, own / "entries", own / "answers", own / "tries")

    def run(self, stage: Stage, numbers: Sequence[int], *, final: bool = False) -> list[Entry]:
        """Have the partitions of a stage computed that are not finished.

        Returns:
            The entries of all, in the order of the numbers.

        Raises:
            EngineError: Some could not be computed; the others are finished.
        """
        parts = self.parts(stage.name, final=final)
        parts.make_folders()
        self._take_answers(parts)
        found = {n: parts.find(n, stage.key(n)) for n in numbers}
        missing = [n for n in numbers if found[n] is None]
        errors: list[str] = []
        told_of: set[int] = set()

        def told(entry: Entry | None, error: str) -> None:
            if entry is None:
                errors.append(error)
                return
            found[entry.number] = entry
            told_of.add(entry.number)
            self.computed += 1
            self._take_answers(parts, entry)
            self.tell(stage.name, len(numbers) - len(missing) + len(told_of), len(numbers))

        self.tell(stage.name, len(numbers) - len(missing), len(numbers))
        if missing and (stage.asks or len(missing) > FEW):
            work(stage, missing, parts, self.answering, self.cluster, told)
        else:
            work_here(stage, missing, parts, self.answering, told)
        entries = [entry for entry in found.values() if entry is not None]
        if len(entries) < len(numbers):
            why = errors[0] if errors else "Ray lost it"
            raise EngineError(
                f"{len(numbers) - len(entries)} of {len(numbers)} partitions of {stage.name} are "
                f"not finished, the first because {why}",
                hint="what is finished is kept: run the same again",
            )
        return entries

    def finish(self, entries: Sequence[Entry], name: str) -> Report:
        """Say that the job is done; results of contents that are no longer are removed."""
        parts = self.parts(name, final=True)
        current = {(entry.number, entry.key) for entry in entries}
        for entry in list(parts.all()):
            if (entry.number, entry.key) not in current:
                parts.drop(entry)
        failed = [entry for entry in entries if entry.failures]
        report = Report(
            output=self.output,
            rows=sum(entry.rows for entry in entries),
            partitions=len(entries),
            computed=self.computed,
            failures=sum(entry.failures for entry in failed),
            first_failure=failed[0].first_failure if failed else "",
            seconds=time.perf_counter() - self.began,
        )
        content = {
            "version": meld_duckdb.__version__,
            "identity": self.identity,
            "rows": report.rows,
            "failures": report.failures,
            "partitions": [asdict(entry) for entry in entries],
        }
        write_atomic(self.output / MANIFEST, json.dumps(content, indent=1))
        return report

    def _take_answers(self, parts: Parts, entry: Entry | None = None) -> None:
        """Bring answers of finished partitions into the cache of the workspace."""
        if not self.settings.cache:
            return
        cache = WorkspaceCache(self.settings.workspace / "cache.sqlite")
        given = parts.all_answers() if entry is None else [parts.answers_of(entry)]
        with suppress(ArtefactError):  # told by the cache; what waits is taken in another time
            for path in given:
                if path.exists():
                    cache.take(path)


@contextmanager
def started(
    output: Path,
    task: Mapping[str, object],
    cluster: Cluster,
    batch_rows: int,
    settings: Mapping[str, object],
    tell: Tell,
) -> Iterator[Job]:
    """Begin a job or go on with it; nobody else works on it meanwhile.

    Args:
        output: Folder of the results; made if it is not there.
        task: What the job is; a folder is of one job.
        cluster: Who does the work.
        batch_rows: Rows of a partition.
        settings: Settings, over ``MELD_*`` variables and ``meld.toml``.
        tell: Is told how far it is.

    Raises:
        ConfigError: An argument cannot be, or the folder is of another job.
        ArtefactError: Another process works on it.
    """
    cluster.check()
    if batch_rows < 1:
        raise ConfigError(f"batch_rows is {batch_rows}, expected a whole number from 1 on")
    output = output.absolute()
    own, flat = _settings_of_actors(settings)
    (output / FOLDER).mkdir(parents=True, exist_ok=True)
    with FileLock(output / FOLDER / "lock", "working on the same output").hold(_LOCK_S):
        _check_task(output, task)
        (output / MANIFEST).unlink(missing_ok=True)
        session = LocalService(own).session
        answering = Answering(flat, _known_answers(own, output / FOLDER / "known.sqlite"))
        with running(cluster):
            yield Job(output, cluster, own, answering, identity(session), batch_rows, tell)


def _settings_of_actors(given: Mapping[str, object]) -> tuple[Settings, dict[str, object]]:
    """Settings as objects and flat; relative paths are of the working directory of now."""
    settings, origins = resolve(given)
    if settings.max_calls or settings.max_seconds:
        raise ConfigError(
            "max_calls and max_seconds are budgets of a statement, a job has none",
            hint="set both to 0; meld estimate tells what a part of the table will cost",
        )
    flat = {origin.key: origin.value for origin in origins}
    flat |= {
        "workspace": settings.workspace.absolute(),
        "model_dir": settings.model_dir.absolute(),
        "engine": "local",
        "learn": False,
        "progress": False,
    }
    return resolve(flat)[0], flat


def _check_task(output: Path, task: Mapping[str, object]) -> None:
    path = output / FOLDER / "job.json"
    text = json.dumps(task, indent=1, sort_keys=True, default=str)
    begun = any((output / FOLDER / "stages").glob("*/entries/*.json"))
    if not path.exists() or not begun:  # a job that was refused for a mistake has no folder
        write_atomic(path, text)
    elif path.read_text("utf-8") != text:
        raise ConfigError(
            f"{output} is the output of another job", hint="name another folder, or remove it"
        )


def _known_answers(settings: Settings, path: Path) -> Path | None:
    """A copy of the workspace's cache for the actors of a run; None without one."""
    cache = settings.workspace / "cache.sqlite"
    if not settings.cache or not cache.is_file():
        return None
    try:
        WorkspaceCache(cache).copy_to(path)
    except ArtefactError:  # told by the cache
        return None
    return path


def identity(session: Session) -> str:
    """Digest of everything in settings and workspace that an answer follows from."""
    settings, workspace = session.settings, session.workspace
    folders = [
        workspace.experts_path,
        workspace.adapters_path,
        workspace.router_path,
        workspace.calibration_path,
        workspace.encoder_folder,
        workspace.rules_path,
        workspace.knowledge_path,
    ]
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    facts = [(path, path.stat()) for path in files]
    return digest(
        meld_duckdb.__version__,
        settings.backend,
        *(str(getattr(settings.answer, name)) for name in AnswerSettings.__slots__),
        *(session.demonstrator.digest(task) for task in ASKED),
        *(session.mixture.digest(task) for task in ASKED),
        *(f"{table.name} {table.digest}" for table in session.catalogue.tables()),
        *(f"{p.relative_to(workspace.path)} {s.st_size} {s.st_mtime_ns}" for p, s in facts),
    )
