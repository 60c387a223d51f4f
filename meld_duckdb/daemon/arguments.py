"""The arguments of a call as an engine reads them: bounded, checked, joined."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import flight

from meld_duckdb.errors import EngineRejected

MOST_ROWS = 1_000_000
"""Rows of one call, which DuckDB gives in vectors of 2,048; a whole table is one row of lists."""
_MOST_CHUNKS = 10_000
READING_S = 60.0
"""Seconds in which the arguments of a call have to come, besides what their size takes."""
BRIEFLY_S = 5.0
"""Seconds in which the rest of a call is dropped where there are too many already."""

_SLOWEST_BYTES_PER_S = 1_000_000
_MOST_EXCHANGES, _MOST_OF_CLIENT = 2048, 512
_CALLS_IN_ROOM = 4
"""Calls of the largest size whose arguments may be there at once."""
_SLACK_BYTES = 1_000_000
_BYTES_OF_NOTHING = 16
"""What a value costs that takes no bytes on the way, such as one of a column of NULLs."""
_POLL_S = 0.05


@dataclass(eq=False)
class Place:
    """The room of one call.

    Attributes:
        client: Who asks.
        n_bytes: What its arguments take.
        until: When they have to be there; infinite once they are.
    """

    client: str
    n_bytes: int
    until: float = math.inf

    @property
    def is_late(self) -> bool:
        """Whether the arguments should be there and are not: they will be refused."""
        return time.monotonic() > self.until


class TooManyCalls(EngineRejected):
    """The engine takes no more calls, so nothing of this one is read."""


class Room:
    """Memory for the arguments of all calls together, taken before they are read.

    A client that sends nothing cannot be interrupted; its place is given to others instead.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._places: set[Place] = set()

    @contextmanager
    def hold(
        self, client: str, n_bytes: int, most_bytes: int, check: Callable[[], None]
    ) -> Iterator[Place]:
        """Have room for the time of a block; waits while there is none.

        Args:
            client: Who asks.
            n_bytes: What its arguments will take.
            most_bytes: What those of one call may take.
            check: Called now and then while waiting; may raise to give up.

        Raises:
            EngineRejected: They are too many.
            TooManyCalls: The calls are.
        """
        if n_bytes > most_bytes:
            raise _too_much(n_bytes, most_bytes)
        place = Place(client, n_bytes)
        while not self._take(place, _CALLS_IN_ROOM * most_bytes):
            check()
        try:
            yield place
        finally:
            with self._changed:
                self._places.discard(place)
                self._changed.notify_all()

    def _take(self, place: Place, most_bytes: int) -> bool:
        with self._changed:
            own = sum(p.client == place.client for p in self._places)
            if len(self._places) >= _MOST_EXCHANGES or own >= _MOST_OF_CLIENT:
                raise TooManyCalls(
                    f"the engine has {len(self._places)} calls, {own} of them of this process, "
                    "and takes no more",
                    hint="ask with fewer threads, or again later",
                )
            used = sum(p.n_bytes for p in self._places if not p.is_late)
            if used + place.n_bytes > most_bytes:
                self._changed.wait(_POLL_S)
                return False
            seconds = READING_S + place.n_bytes / _SLOWEST_BYTES_PER_S
            place.until = time.monotonic() + seconds
            self._places.add(place)
            return True


def read_columns(
    reader: flight.MetadataRecordBatchReader, most_bytes: int, place: Place
) -> list[pa.Array | pa.ChunkedArray]:
    """The argument columns, joined.

    Args:
        reader: Where they come from.
        most_bytes: What they may take.
        place: The room that was taken for them.

    Raises:
        EngineRejected: They are more than the engine takes or was told, come too late, or are
            damaged.
    """
    batches: list[pa.RecordBatch] = []
    n_bytes = n_rows = 0
    told = 2 * place.n_bytes + _SLACK_BYTES
    try:
        schema = reader.schema
        for _ in range(_MOST_CHUNKS):
            chunk = next(_chunks(reader), None)
            if place.is_late:
                raise EngineRejected("the arguments took too long to come")
            if chunk is None:
                break
            if chunk.data is None:
                continue
            n_bytes += chunk.data.nbytes
            n_rows += chunk.data.num_rows
            if n_bytes > min(most_bytes, told):
                raise _too_much(n_bytes, min(most_bytes, told))
            if n_rows > MOST_ROWS:
                raise _too_many_rows(n_rows)
            _validate(chunk.data)
            n_bytes += sum(map(_hidden_bytes, chunk.data.columns))
            if n_bytes > most_bytes:
                raise _too_much(n_bytes, most_bytes)
            batches.append(chunk.data)
        else:
            raise EngineRejected(f"the arguments come in more than {_MOST_CHUNKS} parts")
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, flight.FlightCancelledError):
            raise
        raise EngineRejected(f"malformed arguments: {str(error)[:200]}") from error
    place.n_bytes, place.until = n_bytes, math.inf
    table = pa.Table.from_batches(batches, schema)
    return [_joined(column) for column in table.columns]


