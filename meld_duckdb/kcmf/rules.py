"""The pseudo-code of KcMF as data: rules that are checked in order until one gives an answer.

Rules come from rows with the columns ord, condition, then, else, and perhaps unmet and check. They
are checked as a whole before a prompt is made of them: whatever the conditions turn out to be, the
walk from the first rule ends in yes or no, and it can end in either.

Paper: KcMF §3.2, Tables 24 and 25. We say what happens where the condition of the last rule does
not hold, and let a rule lead to any later one.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meld_duckdb import records
from meld_duckdb.errors import InputError, unknown_name

YES, NO, NEXT = "yes", "no", "next"
SCHEMA_MATCH, ENTITY_MATCH = "schema_match", "entity_match"
TASKS = (SCHEMA_MATCH, ENTITY_MATCH)

RESERVED = "none"
"""No set has this name: where rules are named, it stands for the bare question."""

MOST_RULES = 20
MOST_CHARS = 500
"""Characters of a condition."""

REQUIRED = ("ord", "condition", "then", "else")
OPTIONAL = ("unmet", "check")
_WORDS = {YES: YES, NO: NO, NEXT: NEXT, "true": YES, "false": NO}  # readers of CSV turn no to false
_ROMAN = ((10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"))


@dataclass(frozen=True, slots=True)
class Rule:
    """If the condition holds, ``then``, else ``otherwise``.

    Attributes:
        condition: A clause such as "the tables of the two schemas are about different things".
        then: ``"yes"``, ``"no"``, ``"next"``, or the number of a later rule as text, 1 the first.
        otherwise: The same; of the last rule yes or no.
        unmet: A clause that says that the condition does not hold; None for the plain negation.
        check: Name of the check in `reasoning.CHECKS` that tells whether the condition holds; None
            where only a label tells.
    """

    condition: str
    then: str
    otherwise: str
    unmet: str | None = None
    check: str | None = None

    @property
    def negation(self) -> str:
        """The clause that says that the condition does not hold."""
        return self.unmet or f"it is not the case that {self.condition}"


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules of a kind of matching; see `read_rules`.

    Attributes:
        name: What it is called.
        task: ``"schema_match"`` or ``"entity_match"``.
        rules: The rules in order.
    """

    name: str
    task: str
    rules: tuple[Rule, ...]

    @property
    def digest(self) -> str:
        """32 hexadecimal digits of everything that the rules say, and of their name."""
        return records.digest(self.name, self.task, json.dumps(self.rows()))

    def rows(self) -> list[dict[str, object]]:
        """The rules as rows that `read_rules` reads."""
        return [
            {
                "ord": number,
                "condition": rule.condition,
                "then": rule.then,
                "else": rule.otherwise,
                "unmet": rule.unmet,
                "check": rule.check,
            }
            for number, rule in enumerate(self.rules, 1)
        ]

    def text(self) -> str:
        """The pseudo-code of the prompt, in Roman numerals; I says how to go through the others."""
        numerals = [numeral(number) for number in range(1, len(self.rules) + 1)]
        if len(numerals) == 1:
            lines = [f"I: Rule {numerals[0]} must be checked to reach an answer."]
        else:
            listed = f"{', '.join(numerals[:-1])} and {numerals[-1]}"
            lines = [f"I: Rules {listed} must be checked in order until an answer is reached."]
        for number, rule in enumerate(self.rules, 1):
            ends = [_conclusion(outcome, number) for outcome in (rule.then, rule.otherwise)]
            lines.append(
                f"{numerals[number - 1]}: If {rule.condition}, {ends[0]}; otherwise {ends[1]}."
            )
        return "\n".join(lines)


