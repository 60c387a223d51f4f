"""The reasoning of a demonstration: how the rules lead from its pair to its label.

Paper: KcMF Algorithm 2. It leaves open who tells whether a condition holds, and gives the
conclusion of the last rule even where its condition does not hold. Here checks of the two records
tell where they can; whatever else is assumed, the walk ends in the label.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from meld_duckdb.errors import InputError
from meld_duckdb.features.schema_match import column_parts, read_column
from meld_duckdb.features.schema_words import CAMEL
from meld_duckdb.features.text import fold, words
from meld_duckdb.kcmf.items import entity_item
from meld_duckdb.kcmf.rules import NEXT, NO, YES, Rule, RuleSet, leads_to, numeral
from meld_duckdb.records import Record

Check = Callable[[Record, Record], bool]

_IN_PARENTHESES = re.compile(r"\(([^()]*)\)")
_SMALL_WORDS = frozenset("a an and at by de for in of on or the to und with".split())
_VOWELS = frozenset("aeiou")


def types_differ(a: Record, b: Record) -> bool:
    """Tell whether two columns hold different kinds of data, as far as names and types say.

    A kind that both names tell, such as a date, counts for more than how it is stored.
    """
    one, two = read_column(a), read_column(b)
    if one.kinds and two.kinds:
        return not one.kinds & two.kinds
    return one.type is not None and two.type is not None and one.type != two.type


def tables_differ(a: Record, b: Record) -> bool:
    """Tell whether the tables of two columns have no word in common, where both are known."""
    one, two = set(read_column(a).table), set(read_column(b).table)
    return bool(one and two and not one & two)


def abbreviation(a: Record, b: Record) -> bool:
    """Tell whether one name is the initials of the other, or shortens its words one by one.

    A word is shortened to its beginning, or to its first letter and consonants; digits stay.
    """
    one, two = _tokens(a), _tokens(b)
    return _abbreviates(one, two) or _abbreviates(two, one)


def alias(a: Record, b: Record) -> bool:
    """Tell whether two names are the same but for case and space, or one has the other in ()."""
    one, two = fold(_name(a)), fold(_name(b))
    if not one or not two:
        return False
    return one == two or one in _parenthesised(two) or two in _parenthesised(one)


CHECKS: dict[str, Check] = {
    "types_differ": types_differ,
    "tables_differ": tables_differ,
    "abbreviation": abbreviation,
    "alias": alias,
}
"""What a rule can name as its check: symmetric, and False where fields are missing."""


def _name(record: Record) -> str:
    """What a schema column or a thing is called; empty for nothing."""
    return column_parts(record)["column"] if _is_column(record) else entity_item(record).name


def _is_column(record: Record) -> bool:
    return any(field.lower() in {"column", "column_name"} for field in record.present)


def _tokens(record: Record) -> list[str]:
    name = _name(record)
    return words(fold(CAMEL.sub(" ", name) if _is_column(record) else name))


def _parenthesised(name: str) -> set[str]:
    return {" ".join(part.split()) for part in _IN_PARENTHESES.findall(name)}


def _abbreviates(short: Sequence[str], long: Sequence[str]) -> bool:
    joined = "".join(short)
    if len(joined) < 2 or joined == "".join(long):
        return False
    told = [word for word in long if word not in _SMALL_WORDS]
    if any(len(w) > 1 and joined == "".join(word[0] for word in w) for w in (long, told)):
        return True
    return len(short) == len(long) and all(map(_shortens, short, long))


def _shortens(short: str, long: str) -> bool:
    if short == long:
        return True
    if not short.isalpha() or len(short) >= len(long) or short[0] != long[0]:
        return False
    rest = iter(long[1:])  # each letter is looked for behind the one before
    consonants = all(c not in _VOWELS and c in rest for c in short[1:])
    return long.startswith(short) or (len(short) > 1 and consonants)


def explain(rules: RuleSet, pair: tuple[Record, Record], answer: str) -> tuple[str, ...]:
    """Word the walk through the rules that ends in a known answer.

    A rule with a check holds if the check says so, else not; a rule without one does not hold. If
    the answer cannot be reached that way, it is the other way round: the label knows better. So a
    checked veto that holds is given before one that is only assumed.

    Args:
        rules: The rules.
        pair: The two records of the demonstration.
        answer: Its label, ``"yes"`` or ``"no"``.

    Returns:
        A sentence per rule that was come to, the last one with the answer.

    Raises:
        InputError: The rules can never give this answer.
    """
    ends = _ends(rules.rules)
    if answer not in ends[1]:
        raise InputError(
            f"the rules {rules.name!r} cannot answer {answer!r}, they answer "
            f"{' or '.join(sorted(ends[1]))}",
            hint=f"a label is {YES} or {NO}",
        )
    steps: list[str] = []
    number: int | None = 1
    while number is not None:
        rule = rules.rules[number - 1]
        holds = rule.check is not None and CHECKS[rule.check](*pair)
        if answer not in _ends_of(rule.then if holds else rule.otherwise, number, ends):
            holds = not holds
        outcome = rule.then if holds else rule.otherwise
        steps.append(_step(rule, holds, number))
        number = leads_to(outcome, number)
    return tuple(steps)


def _ends(rules: Sequence[Rule]) -> dict[int, frozenset[str]]:
    """The answers that can be reached from each rule."""
    ends: dict[int, frozenset[str]] = {}
    for number in range(len(rules), 0, -1):  # they only lead forwards
        rule = rules[number - 1]
        then, otherwise = (_ends_of(o, number, ends) for o in (rule.then, rule.otherwise))
        ends[number] = then | otherwise
    return ends


def _ends_of(outcome: str, number: int, ends: dict[int, frozenset[str]]) -> frozenset[str]:
    later = leads_to(outcome, number)
    return frozenset({outcome}) if later is None else ends[later]


def _step(rule: Rule, holds: bool, number: int) -> str:
    clause, outcome = (rule.condition, rule.then) if holds else (rule.negation, rule.otherwise)
    later = leads_to(outcome, number)
    if later is None:
        conclusion = f"the answer is {outcome}"
    elif later == number + 1:
        conclusion = f"check the {NEXT} rule ({numeral(later)})"
    else:
        conclusion = f"check rule {numeral(later)}"
    return f"{clause[0].upper()}{clause[1:]}, so {conclusion}."
