"""A ``meld.toml`` from elsewhere sends nothing anywhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

import meld_duckdb
from meld_duckdb.cli.main import cli
from meld_duckdb.errors import ConfigError
from meld_duckdb.settings import Settings, resolve
from meld_duckdb.trust import GUARDED

VALUES = {
    "engine_address": "tcp://127.0.0.1:9",
    "remote": "wikidata",
    **{key: "https://evil.test/v1" for key in GUARDED if key.endswith("_url")},
}


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    (tmp_path / "w").mkdir()
    return tmp_path / "w" / "meld.toml"


def trusted(toml: Path) -> None:
    done = CliRunner().invoke(cli, ["config", "trust", "--workspace", str(toml.parent)])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("key", sorted(GUARDED - {"workspace"}))
def test_where_data_and_secrets_go_is_not_taken_from_a_file_that_nobody_trusted(
    key: str, toml: Path
) -> None:
    value = VALUES.get(key, "x")
    toml.write_text(f'{key} = "{value}"\n')
    with pytest.raises(ConfigError, match="was not trusted on this machine") as refused:
        resolve({"workspace": toml.parent}, {})
    assert key in refused.value.what and "meld config trust" in (refused.value.hint or "")
    with pytest.raises(ConfigError, match="was not trusted"):
        meld_duckdb.connect(workspace=toml.parent)
    plain = str(getattr(Settings(), key))
    found, _ = resolve({"workspace": toml.parent}, {f"MELD_{key.upper()}": plain})
    assert str(getattr(found, key)) == plain
    trusted(toml)
    assert str(getattr(resolve({"workspace": toml.parent}, {})[0], key)) == value


def test_the_default_workspace_does_not_name_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".meld").mkdir()
    (tmp_path / ".meld" / "meld.toml").write_text('workspace = "/home/somebody/.meld"\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"go \(workspace\), and was not trusted"):
        resolve({}, {})


def test_every_setting_that_leads_out_is_guarded() -> None:
    """A new address, key, token or certificate is guarded, or this test is told why not."""
    words = ("url", "address", "token_", "key", "cert", "remote", "host", "endpoint", "workspace")
    found = {o.key for o in resolve({}, {})[1] if any(word in o.key for word in words)}
    harmless = {"remote_contact"}
    assert found - harmless == GUARDED


def test_trust_ends_with_any_change_of_what_it_was_about(toml: Path, tmp_path: Path) -> None:
    toml.write_text('openai_url = "http://127.0.0.1:8000/v1"\n')
    trusted(toml)
    toml.write_text('# mine\nengine_batch = 4\nopenai_url = "http://127.0.0.1:8000/v1"\n')
    assert resolve({"workspace": toml.parent}, {})[0].engine_batch == 4
    toml.write_text('openai_url = "http://evil.test/v1"\n')
    with pytest.raises(ConfigError, match="was not trusted"):
        resolve({"workspace": toml.parent}, {})
    toml.write_text('openai_url = "http://127.0.0.1:8000/v1"\nopenai_key_env = "SECRET"\n')
    with pytest.raises(ConfigError, match="was not trusted"):
        resolve({"workspace": toml.parent}, {})
    elsewhere = tmp_path / "copy"
    elsewhere.mkdir()
    (elsewhere / "meld.toml").write_text('openai_url = "http://127.0.0.1:8000/v1"\n')
    with pytest.raises(ConfigError, match="was not trusted"):
        resolve({"workspace": elsewhere}, {})


def test_other_settings_of_a_workspace_need_no_trust(toml: Path) -> None:
    toml.write_text('engine_batch = 3\nmodel = "smollm2-135m-instruct"\nremote_contact = "a@b.c"\n')
    assert resolve({"workspace": toml.parent}, {})[0].engine_batch == 3
    done = CliRunner().invoke(cli, ["config", "trust", "--workspace", str(toml.parent)])
    assert "nothing in it needs trust" in done.output


def test_a_list_that_others_could_have_written_is_not_believed(toml: Path, tmp_path: Path) -> None:
    toml.write_text('openai_url = "http://127.0.0.1:8000/v1"\n')
    trusted(toml)
    (tmp_path / "config" / "meld-duckdb" / "trusted").chmod(0o666)
    with pytest.raises(ConfigError, match="was not trusted"):
        resolve({"workspace": toml.parent}, {})


def test_the_workspace_of_a_directory_of_others_has_to_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".meld").mkdir()
    monkeypatch.chdir(tmp_path)
    resolve({}, {})
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(ConfigError, match="belongs to user"):
        resolve({}, {})
    resolve({"workspace": ".meld"}, {})
    resolve({}, {"MELD_WORKSPACE": ".meld"})