def read_rest(reader: flight.MetadataRecordBatchReader, most_bytes: int, seconds: float) -> None:
    """Drop what comes within some seconds: a client that is sending would not see a reply."""
    n_bytes = 0
    until = time.monotonic() + seconds
    with contextlib.suppress(pa.ArrowException, OSError, ValueError):
        for chunk in _chunks(reader):
            n_bytes += 0 if chunk.data is None else chunk.data.nbytes
            if n_bytes > most_bytes or time.monotonic() > until:
                return


def _chunks(reader: flight.MetadataRecordBatchReader) -> Iterator[flight.FlightStreamChunk]:
    while True:
        try:
            yield reader.read_chunk()
        except StopIteration:
            return


def _too_much(n_bytes: int, most_bytes: int) -> EngineRejected:
    return EngineRejected(
        f"the arguments of one call have {n_bytes} bytes or more, at most {most_bytes}",
        hint="take smaller parts of the table, or set engine to 'local'",
    )


def _too_many_rows(n_rows: int) -> EngineRejected:
    return EngineRejected(
        f"one call has {n_rows} rows or more, at most {MOST_ROWS}",
        hint="take smaller parts of the table",
    )


def _hidden_bytes(column: pa.Array) -> int:
    """Memory of the values that take none on the way but do once they are read."""
    kind = column.type
    if pa.types.is_run_end_encoded(kind):
        raise EngineRejected("malformed arguments: a run-end encoded column")
    own = len(column) * _BYTES_OF_NOTHING if _is_empty(kind) else 0
    return own + sum(map(_hidden_bytes, _parts(column)))


def _is_empty(kind: pa.DataType) -> bool:
    """Whether the values of a type take no bytes of their own."""
    return bool(
        pa.types.is_null(kind)
        or (pa.types.is_fixed_size_binary(kind) and kind.byte_width == 0)
        or (pa.types.is_struct(kind) and kind.num_fields == 0)
        or (pa.types.is_fixed_size_list(kind) and kind.list_size == 0)
    )


def _parts(column: pa.Array) -> list[pa.Array]:
    """The columns that a column is made of."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return [column.storage]
    if pa.types.is_dictionary(kind):
        return [column.dictionary]
    if pa.types.is_struct(kind) or pa.types.is_union(kind):
        return [column.field(i) for i in range(kind.num_fields)]
    if pa.types.is_map(kind):
        return [column.keys, column.items]
    return [column.values] if pa.types.is_nested(kind) and hasattr(column, "values") else []


def _validate(batch: pa.RecordBatch) -> None:
    """Look whether every offset and text is what it should be; otherwise reading may crash.

    A HUGEINT may be more than the decimal says as which DuckDB hands it over: it is looked at as
    the sixteen bytes that it is.
    """
    for column in batch.columns:
        plain = _as_bytes(column.type)
        with contextlib.suppress(pa.ArrowNotImplementedError, pa.ArrowInvalid):
            if plain != column.type:
                column.view(plain).validate(full=True)
                continue
        column.validate(full=True)


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    """A type with 16 bytes in the place of wide decimals; the same layout."""
    if pa.types.is_decimal128(kind):
        return pa.binary(16)
    if pa.types.is_struct(kind):
        return pa.struct([f.with_type(_as_bytes(f.type)) for f in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_as_bytes(kind.value_type)))
    return kind


def _joined(column: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """One array of a column; a type of which arrays cannot be joined stays in chunks."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return column.combine_chunks()
