"""What an actor does: one partition after another, with models that stay loaded.

An actor answers as any process does, by a `LocalService` on the workspace; only its cache is apart,
see `distributed.answers`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pyarrow as pa

from meld_duckdb.distributed.answers import PartitionCache
from meld_duckdb.distributed.parts import Entry, Parts
from meld_duckdb.errors import EngineUnavailable, MeldError
from meld_duckdb.planner.cache import AnswerCache
from meld_duckdb.planner.session import Session
from meld_duckdb.service import LocalService
from meld_duckdb.settings import Settings, resolve

MOST_TRIES = 4
"""How often a partition is begun in a run; actors that do not finish it died at it."""


Told = Callable[[Entry | None, str], None]
"""Is told of a partition: its entry, or None and why there is none."""


@dataclass(frozen=True, slots=True)
class Computed:
    """What a stage makes of a partition.

    Attributes:
        rows: They become the file.
        failures: Questions that were not answered.
        first_failure: Why the first of them was not.
    """

    rows: pa.Table
    failures: int = 0
    first_failure: str = ""


class Stage(Protocol):
    """One kind of work on every partition. It goes to the actors as a whole, before any work.

    Attributes:
        name: What it is called.
        asks: Whether it needs the models: few partitions of other work are not worth an actor.
    """

    name: str
    asks: ClassVar[bool]

    def key(self, number: int) -> str:
        """Digest of everything that the content of a partition follows from."""
        ...

    def compute(self, number: int, service: LocalService) -> Computed:
        """Do the work; what later partitions need as well may be kept."""
        ...


@dataclass(frozen=True, slots=True)
class Answering:
    """How actors answer.

    Attributes:
        settings: All settings, flat.
        known: A copy of the workspace's cache; None for none.
    """

    settings: Mapping[str, object]
    known: Path | None


class PartitionWorker:
    """Works on partitions; the class of the actors.

    Args:
        stage: The work.
        parts: Where partitions go.
        answering: How questions are answered.
    """

    def __init__(self, stage: Stage, parts: Parts, answering: Answering) -> None:
        self._stage = stage
        self._parts = parts
        self._answering = answering
        self._folder = Path(tempfile.mkdtemp(prefix="meld-actor-"))
        self._opened: tuple[LocalService, PartitionCache] | None = None

    def __del__(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[object]]:
        """Work on the partitions of a batch; a line per partition comes back, with what failed."""
        wanted = zip(batch["number"], batch["key"], strict=True)
        lines = [self.work(int(number), str(key)) for number, key in wanted]
        return {name: [line[name] for line in lines] for name in lines[0]}

    def work(self, number: int, key: str) -> dict[str, object]:
        """Work on one partition, unless it is finished; a failure harms no other partition."""
        try:
            found, error = self._finished(number, key), ""
        except MeldError as failure:
            found, error = None, str(failure)
        except Exception as failure:  # noqa: BLE001 - told by the driver
            found, error = None, f"{type(failure).__name__}: {failure}"
        return {"number": number, "key": key, "entry": _fields(found), "error": error}

    def _finished(self, number: int, key: str) -> Entry:
        present = self._parts.find(number, key)
        if present is not None:
            return present
        if self._parts.count_try(number, key) > MOST_TRIES:
            raise EngineUnavailable(
                f"{MOST_TRIES} actors died at this partition",
                hint="lower --batch-rows; the logs of Ray tell what killed them, often memory",
            )
        started, busy = time.perf_counter(), time.process_time()
        service, cache = self._service()
        cache.begin()
        computed = self._stage.compute(number, service)
        return self._parts.publish(
            number,
            key,
            computed.rows,
            failures=computed.failures,
            first_failure=computed.first_failure,
            seconds=time.perf_counter() - started,
            cpu_seconds=time.process_time() - busy,
            answers=cache.end(),
        )

    def _service(self) -> tuple[LocalService, PartitionCache]:
        if self._opened is None:
            settings, _ = resolve(self._answering.settings)
            cache = PartitionCache(self._answering.known, self._folder)
            self._opened = _Service(settings, cache), cache
        return self._opened


def work_here(
    stage: Stage, numbers: Sequence[int], parts: Parts, answering: Answering, told: Told
) -> None:
    """Work on partitions in this process, one after another; see `cluster.work`."""
    worker = PartitionWorker(stage, parts, answering)
    for number in numbers:
        line = worker.work(number, stage.key(number))
        tell_line(line, told)


def tell_line(line: Mapping[str, Any], told: Told) -> None:
    """Tell of a partition by the line that its worker gave."""
    fields = line["entry"]
    told(Entry(**json.loads(fields)) if fields else None, str(line["error"]))


class _Service(LocalService):
    """The service of an actor."""

    def __init__(self, settings: Settings, cache: AnswerCache) -> None:
        super().__init__(settings)
        self._cache = cache
        self._own: Session | None = None

    @property
    def session(self) -> Session:
        """Workspace, models and planner, opened on first use."""
        if self._own is None:
            self._own = _Session(self.settings, self.notice, self._cache)
        return self._own


class _Session(Session):
    """A session with the cache of an actor."""

    def __init__(
        self, settings: Settings, notice: Callable[[str], None], cache: AnswerCache
    ) -> None:
        self._given = cache
        super().__init__(settings, notice)

    def _answer_cache(self) -> AnswerCache:
        return self._given


def _fields(entry: Entry | None) -> str:
    return "" if entry is None else json.dumps(asdict(entry))
