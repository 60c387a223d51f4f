"""What every `Backend` promises, whatever runs the model."""

from __future__ import annotations

import math
import random
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meld_duckdb.engine.adapters import CONFIG, Adapter, open_adapter, read_config
from meld_duckdb.engine.merge_store import MergeStore
from meld_duckdb.engine.rendering import Renderer
from meld_duckdb.errors import ArtefactCorrupt, ArtefactIncompatible, ArtefactMissing
from meld_duckdb.planner.backends import BACKENDS
from meld_duckdb.settings import Settings
from meld_duckdb.tasks.base import Completion, Prompt
from tests.contract.engines import MOST_TOKENS, Engine
from tests.unit.tiny_llama import make_tokenizer, save_tiny_llama

SYSTEM = "Do both records describe the same product?"
TURNS = (("title: sony | title: sony", "yes"), ("title: sony | title: canon", "no"))
QUESTIONS = ("a", "title: sony camera", "price: 12.50 " * 9, "Résumé 数据", "<|im_end|>")
CHOICES: tuple[tuple[str, ...], ...] = (("yes", "no"), ("10", "100", "12", "1"), ())
PROMPTS = [Prompt(SYSTEM, TURNS, q, c, max_tokens=5) for q in QUESTIONS for c in CHOICES]
PROMPTS += [Prompt(SYSTEM, TURNS, q, max_tokens=5, one_line=True) for q in QUESTIONS]
LONG = Prompt(SYSTEM, TURNS, "x y z " * 300, ("yes", "no"))


def log_odds(completion: Completion) -> list[float]:
    first, *others = completion.choice_probabilities
    return [math.log(other / first) for other in others]


def assert_alike(some: list[Completion], others: list[Completion], within: float = 1e-3) -> None:
    for one, other in zip(some, others, strict=True):
        assert (one.text, one.error, one.prompt_tokens) == (
            other.text,
            other.error,
            other.prompt_tokens,
        )
        assert one.probability == pytest.approx(other.probability, abs=within)
        if one.choice_probabilities:
            assert log_odds(one) == pytest.approx(log_odds(other), abs=within)


def test_every_position_occurs_once_and_nothing_asked_is_nothing_answered(every: Engine) -> None:
    assert list(every.backend.complete([])) == []
    for n in (1, 2, 11):
        parts = list(every.backend.complete(PROMPTS[:n]))
        assert all(parts)
        assert sorted(position for part in parts for position, _ in part) == list(range(n))


def test_choices_sum_to_one_and_the_likeliest_is_the_text(every: Engine) -> None:
    for prompt, got in zip(PROMPTS, every.answers(PROMPTS), strict=True):
        assert got.error is None and got.text is not None and got.probability is not None
        assert got.prompt_tokens > 0
        if not prompt.choices:
            assert got.choice_probabilities == ()
            assert 0 < got.probability <= 1
            assert got.text == got.text.strip()
            continue
        assert len(got.choice_probabilities) == len(prompt.choices)
        assert sum(got.choice_probabilities) == pytest.approx(1.0)
        assert got.probability == max(got.choice_probabilities)
        assert got.text == prompt.choices[got.choice_probabilities.index(got.probability)]


def test_answers_do_not_depend_on_what_else_is_asked(every: Engine) -> None:
    together = every.answers(PROMPTS)
    order = list(range(len(PROMPTS)))
    random.Random(5).shuffle(order)
    shuffled = every.answers([PROMPTS[i] for i in order])
    assert_alike([together[i] for i in order], shuffled)
    assert_alike(together[3:4], every.answers(PROMPTS[3:4]))
    assert_alike([together[0]] * 3, every.answers([PROMPTS[0]] * 3))


def test_a_call_that_is_given_up_harms_no_other(every: Engine) -> None:
    expected = every.answers(PROMPTS)
    for _ in range(3):
        started = iter(every.backend.complete(PROMPTS))
        next(started)
        del started
    assert_alike(every.answers(PROMPTS), expected)


def test_the_answers_are_those_of_the_embedded_engine(real: Engine, embedded: Engine) -> None:
    assert_alike(real.answers(PROMPTS), embedded.answers(PROMPTS))


def test_data_is_no_control_token(real: Engine) -> None:
    renderer = Renderer(make_tokenizer())
    for prompt, got in zip(PROMPTS, real.answers(PROMPTS), strict=True):
        assert got.prompt_tokens == len(renderer.render(prompt, MOST_TOKENS))


def test_a_prompt_that_is_too_long_is_an_error_of_its_own(real: Engine) -> None:
    before, too_long, after = real.answers([PROMPTS[0], LONG, PROMPTS[2]])
    assert too_long.text is None and too_long.choice_probabilities == ()
    assert too_long.error is not None and too_long.error.startswith("prompt_too_long: ")
    assert too_long.prompt_tokens > MOST_TOKENS
    assert_alike([before, after], real.answers([PROMPTS[0], PROMPTS[2]]))


