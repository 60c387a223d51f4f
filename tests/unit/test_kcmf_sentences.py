"""EaK: examples of a term are the same every time, and other facts are told as they are."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from meld_duckdb.kcmf.sentences import examples_as_knowledge
from meld_duckdb.retrieval.schema import Fact

PETS = [Fact("pet", "includes", name, "") for name in ("cat", "dog", "fish", "parrot", "hamster")]
OTHERS = [
    Fact("pet", "means", "an animal kept at home", "pet: an animal kept at home"),
    Fact("pet", "alias", "house animal", "pet is also called house animal."),
]


def test_children_are_drawn_once_and_for_all() -> None:
    told = examples_as_knowledge("pet", [*PETS, *OTHERS], ("includes",))
    assert told == (
        "One of pet is fish.",
        "One of pet is cat.",
        "One of pet is dog.",
        "pet: an animal kept at home",
        "pet is also called house animal.",
    )
    assert examples_as_knowledge("pet", [*OTHERS, *PETS[::-1]], ["includes"]) == told
    assert examples_as_knowledge(" PET ", [*PETS, *OTHERS], ("includes",)) == told
    drawn = {examples_as_knowledge(t, PETS, ("includes",)) for t in ("pet", "a", "b", "c", "d")}
    assert len(drawn) > 1


def test_how_many_children_is_bounded() -> None:
    for most in range(8):
        assert len(examples_as_knowledge("pet", PETS, ("includes",), most)) == min(most, 5)
    assert examples_as_knowledge("pet", PETS, ("includes",), -1) == ()
    assert examples_as_knowledge("pet", [], ("includes",)) == ()


def test_without_a_hierarchy_facts_are_told_by_their_texts() -> None:
    facts = [Fact("a", "r", "b", "a r b"), Fact("A", "r", "B", "a r b")]
    assert examples_as_knowledge("a", facts, ()) == ("a r b",)


def test_what_tells_most_comes_first_and_no_more_than_five() -> None:
    codes = [Fact("Flu", "alias", f"J{n}", f"The ICD-10-CM code of Flu is J{n}.") for n in range(9)]
    telling = Fact(
        "Flu", "alias", "grippe", "Flu, once called grippe, comes back to us every winter."
    )
    facts = [*codes, Fact("Flu", "part", "x", "Flu part x"), telling]
    facts += [Fact("Flu", "Means", f"{n}", f"Flu: meaning {n}") for n in (2, 1)]
    told = ("Flu: meaning 1", "Flu: meaning 2", telling.text, "Flu part x", codes[0].text)
    assert examples_as_knowledge("flu", facts, ()) == told
    for most in range(6):
        assert examples_as_knowledge("flu", facts, (), most_others=most) == told[:most]
    assert len(examples_as_knowledge("flu", [*facts, *PETS], ("includes",), 1, 2)) == 3
    assert examples_as_knowledge("flu", facts, (), most_others=-1) == ()
    same = [Fact("Flu", "alias", code, "The code of Flu is J1.1.") for code in ("J1.1", "J11")]
    assert examples_as_knowledge("flu", [*same, *same], ()) == (same[0].text,)


def test_circles_and_spellings_are_told_once() -> None:
    circle = [Fact("a", "includes", "b", ""), Fact("b", "includes", "a", "")]
    assert set(examples_as_knowledge("a", circle, ("includes",))) == {
        "One of a is b.",
        "One of b is a.",
    }
    same = [Fact("a", "includes", "A", ""), Fact("a_b", "includes", "a B", "")]
    assert examples_as_knowledge("a", same, ("includes",)) == ()
    spelled = [Fact("a", "includes", child, "") for child in ("Big Cat", "big_cat", "BIG  CAT")]
    assert examples_as_knowledge("a", spelled, ("includes",)) == ("One of a is BIG  CAT.",)


@given(
    st.text(max_size=4),
    st.lists(st.builds(Fact, *[st.sampled_from(["a", "B", "b ", "\ud800", "ü"])] * 4), max_size=9),
    st.integers(0, 4),
)
def test_any_facts_in_any_order(term: str, facts: list[Fact], seed: int) -> None:
    told = examples_as_knowledge(term, facts, ("a", "ü"))
    mixed = list(facts)
    random.Random(seed).shuffle(mixed)
    assert examples_as_knowledge(term, mixed, ("a", "ü")) == told
    assert len(set(told)) == len(told)
    assert sum(text.startswith("One of ") for text in told) <= 3
    assert sum(not text.startswith("One of ") for text in told) <= 5
