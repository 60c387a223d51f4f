"""What a process holds open of a workspace: models and store, each loaded when first needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from meld_duckdb import interrupt, models
from meld_duckdb.engine.backend import Backend, worded_failures
from meld_duckdb.errors import ArtefactError, ConfigError, unknown_name
from meld_duckdb.planner.backends import BACKENDS, BackendKind
from meld_duckdb.planner.ledger import Ledger
from meld_duckdb.planner.speed import MeasuredBackend, Speeds
from meld_duckdb.records import TEXT_FIELD, Record, plain_text
from meld_duckdb.retrieval.catalogue import Catalogue
from meld_duckdb.retrieval.encoder import Encoder, encoder_digest, read_dimension
from meld_duckdb.retrieval.static import StaticEmbedding, open_static
from meld_duckdb.retrieval.store import Store
from meld_duckdb.settings import Settings
from meld_duckdb.tasks.serialise import embedding_text
from meld_duckdb.workspace import (
    Workspace,
    adopt_adapter,
    bind_encoder,
    check_adapter,
    check_dimension,
    open_workspace,
    read_adapter,
)

if TYPE_CHECKING:
    from meld_duckdb.retrieval.remote import RemoteKnowledge

Notice = Callable[[str], None]

_CHUNK = 64
"""Rows embedded before an interruption is looked for."""

_NOTICED = 512
"""Rows to embed from which on a line says so."""

_T = TypeVar("_T")


class Loaded:
    """Workspace, encoder, language model and store.

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
        self.speeds = Speeds(self._workspace.speed_path)
        self.catalogue = Catalogue(self._workspace.catalogue_path, self._workspace.lance_path)
        self.ledger = Ledger(self._workspace, self.catalogue, notice)
        self.ledger.recover()

    def _once(self, name: str, load: Callable[[], _T]) -> _T:
        """Load a thing the first time it is asked for; one thread loads, the others wait."""
        if name not in self._loaded:
            with self._lock:
                if name not in self._loaded:
                    self._loaded[name] = load()
        loaded: _T = self._loaded[name]
        return loaded

    @property
    def loaded(self) -> frozenset[str]:
        """Names of what is loaded by now."""
        return frozenset(list(self._loaded))

    @property
    def encoder(self) -> Encoder:
        """The embedding model, loaded on first use."""
        return self._once("encoder", self._load_encoder)

    @property
    def backend(self) -> Backend:
        """The engine that runs the language model, loaded on first use."""
        return self._once("backend", self._load_backend)

    @property
    def encoder_path(self) -> Path:
        """Where the encoder that the settings name is on this machine."""
        return self._encoder_path()

    @property
    def model_path(self) -> Path:
        """Where the language model that the settings name is on this machine."""
        return self._model_path()

    @property
    def experts_path(self) -> Path:
        """Directory of the workspace's experts."""
        return self._workspace.experts_path

    @property
    def store(self) -> Store:
        """The LanceDB store, opened on first use; the encoder itself is not needed for that."""
        return self._once("store", self._load_store)

    @property
    def workspace(self) -> Workspace:
        """The directory all of it lies in."""
        return self._workspace

    @property
    def encoder_digest(self) -> str:
        """Identity of the encoder with its adapter, known without loading it."""
        return self._encoder_digest()

    def adopt_encoder(self, adapter: Path | None) -> None:
        """Let the workspace's encoder take an adapter from now on, or none.

        Vectors of the encoder before are of no use then: `index` embeds anew.
        """
        with self._lock:
            adopt_adapter(self._workspace, self.ledger.write_lock, adapter)
            for name in ("encoder", "encoder digest", "store"):
                self._loaded.pop(name, None)

    def shed_adapter(self) -> str | None:
        """Let go of a tuned encoder that cannot be used any more; says why, None where it can.

        Raises:
            ArtefactIncompatible: The vectors of the workspace cannot be used either.
        """
        self._check_dimension()
        try:
            self._adapter()
        except ArtefactError as error:
            self.adopt_encoder(None)
            return error.what
        return None

    def _adapter(self) -> Path | None:
        """What the encoder of the workspace was tuned to, after a look whether it fits."""
        adapter = read_adapter(self._workspace)
        if adapter is not None:
            self._check_dimension()
            digest = models.model_digest(self._encoder_path())
            check_adapter(self._workspace, adapter, self.settings.answer.encoder, digest)
        return adapter

    def _check_dimension(self) -> None:
        dimension = read_dimension(self._encoder_path())
        if dimension is not None:
            check_dimension(self._workspace, self.settings.answer.encoder, dimension)

    @property
    def untuned_encoder(self) -> Encoder:
        """The embedding model without an adapter: what the shipped calibrations were fitted to."""
        if read_adapter(self._workspace) is None:
            return self.encoder
        path, device = self._encoder_path(), self.settings.device
        return self._once("untuned encoder", lambda: Encoder(path, device=device))

    def _load_encoder(self) -> Encoder:
        path, adapter = self._encoder_path(), self._adapter()
        tuned = "" if adapter is None else ", tuned,"
        self._notice(f"loading the encoder {self.settings.answer.encoder}{tuned} (once a process)")
        return Encoder(path, adapter=adapter, device=self.settings.device)

    def _load_backend(self) -> Backend:
        kind, path = self._backend_kind(), self._model_path()
        self._notice(kind.opening(self.settings))
        started = time.perf_counter()
        with worded_failures():
            backend = kind.open(path, self.settings)
        self.speeds.note_loading(self._backend_digest(), time.perf_counter() - started)
        return MeasuredBackend(backend, self.speeds)

    def _load_store(self) -> Store:
        dimension = read_dimension(self._encoder_path()) or self.encoder.dimension
        digest, name = self._encoder_digest(), self.settings.answer.encoder
        store = self.ledger.open_store(dimension, digest)
        bind_encoder(self._workspace, self.ledger.write_lock, name, digest, dimension)
        return store

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
        return self._once(
            "encoder digest",
            lambda: encoder_digest(self._encoder_path(), self._adapter()),
        )

    def _model_path(self) -> Path:
        answer = self.settings.answer
        return models.locate(answer.model, self.settings.model_dir, "language model")

    def _encoder_path(self) -> Path:
        answer = self.settings.answer
        return models.locate(answer.encoder, self.settings.model_dir, "encoder")

    def encode_untuned(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts by `untuned_encoder`: float32 [n, d], L2-normalised, in order."""
        vectors: np.ndarray = self.untuned_encoder.encode(texts)
        return vectors

    def embed(self, records: Sequence[Record], what: str) -> np.ndarray:
        """Embed records: float32 [n, d], L2-normalised, in order.

        Vectors of indexed rows are reused; what is left is told as rows of ``what``.
        """
        if not records:
            return np.zeros((0, 1), dtype=np.float32)
        known = self.store.entry_vectors(records)
        new = list({r.digest: r for r in records if r.digest not in known}.values())
        if len(new) > _NOTICED:
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

    @property
    def static(self) -> StaticEmbedding:
        """Token vectors of the untuned encoder, made on first use of any workspace."""
        return self._once("static", self._load_static)

    @property
    def remote(self) -> RemoteKnowledge:
        """The client of remote knowledge services, of which none is asked unless allowed."""
        return self._once("remote", self._load_remote)

    def _load_remote(self) -> RemoteKnowledge:
        from meld_duckdb.retrieval.remote import RemoteKnowledge  # brings an HTTP client

        return RemoteKnowledge(self.settings, self._workspace.remote_path, self._notice)

    def _load_static(self) -> StaticEmbedding:
        path, cache = self._encoder_path(), self.settings.model_dir
        digest = models.model_digest(path)
        return open_static(self.encode_untuned, path, digest, cache, self._notice)
