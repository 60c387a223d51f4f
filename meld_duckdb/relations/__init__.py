"""The table functions for Python: relations and frames in, a relation out.

Every function gives what the SQL function of the same name gives, with the same options and the
same defaults. Tables are relations of DuckDB, frames of pandas or Polars (also lazy), tables and
readers of PyArrow, whatever else offers itself as an Arrow stream, or names of tables, views and
files.

The relation is evaluated when it is read: by ``.df()``, ``.pl()``, ``.to_arrow_table()``,
``.fetchall()`` or ``.create('name')``, and anew each time. It can be filtered, joined and named in
SQL before. Readers that can be read once are read at the call.

A statement runs on ``connection``, which is registered if it was not. Without it, it runs on the
connection of the relations among the tables, which has to be registered; and where there are
frames and names only, on DuckDB's default connection, the one of ``duckdb.sql``.
"""

from __future__ import annotations

from meld_duckdb.relations.cells import find_errors, impute_nulls, label_next, repairs
from meld_duckdb.relations.entities import block, dedupe, join, match
from meld_duckdb.relations.scans import Table
from meld_duckdb.relations.schemas import match_schemas

__all__ = [
    "Table",
    "block",
    "dedupe",
    "find_errors",
    "impute_nulls",
    "join",
    "label_next",
    "match",
    "match_schemas",
    "repairs",
]
