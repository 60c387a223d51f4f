"""The plugin of dbt-duckdb by itself; `tests/integration/test_dbt.py` runs it in dbt."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from dbt.adapters.duckdb.credentials import DuckDBCredentials
from dbt.adapters.duckdb.environments import Environment, create
from dbt_common.events import get_event_manager
from dbt_common.events.base_types import EventMsg
from dbt_common.exceptions import DbtRuntimeError

from meld_duckdb.dbt import Plugin
from meld_duckdb.progress import NOTICES
from tests.scripted import ScriptedBackend


@pytest.fixture(autouse=True)
def package_logger() -> Iterator[None]:
    """The plugin changes the logger of the package, for the life of a process of dbt."""
    log = logging.getLogger("meld_duckdb")
    before = (log.handlers[:], log.level, log.propagate)
    yield
    log.handlers[:], log.level, log.propagate = before


def profile(**target: object) -> DuckDBCredentials:
    plugins = [{"module": "meld_duckdb.dbt", "config": target.pop("config", None)}]
    return DuckDBCredentials.from_dict({"schema": "main", **target, "plugins": plugins})


def environment(**target: object) -> Environment:
    return create(profile(**target))


def test_every_cursor_has_the_functions(backend: ScriptedBackend, tmp_path: Path) -> None:
    env = environment(config={"workspace": str(tmp_path / "w")}, threads=4)
    answers: list[object] = []

    def build(i: int) -> None:
        cursor = env.handle().cursor()
        answers.extend(cursor.execute(f"SELECT meld_match('a {i}', 'a {i}')").fetchall())

    threads = [threading.Thread(target=build, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [(True,)] * 4
    assert (tmp_path / "w" / "cache.sqlite").exists()


def test_a_database_that_is_opened_again_is_registered_again(
    backend: ScriptedBackend, tmp_path: Path
) -> None:
    env = environment(path=str(tmp_path / "mine.duckdb"), keep_open=False)
    for _ in range(2):
        handle = env.handle()
        assert handle.cursor().execute("SELECT meld_match('a', 'a')").fetchall() == [(True,)]
        handle.close()


def test_registering_a_database_twice_is_harmless(backend: ScriptedBackend) -> None:
    plugin, con = Plugin("meld", {}), duckdb.connect()
    for _ in range(2):
        plugin.configure_connection(con)
    assert con.execute("SELECT meld_match('a', 'a')").fetchall() == [(True,)]


def test_every_node_has_its_own_lines_of_statistics(backend: ScriptedBackend) -> None:
    env = environment()
    for text in ("a", "b"):
        handle = env.handle()
        handle.cursor().execute(f"SELECT meld_match('{text}', '{text}')").fetchall()
        handle.close()
    lines = env.handle().cursor().execute("SELECT statement, rows FROM meld.stats()").fetchall()
    assert lines == [(1, 1), (2, 1)]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"config": {"workspce": "w"}}, "unknown setting 'workspce'.*did you mean 'workspace'"),
        ({"config": {"engine": "no"}}, "'engine'.*'no', expected one of auto, required, local"),
        ({"settings": {"model": "m"}}, "'model' stands under 'settings'.*put it under 'config'"),
    ],
)
def test_wrong_options_are_named(target: dict[str, object], message: str) -> None:
    with pytest.raises(DbtRuntimeError, match=f"plugin meld_duckdb.dbt: .*{message}"):
        environment(**target)


def test_settings_of_duckdb_are_no_options(backend: ScriptedBackend) -> None:
    env = environment(settings={"threads": "3"}, config={"max_pairs": 7})
    cursor = env.handle().cursor()
    assert cursor.execute("SELECT current_setting('threads')").fetchall() == [(3,)]
    own = "SELECT value, source FROM meld.settings() WHERE key = 'max_pairs'"
    assert cursor.execute(own).fetchall() == [("7", "argument")]


def test_a_database_called_meld_is_named(tmp_path: Path) -> None:
    env = environment(path=str(tmp_path / "meld.duckdb"))
    with pytest.raises(DbtRuntimeError, match="a database called 'meld' is already attached"):
        env.handle()


def test_what_is_logged_goes_to_dbt(capfd: pytest.CaptureFixture[str]) -> None:
    found: list[EventMsg] = []
    get_event_manager().add_callback(found.append)
    try:
        for _ in range(2):
            Plugin("meld", {})
        NOTICES.info("%s", "a notice {with} braces")
        logging.getLogger("meld_duckdb.service").info("a call")
        logging.getLogger("meld_duckdb.planner").warning("a warning")
    finally:
        get_event_manager().callbacks.remove(found.append)
    told = [(event.info.level, event.info.msg) for event in found]
    assert told == [
        ("info", "meld adapter: a notice {with} braces"),
        ("debug", "meld adapter: a call"),
        ("warn", "meld adapter: a warning"),
    ]
    assert capfd.readouterr() == ("", "")


def test_progress_is_off_unless_it_is_asked_for(backend: ScriptedBackend) -> None:
    own = "SELECT value FROM meld.settings() WHERE key = 'progress'"
    for config, value in (({}, "False"), ({"progress": True}, "True")):
        env = environment(config=config)
        assert env.handle().cursor().execute(own).fetchall() == [(value,)]


def test_without_dbt_the_extra_is_named() -> None:
    code = "import sys; sys.modules['dbt.adapters.duckdb'] = None; import meld_duckdb.dbt"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "dbt-duckdb is not installed. Hint: pip install 'meld-duckdb[dbt]'" in done.stderr
