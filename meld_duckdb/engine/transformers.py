"""The embedded engine: a Hugging Face causal language model on CPU or GPU.

What makes it fast: a shared prefix goes through the model once and its keys and values are reused,
batches hold prompts of similar length, and choices are read off the next-token distribution
instead of being generated.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from meld_duckdb import interrupt, safe_json
from meld_duckdb.engine.adapter_slots import AdapterSlots
from meld_duckdb.engine.adapters import CONFIG, Adapter
from meld_duckdb.engine.backend import is_out_of_memory
from meld_duckdb.engine.decoding import Decoder
from meld_duckdb.engine.forward import Forward, look_between_layers
from meld_duckdb.engine.kv import Job, PrefixCache, group_by_prefix
from meld_duckdb.engine.reads import prepare_jobs
from meld_duckdb.engine.rendering import Renderer
from meld_duckdb.errors import ArtefactCorrupt, EngineUnavailable
from meld_duckdb.models import model_digest
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Completion, Prompt

_DECODING = "render/1 choices:first-tokens/1 sequences:sum-and-end/1 generate:greedy/1"
"""Changes whenever the same weights could answer the same prompt differently."""

_PREFIX_BYTES = 256 << 20

_LOADING = threading.Lock()

_Run = Callable[[Sequence[Job]], list[Completion]]


def engine_digest(model_path: Path, device: str, max_prompt_tokens: int) -> str:
    """Identity of weights, number format, decoding and prompt limit, known without loading.

    ``"auto"`` is taken for CUDA where the driver of a GPU is there; the number format goes with it.
    """
    if device == "auto":
        device = "cuda" if Path("/dev/nvidiactl").exists() else "cpu"
    return digest(
        "transformers", model_digest(model_path), _DECODING, device, str(max_prompt_tokens)
    )


class TransformersBackend:
    """Implements `meld_duckdb.engine.backend.Backend` with transformers and PyTorch.

    Several threads may call it; their forward passes take turns.

    Args:
        model_path: A directory written by ``save_pretrained``.
        device: ``"auto"`` (CUDA if there is one), ``"cpu"`` or ``"cuda"``.
        batch_size: Prompts evaluated at once.
        max_prompt_tokens: A longer prompt loses its oldest demonstrations; if it is still longer,
            its completion is an error.
        most_adapters: Adapters kept in memory; the one used longest ago goes first.
        threads: PyTorch's threads, a setting of the whole process; None leaves it alone.

    Raises:
        EngineUnavailable: A library or the device is missing.
        ArtefactCorrupt: The directory holds no model that transformers can load.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        device: str = "auto",
        batch_size: int = 16,
        max_prompt_tokens: int = 1536,
        most_adapters: int = 8,
        threads: int | None = None,
    ) -> None:
        torch, transformers = libraries()
        if threads is not None:
            torch.set_num_threads(threads)
        device = pick_device(torch, device)
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        model, tokenizer = load_model(transformers, model_path, device, dtype)
        look_between_layers(model)
        self._torch = torch
        self._renderer = Renderer(tokenizer)
        self._prefixes = PrefixCache(_PREFIX_BYTES)
        self._decoder = Decoder(
            Forward(model, transformers.DynamicCache),
            self._renderer,
            torch=torch,
            stop_ids=self._renderer.stop_ids | _configured_stops(model),
            prefixes=self._prefixes,
        )
        self._slots = AdapterSlots(model, model_path, most_adapters)
        self._batch_size = batch_size
        self._max_prompt_tokens = max_prompt_tokens
        self._positions: int | None = getattr(model.config, "max_position_embeddings", None)
        self._lock = threading.RLock()
        self._digest = engine_digest(model_path, device, max_prompt_tokens)

    @property
    def digest(self) -> str:
        """Identity of weights, number format, decoding and prompt limit."""
        return self._digest

    def complete(
        self, prompts: Sequence[Prompt], adapter: Adapter | None = None
    ) -> Iterator[list[tuple[int, Completion]]]:
        """Answer all prompts, a list per finished engine batch, shorter prompts first.

        An adapter is put on the model batch by batch, so calls with different adapters may run at
        once; putting on one that is in memory takes a twentieth of a second.

        Choices are scored by the next-token distribution: the probabilities of all tokens that
        begin a choice (with or without a leading space, capitalised or in lower case) are summed
        and normalised over the choices. Where two choices can begin with the same token, each is
        scored by the sum of the log-probabilities of all its tokens and of the end of the turn.
        That sum is not normalised by length: it would no longer be the probability of a sequence.

        Without choices the answer is generated greedily, up to ``max_tokens`` or the end of the
        turn; the probability of that end counts in the geometric mean.

        Raises:
            ArtefactMissing: A file of the adapter is not there.
            ArtefactCorrupt: The adapter is damaged, or was trained on another model.
            ArtefactIncompatible: The adapter is more than a LoRA on linear layers.
            EngineUnavailable: PEFT, which an adapter needs, is not installed.
        """
        with self._lock:
            jobs, refused = self._prepare(prompts, adapter)
            groups = group_by_prefix(jobs, self._prefixes)
        if refused:
            yield refused
        for group in groups:
            for run, batch in self._batches(group):
                with self._lock:
                    self._slots.use(adapter)
                    with self._torch.inference_mode():
                        completions = self._halving(run, batch)
                yield [(job.position, c) for job, c in zip(batch, completions, strict=True)]

    def _prepare(
        self, prompts: Sequence[Prompt], adapter: Adapter | None
    ) -> tuple[list[Job], list[tuple[int, Completion]]]:
        """Render all prompts; those that are too long are answered at once."""
        name = "" if adapter is None else adapter.name
        limit = self._max_prompt_tokens
        return prepare_jobs(self._renderer, prompts, limit, self._positions, name)

    def _batches(self, group: Sequence[Job]) -> Iterator[tuple[_Run, list[Job]]]:
        """Split jobs of one prefix by what is to be done, then by length."""
        scored = [job for job in group if job.firsts]
        ambiguous = [job for job in group if job.prompt.choices and not job.firsts]
        generated = [job for job in group if not job.prompt.choices]
        runs = (
            (self._decoder.score, scored),
            (self._decoder.score_sequences, ambiguous),
            (self._decoder.generate, generated),
        )
        for run, jobs in runs:
            by_length = sorted(jobs, key=lambda job: len(job.own))
            for start in range(0, len(by_length), self._batch_size):
                yield run, by_length[start : start + self._batch_size]

    def _halving(self, run: _Run, batch: list[Job]) -> list[Completion]:
        """Run a batch; when the memory does not suffice, run its halves."""
        try:
            return run(batch)
        except (RuntimeError, MemoryError) as error:
            is_scarce = isinstance(error, self._torch.cuda.OutOfMemoryError)
            if not is_scarce and not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                said = f"out_of_memory: {batch[0].n_tokens} tokens do not fit on the device"
                return [Completion(None, prompt_tokens=batch[0].n_tokens, error=said)]
        middle = len(batch) // 2
        return self._halving(run, batch[:middle]) + self._halving(run, batch[middle:])


