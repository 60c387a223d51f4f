from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld_duckdb.errors import InputError
from meld_duckdb.kcmf.reasoning import CHECKS, explain
from meld_duckdb.kcmf.rules import (
    BUILT_IN,
    MOST_CHARS,
    MOST_RULES,
    NEXT,
    NO,
    TASKS,
    YES,
    Rule,
    RuleSet,
    leads_to,
    numeral,
    read_rules,
)
from meld_duckdb.records import Record, make_record

Row = dict[str, object]
FIELDS = st.sampled_from(["name", "column", "table", "type", "title", "id", "x", "description"])
VALUES = (
    st.none()
    | st.text(max_size=12)
    | st.sampled_from(["usa", "birth_date", "a (b)", "b", "int", "date", "aspirin tablet"])
)
RECORDS = st.builds(make_record, st.dictionaries(FIELDS, VALUES, max_size=5))


def row(number: object, then: object, otherwise: object, **more: object) -> Row:
    return {"ord": number, "condition": f"c{number}", "then": then, "else": otherwise, **more}


def read(*rows: Mapping[str, object]) -> RuleSet:
    return read_rules("mine", "schema_match", rows)


LAST = row(2, "no", "yes")


@st.composite
def rule_sets(draw: st.DrawFn) -> RuleSet:
    """Any rules that lead forwards, are all reached and know both answers."""
    n = draw(st.integers(1, 8))
    rules: list[Rule] = []
    led = {1}
    for number in range(1, n + 1):
        later = [str(k) for k in range(number + 1, n + 1)] + [NEXT] * (number < n)
        ends = [draw(st.sampled_from([YES, NO, *later])) for _ in range(2)]
        if number < n and number + 1 not in led | {leads_to(o, number) for o in ends}:
            ends[draw(st.integers(0, 1))] = NEXT
        if len({leads_to(o, number) or o for o in ends}) == 1:  # it would decide nothing
            ends[draw(st.integers(0, 1))] = NO if ends[0] == YES else YES
        led |= {leads_to(o, number) or 0 for o in ends}
        check = draw(st.none() | st.sampled_from(sorted(CHECKS)))
        unmet = draw(st.none() | st.just(f"not c{number}"))
        rules.append(Rule(f"c{number}", ends[0], ends[1], unmet, check))
    return RuleSet("mine", draw(st.sampled_from(TASKS)), tuple(rules))


@pytest.mark.parametrize("task", TASKS)
def test_the_built_in_rules_are_valid_and_have_checks(task: str) -> None:
    rules = BUILT_IN[task]
    assert (rules.name, rules.task) == ("default", task)
    assert read_rules("default", task, rules.rows()) == rules
    assert [rule.check is None for rule in rules.rules] == [False, False, True]


def test_the_built_in_rules_are_a_chain_of_vetoes_and_one_of_accepts() -> None:
    def ends(task: str) -> list[tuple[str, str]]:
        return [(rule.then, rule.otherwise) for rule in BUILT_IN[task].rules]

    assert ends("schema_match") == [("no", "next"), ("no", "next"), ("no", "yes")]
    assert ends("entity_match") == [("yes", "next"), ("yes", "next"), ("yes", "no")]


def test_the_pseudo_code_is_numbered_in_roman() -> None:
    rules = read(row(3, "no", "yes"), row(1, "3", None), row(2, "yes", "next"))
    assert rules.text() == (
        "I: Rules II, III and IV must be checked in order until an answer is reached.\n"
        "II: If c1, check rule IV; otherwise check rule III.\n"
        "III: If c2, the answer is yes; otherwise check rule IV.\n"
        "IV: If c3, the answer is no; otherwise the answer is yes."
    )
    assert read(row(1, "no", "yes")).text().startswith("I: Rule II must be checked to reach")
    assert [numeral(i) for i in (1, 3, 4, 8, 9, 13, 18, 20)] == ("II IV V IX X XIV XIX XXI".split())


