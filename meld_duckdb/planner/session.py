"""What a process holds open: workspace, models and planner, each loaded when first needed."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from meld_duckdb import interrupt, models
from meld_duckdb.engine.backend import Backend
from meld_duckdb.engine.transformers import TransformersBackend, engine_digest
from meld_duckdb.errors import ConfigError, InputError, unknown_name
from meld_duckdb.planner.cache import AnswerCache
from meld_duckdb.planner.cascade import choose_policy
from meld_duckdb.planner.clusters import (
    LINKAGES,
    agreeing_groups,
    connected_groups,
    distinct_contents,
    in_order_of_nearness,
    mutual_pairs,
    number_clusters,
)
from meld_duckdb.planner.demonstrations import Demonstrator
from meld_duckdb.planner.options import Options
from meld_duckdb.planner.plan import Planner, Resources
from meld_duckdb.planner.scorers import make_scorers
from meld_duckdb.planner.scorers.match import MatchScorer
from meld_duckdb.planner.stats import Outcome
from meld_duckdb.planner.tables import Tables
from meld_duckdb.planner.whole import ask_pairs
from meld_duckdb.records import TEXT_FIELD, Record, digest, plain_text
from meld_duckdb.retrieval.blocking import Candidates
from meld_duckdb.retrieval.catalogue import Catalogue, table_digest
from meld_duckdb.retrieval.encoder import Encoder, read_dimension
from meld_duckdb.retrieval.methods import Vectorisers, find
from meld_duckdb.retrieval.rows import TableRows
from meld_duckdb.retrieval.static import StaticEmbedding, open_static
from meld_duckdb.retrieval.store import Label, Store
from meld_duckdb.settings import Settings
from meld_duckdb.tasks.base import Answer, Query
from meld_duckdb.tasks.serialise import embedding_text
from meld_duckdb.workspace import bind_encoder, open_workspace

Notice = Callable[[str], None]

_CHUNK = 64
"""Rows embedded before an interruption is looked for."""

_EMBEDDED_ROWS = 512
"""Rows written at once: an interruption or kill loses at most so many embeddings."""

_PLAIN_ROWS = 20_000

_T = TypeVar("_T")


def _open_transformers(path: Path, settings: Settings) -> Backend:
    return TransformersBackend(
        path,
        device=settings.device,
        batch_size=settings.engine_batch,
        max_prompt_tokens=settings.answer.max_prompt_tokens,
    )


@dataclass(frozen=True, slots=True)
class BackendKind:
    """A backend by its two faces: what it is, known without loading, and the thing itself."""

    digest: Callable[[Path, Settings], str]
    open: Callable[[Path, Settings], Backend]


def _transformers_digest(path: Path, settings: Settings) -> str:
    return engine_digest(path, settings.device, settings.answer.max_prompt_tokens)


BACKENDS = {"transformers": BackendKind(_transformers_digest, _open_transformers)}
"""Every backend by its name in the settings."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """Result of `Session.index`."""

    name: str
    n_entries: int
    n_embedded: int
    digest: str
    seconds: float


class Session:
    """Everything behind a `LocalService`.

    Args:
        settings: Resolved settings.
        notice: Called with one line when something slow begins.
    """

    def __init__(self, settings: Settings, notice: Notice) -> None:
        self.settings = settings
        self._notice = notice
        self._lock = threading.RLock()
        self._loaded: dict[str, Any] = {}
        self._workspace = open_workspace(settings.workspace)
        self.catalogue = Catalogue(self._workspace.catalogue_path)
        self.tables = Tables(self.catalogue, lambda table: self.store.entries(table))  # noqa: PLW0108
        self.demonstrator = Demonstrator(
            settings.answer, self.catalogue, lambda: self.store, lambda: self.encoder
        )
        scorers = make_scorers(
            self.tables,
            lambda texts: self.encoder.encode(texts),  # noqa: PLW0108  (loads it late)
            self.demonstrator.labelled,
        )
        self._match = cast(MatchScorer, scorers["match"])
        self.planner = Planner(
            Resources(
                settings=settings.answer,
                cache=AnswerCache(self._workspace.cache_path) if settings.cache else None,
                tables=self.tables,
                scorers=scorers,
                demonstrator=self.demonstrator,
                backend=lambda: self.backend,
                backend_digest=self._backend_digest,
                encoder_digest=self._encoder_digest,
            )
        )

    def _once(self, name: str, load: Callable[[], _T]) -> _T:
        """Load a thing the first time it is asked for; one thread loads, the others wait."""
        if name not in self._loaded:
            with self._lock:
                if name not in self._loaded:
                    self._loaded[name] = load()
        loaded: _T = self._loaded[name]
        return loaded

    @property
    def encoder(self) -> Encoder:
        """The embedding model, loaded on first use."""
        return self._once("encoder", self._load_encoder)

    @property
    def backend(self) -> Backend:
        """The engine that runs the language model, loaded on first use."""
        return self._once("backend", self._load_backend)

    @property
    def store(self) -> Store:
        """The LanceDB store, opened on first use; the encoder itself is not needed for that."""
        return self._once("store", self._load_store)

    def _load_encoder(self) -> Encoder:
        path = self._encoder_path()
        self._notice(f"loading the encoder {self.settings.answer.encoder} (once a process)")
        return Encoder(path, device=self.settings.device)

    def _load_backend(self) -> Backend:
        kind, path = self._backend_kind(), self._model_path()
        self._notice(f"loading the model {self.settings.answer.model} (once a process)")
        return kind.open(path, self.settings)

    def _load_store(self) -> Store:
        bind_encoder(self._workspace, self.settings.answer.encoder, self._encoder_digest())
        dimension = read_dimension(self._encoder_path()) or self.encoder.dimension
        return Store(self._workspace.lance_path, dimension)

    def _backend_kind(self) -> BackendKind:
        name = self.settings.backend
        if name not in BACKENDS:
            what, hint = unknown_name("backend", name, BACKENDS)
            raise ConfigError(what, hint=hint)
        return BACKENDS[name]

    def _backend_digest(self) -> str:
        return self._once(
            "backend digest", lambda: self._backend_kind().digest(self._model_path(), self.settings)
        )

    def _encoder_digest(self) -> str:
        return self._once("encoder digest", lambda: models.model_digest(self._encoder_path()))

    def _model_path(self) -> Path:
        answer = self.settings.answer
        return models.locate(answer.model, self.settings.model_dir, "language model")

    def _encoder_path(self) -> Path:
        answer = self.settings.answer
        return models.locate(answer.encoder, self.settings.model_dir, "encoder")

    def embed(self, records: Sequence[Record], what: str) -> np.ndarray:
        """Embed records: float32 [n, d], L2-normalised, in order.

        Vectors of indexed rows are reused; what is left is told as rows of ``what``.
        """
        if not records:
            return np.zeros((0, 1), dtype=np.float32)
        known = self.store.entry_vectors(records)
        new = list({r.digest: r for r in records if r.digest not in known}.values())
        if len(new) > _EMBEDDED_ROWS:
            self._notice(f"embedding {len(new)} rows of {what}, about {len(new) // 100 + 1} s")
        limit = self.settings.answer.max_record_chars
        for start in range(0, len(new), _CHUNK):
            interrupt.check()
            part = new[start : start + _CHUNK]
            vectors = self.encoder.encode([embedding_text(r, limit) for r in part])
            known.update(zip((r.digest for r in part), vectors, strict=True))
        return np.stack([known[r.digest] for r in records])

    def embed_texts(self, records: Sequence[Record]) -> np.ndarray:
        """Embed records, a bare text as it is: float32 [n, d], L2-normalised, in order."""
        limit = self.settings.answer.max_record_chars
        texts = [
            plain_text(r.text, limit)
            if list(r.fields) == [TEXT_FIELD]
            else embedding_text(r, limit)
            for r in records
        ]
        vectors: np.ndarray = self.encoder.encode(texts)
        return vectors

    def index(self, name: str, records: Sequence[Record], *, embed: bool) -> Indexed:
        """Index a table: its rows become context, candidates and neighbours of later queries.

        A table already indexed with the same content is not touched; rows embedded before, in any
        table, are not embedded again; a killed run continues where it stopped.
        """
        started = time.perf_counter()
        content = table_digest(records)
        kept = any(t.digest == content and t.embedded >= embed for t in self.catalogue.tables())
        kept = kept and self.store.count_entries(content) == len(records)
        n_embedded = 0 if kept else self._write_entries(name, content, records, embed=embed)
        embedded = embed or any(t.embedded for t in self.catalogue.tables() if t.digest == content)
        for orphan in self.catalogue.add_table(name, content, records, embedded=embedded):
            self.store.remove_entries(orphan)
        seconds = time.perf_counter() - started
        return Indexed(name, len(records), n_embedded, content, seconds)

    def _write_entries(
        self, name: str, content: str, records: Sequence[Record], *, embed: bool
    ) -> int:
        """Write the rows of a table, embedded part by part; gives how many were embedded anew."""
        missing = 0
        if embed:
            known = self.store.entry_vectors(records)
            missing = len({r.digest for r in records} - known.keys())
        if missing > _CHUNK:
            self._notice(f"embedding {missing} rows of {name}, about {missing // 100 + 1} s")
        step = _EMBEDDED_ROWS if embed else _PLAIN_ROWS
        for start in range(0, len(records), step):
            interrupt.check()
            chunk = records[start : start + step]
            vectors = self.embed(chunk, name) if embed else None
            self.store.add_entries(content, start, chunk, vectors)
        return missing

    def block(
        self, left: Sequence[Record], right: Sequence[Record], k: int, method: str, *, same: bool
    ) -> Candidates:
        """Find candidates that are to be compared, no more than ``max_pairs``; see `block_rows`."""
        self.check_pairs(len(left) * min(k, len(right)), f"{len(left)} rows x {k} candidates")
        rows = TableRows(left)
        return self.block_rows(rows, rows if same else TableRows(right), k, method)

    def block_rows(
        self, left: TableRows, right: TableRows, k: int, method: str, *, estimate: bool = False
    ) -> Candidates:
        """Find the ``k`` best right rows of every left row; see `retrieval.methods.find`."""
        models = Vectorisers(
            lambda rows: self.embed(rows.records, "a table"),
            lambda: self._once("static", self._load_static),
        )
        most = self.settings.max_pairs
        return find(left, right, k, method, models, max_pairs=most, estimate=estimate)

    def _load_static(self) -> StaticEmbedding:
        path, cache = self._encoder_path(), self.settings.model_dir
        return open_static(
            lambda texts: self.encoder.encode(texts),  # noqa: PLW0108  (loads it late)
            path,
            self._encoder_digest(),
            cache,
            self._notice,
        )

    def join(
        self,
        left: Sequence[Record],
        right: Sequence[Record],
        candidates: Candidates,
        options: Options,
    ) -> tuple[list[Answer], Outcome]:
        """Match candidate pairs, with both tables as context.

        Returns:
            One answer per candidate pair, in order, and how they came about.
        """
        pairs = zip(candidates.left.tolist(), candidates.right.tolist(), strict=True)
        return ask_pairs(self.planner, self.tables, "match", left, right, pairs, options)

    def dedupe(
        self, records: Sequence[Record], k: int, method: str, linkage: str, options: Options
    ) -> tuple[np.ndarray, list[Answer], Outcome]:
        """Cluster the rows of a table that describe the same entity; see `planner.clusters`.

        Where features alone settle every pair, they are computed for all pairs at once and no
        answer is cached: that is faster than looking hundreds of thousands of answers up.

        Returns:
            Number of each row's cluster from 0, by first row; the answers that were asked for one
            by one; and how they came about.

        Raises:
            ConfigError: The linkage is unknown.
            InputError: There are more candidate pairs than ``max_pairs``.
        """
        if linkage not in LINKAGES:
            raise ConfigError(
                f"option 'linkage' is {linkage!r}, expected one of {', '.join(LINKAGES)}"
            )
        distinct = distinct_contents(records)
        rows = distinct.records
        pairs = mutual_pairs(self.block(rows, rows, k, method, same=True))
        policy = choose_policy("match", self.settings.answer.model, options)
        answers: list[Answer] = []
        table = table_digest(rows)
        if policy.engine or self.demonstrator.labels("match"):
            answers, outcome = ask_pairs(
                self.planner, self.tables, "match", rows, rows, pairs.tolist(), options
            )
            likely = np.array([answer.probability or 0.0 for answer in answers])
        else:
            pairs = pairs[in_order_of_nearness(pairs, len(rows))]
            with self.tables.lend({table: rows}):
                likely = self._match.probabilities(table, pairs)
            asked = [digest(rows[i].digest, rows[j].digest) for i, j in pairs.tolist()]
            outcome = Outcome(evaluated=asked, answers=[Answer(tier=0)] * len(asked))
        with self.tables.lend({table: rows}):
            least = self._match.threshold(table, options)
        if linkage == "components":
            groups = connected_groups(len(rows), pairs, likely, least)
        else:
            groups = agreeing_groups(len(rows), pairs, likely, least, k)
        return number_clusters(distinct, groups), answers, outcome

    def ask_schemas(
        self, left: Sequence[Record], right: Sequence[Record], options: Options
    ) -> tuple[list[Answer], Outcome]:
        """Match every column of one schema with every column of another.

        Args:
            left: Columns as records of ``schema_match``.
            right: Columns of the other schema.
            options: Options of the call.

        Returns:
            One answer per pair, the columns of the left schema first, and how they came about.

        Raises:
            InputError: There are more pairs than ``max_pairs``.
        """
        self.check_pairs(len(left) * len(right), f"{len(left)} x {len(right)} columns")
        pairs = itertools.product(range(len(left)), range(len(right)))
        return ask_pairs(self.planner, self.tables, "schema_match", left, right, pairs, options)

    def check_pairs(self, n_pairs: int, what: str) -> None:
        """Refuse more pairs than the setting ``max_pairs`` allows.

        Raises:
            InputError: There are more.
        """
        if n_pairs > self.settings.max_pairs:
            raise InputError(
                f"{what} are {n_pairs} pairs, more than max_pairs = {self.settings.max_pairs}",
                hint="compare fewer: block with a lower k (FROM meld.block), take smaller parts of "
                "the tables, or raise the setting max_pairs",
            )

    def learn(self, task: str, labelled: Sequence[tuple[Query, str]]) -> None:
        """Store labels; the next query of the task uses them."""
        plain = [(replace(query, domain=None), answer) for query, answer in labelled]
        distinct = {query.digest: (query, answer) for query, answer in plain}
        self.store.add_labels([Label(task, query, answer) for query, answer in distinct.values()])
        self.catalogue.set_labels(task, {d: answer for d, (_, answer) in distinct.items()})
