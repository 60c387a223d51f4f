"""Make the pictures of the documentation anew: ``python docs/images/make.py [NAME ...]``.

``session.svg`` is what `meld sql` prints of ``session.sql``; the ``report-*.png`` are parts of the
page that `meld report` writes of ``examples/data``, drawn by a headless Chromium.
"""

from __future__ import annotations

import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))
COLUMNS = 100
FONT = re.compile(r"@font-face \{\{.*?\}\}\s*", re.DOTALL)
TABLE = tuple("┌│├└")
TABLES = """
CREATE TABLE dblp AS FROM 'examples/data/dblp.csv';
CREATE TABLE acm AS FROM 'examples/data/acm.csv';
CREATE TABLE papers AS SELECT d.*, a.venue AS acm_venue FROM dblp AS d
    LEFT JOIN 'examples/data/dblp_acm_matches.csv' ON d.id = dblp_id
    LEFT JOIN acm AS a ON a.id = acm_id;
SELECT sum(meld_learn('match', {'a': d, 'b': a}, g.acm_id IS NOT NULL)::INT) AS learned
FROM meld.block('dblp', 'acm', k := 3) JOIN dblp AS d ON d.id = l_id JOIN acm AS a ON a.id = r_id
    LEFT JOIN 'examples/data/dblp_acm_matches.csv' AS g ON dblp_id = l_id AND acm_id = r_id
WHERE d.id % 4 = 0;
"""
"""The tables of the report, and a quarter of the labels."""

PARTS = {"report-match": ("body", 745), "report-cells": ("#asked-2 figure.table", 470)}
"""Part of the page by name of its picture: what is at its top, and its height in pixels."""


def meld(*arguments: str, workspace: str) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "meld_duckdb.cli.main", *arguments, "--workspace", workspace]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def make_session(folder: str) -> None:
    """A terminal in which `meld sql` has run ``session.sql``."""
    file = "docs/images/session.sql"
    printed = meld("sql", "--echo", "--file", file, workspace=f"{folder}/session")
    console = Console(record=True, width=COLUMNS, file=StringIO())
    console.print(Text("$ meld sql --echo --file session.sql", style="bold"))
    for line in printed.rstrip().splitlines():
        console.print(Text(line, style="" if line.startswith(TABLE) else "cyan"))
    # The font of rich's template is fetched from elsewhere; the reader's own does as well.
    svg = console.export_svg(
        title="meld sql",
        theme=SVG_EXPORT_THEME,
        code_format=FONT.sub("", CONSOLE_SVG_FORMAT).replace("Fira Code,", ""),
        unique_id="meld",
    )
    (HERE / "session.svg").write_text(svg, "utf-8")


def make_report(folder: str) -> None:
    """Parts of a report on the sample data."""
    from tests.integration.chromium import Browser, find_chromium  # noqa: PLC0415  (after sys.path)

    program = find_chromium()
    if program is None:
        sys.exit("there is no chromium (apt-get install chromium)")
    database, page, workspace = f"{folder}/papers.duckdb", f"{folder}/r.html", f"{folder}/report"
    meld("sql", "--db", database, TABLES, workspace=workspace)
    asked = ["--join", "dblp", "acm", "--impute", "papers", "--title", "Papers of DBLP and ACM"]
    meld("report", page, "--db", database, *asked, workspace=workspace)
    browser = Browser(program, Path(folder) / "profile")
    try:
        browser.size(1080, 800)
        browser.open(Path(page).as_uri())
        browser.wait("document.documentElement?.dataset.charts === 'drawn'")
        for name, (top, height) in PARTS.items():
            (HERE / f"{name}.png").write_bytes(browser.picture(top, height))
    finally:
        browser.close()


MAKERS = {"session": make_session, "report": make_report}


def main() -> None:
    """Make the pictures that are named, all if none is."""
    for name in sys.argv[1:] or MAKERS:
        with TemporaryDirectory() as folder:
            MAKERS[name](folder)


if __name__ == "__main__":
    main()
