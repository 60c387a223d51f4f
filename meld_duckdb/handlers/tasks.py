"""Task functions: one answer, probability, detail or ranking per row."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from meld_duckdb.handlers.base import HandlerBase
from meld_duckdb.handlers.votes import vote_columns
from meld_duckdb.tasks import ASKED
from meld_duckdb.udfs import SqlFunction


class TaskHandlers(HandlerBase):
    """Handlers of the task functions."""

    def answer(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Answer every row in the form that the function has."""
        details = self.service.answer(function.name, function.task or "", columns)
        if function.form == "probability":
            return pc.struct_field(details, "probability")
        if function.form == "answer":
            return _typed_answer(function, pc.struct_field(details, "answer"))
        if function.form == "topk":
            return pc.struct_field(details, "ranking")
        voted = vote_columns(details) if "votes" in function.fields else {}
        fields = [
            voted[name] if name in voted else pc.struct_field(details, name)
            for name in function.fields
        ]
        fields[0] = _typed_answer(function, fields[0])
        return pa.StructArray.from_arrays(
            fields, names=list(function.fields), mask=details.is_null()
        )


def _typed_answer(function: SqlFunction, answers: pa.Array) -> pa.Array:
    labels = ASKED[function.task or ""].labels
    if labels is None:
        # The empty text is the answer that nothing should stand there: NULL in SQL.
        return pc.if_else(pc.equal(answers, ""), None, answers)
    return pc.if_else(pc.is_valid(answers), pc.equal(answers, labels[0]), None)
