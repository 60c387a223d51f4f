"""Put what was trained into a workspace: readers see the old one or the new one, never a part."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from meld_duckdb.engine.adapters import CARD as FILES_CARD
from meld_duckdb.engine.adapters import CONFIG, WEIGHTS, files_digest
from meld_duckdb.planner.adapter_card import CARD, AdapterCard
from meld_duckdb.records import digest


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
            shutil.rmtree(old, ignore_errors=True)
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
