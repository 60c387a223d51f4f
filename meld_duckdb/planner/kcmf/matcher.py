"""KcMF's tier 2: one prompt per question and knowledge source, and the votes counted.

    items -> keywords -> knowledge per source -> self-indicator -> prompt per source -> vote

Paper: KcMF §3. What concerns one item is done once per item; equal prompts are asked once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from meld_duckdb.kcmf import prompts as wording
from meld_duckdb.kcmf.items import ITEMS, Item
from meld_duckdb.kcmf.prompts import Example, Mode, Parts, Worded, match_prompt
from meld_duckdb.kcmf.reasoning import explain
from meld_duckdb.kcmf.rules import NO, YES, RuleSet
from meld_duckdb.planner.cascade import is_small
from meld_duckdb.planner.demonstrations import Demonstrator
from meld_duckdb.planner.kcmf.asking import TOO_LONG, Asker, Said
from meld_duckdb.planner.kcmf.ballot import Ballot
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
    merge_sentences,
    read_names,
)
from meld_duckdb.planner.options import NO_RULES, Options
from meld_duckdb.planner.tables import Context
from meld_duckdb.planner.trace import note_source
from meld_duckdb.records import digest
from meld_duckdb.settings import AnswerSettings
from meld_duckdb.tasks.base import Answer, Demonstration, Query
from meld_duckdb.tasks.kcmf import KcmfTask, in_base_order

HALVINGS = 3
"""Times the size of a prompt that is too long for the engine is halved."""

_SHOTS = {"schema_match": 4, "entity_match": 2}
"""Demonstrations unless the call says: those of the paper (B4)."""

_SIDES = 2

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


@dataclass(frozen=True, slots=True)
class _Question:
    """A pair of items, the schemas it is from, and the query."""

    pair: Pair
    context: Context
    query: Query


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

    def check(self, task: KcmfTask, options: Options) -> None:
        """Look whether rules and sources of a call can be; no knowledge base is read.

        Raises:
            ConfigError, InputError: They cannot.
        """
        self._rules(task, options)
        if options.sources is not None:
            read_names(task.kind, options.sources)

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
        """Answer questions, in order; one without a single answer of the engine has ``error`` set.

        Evidence of the kind `ballot.UNAVAILABLE` tells what was not there, but may come back.
        """
        call = self._resolve(task, options)
        asked = [
            _Question(_pair(call.kind, query), context, query)
            for query, context in zip(queries, contexts, strict=True)
        ]
        items = {item.record.digest: item for one in asked for item in one.pair}
        keywords = self._keywords(call, items, asker)
        found = [
            self._sources.lookup(source, keywords, items) if source.looks_up else Found()
            for source in call.sources
        ]
        shown = self._examples(call, task, asked, asker)
        ballots = [Ballot() for _ in asked]
        for source, known in zip(call.sources, found, strict=True):
            parts = self._parts(call, source, known.sentences, asked, shown, asker)
            voting = [i for i, part in enumerate(parts) if ballots[i].is_new(part)]
            said = self._ask(call.mode, [parts[i] for i in voting], asker)
            for i, (worded, one) in zip(voting, said, strict=True):
                ballots[i].count(source.name, call.mode, parts[i], worded, one)
                note_source(worded.prompt, source.name)
            for ballot, question in zip(ballots, asked, strict=True):
                ballot.miss(known.failures.get(i.record.digest) for i in question.pair)
        return [ballot.answer(options) for ballot in ballots]

    def _resolve(self, task: KcmfTask, options: Options) -> _Call:
        small = is_small(self._settings.model)
        wanted = options.demonstrations
        by_model = options.keywords == "model" or (options.keywords == "auto" and not small)
        return _Call(
            task.kind,
            "generate" if options.mode == "generate" else "choose",
            self._sources.choose(task.kind, options.sources),
            self._rules(task, options),
            _SHOTS[task.kind] if wanted is None else wanted,
            not small if options.self_indicator is None else options.self_indicator,
            "model" if by_model else "lexical",
        )

    def _rules(self, task: KcmfTask, options: Options) -> RuleSet | None:
        return None if options.rules == NO_RULES else self._rules_of(options.rules, task.kind)

    @property
    def _item_chars(self) -> int:
        return self._settings.max_record_chars // 2

    def _keywords(self, call: _Call, items: dict[str, Item], asker: Asker) -> Keywords:
        if not any(source.looks_up for source in call.sources):
            return {}
        if call.keywords == "model":
            return model_keywords(call.kind, items, asker, self._item_chars)
        return lexical_keywords(items, call.sources, self._sources)

    def _parts(
        self,
        call: _Call,
        source: Source,
        found: Sentences,
        asked: Sequence[_Question],
        shown: Sequence[tuple[Example, ...]],
        asker: Asker,
    ) -> list[Parts]:
        """What the prompts of one source are made of; the items in short where that is wanted."""

        def known(context: Context, items: Sequence[Item]) -> tuple[str, ...]:
            said = (
                self._sources.of_schemas(context, [item.record for item in items])
                if source.dataset
                else ()
            )
            return merge_sentences((said, *(found.get(i.record.digest, ()) for i in items)))

        indicators: list[str | None] = [None] * len(asked)
        if call.summarises:
            # What is known of an item depends on its schemas, so it is in short for each of them.
            single = {
                (item.record.digest, one.context): (item, known(one.context, (item,)))
                for one in asked
                for item in one.pair
            }
            texts = summaries(call.kind, list(single.values()), asker, self._item_chars)
            short = dict(zip(single, texts, strict=True))
            indicators = [
                _indicator(
                    call.kind, [short[(item.record.digest, one.context)] for item in one.pair]
                )
                for one in asked
            ]
        return [
            Parts(
                call.kind,
                one.pair,
                call.rules,
                known(one.context, one.pair),
                examples,
                first,
                self._item_chars,
            )
            for one, examples, first in zip(asked, shown, indicators, strict=True)
        ]

    def _examples(
        self, call: _Call, task: KcmfTask, asked: Sequence[_Question], asker: Asker
    ) -> list[tuple[Example, ...]]:
        """Labels to show, with their reasoning and, where items are summarised, in short."""
        if not call.shots:
            return [()] * len(asked)
        chosen = self._demonstrator.demonstrations(
            task.base,
            [in_base_order(one.query) for one in asked],
            [one.context for one in asked],
            call.shots,
        )
        turned = [
            [(d, self._is_turned(call.kind, d, one.context)) for d in those]
            for those, one in zip(chosen, asked, strict=True)
        ]
        distinct = {(d.query.digest, t): (d, t) for those in turned for d, t in those}
        pairs = {key: _labelled_pair(call.kind, d, t) for key, (d, t) in distinct.items()}
        short: dict[str, str | None] = {}
        if call.summarises:
            items = {item.record.digest: item for pair in pairs.values() for item in pair}
            told = summaries(
                call.kind, [(item, ()) for item in items.values()], asker, self._item_chars
            )
            short = dict(zip(items, told, strict=True))
        examples = {
            key: _example(call, demonstration, pairs[key], short)
            for key, (demonstration, _) in distinct.items()
        }
        return [tuple(examples[(d.query.digest, t)] for d, t in those) for those in turned]

    def _is_turned(self, kind: str, demonstration: Demonstration, context: Context) -> bool:
        """Whether a label's columns are to change sides, so that its A is of the schema of A."""
        if kind != "schema_match" or len(set(context)) < _SIDES:
            return False
        first, second = demonstration.query.records[:2]
        stands = self._sources.stands_in
        return stands(first, context[1]) and stands(second, context[0])

    def _ask(self, mode: Mode, parts: Sequence[Parts], asker: Asker) -> list[tuple[Worded, Said]]:
        """Ask all prompts; those that are too long for the engine again, in fewer words."""
        room = self._settings.max_prompt_tokens
        worded = [match_prompt(part, mode, room) for part in parts]
        said = asker.ask([one.prompt for one in worded])
        for _ in range(HALVINGS):
            long = [i for i, one in enumerate(said) if (one.error or "").startswith(TOO_LONG)]
            if not long:
                break
            room //= 2
            again = [match_prompt(parts[i], mode, room) for i in long]
            answers = asker.ask([one.prompt for one in again])
            for i, shorter, one in zip(long, again, answers, strict=True):
                worded[i], said[i] = shorter, one
        return list(zip(worded, said, strict=True))


def _pair(kind: str, query: Query) -> Pair:
    read = ITEMS[kind]
    return read(query.records[0]), read(query.records[1])


def _labelled_pair(kind: str, demonstration: Demonstration, turned: bool) -> Pair:
    first, second = _pair(kind, demonstration.query)
    return (second, first) if turned else (first, second)


def _indicator(kind: str, short: Sequence[str | None]) -> str | None:
    left, right = short
    return None if left is None or right is None else wording.indicator(kind, (left, right))


def _example(
    call: _Call, demonstration: Demonstration, pair: Pair, short: dict[str, str | None]
) -> Example:
    answer = YES if demonstration.answer == "match" else NO
    records = (pair[0].record, pair[1].record)
    steps = () if call.rules is None else explain(call.rules, records, answer)
    texts = [short.get(item.record.digest) for item in pair]
    left, right = (
        item if text is None else replace(item, description=text, values="")
        for item, text in zip(pair, texts, strict=True)
    )
    return Example((left, right), steps, answer, _indicator(call.kind, texts))
