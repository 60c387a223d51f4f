"""Administration: version, counters, errors, settings, help."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from meld_duckdb.handlers.base import HandlerBase, text_rows
from meld_duckdb.udfs import SqlFunction


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
