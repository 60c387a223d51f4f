"""Every task as a statement over a table ``t(n, v)`` of texts, and what may be answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

NEIGHBOURS = ("arnie morton's of chicago", "sony bravia kdl-40", "Résumé 数据, 12.50", "")
CALLS = {
    "match": "meld_match_detail({'title': v, 'brand': 'x'}, {'title': 'sony tv', 'brand': 'x'}",
    "detect_error": "meld_detect_error_detail({'city': v, 'state': 'ny'}, 'city'",
    "repair": "meld_repair_detail({'city': v, 'state': 'ny'}, 'city'",
    "impute": "meld_impute_detail({'name': v, 'city': NULL}, 'city'",
    "annotate_column": "meld_annotate_column_detail([v, 'rome'], ['city', 'person']",
    "extract_relation": "meld_extract_relation_detail([v, 'a'], [v, 'b'], ['capital', 'river']",
    "link_entity": "meld_link_entity_detail(v, v, [{'id': 'q1', 'name': 'paris'},"
    " {'id': 'q2', 'name': v}]",
    "schema_match": "meld_schema_match_detail({'table': v, 'column': v, 'description': v},"
    " {'table': 'person', 'column': 'dob'}",
    "extract_attribute": "meld_extract_attribute_detail({'text': 'sony', 'more': v}, 'brand'",
    "kcmf_schema_match": "kcmf_schema_match_detail({'table': v, 'column': v, 'description': v},"
    " {'table': 'person', 'column': 'dob'}",
    "kcmf_entity_match": "kcmf_entity_match_detail({'title': v}, {'title': 'sony tv'}",
}
"""The call of a task without its options."""

GENERATES = frozenset({"repair", "impute", "extract_attribute"})
"""Tasks that have a value written where no options are given."""

DOMAINS: Mapping[str, frozenset[object]] = {
    "match": frozenset({True, False, None}),
    "schema_match": frozenset({True, False, None}),
    "detect_error": frozenset({True, False, None}),
    "kcmf_schema_match": frozenset({True, False, None}),
    "kcmf_entity_match": frozenset({True, False, None}),
    "annotate_column": frozenset({"city", "person", None}),
    "extract_relation": frozenset({"capital", "river", None}),
    "link_entity": frozenset({"q1", "q2", None}),
}
"""What a closed task may answer."""


def fill(con: duckdb.DuckDBPyConnection, texts: Sequence[str]) -> None:
    """Make the table; lone surrogates, which no database holds, become question marks."""
    con.execute("CREATE OR REPLACE TABLE t (n INTEGER, v VARCHAR)")
    clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
    con.executemany("INSERT INTO t VALUES (?, ?)", [[i, v] for i, v in enumerate(clean)])


def ask(con: duckdb.DuckDBPyConnection, task: str, options: str) -> list[dict[str, Any]]:
    """The details of a task over the table, in order."""
    rows = con.execute(f"SELECT {CALLS[task]}, {{{options}}}) FROM t ORDER BY n").fetchall()
    return [detail for (detail,) in rows]
