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

_ASKS_TIER_2 = ("t2", "auto")


@dataclass(frozen=True, slots=True)
class Flags:
    """Flags as given; None for one that was not.

    Attributes:
        tier: Tier that answers.
        seed: Of all draws.
        trained: One of `STAGES`.
        without: Parts of the mixture that are left out.
        experts: Experts that answer together.
        expert_weights: The setting of that name.
        demonstrations: Labels shown with a question, in training the experts and in asking.
        starter: Experts to start from.
    """

    tier: str
    seed: int
    trained: str | None
    without: tuple[str, ...]
    experts: int | None
    expert_weights: str | None
    demonstrations: int | None
    starter: str

    def plan(self) -> tuple[Training | None, dict[str, object]]:
        """The training, None for none, and settings of the connection that asks.

        Raises:
            InputError: There is no such part, or flags contradict or change nothing together.
        """
        plain = seeded(self.seed)
        mixture, asked = leave_out(plain.mixture, self.without)
        self._check_contradictions()
        self._check_idle()
        if self.demonstrations is not None:
            mixture = replace(mixture, demonstrations=self.demonstrations)
            asked["demonstrations"] = self.demonstrations
        if self.experts is not None:
            asked["experts"] = self.experts
        if self.expert_weights is not None:
            asked["expert_weights"] = self.expert_weights
        asked["starter"] = self.starter
        if self.trained is None:
            return None, asked
        settings = replace(plain, mixture=mixture)
        return Training(STAGES[self.trained], settings, self.starter), asked

    @property
    def warning(self) -> str | None:
        """What training is done for nothing beside some that counts; None for none."""
        if self.trained != "all" or self.tier in _ASKS_TIER_2:
            return None
        return (
            f"warning: --train all trains experts too, which --tier {self.tier} does not ask; "
            "--train retrieval leaves them out"
        )

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

    def _check_idle(self) -> None:
        of_training = [f"--without {part}" for part in self.without if not PARTS[part][2]]
        if of_training and self.trained not in ("experts", "all"):
            raise InputError(
                f"{', '.join(of_training)}: about the training of experts, and none are trained",
                hint="add --train experts, or --train all",
            )
        given = [
            *(["--train experts"] if self.trained == "experts" else []),
            *(["--experts"] if self.experts is not None else []),
            *(["--expert-weights"] if self.expert_weights is not None else []),
            *(["--demonstrations"] if self.demonstrations is not None else []),
            *(f"--without {part}" for part in self.without),
        ]
        if given and self.tier not in _ASKS_TIER_2:
            raise InputError(
                f"{', '.join(given)}: about tier 2, which --tier {self.tier} does not ask",
                hint="add --tier t2 to ask it about every row, or --tier auto",
            )
