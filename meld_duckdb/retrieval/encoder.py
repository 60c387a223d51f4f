"""Text to vectors.

Most sentence encoders are a transformer, mean pooling and normalisation. Those run on plain
transformers, which starts in a fraction of the time sentence-transformers needs and gives the
same vectors (``tests/integration/test_real_models.py``). Any other architecture is left to
sentence-transformers.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meld_duckdb import interrupt, models, safe_json
from meld_duckdb.engine.adapters import check_loadable
from meld_duckdb.engine.forward import look_between_layers
from meld_duckdb.engine.transformers import check_modules, quiet_loading, safely
from meld_duckdb.errors import ArtefactCorrupt, EngineUnavailable
from meld_duckdb.records import digest

Vectors = npt.NDArray[np.float32]

_CHUNK = 4096
"""Texts tokenised at once; batches of similar length are formed within a chunk."""


class Encoder:
    """Embeds texts; several threads may call it, their batches take turns.

    Args:
        model_path: A directory written by sentence-transformers or ``save_pretrained``.
        adapter: A LoRA adapter for it, see `train.encoder`; None for the encoder as it is.
        device: ``"auto"`` (CUDA if there is one), ``"cpu"`` or ``"cuda"``.
        batch_size: Texts evaluated at once.
        cache_entries: Vectors of so many texts are kept in memory, least recently used go first.

    Raises:
        EngineUnavailable: A library is missing.
        ArtefactCorrupt: The directory holds no model that can be loaded.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        adapter: Path | None = None,
        device: str = "auto",
        batch_size: int = 32,
        cache_entries: int = 20_000,
    ) -> None:
        self._lock = threading.RLock()
        self._cache: OrderedDict[str, Vectors] = OrderedDict()
        self._cache_entries = cache_entries
        load = _load_plain if _is_mean_pooled(model_path) else _load_sentence_transformer
        try:
            self._embed, self._dimension = load(model_path, adapter, device, batch_size)
        except ImportError as error:
            raise EngineUnavailable(
                f"the encoder cannot start: {error}",
                hint="pip install torch transformers sentence-transformers",
            ) from error
        self._digest = encoder_digest(model_path, adapter)

    @property
    def digest(self) -> str:
        """Identity of the weights and of how vectors are made from them."""
        return self._digest

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._dimension

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Embed texts.

        Each distinct text is embedded once, an empty one like any other.

        Returns:
            float32 [n, dimension], rows L2-normalised, same order as ``texts``.
        """
        with self._lock:
            found: dict[str, Vectors] = {}
            missing: list[str] = []
            for text in dict.fromkeys(texts):
                if text in self._cache:
                    self._cache.move_to_end(text)
                    found[text] = self._cache[text]
                else:
                    missing.append(text)
            for start in range(0, len(missing), _CHUNK):
                chunk = missing[start : start + _CHUNK]
                readable = [text.encode("utf-8", "replace").decode("utf-8") for text in chunk]
                found.update(zip(chunk, self._embed(readable), strict=True))
            self._remember(found, missing)
        result = np.empty((len(texts), self._dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            result[row] = found[text]
        return result

    def _remember(self, found: dict[str, Vectors], texts: Sequence[str]) -> None:
        kept = texts[-self._cache_entries :] if self._cache_entries else ()
        for text in kept:
            # A copy: a row of a batch would keep the whole batch alive.
            self._cache[text] = found[text].copy()
        while len(self._cache) > self._cache_entries:
            self._cache.popitem(last=False)


_Embed = Callable[[list[str]], Vectors]


def encoder_digest(model_path: Path, adapter: Path | None) -> str:
    """Identity of an encoder's weights, known without loading them."""
    if adapter is None:
        return models.model_digest(model_path)
    return digest("encoder/1", models.model_digest(model_path), models.model_digest(adapter))


def read_dimension(model_path: Path) -> int | None:
    """Length of an encoder's vectors as its files say, without loading it; None if they do not.

    Raises:
        ArtefactCorrupt: A file is damaged.
    """
    for file, key in (
        ("1_Pooling/config.json", "word_embedding_dimension"),
        ("config.json", "hidden_size"),
    ):
        path = model_path / file
        if path.is_file():
            try:
                length = safe_json.read(path).get(key)
            except (OSError, ValueError, AttributeError) as error:
                raise ArtefactCorrupt(f"{path} cannot be read: {error}") from error
            if isinstance(length, int):
                return length
    return None


