"""What each part of the mixture of experts is worth, on several data sets in one workspace.

    python -m tests.bench.bench_experts --data DIR --keep DIR [--set TASK/NAME ...] [--rows 300]
        [--seed 42 ...] [--variant NAME ...] [--epochs 2] [--rounds 2] [--quota 48] [--extra 200]
        [--labels N] [--max-chars 2000] [--precision auto] [--pairs 0] [--json FILE]

The few-shot labels of ``meld eval`` of all sets (or ``--labels`` of each, a twentieth as many
tuples) are taught to one workspace, ``meld train --stages experts`` runs, and the test rows
(``--rows`` of each set, a twentieth as many tuples, drawn by seed) are answered by tier 2 alone, so
that what experts change is not hidden by tier 0. Variants:

    base             the language model without experts or demonstrations
    base-rag         the language model without experts, two demonstrations with every question
    full             three experts, equal weights, everything trained
    k1 ... k5        so many experts
    router-weights   weights by relevance
    all-tasks        experts of other tasks may be chosen, too; the router is trained for that
    no-router        the router untrained: experts by their descriptions
    no-starter       with --pairs: the first adapter of a task begins with the language model
    no-pretraining   every expert trained from the language model
    no-path          no meta-paths searched
    no-refine        no refinement
    rag              two demonstrations with every question, in training and asking
    auto             tier 0 first, the gate decides

``--pairs`` trains an adapter of matching on so many pairs of every other data set first (none of the
sets, and none that shares records with one), as the starter has it, and the experts begin with it.

Training is repeated where a variant needs it; stages that a variant does not change are skipped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from meld_duckdb.evaluate.ablation import leave_out
from meld_duckdb.evaluate.case import Case, Reply
from meld_duckdb.evaluate.labels import Request
from meld_duckdb.evaluate.layout import find_datasets
from meld_duckdb.evaluate.metrics import Measure
from meld_duckdb.evaluate.run import prepare
from meld_duckdb.evaluate.together import evaluate_together
from meld_duckdb.evaluate.training import Training
from meld_duckdb.models import locate
from meld_duckdb.settings import DEFAULT_MODEL, default_model_dir
from meld_duckdb.starter import ADAPTERS, NONE
from meld_duckdb.train import calibrate_match
from meld_duckdb.train.lora import LoraSettings
from meld_duckdb.train.mixture_settings import EXPERTS, MoeSettings
from meld_duckdb.train.pipeline import TrainSettings
from meld_duckdb.train.refine import RefineSettings
from meld_duckdb.train.starter_stages import Drawn, StarterExpert, StarterSettings

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data"
CELLS = 20
"""Every cell of a tuple is asked about: of cleaning so many times fewer tuples are drawn."""

SETS = (
    "match/amazon_google",
    "match/abt_buy",
    "match/rel_text",
    "match/dblp_scholar",
    "impute/restaurant",
    "impute/walmart",
    "repair/hospital",
    "repair/rayyan",
)


@dataclass(frozen=True)
class Variant:
    """What a variant leaves out or changes."""

    without: tuple[str, ...] = ()
    asked: Mapping[str, object] = field(default_factory=dict)
    tier: str = "t2"
    demonstrations: int = 0
    starter: bool = True


@dataclass(frozen=True)
class Costs:
    """What training may cost.

    Attributes:
        epochs: Passes over the rows.
        rounds: Rounds of refinement.
        quota: Rows that one adds.
        extra: Rows of an expert that are no labels, at most.
        labels: Labels of a set; None for its few-shot file.
        max_chars: Characters of a prompt's records, about, in training and asking.
        precision: Numbers that training computes in.
        pairs: Pairs of every other data set that the adapter of matching learns from before; 0 for
            no such adapter.
    """

    epochs: int = 2
    rounds: int = 2
    quota: int = 48
    extra: int = 200
    labels: int | None = None
    max_chars: int = 2_000
    precision: str = "auto"
    pairs: int = 0


# In this order, so that variants of the same training follow each other.
VARIANTS = {
    "base": Variant(("adapters",), {"demonstrations": 0}),
    "base-rag": Variant(("adapters",), {"demonstrations": 2}),
    "full": Variant(),
    **{f"k{k}": Variant(asked={"experts": k}) for k in (1, 2, 4, 5)},
    "router-weights": Variant(asked={"expert_weights": "router"}),
    "all-tasks": Variant(asked={"expert_tasks": "all"}),
    "auto": Variant(tier="auto"),
    "no-router": Variant(("router",)),
    "no-starter": Variant(starter=False),
    "no-pretraining": Variant(("pretraining",)),
    "no-path": Variant(("path",)),
    "no-refine": Variant(("refinement",)),
    "rag": Variant(demonstrations=2),
}


def measure(
    data: Path,
    names: list[str],
    variant: Variant,
    rows: int,
    seed: int,
    keep: Path,
    costs: Costs,
) -> list[dict[str, Any]]:
    """Train and ask one variant with one seed; a line per set."""
    cases = []
    for name in names:
        task, _, wanted = name.partition("/")
        [found] = [d for d in find_datasets(data, task) if d.name == wanted]
        limit, labels = rows, costs.labels
        if task == "repair":
            limit = max(3, rows // CELLS)
            labels = None if labels is None else max(3, labels // CELLS)
        request = Request(labels, seed, "stratified", limit, False)
        cases += [(case, found) for case in prepare(task, found, request, None)]
    cases = [(with_auc(case), found) for case, found in cases]
    plain = MoeSettings(
        lora=LoraSettings(seed=seed, epochs=costs.epochs, precision=costs.precision),
        refine=RefineSettings(rounds=costs.rounds, quota=costs.quota),
        extra=costs.extra,
        demonstrations=variant.demonstrations,
        seed=seed,
    )
    keep.mkdir(parents=True, exist_ok=True)
    (keep / "meld.toml").write_text(f"max_record_chars = {costs.max_chars}\n", "utf-8")
    mixture, asked = leave_out(plain, variant.without)
    # Tier 2 asked by name needs no gate.
    stages = EXPERTS if variant.tier == "auto" else tuple(s for s in EXPERTS if s != "gate")
    starter = trained_starter(data, names, keep.parent / f"starter-{costs.pairs}", costs)
    training = Training(
        stages,
        TrainSettings(mixture=mixture, seed=seed),
        str(starter) if starter and variant.starter else NONE,
    )
    lines = []
    for result in evaluate_together(
        cases,
        seed,
        variant.tier,
        lambda line: print(line, flush=True),
        None if "adapters" in variant.without else training,
        {**asked, **variant.asked},
        keep,
    ):
        value = result.values[0]
        lines.append(
            {
                "task": result.task,
                "set": result.dataset,
                "metric": value.metric,
                "value": round(value.value, 4),
                "low": round(value.low, 4),
                "high": round(value.high, 4),
                "others": {v.metric: round(v.value, 4) for v in result.values[1:]},
                "n": result.n,
                "tiers": dict(result.tiers),
                "failures": result.failures,
                "seconds": round(result.seconds),
            }
        )
        print(json.dumps(lines[-1]), flush=True)
    return lines


def with_auc(case: Case) -> Case:
    """Grade the probabilities of pairs too: area under the ROC curve, which has no threshold."""
    if case.task != "match":
        return case

    def grade(replies: Sequence[Reply]) -> list[Measure]:
        found = case.gold.grade(replies)
        [yes] = [m.denominator for m in found if m.name == "recall"]
        given = [0.0 if r.probability is None else r.probability for r in replies]
        area = calibrate_match.auc(yes.astype(int), np.array(given))
        return [*found, Measure("auc", np.full(len(yes), area), np.ones(len(yes)))]

    return replace(case, gold=replace(case.gold, grade=grade))


def trained_starter(data: Path, names: Sequence[str], folder: Path, costs: Costs) -> Path | None:
    """A starter of matching that has seen none of the sets, the same for all seeds."""
    if not costs.pairs:
        return None
    left_out = tuple(name.partition("/")[2] for name in names if name.startswith("match/"))
    plain = StarterSettings()
    settings = replace(
        plain,
        lora=replace(plain.lora, precision=costs.precision, max_chars=costs.max_chars),
        drawn={"match": Drawn(costs.pairs, left_out)},
    )
    model = (DEFAULT_MODEL, locate(DEFAULT_MODEL, default_model_dir(), "language model"))
    expert = StarterExpert("match", data, model, folder / "kept", settings, print)
    if not (folder / ADAPTERS).is_dir():
        metrics = expert.stage.work()
        expert.install(folder / ADAPTERS, metrics)
        print("starter", json.dumps(dict(metrics)), flush=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--set", nargs="*", dest="names", default=list(SETS))
    parser.add_argument("--variant", nargs="*", default=list(VARIANTS))
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--seed", nargs="*", type=int, default=[42])
    parser.add_argument("--epochs", type=int, default=Costs.epochs)
    parser.add_argument("--rounds", type=int, default=Costs.rounds)
    parser.add_argument("--quota", type=int, default=Costs.quota)
    parser.add_argument("--extra", type=int, default=Costs.extra)
    parser.add_argument("--labels", type=int)
    parser.add_argument("--max-chars", type=int, default=Costs.max_chars)
    parser.add_argument("--precision", default=Costs.precision)
    parser.add_argument("--pairs", type=int, default=Costs.pairs)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    costs = Costs(**{f.name: getattr(given, f.name) for f in fields(Costs)})
    found: list[dict[str, Any]] = []
    if given.json and given.json.is_file():
        found = json.loads(given.json.read_text("utf-8"))
    for seed in given.seed:
        for name in given.variant:
            asked = {"variant": name, "seed": seed, "rows": given.rows, **asdict(costs)}
            if any(asked.items() <= f.items() for f in found):
                continue
            print(f"== {name}, seed {seed}", flush=True)
            keep = given.keep / str(seed)
            started = time.perf_counter()
            lines = measure(given.data, given.names, VARIANTS[name], given.rows, seed, keep, costs)
            seconds = round(time.perf_counter() - started)
            found.append({**asked, "seconds": seconds, "sets": lines})
            if given.json:
                given.json.write_text(json.dumps(found, indent=1), "utf-8")


if __name__ == "__main__":
    main()
