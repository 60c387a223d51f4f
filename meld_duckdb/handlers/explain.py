"""``meld_explain``: one answer computed anew, with everything that led to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from meld_duckdb.arrow import EVIDENCE_TYPE, as_array, evidence_rows, python_values
from meld_duckdb.errors import InputError, unknown_name
from meld_duckdb.handlers.base import HandlerBase, expect, given_options
from meld_duckdb.handlers.votes import vote_rows
from meld_duckdb.planner.options import Options, parse_options
from meld_duckdb.planner.questions import SHAPES, build_query, given_parts
from meld_duckdb.planner.trace import Trace, TracedPrompt, tracing
from meld_duckdb.tasks import ASKED
from meld_duckdb.tasks.base import Answer, Query
from meld_duckdb.udfs import SqlFunction

_STEPS = {
    "look_up_labels": "labels",
    "look_up_cache": "cache",
    "score_features": "features",
    "ask_expert": "expert",
    "ask_engine": "language model",
    "ask_votes": "votes",
}


def _rows_of(**fields: pa.DataType) -> pa.ListType:
    return pa.list_(pa.struct(list(fields.items())))


_TEXT, _NUMBER = pa.string(), pa.float64()
_EXPLAINED = pa.struct(
    {
        "task": _TEXT,
        "answer": _TEXT,
        "probability": _NUMBER,
        "tier": pa.int8(),
        "settled_by": _TEXT,
        "reason": _TEXT,
        "error": _TEXT,
        "question": _TEXT,
        "tables": pa.list_(_TEXT),
        "steps": _rows_of(
            step=_TEXT,
            seconds=_NUMBER,
            settled=pa.bool_(),
            answer=_TEXT,
            probability=_NUMBER,
            experts=pa.list_(_TEXT),
            evidence=pa.list_(EVIDENCE_TYPE),
        ),
        "features": _rows_of(name=_TEXT, value=_NUMBER, added=_NUMBER),
        "neighbours": _rows_of(text=_TEXT, similarity=_NUMBER),
        "experts": _rows_of(expert=_TEXT, weight=_NUMBER, relevance=_NUMBER),
        "demonstrations": _rows_of(question=_TEXT, answer=_TEXT),
        "prompts": _rows_of(
            source=_TEXT,
            adapter=_TEXT,
            messages=_rows_of(role=_TEXT, content=_TEXT),
            choices=_rows_of(choice=_TEXT, probability=_NUMBER, log_odds=_NUMBER),
            said=_TEXT,
            probability=_NUMBER,
            tokens=pa.int64(),
            error=_TEXT,
        ),
        "votes": _rows_of(source=_TEXT, answer=_TEXT, probability=_NUMBER),
        "cache_key": _TEXT,
        "cached": pa.bool_(),
        "seconds": _NUMBER,
    }.items()
)


class ExplainHandlers(HandlerBase):
    """Handler of explanations."""

    def explain(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """``meld_explain(task, arguments [, options])``: NULL where an argument is NULL."""
        if len(columns) != 2:
            expect(function, columns, 3)
        found = [python_values(as_array(column)) for column in columns]
        rows = [
            self._explain_row(task, given, found[2][i] if len(found) > 2 else None)
            for i, (task, given) in enumerate(zip(*found[:2], strict=True))
        ]
        return pa.array(rows, _EXPLAINED)

    def _explain_row(self, task: Any, given: Any, options: Any) -> dict[str, object] | None:
        if task is None or given is None:
            return None
        if task not in ASKED:
            what, hint = unknown_name("task", str(task), ASKED)
            raise InputError(what, hint=hint)
        shape, parts = SHAPES[task], given_parts(f"argument of {task}", given)
        _check_names(task, parts)
        if options is not None and not isinstance(options, Mapping):
            raise InputError(f"the options are {options!r}, expected a STRUCT")
        chosen = given_options(options)
        extras = {n: v for n, v in {**chosen, **parts}.items() if n in shape.extras}
        read = parse_options(
            task, {n: v for n, v in chosen.items() if n not in shape.extras}, on_error="null"
        )
        arguments = [parts.get(name) for name in shape.arguments]
        query = build_query(task, arguments, extras, read.options)
        if query is None:
            return None
        if not isinstance(query, Query):
            return {"task": task, "settled_by": "nobody", "error": str(query)}
        return _explained(task, query, self._trace(task, query, read), self._max_chars)

    @property
    def _max_chars(self) -> int:
        return self.service.session.settings.answer.max_record_chars

    def _trace(self, task: str, query: Query, options: Options) -> Trace:
        session = self.service.session
        with tracing() as trace:
            answers, _ = session.planner.without_cache().answer(ASKED[task], [query], options)
        trace.answer = answers[0]
        trace.cached = trace.key is not None and session.planner.is_stored(trace.key)
        names = {table.digest: table.name for table in session.catalogue.tables()}
        trace.tables = tuple(names.get(t, t) for t in dict.fromkeys(trace.batch.contexts[0]))
        return trace


def _check_names(task: str, parts: Mapping[str, object]) -> None:
    shape = SHAPES[task]
    known = (*shape.arguments, *shape.extras)
    for name in parts:
        if name not in known:
            what, hint = unknown_name("argument", name, known)
            raise InputError(f"{what} of {task}", hint=hint)
    missing = [n for n in shape.arguments if n not in parts and n not in shape.optional]
    if missing:
        shown = ", ".join(f"'{name}': ..." for name in shape.arguments)
        raise InputError(
            f"the arguments of {task} lack {', '.join(missing)}", hint=f"write them as {{{shown}}}"
        )


def _explained(task: str, query: Query, trace: Trace, max_chars: int) -> dict[str, object]:
    answer, steps = trace.answer, list(_step_rows(trace))
    evidence = [e for step in trace.steps for e in _opinion(step.batch).evidence]
    last = trace.prompts[-1].prompt if trace.prompts else None
    return {
        "task": task,
        "answer": answer.value,
        "probability": answer.probability,
        "tier": answer.tier,
        "settled_by": _settled_by(trace),
        "reason": _reason(trace),
        "error": answer.error,
        "question": (last or ASKED[task].prompt(query, (), max_chars)).question,
        "tables": trace.tables,
        "steps": steps,
        "features": [
            {"name": f.name, "value": f.value, "added": round(f.added, 4)} for f in trace.features
        ],
        "neighbours": [
            {"text": e.text, "similarity": e.weight}
            for e in dict.fromkeys(evidence)
            if e.kind == "neighbour"
        ],
        "experts": [
            {"expert": name, "weight": weight, "relevance": relevance}
            for name, weight, relevance in trace.routed
        ],
        "demonstrations": [
            {"question": question, "answer": said}
            for question, said in (last.turns if last is not None else ())
        ],
        "prompts": [_prompt_row(one, trace) for one in trace.prompts],
        "votes": vote_rows(evidence_rows(answer.evidence)),
        "cache_key": trace.key,
        "cached": trace.cached,
        "seconds": round(sum(step.seconds for step in trace.steps), 4),
    }


def _opinion(batch: Any) -> Answer:
    """What is held for the answer after a step."""
    found: Answer | None = batch.answers[0] or batch.tentative[0]
    return found or Answer()


def _step_rows(trace: Trace) -> Iterator[dict[str, object]]:
    """The steps; each with what it changed about the answer."""
    before, seen = Answer(), set()
    for step in trace.steps:
        if step.name in seen:
            continue
        seen.add(step.name)
        after = _opinion(step.batch)
        said = after if after != before else Answer()
        before = after
        yield {
            "step": _STEPS.get(step.name, step.name),
            "seconds": round(step.seconds, 4),
            "settled": not step.batch.open,
            "answer": said.value,
            "probability": said.probability,
            "experts": said.experts,
            "evidence": evidence_rows(said.evidence),
        }


def _settled_by(trace: Trace) -> str:
    step = _STEPS.get(trace.steps[-1].name, trace.steps[-1].name)
    tier = trace.answer.tier
    if step == "labels":
        return step
    if tier is None:
        return "nobody"
    return step if tier == 2 else ("features", "expert")[tier]


def _reason(trace: Trace) -> str:
    """Why which tier was asked: the experts of tier 1, and the calibration of tier 2."""
    batch = trace.batch
    if trace.steps[-1].name == "look_up_labels":
        return "this question is labelled"
    parts: list[str] = []
    expert = batch.experts[0] if batch.experts else None
    if expert is not None:
        parts.append(f"tier 1: expert {expert.card.id}: {expert.card.reason}")
    gate, policy = (batch.gates[0] if batch.gates else None), batch.policy
    decided = policy if gate is None else gate
    used = policy.engine if gate is None else gate.use
    said = "asked" if trace.prompts else "not asked"
    bounds = f" between {decided.low:g} and {decided.high:g}" if used and decided.low >= 0 else ""
    by = "" if gate is None else "calibration of this workspace: "
    parts.append(f"tier 2 {said}: {by}{decided.reason}{bounds and f'; it is for rows{bounds}'}")
    return "; ".join(parts)


def _prompt_row(one: TracedPrompt, trace: Trace) -> dict[str, object]:
    prompt, said = one.prompt, one.completion
    turns = [message for turn in prompt.turns for message in zip(_ROLES, turn, strict=True)]
    messages = [("system", prompt.system), *turns, ("user", prompt.question)]
    shares = said.choice_probabilities
    return {
        "source": trace.sources.get(prompt),
        "adapter": one.adapter,
        "messages": [{"role": role, "content": text} for role, text in messages if text],
        "choices": [
            {"choice": choice, "probability": share, "log_odds": _log_odds(share)}
            for choice, share in zip(prompt.choices, shares, strict=bool(shares))
        ],
        "said": said.text,
        "probability": said.probability,
        "tokens": said.prompt_tokens,
        "error": said.error,
    }


_ROLES = ("user", "assistant")


def _log_odds(share: float) -> float | None:
    return math.log(share / (1 - share)) if 0 < share < 1 else None
