"""Files named on the command line, of ``meld train`` first: read by DuckDB, which knows them.

``labels.parquet``, ``labels.csv``, ``labels.json`` and ``shop.duckdb:labels``; before any of them
may stand the task: ``schema_match=columns.csv``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meld_duckdb.errors import InputError, unknown_name
from meld_duckdb.records import value_text
from meld_duckdb.tasks import TASKS
from meld_duckdb.train.label_files import KeyedTable, LabelFile, Split, assign_tables

READERS = {
    ".parquet": "read_parquet(?)",
    ".csv": "read_csv(?, sample_size = -1)",
    ".tsv": "read_csv(?, sample_size = -1)",
    ".json": "read_json(?, sample_size = -1)",
    ".jsonl": "read_json(?, sample_size = -1)",
    ".ndjson": "read_json(?, sample_size = -1)",
}
"""Endings of files to the table function of DuckDB that reads them; ``.gz`` may follow."""

DATABASES = (".duckdb", ".ddb", ".db")
_BATCH = 10_000


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or a table of a DuckDB file.

    Attributes:
        given: As it was given, without the task.
        path: The file.
        table: The table in it, for a DuckDB file.
        task: The task that was named with it, None for none.
    """

    given: str
    path: Path
    table: str | None = None
    task: str | None = None

    @property
    def name(self) -> str:
        """What it is indexed as: the table's name, or folder and file without ending."""
        if self.table is not None:
            return self.table
        stem = self.path.name.partition(".")[0]
        return f"{self.path.absolute().parent.name}/{stem}"


@dataclass(frozen=True, slots=True)
class Content:
    """The rows of a source: values by column, in the order of the columns."""

    columns: list[str]
    rows: list[dict[str, Any]]


def parse_source(text: str) -> Source:
    """Read an argument of the command.

    Raises:
        InputError: The task is unknown, the file is not there or of an unknown kind.
    """
    task, has_task, rest = text.partition("=")
    if has_task and task not in TASKS and task.isidentifier() and not Path(text).exists():
        what, hint = unknown_name("task", task, TASKS)
        raise InputError(f"{text}: {what}", hint=hint)
    given = rest if task in TASKS and has_task else text
    named = task if task in TASKS and has_task else None
    file, colon, table = given.rpartition(":")
    if colon and Path(file).suffix.lower() in DATABASES:
        source = Source(given, Path(file), table, named)
    else:
        source = Source(given, Path(given), None, named)
    if not source.path.is_file():
        raise InputError(f"there is no file {source.path}", hint="give the path of a file")
    _check_kind(source)
    return source


def _check_kind(source: Source) -> None:
    kind = _kind(source.path)
    if source.table is not None or kind in READERS:
        return
    if kind in DATABASES:
        raise InputError(f"{source.given} has many tables", hint=f"name one: {source.given}:TABLE")
    raise InputError(
        f"{source.given} is of no kind that can be read: {kind or 'it has no ending'}",
        hint=f"known: {', '.join(READERS)}, and FILE.duckdb:TABLE",
    )


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def read_source(source: Source) -> Content:
    """Read all rows of a file or table; DuckDB files are opened for reading only.

    Raises:
        InputError: It cannot be read.
    """
    import duckdb

    try:
        if source.table is not None:
            return _read_table(source.path, source.table)
        with duckdb.connect() as connection:
            return _rows(connection, READERS[_kind(source.path)], str(source.path))
    except duckdb.Error as error:
        raise _unreadable(source, error) from error


@contextmanager
def open_batches(
    source: Source, required: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, Iterator[list[tuple[str | None, ...]]]]]:
    """Read some columns of a file or table part by part, as texts; CSV values stay as they are.

    Args:
        source: The file or table.
        required: Columns wanted; upper and lower case are the same.
        optional: Further ones, None in every row where there is no such column.

    Yields:
        The number of rows, and their parts: the columns of each row in the order asked for.

    Raises:
        InputError: It cannot be read, or a column is not there.
    """
    import duckdb

    try:
        with _connected(source) as (connection, reader, argument):
            columns = {name.lower(): name for name in _columns(connection, reader, argument)}
            for name in required:
                if name not in columns:
                    what, hint = unknown_name("column", name, columns.values())
                    raise InputError(f"{source.given} has no column {name!r}: {what}", hint=hint)
            wanted = [_quoted(columns[n]) if n in columns else "NULL" for n in required]
            wanted += [_quoted(columns[n]) if n in columns else "NULL" for n in optional]
            counted = connection.sql(f"SELECT count(*) FROM {reader}", params=[argument])
            [(n_rows,)] = counted.fetchall()
            asked = connection.sql(f"SELECT {', '.join(wanted)} FROM {reader}", params=[argument])
            yield n_rows, map(_texts, asked.to_arrow_reader(_BATCH))
    except duckdb.Error as error:
        raise _unreadable(source, error) from error


