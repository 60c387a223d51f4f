"""What remote callers may run, judged without a server."""

from __future__ import annotations

import duckdb
import pytest

from meld_duckdb.remote_sql import Judge, refused_functions

REFUSED = refused_functions(
    ["range", "duckdb_tables", "read_text", "query", "quack_serve", "enable_logging"]
)
READER, WRITER = Judge(REFUSED, read_write=False), Judge(REFUSED, read_write=True)
QUERIES = [
    "SELECT 1",
    "FROM t",
    "SELECT #1 FROM t; SHOW TABLES",
    "DESCRIBE t",
    "SUMMARIZE t",
    "EXPLAIN SELECT 1",
    "BEGIN TRANSACTION",
    "FROM meld.join('a', 'b')",
    "SELECT query, 'read_text(' FROM range(3), duckdb_tables()",
    "WITH query AS (SELECT 1) FROM query",
]
WRITES = [
    "UPDATE t SET a = 1",
    "WITH x AS (SELECT 1) DELETE FROM t",
    "CREATE TABLE t (query INTEGER)",
    "CREATE TABLE secrets AS SELECT 1",
    "DROP TABLE secret",
    "SELECT 1; DROP TABLE t",
    "SELECT 1; INSERT INTO t SELECT 1",
    "WITH x AS (SELECT 1) INSERT INTO t FROM x",
    "ALTER TABLE t ADD COLUMN b INTEGER",
    "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE",
]
INSERTS = ["INSERT INTO main.t VALUES (NULL)", " insert INTO t SELECT 1"]
NEVER = [
    ("ATTACH 'x'", "ATTACH is refused"),
    ("COPY t TO 'x'", "COPY is refused"),
    ("COPY t FROM 'x'", "COPY is refused"),
    ("EXPORT DATABASE 'x'", "EXPORT is refused"),
    ("IMPORT DATABASE 'x'", "refused|not understood"),
    ("INSTALL x", "LOAD is refused"),
    ("LOAD x", "LOAD is refused"),
    ("SET threads = 1", "SET is refused"),
    ("USE t", "SET is refused"),
    ("CALL pragma_version()", "CALL is refused"),
    ("PRAGMA enable_profiling", "PRAGMA is refused"),
    ("PREPARE p AS SELECT 1", "PREPARE is refused"),
    ("EXECUTE p", "EXECUTE is refused"),
    ("DETACH t", "DETACH is refused"),
    ("SELECT 1; ATTACH 'x'", "ATTACH is refused"),
    ("EXPLAIN ANALYZE UPDATE t SET a = 1", "EXPLAIN ANALYZE is refused"),
    ("EXPLAIN (ANALYZE, FORMAT json) UPDATE t SET a = 1", "EXPLAIN ANALYZE is refused"),
    ("CREATE SECRET (TYPE s3)", "secrets"),
    ("CREATE OR REPLACE PERSISTENT SECRET x (TYPE s3)", "secrets"),
    ("FROM read_text('/etc/hosts')", "function read_text is refused"),
    ("FROM \"read_text\"('/etc/hosts')", "function read_text is refused"),
    ("FROM system.main.READ_TEXT /* ( */ ('/etc/hosts')", "function read_text is refused"),
    ("FROM read_text(/* x */ '/etc/hosts')", "function read_text is refused"),
    ("FROM query -- x\n ('FROM t')", "function query is refused"),
    ("SELECT (SELECT max(content) FROM read_text('x'))", "function read_text is refused"),
    ("EXPLAIN FROM quack_serve('quack:localhost:1')", "function quack_serve is refused"),
    ("SELEC 1", "not understood"),
]
HIDDEN = [
    "CREATE VIEW v AS FROM quack_serve('quack:localhost:1')",
    "CREATE MACRO f() AS TABLE FROM query('FROM t')",
    "UPDATE t SET a = (SELECT count(*) FROM enable_logging())",
]


def reason(answer: str | None) -> str:
    """Run what is run in the place of a refused statement; gives what it fails with."""
    assert answer is not None
    with pytest.raises(duckdb.Error) as error:
        duckdb.connect().execute(answer).fetchall()
    return str(error.value)


@pytest.mark.parametrize("sql", QUERIES)
def test_queries_are_run_as_they_are(sql: str) -> None:
    assert READER.judge(sql) == sql
    assert WRITER.judge(sql) == sql


@pytest.mark.parametrize("sql", WRITES)
def test_writing_is_refused_unless_it_was_allowed(sql: str) -> None:
    assert "this server only reads. Hint: start meld serve with --read-write" in reason(
        READER.judge(sql)
    )
    assert WRITER.judge(sql) == sql


@pytest.mark.parametrize("sql", INSERTS)
def test_an_insert_is_refused_by_null_since_a_statement_would_not_stop_it(sql: str) -> None:
    assert READER.judge(sql) is None
    assert WRITER.judge(sql) == sql
    assert READER.judge('INSERT INTO main."t VALUES (NULL)') is None  # not even parsed
    assert WRITER.judge("INSERT INTO t FROM read_text('x')") is None


@pytest.mark.parametrize(("sql", "message"), NEVER, ids=[sql for sql, _ in NEVER])
def test_what_no_remote_caller_may(sql: str, message: str) -> None:
    import re

    for judge in (READER, WRITER):
        assert re.search(rf"\[MELD-E001\].*({message})", reason(judge.judge(sql)), re.DOTALL)


@pytest.mark.parametrize("sql", HIDDEN)
def test_refused_functions_are_found_within_statements_that_write(sql: str) -> None:
    assert "is refused to remote callers" in reason(WRITER.judge(sql))


def test_unknown_table_functions_count_as_refused() -> None:
    assert refused_functions(["range", "pragma_version", "brand_new"]) == {"brand_new"}
    with duckdb.connect() as con:
        names = [
            name
            for (name,) in con.execute(
                "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type='table'"
            ).fetchall()
        ]
    assert {"read_csv", "read_text", "glob", "query", "arrow_scan"} <= refused_functions(names)
