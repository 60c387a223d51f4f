"""The starter's experts: for questions of which the workspace knows nothing, and to begin with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from meld_duckdb.engine.adapters import CARD, read_card
from meld_duckdb.errors import ArtefactError
from meld_duckdb.models import model_digest
from meld_duckdb.planner.artefacts import Watched
from meld_duckdb.planner.expert_card import ANY, ExpertCard
from meld_duckdb.planner.experts import Expert, Score, read_cards
from meld_duckdb.starter import starter_folder
from meld_duckdb.tasks.pairs import TEXT_VERSION

_LOG = logging.getLogger(__name__)


class StarterExperts:
    """The experts of the starter, at most one per task. Safe for threads.

    One that belongs to another encoder than that of the settings is missed by nobody: it is not
    used, and nothing is said.

    Args:
        folder: Their directory; None, or a directory that is not there, for none.
        encoder_digest: Identity of the encoder that the settings name.
        load: See `experts.expert_loader`.
        labelled: Tells whether a task has a label in the workspace.
    """

    def __init__(
        self,
        folder: Path | None,
        encoder_digest: Callable[[], str],
        load: Callable[[ExpertCard, Path], Score],
        labelled: Callable[[str], bool],
    ) -> None:
        self._encoder_digest, self._load, self._labelled = encoder_digest, load, labelled
        self._folder = folder
        self._watched = Watched(() if folder is None else (folder,), self._read)

    def find(self, task: str) -> Expert | None:
        """The expert that answers a task; None where labels know better."""
        expert = self.start(task)
        return expert if expert is not None and not self._labelled(task) else None

    def start(self, task: str) -> Expert | None:
        """The expert that a new one of a task begins with.

        Raises:
            ArtefactCorrupt: A directory of an expert is damaged.
        """
        expert = self._watched.get().get(task)
        return expert if expert is not None and self._fits(expert.card) else None

    def all(self) -> list[Expert]:
        """All experts that fit the encoder, labels or not."""
        return [expert for expert in self._watched.get().values() if self._fits(expert.card)]

    def _fits(self, card: ExpertCard) -> bool:
        try:
            return card.encoder_digest == self._encoder_digest()
        except ArtefactError as error:  # the encoder may be pulled later
            _LOG.info("the starter's expert %s is not used: %s", card.id, error)
            return False

    def _read(self) -> dict[str, Expert]:
        folder = self._folder
        if folder is None:
            return {}
        return {
            card.task: self._expert(card, folder / card.id)
            for card in read_cards(folder)
            if card.key == ANY and card.text_version == TEXT_VERSION
        }

    def _expert(self, card: ExpertCard, folder: Path) -> Expert:
        return Expert(card, folder, lambda: self._load(card, folder))


def starter_adapter(setting: str, task: str, model_path: Path) -> Path | None:
    """The adapter of a language model that experts of a task begin with.

    Args:
        setting: The setting ``starter``.
        task: Name of the task.
        model_path: The language model.

    Returns:
        Its directory; None where the starter has none for this task and model.
    """
    folder = starter_folder(setting)
    place = None if folder is None else folder / "adapters" / task
    if place is None or not (place / CARD).is_file():
        return None
    return place if read_card(place).get("base") == model_digest(model_path) else None
