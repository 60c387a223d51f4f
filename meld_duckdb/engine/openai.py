"""The engine elsewhere: any OpenAI-compatible server, such as ``vllm serve`` on another machine.

Where the server takes token ids, prompts are rendered here with the tokenizer of the language model
that the settings name, and answers are those of the embedded engine. Any other server is asked by
chat. How, is found out by the first call.
"""

from __future__ import annotations

import collections
import concurrent.futures
import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from meld_duckdb import interrupt
from meld_duckdb.engine import openai_ways as ways
from meld_duckdb.engine.adapters import AGAIN, Adapter, verify_adapter
from meld_duckdb.engine.kv import Job, Tokens
from meld_duckdb.engine.openai_ways import Way
from meld_duckdb.engine.openai_wire import Patience, Refused, Usage, Wire
from meld_duckdb.engine.reads import Read, generated, plan_reads, prepare_jobs
from meld_duckdb.engine.rendering import Renderer
from meld_duckdb.engine.transformers import load_tokenizer
from meld_duckdb.errors import ArtefactCorrupt, EngineError, EngineRejected, EngineUnavailable
from meld_duckdb.models import model_digest
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Completion, Prompt

_LOG = logging.getLogger(__name__)

_DECODING = "render/1 choices:first-tokens/1 sequences:sum-and-end/1 generate:greedy/1 chat/1"
_PROBE = "Résumé of the 12 records: match, mismatch; 数据 <x>"
_MOST_READ = 128
_POLL_S = 0.1
_NOT_FOUND = 404
_NEWER_LIMIT = "max_completion_tokens"
_NO_ROUTE = frozenset({404, 405, 501})

Part = list[tuple[int, Completion]]


def openai_digest(model_path: Path, url: str, model: str, max_prompt_tokens: int) -> str:
    """Identity of server, model, tokenizer and prompt limit, known without asking.

    What the server has under a name cannot be seen from here: new weights need a new name.
    """
    return digest(
        "openai",
        url.rstrip("/"),
        model,
        model_digest(model_path),
        _DECODING,
        str(max_prompt_tokens),
    )