def test_rows_are_read_as_files_and_queries_have_them() -> None:
    """DuckDB reads a column of no as BOOLEAN; then, else and check are reserved words in SQL."""
    rules = read(
        {"ORD": 2.0, "condition": "If  two\n things\tdiffer. ", "then_": False, "else_": True},
        {
            "Ord": "1",
            "condition": "c1",
            "then": "NO ",
            "else": None,
            "check_": "alias",
            "unmet": "",
        },
    )
    assert rules.rules == (
        Rule("c1", "no", "next", None, "alias"),
        Rule("two things differ", "no", "yes"),
    )
    assert rules.rules[1].negation == "it is not the case that two things differ"


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([], ["'mine' have no rows", "expected 1 to 20"]),
        ([row(i, "no", "next") for i in range(1, 22)], ["have 21 rows", "expected 1 to 20"]),
        ([{"ord": 1, "condition": "c", "then": "no"}], ["no column 'else'", "expected ord, cond"]),
        ([row(1, "no", "yes", unmett="x")], ["unknown column 'unmett'", "mean 'unmet'"]),
        ([row(1, "no", "yes", then_="no")], ["two columns 'then'"]),
        ([row("one", "no", "yes")], ["row 1", "'one' in the column ord", "a whole number"]),
        ([row(None, "no", "yes")], ["row 1", "nothing in the column ord"]),
        ([row(True, "no", "yes")], ["'true' in the column ord"]),
        ([row(1, "no", ""), row(1, "no", "yes")], ["1 is there more than once"]),
        ([row(1, "no", ""), row(3, "no", "yes")], ["numbered 1, 3", "there is no rule 2"]),
        ([row(0, "no", ""), row(1, "no", "yes")], ["numbered 0, 1", "there is no rule 2"]),
        ([row(1, "no", "", condition=" . "), LAST], ["rule 1 of 'mine' has an empty condition"]),
        ([row(1, "no", "", condition=None), LAST], ["rule 1 of 'mine' has an empty condition"]),
        ([row(1, "no", "", condition="x" * 501), LAST], ["rule 1", "501 characters", "500"]),
        ([row(1, "no", "", unmet="x" * 501), LAST], ["the unmet of rule 1", "501 characters"]),
        ([row(1, "no", "", condition="a\x00b"), LAST], ["rule 1", "U+0000", "plain text"]),
        ([row(1, "no", "", unmet="a\x1bb"), LAST], ["rule 1", "U+001B"]),
        ([row(1, "no", "", condition="a\ud800"), LAST], ["rule 1", "U+D800"]),
        ([row(1, "yess", ""), LAST], ["rule 1", "outcome 'yess'", "column then", "mean 'yes'"]),
        ([row(1, "", ""), LAST], ["rule 1", "outcome ''", "number of a later rule"]),
        ([row(1, "-2", ""), LAST], ["rule 1", "outcome '-2'"]),
        ([row(1, "1", ""), LAST], ["rule 1 of 'mine' leads to rule 1", "a later one: 2"]),
        ([row(1, "no", ""), row(2, "no", "1"), row(3, "no", "yes")], ["rule 2", "to rule 1", ": 3"]),
        ([row(1, "0", ""), LAST, row(3, "no", "yes")], ["to rule 0", "a later one: 2 to 3"]),
        ([row(1, "no", "3"), LAST], ["rule 1 of 'mine' leads to rule 3", "a later one: 2"]),
        ([row(1, "no", ""), row(2, "1", "yes")], ["rule 2", "leads to rule 1", "expected yes or no"]),
        ([row(1, "no", ""), row(2, "no", "")], ["rule 2 of 'mine' is the last", "column else"]),
        ([row(1, "no", ""), row(2, "no", "next")], ["rule 2 of 'mine' is the last", "column else"]),
        ([row(1, "no", ""), row(2, "next", "no")], ["rule 2 of 'mine' is the last", "column then"]),
        ([row(1, "no", "yes"), LAST], ["rule 2 of 'mine' is never reached", "next or 2"]),
        ([row(1, "no", "3"), LAST, row(3, "no", "yes")], ["rule 2 of 'mine' is never reached"]),
        ([row(1, "no", ""), row(2, "no", "no")], ["rule 2 of 'mine' decides nothing", "no in"]),
        ([row(1, "yes", "yes"), LAST], ["rule 1 of 'mine' decides nothing", "yes in the column"]),
        ([row(1, "next", "2"), LAST], ["decides nothing", "next in the", "2 in the column else"]),
        ([row(1, "3", "3"), LAST, row(3, "no", "yes")], ["rule 1 of 'mine' decides nothing"]),
        ([row(1, "no", "", check="aliass"), LAST], ["rule 1", "check 'aliass'", "mean 'alias'"]),
    ],
)  # fmt: skip
def test_rules_that_cannot_be_used_are_refused(rows: list[Row], parts: list[str]) -> None:
    with pytest.raises(InputError) as error:
        read(*rows)
    for part in parts:
        assert part in str(error.value)
    assert error.value.hint


