"""The page of ``meld report``: its numbers are those of SQL, and what it shows is text."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner, Result

from meld_duckdb.cli.main import cli
from meld_duckdb.errors import ConfigError, InputError
from meld_duckdb.planner.cache import AnswerCache
from meld_duckdb.report.make import make_report
from meld_duckdb.report.wanted import KINDS, Call, Wanted
from meld_duckdb.settings import resolve
from meld_duckdb.tasks.base import Answer
from tests.scripted import ScriptedBackend

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }} 'quoted'"


class Page(HTMLParser):
    """Elements, texts and charts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._inside = ""
        self.charts: list[dict[str, Any]] = []
        self.feed(text)
        self.close()
        self.text = "\n".join(self.texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = "charts" if dict(attrs).get("id") == "charts" else tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "charts":
            assert "<" not in data
            self.charts = json.loads(data)
        elif self._inside not in {"script", "style"}:
            self.texts.append(data.strip())

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.elements if tag == name]

    def rows(self, chart: str) -> list[dict[str, Any]]:
        [found] = [c["spec"]["datasets"]["rows"] for c in self.charts if c["id"] == chart]
        return list(found)

    def cut(self, chart: str) -> list[dict[str, Any]]:
        [found] = [c["spec"]["datasets"]["cut"] for c in self.charts if c["id"] == chart]
        return list(found)


def report(con: duckdb.DuckDBPyConnection, tmp_path: Path, *calls: Call, **wanted: Any) -> Page:
    out = tmp_path / "out.html"
    make_report(con, resolve()[0], Wanted(calls, **wanted), "Title", out)
    return Page(out.read_text("utf-8"))


def call(function: str, *tables: str) -> Call:
    return Call(KINDS[function], tables)