class OpenAIBackend:
    """Implements `meld_duckdb.engine.backend.Backend` by asking a server. Safe for threads.

    Args:
        model_path: Directory of the language model whose tokenizer and adapters are used.
        url: Address of the server, with ``/v1``.
        model: What the server calls the model.
        key: Its key, None without one.
        concurrency: Prompts asked at once.
        max_prompt_tokens: A longer prompt loses its oldest demonstrations; if it is still longer,
            its completion is an error. Counted with the tokenizer of ``model_path``.
        most_adapters: Adapters kept on the server; the one used longest ago goes first.
        patience: How long to wait.

    Raises:
        ArtefactCorrupt: The directory holds no tokenizer.
        EngineUnavailable: A library is missing.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        url: str,
        model: str,
        key: str | None = None,
        concurrency: int = 8,
        max_prompt_tokens: int = 1536,
        most_adapters: int = 8,
        patience: Patience | None = None,
    ) -> None:
        self._model_path, self._model = model_path, model
        self._renderer = Renderer(load_tokenizer(model_path))
        self._wire = Wire(url, key, concurrency, patience or Patience())
        self._window = 2 * concurrency
        self._max_prompt_tokens = max_prompt_tokens
        self._most_adapters = max(1, most_adapters)
        self._digest = openai_digest(model_path, url, model, max_prompt_tokens)
        self._lock = threading.RLock()
        self._way: Way | None = None
        self._same_tokenizer = True
        self._limit_name = "max_tokens"
        self._served: set[str] = set()
        self._loaded: OrderedDict[str, Adapter] = OrderedDict()
        self._in_use: collections.Counter[str] = collections.Counter()

    @property
    def digest(self) -> str:
        """Identity of server, model, tokenizer and prompt limit."""
        return self._digest

    @property
    def usage(self) -> Usage:
        """What was sent and received."""
        return self._wire.usage

    @property
    def way(self) -> Way:
        """How the server is asked; the first call finds out.

        Raises:
            EngineError: The server cannot be reached, or does not have the model.
        """
        with self._lock:
            if self._way is None:
                self._way = self._wire.submit(self._find_way()).result()
                _LOG.info("%s is asked by %s", self._wire.url, self._way.value)
            return self._way

    def close(self) -> None:
        """Close all connections."""
        self._wire.close()

    def complete(self, prompts: Sequence[Prompt], adapter: Adapter | None = None) -> Iterator[Part]:
        """Answer all prompts, a list for those that were answered meanwhile; see `Backend`.

        Choices and generated texts are scored as `TransformersBackend.complete` says, where the
        server gives the log-probabilities for that. One that gives only those of the likeliest
        tokens cannot score choices that begin alike, and bounds choices it does not list.

        Raises:
            ArtefactError: The adapter is missing, damaged or made for another model.
            EngineRejected: The server cannot load adapters.
            EngineError: The server cannot be reached, refuses the key, or cannot do what is needed.
        """
        if not prompts:
            return
        way = self.way
        with self._lock:
            name = "" if adapter is None else adapter.name
            jobs, refused = prepare_jobs(
                self._renderer, prompts, self._max_prompt_tokens, None, name
            )
            if adapter is not None:
                self._use(adapter)
            self._in_use[name] += 1
        started, before = time.monotonic(), replace(self.usage)
        try:
            if refused:
                yield refused
            yield from self._answer(way, deque(jobs), adapter)
        finally:
            with self._lock:
                self._in_use[name] -= 1
            self._log(len(prompts), before, time.monotonic() - started)

    def _answer(self, way: Way, jobs: deque[Job], adapter: Adapter | None) -> Iterator[Part]:
        """Keep a window of prompts at the server until all are answered."""
        asked: dict[concurrent.futures.Future[Completion], Job] = {}
        try:
            while jobs or asked:
                interrupt.check()
                while jobs and len(asked) < self._window:
                    job = jobs.popleft()
                    asked[self._wire.submit(self._ask(way, job, adapter))] = job
                first = concurrent.futures.FIRST_COMPLETED
                done, _ = concurrent.futures.wait(asked, _POLL_S, first)
                failed = [future for future in done if future.exception() is not None]
                part = [(asked.pop(f).position, f.result()) for f in done if f not in failed]
                if part:
                    yield part
                if failed:
                    failed[0].result()
        finally:
            for future in asked:
                future.cancel()

    async def _ask(self, way: Way, job: Job, adapter: Adapter | None) -> Completion:
        """Answer one prompt; what the server refuses for its sake is its error alone."""
        try:
            return await self._ask_as(way, job, adapter)
        except Refused as refusal:
            if refusal.status == _NOT_FOUND and adapter is not None:
                try:  # the server was started again, or another process removed it
                    await self._load(adapter)
                    return await self._ask_as(way, job, adapter)
                except Refused as again:
                    refusal = again
            if refusal.status == _NOT_FOUND:
                raise EngineUnavailable(
                    f"the server {self._wire.url} has no {job.adapter or self._model}: "
                    f"{refusal.message}",
                    hint="openai_model names the model as the server does",
                ) from refusal
            error = f"rejected: the server says {refusal}"
            return Completion(None, prompt_tokens=job.n_tokens, error=error)

    async def _ask_as(self, way: Way, job: Job, adapter: Adapter | None) -> Completion:
        model = self._model if adapter is None else adapter.name
        if way is Way.CHAT:
            return await self._chat(model, job)
        ids = (*job.prefix, *job.own)
        if not job.prompt.choices:
            return await self._generate(model, job, ids)
        if way is Way.LISTED:
            if not job.firsts:
                return ways.choose_listed(job, {}, self._renderer)
            wanted = tuple(sorted(set().union(*job.firsts)))
            reply = await self._post_completion(model, ids, Read((), wanted))
            return ways.choose_listed(job, reply[0], self._renderer)
        reading = plan_reads(job, self._renderer, _MOST_READ)
        found: dict[Tokens, dict[int, float]] = {}
        for read in reading.reads:
            listed, _, _ = await self._post_completion(model, (*ids, *read.behind), read)
            known = ways.wanted_logprobs(listed, read.wanted, self._renderer)
            if len(known) < len(read.wanted):
                raise EngineError(
                    f"the server {self._wire.url} left out {len(read.wanted) - len(known)} of "
                    f"{len(read.wanted)} log-probabilities that it was asked for"
                )
            found.setdefault(read.behind, {}).update(known)
        return reading.answer(found)

    async def _post_completion(
        self, model: str, ids: Sequence[int], read: Read
    ) -> tuple[dict[str, float], list[str], list[float]]:
        reply = await self._wire.post("/completions", ways.completion_body(model, ids, read))
        self._count(reply)
        return ways.read_listed(reply, self._wire.url)

    async def _generate(self, model: str, job: Job, ids: Sequence[int]) -> Completion:
        stops = self._renderer.stops(job.prompt)
        body = ways.completion_body(
            model, ids, None, max_tokens=job.prompt.max_tokens, stop_token_ids=sorted(stops)
        )
        reply = await self._wire.post("/completions", body)
        self._count(reply)
        _, tokens, logprobs = ways.read_listed(reply, self._wire.url)
        given = ways.token_ids(tokens)
        if given is not None:
            given = given[: job.prompt.max_tokens + 1]
            return generated(job, self._renderer, given, logprobs, stops)
        text = ways.bounded(str(reply["choices"][0].get("text") or ""), job)
        return replace(generated(job, self._renderer, (), logprobs, stops), text=text)

    async def _chat(self, model: str, job: Job) -> Completion:
        try:
            body = ways.chat_body(model, job, self._limit_name)
            reply = await self._wire.post("/chat/completions", body)
        except Refused as refusal:
            if _NEWER_LIMIT not in refusal.message or self._limit_name == _NEWER_LIMIT:
                raise
            self._limit_name = _NEWER_LIMIT
            return await self._chat(model, job)
        n_tokens = self._count(reply) or job.n_tokens
        text, listed, logprobs = ways.read_chat(reply, self._wire.url)
        if job.prompt.choices:
            return replace(ways.choose_chat(job, listed), prompt_tokens=n_tokens)
        mean = math.exp(sum(logprobs) / len(logprobs)) if logprobs else None
        return Completion(ways.bounded(text, job), probability=mean, prompt_tokens=n_tokens)

    def _count(self, reply: Any) -> int:
        """Add up the tokens of a reply; gives those of the prompt, 0 where they are not told."""
        told = reply.get("usage") if isinstance(reply, dict) else None
        told = told if isinstance(told, dict) else {}
        n_prompt = int(told.get("prompt_tokens") or 0)
        self.usage.prompt_tokens += n_prompt
        self.usage.completion_tokens += int(told.get("completion_tokens") or 0)
        return n_prompt

    async def _find_way(self) -> Way:
        """Ask the server what it has and what it can do."""
        with_models = await self._optional("GET", f"{self._wire.url}/models")
        self._served = _model_names(with_models)
        if self._served and self._model not in self._served:
            raise EngineUnavailable(
                f"the server {self._wire.url} has no model {self._model!r}, it has "
                f"{', '.join(sorted(self._served)[:10])}",
                hint="openai_model names the model as the server does",
            )
        ids = self._renderer.encode_text(_PROBE)
        self._same_tokenizer = await self._has_tokenizer(ids)
        if not self._same_tokenizer:
            return Way.CHAT
        wanted = tuple(sorted(set(ids)))[-8:]  # hardly the likeliest
        body = ways.completion_body(self._model, ids, Read((), wanted))
        reply = await self._optional("POST", f"{self._wire.url}/completions", body)
        if not isinstance(reply, dict) or self._count(reply) != len(ids):
            self._same_tokenizer = False  # nobody knows
            return Way.CHAT
        listed, _, _ = ways.read_listed(reply, self._wire.url)
        if len(ways.wanted_logprobs(listed, wanted, self._renderer)) == len(wanted):
            return Way.CHOSEN
        return Way.LISTED

    async def _has_tokenizer(self, ids: Sequence[int]) -> bool:
        """Tell whether the server cuts a text as we do; true where it does not say."""
        body = {"model": self._model, "prompt": _PROBE, "content": _PROBE}
        url = f"{self._wire.url.removesuffix('/v1')}/tokenize"
        reply = await self._optional("POST", url, {**body, "add_special_tokens": False})
        tokens = reply.get("tokens") if isinstance(reply, dict) else None
        return not tokens or list(tokens) == list(ids)

    async def _optional(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask for what a server need not have."""
        try:
            return await self._wire.ask(method, url, body)
        except Refused:
            return None

    def _use(self, adapter: Adapter) -> None:
        """See that the server has an adapter under its versioned name."""
        if adapter.name in self._served:
            return
        if adapter.name in self._loaded:
            self._loaded.move_to_end(adapter.name)
            return
        if not self._same_tokenizer:
            raise EngineRejected(
                f"the server {self._wire.url} was not recognised as serving "
                f"{self._model_path.name}, which the adapter {adapter.path.name} belongs to",
                hint="set model to what the server has, or experts to 0",
            )
        verify_adapter(adapter, self._model_path)
        idle = [name for name in self._loaded if not self._in_use[name]]
        for name in idle[: max(0, len(self._loaded) - self._most_adapters + 1)]:
            del self._loaded[name]
            self._wire.submit(self._unload(name)).result()
        try:
            self._wire.submit(self._load(adapter)).result()
        except Refused as refusal:
            if refusal.status in _NO_ROUTE:
                raise EngineRejected(
                    f"the server {self._wire.url} loads no adapters",
                    hint="start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, "
                    f"let it serve {adapter.path.name} as {adapter.name}, or set experts to 0",
                ) from refusal
            raise ArtefactCorrupt(
                f"the server {self._wire.url} cannot load the adapter {adapter.path}: "
                f"{refusal.message}",
                hint=f"it reads the directory itself, so it must see it; else {AGAIN}",
            ) from refusal
        self._loaded[adapter.name] = adapter

    async def _load(self, adapter: Adapter) -> None:
        body = {"lora_name": adapter.name, "lora_path": str(adapter.path.absolute())}
        try:
            await self._wire.post("/load_lora_adapter", body)
        except Refused as refusal:
            if "already" not in refusal.message:  # another process, or another prompt, was faster
                raise

    async def _unload(self, name: str) -> None:
        try:
            await self._wire.post("/unload_lora_adapter", {"lora_name": name})
        except Refused as refusal:
            _LOG.debug("the adapter %s was not unloaded: %s", name, refusal)

    def _log(self, n_prompts: int, before: Usage, seconds: float) -> None:
        now = self.usage
        _LOG.info(
            "%d prompts in %.1f s: %d requests, %d repeated, %d tokens in, %d out",
            n_prompts,
            seconds,
            now.requests - before.requests,
            now.retries - before.retries,
            now.prompt_tokens - before.prompt_tokens,
            now.completion_tokens - before.completion_tokens,
        )


def _model_names(reply: Any) -> set[str]:
    entries = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(entries, list):
        return set()
    return {str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry}