@pytest.mark.parametrize("name", ["none", "None"])
def test_none_is_the_bare_question_and_no_set(name: str) -> None:
    with pytest.raises(InputError, match=rf"cannot be called '{name}'.*without rules"):
        read_rules(name, "schema_match", [row(1, "no", "yes")])


def test_rules_are_of_a_known_task() -> None:
    with pytest.raises(InputError, match="did you mean 'schema_match'"):
        read_rules("mine", "schema_mach", [row(1, "no", "yes")])


def test_the_most_rules_and_the_longest_condition_can_be_used() -> None:
    rows = [row(i, "no", "next") for i in range(1, MOST_RULES)]
    rows.append(row(MOST_RULES, "no", "yes", condition="x" * MOST_CHARS))
    assert read(*rows).text().splitlines()[-1].startswith("XXI: If xxx")


def test_the_digest_knows_all_content() -> None:
    first = Rule("c", "no", "next", "u", "alias")
    rules = RuleSet("a", "schema_match", (first, Rule("d", "no", "yes")))
    assert rules.digest == replace(rules).digest
    changes: list[dict[str, str | None]] = [
        {"condition": "e"},
        {"then": "yes"},
        {"otherwise": "2"},
        {"unmet": None},
        {"check": None},
    ]
    others = [replace(rules, rules=(replace(first, **c), rules.rules[1])) for c in changes]  # type: ignore[arg-type]
    others += [replace(rules, name="b"), replace(rules, task="entity_match")]
    assert len({other.digest for other in (rules, *others)}) == 8


@given(rule_sets())
def test_what_is_read_is_what_was_written(rules: RuleSet) -> None:
    assert read_rules(rules.name, rules.task, rules.rows()[::-1]) == rules


@given(rule_sets(), RECORDS, RECORDS, st.sampled_from([YES, NO]))
def test_reasoning_ends_in_the_label(rules: RuleSet, a: Record, b: Record, answer: str) -> None:
    """The sentences follow the rules from the first one on, whatever the checks say."""
    steps = explain(rules, (a, b), answer)
    number: int | None = 1
    for step in steps:
        assert number is not None
        rule = rules.rules[number - 1]
        clause, conclusion = step.removesuffix(".").split(", so ")
        holds = clause == f"C{number}"
        assert holds or clause.lower() == rule.negation
        outcome = rule.then if holds else rule.otherwise
        number = leads_to(outcome, number)
        said = re.fullmatch(r"check (?:the next rule \(|rule )([IVX]+)\)?", conclusion)
        assert conclusion == f"the answer is {outcome}" if number is None else said
        assert number is None or (said is not None and said[1] == numeral(number))
    assert number is None and steps[-1].endswith(f", so the answer is {answer}.")


PEOPLE = make_record({"table": "person", "column": "birth_date", "type": "DATE"})
VISITS = make_record({"table": "visit", "column": "start_date", "type": "TIMESTAMP"})
COSTS = make_record({"table": "cost", "column": "total_charge", "type": "DOUBLE"})


@pytest.mark.parametrize(
    ("pair", "answer", "starts"),
    [
        ((PEOPLE, COSTS), NO, ["Schema A and schema B hold kinds"]),
        ((PEOPLE, VISITS), NO, ["Schema A and schema B may hold", "The tables of schema A and"]),
        ((PEOPLE, COSTS), YES, ["Schema A and schema B may", "The tables", "The columns"]),
        ((PEOPLE, PEOPLE), NO, ["Schema A and schema B may", "The tables", "The columns"]),
    ],
)
def test_a_checked_veto_is_preferred(
    pair: tuple[Record, Record], answer: str, starts: list[str]
) -> None:
    steps = explain(BUILT_IN["schema_match"], pair, answer)
    assert len(steps) == len(starts)
    assert all(step.startswith(start) for step, start in zip(steps, starts, strict=True))


