"""What is found out about an item once, however many pairs it is in: keywords and summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meld_duckdb.kcmf import keywords as lexical
from meld_duckdb.kcmf.items import Item
from meld_duckdb.kcmf.prompts import filter_prompt, keyword_prompt, read_keywords, summary_prompt
from meld_duckdb.kcmf.rules import YES
from meld_duckdb.planner.kcmf.asking import Asker
from meld_duckdb.planner.kcmf.sources import Source, Sources

Items = Mapping[str, Item]
"""Items by the digest of their record."""

Keywords = dict[str, tuple[str, ...]]
"""Keywords of items, by the digest of their record."""


def lexical_keywords(items: Items, chosen: Sequence[Source], sources: Sources) -> Keywords:
    """Keywords without a model: phrases that a knowledge base of the call knows.

    Where only services are asked, nobody can tell what they know: acronyms and words of the name.
    """
    bases = list({base.name: base for source in chosen for base in source.bases}.values())
    if not bases:
        return {key: lexical.unaided(item.name, item.description) for key, item in items.items()}
    candidates = {key: lexical.phrases(item.name, item.description) for key, item in items.items()}
    distinct = list(dict.fromkeys(phrase for those in candidates.values() for phrase in those))
    known = dict(zip(distinct, sources.known(bases, distinct), strict=True))
    return {
        key: lexical.chosen(those, [known[phrase] for phrase in those])
        for key, those in candidates.items()
    }


def model_keywords(kind: str, items: Items, asker: Asker, item_chars: int) -> Keywords:
    """Keywords extracted, then filtered, by the model; no keyword where it cannot answer."""
    said = asker.ask([keyword_prompt(kind, item, item_chars) for item in items.values()])
    found = {
        key: [
            w
            for w in read_keywords(one.text or "", 2 * lexical.MOST_KEYWORDS)
            if lexical.acceptable(w)
        ]
        for key, one in zip(items, said, strict=True)
    }
    distinct = list(dict.fromkeys(word for words in found.values() for word in words))
    verdicts = asker.ask([filter_prompt(kind, word) for word in distinct])
    good = {word for word, one in zip(distinct, verdicts, strict=True) if one.text == YES}
    return {
        key: tuple(word for word in words if word in good)[: lexical.MOST_KEYWORDS]
        for key, words in found.items()
    }


def summaries(
    kind: str,
    items: Sequence[tuple[Item, tuple[str, ...]]],
    asker: Asker,
    item_chars: int,
) -> list[str | None]:
    """What items are in short, given what is known about each; None where there is no answer."""
    prompts = [summary_prompt(kind, item, known, item_chars) for item, known in items]
    return [" ".join((one.text or "").split()) or None for one in asker.ask(prompts)]
