"""Whatever stands in a table, a prompt keeps its structure, in text and in tokens."""

from __future__ import annotations

import re

import pytest

from meld_duckdb.engine.kv import Job
from meld_duckdb.engine.openai_ways import chat_body
from meld_duckdb.engine.rendering import Renderer
from meld_duckdb.kcmf.items import ITEMS
from meld_duckdb.kcmf.prompts import (
    Example,
    Parts,
    filter_prompt,
    indicator,
    keyword_prompt,
    match_prompt,
    summary_prompt,
)
from meld_duckdb.kcmf.rules import BUILT_IN
from meld_duckdb.records import make_record
from meld_duckdb.tasks import ASKED
from meld_duckdb.tasks.base import Prompt
from tests.integration.embedded import path_of
from tests.security.attacks import ATTACKS, PLACES, PLAIN, cases, question
from tests.unit.tiny_llama import make_tokenizer

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_OBJECT = re.compile(r"\{(?:S: S(?:, S: S)*)?\}")
_CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
_FAMILIES = {
    "chatml": (("<|im_start|>", "<|im_end|>"), _CHATML),
    "llama3": (
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "gemma": (
        ("<start_of_turn>", "<end_of_turn>"),
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n{% endfor %}<start_of_turn>model\n",
    ),
    "mistral": (
        ("[INST]", "[/INST]", "</s>", "<s>"),
        "<s>{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }}</s>{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}",
    ),
    "plain": (("</s>",), None),
}


def skeleton(text: str) -> str:
    """What stands outside of JSON: everything that is not data."""
    return _OBJECT.sub("O", _STRING.sub("S", text))


def prompt_of(task: str, place: str, text: str) -> Prompt:
    query, shown = question(task, place, text)
    return ASKED[task].prompt(query, shown, 1_500)


@pytest.fixture(scope="module")
def smollm2() -> Renderer:
    from transformers import AutoTokenizer

    path = path_of("smollm2-135m-instruct", "language model")
    return Renderer(AutoTokenizer.from_pretrained(path, local_files_only=True))


@pytest.fixture(scope="module", params=list(_FAMILIES))
def family(request: pytest.FixtureRequest) -> Renderer:
    """Renderers with the control tokens and the templates of several families."""
    tokens, template = _FAMILIES[request.param]
    tokenizer = make_tokenizer(template)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    return Renderer(tokenizer)


@pytest.mark.parametrize("task", ASKED)
def test_no_text_can_leave_its_delimiters(task: str) -> None:
    plain = {place: prompt_of(task, place, PLAIN) for place in PLACES}
    for name, place in cases():
        prompt, expected = prompt_of(task, place, ATTACKS[name]), plain[place]
        where = (name, place)
        assert prompt.system == expected.system, where
        assert prompt.choices == expected.choices, where
        assert len(prompt.turns) == len(expected.turns), where
        assert skeleton(prompt.question) == skeleton(expected.question), where
        for turn, other in zip(prompt.turns, expected.turns, strict=True):
            assert skeleton(turn[0]) == skeleton(other[0]), where
        if place == "answer" and ASKED[task].labels is None:  # else labels are looked up by theirs
            answers = [answer for _, answer in prompt.turns]
            assert all(len(a) <= 200 and len(a.splitlines()) <= 1 for a in answers), where
        if place not in {"value", "demonstration", "answer"}:
            continue
        assert len(prompt.question) < 6_000, where  # escapes of \u003c take the most


def kcmf_prompts(kind: str, text: str) -> dict[str, Prompt]:
    """All prompts of KcMF, with a text in every place that data reaches."""
    if kind == "schema_match":
        record = make_record({"table": text, "column": text, "description": text, "values": text})
    else:
        record = make_record({"title": text, text: text})
    item = ITEMS[kind](record)
    example = Example((item, item), (), "yes", indicator(kind, (text, text)))
    parts = Parts(
        kind,
        (item, item),
        BUILT_IN[kind],
        (text, text),
        (example,),
        indicator(kind, (text, text)),
        300,
    )
    found = {
        f"match {mode}": match_prompt(parts, mode, 100_000).prompt
        for mode in ("choose", "generate")
    }
    found["summary"] = summary_prompt(kind, item, (text, text), 300)
    found["keywords"] = keyword_prompt(kind, item, 300)
    found["filter"] = filter_prompt(kind, text[:60])
    return found


@pytest.mark.parametrize("kind", ["schema_match", "entity_match"])
def test_knowledge_and_summaries_cannot_leave_their_delimiters(kind: str) -> None:
    plain = kcmf_prompts(kind, PLAIN)
    for name, text in ATTACKS.items():
        for what, prompt in kcmf_prompts(kind, text).items():
            expected = plain[what]
            assert prompt.system == expected.system, (name, what)
            assert len(prompt.turns) == len(expected.turns), (name, what)
            for got, other in zip(
                (*(t for turn in prompt.turns for t in turn), prompt.question),
                (*(t for turn in expected.turns for t in turn), expected.question),
                strict=True,
            ):
                assert skeleton(got) == skeleton(other), (name, what)


def control_tokens(renderer: Renderer, prompt: Prompt) -> list[int]:
    rendered = renderer.render(prompt, 1_000_000)
    assert rendered.dropped == 0
    return [i for i in (*rendered.prefix, *rendered.own) if i in renderer._control_ids]


def check_tokens(renderer: Renderer, tasks: list[str]) -> None:
    assert renderer._control_ids
    for task in tasks:
        plain = {place: control_tokens(renderer, prompt_of(task, place, PLAIN)) for place in PLACES}
        for name, place in cases():
            found = control_tokens(renderer, prompt_of(task, place, ATTACKS[name]))
            assert found == plain[place], (task, name, place)


def test_no_text_becomes_a_control_token_of_any_family(family: Renderer) -> None:
    check_tokens(family, ["match", "link_entity", "annotate_column"])


def test_a_renderer_that_trusted_texts_would_be_caught(smollm2: Renderer) -> None:
    """The check of this file sees what an ordinary chat template lets through."""
    ids = smollm2._tokenizer(ATTACKS["chatml"], add_special_tokens=False)["input_ids"]
    assert not smollm2._control_ids.isdisjoint(ids)
    assert smollm2._control_ids.isdisjoint(smollm2.encode_text(ATTACKS["chatml"]))


@pytest.mark.parametrize("task", ASKED)
def test_no_text_becomes_a_control_token_of_the_real_model(task: str, smollm2: Renderer) -> None:
    check_tokens(smollm2, [task])


@pytest.mark.parametrize("kind", ["schema_match", "entity_match"])
def test_nor_does_knowledge(kind: str, smollm2: Renderer) -> None:
    plain = kcmf_prompts(kind, PLAIN)
    for name, text in ATTACKS.items():
        for what, prompt in kcmf_prompts(kind, text).items():
            assert control_tokens(smollm2, prompt) == control_tokens(smollm2, plain[what]), (
                name,
                what,
            )


def test_what_a_server_is_told_by_chat_spells_out_no_control_token() -> None:
    """Where a server puts the prompt together, control tokens are broken up in the text."""
    tokens = [token for tokens, _ in _FAMILIES.values() for token in tokens]
    for name, place in cases():
        prompt = prompt_of("annotate_column", place, ATTACKS[name])
        body = chat_body("m", Job(0, prompt, (), (), (), ""))
        roles = [message["role"] for message in body["messages"]]
        assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
        for message in body["messages"]:
            assert not [t for t in tokens if t in message["content"]], (name, place)


def test_an_encoder_reads_a_control_token_in_a_text_as_text() -> None:
    from meld_duckdb.engine.cross_encoder import load_encoder, tokenise

    tokenizer, _ = load_encoder(path_of("all-minilm-l6-v2", "encoder"))
    for name, text in ATTACKS.items():
        [encoded] = tokenise(tokenizer, [(text, text)], 256)
        found = [i for i in encoded["input_ids"] if i in tokenizer.all_special_ids]
        unknown = tokenizer.unk_token_id
        assert [i for i in found if i != unknown] == [
            tokenizer.cls_token_id,
            tokenizer.sep_token_id,
            tokenizer.sep_token_id,
        ], name
