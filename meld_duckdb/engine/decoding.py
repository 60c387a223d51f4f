"""What a causal language model is made to do: score choices and generate, over cached prefixes.

Rows of a batch are padded on the left, so that the last position of every row is its last token
and the output layer runs on that position only:

    [ prefix, keys and values from the cache | padding | own tokens ]

Nothing here imports a heavy library: model and modules come from `TransformersBackend`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from meld_duckdb.engine.forward import Forward
from meld_duckdb.engine.kv import Job, PrefixCache, PrefixKey, cache_layers
from meld_duckdb.engine.reads import chosen
from meld_duckdb.engine.rendering import Renderer
from meld_duckdb.tasks.base import Completion

_SEQUENCE_POSITIONS = 512
"""Positions whose logits are held at once when choices are scored token by token."""


class Decoder:
    """Runs batches of jobs that share a prefix. Not safe for threads.

    Args:
        forward: The forward pass of a model in evaluation mode.
        renderer: Its tokenizer's renderer.
        torch: The torch module.
        stop_ids: Tokens that end an answer.
        prefixes: Where keys and values of prefixes are kept.
    """

    def __init__(
        self,
        forward: Forward,
        renderer: Renderer,
        *,
        torch: Any,
        stop_ids: frozenset[int],
        prefixes: PrefixCache,
    ) -> None:
        self._torch = torch
        self._call = forward
        self._renderer = renderer
        self._stop_ids = stop_ids
        self._prefixes = prefixes

    def score(self, jobs: Sequence[Job]) -> list[Completion]:
        """Score choices whose first tokens tell them apart, in one forward pass."""
        logits, _, _ = self._forward(jobs, keep=False)
        completions = []
        for job, row in zip(jobs, logits, strict=True):
            scores = [row[sorted(first)].logsumexp(0) for first in job.firsts]
            completions.append(chosen(job, self._torch.stack(scores).tolist()))
        return completions

    def score_sequences(self, jobs: Sequence[Job]) -> list[Completion]:
        """Score choices by all their tokens and the end of the turn, one prompt after another."""
        return [self._score_sequences(job) for job in jobs]

    def generate(self, jobs: Sequence[Job]) -> list[Completion]:
        """Generate greedily; rows leave the batch as soon as they are finished."""
        torch = self._torch
        tokens: list[list[int]] = [[] for _ in jobs]
        logprobs: list[list[float]] = [[] for _ in jobs]
        stops = [self._stop_ids | self._renderer.stops(job.prompt) for job in jobs]
        logits, cache, mask = self._forward(jobs, keep=True)
        live = list(range(len(jobs)))
        while True:
            best, ids = logits.log_softmax(-1).max(-1)
            going = []
            pairs = zip(ids.tolist(), best.tolist(), strict=True)
            for row, (token, logprob) in enumerate(pairs):
                at = live[row]
                logprobs[at].append(logprob)
                if token in stops[at]:
                    continue
                tokens[at].append(token)
                if len(tokens[at]) < jobs[at].prompt.max_tokens:
                    going.append(row)
            if not going:
                break
            if len(going) < len(live):
                keep = torch.tensor(going, device=mask.device)
                layers = [(k[keep], v[keep]) for k, v in cache_layers(cache)]
                cache = self._call.cache_of(layers, len(going))
                mask, ids, live = mask[keep], ids[keep], [live[row] for row in going]
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
            logits = self._call(ids[:, None], mask, cache, keep=1)[:, -1].float()
        return [
            Completion(
                text=self._renderer.decode(tokens[at]),
                probability=math.exp(sum(logprobs[at]) / len(logprobs[at])),
                prompt_tokens=job.n_tokens,
            )
            for at, job in enumerate(jobs)
        ]

    def _score_sequences(self, job: Job) -> Completion:
        torch = self._torch
        logits, cache, mask = self._forward([job], keep=True)
        first = logits[0].log_softmax(-1)
        layers = cache_layers(cache)
        end = self._renderer.end_of_turn
        texts = [self._renderer.encode_text(choice) + end for choice in job.prompt.choices]
        longest = max(len(text) for text in texts)
        step = max(1, _SEQUENCE_POSITIONS // longest)
        scores: list[float] = []
        for start in range(0, len(texts), step):
            rows = texts[start : start + step]
            # Padded on the right: a token never sees what comes after it.
            padded = [row + (row[-1],) * (longest - len(row)) for row in rows]
            ids = torch.tensor(padded, device=mask.device)
            given = self._call.cache_of(layers, len(rows))
            seen = torch.cat([mask.expand(len(rows), -1), mask.new_ones(ids.shape)], dim=1)
            logprobs = self._call(ids, seen, given).float().log_softmax(-1)
            follow = logprobs[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
            for number, row in enumerate(rows):
                rest = follow[number, : len(row) - 1].sum()
                scores.append(float(first[row[0]] + rest))
        return chosen(job, scores)

    def _forward(self, jobs: Sequence[Job], *, keep: bool) -> tuple[Any, Any, Any]:
        """Run jobs behind the prefix they share.

        Returns:
            Logits of every row's last position, float32 [n, vocabulary]; the cache, None unless
            ``keep`` or there is a prefix; the attention mask [n, prefix + padded length].
        """
        torch = self._torch
        prefix, rows = jobs[0].prefix, [job.own for job in jobs]
        longest = max(len(row) for row in rows)
        device = self._call.device
        ids = torch.tensor([(row[0],) * (longest - len(row)) + row for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        places = torch.arange(longest, device=device)
        own = (places[None, :] >= longest - lengths[:, None]).long()
        mask = torch.cat([own.new_ones(len(rows), len(prefix)), own], dim=1)
        cache = self._expanded(jobs[0].key, len(rows)) if prefix or keep else None
        return self._call(ids, mask, cache, keep=1)[:, -1].float(), cache, mask

    def _expanded(self, key: PrefixKey, n_rows: int) -> Any:
        _, prefix = key
        if not prefix:
            return self._call.new_cache()
        layers = self._prefixes.get(key)
        if layers is None:
            ids = self._torch.tensor([prefix], device=self._call.device)
            mask = self._torch.ones_like(ids)
            cache = self._call.new_cache()
            self._call(ids, mask, cache, keep=1)
            layers = cache_layers(cache)
            self._prefixes.put(key, layers)
        return self._call.cache_of(layers, n_rows)
