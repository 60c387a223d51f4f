"""Administration: version, counters, errors, settings, help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa

from meld_duckdb.handlers.base import HandlerBase, text_rows
from meld_duckdb.planner.expert_list import list_experts
from meld_duckdb.udfs import SqlFunction

_EXPERT = pa.struct(
    [
        ("expert", pa.string()),
        ("tier", pa.int64()),
        ("task", pa.string()),
        ("trained_for", pa.string()),
        ("used", pa.bool_()),
        ("reason", pa.string()),
        ("rows", pa.int64()),
        ("metrics", pa.map_(pa.string(), pa.float64())),
        ("path", pa.list_(pa.string())),
        ("model", pa.string()),
        ("size_bytes", pa.int64()),
        ("answers", pa.int64()),
    ]
)


class AdminHandlers(HandlerBase):
    """Handlers of the administration tables."""

    def version(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """``meld_version()``."""
        return pa.array([self._version], pa.string())

    def stats(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.stats()``; reading closes the current lines."""
        names = [f for f in function.returns[len("STRUCT(") : -len(")[]")].split(", ")]
        keys = [name.split(" ")[0] for name in names]
        lines = [{k: getattr(line, k) for k in keys} for line in self.service.stats.lines()]
        self.service.stats.begin_statement()
        fields = [(k, pa.float64() if k == "seconds" else pa.int64()) for k in keys]
        kind = pa.struct([(k, pa.string() if k == "function" else t) for k, t in fields])
        return pa.array([lines], pa.list_(kind))

    def errors(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.errors()``."""
        keys = ("function", "row_digest", "code", "message", "count")
        rows = [dict(zip(keys, row, strict=True)) for row in self.service.stats.errors()]
        kind = pa.struct([(k, pa.int64() if k == "count" else pa.string()) for k in keys])
        return pa.array([rows], pa.list_(kind))

    def experts(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.experts()``."""
        rows = [asdict(line) for line in list_experts(self.service.session)]
        return pa.array([rows], pa.list_(_EXPERT))

    def settings(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.settings()``."""
        rows = [{"key": o.key, "value": str(o.value), "source": o.source} for o in self._origins]
        return text_rows(rows, ("key", "value", "source"))

    def help(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.help()``."""
        rows = [
            {"function": f.name, "arguments": f.arguments, "doc": f.doc}
            for f in self._functions
            if not f.name.startswith("__")
        ]
        return text_rows(rows, ("function", "arguments", "doc"))
