"""Put what was trained into a workspace: readers see the old one or the new one, never a part."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from meld_duckdb.engine.adapters import CARD as FILES_CARD
from meld_duckdb.engine.adapters import CONFIG, WEIGHTS, files_digest
from meld_duckdb.models import sha256
from meld_duckdb.planner.adapter_card import CARD, AdapterCard
from meld_duckdb.planner.metapath import Path as MetaPath
from meld_duckdb.records import digest
from meld_duckdb.train.label_groups import LabelGroup
from meld_duckdb.train.mixture_settings import MoeSettings
from meld_duckdb.train.rows import TrainingRow


def install_adapter(adapters: Path, card: AdapterCard, weights: Path) -> AdapterCard:
    """Install an expert; an older one for the same questions goes.

    Args:
        adapters: Directory of the adapters, made on first use.
        card: Its card; ``id`` is the name of its group and is completed here.
        weights: Directory of the trained adapter, which stays as it is.

    Returns:
        The card with its id and the digest of the weights.
    """
    adapters.mkdir(parents=True, exist_ok=True)
    found = files_digest(weights)
    group = card.id
    card = replace(card, id=f"{group}-{digest(card.inputs, found)[:8]}", weights=found)
    with _appearing(adapters / card.id, adapters) as folder:
        for name in (CONFIG, WEIGHTS, FILES_CARD):
            if (weights / name).is_file():
                shutil.copyfile(weights / name, folder / name)
        (folder / CARD).write_text(card.to_json(), "utf-8")
    for old in adapters.glob(f"{group}-*"):
        if old.name != card.id:
            remove_folder(old, adapters)
    return card


def install_router(place: Path, beside: Path, write: Callable[[Path], None]) -> None:
    """Install a router in place of the one before.

    Args:
        place: Its directory.
        beside: Where it is written first, and the one before goes.
        write: Writes it into a directory.
    """
    with _appearing(place, beside) as folder:
        write(folder)


def remove_folder(place: Path, beside: Path) -> None:
    """Remove what was installed.

    Args:
        place: Its directory.
        beside: Where it goes first, and stays if the process is killed.
    """
    aside = Path(tempfile.mkdtemp(prefix=".old-", dir=beside))
    place.rename(aside / place.name)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _appearing(place: Path, beside: Path) -> Iterator[Path]:
    """A directory to write into, renamed to its place at the end."""
    folder = Path(tempfile.mkdtemp(prefix=".new-", dir=beside))
    try:
        yield folder
        folder.chmod(0o755)
        if place.exists():
            aside = Path(tempfile.mkdtemp(prefix=".old-", dir=beside))
            place.rename(aside / place.name)
            folder.rename(place)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            folder.rename(place)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def new_card(
    group: LabelGroup,
    settings: MoeSettings,
    model: tuple[str, str],
    *,
    path: MetaPath,
    begin: str,
    rows: Sequence[TrainingRow],
    score: tuple[float, float],
    inputs: str,
) -> AdapterCard:
    """The card of a group's expert, for `install_adapter`.

    Args:
        group: Its labels.
        settings: How it was trained.
        model: Name and identity of the language model.
        path: Its meta-path.
        begin: Identity of the adapter that its first round began with; empty for none.
        rows: What it was trained on.
        score: Metric and negative log-loss on the labels set aside.
        inputs: Digest of everything it was made from.
    """
    return AdapterCard(
        id=group.name,
        task=group.task,
        key=group.key,
        description=group.description,
        model=model[0],
        model_digest=model[1],
        weights="",
        path=path,
        demonstrations=settings.demonstrations,
        rows=dict(sorted(Counter(row.origin for row in rows).items())),
        metrics={"score": round(score[0], 4), "log_loss": round(-score[1], 4)},
        settings={
            "lora": repr(replace(settings.lora, start=None)),
            "start": begin,
            "refine": repr(settings.refine),
        },
        inputs=inputs,
    )


def weights_digest(adapter: str | None) -> str:
    """Identity of the adapter that another begins with; empty for none."""
    return "" if adapter is None else file_digest(Path(adapter) / "adapter_model.safetensors")


def file_digest(path: Path) -> str:
    """SHA-256 of a file; empty where there is none."""
    return sha256(path) if path.is_file() else ""
