"""The page of ``meld report`` in a real browser: it draws, filters, sorts, and asks nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from tests.integration.chromium import Browser, find_chromium

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (apt-get install chromium)"),
]
HOSTILE = (
    "</script><script>document.title = 'owned'</script>"
    "<img src=x onerror=\"document.title='owned'\"><style>body{display:none}</style>"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of hostile tables, made as a user does."""
    folder = tmp_path_factory.mktemp("report")
    with duckdb.connect(str(folder / "t.duckdb")) as con:
        value = HOSTILE.replace("'", "''")
        con.execute(f"""
            CREATE TABLE shop AS
            SELECT i AS id, CASE WHEN i = 3 THEN '{value}' ELSE 'lamp model ' || (1000 + i * 37) END
                AS title, CASE WHEN i = 5 THEN NULL ELSE 'maker ' || (i % 3) END AS maker,
                i % 3 AS "</script>{value.replace('"', "")}"
            FROM range(40) AS t(i);
            CREATE TABLE offers AS
            SELECT 'o' || i AS id, CASE WHEN i = 3 THEN '{value}'
                ELSE 'model ' || (1000 + i * 37) || ' lamp' END AS title FROM range(30) AS t(i);
        """)
    out = folder / "report.html"
    command = [sys.executable, "-m", "meld_duckdb.cli.main", "report", str(out)]
    asked = ["--join", "shop", "offers", "--dedupe", "shop", "--find-errors", "shop"]
    asked += ["--impute", "shop", "--threshold", "0", "--title", HOSTILE]
    given = ["--db", str(folder / "t.duckdb"), "--workspace", str(folder / "workspace")]
    subprocess.run([*command, *asked, *given], check=True, timeout=240, env={**os.environ})
    return out


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM is not None
    opened = Browser(CHROMIUM, tmp_path_factory.mktemp("profile"))
    opened.open(page.as_uri())
    opened.wait("document.documentElement?.dataset.charts === 'drawn'")
    yield opened
    opened.close()


def test_every_chart_is_drawn_and_nothing_complains(browser: Browser) -> None:
    n_charts = browser.evaluate("JSON.parse(document.getElementById('charts').textContent).length")
    assert n_charts >= 9
    marks = "svg g.mark-rect path, svg g.mark-line path"
    drawn = (
        f"[...document.querySelectorAll('.drawing')].map(d => d.querySelectorAll('{marks}').length)"
    )
    counts = browser.evaluate(drawn)
    assert len(counts) == n_charts and min(counts) >= 1
    assert browser.evaluate("document.querySelectorAll('.drawing.failed').length") == 0
    assert browser.complaints() == []


def test_the_page_asks_for_nothing_but_itself(browser: Browser, page: Path) -> None:
    asked = [url for url in browser.requests() if not url.startswith("data:")]
    assert asked == [page.as_uri()]


def test_what_is_in_the_tables_is_text(browser: Browser) -> None:
    assert browser.evaluate("document.title") == HOSTILE
    assert browser.evaluate("document.querySelector('h1').textContent") == HOSTILE
    assert browser.evaluate("document.querySelectorAll('img').length") == 0
    assert browser.evaluate("document.querySelectorAll('body style').length") == 0
    assert browser.evaluate("document.querySelectorAll('script').length") == 3
    assert browser.evaluate("getComputedStyle(document.body).display") == "block"
    cells = "[...document.querySelectorAll('td')].map(td => td.textContent)"
    assert any(HOSTILE in text for text in browser.evaluate(cells))
    labels = "[...document.querySelectorAll('svg text')].map(t => t.textContent)"
    assert any(text.startswith("</script>") for text in browser.evaluate(labels))


def test_the_policy_stops_what_is_put_in_later(browser: Browser) -> None:
    n_complaints = len(browser.complaints())
    browser.evaluate("""
        const script = document.createElement("script");
        script.textContent = "document.title = 'owned'";
        const image = new Image();
        image.src = "http://127.0.0.1:9/pixel";
        document.body.append(script, image);
        script.remove();
        image.remove();
    """)
    assert browser.evaluate("document.title") == HOSTILE
    refused = "\n".join(browser.complaints()[n_complaints:])
    assert "Content Security Policy" in refused
    blocked = [p for name, p in browser.events if name == "Network.loadingFailed"]
    sent = [url for url in browser.requests() if url.startswith("http")]
    assert [failure["blockedReason"] for failure in blocked] == ["csp"] * len(sent)


def test_a_table_is_filtered_by_words(browser: Browser) -> None:
    box = "document.querySelector('input[data-table]')"
    rows = f"document.getElementById({box}.dataset.table).tBodies[0].rows"
    shown = f"[...{rows}].filter(row => row.offsetParent !== null).map(row => row.textContent)"

    def type_in(text: str) -> list[str]:
        browser.evaluate(f"{box}.value = '{text}', {box}.dispatchEvent(new Event('input'))")
        found: list[str] = browser.evaluate(shown)
        return found

    everything = type_in("")
    found = type_in("LAMP 1074")
    assert 0 < len(found) < len(everything)
    assert found == [t for t in everything if "lamp" in t.lower() and "1074" in t]
    told = browser.evaluate(f"{box}.closest('p').querySelector('output').textContent")
    assert told == f"{len(found)} of {len(everything)} rows"
    assert type_in("no such word") == []
    assert type_in("") == everything


def test_a_table_is_sorted_by_a_column(browser: Browser) -> None:
    table = "document.querySelector('figure.table table.wide')"
    column = f"[...{table}.tBodies[0].rows].map(row => Number(row.cells[0].textContent))"
    click = f"{table}.tHead.rows[0].cells[0].querySelector('button').click()"
    for direction, is_descending in (("ascending", False), ("descending", True)):
        browser.evaluate(click)
        found = browser.evaluate(column)
        assert found == sorted(found, reverse=is_descending) and len(set(found)) > 1
        assert browser.evaluate(f"{table}.tHead.rows[0].cells[0].ariaSort") == direction
