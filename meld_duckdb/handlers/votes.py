"""The fields that details of KcMF have besides those of every task, read from the evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_TEXTS = pa.list_(pa.struct([("source", pa.string()), ("text", pa.string())]))
_VOTES = pa.list_(
    pa.struct([("source", pa.string()), ("answer", pa.string()), ("probability", pa.float64())])
)
_VALID = ("yes", "no")


def vote_columns(details: pa.StructArray) -> dict[str, pa.Array]:
    """Votes, number of bad formats, knowledge and reasoning, a row per detail.

    A row that an earlier tier settled has no votes. A vote whose answer is NULL had a bad format.
    """
    evidence = pc.struct_field(details, "evidence").to_pylist()
    rows = [[(e["kind"], _split(e)) for e in found or ()] for found in evidence]
    votes = [vote_rows(found or ()) for found in evidence]
    texts = {
        kind: [
            [{"source": e["source"], "text": e["text"]} for k, e in row if k == kind]
            for row in rows
        ]
        for kind in ("knowledge", "reasoning")
    }
    bad = [sum(vote["answer"] is None for vote in row) for row in votes]
    return {
        "votes": pa.array(votes, _VOTES),
        "bad_formats": pa.array(bad, pa.int64()),
        **{kind: pa.array(found, _TEXTS) for kind, found in texts.items()},
    }


def vote_rows(evidence: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The votes among the evidence of one answer."""
    votes = [_split(e) for e in evidence if e["kind"] == "vote"]
    for vote in votes:
        vote["answer"] = vote.pop("text")
        if vote["answer"] not in _VALID:
            vote["answer"] = vote["probability"] = None
    return votes


def _split(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Evidence of the form ``source: text``."""
    source, _, text = str(evidence["text"]).partition(": ")
    return {"source": source, "text": text, "probability": evidence["weight"]}
