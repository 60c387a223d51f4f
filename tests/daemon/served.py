"""An engine and its client in one process, for tests of what crosses between them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
from pyarrow import flight

import meld_duckdb
from meld_duckdb.daemon import client, protocol
from meld_duckdb.daemon.client import EngineClient
from meld_duckdb.daemon.places import places_of
from meld_duckdb.daemon.protocol import Message
from meld_duckdb.daemon.server import Server, make_engine
from meld_duckdb.register import load_functions
from meld_duckdb.settings import resolve


class Served:
    """An engine of this process, and a client of it."""

    def __init__(self, folder: Path) -> None:
        self.settings, _ = resolve({"workspace": folder / "w"})
        version = meld_duckdb.__version__
        self.engine = make_engine(
            self.settings, places_of(self.settings).workspace, load_functions(), version
        )
        self.address = f"grpc+unix://{folder}/s"
        self.server = Server(self.address, self.engine)
        self.said: list[str] = []
        self.client = EngineClient(
            self.settings, self.address, version, client.new_identity(), self.said.append
        )
        self.raw = flight.connect(self.address)

    def match(self, *columns: pa.Array, function: str = "meld_match") -> list[object]:
        found: list[object] = self.client.call(function, columns, 0).to_pylist()
        return found

    def is_well(self) -> bool:
        return self.match(pa.array(["a b"]), pa.array(["a b"])) == [True]

    def exchange(
        self, command: bytes, batches: list[pa.RecordBatch], metadata: bytes | None = None
    ) -> list[Message | pa.RecordBatch]:
        writer, reader = self.raw.do_exchange(flight.FlightDescriptor.for_command(command))
        writer.begin(batches[0].schema if batches else pa.schema([]))
        for batch in batches:
            writer.write_batch(batch)
        if metadata is not None:
            writer.write_metadata(metadata)
        writer.done_writing()
        found: list[Message | pa.RecordBatch] = []
        for chunk in reader:
            if chunk.app_metadata is not None:
                found.append(protocol.decode_message(chunk.app_metadata.to_pybytes()))
            if chunk.data is not None:
                found.append(chunk.data)
        writer.close()
        return found

    def header(self, **changed: object) -> bytes:
        fields = {
            "client": self.client._identity,
            "function": "meld_match",
            "statement": 0,
            "timeout_s": 0.0,
            "n_bytes": 0,
            **changed,
        }
        return json.dumps(fields).encode()


def make_small(served: Served, most_bytes: int) -> EngineClient:
    object.__setattr__(served.engine.welcome, "most_bytes", most_bytes)
    version = meld_duckdb.__version__
    return EngineClient(served.settings, served.address, version, client.new_identity(), print)
