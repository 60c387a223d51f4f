"""What a client tells an engine about its settings, and which engine it asks."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import duckdb
import pytest
from pyarrow import flight

import meld_duckdb
from meld_duckdb.daemon import client
from meld_duckdb.daemon.client import EngineDeclined, EngineLost
from meld_duckdb.daemon.protocol import Hello
from meld_duckdb.daemon.remote import Remote
from meld_duckdb.daemon.sent import COMMON, NOT_SENT, OWN, anchored, sent_settings
from meld_duckdb.daemon.server import make_engine
from meld_duckdb.daemon.serving import client_settings
from meld_duckdb.errors import ConfigError, MeldError, ProtocolMismatch
from meld_duckdb.register import load_functions
from meld_duckdb.settings import AnswerSettings, Settings, resolve
from tests.daemon.conftest import Start
from tests.daemon.test_calls import MATCH
from tests.scripted import ScriptedBackend

ANSWER = {field.name for field in fields(AnswerSettings)}


def test_every_setting_is_sent_or_there_is_a_reason_not_to() -> None:
    assert set(sent_settings(Settings())) == {*COMMON, *OWN, *ANSWER}
    others = {field.name for field in fields(Settings)} - {"answer", *COMMON, *OWN}
    assert set(NOT_SENT) == others and all(NOT_SENT.values())
    assert not set(NOT_SENT) & {*COMMON, *OWN, *ANSWER}


@pytest.mark.parametrize("name", COMMON)
def test_another_value_of_a_common_setting_is_refused(name: str) -> None:
    own = Settings()
    assert client_settings(own, sent_settings(own)) == own
    with pytest.raises(ProtocolMismatch, match=f"{name} = .*this process wants 'elsewhere'"):
        client_settings(own, {**sent_settings(own), name: "elsewhere"})


def test_an_address_of_knowledge_reaches_the_engine(start: Start, backend: ScriptedBackend) -> None:
    start()
    con = meld_duckdb.connect(engine="required", wikipedia_url="http://localhost:1/w/api.php")
    with pytest.raises(duckdb.Error, match=r"MELD-E024.*wikipedia_url.*localhost:1"):
        con.sql(MATCH).fetchall()


@pytest.mark.parametrize(
    ("engine", "wants", "local", "gets"),
    [
        ("none", "wikidata", True, "wikidata"),
        ("none", "wikidata", False, "none"),
        ("wikidata,snomed", "snomed,wikipedia", False, "snomed"),
        ("wikidata,snomed", "none", False, "none"),
    ],
)
def test_over_tcp_a_client_allows_no_service_that_the_engine_does_not(
    tmp_path: Path, engine: str, wants: str, local: bool, gets: str
) -> None:
    own, _ = resolve({"workspace": tmp_path, "remote": engine})
    clients = make_engine(own, tmp_path, load_functions(), "1").clients
    given = {**sent_settings(own), "remote": wants}
    clients.greet(Hello("12345678", "1", 1, "", given), local=local)
    assert clients._clients["12345678"].settings.remote == gets


def test_paths_mean_the_same_in_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "own").mkdir(parents=True)
    (tmp_path / "all-minilm-l6-v2").mkdir()  # the name of the registry comes first
    monkeypatch.chdir(tmp_path)
    settings, _ = resolve({"workspace": "w", "model": "models/own", "starter": "models"})
    found = anchored(settings)
    assert found.workspace == tmp_path / "w"
    assert (found.answer.model, found.starter) == (
        str(tmp_path / "models" / "own"),
        str(tmp_path / "models"),
    )
    assert found.answer.encoder == "all-minilm-l6-v2"
    monkeypatch.chdir("models")
    given, _ = resolve({"workspace": "../w", "model": "own", "starter": "../models"})
    assert anchored(given).answer.model == found.answer.model


def test_a_relative_workspace_stays_where_it_was(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start(workspace="w")
    con = meld_duckdb.connect(workspace="w", engine="required")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert con.sql(MATCH).fetchall() == [(True,)]
    assert not (tmp_path / "elsewhere" / "w").exists()


def test_an_engine_that_is_named_is_required(backend: ScriptedBackend, tmp_path: Path) -> None:
    con = meld_duckdb.connect(engine="auto", engine_address="tcp://127.0.0.1:1")
    for _ in range(2):  # looked for again at every call, and never answered here
        with pytest.raises(duckdb.Error, match=r"MELD-E021.*cannot be reached"):
            con.sql(MATCH).fetchall()
    assert not (tmp_path / "workspace").exists()


def test_no_rows_go_over_the_network_unencrypted() -> None:
    named = replace(Settings(), engine_address="tcp://example.org:9410")
    with pytest.raises(ConfigError, match=r"unencrypted.*tls://"):
        client.find_address(named)
    for place in ("127.0.0.1:1", "localhost:1", "[::1]:1"):
        named = replace(named, engine_address=f"tcp://{place}")
        assert client.find_address(named) == f"grpc+tcp://{place}"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (flight.FlightUnavailableError("gone"), EngineLost),
        (flight.FlightTimedOutError("late"), EngineLost),
        (flight.FlightCancelledError("cancelled"), EngineLost),
        (flight.FlightInternalError("too long"), EngineDeclined),
        (flight.FlightServerError("odd"), EngineDeclined),
        (ValueError("malformed"), EngineDeclined),
        (OSError("broken"), EngineDeclined),
    ],
)
def test_only_an_engine_that_is_gone_counts_as_gone(
    error: Exception, kind: type[MeldError]
) -> None:
    assert type(client._worded(error)) is kind


class Scripted(Remote):
    """Whose engines fail as they are told to."""

    def __init__(self, marks: list[str], errors: list[MeldError | None]) -> None:
        super().__init__(Settings(), "1")
        self.marks, self.errors, self.said = marks, errors, list[str]()
        self.n_connected = 0

    def _mark(self) -> str:
        return self.marks[0]

    def _connect(self) -> Scripted:  # type: ignore[override]
        self.n_connected += 1
        return self

    def _notice(self, text: str) -> None:
        self.said.append(text)


class Engine:
    def __init__(self, remote: Scripted) -> None:
        self.remote = remote

    def call(self, function: str, columns: object, statement: int) -> str:
        error = self.remote.errors.pop(0)
        if error is not None:
            if len(self.remote.marks) > 1:
                self.remote.marks.pop(0)  # another one was started meanwhile
            raise error
        return "answer"


def scripted(
    monkeypatch: pytest.MonkeyPatch, marks: list[str], errors: list[MeldError | None]
) -> Scripted:
    remote = Scripted(marks, errors)
    connect = Scripted._connect
    monkeypatch.setattr(
        Scripted, "_connect", lambda self: (connect(self), Engine(self))[1], raising=True
    )
    return remote


def test_an_engine_that_was_started_meanwhile_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = scripted(monkeypatch, ["old", "new"], [EngineLost("gone"), None])
    assert remote.call("f", (), 0) == "answer" and remote.said == []


def test_the_engine_that_failed_is_refused_and_not_the_one_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remote = scripted(
        monkeypatch, ["a", "b", "c"], [EngineLost("gone"), EngineLost("gone"), None, None]
    )
    assert remote.call("f", (), 0) is None
    assert list(remote._refused) == ["b"]  # c is there by now
    assert remote.call("f", (), 0) == "answer"


def test_an_engine_that_was_lost_is_asked_again_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remote = scripted(monkeypatch, ["a"], [EngineLost("gone"), EngineLost("gone"), None])
    assert remote.call("f", (), 0) is None and remote.call("f", (), 0) is None
    assert len(remote.errors) == 2 and len(remote.said) == 1
    for expected in (None, "answer"):
        remote._refused["a"] = 0.0
        assert remote.call("f", (), 0) == expected
    assert len(remote.said) == 1


def test_a_call_that_breaks_off_is_answered_here_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = scripted(monkeypatch, ["a"], [EngineDeclined("odd"), None])
    assert remote.call("f", (), 0) is None
    assert remote.call("f", (), 0) == "answer" and remote.n_connected == 1


def test_any_failure_of_the_greeting_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = Scripted(["a"], [])

    def connect(self: Remote) -> None:
        raise EngineDeclined("malformed hello")

    monkeypatch.setattr(Scripted, "_connect", connect)
    assert remote.call("f", (), 0) is None and "malformed hello" in remote.said[0]