def numeral(number: int) -> str:
    """The Roman numeral of a rule in the prompt, where the first rule is II."""
    rest, written = number + 1, ""
    for value, sign in _ROMAN:
        written += sign * (rest // value)
        rest %= value
    return written


def leads_to(outcome: str, number: int) -> int | None:
    """Number of the rule that an outcome of rule ``number`` leads to; None for yes and no."""
    if outcome in {YES, NO}:
        return None
    return number + 1 if outcome == NEXT else int(outcome)


def _conclusion(outcome: str, number: int) -> str:
    later = leads_to(outcome, number)
    return f"the answer is {outcome}" if later is None else f"check rule {numeral(later)}"


def read_rules(name: str, task: str, rows: Sequence[Mapping[str, object]]) -> RuleSet:
    """Read rules from rows of a table, in any order.

    Columns are ``ord`` (1 for the first), ``condition``, ``then``, ``else`` (blank: next), and
    perhaps ``unmet`` and ``check``; case, and an underscore behind a name, do not matter.

    Raises:
        InputError: They cannot be used; it says which rule and why.
    """
    check_task(task)
    if name.lower() == RESERVED:
        raise InputError(
            f"rules cannot be called {name!r}: that stands for a question without rules",
            hint="give them another name",
        )
    if not 1 <= len(rows) <= MOST_RULES:
        got = f"have {len(rows)} rows" if rows else "have no rows"
        raise InputError(
            f"the rules {name!r} {got}, expected 1 to {MOST_RULES}",
            hint="a rule is a row; what takes more rules is more than one kind of matching",
        )
    ordered = _in_order(name, [_known_columns(name, row) for row in rows])
    rules = tuple(_read_rule(name, row, i, len(rows)) for i, row in enumerate(ordered, 1))
    _check_reached(name, rules)
    return RuleSet(name, task, rules)


def check_task(task: str) -> None:
    """Refuse a task that has no rules.

    Raises:
        InputError: It is not one of `TASKS`.
    """
    if task not in TASKS:
        what, hint = unknown_name("task of rules", task, TASKS)
        raise InputError(what, hint=hint)


def _known_columns(name: str, row: Mapping[str, object]) -> dict[str, object]:
    """A row by the names of this module."""
    known = (*REQUIRED, *OPTIONAL)
    found: dict[str, object] = {}
    for column, value in row.items():
        plain = column.strip().lower().removesuffix("_")
        if plain not in known:
            what, hint = unknown_name("column", column, known)
            raise InputError(f"the rules {name!r} have an {what}", hint=hint)
        if plain in found:
            raise InputError(
                f"the rules {name!r} have two columns {plain!r}, expected one", hint="leave one out"
            )
        found[plain] = value
    missing = [column for column in REQUIRED if column not in found]
    if missing:
        raise InputError(
            f"the rules {name!r} have no column {missing[0]!r}, they have: {', '.join(row)}",
            hint=f"expected {', '.join(REQUIRED)}, and perhaps {' and '.join(OPTIONAL)}",
        )
    return found


def _in_order(name: str, rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The rows by their ``ord``, which must be 1 to n."""
    numbers = [_whole_number(name, row["ord"], i) for i, row in enumerate(rows, 1)]
    hint = f"number the rules 1 to {len(rows)} in the column ord"
    double = [number for number, n in Counter(numbers).items() if n > 1]
    if double:
        raise InputError(
            f"{len(rows)} rules of {name!r} have {len(set(numbers))} numbers: {double[0]} is there "
            "more than once, expected once",
            hint=hint,
        )
    missing = [number for number in range(1, len(rows) + 1) if number not in numbers]
    if missing:
        raise InputError(
            f"the rules {name!r} are numbered {', '.join(map(str, sorted(numbers)))}, expected "
            f"1 to {len(rows)}: there is no rule {missing[0]}",
            hint=hint,
        )
    return [rows[numbers.index(number)] for number in range(1, len(rows) + 1)]


def _whole_number(name: str, value: object, row: int) -> int:
    text = (records.value_text(value) or "").strip()
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise InputError(
            f"row {row} of the rules {name!r} has {_shown(text)} in the column ord, expected a "
            "whole number",
            hint="1 is the first rule",
        )
    return int(text)


def _read_rule(name: str, row: Mapping[str, object], number: int, n_rules: int) -> Rule:
    where = f"rule {number} of {name!r}"
    condition = _clause(where, row, "condition")
    if condition is None:
        raise InputError(
            f"{where} has an empty condition, expected a clause that can stand behind 'if'",
            hint="for example: the two columns stand for different concepts",
        )
    then = _outcome(where, row, "then", number, n_rules)
    otherwise = _outcome(where, row, "else", number, n_rules)
    if _conclusion(then, number) == _conclusion(otherwise, number):
        raise InputError(
            f"{where} decides nothing: it has {then} in the column then and {otherwise} in the "
            "column else",
            hint="let the two differ, or leave the rule out",
        )
    return Rule(condition, then, otherwise, _clause(where, row, "unmet"), _check(where, row))


def _clause(where: str, row: Mapping[str, object], column: str) -> str | None:
    """A text as one line that can stand within a sentence; None where it is empty."""
    text = " ".join((records.value_text(row.get(column)) or "").split())
    text = re.sub(r"^if(?=\s|$)\s*", "", text, flags=re.IGNORECASE).rstrip(" .;,:")
    if len(text) > MOST_CHARS:
        raise InputError(
            f"the {column} of {where} has {len(text)} characters, expected {MOST_CHARS} at most",
            hint="say it in fewer words, or part it into two rules",
        )
    for character in text:
        if unicodedata.category(character) in {"Cc", "Cs"}:
            raise InputError(
                f"the {column} of {where} has the character U+{ord(character):04X} in it, expected "
                "plain text",
                hint="leave the control character out",
            )
    return text or None


def _outcome(where: str, row: Mapping[str, object], column: str, number: int, n_rules: int) -> str:
    """What a rule leads to, where that is a later rule or an answer."""
    text = (records.value_text(row[column]) or "").strip().lower()
    if not text and column == "else":
        text = NEXT
    outcome = str(int(text)) if re.fullmatch(r"[0-9]{1,9}", text) else _WORDS.get(text)
    if outcome is None:
        what, hint = unknown_name("outcome", text, (YES, NO, NEXT))
        raise InputError(
            f"{where}: {what} in the column {column}", hint=f"{hint}, or the number of a later rule"
        )
    if outcome == NEXT and number == n_rules:
        raise InputError(
            f"{where} is the last and has no answer in the column {column}, expected yes or no",
            hint="the last rule must answer whatever is left, whether its condition holds or not",
        )
    if outcome.isdigit() and not number < int(outcome) <= n_rules:
        _refuse_jump(f"{where} leads to rule {outcome} in the column {column}", number, n_rules)
    return outcome


def _refuse_jump(what: str, number: int, n_rules: int) -> None:
    if number == n_rules:
        raise InputError(f"{what}, expected yes or no", hint="it is the last rule")
    last = f" to {n_rules}" if number + 1 < n_rules else ""
    raise InputError(
        f"{what}, expected a later one: {number + 1}{last}",
        hint="rules only lead forwards, so that every walk ends",
    )


def _check(where: str, row: Mapping[str, object]) -> str | None:
    from meld_duckdb.kcmf.reasoning import CHECKS  # which imports this module

    check = (records.value_text(row.get("check")) or "").strip()
    if check and check not in CHECKS:
        what, hint = unknown_name("check", check, CHECKS)
        raise InputError(f"{where}: {what}", hint=f"{hint}; blank where only labels can tell")
    return check or None


def _check_reached(name: str, rules: Sequence[Rule]) -> None:
    """Refuse rules that no walk comes to. The last one decides, so both answers can be given."""
    reached = {1}
    for number, rule in enumerate(rules, 1):  # they only lead forwards: one pass sees all
        if number not in reached:
            raise InputError(
                f"rule {number} of {name!r} is never reached from the first one",
                hint=f"let an earlier rule lead to it with next or {number}, or leave it out",
            )
        reached |= {leads_to(o, number) or 0 for o in (rule.then, rule.otherwise)}


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...") if text else "nothing"


BUILT_IN: dict[str, RuleSet] = {
    SCHEMA_MATCH: RuleSet(
        "default",
        SCHEMA_MATCH,
        (
            Rule(
                "schema A and schema B hold kinds of data that one column cannot store",
                NO,
                NEXT,
                "schema A and schema B may hold the same kind of data",
                "types_differ",
            ),
            Rule(
                "the tables of schema A and schema B are about different things",
                NO,
                NEXT,
                "the tables of schema A and schema B are about the same thing",
                "tables_differ",
            ),
            Rule(
                "the columns of schema A and schema B stand for different concepts",
                NO,
                YES,
                "the columns of schema A and schema B stand for the same concept",
            ),
        ),
    ),
    ENTITY_MATCH: RuleSet(
        "default",
        ENTITY_MATCH,
        (
            Rule(
                "the name of one entity is a short form of the name of the other",
                YES,
                NEXT,
                "neither name is a short form of the other",
                "abbreviation",
            ),
            Rule(
                "one entity is also known by the name of the other",
                YES,
                NEXT,
                "neither entity is known by the name of the other",
                "alias",
            ),
            Rule(
                "entity A and entity B are one and the same thing in the real world",
                YES,
                NO,
                "entity A and entity B are two things in the real world",
            ),
        ),
    ),
}
"""The rules that are used where a workspace has none of its own, by task."""
