"""Texts that no column of Arrow can hold come in by JSON only, and are mended there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import duckdb
import pytest

from meld_duckdb import safe_json

HALF = "\\ud800"
"""Half of a surrogate pair as JSON writes it: valid JSON, and no valid text."""


@pytest.mark.parametrize("tier", ["t0", "t2"])
@pytest.mark.parametrize(
    "call",
    [
        'meld_repair_detail(\'{"city": "x\\ud800", "state": "ny"}\', \'city\'',
        'meld_detect_error_detail(\'{"city": "x\\ud800", "state": "ny"}\', \'city\'',
        'meld_match_detail(\'{"a\\ud800": "x\\ud800"}\', \'{"a": "x"}\'',
        'meld_annotate_column_detail(\'["\\ud800"]\', \'["a\\ud800", "b"]\'',
        "meld_extract_attribute_detail('{\"text\": \"x\\ud800\"}', 'brand'",
    ],
)
def test_half_a_character_in_json_harms_nobody(
    call: str, tier: str, con: duckdb.DuckDBPyConnection
) -> None:
    [(detail,)] = con.execute(f"SELECT {call}, {{'tier': '{tier}'}})").fetchall()
    assert detail["probability"] is not None or detail["error"].startswith("unparsable")


def test_json_is_mended_bounded_and_read_from_plain_files_only(tmp_path: Path) -> None:
    assert safe_json.loads(f'{{"a{HALF}": ["{HALF}x"]}}') == {"a?": ["?x"]}
    assert safe_json.loads('["\\ud83d\\ude00"]') == ["😀"]
    assert safe_json.loads('"\\\\ud800"') == "\\ud800"
    for text in ("[" * 100_000, '{"a":' * 100_000, "9" * 5_000, "", "nan?", '"\x00"'):
        with pytest.raises(ValueError):
            safe_json.loads(text)
    file = tmp_path / "a.json"
    file.write_text(json.dumps(["x" * 100]))
    assert safe_json.read(file) == ["x" * 100]
    with pytest.raises(ValueError, match="has 104 bytes, expected at most 50"):
        safe_json.read(file, most_bytes=50)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match="no plain file"):
            safe_json.read(path)
    with pytest.raises(FileNotFoundError):
        safe_json.read(tmp_path / "none")
    with pytest.raises(OSError):
        safe_json.read(tmp_path)
