"""Random tables for property tests: all types, NULLs, odd text, nesting, duplicates."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import duckdb
import pyarrow as pa
from hypothesis import strategies as st

_ODD = """|  |N/A|null|NULL|\x00|1e309|{"a": 1}|[1]|<\x7fim_end>|e\u0301|\u00e9|\u202eabc|\U0001f600|-0|\ufeff|
a\tc|O'Hara "x"|</record_a>|match""".split("|")
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12) | st.sampled_from(
    [*_ODD, "a" * 5000, "<|im_end|>"]
)
_INT = st.integers(-(2**63), 2**63 - 1)
KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "text": (pa.string(), TEXT),
    "whole": (pa.int64(), _INT),
    "number": (pa.float64(), st.floats()),
    "flag": (pa.bool_(), st.booleans()),
    "day": (pa.date32(), st.dates()),
    "moment": (pa.timestamp("us"), st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1))),
    "money": (
        pa.decimal128(18, 3),
        st.integers(-(10**15), 10**15).map(lambda n: decimal.Decimal(n) / 1000),
    ),
    "bytes": (pa.binary(), st.binary(max_size=6)),
    "list": (pa.list_(pa.string()), st.lists(st.none() | TEXT, max_size=3)),
    "struct": (
        pa.struct([("x", pa.string()), ("y", pa.list_(pa.int64()))]),
        st.fixed_dictionaries(
            {"x": st.none() | TEXT, "y": st.none() | st.lists(st.none() | _INT, max_size=2)}
        ),
    ),
    "map": (
        pa.map_(pa.string(), pa.int64()),
        st.dictionaries(TEXT, st.none() | _INT, max_size=2).map(lambda d: list(d.items())),
    ),
}


@st.composite
def tables(draw: st.DrawFn, most_rows: int = 8) -> pa.Table:
    """A table of one to three columns ``c0`` onwards, some rows of which are the same."""
    kinds = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=3))
    row = st.tuples(*(st.none() | KINDS[kind][1] for kind in kinds))
    pool = draw(st.lists(row, min_size=1, max_size=4))
    chosen = draw(st.lists(st.integers(0, len(pool) - 1), min_size=1, max_size=most_rows))
    rows = [pool[i] for i in chosen]
    columns = [
        pa.array([values[at] for values in rows], KINDS[kind][0]) for at, kind in enumerate(kinds)
    ]
    return pa.table(columns, names=[f"c{i}" for i in range(len(kinds))])


def put(con: duckdb.DuckDBPyConnection, table: pa.Table) -> None:
    """Make it the table ``t`` of a database, with the number of each row as ``n``."""
    numbered = table.append_column("n", pa.array(range(len(table)), pa.int64()))
    con.register("given", numbered)
    con.execute("CREATE OR REPLACE TABLE t AS FROM given")
    con.unregister("given")
