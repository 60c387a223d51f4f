"""From a `Prompt` to token ids, so that data can never turn into a control token.

The chat template is rendered once per number of turns with slots in place of all texts. What the
template wrote is tokenised with its control tokens; what comes from a `Prompt` is tokenised piece
by piece as ordinary text, so ``<|im_end|>`` in a cell is seven harmless tokens.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meld_duckdb.tasks.base import Prompt

_SLOT = re.compile(r"MELDSLOT(\d+)END")
_SYSTEM = 0
_MARKER = re.compile(r"\s*[<\[].+", re.DOTALL)
_TEMPLATE_OPTIONS = {
    "enable_thinking": False,
    # Templates of the Llama 3 family print today's date unless told; answers must not age.
    "date_string": "26 Jul 2024",
}


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as token ids.

    Attributes:
        prefix: Everything before the question: system, turns and the header of the user's turn.
        own: The question and the header of the assistant's turn.
        dropped: How many turns were left out to fit.
    """

    prefix: tuple[int, ...]
    own: tuple[int, ...]
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.prefix) + len(self.own)


class Renderer:
    """Renders prompts with the chat template of a tokenizer, or as plain text if it has none.

    Not safe for threads: tokenizers keep state while they encode.

    Attributes:
        end_of_turn: The token that closes an answer, as a tuple; empty if there is none.
        stop_ids: All tokens that end an answer of several lines.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._control_ids, self._control = _control_tokens(tokenizer)
        self._has_template = tokenizer.chat_template is not None
        self._layout = functools.lru_cache(maxsize=64)(self._make_layout)
        self._shared_text = functools.lru_cache(maxsize=4096)(self.encode_text)
        self.end_of_turn = self._find_end_of_turn()
        self.stop_ids = self._find_stop_ids()

    def render(self, prompt: Prompt, max_tokens: int) -> Rendered:
        """Render a prompt; the oldest turns go first when it exceeds ``max_tokens``.

        A prompt whose question alone is too long is returned as it is, without turns, and one
        with ``keep_turns`` with all of them.
        """
        question = self.encode_text(prompt.question)
        for dropped in range(1 if prompt.keep_turns else len(prompt.turns) + 1):
            rendered = self._assemble(prompt, dropped, question)
            if len(rendered) <= max_tokens:
                break
        return rendered

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Encode data as ordinary text, whatever control tokens it spells out."""
        text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates: tokenizers raise
        pieces = self._cut(text)
        ids = [token for piece in pieces for token in self._ordinary(piece)]
        if not self._control_ids.isdisjoint(ids):
            # Normalisation can assemble a control token that the text did not spell out.
            ids = [token for char in text for token in self._ordinary(char)]
            ids = [token for token in ids if token not in self._control_ids]
        return tuple(ids)

    def decode(self, ids: list[int]) -> str:
        """Decode generated tokens to stripped text without control tokens."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def spell(self, token: int) -> str:
        """Decode one token as it is."""
        return str(self._tokenizer.decode([token]))

    def stops(self, prompt: Prompt) -> frozenset[int]:
        """Return the tokens that end an answer to a prompt."""
        return self.stop_ids | self._line_ends if prompt.one_line else self.stop_ids

    @functools.cached_property
    def _line_ends(self) -> frozenset[int]:
        """Tokens that hold a line break, as byte-level and byte-fallback models spell it."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        breaks = ("\n", "\N{LATIN CAPITAL LETTER C WITH DOT ABOVE}", "<0x0A>")
        return frozenset(
            index for text, index in vocabulary.items() if any(line in text for line in breaks)
        )

    def first_tokens(self, choice: str) -> frozenset[int]:
        """Return the tokens an answer can begin with when it is ``choice``.

        Variants with and without a leading space, as written, capitalised and in lower case; a
        token of nothing but space says nothing about the choice and is left out.
        """
        forms = {choice, choice.lower(), choice[:1].upper() + choice[1:]}
        firsts = set()
        for form in forms | {f" {form}" for form in forms}:
            ids = self.encode_text(form)
            if ids and str(self._tokenizer.decode([ids[0]])).strip():
                firsts.add(ids[0])
        return frozenset(firsts)

    def choice_tokens(self, choices: Sequence[str]) -> tuple[frozenset[int], ...]:
        """Return the `first_tokens` of each choice; nothing if they cannot tell choices apart."""
        firsts = tuple(self.first_tokens(choice) for choice in choices)
        distinct = len(frozenset().union(*firsts)) == sum(map(len, firsts))
        return firsts if distinct and all(firsts) else ()

    def _assemble(self, prompt: Prompt, dropped: int, question: tuple[int, ...]) -> Rendered:
        turns = prompt.turns[dropped:]
        texts = [prompt.system, *(text for turn in turns for text in turn)]
        layout = self._layout(len(turns))
        own = layout.index(2 * len(turns) + 1)
        prefix: list[int] = []
        for piece in layout[:own]:
            prefix += piece if isinstance(piece, tuple) else self._shared_text(texts[piece])
        rest = [token for piece in layout[own:] if isinstance(piece, tuple) for token in piece]
        return Rendered(tuple(prefix), (*question, *rest), dropped)

    def _make_layout(self, n_turns: int) -> tuple[tuple[int, ...] | int, ...]:
        """Lay out a conversation: token ids the template wrote, and numbers of slots between."""
        text = self._template_text(n_turns) if self._has_template else None
        if text is None:
            text = _plain_text(n_turns)
        pieces: list[tuple[int, ...] | int] = []
        if not self._has_template:
            pieces.append(self._beginning())
        # Split with one group: texts at even positions, slot numbers at odd ones.
        for position, part in enumerate(_SLOT.split(text)):
            pieces.append(int(part) if position % 2 else self._template_ids(part))
        return tuple(pieces)

    def _template_text(self, n_turns: int) -> str | None:
        """Render the template with slots; None if it does not show every text once."""
        from jinja2.exceptions import TemplateError

        slots = [_slot(number) for number in range(2 * n_turns + 2)]
        roles = ["user", "assistant"] * n_turns + ["user"]
        chat = [{"role": r, "content": s} for r, s in zip(roles, slots[1:], strict=True)]
        merged = [{"role": "user", "content": f"{slots[_SYSTEM]}\n\n{slots[1]}"}, *chat[1:]]
        # Some templates (Gemma) refuse a system message: it then opens the first user message.
        for messages in ([{"role": "system", "content": slots[_SYSTEM]}, *chat], merged):
            try:
                text = str(
                    self._tokenizer.apply_chat_template(
                        messages, tokenize=False, add_generation_prompt=True, **_TEMPLATE_OPTIONS
                    )
                )
            except TemplateError:
                continue
            shown = [int(number) for number in _SLOT.findall(text)]
            if sorted(shown) == list(range(len(slots))) and shown[-1] == len(slots) - 1:
                return text
        return None

    def _find_end_of_turn(self) -> tuple[int, ...]:
        """Find the control token that the template writes after an answer, else end of text."""
        if self._has_template:
            layout = self._layout(1)
            answer_slot = 2
            after = layout[layout.index(answer_slot) + 1]
            if isinstance(after, tuple) and after and after[0] in self._control_ids:
                return after[:1]
        eos = self._tokenizer.eos_token_id
        return () if eos is None else (eos,)

    def _find_stop_ids(self) -> frozenset[int]:
        stops = {*self.end_of_turn, self._tokenizer.eos_token_id}
        if not self._has_template:
            stops.update(ids[-1] for line in ("\n", "\n\n") if (ids := self._ordinary(line)))
        return frozenset(stop for stop in stops if stop is not None)

    def _beginning(self) -> tuple[int, ...]:
        start = self._tokenizer.bos_token_id
        added = self._tokenizer("", add_special_tokens=True)["input_ids"]
        return (start,) if start is not None and start in added else ()

    def _template_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()

    def _ordinary(self, text: str) -> list[int]:
        if not text:
            return []
        ids: list[int] = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        )["input_ids"]
        return ids

    def _cut(self, text: str) -> list[str]:
        """Cut every spelled-out control token after its first character."""
        if self._control is None:
            return [text]
        cuts = [match.start() + 1 for match in self._control.finditer(text)]
        return [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _control_tokens(tokenizer: Any) -> tuple[frozenset[int], re.Pattern[str] | None]:
    """Find the ids of control tokens, and a pattern of their texts.

    Besides the special tokens these are added tokens that look like markers, such as
    ``<tool_call>``. The unknown token is not forbidden: ordinary text may give it.
    """
    special = set(tokenizer.all_special_tokens)
    texts = {
        text: index
        for text, index in tokenizer.get_added_vocab().items()
        if text in special or _MARKER.fullmatch(text)
    }
    ids = frozenset(texts.values()) - {tokenizer.unk_token_id}
    if not texts:
        return ids, None
    longest_first = sorted(texts, key=len, reverse=True)
    return ids, re.compile("|".join(re.escape(text) for text in longest_first if text))


def _slot(number: int) -> str:
    return f"MELDSLOT{number}END"


def _plain_text(n_turns: int) -> str:
    turns = "".join(f"{_slot(2 * i + 1)}\nAnswer: {_slot(2 * i + 2)}\n\n" for i in range(n_turns))
    return f"{_slot(_SYSTEM)}\n\n{turns}{_slot(2 * n_turns + 1)}\nAnswer:"
