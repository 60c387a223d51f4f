"""Entity linking (EL)."""

from __future__ import annotations

from meld_duckdb.udfs import SqlFunction, family

FUNCTIONS: tuple[SqlFunction, ...] = (
    *family(
        "link_entity",
        "VARCHAR",
        "mention, context, candidates",
        "Which of the candidates a mention means: its id, else its name; NULL where none is likely "
        "enough.",
        extra=("ranking",),
    ),
    SqlFunction(
        name="meld_link_entity_topk",
        returns="STRUCT(option VARCHAR, probability DOUBLE)[]",
        handler="answer",
        arguments="mention, context, candidates [, options]",
        doc="The k (default 5) likeliest candidates of a mention with their probabilities.",
        task="link_entity",
        form="topk",
    ),
)
