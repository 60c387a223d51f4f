"""What may cross the socket, and what is refused: in one process, without Flight where possible."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import flight

from meld_duckdb import errors
from meld_duckdb.daemon import places, protocol
from meld_duckdb.daemon.client import EngineDeclined, EngineLost
from meld_duckdb.daemon.places import Places, Pointer
from meld_duckdb.daemon.protocol import Header, Hello, Message, Welcome
from meld_duckdb.daemon.sent import sent_settings
from meld_duckdb.daemon.serving import client_settings
from meld_duckdb.errors import ConfigError, EngineRejected, EngineUnavailable, MeldError
from meld_duckdb.settings import Settings
from tests.daemon.served import Served, make_small

FUZZ = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("kind", list(protocol._kinds(MeldError)))
def test_errors_cross_as_code_and_fields(kind: type[MeldError]) -> None:
    for error in (kind("what it was", hint="do this"), kind("what it was")):
        sent = json.loads(json.dumps(protocol.error_fields(error)))
        back = protocol.error_from(sent)
        named = [k for k in vars(errors).values() if getattr(k, "code", None) == kind.code]
        assert type(back) in named
        assert (str(back), back.what, back.hint) == (str(error), error.what, error.hint)
    assert type(protocol.error_from({"code": "MELD-E999", "what": "x"})) is MeldError


def test_headers_and_messages_round_trip() -> None:
    header = Header("12345678", "meld_match", 3, 2.5)
    assert protocol.decode(Header, protocol.encode(header)) == header
    hello = Hello("12345678", "1", 1, "/w", {"cache": True})
    assert protocol.decode(Hello, protocol.encode(hello)) == hello
    for message in (Message("wörd"), Message(unknown_client=True), Message()):
        assert protocol.decode_message(protocol.encode_message(message)) == message
    failed = Message(error=ConfigError("x", hint="y"), declined=True)
    back = protocol.decode_message(protocol.encode_message(failed))
    assert back.declined and str(back.error) == str(failed.error)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"client": "12345678", "function": "f", "statement": true, "timeout_s": 0}',
        b'{"client": "12345678", "function": "f", "statement": -1, "timeout_s": 0}',
        b'{"client": "12345678", "function": "f", "statement": 1, "timeout_s": NaN}',
        b'{"client": "../../etc", "function": "f", "statement": 1, "timeout_s": 0}',
        b'{"client": "12345678", "function": 1, "statement": 1, "timeout_s": 0}',
        b"[" * 50_000,
        b" " * 70_000,
    ],
)
def test_malformed_headers_are_refused(data: bytes) -> None:
    with pytest.raises(EngineRejected, match="malformed header"):
        protocol.decode(Header, data)


@given(st.binary(max_size=200))
@FUZZ
def test_any_bytes_are_a_header_or_refused(data: bytes) -> None:
    for kind in (Header, Hello, Welcome):
        with pytest.raises(EngineRejected):
            protocol.decode(kind, data)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)
_HEADER = st.fixed_dictionaries(
    {},
    optional={
        "client": _JSON,
        "function": _JSON | st.sampled_from(["meld_match", "__meld_index", "meld_version"]),
        "statement": _JSON,
        "timeout_s": _JSON,
    },
)
_COLUMNS = st.lists(
    st.sampled_from(
        [
            pa.array(["a"]),
            pa.array([1]),
            pa.array([None]),
            pa.array([{"a": 1}]),
            pa.array([[1, 2]]),
            pa.array([b"\xff\x00"]),
            pa.array([{"tier": "t0"}]),
            pa.array([float("nan")]),
            pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
            pa.array(["x"]).dictionary_encode(),
        ]
    ),
    max_size=6,
)


@given(
    command=st.binary(max_size=100), metadata=st.none() | st.binary(max_size=50), columns=_COLUMNS
)
@FUZZ
def test_the_engine_survives_any_request(
    served: Served, command: bytes, metadata: bytes | None, columns: list[pa.Array]
) -> None:
    batches = [pa.record_batch(columns, names=[f"c{i}" for i in range(len(columns))])]
    found = served.exchange(command, batches if columns else [], metadata)
    assert isinstance(found[-1], Message) and found[-1].error is not None and found[-1].declined


@given(fields=_HEADER, columns=_COLUMNS, known=st.booleans())
@FUZZ
def test_the_engine_survives_any_header_and_any_columns(
    served: Served, fields: dict[str, object], columns: list[pa.Array], known: bool
) -> None:
    command = served.header(**fields) if known else json.dumps(fields).encode()
    batches = [pa.record_batch(columns, names=[f"c{i}" for i in range(len(columns))])]
    assert served.exchange(command, batches if columns else [])
    assert served.is_well()


@given(
    name=st.text(max_size=20),
    body=st.binary(max_size=100) | _JSON.map(lambda x: json.dumps(x).encode()),
)
@FUZZ
def test_the_engine_survives_any_action(served: Served, name: str, body: bytes) -> None:
    for kind in (name, protocol.HELLO):
        try:
            [result] = served.raw.do_action(flight.Action(kind, body))
        except UnicodeEncodeError:
            continue
        assert "error" in json.loads(result.body.to_pybytes())


@given(
    settings=st.dictionaries(
        st.text(max_size=12) | st.sampled_from(["cache", "experts", "remote", "model"]),
        _JSON,
        max_size=3,
    )
)
@FUZZ
def test_any_settings_are_taken_or_refused(settings: dict[str, object]) -> None:
    own = Settings(workspace=Path("/nowhere"))
    try:
        found = client_settings(own, {**sent_settings(own), **settings})
    except MeldError:
        return
    assert (found.workspace, found.model_dir, found.starter) == (
        own.workspace,
        own.model_dir,
        own.starter,
    )
    assert found.answer.model == own.answer.model


@pytest.mark.parametrize(
    "settings",
    [
        {"workspace": "/etc"},
        {"model_dir": "/etc"},
        {"starter": "/etc"},
        {"model": "/etc"},
        {"encoder": "../../x"},
        {"engine_token_file": "/etc/passwd"},
        {"adapter": "/etc"},
        {"wikipedia_url": "http://localhost/x"},
    ],
)
def test_no_path_and_no_address_crosses(settings: dict[str, object]) -> None:
    with pytest.raises(MeldError, match=r"MELD-E02[34]"):
        client_settings(Settings(), {**sent_settings(Settings()), **settings})


def test_settings_of_the_client_count() -> None:
    given = {"on_error": "fail", "cache": False, "experts": 0, "demonstrations": 2}
    found = client_settings(Settings(), {**sent_settings(Settings()), **given})
    assert (found.on_error, found.cache) == ("fail", False)
    assert (found.answer.experts, found.answer.demonstrations) == (0, 2)
    with pytest.raises(ConfigError, match="expected one of null, fail"):
        client_settings(Settings(), {**sent_settings(Settings()), "on_error": "perhaps"})
    missing = sent_settings(Settings())
    del missing["wikidata_url"]
    with pytest.raises(EngineRejected, match="no setting 'wikidata_url' is given"):
        client_settings(Settings(), missing)


def test_wrong_functions_and_columns_are_refused_and_it_goes_on(served: Served) -> None:
    with pytest.raises(EngineDeclined, match="did you mean 'meld_match'"):
        served.match(pa.array(["a"]), function="meld_matc")
    with pytest.raises(EngineDeclined, match="unknown function 'meld_version'"):
        served.match(function="meld_version")
    with pytest.raises(errors.InputError, match=r"got 1 argument\(s\), expected 2"):
        served.match(pa.array(["a"]))
    with pytest.raises(errors.InputError, match="got 3 rows"):
        served.match(*[pa.array([1, 2, 3])] * 3, function="__meld_index")
    assert served.is_well()


def test_damaged_arrow_data_is_refused(served: Served) -> None:
    texts = pa.array(["abc", "def"])
    beyond = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 9**8, 6)))
    for offsets, data in ((beyond, b"abcdef"), (texts.buffers()[1], b"abc\xff\xfef")):
        broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(data)])
        for column in (broken, pa.StructArray.from_arrays([broken], ["t"])):
            batch = pa.record_batch([column, texts], names=["a", "b"])
            [message] = served.exchange(served.header(), [batch])
            assert isinstance(message, Message) and "malformed arguments" in str(message.error)
    assert served.is_well()


def test_too_much_data_is_refused_by_both(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    small = make_small(served, 1_000)
    big = pa.array(["x" * 2_000])
    with pytest.raises(EngineDeclined, match=r"20\d\d bytes, the engine takes at most 1000"):
        small.call("meld_match", (big, pa.array(["a"])), 0)
    batches = [pa.record_batch([big, big], names=["a", "b"])]
    [message] = served.exchange(served.header(n_bytes=500), batches)
    assert isinstance(message, Message) and "at most 1000" in str(message.error)
    assert message.declined


def test_a_client_that_was_forgotten_greets_again(served: Served) -> None:
    served.engine.clients._clients.clear()
    assert served.is_well()


def test_many_clients_are_bounded(served: Served) -> None:
    for i in range(300):
        hello = Hello(f"client-{i}", "", 0, "", sent_settings(served.settings))
        served.engine.clients.greet(hello)
    assert len(served.engine.clients) <= 256


def test_an_engine_that_stops_declines(served: Served) -> None:
    served.engine.workers.drain(5)
    with pytest.raises(EngineLost, match="the engine is stopping"):
        served.is_well()


def test_the_pointer_is_only_believed_if_it_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = Places(tmp_path)
    places.make_private(where.folder)
    assert places.read_pointer(where) is None
    pointer = Pointer(1, str(where.socket), 2.0, "3")
    places.write_pointer(where, pointer)
    assert places.read_pointer(where) == pointer
    where.pointer.chmod(0o666)
    with pytest.raises(EngineUnavailable, match="written by another user"):
        places.read_pointer(where)
    where.pointer.chmod(0o600)
    where.pointer.write_text("{")
    with pytest.raises(EngineUnavailable, match="cannot be read"):
        places.read_pointer(where)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(EngineUnavailable, match="written by another user"):
        places.read_pointer(where)
    with pytest.raises(ConfigError, match="no directory of this user"):
        places.make_private(where.folder)


def test_only_our_own_closed_socket_is_used(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(served.address.removeprefix("grpc+unix://"))
    path.chmod(0o600)
    places.check_socket(path)
    path.chmod(0o664)
    with pytest.raises(EngineUnavailable, match=r"open to other users \(mode 664\)"):
        places.check_socket(path)
    path.chmod(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(EngineUnavailable, match=r"belongs to user \d+"):
        places.check_socket(path)
    monkeypatch.undo()
    with pytest.raises(EngineUnavailable, match="is gone"):
        places.check_socket(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineUnavailable, match="is no socket"):
        places.check_socket(tmp_path / "file")


def test_another_workspace_is_refused_with_both_named() -> None:
    hello = Hello("12345678", "1.0", protocol.VERSION, "/one", {})
    protocol.check_versions(hello, "1.0", "/one")
    with pytest.raises(errors.ProtocolMismatch, match=r"serves the workspace /two.*wants /one"):
        protocol.check_versions(hello, "1.0", "/two")
    with pytest.raises(errors.ProtocolMismatch, match=r"meld-duckdb 2\.0.*meld-duckdb 1\.0"):
        protocol.check_versions(hello, "2.0", "/one")


def test_long_errors_arrive_as_they_are_but_shorter() -> None:
    for text in ("x" * 100_000, "\x00" * 100_000, "\U0001f600" * 100_000):
        error = ConfigError(text, hint=text)
        data = protocol.encode_message(Message(text, error, declined=True))
        found = protocol.decode_message(data)
        assert isinstance(found.error, ConfigError) and found.declined
        assert found.error.what.startswith(text[:100]) and found.error.what.endswith("…")
    short = Message(error=ConfigError("w" * 9_000, hint="h"))
    assert protocol.decode_message(protocol.encode_message(short)).error.what == "w" * 9_000