def test_an_unchecked_rule_holds_only_where_the_label_needs_it() -> None:
    rules = read(
        row(1, "no", "next"), row(2, "no", "next", check="tables_differ"), row(3, "no", "yes")
    )
    assert explain(rules, (PEOPLE, VISITS), NO) == (
        "It is not the case that c1, so check the next rule (III).",
        "C2, so the answer is no.",
    )
    assert explain(rules, (PEOPLE, PEOPLE), NO)[-1] == "C3, so the answer is no."
    needed = read(row(1, "next", "no"), row(2, "no", "yes"))
    assert explain(needed, (PEOPLE, PEOPLE), YES)[0] == "C1, so check the next rule (III)."
    jump = read(row(1, "next", "3"), row(2, "no", "yes"), row(3, "no", "yes"))
    assert explain(jump, (PEOPLE, PEOPLE), YES) == (
        "It is not the case that c1, so check rule IV.",
        "It is not the case that c3, so the answer is yes.",
    )


def test_a_label_is_yes_or_no() -> None:
    with pytest.raises(InputError, match="cannot answer 'maybe', they answer no or yes"):
        explain(BUILT_IN["schema_match"], (PEOPLE, PEOPLE), "maybe")


def column(table: str | None, name: str | None, type_: str | None = None) -> Record:
    return make_record({"table": table, "column": name, "type": type_})


def named(name: str | None) -> Record:
    return make_record({"id": 7, "name": name})


@pytest.mark.parametrize(
    ("check", "a", "b", "expected"),
    [
        ("types_differ", column("t", "x", "INTEGER"), column("t", "y", "VARCHAR"), True),
        ("types_differ", column("t", "x", "INTEGER"), column("t", "y", "DOUBLE"), False),
        ("types_differ", column("t", "x", "INTEGER"), column("t", "y"), False),
        ("types_differ", column("t", "visit_date"), column("t", "city"), True),
        ("types_differ", column("t", "dob", "DATE"), column("t", "birth_date", "VARCHAR"), False),
        ("tables_differ", column("person", "x"), column("visits", "x"), True),
        ("tables_differ", column("person", "x"), column("person_visit", "x"), False),
        ("tables_differ", column(None, "x"), column("visits", "x"), False),
        ("abbreviation", named("USA"), named("United States of America"), True),
        ("abbreviation", named("U.S.A."), named("united states of america"), True),
        ("abbreviation", named("Int. Conf. Mgmt Data"), named("international conference management data"), True),
        ("abbreviation", named("J. Smith"), named("John Smith"), True),
        ("abbreviation", named("J. Smith"), named("John Smyth"), False),
        ("abbreviation", named("xp 500"), named("xp 5000"), False),
        ("abbreviation", named("art"), named("chart"), False),
        ("abbreviation", named("same"), named("Same"), False),
        ("abbreviation", named("a"), named("apple"), False),
        ("abbreviation", column("t", "ptnt_id"), column("u", "PatientIdentifier"), True),
        ("alias", named("Aspirin "), named("aspirin"), True),
        ("alias", named("acetylsalicylic acid ( Aspirin)"), named("aspirin"), True),
        ("alias", named("aspirin"), named("aspirin tablet"), False),
        ("alias", named("aspirin ()"), named(None), False),
        ("alias", make_record({"title": "X", "x": "a"}), make_record({"Title": "x"}), True),
        ("alias", column("t", "PatientId"), column("u", "patientid"), True),
    ],
)  # fmt: skip
def test_checks(check: str, a: Record, b: Record, expected: bool) -> None:
    assert CHECKS[check](a, b) is expected
    assert CHECKS[check](b, a) is expected


@pytest.mark.parametrize("check", CHECKS)
@given(a=RECORDS, b=RECORDS)
def test_checks_are_symmetric_and_total(check: str, a: Record, b: Record) -> None:
    assert CHECKS[check](a, b) is CHECKS[check](b, a)
    assert CHECKS[check](a, make_record({})) is False