@pytest.fixture
def shops(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    con.execute("""
        CREATE TABLE shop AS
        SELECT i AS id, 'lamp model ' || (1000 + i * 37) || ' series ' || (i % 7) AS title
        FROM range(40) AS t(i);
        CREATE TABLE offers AS
        SELECT 'o' || i AS id, 'series ' || (i % 7) || ' lamp model ' || (1000 + i * 37) AS title
        FROM range(0, 40, 2) AS t(i);
    """)
    return con


@pytest.fixture
def people(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    con.execute("""
        CREATE TABLE people AS
        SELECT i AS id, 'street ' || i AS street,
               CASE i % 3 WHEN 0 THEN '10115' WHEN 1 THEN '20095' ELSE '80331' END AS zip,
               CASE WHEN i = 4 THEN 'Hambxrg' WHEN i = 6 THEN NULL
                    WHEN i % 3 = 0 THEN 'Berlin' WHEN i % 3 = 1 THEN 'Hamburg' ELSE 'Munich'
               END AS city
        FROM range(60) AS t(i)
    """)
    return con


def test_the_counts_of_a_join_are_those_of_sql(
    shops: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    page = report(shops, tmp_path, call("join", "shop", "offers"))
    pairs = shops.sql("FROM meld.join('shop', 'offers', threshold := 0.0)").fetchall()
    matches = shops.sql("FROM meld.join('shop', 'offers')").fetchall()
    assert 0 < len(matches) < len(pairs)
    bars = page.rows("asked-1-chart-1")
    assert sum(bar["n"] for bar in bars) == len(pairs)
    assert sum(bar["n"] for bar in bars if bar["part"] == "matches") == len(matches)
    for bar in bars:
        inside = [p for _, _, p, *_ in pairs if bar["low"] <= p < bar["high"] or p == bar["high"]]
        assert bar["top"] <= len(inside)
    curve = {row["threshold"]: row["n"] for row in page.rows("asked-1-chart-2")}
    for threshold in (0.01, 0.25, 0.5, 0.99):
        assert curve[threshold] == sum(p >= threshold for _, _, p, *_ in pairs)
    [cut] = page.cut("asked-1-chart-1")
    assert cut["cut"] == min(p for _, _, p, *_ in matches)
    assert "lamp model 1074 series 2" in page.text


def test_what_was_answered_before_comes_from_the_cache(
    shops: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    first = report(shops, tmp_path, call("join", "shop", "offers")).rows("run-chart-1")
    again = report(shops, tmp_path, call("join", "shop", "offers")).rows("run-chart-1")
    assert [(row["name"], row["part"]) for row in first] == [("meld.join", "tier 0")]
    assert [(row["part"], row["n"]) for row in again] == [("answered before", first[0]["n"])]


def test_a_threshold_decides_what_is_accepted(
    shops: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    page = report(shops, tmp_path, call("join", "shop", "offers"), threshold=0.02)
    n = len(shops.sql("FROM meld.join('shop', 'offers', threshold := 0.02)").fetchall())
    bars = page.rows("asked-1-chart-1")
    assert sum(bar["n"] for bar in bars if bar["part"] == "matches") == n
    assert page.cut("asked-1-chart-2") == [{"cut": 0.02, "label": "from 0.020"}]


def test_values_are_text_wherever_they_stand(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    column = HOSTILE.replace("'", "")
    con.execute(f"""
        CREATE TABLE t AS SELECT i AS id, 'item ' || i AS name,
            CASE WHEN i = 5 THEN '{HOSTILE.replace("'", "''")}' ELSE 'usual' END AS "{column}"
        FROM range(40) AS r(i)
    """)
    calls = call("find_errors", "t"), call("dedupe", "t"), call("repairs", "t")
    page = report(con, tmp_path, *calls, threshold=0.0, n_rows=1000)
    assert [attrs.get("type") for attrs in page.tags("script")] == ["application/json", None, None]
    assert page.tags("img") == []
    assert not [attrs for _, attrs in page.elements if any(name[:2] == "on" for name in attrs)]
    assert HOSTILE in page.text and column in page.text
    assert column in [row["name"] for row in page.rows("asked-1-chart-3")]
    [policy] = [a["content"] for a in page.tags("meta") if a.get("http-equiv")]
    assert policy is not None and policy.startswith("default-src 'none'")
    assert not [
        a for _, a in page.elements if (a.get("src") or a.get("href") or "#")[0] not in "#d"
    ]


def test_a_cap_tells_how_many_are_not_shown(
    people: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    page = report(people, tmp_path, call("find_errors", "people"), threshold=0.0, n_rows=7)
    n = len(people.sql("FROM meld.find_errors('people', threshold := 0.0)").fetchall())
    assert f"The least sure 7 of {n}; {n - 7} are not shown (--rows)." in page.text


def test_cells_are_shown_with_old_and_new_value_and_why(
    people: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    calls = call("repairs", "people"), call("impute_nulls", "people")
    page = report(people, tmp_path, *calls, threshold=0.1)
    people.execute("CREATE TABLE found AS FROM meld.repairs('people', min_probability := 0.1)")
    [(new, p)] = people.sql(
        'SELECT "new", probability FROM found WHERE id = 4 AND "column" = \'city\''
    ).fetchall()
    at = page.texts.index("Hambxrg")
    assert [text for text in page.texts[at : at + 8] if text][:3] == ["Hambxrg", new, f"{p:.3f}"]
    [row] = page.rows("asked-2-chart-3")
    assert row == {"name": "city", "n": 1}


def test_without_rows_nothing_of_their_contents_is_shown(
    people: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    people.execute("UPDATE people SET id = id + 770000")
    people.execute("CREATE TABLE twins AS SELECT id, street, zip FROM people")
    calls = (
        call("find_errors", "people"),
        call("repairs", "people"),
        call("impute_nulls", "people"),
        call("dedupe", "people"),
        call("join", "people", "twins"),
    )
    page = report(people, tmp_path, *calls, threshold=0.0, show_rows=False)
    everything = page.text + json.dumps(page.charts)
    for value in ("Hambxrg", "Berlin", "street 4", "10115", "77000"):
        assert value not in everything
    assert sum(bar["n"] for bar in page.rows("asked-1-chart-1")) > 100
    shown = report(people, tmp_path, *calls, threshold=0.0).text
    assert all(value in shown for value in ("Hambxrg", "Berlin", "street 4", "10115", "77000"))


def test_rows_without_an_answer_are_counted_by_reason(
    people: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    wanted = {"threshold": 1.0, "columns": ("city",)}
    page = report(people, tmp_path, call("impute_nulls", "people"), **wanted)
    [(error,)] = people.sql(
        "SELECT error FROM meld.impute_nulls('people', min_probability := 1.0)"
    ).fetchall()
    code, _, message = error.partition(": ")
    assert code in page.texts and message in page.text
    hidden = report(
        people, tmp_path, call("impute_nulls", "people"), show_rows=False, **wanted
    ).text
    assert code in hidden and message not in hidden


def test_clusters_are_counted_and_shown_with_their_rows(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    con.execute("""
        CREATE TABLE papers AS FROM (VALUES
            ('a', 'entity matching with deep learning methods', 2018),
            ('b', 'entity matching with deep learning methods', 2018),
            ('c', 'a survey of blocking for record linkage', 2020),
            ('d', 'query optimisation in column stores', 2012)) AS t(key, title, year)
    """)
    page = report(con, tmp_path, call("dedupe", "papers"), ids={"papers": "key"})
    sizes = con.sql(
        "SELECT cluster_size, count(DISTINCT cluster_id) FROM meld.dedupe('papers', id := 'key')"
        " WHERE cluster_size > 1 GROUP BY ALL"
    ).fetchall()
    assert sizes == [(2, 1)]
    assert page.rows("asked-1-chart-3") == [{"name": "2 rows", "n": 1}]
    assert page.texts.count("entity matching with deep learning methods") == 4
    assert "query optimisation in column stores" not in page.text


def _teach(con: duckdb.DuckDBPyConnection, answer: str) -> None:
    con.sql(f"""
        SELECT meld_learn('match', {{'a': s, 'b': o}}, {answer}) FROM shop AS s, offers AS o
        WHERE 'o' || s.id = o.id OR 'o' || (s.id + 2) = o.id
    """).fetchall()


def test_labels_judge_what_has_not_seen_them(
    shops: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    _teach(shops, "'o' || s.id = o.id")
    page = report(shops, tmp_path, call("join", "shop", "offers"))
    rows = page.rows("asked-1-chart-3")
    start = {row["metric"]: row for row in rows if row["threshold"] == 0.0}
    n, n_true = 39, 20
    assert start["recall"]["value"] == 1.0
    assert start["precision"]["value"] == round(n_true / n, 4)
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    assert f"{n} labels of these tables, {n_true} of them positive" in page.text
    best = max(row["value"] for row in rows if row["metric"] == "F1")
    assert best > 0.9


def test_labels_without_sense_are_not_told_by_themselves(
    shops: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    _teach(shops, "hash(s.id, o.id) % 2 = 0")
    rows = report(shops, tmp_path, call("join", "shop", "offers")).rows("asked-1-chart-3")
    precise = [row["value"] for row in rows if row["metric"] == "precision"]
    recalled = [row["value"] for row in rows if row["metric"] == "recall"]
    assert not any(p > 0.9 and r > 0.9 for p, r in zip(precise, recalled, strict=True))


def test_what_cells_should_hold_judges_errors_and_repairs(
    people: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    people.sql("""
        SELECT meld_learn('repair', {'row': p}, {'street': street, 'zip': zip, 'city': CASE i % 3
            WHEN 0 THEN 'Berlin' WHEN 1 THEN 'Hamburg' ELSE 'Munich' END})
        FROM (SELECT p, id AS i, street, zip FROM people AS p WHERE id BETWEEN 3 AND 12)
    """).fetchall()
    calls = call("find_errors", "people"), call("repairs", "people")
    page = report(people, tmp_path, *calls, tier="t0")
    found = "Judged by 30 labels of these tables, 2 of them positive"
    assert page.text.count(found) == 2
    errors, repairs = (
        {r["metric"]: r["value"] for r in page.rows(chart) if r["threshold"] == 0.0}
        for chart in ("asked-1-chart-4", "asked-2-chart-4")
    )
    assert (errors["precision"], errors["recall"]) == (round(2 / 30, 4), 1.0)
    assert repairs["recall"] > 0 and 0 < repairs["precision"] <= 1


def test_too_few_labels_judge_nothing(shops: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    shops.sql(
        "SELECT meld_learn('match', {'a': s, 'b': o}, true) FROM shop AS s, offers AS o"
        " WHERE s.id = 2 AND o.id = 'o2'"
    ).fetchall()
    page = report(shops, tmp_path, call("join", "shop", "offers"))
    assert "1 labels of these tables, 1 of them positive: too few" in page.text
    assert len([chart for chart in page.charts if chart["id"].startswith("asked")]) == 2


def test_the_workspace_is_summed_up_by_task_and_tier(
    shops: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    shops.sql("FROM meld.join('shop', 'offers')").fetchall()
    cache = AnswerCache(resolve()[0].workspace / "cache.sqlite")
    cache.put({"x": Answer("yes", 1.0, 2), "y": Answer("yes", 0.07, 2)}, "detect_error")
    cache.put({"older": Answer("yes", 0.5, 1), "none": Answer("yes", None, 1)})
    page = report(shops, tmp_path)
    assert [(r["low"], r["part"], r["n"]) for r in page.rows("stored-chart-1")] == [
        (0.05, "tier 2", 1),
        (0.95, "tier 2", 1),
    ]
    n_pairs = len(shops.sql("FROM meld.join('shop', 'offers', threshold := 0.0)").fetchall())
    assert sum(row["n"] for row in page.rows("stored-chart-2")) == n_pairs
    assert {"detect_error", "match", "not named"} <= set(page.texts)


def test_names_that_are_not_there_are_told(
    shops: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="offers") as found:
        report(shops, tmp_path, call("dedupe", "offer"))
    assert "unknown table 'offer'" in str(found.value)
    with pytest.raises(InputError, match=r"to name its rows by.*--id shop=COLUMN"):
        report(shops, tmp_path, call("dedupe", "shop"), ids={"": "sku"})
    assert not (tmp_path / "out.html").exists()


def test_a_key_of_several_rows_is_told(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    con.execute("CREATE TABLE t AS SELECT 1 AS id, 'street ' || i AS name FROM range(5) AS r(i)")
    page = report(con, tmp_path, call("find_errors", "t"), threshold=0.0)
    assert "Several rows of t have the same id" in page.text


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["report", *arguments])


def test_the_command_reads_a_file_and_leaves_it_as_it_is(
    backend: ScriptedBackend, tmp_path: Path
) -> None:
    file, out = tmp_path / "t.duckdb", tmp_path / "r.html"
    with duckdb.connect(str(file)) as con:
        con.execute(
            "CREATE TABLE t AS SELECT i AS sku, 'lamp ' || i AS name FROM range(20) AS r(i)"
        )
    before = file.read_bytes()
    given = ["--db", str(file), "--dedupe", "t", "--find-errors", "t"]
    done = run(str(out), *given, "--id", "t=sku", "--title", "<b>Lamps</b>")
    assert done.exit_code == 0, done.output
    assert file.read_bytes() == before
    page = Page(out.read_text("utf-8"))
    assert "<b>Lamps</b>" in page.texts
    assert {"Duplicates: t", "Errors: t", "Stored answers"} <= set(page.texts)


def test_the_command_tells_what_is_missing(
    backend: ScriptedBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r.html"
    assert "--db" in run(str(out), "--dedupe", "t").output
    gone = run(str(out), "--db", str(tmp_path / "gone.duckdb"), "--dedupe", "t").exception
    assert isinstance(gone, ConfigError) and "no such file" in str(gone)
    nowhere = run(str(tmp_path / "no" / "r.html")).exception
    assert isinstance(nowhere, ConfigError) and "no such directory" in str(nowhere)
    absent = run(str(out), "--workspace", str(tmp_path / "absent")).exception
    assert isinstance(absent, ConfigError) and not (tmp_path / "absent").exists()
    assert run(str(out), "--id", "a=b", "--id", "a=c").exit_code == 2
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    extra = run(str(out)).exception
    assert isinstance(extra, ConfigError) and "meld-duckdb[report]" in str(extra)
    assert not out.exists()
