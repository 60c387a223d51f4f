"""KcMF's tier 2: one prompt per question and knowledge source, and the votes counted.

    items -> keywords -> knowledge per source -> self-indicator -> prompt per source -> vote

Paper: KcMF §3. What concerns one item is done once per item; equal prompts are asked once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from meld_duckdb.kcmf import prompts as wording
from meld_duckdb.kcmf.ensemble import Vote, count
from meld_duckdb.kcmf.items import ITEMS, Item
from meld_duckdb.kcmf.prompts import Example, Mode, Parts, match_prompt
from meld_duckdb.kcmf.reasoning import explain
from meld_duckdb.kcmf.rules import NO, YES, RuleSet
from meld_duckdb.planner.cascade import is_small
from meld_duckdb.planner.demonstrations import Demonstrator
from meld_duckdb.planner.kcmf.asking import Asker, Said
from meld_duckdb.planner.kcmf.item_facts import (
    Keywords,
    lexical_keywords,
    model_keywords,
    summaries,
)
from meld_duckdb.planner.kcmf.sources import (
    Found,
    Sentences,
    Source,
    Sources,
    about_items,
    merge_sentences,
)
from meld_duckdb.planner.options import NO_RULES, Options
from meld_duckdb.planner.tables import Context
from meld_duckdb.records import digest
from meld_duckdb.settings import AnswerSettings
from meld_duckdb.tasks.base import Answer, Demonstration, Evidence, Query
from meld_duckdb.tasks.binary import LANGUAGE_MODEL_TIER
from meld_duckdb.tasks.kcmf import KcmfTask, in_base_order

HALVINGS = 3
"""Times the size of a prompt that is too long for the engine is halved."""

_SHOTS = {"schema_match": 4, "entity_match": 2}
"""Demonstrations unless the call says: those of the paper (B4)."""

UNAVAILABLE = "unavailable"
"""Evidence that a service could not be asked: such an answer is not kept."""

_TOO_LONG = "prompt_too_long"

Pair = tuple[Item, Item]
RulesOf = Callable[[str, str], RuleSet]
"""Gives the rules of a name for a kind of matching."""


@dataclass(frozen=True, slots=True)
class _Call:
    """What one call asks for, resolved."""

    kind: str
    mode: Mode
    sources: tuple[Source, ...]
    rules: RuleSet | None
    shots: int
    summarises: bool
    keywords: Literal["model", "lexical"]

    @property
    def digest(self) -> str:
        return digest(
            f"kcmf/{wording.VERSION}",
            self.kind,
            self.mode,
            *(source.digest for source in self.sources),
            "" if self.rules is None else self.rules.digest,
            str(self.shots),
            str(self.summarises),
            self.keywords,
        )


class Matcher:
    """Answers questions of the tasks of KcMF.

    Args:
        sources: Looks knowledge up.
        rules_of: Finds rules by name and kind.
        demonstrator: Finds labels to show.
        settings: Sizes, and the model's name.
    """

    def __init__(
        self,
        sources: Sources,
        rules_of: RulesOf,
        demonstrator: Demonstrator,
        settings: AnswerSettings,
    ) -> None:
        self._sources = sources
        self._rules_of = rules_of
        self._demonstrator = demonstrator
        self._settings = settings

    def digest(self, task: KcmfTask, options: Options) -> str:
        """Identity of rules, sources and ways of a call, part of the cache key.

        Raises:
            ConfigError, InputError: Rules or a source of the call do not exist.
        """
        return self._resolve(task, options).digest

    def answer(
        self,
        task: KcmfTask,
        queries: Sequence[Query],
        contexts: Sequence[Context],
        options: Options,
        asker: Asker,
    ) -> list[Answer]:
        """Answer questions, in order; one without a single valid vote has ``error`` set."""
        call = self._resolve(task, options)
        pairs = [_pair(call.kind, query) for query in queries]
        items = {item.record.digest: item for pair in pairs for item in pair}
        keywords = self._keywords(call, items, asker)
        shown = self._examples(call, task, queries, contexts, asker)
        votes: list[list[Vote]] = [[] for _ in queries]
        evidence: list[list[Evidence]] = [[] for _ in queries]
        for source in call.sources:
            looked_up = self._sources.lookup(source, keywords) if source.looks_up else Found()
            found = looked_up.sentences
            parts = [
                Parts(
                    call.kind,
                    pair,
                    call.rules,
                    self._knowledge(source, context, pair, found),
                    examples,
                    item_chars=self._settings.max_record_chars // 2,
                )
                for pair, context, examples in zip(pairs, contexts, shown, strict=True)
            ]
            if call.summarises:
                parts = self._with_indicators(source, parts, contexts, found, asker)
            said = self._ask(call.mode, parts, asker)
            for i, (part, one) in enumerate(zip(parts, said, strict=True)):
                vote = _vote(source.name, call.mode, one)
                votes[i].append(vote)
                evidence[i] += _evidence(vote, part, one)
                evidence[i] += [
                    Evidence(UNAVAILABLE, looked_up.failures[item.record.digest], 0.0)
                    for item in part.pair
                    if item.record.digest in looked_up.failures
                ]
        return [
            _answer(vote, reasons, options) for vote, reasons in zip(votes, evidence, strict=True)
        ]

    def _resolve(self, task: KcmfTask, options: Options) -> _Call:
        small = is_small(self._settings.model)
        wanted = options.demonstrations
        by_model = options.keywords == "model" or (options.keywords == "auto" and not small)
        return _Call(
            task.kind,
            "generate" if options.mode == "generate" else "choose",
            self._sources.choose(task.kind, options.sources),
            None if options.rules == NO_RULES else self._rules_of(options.rules, task.kind),
            _SHOTS[task.kind] if wanted is None else wanted,
            not small if options.self_indicator is None else options.self_indicator,
            "model" if by_model else "lexical",
        )

    def _keywords(self, call: _Call, items: dict[str, Item], asker: Asker) -> Keywords:
        if not any(source.looks_up for source in call.sources):
            return {}
        if call.keywords == "model":
            limit = self._settings.max_record_chars // 2
            return model_keywords(call.kind, items, asker, limit)
        return lexical_keywords(items, call.sources, self._sources)

    def _knowledge(
        self, source: Source, context: Context, items: Sequence[Item], found: Sentences
    ) -> tuple[str, ...]:
        said = (
            self._sources.of_schemas(context, [item.record for item in items])
            if source.dataset
            else ()
        )
        return merge_sentences((said, about_items(items, found)))

    def _with_indicators(
        self,
        source: Source,
        parts: Sequence[Parts],
        contexts: Sequence[Context],
        found: Sentences,
        asker: Asker,
    ) -> list[Parts]:
        """Let every prompt's reasoning begin with what its items are in short."""
        items: dict[str, Item] = {}
        known: dict[str, tuple[str, ...]] = {}
        for part, context in zip(parts, contexts, strict=True):
            for item in part.pair:
                key = item.record.digest
                if key not in items:
                    items[key] = item
                    known[key] = self._knowledge(source, context, (item,), found)
        limit = self._settings.max_record_chars // 2
        short = summaries(parts[0].kind, items, known, asker, limit) if parts else {}
        return [replace(part, indicator=_indicator(part.kind, part.pair, short)) for part in parts]

    def _examples(
        self,
        call: _Call,
        task: KcmfTask,
        queries: Sequence[Query],
        contexts: Sequence[Context],
        asker: Asker,
    ) -> list[tuple[Example, ...]]:
        """Labels to show, with their reasoning and, where items are summarised, in short."""
        if not call.shots:
            return [()] * len(queries)
        chosen = self._demonstrator.demonstrations(
            task.base, [in_base_order(q) for q in queries], contexts, call.shots
        )
        distinct = {d.query.digest: d for those in chosen for d in those}
        pairs = {key: _pair(call.kind, d.query) for key, d in distinct.items()}
        short: dict[str, str] = {}
        if call.summarises:
            items = {item.record.digest: item for pair in pairs.values() for item in pair}
            limit = self._settings.max_record_chars // 2
            short = summaries(call.kind, items, {}, asker, limit)
        examples = {
            key: _example(call, demonstration, pairs[key], short)
            for key, demonstration in distinct.items()
        }
        return [tuple(examples[d.query.digest] for d in those) for those in chosen]

    def _ask(self, mode: Mode, parts: Sequence[Parts], asker: Asker) -> list[Said]:
        """Ask all prompts; those that are too long for the engine again, in fewer words."""
        room = self._settings.max_prompt_tokens
        said = asker.ask([match_prompt(part, mode, room) for part in parts])
        for _ in range(HALVINGS):
            long = [i for i, one in enumerate(said) if (one.error or "").startswith(_TOO_LONG)]
            if not long:
                break
            room //= 2
            again = asker.ask([match_prompt(parts[i], mode, room) for i in long])
            for i, one in zip(long, again, strict=True):
                said[i] = one
        return said


