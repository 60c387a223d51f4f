"""Experts at query time: which one a question is for, and its opinion.

Cards are read when the directory changes; an adapter is loaded when the first question is for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from meld_duckdb.engine.cross_encoder import CrossEncoder, weights_digest
from meld_duckdb.errors import ArtefactCorrupt, ArtefactMissing
from meld_duckdb.features.stack import log_odds
from meld_duckdb.planner.artefacts import Watched
from meld_duckdb.planner.cascade import Ask
from meld_duckdb.planner.expert_card import ExpertCard, Key, expert_key, read_card
from meld_duckdb.planner.tables import Context
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Answer, Evidence, Query
from meld_duckdb.tasks.pairs import BINARY, TEXT_VERSION, TextPair, option_pairs

_LOG = logging.getLogger(__name__)

TIER = 1
_LEAST_OPTIONS = 2
_REASONS = 3

Score = Callable[[Sequence[TextPair]], np.ndarray]
"""Log-odds of pairs of texts, float [n], in order."""

ExpertLoader = Callable[[ExpertCard, Path], Score]
"""Loads the cross-encoder of a card from its directory."""


class ExpertSource(Protocol):
    """Where the planner finds experts."""

    def find(self, task: str, query: Query, context: Context) -> Expert | None:
        """The expert for a question; None where there is none."""
        ...

    def missing(self, task: str) -> str | None:
        """Why no question of a task has an expert; None where some may have one."""
        ...


class Expert:
    """One expert: its card, and the cross-encoder behind it.

    Args:
        card: What is known of it.
        folder: Its directory.
        load: Loads the cross-encoder; called once, when the first pair is scored.
    """

    def __init__(self, card: ExpertCard, folder: Path, load: Callable[[], Score]) -> None:
        self.card, self.folder = card, folder
        self.digest = card.digest
        self._load = load
        self._lock = threading.Lock()
        self._score: Score | None = None

    def takes_part(self, ask: Ask) -> bool:
        """Tell whether it is asked at all under a policy."""
        return ask == "always" or (ask == "unsure" and self.card.use)

    def wants(self, answer: Answer | None) -> bool:
        """Tell whether a tier-0 answer is unsure enough to be asked about."""
        if answer is None or answer.probability is None or answer.error is not None:
            return True
        return self.card.low < answer.probability < self.card.high

    def answer(
        self, queries: Sequence[Query], tier0: Sequence[Answer | None]
    ) -> list[Answer | None]:
        """Add its opinion to tier 0's.

        Args:
            queries: Questions of its task.
            tier0: What tier 0 says to each.

        Returns:
            One answer of tier 1 per question, in order; None where there is nothing to choose
            from, so that it has no opinion.
        """
        asked = [self._asked(q, t) for q, t in zip(queries, tier0, strict=True)]
        pairs = [option_pairs(self.card.task, query) if query else [] for query in asked]
        odds = self._scores([pair for each in pairs for pair in each])
        ends = np.cumsum([len(each) for each in pairs]).tolist()
        answers: list[Answer | None] = []
        for query, said, each, end in zip(asked, tier0, pairs, ends, strict=True):
            own = odds[end - len(each) : end]
            if query is None:
                answers.append(None)
            elif self.card.task in BINARY:
                answers.append(self._yes_or_no(said, float(own[0])))
            else:
                answers.append(self._chosen(query, said, own))
        return answers

    def _scores(self, pairs: Sequence[TextPair]) -> np.ndarray:
        if not pairs:
            return np.zeros(0)
        with self._lock:
            if self._score is None:
                self._score = self._load()
        return self._score(pairs)

    def _asked(self, query: Query, said: Answer | None) -> Query | None:
        """The question as it is read: with the options that tier 0 ranks best."""
        if self.card.task in BINARY:
            return query
        ranking = said.ranking if said is not None else ()
        short = shortlisted(query, [option for option, _ in ranking], self.card.shortlist)
        return short if len(short.domain or ()) >= _LEAST_OPTIONS else None

    def _yes_or_no(self, said: Answer | None, odds: float) -> Answer:
        labels = TASKS[self.card.task].labels
        if labels is None:
            raise ArtefactCorrupt(f"the expert {self.card.id} is not for a task with two answers")
        before = 0.5 if said is None or said.probability is None else said.probability
        own = float(log_odds(np.array([before]))[0])
        found = float(self.card.stack.yes(np.array([own]), np.array([odds]))[0])
        value = labels[0] if found >= self.card.stack.threshold else labels[1]
        evidence = self._evidence(said, own, labels[0] if odds > 0 else labels[1], odds)
        return Answer(value, found, TIER, evidence, (self.card.id,))

    def _chosen(self, query: Query, said: Answer | None, odds: np.ndarray) -> Answer:
        options = query.domain or ()
        known = dict(said.ranking) if said is not None else {}
        before = [known.get(option, 0.0) for option in options]
        if not sum(before):
            before = [1 / len(options)] * len(options)
        shares = dict(zip(options, self.card.stack.shares(before, odds).tolist(), strict=True))
        rest = [item for item in known.items() if item[0] not in shares]
        ranking = sorted((*shares.items(), *rest), key=lambda item: -item[1])
        value, probability = ranking[0]
        best = int(np.argmax(odds))
        own = float(log_odds(np.array([known.get(value, probability)]))[0])
        evidence = self._evidence(said, own, options[best], float(odds[best] - odds.mean()))
        return Answer(value, probability, TIER, evidence, (self.card.id,), ranking=tuple(ranking))

    def _evidence(
        self, said: Answer | None, own: float, value: str, odds: float
    ) -> tuple[Evidence, ...]:
        """What either tier said, in log-odds, then tier 0's reasons."""
        first = "" if said is None or said.value is None else said.value
        before = () if said is None else said.evidence[:_REASONS]
        return (
            Evidence("tier 0 log-odds", first, round(own, 4)),
            Evidence("tier 1 log-odds", value, round(odds, 4)),
            *before,
        )


