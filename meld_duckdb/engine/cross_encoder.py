"""A cross-encoder: reads two texts at once and says how much speaks for them belonging together.

    two texts -> encoder with a LoRA adapter -> mean over the tokens -> one linear unit -> log-odds

The encoder is the one that embeds (`retrieval.encoder`); an expert adds an adapter and a head of
less than a megabyte. The adapter is merged into the weights when it is loaded, so that it costs
nothing per pair.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meld_duckdb import interrupt
from meld_duckdb.engine.adapters import check_loadable, quiet_peft
from meld_duckdb.engine.transformers import quiet_loading, safely
from meld_duckdb.errors import ArtefactCorrupt, ArtefactMissing, EngineUnavailable
from meld_duckdb.models import model_digest
from meld_duckdb.records import digest

Scores = npt.NDArray[np.float32]

HEAD = "head.safetensors"
ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
FILES = (ADAPTER_CONFIG, ADAPTER, HEAD)
"""What an adapter directory holds; nothing in it is executed."""

ODDS_DIGITS = 3
"""Decimals of log-odds that count: the rest depends on what else is in the batch."""

_SCORING = "mean-pooled/1"
"""Changes whenever the same weights could score the same pair differently."""

_MOST_TOKEN_CHARS = 8
"""Characters of a token on average that are read at most; English has four to five."""


class CrossEncoder:
    """Scores pairs of texts; several threads may call it, their batches take turns.

    Args:
        model_path: The encoder: a directory written by sentence-transformers or
            ``save_pretrained``, on which the adapter was trained.
        adapter_dir: Adapter and head, see `FILES`.
        device: ``"auto"`` (CUDA if there is one), ``"cpu"`` or ``"cuda"``.
        batch_size: Pairs evaluated at once.
        max_tokens: Tokens of a pair that are read; the longer text loses the others.

    Raises:
        EngineUnavailable: A library is missing.
        ArtefactMissing: A file of the adapter is not there.
        ArtefactCorrupt: Encoder, adapter or head cannot be loaded, or do not go together.
    """

    def __init__(
        self,
        model_path: Path,
        adapter_dir: Path,
        *,
        device: str = "auto",
        batch_size: int = 32,
        max_tokens: int = 128,
    ) -> None:
        torch = _torch()
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._digest = weights_digest(model_path, adapter_dir)
        self._tokenizer, encoder = load_encoder(model_path)
        encoder = adapted(encoder, adapter_dir, trainable=False).merge_and_unload()
        head = load_head(adapter_dir)
        if head.in_features != encoder.config.hidden_size:
            raise ArtefactCorrupt(
                f"the head in {adapter_dir} reads {head.in_features} numbers, the encoder "
                f"{model_path} gives {encoder.config.hidden_size}",
                hint="train the expert again: it belongs to another encoder",
            )
        self._encoder, self._head = encoder.to(device).eval(), head.to(device).eval()
        self._torch, self._device = torch, device
        self._batch_size, self._max_tokens = batch_size, max_tokens
        self._lock = threading.RLock()

    @property
    def digest(self) -> str:
        """Identity of encoder, adapter and head, and of how scores are made from them."""
        return self._digest

    def score(self, pairs: Sequence[tuple[str, str]]) -> Scores:
        """Score pairs of texts.

        Pairs of similar length go through the encoder together, each distinct pair once; what else
        is asked does not change a score (it is rounded to `ODDS_DIGITS`).

        Returns:
            Log-odds, float32 [n], same order as ``pairs``.
        """
        distinct = list(dict.fromkeys(pairs))
        if not distinct:
            return np.zeros(0, dtype=np.float32)
        encoded = tokenise(self._tokenizer, distinct, self._max_tokens)
        order = sorted(range(len(distinct)), key=lambda i: len(encoded[i]["input_ids"]))
        found: dict[tuple[str, str], float] = {}
        for start in range(0, len(order), self._batch_size):
            interrupt.check()
            part = order[start : start + self._batch_size]
            batch = self._tokenizer.pad([encoded[i] for i in part], return_tensors="pt")
            with self._lock, self._torch.inference_mode():
                odds = pooled_odds(self._encoder, self._head, batch.to(self._device))
            scores = odds.float().cpu().numpy().astype(np.float64).round(ODDS_DIGITS)
            found.update((distinct[i], float(s)) for i, s in zip(part, scores, strict=True))
        return np.array([found[pair] for pair in pairs], dtype=np.float32)


def weights_digest(model_path: Path, adapter_dir: Path) -> str:
    """Identity of an encoder with an adapter; see `CrossEncoder.digest`.

    Raises:
        ArtefactMissing: A file of the adapter is not there.
    """
    return digest("cross-encoder/1", _SCORING, model_digest(model_path), files_digest(adapter_dir))


def files_digest(adapter_dir: Path) -> str:
    """Identity of the files of an adapter directory.

    Raises:
        ArtefactMissing: One is not there.
    """
    parts = []
    for name in FILES:
        try:
            parts.append((adapter_dir / name).read_bytes().hex())
        except OSError as error:
            raise ArtefactMissing(
                f"{adapter_dir / name} cannot be read: {error.strerror or error}",
                hint="train the expert again, or remove its directory",
            ) from error
    return digest(*parts)


def load_encoder(model_path: Path) -> tuple[Any, Any]:
    """Load (tokenizer, encoder without its pooler), in 32-bit floats.

    Raises:
        EngineUnavailable: A library is missing.
        ArtefactCorrupt: It cannot be loaded.
    """
    torch = _torch()
    import transformers
    from safetensors import SafetensorError

    try:
        with quiet_loading(transformers):
            # What spells out a control token, such as [SEP], is data like any other text.
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                model_path, split_special_tokens=True, **safely(model_path)
            )
            encoder = transformers.AutoModel.from_pretrained(
                model_path, use_safetensors=True, dtype=torch.float32, **safely(model_path)
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ArtefactCorrupt(f"{model_path} cannot be loaded as an encoder: {error}") from error
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return tokenizer, encoder


def adapted(encoder: Any, adapter_dir: Path, *, trainable: bool) -> Any:
    """Put a saved adapter on an encoder.

    Raises:
        ArtefactCorrupt: It is damaged or was made for another architecture.
    """
    import peft
    from safetensors import SafetensorError

    check_loadable(adapter_dir)
    try:
        with quiet_peft():
            return peft.PeftModel.from_pretrained(
                encoder, str(adapter_dir), is_trainable=trainable, local_files_only=True
            )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ArtefactCorrupt(
            f"{adapter_dir} cannot be loaded as an adapter: {error}",
            hint="train the expert again, or remove its directory",
        ) from error


def load_head(adapter_dir: Path) -> Any:
    """Load the linear unit that reads the mean of the tokens.

    Raises:
        ArtefactCorrupt: It is damaged.
    """
    torch = _torch()
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(str(adapter_dir / HEAD))
        head = torch.nn.Linear(state["weight"].shape[1], 1)
        head.load_state_dict(state)
    except (OSError, KeyError, IndexError, RuntimeError, SafetensorError) as error:
        raise ArtefactCorrupt(
            f"{adapter_dir / HEAD} is no head of a cross-encoder: {error}",
            hint="train the expert again, or remove its directory",
        ) from error
    return head


def save_weights(encoder: Any, head: Any, folder: Path) -> None:
    """Write adapter and head of a PEFT model into a directory that is there."""
    from safetensors.torch import save_file

    with quiet_peft():
        encoder.save_pretrained(str(folder))
    tidy_adapter(folder)
    state = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    save_file(state, str(folder / HEAD))


def tidy_adapter(folder: Path) -> None:
    """Take out of a saved adapter what differs between equal trainings: order of names, paths."""
    (folder / "README.md").unlink(missing_ok=True)  # a template of PEFT without content
    path = folder / ADAPTER_CONFIG
    config = json.loads(path.read_text("utf-8"))
    config["base_model_name_or_path"] = None
    for name, value in config.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            config[name] = sorted(value)  # PEFT keeps them as a set
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", "utf-8")


def tokenise(tokenizer: Any, pairs: Sequence[tuple[str, str]], max_tokens: int) -> list[Any]:
    """Tokenise pairs, not yet padded, in order; a text that is no valid Unicode is mended.

    Of a very long text the beginning is read: what a pair has too much, the tokenizer keeps in as
    many pieces as there are combinations of both sides, gigabytes of them.
    """
    most = max_tokens * _MOST_TOKEN_CHARS
    first, second = (
        [pair[side][:most].encode("utf-8", "replace").decode("utf-8") for pair in pairs]
        for side in (0, 1)
    )
    encoded = tokenizer(first, second, truncation="longest_first", max_length=max_tokens)
    return [{name: encoded[name][i] for name in encoded} for i in range(len(pairs))]


def pooled_odds(encoder: Any, head: Any, batch: Any) -> Any:
    """Log-odds of a padded batch, [n]: the head on the mean over the tokens of the last layer."""
    hidden = encoder(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].to(hidden.dtype)
    return head((hidden * mask).sum(1) / mask.sum(1).clamp(min=1.0)).squeeze(-1)


def _torch() -> Any:
    try:
        import peft  # noqa: F401
        import torch
    except ImportError as error:
        raise EngineUnavailable(
            f"the cross-encoder cannot start: {error}", hint="pip install torch transformers peft"
        ) from error
    return torch
