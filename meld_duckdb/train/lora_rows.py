"""Training rows as tokens, worded and rendered the way the engine will ask.

    row -> prompt of its task -> tokens as `engine.rendering` makes them -> what is to be learned

A closed question is learned as `engine.decoding.Decoder` reads it: by the first tokens of the
choices, or, where these cannot tell the choices apart, by all their tokens and the end of the turn.
An open answer is learned token by token, with the end of the turn.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from meld_duckdb.engine.rendering import Renderer
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Demonstration, Prompt
from meld_duckdb.tasks.letters import letters
from meld_duckdb.train.rows import TrainingRow

Prompting = Callable[[TrainingRow, int], Prompt]
"""Makes the prompt of a row whose records may take about so many characters."""

HALVINGS = 4
"""Times the records of a prompt that is too long are cut to half, as the planner does."""

_WINDOW = 8
_COMMON = 4


@dataclass(frozen=True, slots=True)
class Example:
    """One row, ready for the model.

    Attributes:
        task: Name of its task.
        prompt: The tokens of the prompt.
        firsts: Per choice the tokens that begin it, where these tell the choices apart.
        sequences: Else per choice all its tokens and the end of the turn; for an open answer only
            its own.
        target: Number of the right choice.
        weight: How much it counts.
        group: Rows with the same number share a prefix, other than -1.
    """

    task: str
    prompt: tuple[int, ...]
    firsts: tuple[tuple[int, ...], ...]
    sequences: tuple[tuple[int, ...], ...]
    target: int
    weight: float
    group: int = -1

    @property
    def inputs(self) -> list[tuple[int, ...]]:
        """What the model reads: the prompt, and each sequence but its last token."""
        return [self.prompt + sequence[:-1] for sequence in self.sequences] or [self.prompt]

    @property
    def n_read(self) -> int:
        """Positions at the end of an input whose logits are read, at most."""
        return max((len(sequence) for sequence in self.sequences), default=1)


def zero_shot(row: TrainingRow, max_chars: int) -> Prompt:
    """The prompt of a row's task without demonstrations."""
    return TASKS[row.task].prompt(row.query, (), max_chars)


def make_examples(
    rows: Sequence[TrainingRow],
    renderer: Renderer,
    prompting: Prompting,
    *,
    max_tokens: int,
    max_chars: int,
) -> list[Example]:
    """Turn rows into examples; both answers of a binary task get the same weight in total.

    A prompt that is too long loses demonstrations, then half of its records' characters, as when
    it is asked. Rows whose answer is none of the choices, or that are still too long, are left
    out.
    """
    firsts = functools.cache(renderer.choice_tokens)
    found: list[Example] = []
    prefixes: list[tuple[int, ...]] = []
    for row in rows:
        for halving in range(HALVINGS + 1):
            chars = max_chars >> halving
            prompt = prompting(row, chars)
            rendered = renderer.render(prompt, max_tokens)
            if len(rendered) <= max_tokens:
                break
        else:
            continue
        tokens = rendered.prefix + rendered.own
        example = _learn(row, prompt, tokens, renderer, firsts(prompt.choices), chars)
        if example is not None:
            found.append(example)
            prefixes.append(rendered.prefix)
    return _balanced(_grouped(found, prefixes))


def _learn(
    row: TrainingRow,
    prompt: Prompt,
    tokens: tuple[int, ...],
    renderer: Renderer,
    firsts: tuple[frozenset[int], ...],
    max_chars: int,
) -> Example | None:
    """What a row teaches; None where its answer is none of the choices."""
    if not prompt.choices:
        shown = (Demonstration(row.query, row.answer),)
        text = TASKS[row.task].prompt(row.query, shown, max_chars).turns[0][1]
        answer = renderer.encode_text(text)[: prompt.max_tokens] + renderer.end_of_turn
        return Example(row.task, tokens, (), (answer,), 0, row.weight) if answer else None
    right = _right_choice(row, prompt)
    if right is None:
        return None
    if firsts:
        ordered = tuple(tuple(sorted(first)) for first in firsts)
        return Example(row.task, tokens, ordered, (), right, row.weight)
    said = tuple(renderer.encode_text(text) + renderer.end_of_turn for text in prompt.choices)
    return Example(row.task, tokens, (), said, right, row.weight) if all(said) else None


def _right_choice(row: TrainingRow, prompt: Prompt) -> int | None:
    domain = row.query.domain
    named = domain if domain and prompt.choices == letters(domain) else prompt.choices
    shown = named[: len(prompt.choices)]
    return shown.index(row.answer) if row.answer in shown else None


def _grouped(examples: Sequence[Example], prefixes: Sequence[tuple[int, ...]]) -> list[Example]:
    """Number the prefixes that several rows share."""
    counts = Counter(prefixes)
    numbers = {p: i for i, p in enumerate(p for p, n in counts.items() if n >= _COMMON)}
    return [
        replace(example, group=numbers.get(prefix, -1))
        for example, prefix in zip(examples, prefixes, strict=True)
    ]


def _balanced(examples: Sequence[Example]) -> list[Example]:
    totals: dict[tuple[str, int], float] = defaultdict(float)
    for example in examples:
        totals[example.task, example.target] += example.weight
    balanced = []
    for example in examples:
        sides = [totals.get((example.task, side), 0.0) for side in (0, 1)]
        if TASKS[example.task].labels is not None and all(sides):
            weight = example.weight * sum(sides) / (2 * sides[example.target])
            balanced.append(replace(example, weight=weight))
        else:
            balanced.append(example)
    return balanced


def batches(
    examples: Sequence[Example], size: int, rng: np.random.Generator
) -> Iterator[list[Example]]:
    """Cut a pass into batches: shuffled, then alike in prefix and length within a window of them.

    What the model reads in common at the beginning of a batch is computed once, and similar
    lengths need little padding.
    """
    order = rng.permutation(len(examples)).tolist()
    found: list[list[Example]] = []
    for start in range(0, len(order), size * _WINDOW):
        window = [examples[i] for i in order[start : start + size * _WINDOW]]
        window.sort(key=lambda e: (e.task, e.group, len(e.prompt)))
        found += [window[i : i + size] for i in range(0, len(window), size)]
    for i in rng.permutation(len(found)).tolist():
        yield found[i]
