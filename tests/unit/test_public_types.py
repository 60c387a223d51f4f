"""A program of a user's, checked by mypy: the public functions are typed, and wrong calls show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CONFIG = """
[mypy]
strict = true
follow_imports = skip
ignore_missing_imports = true
mypy_path = {root}
[mypy-meld_duckdb,meld_duckdb.errors,meld_duckdb.register,meld_duckdb.settings]
follow_imports = silent
[mypy-meld_duckdb.relations.*,duckdb.*,_duckdb.*,polars.*]
follow_imports = silent
"""
PROGRAM = """
import duckdb
import polars as pl
import meld_duckdb as meld

con: duckdb.DuckDBPyConnection = meld.connect("my.duckdb", model="tiny")
meld.register(con, threshold=1)
meld.begin_statement(con)
shop = con.sql("FROM shop")
frame = pl.DataFrame({"id": [1]})
reveal_type(meld.join(shop, frame.lazy(), k=5))
reveal_type(meld.match(frame, "offers", meld.block(frame, "offers"), connection=con))
reveal_type(meld.dedupe(frame, threshold=0.8, id="sku"))
reveal_type(meld.find_errors(shop, columns=["brand"]))
reveal_type(meld.repairs(shop, columns="brand", min_probability=1))
reveal_type(meld.impute_nulls(shop, options=["canon"]))
reveal_type(meld.label_next("match", shop, frame, n=3))
reveal_type(meld.match_schemas(shop, frame, samples=3, assignment="one_to_one"))
table: meld.Table = frame
meld.join(shop, [1, 2])
meld.dedupe(shop, k="ten")
meld.dedupe(shop, ks=10)
try:
    pass
except meld.InputError as error:
    reveal_type(error.hint)
"""


def test_a_program_of_a_user_is_checked(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "mypy.ini").write_text(CONFIG.format(root=ROOT))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"^program.py:(\d+): (error|note): (.*)$", done.stdout, re.MULTILINE)
    lines = PROGRAM.splitlines()
    errors = {lines[int(at) - 1]: text for at, kind, text in found if kind == "error"}
    assert list(errors) == [
        "meld.join(shop, [1, 2])",
        'meld.dedupe(shop, k="ten")',
        "meld.dedupe(shop, ks=10)",
    ], done.stdout + done.stderr
    revealed = [text for _, kind, text in found if text.startswith("Revealed type")]
    assert len(revealed) == 9
    assert [text for text in revealed if "Any" in text.split("->")[-1]] == [], revealed
    assert sum("DuckDBPyRelation" in text for text in revealed) == 8
