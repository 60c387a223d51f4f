"""The openai backend against a stand-in server on a real loopback socket."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meld_duckdb import interrupt
from meld_duckdb.engine.adapters import Adapter, open_adapter
from meld_duckdb.engine.openai import OpenAIBackend
from meld_duckdb.engine.openai_ways import Way, defused
from meld_duckdb.engine.openai_wire import Patience, Wire, is_loopback
from meld_duckdb.engine.transformers import TransformersBackend
from meld_duckdb.errors import (
    ArtefactCorrupt,
    ConfigError,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
)
from meld_duckdb.planner.backends import BACKENDS
from meld_duckdb.settings import read_key, resolve
from meld_duckdb.tasks.base import Completion, Prompt
from tests.contract.stand_in import MODEL, StandIn
from tests.unit.tiny_adapter import save_random_adapter
from tests.unit.tiny_llama import save_tiny_llama

SYSTEM = "Do both records describe the same product?"
TURNS = (("title: sony | title: sony", "yes"), ("title: sony | title: canon", "no"))
YES_NO = [Prompt(SYSTEM, TURNS, q, ("yes", "no")) for q in ("a", "title: sony", "price: 12.50")]
ALIKE = Prompt(SYSTEM, TURNS, "how many?", ("10", "100", "12"))
OPEN = Prompt(SYSTEM, TURNS, "title: sony", max_tokens=5)
QUICK = Patience(timeout_s=20.0, backoff_s=0.01)
BUSY = (429, {"error": {"message": "slow down"}})
KEY = "sk-very-secret"

Make = Callable[..., tuple[OpenAIBackend, StandIn]]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="module")
def adapters(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    folder = tmp_path_factory.mktemp("adapters")
    return [
        open_adapter(save_random_adapter(model_path, folder / f"a{i}", seed=i)) for i in range(3)
    ]


@pytest.fixture(scope="module")
def embedded(model_path: Path) -> TransformersBackend:
    return TransformersBackend(model_path, device="cpu", max_prompt_tokens=400)


@pytest.fixture
def make(model_path: Path) -> Iterator[Make]:
    ends: list[Callable[[], None]] = []

    def made(abilities: dict[str, Any] | None = None, **options: Any) -> Any:
        server = StandIn(model_path, **(abilities or {}))
        given = {"max_prompt_tokens": 400, "patience": QUICK, **options}
        backend = OpenAIBackend(model_path, url=server.url, **{"model": MODEL, **given})
        ends.extend([backend.close, server.stop])
        return backend, server

    yield made
    for end in ends:
        end()


def answers(backend: Any, prompts: list[Prompt], adapter: Adapter | None = None) -> Any:
    done = dict(pair for part in backend.complete(prompts, adapter) for pair in part)
    return [done[i] for i in range(len(prompts))]


def alike(some: list[Completion], others: list[Completion], within: float = 1e-4) -> bool:
    return all(
        a.text == b.text
        and a.probability == pytest.approx(b.probability, abs=within)
        and a.choice_probabilities == pytest.approx(b.choice_probabilities, abs=within)
        for a, b in zip(some, others, strict=True)
    )


def test_a_server_that_scores_chosen_tokens_answers_as_the_embedded_engine(
    make: Make, embedded: TransformersBackend
) -> None:
    backend, server = make()
    prompts = [*YES_NO, ALIKE, OPEN]
    assert alike(answers(backend, prompts), answers(embedded, prompts))
    assert backend.way is Way.CHOSEN
    assert all(isinstance(body["prompt"][0], int) for body in server.asked("/completions"))
    assert backend.usage.prompt_tokens > sum(c.prompt_tokens for c in answers(embedded, YES_NO))
    assert backend.usage.completion_tokens > len(prompts)


def test_a_server_that_lists_the_likeliest_tokens_scores_what_they_tell(
    make: Make, embedded: TransformersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, _ = make({"chosen": False})
    assert backend.way is Way.LISTED
    monkeypatch.setattr("meld_duckdb.engine.openai_ways.MOST_LISTED", 300)
    got = answers(backend, [*YES_NO, OPEN])
    assert alike(got[:3], answers(embedded, YES_NO))
    assert got[3].text and 0 < got[3].probability < 1
    [refused] = answers(backend, [ALIKE])
    assert refused.error == "choices_alike: the server cannot score choices that begin alike"


def test_a_choice_that_is_not_listed_counts_as_the_least_that_is(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, _ = make({"chosen": False})
    unlisted = [got for got in answers(backend, YES_NO) if got.error]
    assert all(got.error.startswith("no_choice_listed: ") for got in unlisted)
    monkeypatch.setattr("meld_duckdb.engine.openai_ways.MOST_LISTED", 250)
    for got in answers(backend, YES_NO):
        assert got.error is None and sum(got.choice_probabilities) == pytest.approx(1.0)


@pytest.mark.parametrize("abilities", [{"completions": False}, {"tokenize": "other"}])
def test_any_other_server_is_asked_by_chat(
    make: Make, monkeypatch: pytest.MonkeyPatch, abilities: dict[str, Any]
) -> None:
    monkeypatch.setattr("meld_duckdb.engine.openai_ways.MOST_LISTED", 330)
    backend, server = make(abilities)
    got = answers(backend, [*YES_NO, OPEN])
    assert backend.way is Way.CHAT
    for completion in got[:3]:
        assert completion.error is None
        assert sum(completion.choice_probabilities) == pytest.approx(1.0)
    assert got[3].error is None and 0 < got[3].probability < 1
    roles = [message["role"] for message in server.asked("/chat/completions")[0]["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]


def test_a_chat_loses_its_oldest_turns_and_data_is_no_control_token(make: Make) -> None:
    backend, server = make({"completions": False})
    long = Prompt(SYSTEM, (("old " * 200, "yes"), *TURNS), "a <|im_end|> b", max_tokens=3)
    [got] = answers(backend, [long])
    [body] = server.asked("/chat/completions")
    assert [m["content"] for m in body["messages"]][1] == TURNS[0][0]
    assert body["messages"][-1]["content"] == "a < |im_end|> b"
    assert got.prompt_tokens > 0
    assert defused("[INST] x < 3 [a] <s>") == "[ INST] x < 3 [a] < s>"


def test_an_answer_of_one_line_is_asked_to_end_with_it(make: Make) -> None:
    backend, server = make({"completions": False})
    answers(backend, [replace(OPEN, one_line=one_line) for one_line in (True, False)])
    bodies = server.asked("/chat/completions")
    assert sorted(str(body.get("stop")) for body in bodies) == ["None", "['\\n']"]


def test_a_chat_that_wants_the_newer_limit_gets_it(make: Make) -> None:
    backend, server = make({"completions": False, "limit_name": "max_completion_tokens"})
    assert answers(backend, [OPEN])[0].error is None
    assert "max_completion_tokens" in server.asked("/chat/completions")[-1]


def test_a_chat_without_log_probabilities_is_of_no_use(make: Make) -> None:
    backend, _ = make({"completions": False, "logprobs": False})
    with pytest.raises(EngineUnavailable, match="gives no log-probabilities"):
        answers(backend, YES_NO)


def test_what_fails_for_the_moment_is_asked_again(
    make: Make, embedded: TransformersBackend
) -> None:
    backend, server = make(concurrency=1)
    expected = answers(embedded, YES_NO)
    assert alike(answers(backend, YES_NO), expected)
    server.failures = [BUSY, (503, b""), "hang up", None, (500, b"oops"), None, "hang up"]
    assert alike(answers(backend, YES_NO), expected)
    assert backend.usage.retries == 5
    assert not server.failures


def test_a_server_that_asks_for_patience_gets_it(make: Make) -> None:
    backend, server = make(concurrency=1)
    assert backend.way is Way.CHOSEN
    server.failures, server.headers = [BUSY], {"retry-after": "1"}
    started = time.monotonic()
    answers(backend, YES_NO[:1])
    assert time.monotonic() - started >= 1.0


def test_a_server_that_fails_for_ever_fails_the_call_and_names_it(make: Make) -> None:
    backend, server = make(patience=replace(QUICK, tries=3))
    assert backend.way is Way.CHOSEN
    server.failures = [(502, b"")] * 50
    with pytest.raises(EngineUnavailable, match=r"failed 3 times in a row: status 502"):
        answers(backend, YES_NO)
    server.failures = []
    assert answers(backend, YES_NO)[0].error is None


def test_nobody_there_is_said(model_path: Path) -> None:
    backend = OpenAIBackend(
        model_path,
        url="http://127.0.0.1:9/v1",
        model=MODEL,
        patience=replace(QUICK, tries=2),
    )
    with pytest.raises(EngineUnavailable, match=r"127\.0\.0\.1:9") as caught:
        answers(backend, YES_NO)
    assert "openai_url" in str(caught.value)
    backend.close()


def test_a_request_has_its_time(make: Make) -> None:
    backend, server = make(patience=replace(QUICK, timeout_s=0.5))
    assert backend.way is Way.CHOSEN
    server.delay_s = 30.0
    started = time.monotonic()
    with pytest.raises(EngineTimeout, match=r"within 0\.5 s"):
        answers(backend, YES_NO)
    assert time.monotonic() - started < 10


def test_no_more_are_asked_at_once_than_allowed(make: Make) -> None:
    backend, server = make(concurrency=3)
    assert backend.way is Way.CHOSEN
    server.delay_s, server.most_open = 0.05, 0
    answers(backend, YES_NO * 5)
    assert server.most_open == 3


def test_an_interruption_stops_the_call(make: Make) -> None:
    backend, server = make()
    assert backend.way is Way.CHOSEN
    server.delay_s = 30.0
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    started = time.monotonic()
    with interrupt.heeding(stop), pytest.raises(KeyboardInterrupt):
        answers(backend, YES_NO)
    assert time.monotonic() - started < 5


def test_what_the_server_refuses_is_the_error_of_that_prompt(make: Make) -> None:
    backend, _ = make({"context": 150})
    long = replace(YES_NO[0], question="x y z " * 30)
    got = answers(backend, [YES_NO[0], long, YES_NO[1]])
    assert [c.error is None for c in got] == [True, False, True]
    assert got[1].error == "rejected: the server says 400: maximum context length is 150"


def test_a_model_the_server_has_not_is_named(make: Make) -> None:
    backend, _ = make(model="huge")
    with pytest.raises(EngineUnavailable, match=r"has no model 'huge', it has tiny"):
        answers(backend, YES_NO)


def test_a_server_that_speaks_something_else_is_named(make: Make) -> None:
    backend, server = make()
    assert backend.way is Way.CHOSEN
    for content in (b"<html>", {"choices": []}, {"choices": [{"logprobs": None}]}, b'{"a"'):
        server.failures = [(200, content)]
        with pytest.raises(EngineError, match=r"something else than a completion|damaged JSON"):
            answers(backend, YES_NO[:1])
    server.failures = [(302, b"")]
    with pytest.raises(EngineUnavailable, match="sends requests elsewhere"):
        answers(backend, YES_NO[:1])


def test_adapters_are_loaded_by_version_and_the_oldest_goes(
    make: Make, adapters: list[Adapter], embedded: TransformersBackend
) -> None:
    backend, server = make(most_adapters=2)
    for adapter in (*adapters, adapters[0]):
        assert alike(answers(backend, YES_NO, adapter), answers(embedded, YES_NO, adapter))
    loaded = [body["lora_name"] for body in server.asked("/load_lora_adapter")]
    assert loaded == [a.name for a in (*adapters, adapters[0])]
    assert [b["lora_name"] for b in server.asked("/unload_lora_adapter")] == [
        a.name for a in adapters[:2]
    ]
    assert set(server.models) == {MODEL, adapters[0].name, adapters[2].name}


def test_an_adapter_that_the_server_lost_is_loaded_again(
    make: Make, adapters: list[Adapter], embedded: TransformersBackend
) -> None:
    backend, server = make()
    first = answers(backend, YES_NO, adapters[0])
    del server.models[adapters[0].name]
    assert alike(answers(backend, YES_NO, adapters[0]), first)


def test_a_server_that_loads_no_adapters_may_serve_them(
    make: Make, adapters: list[Adapter], model_path: Path
) -> None:
    backend, server = make({"loading": False})
    with pytest.raises(EngineRejected, match="loads no adapters") as caught:
        answers(backend, YES_NO, adapters[0])
    assert adapters[0].name in str(caught.value)
    server.models[adapters[0].name] = server.models[MODEL]
    again = OpenAIBackend(model_path, url=server.url, model=MODEL, patience=QUICK)
    assert answers(again, YES_NO, adapters[0])[0].error is None
    again.close()


def test_a_server_that_cannot_see_the_adapter_says_so(make: Make, adapters: list[Adapter]) -> None:
    backend, server = make()
    assert backend.way is Way.CHOSEN
    server.failures = [(400, {"message": "no directory"})]
    with pytest.raises(ArtefactCorrupt, match="no directory"):
        answers(backend, YES_NO, adapters[0])


def test_adapters_of_another_model_are_refused(make: Make, adapters: list[Adapter]) -> None:
    backend, _ = make({"tokenize": "other"})
    with pytest.raises(EngineRejected, match="was not recognised"):
        answers(backend, YES_NO, adapters[0])


def test_the_key_is_sent_and_never_told(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    backend, server = make(key=KEY)
    answers(backend, YES_NO)
    assert {headers["authorization"] for _, _, headers in server.log} == {f"Bearer {KEY}"}
    server.failures = [(401, {"error": {"message": f"bad {KEY}"}})]
    with pytest.raises(EngineUnavailable, match="refuses the key") as caught:
        answers(backend, YES_NO[:1])
    assert KEY not in str(caught.value)
    assert KEY not in caplog.text
    assert "3 prompts in" in caplog.text and SYSTEM not in caplog.text


def test_the_key_is_read_from_a_file_or_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    assert read_key(resolve({"openai_key_file": str(file)}, {})[0]) == KEY
    monkeypatch.setenv("SOME_KEY", KEY)
    assert read_key(resolve({"openai_key_env": "SOME_KEY"}, {})[0]) == KEY
    assert read_key(resolve({}, {})[0]) is None
    monkeypatch.setenv("SOME_KEY", f"{KEY}\r\nx: y")
    for given in ({"openai_key_env": "SOME_KEY"}, {"openai_key_env": "NONE_SUCH"}):
        with pytest.raises(ConfigError, match="has no key") as caught:
            read_key(resolve(given, {})[0])
        assert KEY not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(resolve({"openai_key_file": str(tmp_path / "none")}, {})[0])


def test_settings_open_a_backend_and_say_what_leaves_the_machine(
    make: Make, model_path: Path
) -> None:
    _, server = make()
    kind = BACKENDS["openai"]
    given = {"backend": "openai", "openai_url": server.url, "openai_model": MODEL}
    settings, _ = resolve(given, {})
    assert kind.opening(settings) == f"the model tiny is asked at {server.url}"
    backend = kind.open(model_path, settings)
    assert answers(backend, YES_NO)[0].error is None
    assert backend.digest == kind.digest(model_path, settings)
    assert isinstance(backend, OpenAIBackend)
    backend.close()
    away = replace(settings, openai_url="http://models.example/v1")
    assert kind.opening(away).endswith("leave this machine, unencrypted")
    assert "unencrypted" not in kind.opening(replace(away, openai_url="https://models.example"))
    for name in ("openai_url", "openai_model"):
        with pytest.raises(ConfigError, match=f"needs the setting {name}"):
            kind.open(model_path, replace(settings, **{name: "none"}))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://localhost/v1", True),
        ("http://127.0.0.1.example/v1", False),
        ("https://api.example/v1", False),
        ("http://10.0.0.1/v1", False),
    ],
)
def test_what_is_on_this_machine(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected


def test_no_proxy_is_used_on_this_machine(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    backend, _ = make()
    assert answers(backend, YES_NO)[0].error is None


def test_one_address_is_one_server() -> None:
    wire = Wire("http://127.0.0.1:9/v1/", None, 1, QUICK)
    assert wire.url == "http://127.0.0.1:9/v1"
    wire.close()
    assert wire.usage.requests == 0
