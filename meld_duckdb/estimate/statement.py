"""What of a statement is run for an estimate: its query, without what it does to the world.

The query of ``CREATE TABLE ... AS``, ``INSERT`` and ``COPY (...) TO`` is run alone, and so are the
new values of ``UPDATE``: what stands in for answers need not fit into the table. ``DELETE`` and
``MERGE`` are run in a transaction that is rolled back.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from meld_duckdb.errors import InputError

_ROLLED_BACK = frozenset({"UPDATE", "DELETE", "MERGE_INTO"})
_UPDATE = ("UPDATE", "SET", "FROM", "WHERE", "RETURNING")
_BEGINNINGS = frozenset({"SELECT", "FROM", "WITH", "VALUES", "("})
_KNOWN = "SELECT, FROM, VALUES, CREATE TABLE AS, INSERT, COPY (query) TO, UPDATE, DELETE, MERGE"


@dataclass(frozen=True, slots=True)
class Trial:
    """What is run instead of a statement.

    Attributes:
        text: SQL.
        rolled_back: Whether it changes tables, so that it has to be undone.
    """

    text: str
    rolled_back: bool = False


@dataclass(frozen=True, slots=True)
class _Token:
    word: str
    start: int
    depth: int


def trial_of(connection: duckdb.DuckDBPyConnection, text: str) -> Trial:
    """What of a statement is run.

    Raises:
        InputError: It is none, several, or one that does something else than to query and store.
    """
    statements = _parse(connection, text)
    if all(not statement.query for statement in statements) and statements:
        return Trial(text)  # PIVOT is several statements that DuckDB makes of one
    if len(statements) != 1:
        raise InputError(
            f"an estimate is of one statement, got {len(statements)}",
            hint="estimate them one after the other",
        )
    text, kind = statements[0].query, statements[0].type.name
    if kind in ("SELECT", "MULTI"):
        return Trial(text)
    find = _FINDERS.get(kind)
    query = find(connection, text, _tokens(text)) if find is not None else None
    if query is None and kind in _ROLLED_BACK:
        return Trial(text, rolled_back=True)
    if query is None:
        raise InputError(
            f"an estimate cannot be made of this {kind} statement: it has no query that could be "
            "run alone",
            hint=f"{_KNOWN} can be estimated; or write the query alone",
        )
    return Trial(query)


def _parse(connection: duckdb.DuckDBPyConnection, text: str) -> Sequence[Any]:
    try:
        found: Sequence[Any] = connection.extract_statements(text)
        return found
    except duckdb.Error as error:
        raise InputError(f"the statement cannot be parsed: {error}") from error


def _is_query(connection: duckdb.DuckDBPyConnection, text: str) -> bool:
    try:
        found = connection.extract_statements(text)
    except duckdb.Error:
        return False
    return len(found) == 1 and found[0].type.name == "SELECT"


def _of_create(
    connection: duckdb.DuckDBPyConnection, text: str, tokens: Sequence[_Token]
) -> str | None:
    """What stands behind ``AS`` of a table."""
    words = [token.word for token in tokens if not token.depth]
    before = words[: words.index("AS")] if "AS" in words else []
    if "TABLE" not in before:
        return None
    start = next(t.start for t in tokens if t.word == "AS" and not t.depth) + len("AS")
    ends = [t.start for t in tokens if t.word == "WITH" and not t.depth and t.start > start]
    return _first_query(connection, text, [start], [len(text), *reversed(ends)])


def _of_insert(
    connection: duckdb.DuckDBPyConnection, text: str, tokens: Sequence[_Token]
) -> str | None:
    """The first part that is a query, with the ``WITH`` that stands before ``INSERT``."""
    at = next(t.start for t in tokens if t.word == "INSERT" and not t.depth)
    ahead = text[:at]
    starts = [t.start for t in tokens if t.start > at and t.word in _BEGINNINGS and t.depth < 2]
    ends = [t.start for t in tokens if t.word in ("ON", "RETURNING") and not t.depth]
    return _first_query(connection, text, starts, [len(text), *reversed(ends)], ahead)


def _of_copy(
    connection: duckdb.DuckDBPyConnection, text: str, tokens: Sequence[_Token]
) -> str | None:
    """What stands in the brackets behind ``COPY``."""
    if len(tokens) < 2 or tokens[1].word != "(":
        return None
    end = next((t.start for t in tokens[2:] if t.word == ")" and not t.depth), len(text))
    return _first_query(connection, text, [tokens[1].start + 1], [end])


def _of_update(
    connection: duckdb.DuckDBPyConnection, text: str, tokens: Sequence[_Token]
) -> str | None:
    """The new values, of the rows that would be changed."""
    outer = [t for t in tokens if not t.depth and t.word in (*_UPDATE, "=", ",")]
    update = next(t for t in outer if t.word == "UPDATE")
    clauses = [t for t in outer if t.word in _UPDATE and t.start >= update.start]
    ends = [*(t.start for t in clauses[1:]), len(text.rstrip().rstrip(";"))]
    parts = {
        token.word: text[token.start + len(token.word) : end]
        for token, end in zip(clauses, ends, strict=True)
    }
    clause = next((t for t in clauses if t.word == "SET"), None)
    if clause is None:
        return None
    end = ends[clauses.index(clause)]
    inner = [t for t in outer if clause.start < t.start < end]
    commas = [clause.start, *(t.start for t in inner if t.word == ","), end]
    values = []
    for start, stop in itertools.pairwise(commas):
        equals = next((t.start for t in inner if t.word == "=" and start < t.start < stop), None)
        if equals is None:
            return None
        values.append(text[equals + 1 : stop])
    tables = ", ".join(parts[word] for word in ("UPDATE", "FROM") if word in parts)
    where = f" WHERE {parts['WHERE']}" if "WHERE" in parts else ""
    query = f"{text[: update.start]}SELECT {', '.join(values)} FROM {tables}{where}"
    return query if _is_query(connection, query) else None


_FINDERS = {
    "CREATE": _of_create,
    "INSERT": _of_insert,
    "COPY": _of_copy,
    "UPDATE": _of_update,
}


def _first_query(
    connection: duckdb.DuckDBPyConnection,
    text: str,
    starts: Sequence[int],
    ends: Sequence[int],
    ahead: str = "",
) -> str | None:
    parts = (f"{ahead}{text[start:end]}" for start in starts for end in ends if end > start)
    return next((part for part in parts if _is_query(connection, part)), None)


def _tokens(text: str) -> list[_Token]:
    """The words of a statement, in upper case, and how deep in brackets they stand.

    A bracket that closes has the depth of the one that opened. Names in quotes are no words.
    """
    encoded = text.encode()
    starts = [offset for offset, kind in duckdb.tokenize(text) if kind != duckdb.token_type.comment]
    found: list[_Token] = []
    depth = 0
    for start, end in zip(starts, [*starts[1:], len(encoded)], strict=True):
        word = encoded[start:end].decode().split(maxsplit=1)[0].upper()
        at = len(encoded[:start].decode())
        for character in word if set(word) <= set("()") else [word]:
            depth -= character == ")"
            found.append(_Token(character, at, depth))
            depth += character == "("
    return found
