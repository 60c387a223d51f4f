"""Which statements a remote caller may run: reading always, writing where that was allowed.

Statements are judged by DuckDB's own parser and lexer, never by searching their text: a prefix
like ``WITH`` may well write. Files and settings are shut by DuckDB itself besides; see `serve`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import duckdb

from meld_duckdb.errors import ConfigError

_READING = frozenset({"SELECT", "EXPLAIN", "TRANSACTION"})
_WRITING = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE_INTO", "CREATE", "ALTER", "DROP"})
_HARMLESS = frozenset(
    {
        "generate_series",
        "icu_calendar_names",
        "json_each",
        "json_tree",
        "pg_timezone_names",
        "query_table",
        "range",
        "repeat",
        "repeat_row",
        "summary",
        "unnest",
    }
)
_METADATA = ("duckdb_", "pragma_")
_RUNS = frozenset({"__meld_estimate"})
_ESTIMATE = (".", "estimate")
"""What runs a statement that it is given as text, unseen by the judge: ``meld.estimate``."""

_BEFORE_SECRET = frozenset({"create", "drop", "or", "replace", "persistent", "temp", "temporary"})


def refused_functions(functions: Iterable[str]) -> frozenset[str]:
    """Of a database's table functions, those that a remote caller may not use.

    They may open files and connections, or steer the server; all that are not known to be
    harmless count, also those of a later DuckDB.
    """
    return frozenset(
        name for name in functions if name not in _HARMLESS and not name.startswith(_METADATA)
    )


class Judge:
    """Decides about the statements of remote callers; safe in several threads.

    Args:
        refused: Table functions that are refused, in lower case.
        read_write: Whether tables may be changed.
    """

    def __init__(self, refused: frozenset[str], *, read_write: bool) -> None:
        self._refused = refused
        self._allowed = _READING | _WRITING if read_write else _READING
        # Some statements read files while they are parsed (IMPORT DATABASE).
        self._parser = duckdb.connect(config={"enable_external_access": "false"})

    def judge(self, sql: str) -> str | None:
        """The statement to run in the place of the one that was sent.

        It is the same one, or one that fails with the reason for the refusal. None refuses without
        a reason, and is the only answer that stops an INSERT through an attached table: Quack
        asks about such rows by a statement that it never runs.
        """
        try:
            for kind in sorted(self._check(sql) - self._allowed):
                raise _refusal(kind)
        except ConfigError as error:
            if sql.lstrip().upper().startswith("INSERT"):
                return None
            return f"SELECT error({_literal(str(error))})"
        return sql

    def _check(self, sql: str) -> frozenset[str]:
        """The kinds of the statements.

        Raises:
            ConfigError: They cannot be parsed, or use what nobody may use from afar.
        """
        try:
            with self._parser.cursor() as parser:
                parsed = [(s.type.name, s.query) for s in parser.extract_statements(sql)]
        except (duckdb.Error, ValueError) as error:
            raise ConfigError(f"not understood, so not run: {error}") from error
        for kind, text in [("", sql), *parsed]:  # DuckDB 1.5 rewrites a PRAGMA as a query
            words = _words(text)
            self._check_functions(words)
            if kind == "EXPLAIN" and {"analyze", "analyse"} & set(words):
                raise ConfigError(
                    "EXPLAIN ANALYZE is refused: it runs what it explains", hint="use EXPLAIN"
                )
            lead = [word for word in words if word not in _BEFORE_SECRET][:1]
            if kind in {"CREATE", "DROP"} and lead == ["secret"]:
                raise ConfigError("secrets of this server are refused to remote callers")
        return frozenset(kind for kind, _ in parsed)

    def _check_functions(self, words: Sequence[str]) -> None:
        for before, word, following in zip(["", *words], words, words[1:], strict=False):
            runs = word in _RUNS or (before, word) == _ESTIMATE
            if following == "(" and (runs or word in self._refused):
                raise ConfigError(
                    f"the function {word} is refused to remote callers",
                    hint="use it in the shell itself, outside the server",
                )


def _refusal(kind: str) -> ConfigError:
    if kind in _WRITING:
        return ConfigError(
            f"{kind} is refused: this server only reads",
            hint="start meld serve with --read-write",
        )
    return ConfigError(
        f"{kind} is refused: remote callers work with the tables of this database only",
        hint="run it in the shell itself, outside the server",
    )


def _words(sql: str) -> list[str]:
    """The words of a statement without comments: names in lower case, unquoted; ``(`` and others.

    Of anything that is no name, only the first character.
    """
    text = sql.encode()
    tokens = duckdb.tokenize(sql)
    ends = [offset for offset, _ in tokens[1:]] + [len(text)]
    return [
        _word(text[begin:end].decode("utf-8", "replace"), kind)
        for (begin, kind), end in zip(tokens, ends, strict=True)
        if kind != duckdb.token_type.comment
    ]


def _word(piece: str, kind: object) -> str:
    """A name as DuckDB knows it; DuckDB 1.5 leaves the comment that follows it in its token."""
    if kind not in {duckdb.token_type.identifier, duckdb.token_type.keyword}:
        return piece[:1]
    if not piece.startswith('"'):
        return re.split(r"/\*|--", piece, maxsplit=1)[0].strip().lower()
    inner = piece[1:].replace('""', "\0").partition('"')[0]
    return inner.replace("\0", '"').lower()


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
