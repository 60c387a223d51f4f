from __future__ import annotations

import numpy as np
import pytest

from meld_duckdb import interrupt
from meld_duckdb.features import hashed_terms as ht
from meld_duckdb.features import text as tx
from meld_duckdb.features.hashed_terms import hashed_terms
from meld_duckdb.retrieval import lexical
from meld_duckdb.retrieval.lexical import LexicalSearch


def no_check() -> None:
    """Nothing interrupts."""


def names(n: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [
        " ".join(f"w{i}" for i in rng.integers(0, 400, size=7)) + f" no{row}" for row in range(n)
    ]


def test_words_count_once_a_text_wherever_they_stand() -> None:
    texts = ["red apple red", "", "pie, apple (red)", "größe red", "- -"]
    found = hashed_terms(texts, no_check).words()
    words = [sorted(set(tx.words(text))) for text in texts]
    assert np.diff(found.starts).tolist() == [len(line) for line in words]
    for row in range(len(texts)):
        columns = found.columns[found.starts[row] : found.starts[row + 1]].tolist()
        assert columns == sorted(set(columns))
    assert len(set(found.columns.tolist())) == len({w for line in words for w in line})
    assert set(found.part(0, 1).columns) == {c for c in found.part(2, 3).columns} - set(
        hashed_terms(["pie"], no_check).words().columns
    )


def test_pairs_of_words_are_of_one_text_and_in_order() -> None:
    half = 1 << (ht.BITS - 1)
    long = "a b c d e f g h i"
    ab, ba, split = (
        set(hashed_terms(texts, no_check).columns.tolist())
        for texts in ([long], [long.replace("a b", "b a")], long.split(" "))
    )
    assert len([c for c in ab if c >= half]) == 8
    assert not [c for c in split if c >= half]
    assert len(ab & ba) == 9 + 6  # all words; a-b and b-c are gone


def test_short_texts_have_beginnings_and_ends_of_words() -> None:
    short = hashed_terms(["schmidt", "schmitt"], no_check)
    assert len(set(short.part(0, 1).columns) & set(short.part(1, 2).columns)) == 1


def test_chunks_do_not_change_the_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = hashed_terms(names(50), no_check)
    monkeypatch.setattr(ht, "_CHUNK", 7)
    parts = hashed_terms(names(50), no_check)
    assert np.array_equal(whole.columns, parts.columns)
    assert np.array_equal(whole.starts, parts.starts)


def test_a_search_finds_the_row_with_most_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = names(300)
    changed = [" ".join(text.split()[1:]) for text in texts]
    found = LexicalSearch(changed, texts).candidates(3)
    first = found.rank == 1
    assert found.left[first].tolist() == found.right[first].tolist() == list(range(300))
    assert np.all(np.diff(found.score)[np.diff(found.left) == 0] <= 1e-6)
    monkeypatch.setattr(lexical, "_ROWS", 11)
    monkeypatch.setattr(lexical.sparse_top.os, "cpu_count", lambda: 1)
    again = LexicalSearch(changed, texts).candidates(3)
    for name in ("left", "right", "rank", "score"):
        assert np.array_equal(getattr(found, name), getattr(again, name))


def test_a_text_of_common_words_only_has_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexical, "BUDGET", 10)
    texts = ["common words"] * 50 + ["common words rare"]
    found = LexicalSearch(["common words"], texts).candidates(3)
    assert found.right.tolist() == [0, 1, 2] and found.score.tolist() == pytest.approx([1.0] * 3)


def test_one_table_twice_finds_no_row_itself() -> None:
    texts = names(30)
    found = LexicalSearch(texts, texts).candidates(2)
    assert len(found.left) and np.all(found.left != found.right)
    copy = LexicalSearch(texts, list(texts)).candidates(1)
    assert np.array_equal(copy.left, copy.right)


@pytest.mark.parametrize(("left", "right"), [([], ["a"]), (["a"], []), ([], []), (["", "-"], [""])])
def test_nothing_to_find_gives_nothing(left: list[str], right: list[str]) -> None:
    assert LexicalSearch(left, right).candidates(5).left.tolist() == []


def test_an_interruption_stops_a_search() -> None:
    interrupt.interrupt()
    try:
        with pytest.raises(KeyboardInterrupt):
            LexicalSearch(["a"], ["a"])
    finally:
        interrupt.clear()