def libraries() -> tuple[Any, Any]:
    """Import (torch, transformers).

    Raises:
        EngineUnavailable: One is not installed.
    """
    interrupt.import_apart("torch", "transformers")
    try:
        import torch
        import transformers
    except ImportError as error:
        raise EngineUnavailable(
            f"the transformers engine cannot start: {error}", hint="pip install torch transformers"
        ) from error
    return torch, transformers


def pick_device(torch: Any, wanted: str) -> str:
    """Decide ``"auto"``: CUDA if there is one.

    Raises:
        EngineUnavailable: CUDA was asked for and is not there.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise EngineUnavailable(
            "device 'cuda' was asked for, but PyTorch sees no GPU",
            hint="set device to 'cpu' or install a CUDA build of torch",
        )
    return wanted


def load_model(
    transformers: Any, path: Path, device: str, dtype: Any, **options: Any
) -> tuple[Any, Any]:
    """Load (causal language model in evaluation mode, tokenizer); no network is used.

    Args:
        transformers: The module.
        path: A directory written by ``save_pretrained``.
        device: Where the model goes.
        dtype: Number format of its weights.
        **options: What else the model's ``from_pretrained`` is told; a ``device_map`` among them
            takes the place of ``device``.

    Raises:
        ArtefactCorrupt: The directory holds no model that transformers can load.
    """
    from safetensors import SafetensorError

    try:
        with quiet_loading(transformers):
            tokenizer = transformers.AutoTokenizer.from_pretrained(path, **safely(path))
            model = transformers.AutoModelForCausalLM.from_pretrained(
                path, use_safetensors=True, dtype=dtype, **safely(path), **options
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ArtefactCorrupt(
            f"{path} cannot be loaded as a language model: {error}",
            hint="if it came from the registry: meld models pull NAME",
        ) from error
    placed = model if "device_map" in options else model.to(device)
    return placed.eval(), tokenizer


def safely(path: Path) -> dict[str, Any]:
    """Options of ``from_pretrained``: without network, and without code that a directory holds.

    Left to itself, transformers asks at the terminal whether it may run such code.

    Raises:
        ArtefactCorrupt: The directory is an adapter, for which the model it names would be loaded
            from anywhere, or is made of other code; see `check_modules`.
    """
    if (path / CONFIG).is_file():
        raise ArtefactCorrupt(
            f"{path} holds an adapter ({CONFIG}), expected a whole model",
            hint="merge it into its model, and name the directory that was saved then",
        )
    check_modules(path)
    return {"local_files_only": True, "trust_remote_code": False}


def check_modules(path: Path) -> None:
    """Refuse a model of sentence-transformers that is made of code from elsewhere, or lies there.

    Raises:
        ArtefactCorrupt: Its list of modules has one of them, or cannot be read.
    """
    if not (path / "modules.json").is_file():
        return
    try:
        modules = [(str(m["type"]), Path(m["path"])) for m in safe_json.read(path / "modules.json")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactCorrupt(f"{path} has an unreadable modules.json: {error}") from error
    for kind, place in modules:
        if not kind.startswith("sentence_transformers.") or ".." in place.parts or place.root:
            raise ArtefactCorrupt(
                f"{path} is made of {kind!r} in {str(place)!r}, expected modules of "
                "sentence_transformers in directories of its own: no other code is run",
                hint="take another encoder; see meld models list",
            )


def load_tokenizer(path: Path) -> Any:
    """Load a tokenizer alone, for engines that run the model elsewhere; no network is used.

    Raises:
        EngineUnavailable: transformers is not installed.
        ArtefactCorrupt: The directory holds no tokenizer.
    """
    try:
        import transformers
    except ImportError as error:
        raise EngineUnavailable(
            f"the tokenizer cannot be loaded: {error}", hint="pip install transformers"
        ) from error
    try:
        with quiet_loading(transformers):
            return transformers.AutoTokenizer.from_pretrained(path, **safely(path))
    except (OSError, ValueError, KeyError) as error:
        raise ArtefactCorrupt(
            f"{path} cannot be loaded as a tokenizer: {error}",
            hint="if it came from the registry: meld models pull NAME",
        ) from error


@contextlib.contextmanager
def quiet_loading(transformers: Any) -> Iterator[None]:
    """Keep the progress bars of transformers away while a model loads, and only then."""
    logging = transformers.utils.logging
    if not hasattr(logging, "set_tqdm_hook"):  # before transformers 5
        yield
        return
    with _LOADING:
        previous = logging.set_tqdm_hook(lambda _factory, args, _options: logging.EmptyTqdm(*args))
        try:
            yield
        finally:
            logging.set_tqdm_hook(previous)


def _configured_stops(model: Any) -> frozenset[int]:
    stops = model.generation_config.eos_token_id
    listed = stops if isinstance(stops, list) else [stops]
    return frozenset(stop for stop in listed if stop is not None)
