"""The audit of libraries: what permits, what is found wrong, and that it needs no network."""

from __future__ import annotations

import json

import pytest

from tests.security import audit
from tests.security.audit import Library, advisories, closure, main, permits


@pytest.mark.parametrize(
    ("expression", "good"),
    [
        ("MIT", True),
        ("Apache-2.0 OR GPL-3.0-only", True),
        ("Apache-2.0 AND GPL-3.0-only", False),
        ("(MIT OR AGPL-3.0-only) AND BSD-3-Clause", True),
        ("MIT AND (AGPL-3.0-only OR GPL-2.0-only)", False),
        ("Apache-2.0 WITH LLVM-exception AND MIT", True),
        ("LicenseRef-NVIDIA-Proprietary", False),
        ("AGPL-3.0-only OR", False),
        ("MIT AND", False),
        ("(MIT", False),
        ("MIT)", False),
        ("", False),
        ("Other / Proprietary License", False),
    ],
)
def test_expressions(expression: str, good: bool) -> None:
    assert permits(expression) is good


def test_the_installation_fits_and_permits() -> None:
    libraries, wrong = closure()
    assert wrong == []
    assert {"torch", "duckdb", "lancedb", "httpx", audit.PRODUCT} <= {x.name for x in libraries}
    assert main([]) == 0


def test_a_library_that_does_not_permit_or_fit_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "PERMITTING", audit.PERMITTING - {"ISC"})
    assert main([]) == 1
    assert "has the licence 'ISC'" in capsys.readouterr().out
    found, wrong = closure("no-such-library-of-anybody")
    assert found == [] and "is not installed" in wrong[0]


def test_advisories_are_found_and_a_silent_index_is_survived(
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = {"id": "PYSEC-1", "fixed_in": ["9.9"], "withdrawn": None}
    withdrawn = {"id": "PYSEC-2", "withdrawn": "2026-01-01"}
    reply = json.dumps({"vulnerabilities": [known, withdrawn]}).encode()
    library = Library("a", "1.0", "MIT", "b")
    assert advisories(library, lambda url: reply) == ["a 1.0: PYSEC-1, mended in 9.9"]
    assert main(["--online"], fetch=lambda url: reply) == 1

    def silent(url: str) -> bytes:
        raise OSError("no network")

    capsys.readouterr()
    assert main(["--online"], fetch=silent) == 0
    assert "not looked up, the index gives none: OSError no network" in capsys.readouterr().out
    assert main(["--online"], fetch=lambda url: b"<html>") == 0
    assert main(["--online"], fetch=lambda url: b"[]") == 0
