"""The pictures of the documentation: small, used, and without a request to anywhere."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
IMAGES = ROOT / "docs" / "images"
PICTURES = sorted(p for p in IMAGES.iterdir() if p.suffix in {".png", ".svg"})


def test_pictures_are_small_and_shown_somewhere() -> None:
    pages = "".join(p.read_text("utf-8") for p in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
    assert len(PICTURES) >= 3
    for picture in PICTURES:
        assert picture.stat().st_size < 150_000, picture.name
        assert f"images/{picture.name})" in pages, picture.name


def test_a_drawn_picture_asks_for_nothing() -> None:
    text = (IMAGES / "session.svg").read_text("utf-8")
    assert not re.findall(r"(?:url\(|href=)[\"']?https?:", text)
    assert "@font-face" not in text and "<script" not in text


def test_the_session_shown_is_the_one_that_is_run() -> None:
    shown = re.sub(r"<[^>]+>", "\n", (IMAGES / "session.svg").read_text("utf-8"))
    words = re.sub(r"(&#160;|&#x27;|\s)+", " ", shown)
    for line in (IMAGES / "session.sql").read_text("utf-8").splitlines():
        wanted = " ".join(re.sub(r"'", " ", line).split())
        assert wanted in re.sub(r"\s+", " ", words), line