def test_the_oldest_turns_go_first_unless_they_are_kept(real: Engine) -> None:
    long = Prompt(SYSTEM, (("old " * 300, "yes"), *TURNS), "a", ("yes", "no"))
    without = replace(long, turns=TURNS)
    [shortened, same] = real.answers([long, without])
    assert_alike([shortened], [same])
    [refused] = real.answers([replace(long, keep_turns=True)])
    assert refused.error is not None and refused.error.startswith("prompt_too_long: ")


def test_adapters_change_answers_and_leave_no_trace(
    real: Engine, embedded: Engine, adapters: list[Adapter]
) -> None:
    plain = real.answers(PROMPTS)
    for adapter in (*adapters, adapters[0]):  # more than are kept
        got = real.answers(PROMPTS, adapter)
        assert_alike(got, embedded.answers(PROMPTS, adapter))
        assert max(abs(a.probability - b.probability) for a, b in _pairs(got, plain)) > 0.01
        assert_alike(real.answers(PROMPTS), plain, within=1e-5)


def test_an_adapter_is_its_content(real: Engine, adapters: list[Adapter], tmp_path: Path) -> None:
    """Another content in the same place is another adapter: nothing of the old one is reused."""
    place = tmp_path / "expert"
    answers = []
    for adapter in adapters[:2]:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(adapter.path, place)
        answers.append(real.answers(PROMPTS, open_adapter(place)))
        assert_alike(answers[-1], real.answers(PROMPTS, adapter))
    assert max(abs(a.probability - b.probability) for a, b in _pairs(*answers)) > 0.01


def test_a_merged_adapter_is_one_like_any_other(
    real: Engine, embedded: Engine, adapters: list[Adapter], tmp_path: Path
) -> None:
    parts = [(adapters[0].path, 0.25), (adapters[2].path, 0.75)]
    merged = MergeStore(tmp_path / "merged").get(parts)
    assert_alike(real.answers(PROMPTS, merged), embedded.answers(PROMPTS, merged))


def test_adapters_that_cannot_be_used_are_refused(
    real: Engine, adapters: list[Adapter], tmp_path: Path
) -> None:
    place = Path(shutil.copytree(adapters[1].path, tmp_path / "expert"))
    opened = open_adapter(place)
    text = (place / CONFIG).read_text("utf-8")
    (place / CONFIG).write_text(text.replace('"lora_alpha": 8', '"lora_alpha": 9'), "utf-8")
    with pytest.raises(ArtefactCorrupt, match="has changed"):
        real.answers(PROMPTS[:1], opened)
    assert not read_config(place)["use_dora"]
    (place / CONFIG).write_text(text.replace('"use_dora": false', '"use_dora": true'), "utf-8")
    with pytest.raises(ArtefactIncompatible, match="use_dora"):
        real.answers(PROMPTS[:1], open_adapter(place))
    opened = open_adapter(place)
    shutil.rmtree(place)
    with pytest.raises(ArtefactMissing):
        real.answers(PROMPTS[:1], opened)
    assert real.answers(PROMPTS[:1])[0].error is None


def test_concurrent_calls_with_different_adapters_do_not_mix(
    request: pytest.FixtureRequest, real: Engine, adapters: list[Adapter]
) -> None:
    if request.node.callspec.params["real"] == "served":
        pytest.skip("a CPU build of vLLM mixes them: design note 019")
    wanted: list[Adapter | None] = [None, *adapters, None]
    expected = [real.answers(PROMPTS, adapter) for adapter in wanted]
    got: dict[int, list[Completion]] = {}

    def ask(number: int) -> None:
        got[number] = real.answers(PROMPTS, wanted[number])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(wanted))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, answers in enumerate(expected):
        assert_alike(got[i], answers)


def test_the_digest_is_known_before_and_changes_with_what_changes_answers(
    real: Engine, model_path: Path, tmp_path: Path
) -> None:
    of = BACKENDS[real.name].digest
    settings = real.settings
    assert of(model_path, settings) == real.backend.digest
    others = [of(model_path, other) for other in _others(settings)]
    others.append(of(save_tiny_llama(tmp_path, seed=8, head_dim=32), settings))
    assert len({real.backend.digest, *others}) == len(others) + 1
    same = replace(settings, engine_batch=3, progress=False, vllm_adapters=1, openai_concurrency=2)
    assert of(model_path, same) == real.backend.digest


def _others(settings: Settings) -> list[Settings]:
    found = [replace(settings, answer=replace(settings.answer, max_prompt_tokens=300))]
    if settings.backend == "openai":
        found.append(replace(settings, openai_url="http://127.0.0.1:1/v1"))
        found.append(replace(settings, openai_model="another"))
    else:
        found.append(replace(settings, device="cuda"))
    return found


def _pairs(some: Any, others: Any) -> Any:
    return zip(some, others, strict=True)
