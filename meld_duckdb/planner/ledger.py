"""Every change of index and labels as one operation: it takes turns, is recorded, can be undone.

LanceDB is the source. An operation marks itself in the catalogue, writes LanceDB, then enters what
it did into catalogue and history in one transaction, which takes the mark away. Whoever finds a
mark while nobody holds the write lock, finds an operation whose process died, and finishes it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from meld_duckdb.errors import ArtefactCorrupt, ArtefactError, InputError, unknown_name
from meld_duckdb.locks import FileLock
from meld_duckdb.records import Record
from meld_duckdb.retrieval.catalogue import Catalogue, IndexedTable
from meld_duckdb.retrieval.history import Operation
from meld_duckdb.retrieval.store import Label, Store, StoredTable
from meld_duckdb.workspace import SCHEMA_VERSION, Workspace, change_manifest, read_manifest

_LOG = logging.getLogger(__name__)
_ROLLBACK = "rollback to "
_BULK = 5_000
"""Rows from which on an operation brings the indexes of LanceDB up to date at once."""


class Ledger:
    """Writes operations to a workspace. Safe for threads and processes.

    Args:
        workspace: The workspace.
        catalogue: Its catalogue.
        notice: Called with one line where something has to wait or is mended.
    """

    def __init__(
        self, workspace: Workspace, catalogue: Catalogue, notice: Callable[[str], None]
    ) -> None:
        self._workspace = workspace
        self._catalogue = catalogue
        self._notice = notice
        path = workspace.path
        self.write_lock = FileLock(workspace.write_lock_path, f"which writes to {path}", notice)
        self.index_lock = FileLock(workspace.index_lock_path, f"which indexes into {path}", notice)

    def open_store(
        self, dimension: int | None = None, encoder: str = "", *, checked: bool = True
    ) -> Store:
        """Open the store, after bringing an older workspace up to date; see `Store`.

        Args:
            dimension: Length of the vectors; None takes that of the stored ones.
            encoder: Digest of the encoder.
            checked: Look whether the versions are there that the last operation wrote.

        Raises:
            ArtefactCorrupt: They are not.
        """
        path = self._workspace.lance_path
        if read_manifest(self._workspace)["schema_version"] < SCHEMA_VERSION:
            self._migrate(Store(path, lock=self.write_lock))
        store = Store(path, dimension, encoder, self.write_lock)
        if checked:
            self._check_versions(store)
        return store

    def _check_versions(self, store: Store) -> None:
        wanted = self._catalogue.history.latest()
        if not wanted:
            return
        if not store.lance.names():  # removed as a whole: start anew
            with self.write_lock.hold():
                self._notice("the index was removed: its tables and labels are forgotten")
                self._catalogue.history.forget(0)
                self._sync(store, "the index was removed")
            return
        found = store.lance.versions()
        for name, version in wanted.items():
            if found.get(name, 0) < version:
                raise store.damaged(name, f"its version {version} is gone")

    def recover(self) -> None:
        """Finish what a process that died has begun; waits for one that lives.

        Until it is finished, what was there before it is seen.

        Raises:
            ArtefactCorrupt: The files of LanceDB are damaged.
        """
        if self._catalogue.history.pending() is None:
            return
        try:
            with self.write_lock.hold():
                self._finish_pending(self.open_store())
        except ArtefactCorrupt:
            raise
        except ArtefactError as error:
            self._notice(f"{error.what}; it will be tried again")

    def learn(self, store: Store, labels: Sequence[Label]) -> None:
        """Store labels of one task; the queries of a task are distinct."""
        what = f"learn {len(labels)} {labels[0].task}"
        answers = {label.query.digest: label.answer for label in labels}
        with self.write_lock.hold():
            self._begin(store, what)
            store.add_labels(labels)
            with self._finishing(store, what, len(labels)):
                self._catalogue.set_labels(labels[0].task, answers)

    def enter_table(self, store: Store, table: StoredTable, records: Sequence[Record]) -> None:
        """Enter a table whose rows are all stored; rows that no name means are forgotten."""
        what = f"index {table.name}"
        with self.write_lock.hold():
            self._begin(store, what)
            before = {t.digest for t in store.tables()}
            table = replace(table, ordinal=self._catalogue.next_ordinal())
            store.put_table(table)
            store.remove_entries(sorted(before - {t.digest for t in store.tables()}))
            with self._finishing(store, what, table.n_rows):
                self._enter(table, records)

    def drop_table(self, name: str) -> int:
        """Forget an indexed table; gives how many rows it had.

        Raises:
            InputError: There is no such table.
        """
        store = self.open_store()
        with self.index_lock.hold(), self.write_lock.hold():
            tables = {t.name: t for t in self._catalogue.tables()}
            if name not in tables:
                what, hint = unknown_name("indexed table", name, tables)
                raise InputError(what, hint=hint)
            self._begin(store, f"drop {name}")
            store.drop_table(name)
            if tables[name].digest not in {t.digest for t in store.tables()}:
                store.remove_entries([tables[name].digest])
            with self._finishing(store, f"drop {name}", 0):
                self._catalogue.remove_table(name)
        return tables[name].n_rows

    def rollback(self, version: int) -> None:
        """Bring index, labels and facts back to what they were after an operation.

        That is an operation too, and can be undone.

        Raises:
            InputError: There is no such operation, or it can not be gone back to any more.
            ArtefactCorrupt: Its files are gone; then nothing has changed.
        """
        store = self.open_store(checked=False)
        with self.index_lock.hold(), self.write_lock.hold():
            self._step_back(store, version, [op.version for op in self.operations()])

    def _step_back(self, store: Store, version: int, known: Sequence[int]) -> None:
        if version not in known:
            listed = ", ".join(map(str, known)) or "none"
            raise InputError(
                f"there is no version {version} to go back to",
                hint=f"known: {listed}; see meld workspace versions",
            )
        chosen = next(op for op in self.operations() if op.version == version)
        store.lance.check(chosen.lance)
        self._catalogue.history.begin(f"{_ROLLBACK}{version}")
        self._finish_pending(store, quiet=True)

    def rebuild(self) -> list[str]:
        """Make the catalogue anew from what can be read of LanceDB.

        Damaged rows and labels, and rows that no table owns, are removed; what LanceDB cannot read
        is put aside. What is left of a table need not be embedded again when it is indexed again.

        Returns:
            What was found to be wrong, one line each; these tables are left out.
        """
        store = self.open_store(checked=False)
        with self.index_lock.hold(), self.write_lock.hold():
            self._catalogue.history.begin("rebuild")
            aside = store.lance.put_aside_unreadable()
            removed = store.remove_damaged()
            for table in self._catalogue.tables():
                self._catalogue.remove_table(table.name)
            wrong = self._sync(store, "rebuild")
            # Without the list of tables their rows are kept: indexed again, they are found there.
            owners = [t.digest for t in store.tables()]
            n_rows = 0 if "tables" in aside else store.keep_entries(owners)
        return [
            *(f"the damaged {name} are kept as {place}" for name, place in aside.items()),
            *wrong,
            *(f"{n} damaged {name} were removed" for name, n in removed.items() if n),
            *([f"{n_rows} rows that no table owns were removed"] if n_rows else []),
        ]

    def forget_vectors(self, dimension: int) -> None:
        """Forget all vectors and the tuned encoder, for an encoder with vectors of another length.

        Rows, labels and facts stay; tables are embedded when they are indexed again.
        """
        what = "forget vectors"
        store = self.open_store(checked=False)
        with self.index_lock.hold(), self.write_lock.hold():
            self._begin(store, what)
            store.forget_vectors(dimension)
            for table in store.tables():
                store.put_table(replace(table, encoder=""))
            self._sync(store, what)
            change_manifest(
                self._workspace,
                self.write_lock,
                lambda m: m.update(encoder=None, encoder_adapter=None),
            )

    def compact(self, keep: int) -> None:
        """Merge small files, forget all operations but the latest ``keep`` and what they need."""
        store = self.open_store()
        with self.write_lock.hold():
            self._finish_pending(store)
            for name in store.lance.names():
                store.lance.optimise(name, force=True)
            self._catalogue.history.forget(keep - 1)
            self._catalogue.history.finish("compact", store.lance.versions(), store.lance.counts())
            for name in store.lance.names():
                store.lance.forget_before(name, self._catalogue.history.oldest_kept(name))

    def operations(self) -> list[Operation]:
        """The operations that can be gone back to, oldest first."""
        return self._catalogue.history.operations()

    def _begin(self, store: Store, what: str) -> None:
        """Mark an operation as under way, after finishing one that was left; under the lock."""
        self._finish_pending(store)
        self._catalogue.history.begin(what)

    @contextmanager
    def _finishing(self, store: Store, what: str, n_rows: int) -> Iterator[None]:
        """Make the changes of the catalogue inside visible together with the entry of history."""
        self._tidy(store, force=n_rows >= _BULK)
        versions, counts = store.lance.versions(), store.lance.counts()
        with self._catalogue.writing():
            yield
            self._catalogue.history.finish(what, versions, counts)

    def _tidy(self, store: Store, *, force: bool = False) -> None:
        """Merge small files; a failure of that harms nobody."""
        for name in store.lance.names():
            try:
                if store.lance.optimise(name, force=force):
                    store.lance.forget_before(name, self._catalogue.history.oldest_kept(name))
            except ArtefactCorrupt:
                raise
            except ArtefactError as error:
                _LOG.warning("%s was not compacted: %s", name, error)

    def _finish_pending(self, store: Store, *, quiet: bool = False) -> None:
        """Bring the catalogue to what LanceDB says, if an operation was left unfinished."""
        what = self._catalogue.history.pending()
        if what is None:
            return
        if not quiet:
            self._notice(f"finishing what was left unfinished: {what}")
        if what.startswith(_ROLLBACK):
            version = int(what.removeprefix(_ROLLBACK))
            chosen = next(op for op in self.operations() if op.version == version)
            store.lance.restore(chosen.lance)
        for line in self._sync(store, what if quiet else f"recover: {what}"):
            self._notice(line)

    def _sync(self, store: Store, what: str) -> list[str]:
        """Enter into the catalogue what LanceDB holds; tables that are as entered are left."""
        wrong = []
        labels = store.all_labels()
        known = {t.name: t for t in self._catalogue.tables()}
        with self._catalogue.writing():
            self._catalogue.replace_labels(labels)
            for table in store.tables():
                entered = known.pop(table.name, None)
                if entered == as_entered(table):
                    continue
                try:
                    self._enter(table, store.entries(table.digest))
                except ArtefactError as error:
                    wrong.append(f"{table.name} is left out, index it again: {error.what}")
                    self._catalogue.remove_table(table.name)
            for name in known:
                self._catalogue.remove_table(name)
            self._catalogue.history.finish(what, store.lance.versions(), store.lance.counts())
        return wrong

    def _enter(self, table: StoredTable, records: Sequence[Record]) -> None:
        if len(records) != table.n_rows:
            raise ArtefactCorrupt(f"{len(records)} of {table.n_rows} rows are left")
        self._catalogue.add_table(
            table.name,
            table.digest,
            records,
            embedded=bool(table.encoder),
            encoder=table.encoder,
            split_column=table.split_column,
            ordinal=table.ordinal,
        )

    def _migrate(self, store: Store) -> None:
        """Bring a workspace of schema version 1 up to date; run again if it was killed."""
        with self.index_lock.hold(), self.write_lock.hold():
            manifest = read_manifest(self._workspace)
            if manifest["schema_version"] >= SCHEMA_VERSION:
                return
            self._notice("bringing the workspace up to date (once)")
            encoder = str((manifest.get("encoder") or {}).get("digest", ""))
            store.migrate(encoder)
            for ordinal, table in enumerate(self._catalogue.tables(), 1):
                own = encoder if table.embedded else ""
                store.put_table(StoredTable(table.name, table.digest, table.n_rows, ordinal, own))
            self._sync(store, "bring up to date")
            current = {"schema_version": SCHEMA_VERSION}
            change_manifest(self._workspace, self.write_lock, lambda m: m.update(current))


def as_entered(table: StoredTable) -> IndexedTable:
    """A table of LanceDB as the catalogue knows it."""
    return IndexedTable(
        table.name,
        table.digest,
        table.n_rows,
        bool(table.encoder),
        table.encoder,
        table.split_column,
    )
