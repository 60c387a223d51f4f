from __future__ import annotations

import pytest

from meld_duckdb.cli.run import split_comments


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("SELECT 1", ("SELECT 1", "", "")),
        ("SELECT 1;", ("SELECT 1", "", "")),
        ("SELECT 'é'; -- ünï\n-- der nächste", ("SELECT 'é'", " -- ünï", "-- der nächste")),
        ("SELECT '数据;' /* ; */", ("SELECT '数据;' /* ; */", "", "")),
        ("-- nothing", ("-- nothing", "", "")),
    ],
)
def test_comments_behind_a_statement_are_parted_from_it(
    text: str, parts: tuple[str, str, str]
) -> None:
    assert split_comments(text) == parts
