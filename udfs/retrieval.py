"""Embeddings, index, blocking, joins and labels."""

from __future__ import annotations

from meld_duckdb.udfs import SqlFunction

FUNCTIONS = (
    SqlFunction(
        name="meld_embed",
        returns="FLOAT[]",
        handler="embed",
        arguments="text",
        doc="Embedding of a text, L2-normalised.",
    ),
    SqlFunction(
        name="meld_similarity",
        returns="DOUBLE",
        handler="similarity",
        arguments="a, b",
        doc="Cosine of the embeddings of two records or texts, from -1 to 1.",
    ),
    SqlFunction(
        name="meld_learn",
        returns="BOOLEAN",
        handler="learn",
        arguments="task, query, answer",
        doc="Store a labelled answer; the next query uses it.",
        volatile=True,
        stores=True,
    ),
    SqlFunction(
        name="__meld_index",
        returns=(
            "STRUCT(table_name VARCHAR, entries BIGINT, embedded BIGINT, digest VARCHAR, "
            "seconds DOUBLE)"
        ),
        handler="index",
        arguments="name, rows, options",
        doc="Behind FROM meld.index.",
        volatile=True,
        stores=True,
    ),
    SqlFunction(
        name="__meld_block",
        returns="STRUCT(l BIGINT, r BIGINT, rank BIGINT, score DOUBLE, recall DOUBLE)[]",
        handler="block",
        arguments="left rows, right rows, options",
        doc="Behind FROM meld.block.",
    ),
    SqlFunction(
        name="__meld_join",
        returns="STRUCT(l BIGINT, r BIGINT, probability DOUBLE, tier TINYINT, score DOUBLE)[]",
        handler="join",
        arguments="left rows, right rows, options",
        doc="Behind FROM meld.join.",
    ),
)