def _pair(kind: str, query: Query) -> Pair:
    read = ITEMS[kind]
    return read(query.records[0]), read(query.records[1])


def _indicator(kind: str, pair: Pair, short: dict[str, str]) -> str | None:
    left, right = (short.get(item.record.digest) for item in pair)
    return None if left is None or right is None else wording.indicator(kind, (left, right))


def _example(
    call: _Call, demonstration: Demonstration, pair: Pair, short: dict[str, str]
) -> Example:
    answer = YES if demonstration.answer == "match" else NO
    records = (pair[0].record, pair[1].record)
    steps = () if call.rules is None else explain(call.rules, records, answer)
    first = _indicator(call.kind, pair, short)
    left, right = (
        replace(item, description=short.get(item.record.digest, item.description)) for item in pair
    )
    return Example((left, right), steps, answer, first)


def _vote(source: str, mode: Mode, said: Said) -> Vote:
    if said.text is None:
        return Vote(source, None)
    if mode == "generate":
        return Vote(source, wording.read_answer(said.text))
    return Vote(source, said.text, said.probability)


def _evidence(vote: Vote, part: Parts, said: Said) -> list[Evidence]:
    """A vote, and what it was given on: knowledge and reasoning, each with its source."""
    share = vote.probability
    if share is None:
        share = float(vote.answer == YES)
    found = [Evidence("vote", f"{vote.source}: {vote.answer or said.error or 'bad format'}", share)]
    found += [Evidence("knowledge", f"{vote.source}: {text}", 1.0) for text in part.knowledge]
    reasoning = [part.indicator or "", (said.text or "") if vote.probability is None else ""]
    text = "\n".join(line for line in reasoning if line)
    return [*found, *([Evidence("reasoning", f"{vote.source}: {text}", 1.0)] if text else [])]


def _answer(votes: Sequence[Vote], evidence: Sequence[Evidence], options: Options) -> Answer:
    verdict = count(votes)
    error = None
    if verdict.n_bad == len(votes) and options.tier != "t2":
        first = next(e.text for e in evidence if e.kind == "vote")
        error = f"no_vote: none of {len(votes)} sources gave a yes or a no ({first})"
    return Answer(
        value=None if error else ("match" if verdict.answer == YES else "mismatch"),
        probability=None if error else verdict.probability,
        tier=LANGUAGE_MODEL_TIER,
        evidence=tuple(evidence),
        error=error,
    )