@contextmanager
def _connected(source: Source) -> Iterator[tuple[Any, str, str]]:
    """A connection, and the table function that reads a source, with its argument."""
    import duckdb

    from meld_duckdb.register import register

    if source.table is None:
        reader = READERS[_kind(source.path)]
        if reader.startswith("read_csv"):
            reader = "read_csv(?, all_varchar = true)"  # 0123 is a code, not a number
        with duckdb.connect() as connection:
            connection.execute("SET enable_progress_bar = false")
            yield connection, reader, str(source.path)
    else:
        with duckdb.connect(str(source.path), read_only=True) as connection:
            register(connection)
            connection.execute("SET enable_progress_bar = false")
            yield connection, "query_table(?)", source.table


def _texts(batch: Any) -> list[tuple[str | None, ...]]:
    from meld_duckdb.arrow import python_values

    columns = ([value_text(v) for v in python_values(column)] for column in batch.columns)
    return list(zip(*columns, strict=True))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _unreadable(source: Source, error: Exception) -> InputError:
    what = f"{source.given} cannot be read: {str(error).strip().splitlines()[0]}"
    return InputError(what, hint="its ending says how it is read" if source.table is None else None)


def _read_table(path: Path, table: str) -> Content:
    import duckdb

    from meld_duckdb.register import register

    with duckdb.connect(str(path), read_only=True) as connection:
        register(connection)  # a view may call the functions
        return _rows(connection, "query_table(?)", table)


def _rows(connection: Any, reader: str, argument: str) -> Content:
    from meld_duckdb.arrow import python_values

    connection.execute("SET enable_progress_bar = false")  # it would write to standard output
    columns = _columns(connection, reader, argument)
    asked = f"SELECT __meld_row FROM {reader} AS __meld_row"
    rows: list[dict[str, Any]] = []
    for batch in connection.sql(asked, params=[argument]).to_arrow_reader(_BATCH):
        rows.extend(row for row in python_values(batch.column(0)) if isinstance(row, dict))
    return Content(columns, rows)


def _columns(connection: Any, reader: str, argument: str) -> list[str]:
    described = connection.execute(f"SELECT * FROM {reader} LIMIT 0", [argument]).description
    return [str(column[0]) for column in described]


def read_label_files(
    labels: Sequence[str],
    tests: Sequence[str],
    tasks: Sequence[str],
    tables: tuple[Sequence[str], Sequence[str]],
    keys: tuple[str, str],
) -> list[LabelFile]:
    """Read the label files of a command, and the tables they refer to.

    Args:
        labels: Files as given.
        tests: Further ones, whose rows are all test rows.
        tasks: Task of those that name none: at most one is named then.
        tables: Left and right tables.
        keys: Their key columns.

    Raises:
        InputError: A file cannot be read, or it is not clear what it is.
    """
    given: list[tuple[str, Split | None]] = [(text, None) for text in labels]
    given += [(text, "test") for text in tests]
    sources = [(parse_source(text), split) for text, split in given]
    pairs = _sources_of_tables(*tables)
    files = []
    for source, split in sources:
        task, content = _task_of(source, tasks), read_source(source)
        files.append(
            LabelFile(task, source.given, content.columns, content.rows, keys, split=split)
        )
    return assign_tables(files, [(_table(a, keys[0]), _table(b, keys[1])) for a, b in pairs])


def _task_of(source: Source, tasks: Sequence[str]) -> str:
    if source.task is not None:
        return source.task
    if len(tasks) != 1:
        named = "none is named" if not tasks else f"{', '.join(tasks)} are named"
        raise InputError(
            f"the task of {source.given} is not clear: {named}",
            hint=f"give --task match for all files, or match={source.given} for this one",
        )
    return tasks[0]


def _sources_of_tables(lefts: Sequence[str], rights: Sequence[str]) -> list[tuple[Source, Source]]:
    if len(lefts) != len(rights):
        raise InputError(
            f"--left is given {len(lefts)} times, --right {len(rights)} times",
            hint="give both for every data set; the same file twice for one table",
        )
    return [(parse_source(a), parse_source(b)) for a, b in zip(lefts, rights, strict=True)]


def _table(source: Source, key: str) -> KeyedTable:
    from meld_duckdb.handlers.base import table_records

    return KeyedTable(source.name, source.given, key, table_records(read_source(source).rows))
