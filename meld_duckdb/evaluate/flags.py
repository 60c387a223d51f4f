"""What the flags of ``meld eval`` about tier 2 mean together: how it is trained and asked."""

from __future__ import annotations

from dataclasses import dataclass, replace

from meld_duckdb.errors import InputError
from meld_duckdb.evaluate.ablation import PARTS, leave_out, refuse_both
from meld_duckdb.evaluate.training import Training, seeded
from meld_duckdb.train.mixture_settings import EXPERTS
from meld_duckdb.train.pipeline import RETRIEVAL

STAGES = {"retrieval": RETRIEVAL, "experts": EXPERTS, "all": (*RETRIEVAL, *EXPERTS)}
"""Values of ``--train``, and the stages of each."""


@dataclass(frozen=True, slots=True)
class Flags:
    """Flags as given; None for one that was not.

    Attributes:
        seed: Of all draws.
        trained: One of `STAGES`.
        without: Parts of the mixture that are left out.
        experts: Experts that answer together.
        demonstrations: Labels shown with a question, in training the experts and in asking.
        starter: Experts to start from.
    """

    seed: int
    trained: str | None
    without: tuple[str, ...]
    experts: int | None
    demonstrations: int | None
    starter: str

    def plan(self) -> tuple[Training | None, dict[str, object]]:
        """The training, None for none, and settings of the connection that asks.

        Raises:
            InputError: There is no such part, or flags contradict.
        """
        plain = seeded(self.seed)
        mixture, asked = leave_out(plain.mixture, self.without)
        self._check_contradictions()
        if self.demonstrations is not None:
            mixture = replace(mixture, demonstrations=self.demonstrations)
            asked["demonstrations"] = self.demonstrations
        if self.experts is not None:
            asked["experts"] = self.experts
        asked["starter"] = self.starter
        if self.trained is None:
            return None, asked
        settings = replace(plain, mixture=mixture)
        return Training(STAGES[self.trained], settings, self.starter), asked

    def _check_contradictions(self) -> None:
        if "rag" in self.without:
            refuse_both("--without rag", self.demonstrations)
        for part in ("experts", "adapters"):
            if part in self.without and self.experts is not None:
                raise InputError(
                    f"--without {part} stands for --experts {PARTS[part][2]['experts']}, but "
                    f"--experts is {self.experts}",
                    hint="give one of them",
                )
