"""Extraction of attribute values at tier 0."""

from __future__ import annotations

from collections.abc import Sequence

from meld_duckdb.features.attribute import Label
from meld_duckdb.features.attribute_plain import Plain, options_in_text, plain_answers
from meld_duckdb.features.fit_spans import Found, SpanModel
from meld_duckdb.features.spans import Text, read_text
from meld_duckdb.planner.scorers.base import REASONS, Embed, Labels
from meld_duckdb.planner.scorers.learned import Fits, Key
from meld_duckdb.planner.tables import Context, Tables
from meld_duckdb.records import digest, is_key_column
from meld_duckdb.tasks.base import Answer, Demonstration, Evidence, Query

LEAST_LABELS = 10
"""Labels of any attribute from which a model is fitted."""

_TASK = "extract_attribute"
_VERSION = "1"
_FIELD_CHARS = 1000
_FIELDS = 16
_KNOWN = 500
_RANKED = 10
_OPTION_FLOOR = 0.02


class ExtractAttributeScorer:
    """AVE by a span model fitted to the labels; without labels by options and patterns."""

    label_tasks: tuple[str, ...] = ()
    encodes = True

    def __init__(self, tables: Tables, embed: Embed, labels: Labels) -> None:
        self._tables = tables
        self._embed = embed
        self._labels = labels
        self._fits = Fits(lambda: labels(_TASK), self._fit)

    @property
    def digest(self) -> str:
        """Version of the features; labels are part of the plan's own key."""
        return digest(_TASK, _VERSION)

    def least(self, query: Query, context: Context) -> float:
        """The scorer itself weighs that a value is absent; see `Scorer.least`."""
        return 0.0

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Read values; see `Scorer.score`."""
        labels = self._labels(_TASK)
        model = self._fits.get(())
        texts = [read_text(row_text(q)) for q in queries]
        names = [q.target or "" for q in queries]
        read: list[list[Found] | None] = [None] * len(queries)
        if model is not None:
            read = model.read(list(zip(texts, names, strict=True)))
        absent = {x.query.target for x in labels if not x.answer}
        known = {n: self._known(n, labels, context) for n in dict.fromkeys(names)}
        return [
            _fitted_answer(found, query, text, query.target in absent)
            if found
            else _plain_answer(query, known[query.target or ""])
            for query, text, found in zip(queries, texts, read, strict=True)
        ]

    def _fit(self, key: Key, labels: Sequence[Demonstration]) -> SpanModel | None:
        if len(labels) < LEAST_LABELS:
            return None
        cut: dict[str, Text] = {}
        learned = []
        for x in labels:
            raw = row_text(x.query)
            text = cut.setdefault(raw, read_text(raw))
            learned.append(Label(text, x.query.target or "", x.answer))
        return SpanModel(learned, self._embed)

    def _known(
        self, name: str, labels: Sequence[Demonstration], context: Context
    ) -> tuple[str, ...]:
        values = [x.answer for x in labels if x.query.target == name and x.answer]
        rows = self._tables.index(context[0]).records if context else ()
        for row in rows:
            if len(values) >= _KNOWN:
                break
            value = row.fields.get(name)
            if value:
                values.append(value)
        return tuple(dict.fromkeys(values))


def row_text(query: Query) -> str:
    """The texts of a row as one, a line each; keys and the column asked for are left out."""
    return "\n".join(_row_texts(query))


def _row_texts(query: Query) -> list[str]:
    present = [
        value[:_FIELD_CHARS]
        for name, value in query.records[0].present.items()
        if name != query.target and not is_key_column(name)
    ]
    return present[:_FIELDS]


def _fitted_answer(found: Sequence[Found], query: Query, text: Text, may_be_absent: bool) -> Answer:
    scores = {x.value: x.probability for x in found}
    if query.domain:
        scores = _by_option(scores, query.domain, text)
    nothing = max(0.0, 1.0 - sum(scores.values()))
    # where no label is "not stated", what the spans lack is doubt and not absence
    if may_be_absent or not scores:
        scores[""] = nothing
    ranking = tuple(sorted(scores.items(), key=lambda x: -x[1])[:_RANKED])
    value, probability = ranking[0]
    evidence = tuple(Evidence("runner-up", v, round(p, 4)) for v, p in ranking[1 : 1 + REASONS])
    return Answer(value, probability, 0, evidence, ranking=ranking)


def _by_option(scores: dict[str, float], domain: Sequence[str], text: Text) -> dict[str, float]:
    """Probabilities of the options that stand in the text; those no span names get a floor."""
    folded: dict[str, float] = {}
    for value, probability in scores.items():
        key = value.strip().lower()
        folded[key] = max(folded.get(key, 0.0), probability)
    stated = [p.value for p in options_in_text([text.text], domain)]
    kept = {o: max(folded.get(o.strip().lower(), 0.0), _OPTION_FLOOR) for o in stated}
    total = max(1.0, sum(kept.values()))
    return {o: p / total for o, p in kept.items()}


def _plain_answer(query: Query, known: Sequence[str]) -> Answer:
    found: list[Plain] = plain_answers(
        _row_texts(query), query.target or "", query.domain or None, known
    )
    ranking = tuple((p.value, p.probability) for p in found[:_RANKED])
    evidence = (Evidence("rule", found[0].reason, found[0].probability),)
    return Answer(found[0].value, found[0].probability, 0, evidence, ranking=ranking)
