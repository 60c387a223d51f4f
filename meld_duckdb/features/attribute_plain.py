"""Attribute values without a label: options that stand in the text, and ``name: value``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from meld_duckdb.features.spans import TEXT_LIMIT
from meld_duckdb.records import is_missing

_NAMED = r"(?<!\w){name}\s*(?:[:=]|\bis\b)\s*([^,;|\n()\[\]]{{1,60}})"
_MEASURE = r"(?<![\w.])(\d+(?:[.,]\d+)?[\s-]*(?:{units}))(?!\w)"
_UNITS: dict[str, str] = {
    "weight": r"kg|g|grams?|mg|lbs?|pounds?|oz|ounces?|t",
    "length height width depth diameter size": r"mm|cm|m|inch(?:es)?|in|ft|feet|\"|''|″|”",
    "volume content capacity": r"(?:fl\.?\s*)?oz|ounces?|ml|cl|l|lit(?:er|re)s?|gal(?:lons?)?|qt",
    "capacity storage memory ram": r"[kmgt]b",
    "power wattage": r"k?w|watts?",
    "voltage": r"v|volts?",
    "count quantity pack pieces": r"count|ct|pack|pcs?|pieces?|tablets?|capsules?|loads?",
    "resolution": r"mp|megapixels?|dpi|p",
    "speed frequency": r"[kmg]hz|rpm|[kmg]bps|mph",
}
_SURE_OPTION, _OF_SEVERAL, _NAMED_VALUE, _UNIT_VALUE = 0.85, 0.5, 0.9, 0.6
_FOUND_KNOWN = 0.5
_ABSENT = 0.6


@dataclass(frozen=True, slots=True)
class Plain:
    """A value found without a fitted model: why, and how probable it is."""

    value: str
    probability: float
    reason: str


def options_in_text(texts: Sequence[str], options: Sequence[str]) -> list[Plain]:
    """The options that stand in a text as words, longest first; none if there is none."""
    found: list[tuple[int, str]] = []
    for option in dict.fromkeys(options):
        wanted = option.strip()[:TEXT_LIMIT]
        if is_missing(wanted):
            continue
        pattern = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)", re.IGNORECASE)
        if any(pattern.search(text[:TEXT_LIMIT]) for text in texts):
            found.append((len(wanted), option))
    order = sorted(found, key=lambda x: -x[0])
    # an option inside a longer one that stands there is not meant
    kept: list[str] = []
    for _, option in order:
        if not any(option.strip().lower() in k.lower() for k in kept):
            kept.append(option)
    first = _SURE_OPTION if len(kept) == 1 else _OF_SEVERAL
    rest = (0.9 - first) / max(1, len(kept) - 1)
    return [Plain(o, first if i == 0 else rest, "option in text") for i, o in enumerate(kept)]


def patterns_in_text(texts: Sequence[str], name: str) -> list[Plain]:
    """What stands after the name of the attribute, or a number with a unit the name asks for."""
    spoken = " ".join(re.findall(r"[^\W_]+", name.lower()))[:100]
    if not spoken:
        return []
    named = re.compile(
        _NAMED.format(name=re.escape(spoken).replace(r"\ ", r"[\s_-]+")), re.IGNORECASE
    )
    for text in texts:
        match = named.search(text[:TEXT_LIMIT])
        if match and not is_missing(match.group(1)):
            return [Plain(match.group(1).strip(), _NAMED_VALUE, "named in text")]
    units = [u for words, u in _UNITS.items() if set(words.split()) & set(spoken.split())]
    for unit in units:
        for text in texts:
            match = re.search(_MEASURE.format(units=unit), text[:TEXT_LIMIT], re.IGNORECASE)
            if match:
                return [Plain(match.group(1).strip(), _UNIT_VALUE, "number with unit")]
    return []


def known_in_text(texts: Sequence[str], values: Sequence[str]) -> list[Plain]:
    """Values of a column that stand in a text, as they stand there; the longest is first."""
    plain = " ".join(t[:TEXT_LIMIT] for t in texts)
    found = [p.value for p in options_in_text(texts, values)]
    result = []
    for value in found:
        match = re.search(re.escape(value.strip()), plain, re.IGNORECASE)
        if match:
            result.append(Plain(match.group(), _FOUND_KNOWN / len(found), "known value in text"))
    return result


def plain_answers(
    texts: Sequence[str], name: str, options: Sequence[str] | None, known: Sequence[str]
) -> list[Plain]:
    """Rank what can be said without labels; the empty value if nothing was found.

    Args:
        texts: The texts of a row.
        name: The attribute.
        options: Allowed values, None for any.
        known: Values that the attribute has elsewhere.
    """
    if options:
        found = options_in_text(texts, options)
    else:
        found = patterns_in_text(texts, name) or known_in_text(texts, known)
    return found or [Plain("", _ABSENT, "nothing found in text")]
