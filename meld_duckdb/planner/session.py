"""What a process does with a workspace: answers, tables, labels."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np

from meld_duckdb import models
from meld_duckdb.errors import ConfigError, InputError
from meld_duckdb.kcmf.rule_files import load_rules
from meld_duckdb.planner.artefacts import stamps
from meld_duckdb.planner.budget import late_error
from meld_duckdb.planner.cache import AnswerCache
from meld_duckdb.planner.cascade import choose_policy
from meld_duckdb.planner.certificates import Certificates
from meld_duckdb.planner.clusters import (
    LINKAGES,
    agreeing_groups,
    connected_groups,
    distinct_contents,
    in_order_of_nearness,
    mutual_pairs,
    number_clusters,
)
from meld_duckdb.planner.demonstrations import Demonstrator
from meld_duckdb.planner.experts import ExpertLoader, Experts, expert_loader
from meld_duckdb.planner.gate import Gates
from meld_duckdb.planner.indexing import Indexed, Indexer, Progress
from meld_duckdb.planner.kcmf.matcher import Matcher
from meld_duckdb.planner.kcmf.sources import Likeness, Sources
from meld_duckdb.planner.knowing import usable_bases
from meld_duckdb.planner.loaded import Loaded, Notice
from meld_duckdb.planner.memory import State
from meld_duckdb.planner.mixture import Mixture, MixtureSettings
from meld_duckdb.planner.options import Options
from meld_duckdb.planner.plan import Planner, Resources
from meld_duckdb.planner.schema_pairs import nearest_pairs
from meld_duckdb.planner.scorers import make_scorers
from meld_duckdb.planner.scorers.match import MatchScorer
from meld_duckdb.planner.speed import measured_score
from meld_duckdb.planner.stats import Outcome
from meld_duckdb.planner.tables import Tables
from meld_duckdb.planner.whole import ask_pairs
from meld_duckdb.progress import doing, step
from meld_duckdb.records import Record, digest
from meld_duckdb.retrieval.bases import KnowledgeBase, list_bases
from meld_duckdb.retrieval.blocking import Candidates
from meld_duckdb.retrieval.catalogue import table_digest
from meld_duckdb.retrieval.groups import equal_groups
from meld_duckdb.retrieval.methods import Blocking, Vectorisers, find
from meld_duckdb.retrieval.remote_sources import VERSION as REMOTE_VERSION
from meld_duckdb.retrieval.remote_sources import endpoint
from meld_duckdb.retrieval.store import Label
from meld_duckdb.retrieval.table_rows import TableRows
from meld_duckdb.settings import Settings
from meld_duckdb.starter import starter_adapters
from meld_duckdb.tasks.base import Answer, Query


class Session(Loaded):
    """Everything behind a `LocalService`.

    Args:
        settings: Resolved settings.
        notice: Called with one line when something slow begins.
    """

    demonstrator_class: type[Demonstrator] = Demonstrator
    mixture_class: type[Mixture] = Mixture

    def __init__(self, settings: Settings, notice: Notice) -> None:
        super().__init__(settings, notice)
        self.tables = Tables(self.catalogue, self._load_table)
        self.demonstrator = self.demonstrator_class(
            settings.answer, self.catalogue, lambda: self.store, lambda: self.encoder
        )
        scorers = make_scorers(
            self.tables,
            self.encode_untuned,
            self.demonstrator.labelled,
        )
        self._match = cast(MatchScorer, scorers["match"])
        self.experts = Experts(
            self._workspace.experts_path,
            self._untuned_digest,
            self._expert_loader(),
            self.demonstrator.digest,
            notice,
        )
        answer = settings.answer
        self.mixture = self.mixture_class(
            self._workspace.adapters_path,
            self._workspace.router_path,
            None if settings.backend == "openai" else starter_adapters(settings.starter),
            MixtureSettings(
                answer.experts,
                answer.expert_weights,
                answer.expert_diversity_percent / 100,
                answer.merged_rank or None,
                answer.expert_tasks,
            ),
            model_digest=lambda: models.model_digest(self._model_path()),
            encoder_digest=self._encoder_digest,
            encode=self._encode,
            notice=notice,
        )
        self.gates = Gates(
            self._workspace.calibration_path,
            lambda: models.model_digest(self._model_path()),
            self.mixture.digest,
            notice,
        )
        self.certificates = Certificates(self._workspace.calibration_path, keep=settings.learn)
        self._resources = Resources(
            settings=settings.answer,
            cache=self._answer_cache() if settings.cache else None,
            tables=self.tables,
            scorers=scorers,
            demonstrator=self.demonstrator,
            backend=lambda: self.backend,
            backend_digest=self._backend_digest,
            encoder_digest=self._encoder_digest,
            experts=self.experts,
            mixture=self.mixture,
            gates=self.gates,
            certificates=self.certificates,
            matcher=Matcher(
                Sources(
                    self.tables,
                    self._bases,
                    lambda: self.store,
                    Likeness(self._encoder_digest, self._encode, lambda: self.store),
                    lambda: self.remote,
                    lambda service: f"{endpoint(service, settings)} {REMOTE_VERSION}",
                ),
                lambda name, kind: load_rules(self._workspace.rules_path, name, kind),
                self.demonstrator,
                settings.answer,
            ),
        )
        self.planner = Planner(self._resources)

    def _answer_cache(self) -> AnswerCache:
        """Where answers are looked up and kept."""
        return AnswerCache(self._workspace.cache_path)

    def _expert_loader(self) -> ExpertLoader:
        load = expert_loader(self._encoder_path, self.settings.device, self._notice)
        return lambda card, folder: measured_score(card.digest, load(card, folder), self.speeds)

    def _bases(self, names: Collection[str] | None) -> list[KnowledgeBase]:
        """The knowledge bases of these names, all for None."""
        folder = self._workspace.knowledge_path
        if names is None and not list_bases(folder):
            return []
        return usable_bases(folder, self.store, names)

    def _untuned_digest(self) -> str:
        return models.model_digest(self._encoder_path())

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        vectors: np.ndarray = self.encoder.encode(texts)
        return vectors

    def _load_table(self, content: str) -> list[Record]:
        n_rows = next((t.n_rows for t in self.catalogue.tables() if t.digest == content), None)
        return self.store.entries(content, n_rows)

    def index(
        self,
        name: str,
        records: Sequence[Record],
        *,
        embed: bool,
        split: str | None = None,
        progress: Progress | None = None,
    ) -> Indexed:
        """Index a table: its rows become context, candidates and neighbours of later queries.

        Rows already stored are not touched; rows embedded before, in any table, are not embedded
        again; a killed run continues where it stopped. Two processes that index take turns.

        Args:
            name: Name of the table.
            records: All its rows.
            embed: Whether to embed them.
            split: Column whose value is the split of a row.
            progress: Called after every part that was written.

        Raises:
            InputError: There is no such column.
            ArtefactError: The workspace cannot be written; what was there before is kept.
        """
        indexer = Indexer(
            self.ledger,
            self.catalogue,
            self.store,
            self._encoder_digest(),
            self.embed,
            self._notice,
        )
        with doing(f"indexing {name}"):
            return indexer.index(name, records, embed=embed, split=split, progress=progress or step)

    def block(
        self, left: Sequence[Record], right: Sequence[Record], how: Blocking, *, same: bool
    ) -> Candidates:
        """Find candidates that are to be compared; see `block_rows`."""
        rows = TableRows(left)
        return self.block_rows(rows, rows if same else TableRows(right), how)

    def block_rows(
        self, left: TableRows, right: TableRows, how: Blocking, *, listed: bool = False
    ) -> Candidates:
        """Find the best right rows of every left row; see `retrieval.methods.find`."""
        models = Vectorisers(lambda rows: self.embed(rows.records, "a table"), lambda: self.static)
        with doing("finding candidates"):
            return find(left, right, how, models, max_pairs=self.settings.max_pairs, listed=listed)

    def join(
        self,
        left: Sequence[Record],
        right: Sequence[Record],
        candidates: Candidates,
        options: Options,
    ) -> tuple[list[Answer], Outcome]:
        """Match candidate pairs, with both tables as context.

        Returns:
            One answer per candidate pair, in order, without evidence, and how they came about.
        """
        pairs = zip(candidates.left.tolist(), candidates.right.tolist(), strict=True)
        return ask_pairs(
            self.planner, self.tables, "match", left, right, pairs, options, brief=True
        )

    def dedupe(
        self, records: Sequence[Record], how: Blocking, linkage: str, options: Options
    ) -> tuple[np.ndarray, list[Answer], Outcome]:
        """Cluster the rows of a table that describe the same entity; see `planner.clusters`.

        Where features alone settle every pair, they are computed for all pairs at once and no
        answer is cached: that is faster than looking hundreds of thousands of answers up.

        Returns:
            Number of each row's cluster from 0, by first row; the answers that were asked for one
            by one; and how they came about.

        Raises:
            ConfigError: The linkage is unknown, or columns are to be equal to others.
            InputError: There are more candidate pairs than ``max_pairs``.
        """
        if linkage not in LINKAGES:
            raise ConfigError(
                f"option 'linkage' is {linkage!r}, expected one of {', '.join(LINKAGES)}"
            )
        if any(a != b for a, b in how.equal):
            raise ConfigError(
                "option 'equal' names two columns, but all rows are of one table",
                hint="write equal := ['brand']",
            )
        whole = TableRows(records)
        groups = equal_groups(whole, whole, how.equal).left if how.equal else None
        distinct = distinct_contents(records, groups)
        rows = distinct.records
        pairs = mutual_pairs(self.block(rows, rows, how, same=True))
        likely, least, answers, outcome = self.judge_rows(rows, pairs, options)
        if linkage == "components":
            groups = connected_groups(len(rows), pairs, likely, least)
        else:
            groups = agreeing_groups(len(rows), pairs, likely, least, how.k)
        return number_clusters(distinct, groups), answers, outcome

    def judge_rows(
        self, rows: Sequence[Record], pairs: np.ndarray, options: Options
    ) -> tuple[np.ndarray, float, list[Answer], Outcome]:
        """Judge pairs of rows of one table, with the table as context.

        Returns:
            How likely each pair is to match, on the scale of tier 0; from where on it does; and, as
            of `dedupe`, answers and how they came about.
        """
        policy = choose_policy("match", self.settings.answer.model, options)
        answers: list[Answer] = []
        table = table_digest(rows)
        labelled = bool(self.demonstrator.labels("match"))
        gate = self.gates.find("match", (table, table)) if policy.expert == "unsure" else None
        gated = gate is not None and gate.use
        one_by_one = policy.engine or policy.expert == "always" or labelled or gated
        if one_by_one:
            answers, outcome = ask_pairs(
                self.planner, self.tables, "match", rows, rows, pairs.tolist(), options, brief=True
            )
            likely = np.array([answer.probability or 0.0 for answer in answers])
        else:
            order = in_order_of_nearness(pairs, len(rows))
            with self.tables.lend({table: rows}):
                found = self._match.probabilities(table, pairs[order])
            asked = [digest(rows[i].digest, rows[j].digest) for i, j in pairs[order].tolist()]
            n_left = int(np.isnan(found).sum())  # the last ones: the budget was used up
            likely = np.empty(len(pairs))
            likely[order] = np.nan_to_num(found)
            done = len(asked) - n_left
            answers = [Answer(error=late_error())] * n_left
            outcome = Outcome(asked[:0], asked[:done], [0] * done, refused=asked[done:])
        with self.tables.lend({table: rows}):
            least = self._match.threshold(table, options)
        if one_by_one:  # each tier has a threshold of its own
            said = np.array([answer.value == "match" for answer in answers], dtype=bool)
            below = np.minimum(likely, np.nextafter(least, -1.0))
            likely = np.where(said, np.maximum(likely, least), below)
        return likely, least, answers, outcome

    def state(self) -> State:
        """What the workspace is in; see `memory.State`."""
        own = self._workspace
        folders = [own.experts_path, own.adapters_path, own.router_path, own.calibration_path]
        folders.append(self.certificates.folder)
        starter = starter_adapters(self.settings.starter)
        return (
            *self.catalogue.state(),
            *stamps([*folders, *([starter] if starter else [])]),
            self._encoder_digest(),
        )

    def expert_counts(self) -> dict[str, int]:
        """How many stored answers each expert had a part in, by name."""
        cache = self._resources.cache
        return {} if cache is None else cache.expert_counts()

    def feature_answers(self, task: str, queries: Sequence[Query]) -> list[Answer | None]:
        """Answers of tier 0 alone, in order, not cached: what its features say with all labels."""
        return self._resources.ask_tier0(task, queries)

    def ask_schemas(
        self,
        left: Sequence[Record],
        right: Sequence[Record],
        options: Options,
        candidates: int | None = None,
    ) -> tuple[list[Answer], Outcome]:
        """Match every column of one schema with every column of another.

        Args:
            left: Columns as records of ``schema_match``.
            right: Columns of the other schema.
            options: Options of the call.
            candidates: For KcMF: it is asked about the pairs that tier 0 holds for one of so many
                likeliest of either column; the others keep the answer of tier 0. None for
                ``schema_match``, which is asked about all pairs.

        Returns:
            One answer per pair, the columns of the left schema first, and how they came about.

        Raises:
            InputError: There are more pairs than ``max_pairs``.
        """
        self.check_pairs(len(left) * len(right), f"{len(left)} x {len(right)} columns")
        ask = partial(ask_pairs, self.planner, self.tables)
        pairs = list(itertools.product(range(len(left)), range(len(right))))
        if candidates is None:
            return ask("schema_match", left, right, pairs, options)
        plain = Options(options.threshold, on_error=options.on_error, tier="t0")
        answers, outcome = ask("schema_match", left, right, pairs, plain)
        likely = np.array([a.probability or 0.0 for a in answers]).reshape(len(left), len(right))
        near = nearest_pairs(likely, candidates)
        voted, more = ask("kcmf_schema_match", left, right, near, options)
        for (i, j), answer in zip(near, voted, strict=True):
            answers[i * len(right) + j] = answer
        return answers, outcome + more

    def check_pairs(self, n_pairs: int, what: str) -> None:
        """Refuse more pairs than the setting ``max_pairs`` allows.

        Raises:
            InputError: There are more.
        """
        if n_pairs > self.settings.max_pairs:
            raise InputError(
                f"{what} are {n_pairs} pairs, more than max_pairs = {self.settings.max_pairs}",
                hint="compare fewer: block with a lower k (FROM meld.block), take smaller parts of "
                "the tables, or raise the setting max_pairs",
            )

    def learn(self, task: str, labelled: Sequence[tuple[Query, str]]) -> None:
        """Store labels; the next query of the task uses them."""
        plain = [(replace(query, domain=None), answer) for query, answer in labelled]
        distinct = {query.digest: (query, answer) for query, answer in plain}
        labels = [Label(task, query, answer) for query, answer in distinct.values()]
        if labels:
            self.ledger.learn(self.store, labels)