def shortlisted(query: Query, ranking: Sequence[str], most: int) -> Query:
    """A question with the options ranked best, in that order; with all where none is ranked.

    Candidates of a link go with their options.
    """
    domain = query.domain
    ranked = [o for o in dict.fromkeys(ranking) if domain is None or o in domain]
    options = tuple((ranked or domain or ())[:most])
    records = query.records
    if domain is not None and len(records) == len(domain) + 1:
        at = {option: i for i, option in enumerate(domain)}
        records = (records[0], *(records[at[option] + 1] for option in options))
    return replace(query, records=records, domain=options)


class Experts:
    """The experts of a workspace; see `ExpertSource`. Safe for threads.

    Args:
        folder: The workspace's directory of experts; it need not be there.
        encoder_digest: Identity of the encoder that the settings name.
        load: Loads the cross-encoder of a card from its directory.
        labels: Digest of the labels of a task.
        notice: Called with one line where an expert cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        encoder_digest: Callable[[], str],
        load: Callable[[ExpertCard, Path], Score],
        labels: Callable[[str], str],
        notice: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._encoder_digest = encoder_digest
        self._load = load
        self._labels = labels
        self._notice = notice
        self._watched = Watched((folder,), self._read)
        self._experts: dict[str, dict[Key, Expert]] = {}
        self._refused: dict[str, str] = {}
        self._told: set[str] = set()

    def find(self, task: str, query: Query, context: Context) -> Expert | None:
        """The expert for a question; see `ExpertSource.find`.

        Raises:
            ArtefactCorrupt: A directory of an expert is damaged.
        """
        of_task = self._watched.get().get(task)
        return of_task.get(expert_key(task, query, context)) if of_task else None

    def of(self, task: str, key: Key, ask: Ask = "always") -> Expert | None:
        """The expert of a task for a key that takes part under a policy; see `find`."""
        if ask == "never":
            return None
        expert = self._watched.get().get(task, {}).get(key)
        return expert if expert is not None and expert.takes_part(ask) else None

    def own(self) -> list[Expert]:
        """The workspace's experts that can be used, by name."""
        found = [e for of_task in self._watched.get().values() for e in of_task.values()]
        return sorted(found, key=lambda expert: expert.card.id)

    def missing(self, task: str) -> str | None:
        """Why no question of a task has an expert; see `ExpertSource.missing`."""
        if self._watched.get().get(task):
            return None
        return self._refused.get(task, "none was trained in this workspace")

    def _read(self) -> dict[str, dict[Key, Expert]]:
        found: dict[str, dict[Key, Expert]] = {}
        self._refused = {}
        loaded = {e.digest: e for of_task in self._experts.values() for e in of_task.values()}
        for card in read_cards(self._folder):
            reason = self._unfit(card)
            if reason is not None:
                self._refused[card.task] = reason
                self._tell(reason)
                continue
            if card.labels != self._labels(card.task):
                _LOG.info("the labels of %s have changed since expert %s", card.task, card.id)
            expert = loaded.get(card.digest) or self._new(card, self._folder / card.id)
            found.setdefault(card.task, {})[card.key] = expert
        self._experts = found
        return found

    def _new(self, card: ExpertCard, folder: Path) -> Expert:
        return Expert(card, folder, lambda: self._load(card, folder))

    def _unfit(self, card: ExpertCard) -> str | None:
        again = f"train it again: meld train --task {card.task}"
        if card.text_version != TEXT_VERSION:
            return f"the expert {card.id} was trained on texts of another version; {again}"
        if card.encoder_digest != self._encoder_digest():
            made_on = f"belongs to another encoder ({card.encoder})"
            return f"the expert {card.id} {made_on}: not used; {again}"
        return None

    def _tell(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._notice(line)


def read_cards(folder: Path) -> list[ExpertCard]:
    """The cards in a directory of experts, the newest last; none where there is no directory.

    Raises:
        ArtefactCorrupt: One is damaged.
    """
    if not folder.is_dir():
        return []
    folders = (f for f in folder.iterdir() if f.is_dir() and f.name[0] not in "._")
    return sorted((read_card(f) for f in folders), key=lambda card: (card.made, card.id))


def expert_loader(
    model_path: Callable[[], Path], device: str, notice: Callable[[str], None]
) -> ExpertLoader:
    """How experts are loaded.

    Args:
        model_path: Where the encoder is that they were trained on.
        device: See `CrossEncoder`.
        notice: Called with one line before a model is loaded.

    Returns:
        A function from an expert's card and directory to what scores pairs; it raises
        `ArtefactCorrupt` where the files are not those that the card was written for.
    """

    def load(card: ExpertCard, folder: Path) -> Score:
        try:
            found = weights_digest(model_path(), folder)
        except ArtefactMissing as error:
            raise ArtefactCorrupt(
                f"the expert {card.id} is incomplete: {error.what}", hint=error.hint
            ) from error
        if found != card.weights:
            raise ArtefactCorrupt(
                f"the weights of the expert {card.id} are not those its card was written for",
                hint=f"train it again, or remove {folder}",
            )
        notice(f"loading the expert {card.id} (once a process)")
        return CrossEncoder(model_path(), folder, device=device, max_tokens=card.max_tokens).score

    return load
