"""Partitions that are written exactly once, however often they are computed.

A partition is computed by whoever gets it, again if that one died. Its file appears by linking a
finished one to its name, which only the first succeeds in; an entry that tells what is in the file
appears the same way. A partition is finished when its entry is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from meld_duckdb.errors import ArtefactCorrupt


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished partition.

    Attributes:
        number: Which one of its stage.
        key: Digest of everything its content follows from.
        file: Name of its file.
        rows: Rows in the file.
        failures: Questions that were not answered.
        first_failure: Why the first of them was not; empty without any.
        digest: Content of the file.
        seconds: What it took.
        cpu_seconds: What of it was computing, in all threads.
        writer: Who wrote it; another for every attempt.
    """

    number: int
    key: str
    file: str
    rows: int
    failures: int
    first_failure: str
    digest: str
    seconds: float
    cpu_seconds: float
    writer: str


@dataclass(frozen=True, slots=True)
class Parts:
    """The partitions of a stage.

    Attributes:
        files: Folder of their files.
        entries: Folder of their entries.
        answers: Folder of the answers that they bring for the cache.
        tries: Folder of the notes that a partition was begun, of one run.
    """

    files: Path
    entries: Path
    answers: Path
    tries: Path

    def make_folders(self) -> None:
        """Make the folders, and remove what killed runs left half written."""
        for folder, left in (
            (self.files, ".*.part"),
            (self.entries, ".*.part"),
            (self.answers, ".*.part"),
            (self.tries, "*"),
        ):
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob(left):
                path.unlink(missing_ok=True)

    def count_try(self, number: int, key: str) -> int:
        """Note that a partition is begun; tells how often it was."""
        (self.tries / f"{_name(number, key)}-{uuid.uuid4().hex}").touch()
        return sum(1 for _ in self.tries.glob(f"{_name(number, key)}-*"))

    def find(self, number: int, key: str) -> Entry | None:
        """The entry of a partition, None if it is not finished.

        Raises:
            ArtefactCorrupt: The entry is there, but not what it tells of.
        """
        path = self.entries / f"{_name(number, key)}.json"
        try:
            entry = Entry(**json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ArtefactCorrupt(
                f"{path} is damaged", hint="remove it: its partition is computed again"
            ) from error
        if not (self.files / entry.file).is_file():
            path.unlink(missing_ok=True)  # somebody removed the file: compute it again
            return None
        return entry

    def all(self) -> Iterator[Entry]:
        """All finished partitions, also those of contents that are no longer."""
        for path in sorted(self.entries.glob("*.json")):
            number, key = path.stem.split("-")
            entry = self.find(int(number), key)
            if entry is not None:
                yield entry

    def all_answers(self) -> list[Path]:
        """The files of answers that wait to be taken in."""
        return sorted(self.answers.glob("*.sqlite"))

    def answers_of(self, entry: Entry) -> Path:
        """Where the answers of a partition wait."""
        return self.answers / f"{_name(entry.number, entry.key)}.sqlite"

    def path(self, entry: Entry) -> Path:
        """The file of a partition."""
        return self.files / entry.file

    def read(self, entry: Entry) -> pa.Table:
        """The rows of a partition."""
        return pq.read_table(self.path(entry), partitioning=None)

    def publish(
        self,
        number: int,
        key: str,
        rows: pa.Table,
        *,
        failures: int = 0,
        first_failure: str = "",
        seconds: float = 0.0,
        cpu_seconds: float = 0.0,
        answers: Path | None = None,
    ) -> Entry:
        """Write a partition, unless somebody has.

        Args:
            number: Which one.
            key: What its content follows from.
            rows: Its content.
            failures: Questions that were not answered.
            first_failure: Why the first of them was not.
            seconds: What it took.
            cpu_seconds: What of it was computing.
            answers: File of answers for the cache; it is copied.

        Returns:
            The entry that stands, this one's or the one before.
        """
        writer = uuid.uuid4().hex
        if answers is not None:
            self._publish_copy(answers, self.answers / f"{_name(number, key)}.sqlite", writer)
        path = self.files / f"part-{_name(number, key)}.parquet"
        temporary = _temporary(path, writer)
        pq.write_table(rows, temporary)
        _appear(temporary, path)
        entry = Entry(
            number=number,
            key=key,
            file=path.name,
            rows=pq.read_metadata(path).num_rows,
            failures=failures,
            first_failure=first_failure[:500],
            digest=_digest(path),
            seconds=round(seconds, 3),
            cpu_seconds=round(cpu_seconds, 3),
            writer=writer,
        )
        told = self.entries / f"{_name(number, key)}.json"
        temporary = _temporary(told, writer)
        temporary.write_text(json.dumps(asdict(entry)), "utf-8")
        if _appear(temporary, told):
            return entry
        return self.find(number, key) or entry

    def _publish_copy(self, source: Path, path: Path, writer: str) -> None:
        temporary = _temporary(path, writer)
        shutil.copyfile(source, temporary)
        _appear(temporary, path)

    def drop(self, entry: Entry) -> None:
        """Remove a partition: the entry last made is gone first."""
        (self.entries / f"{_name(entry.number, entry.key)}.json").unlink(missing_ok=True)
        self.path(entry).unlink(missing_ok=True)


def _name(number: int, key: str) -> str:
    return f"{number:06d}-{key}"


def _temporary(path: Path, writer: str) -> Path:
    return path.with_name(f".{path.name}.{writer}.part")


def _appear(temporary: Path, path: Path) -> bool:
    """Give a finished file its name, unless another one has it; tells whether it did."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: the last one wins, with the same content
        os.replace(temporary, path)
        return True
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return True


def _digest(path: Path) -> str:
    state = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()
