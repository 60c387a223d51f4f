from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from meld_duckdb.errors import ConfigError
from meld_duckdb.settings import AnswerSettings, Settings, resolve


def test_order_of_sources(tmp_path: Path) -> None:
    (tmp_path / "meld.toml").write_text('model = "from-toml"\nengine_batch = 4\ndevice = "cpu"\n')
    environ = {"MELD_WORKSPACE": str(tmp_path), "MELD_ENGINE_BATCH": "8", "MELD_DEVICE": "cuda"}
    settings, origins = resolve({"device": "auto"}, environ)
    assert (settings.answer.model, settings.engine_batch, settings.device) == (
        "from-toml",
        8,
        "auto",
    )
    sources = {o.key: o.source for o in origins}
    assert sources["model"] == str(tmp_path / "meld.toml")
    assert sources["engine_batch"] == "MELD_ENGINE_BATCH"
    assert sources["device"] == "argument"
    assert sources["cache"] == "default"


def test_every_setting_has_an_origin() -> None:
    _, origins = resolve({}, {})
    flat = {f.name for f in dataclasses.fields(Settings)} - {"answer"}
    assert {o.key for o in origins} == flat | {f.name for f in dataclasses.fields(AnswerSettings)}


def test_another_server_does_not_forget_the_answers_of_all_tasks() -> None:
    """What a service said depends on where it is, but only its own answers do."""
    elsewhere, _ = resolve({"snomed_url": "http://localhost/snomed", "snomed_branch": "MAIN/X"}, {})
    assert elsewhere.answer == Settings().answer
    assert (elsewhere.snomed_url, elsewhere.snomed_branch) == ("http://localhost/snomed", "MAIN/X")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"modell": "x"}, "did you mean 'model'"),
        ({"engine_batch": "many"}, "expected a positive whole number"),
        ({"engine_batch": 0}, "expected a positive whole number"),
        ({"on_error": "ignore"}, "expected one of null, fail"),
        ({"cache": "perhaps"}, "expected true or false"),
    ],
)
def test_bad_settings_are_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(given, {})


def test_bad_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "meld.toml").write_text("model = \n")
    with pytest.raises(ConfigError, match=r"meld\.toml is not valid TOML"):
        resolve({"workspace": tmp_path}, {})


def test_meld_toml_of_the_default_workspace_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".meld").mkdir()
    (tmp_path / ".meld" / "meld.toml").write_text("engine_batch = 5\n")
    monkeypatch.chdir(tmp_path)
    assert resolve({}, {})[0].engine_batch == 5


def test_a_percentage_goes_from_nothing_to_a_hundred() -> None:
    for value in ("0", "100"):
        settings, _ = resolve({"expert_diversity_percent": value}, {})
        assert settings.answer.expert_diversity_percent == int(value)
    with pytest.raises(ConfigError, match="is '101', expected a percentage"):
        resolve({"expert_diversity_percent": "101"}, {})
