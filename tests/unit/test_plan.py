"""The planner with a scorer and an engine that the tests drive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from meld_duckdb.kcmf.rules import BUILT_IN
from meld_duckdb.planner import cascade
from meld_duckdb.planner.cache import AnswerCache
from meld_duckdb.planner.cascade import choose_policy
from meld_duckdb.planner.demonstrations import Demonstrator
from meld_duckdb.planner.gate import Gates
from meld_duckdb.planner.kcmf.matcher import Matcher
from meld_duckdb.planner.kcmf.sources import Likeness, Sources
from meld_duckdb.planner.mixture import Mixture, MixtureSettings
from meld_duckdb.planner.options import Options
from meld_duckdb.planner.plan import PART, Planner, Resources
from meld_duckdb.planner.tables import Context, Tables
from meld_duckdb.records import make_record
from meld_duckdb.retrieval.catalogue import Catalogue
from meld_duckdb.retrieval.store import Label, Store
from meld_duckdb.settings import AnswerSettings
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Answer, Completion, Prompt, Query
from tests.scripted import HashingEncoder, ScriptedBackend


class FixedScorer:
    """Answers the probability that stands in the first record."""

    digest = "fixed"

    def __init__(self) -> None:
        self.asked: list[Query] = []

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        self.asked.extend(queries)
        found = [float(q.records[0].fields["p"] or 0) for q in queries]
        return [Answer("match" if p >= 0.5 else "mismatch", p, 0) for p in found]

    encodes = False
    label_tasks = ()

    def least(self, query: Query, context: Context) -> float:
        return 0.0


def pair(p: float, tag: str = "") -> Query:
    return Query((make_record({"p": p, "tag": tag}), make_record({"title": "x"})))


class World:
    def __init__(self, folder: Path, model: str = "unmeasured", cached: bool = True) -> None:
        self.catalogue = Catalogue(folder / "catalogue.sqlite")
        self.store = Store(folder / "lance", HashingEncoder.dimension)
        self.backend = ScriptedBackend()
        self.scorer = FixedScorer()
        settings = AnswerSettings(model=model)
        tables = Tables(self.catalogue, lambda digest: pytest.fail("no table is indexed"))
        self.demonstrator = Demonstrator(
            settings, self.catalogue, lambda: self.store, HashingEncoder
        )
        self.resources = Resources(
            settings=settings,
            cache=AnswerCache(folder / "cache.sqlite") if cached else None,
            tables=tables,
            scorers={"match": self.scorer},
            demonstrator=self.demonstrator,
            backend=lambda: self.backend,
            backend_digest=lambda: "scripted",
            encoder_digest=lambda: "hashing",
            mixture=Mixture(
                folder / "adapters",
                folder / "router",
                None,
                MixtureSettings(),
                model_digest=lambda: "scripted",
                encoder_digest=lambda: "hashing",
                encode=HashingEncoder().encode,
                notice=print,
            ),
            gates=Gates(folder / "calibration", lambda: "scripted", lambda task: "", print),
            matcher=Matcher(
                Sources(
                    tables,
                    lambda names: [],
                    lambda: self.store,
                    Likeness(lambda: "hashing", HashingEncoder().encode, lambda: self.store),
                    lambda: pytest.fail("no remote service is asked"),
                    lambda service: pytest.fail("no remote service is asked"),
                ),
                lambda name, kind: BUILT_IN[kind],
                self.demonstrator,
                settings,
            ),
        )
        self.planner = Planner(self.resources)

    def ask(self, *queries: Query, **options: object):  # type: ignore[no-untyped-def]
        return self.planner.answer(TASKS["match"], queries, Options(**options))  # type: ignore[arg-type]

    def learn(self, query: Query, answer: str) -> None:
        vector = HashingEncoder().encode([query.digest])[0]
        self.store.add_labels([Label("match", query, answer, vector)])
        self.catalogue.set_labels("match", {query.digest: answer})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_only_unsure_rows_reach_the_language_model(world: World) -> None:
    answers, outcome = world.ask(pair(0.95), pair(0.5), pair(0.05))
    assert [(a.value, a.probability, a.tier) for a in answers] == [
        ("match", 0.95, 0),
        ("match", 0.8, 2),
        ("mismatch", 0.05, 0),
    ]
    assert outcome.engine_prompts == 1
    assert list(outcome.tiers) == [0, 2, 0]


def test_tier_option_overrides_the_calibration(world: World) -> None:
    assert [a.tier for a in world.ask(pair(0.5), tier="t0")[0]] == [0]
    assert [a.tier for a in world.ask(pair(0.99), tier="t2")[0]] == [2]


def test_nothing_is_computed_twice(world: World, tmp_path: Path) -> None:
    queries = [pair(0.5), pair(0.95)]
    first, _ = world.ask(*queries)
    second, outcome = world.ask(*queries)
    assert second == first
    assert len(world.backend.asked) == 1 and len(world.scorer.asked) == 2
    assert list(outcome.evaluated) == [] and len(outcome.cached) == 2
    later = World(tmp_path)
    assert later.ask(*queries)[0] == first
    assert later.backend.asked == []


@pytest.mark.parametrize("options", [{"tier": "t0"}, {"tier": "t2"}])
def test_what_can_change_an_answer_is_in_the_key(world: World, options: dict[str, object]) -> None:
    world.ask(pair(0.5))
    _, outcome = world.ask(pair(0.5), **options)
    assert len(outcome.evaluated) == 1


def test_an_answer_made_while_others_learn_is_given_but_not_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = world.scorer.score

    def learn_then_score(queries: Sequence[Query], context: Context) -> list[Answer | None]:
        monkeypatch.undo()
        world.learn(pair(0.2, "another"), "match")
        return score(queries, context)

    monkeypatch.setattr(world.scorer, "score", learn_then_score)
    assert world.ask(pair(0.95))[0][0].value == "match"
    world.catalogue.replace_labels({})  # the labels that its key would name
    _, outcome = world.ask(pair(0.95))
    assert len(outcome.evaluated) == 1


def test_another_model_does_not_reuse_answers(tmp_path: Path) -> None:
    World(tmp_path, "one").ask(pair(0.5))
    _, outcome = World(tmp_path, "two").ask(pair(0.5))
    assert len(outcome.evaluated) == 1


def test_thresholds_apply_to_cached_answers(world: World) -> None:
    assert world.ask(pair(0.95), threshold=0.99)[0][0].value == "mismatch"
    answers, outcome = world.ask(pair(0.95), threshold=0.9)
    assert answers[0].value == "match" and list(outcome.evaluated) == []


def test_without_a_cache_everything_is_computed(tmp_path: Path) -> None:
    world = World(tmp_path, cached=False)
    for _ in range(2):
        assert len(world.ask(pair(0.95))[1].evaluated) == 1


def test_more_queries_than_one_part(world: World) -> None:
    queries = [pair(0.95 if i % 2 else 0.05, str(i)) for i in range(PART * 2 + 3)]
    answers, outcome = world.ask(*queries)
    assert [a.value for a in answers] == [
        "match" if i % 2 else "mismatch" for i in range(len(queries))
    ]
    assert len(outcome.evaluated) == len(queries)


def test_a_failed_prompt_falls_back_and_harms_no_neighbour(world: World) -> None:
    def script(prompt: Prompt) -> Completion:
        if "bad" in prompt.question:
            return Completion(None, error="prompt_too_long: 99 tokens")
        return Completion("match", (0.7, 0.3), 0.7)

    world.backend.script = script
    answers, _ = world.ask(pair(0.4, "bad"), pair(0.4, "good"))
    assert [(a.tier, a.probability) for a in answers] == [(0, 0.4), (2, 0.7)]
    failed, _ = world.ask(pair(0.4, "bad"), tier="t2")
    assert failed[0].value is None and failed[0].error == "prompt_too_long: 99 tokens"


def test_a_prompt_that_is_too_long_is_cut_and_asked_again(world: World) -> None:
    def script(prompt: Prompt) -> Completion:
        if len(prompt.question) > 700:
            return Completion(None, error="prompt_too_long: 9999 tokens, at most 1536")
        return Completion("match", (0.7, 0.3), 0.7, prompt_tokens=100)

    world.backend.script = script
    answers, outcome = world.ask(pair(0.5, "x" * 5_000), pair(0.5, "short"))
    assert [(a.tier, a.probability) for a in answers] == [(2, 0.7), (2, 0.7)]
    assert (outcome.engine_prompts, outcome.prompt_tokens) == (2, 200)


def test_batches_finished_before_a_crash_are_kept(world: World) -> None:
    def script(prompt: Prompt) -> Completion:
        if "crash" in prompt.question:
            raise KeyboardInterrupt
        return Completion("match", (0.7, 0.3), 0.7)

    world.backend.script = script
    queries = [pair(0.5, f"n{i}") for i in range(8)] + [pair(0.5, "crash")]
    with pytest.raises(KeyboardInterrupt):
        world.ask(*queries)
    world.backend.script = lambda prompt: Completion("match", (0.6, 0.4), 0.6)
    answers, outcome = world.ask(*queries)
    assert [a.probability for a in answers] == [0.7] * 8 + [0.6]
    assert len(outcome.evaluated) == 1


def test_a_learned_label_is_the_answer_and_a_demonstration(world: World) -> None:
    known, other = pair(0.95, "known"), pair(0.5, "other")
    world.ask(known)
    world.learn(known, "mismatch")
    answers, outcome = world.ask(known, other)
    assert (answers[0].value, answers[0].probability) == ("mismatch", 0.0)
    assert answers[0].evidence[0].kind == "label"
    prompt = world.backend.asked[-1]
    assert [answer for _, answer in prompt.turns] == ["mismatch"]
    assert '"known"' in prompt.turns[0][0]
    assert len(outcome.evaluated) == 1


def test_labels_added_later_are_not_hidden_by_the_cache(world: World) -> None:
    world.ask(pair(0.5, "q"))
    world.learn(pair(0.5, "near q"), "match")
    _, outcome = world.ask(pair(0.5, "q"))
    assert len(outcome.evaluated) == 1


def test_demonstrations_are_balanced_bounded_and_nearest_last(world: World) -> None:
    for i in range(10):
        world.learn(pair(0.5, f"p{i}"), "match")
        world.learn(pair(0.5, f"n{i}"), "mismatch")
    world.ask(pair(0.5, "question"))
    turns = world.backend.asked[-1].turns
    assert sorted(answer for _, answer in turns) == ["match"] * 4 + ["mismatch"] * 4
    assert len({question for question, _ in turns}) == 8


def test_a_tier_that_was_measured_not_to_help_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = {"use": False, "reason": "ranks worse than tier 0"}
    monkeypatch.setattr(cascade, "_measured", lambda: {"match": {"small": entry}})
    policy = choose_policy("match", "small", Options())
    assert not policy.engine and policy.reason == "ranks worse than tier 0"
    assert not policy.escalates(Answer("match", 0.5, 0))
    assert choose_policy("match", "large", Options()).engine