def _is_mean_pooled(path: Path) -> bool:
    """Tell whether the model is a transformer, mean pooling and at most a normalisation."""
    listing = path / "modules.json"
    if not listing.is_file():
        return True
    check_modules(path)
    try:
        modules = safe_json.read(listing)
        kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
        if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
            return False
        pooling = safe_json.read(path / modules[1]["path"] / "config.json")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactCorrupt(f"{path} has an unreadable modules.json: {error}") from error
    if "pooling_mode" in pooling:
        return bool(pooling["pooling_mode"] == "mean")
    chosen = [key for key, value in pooling.items() if key.startswith("pooling_mode_") and value]
    return chosen == ["pooling_mode_mean_tokens"] and modules[0]["path"] == ""


def _load_plain(
    path: Path, adapter: Path | None, device: str, batch_size: int
) -> tuple[_Embed, int]:
    """Load with transformers; vectors are means over the tokens of the last layer, normalised."""
    interrupt.import_apart("torch", "transformers")
    import torch
    import transformers
    from safetensors import SafetensorError

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with quiet_loading(transformers):
            # What spells out a control token, such as [SEP], is data like any other text.
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                path, split_special_tokens=True, **safely(path)
            )
            model: Any = transformers.AutoModel.from_pretrained(
                path, use_safetensors=True, dtype=torch.float32, **safely(path)
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ArtefactCorrupt(f"{path} cannot be loaded as an encoder: {error}") from error
    if adapter is not None:
        model = _merge(model, adapter)
    model.to(device).eval()
    look_between_layers(model)
    dimension = int(model.config.hidden_size)
    max_tokens = _max_tokens(path, tokenizer, model.config)

    def embed(texts: list[str]) -> Vectors:
        encoded = tokenizer(texts, truncation=True, max_length=max_tokens)["input_ids"]
        order = sorted(range(len(texts)), key=lambda row: len(encoded[row]))
        vectors = np.empty((len(texts), dimension), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                batch = tokenizer.pad(
                    {"input_ids": [encoded[row] for row in rows]}, return_tensors="pt"
                )
                batch = batch.to(device)
                hidden = model(**batch).last_hidden_state
                mask = batch["attention_mask"][..., None].float()
                mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
                vectors[rows] = torch.nn.functional.normalize(mean).cpu().numpy()
        return vectors

    return embed, dimension


def _merge(model: Any, adapter: Path) -> Any:
    """Add a LoRA adapter to the weights of a model: it costs nothing when texts are embedded."""
    from peft import PeftModel
    from safetensors import SafetensorError

    check_loadable(adapter)
    try:
        with warnings.catch_warnings():
            # PEFT 0.21 asks transformers 5 by a name that it warns about.
            warnings.simplefilter("ignore", FutureWarning)
            merged = PeftModel.from_pretrained(model, str(adapter), local_files_only=True)
            return merged.merge_and_unload()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ArtefactCorrupt(
            f"{adapter} cannot be loaded as an adapter of the encoder: {error}",
            hint="remove it, then run meld train --stages retrieval again",
        ) from error


def _max_tokens(path: Path, tokenizer: Any, config: Any) -> int:
    """The model's own limit on a text's tokens; what is beyond it is cut off."""
    limits = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", 512)]
    own = path / "sentence_bert_config.json"
    if own.is_file():
        limits.append(safe_json.read(own).get("max_seq_length"))
    return int(min(limit for limit in limits if limit))


def _load_sentence_transformer(
    path: Path, adapter: Path | None, device: str, batch_size: int
) -> tuple[_Embed, int]:
    interrupt.import_apart("torch", "sentence_transformers")
    import transformers
    from sentence_transformers import SentenceTransformer

    try:
        with quiet_loading(transformers):
            model: Any = SentenceTransformer(
                str(path),
                device=None if device == "auto" else device,
                model_kwargs={"use_safetensors": True},
                **safely(path),
            )
    except (OSError, ValueError, KeyError) as error:
        raise ArtefactCorrupt(f"{path} cannot be loaded as an encoder: {error}") from error
    if adapter is not None:
        model[0].auto_model = _merge(model[0].auto_model, adapter)

    def embed(texts: list[str]) -> Vectors:
        vectors: Vectors = model.encode(
            texts,
            batch_size=batch_size,
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=True,
        )
        return vectors.astype(np.float32, copy=False)

    return embed, int(embed(["a"]).shape[1])
