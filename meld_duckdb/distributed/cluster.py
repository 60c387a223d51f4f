"""Actors of Ray Data that work on partitions. The one door of Ray."""

from __future__ import annotations

import importlib.util
import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from meld_duckdb.distributed.parts import Parts
from meld_duckdb.distributed.worker import (
    MOST_TRIES,
    Answering,
    PartitionWorker,
    Stage,
    Told,
    tell_line,
)
from meld_duckdb.errors import ConfigError, EngineUnavailable
from meld_duckdb.settings import prepare_ray

_SPARE_CPUS = 2
"""Beyond what actors take on one machine: what hands them their partitions wants some too."""

_IN_FLIGHT = 2
_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """Who does the work.

    Attributes:
        address: A Ray cluster, ``"auto"`` for the one of this machine; None starts one here.
        actors: Processes that work at the same time.
        cpus: Cores that each takes.
        gpus: Devices that each takes.
    """

    address: str | None = None
    actors: int = 1
    cpus: float = 1.0
    gpus: float = 0.0

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: A number is out of range.
        """
        if self.actors < 1 or self.cpus <= 0 or self.gpus < 0:
            raise ConfigError(
                f"{self.actors} actors of {self.cpus:g} cores and {self.gpus:g} devices",
                hint="expected at least one actor, of more than 0 cores",
            )


@contextmanager
def running(cluster: Cluster) -> Iterator[None]:
    """Have a Ray cluster for the time of a ``with`` block: the one given, or one made for it.

    Raises:
        ConfigError: Ray is not installed.
        EngineUnavailable: There is no cluster at the address.
    """
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    own: dict[str, Any] = {"address": cluster.address}
    if cluster.address is None:
        own = {"num_cpus": _cores(cluster), "include_dashboard": False}
        own |= {"num_gpus": cluster.actors * cluster.gpus} if cluster.gpus else {}
    else:
        _check_address(cluster.address)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(cluster.address, error) from error
    try:
        yield
    finally:
        ray.shutdown()


def work(
    stage: Stage,
    numbers: Sequence[int],
    parts: Parts,
    answering: Answering,
    cluster: Cluster,
    told: Told,
) -> None:
    """Have actors work on partitions.

    Args:
        stage: The work.
        numbers: The partitions.
        parts: Where they go.
        answering: How questions are answered.
        cluster: Who does it; `running` is around.
        told: Is told of every partition.
    """
    import ray.data

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # what fails in Ray itself harms no other partition
    context.max_consecutive_actor_init_deaths = MOST_TRIES
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    wanted = [{"number": n, "key": stage.key(n)} for n in numbers]
    with ray.data.DataContext.current(context):
        rows = ray.data.from_items(wanted, override_num_blocks=len(wanted)).map_batches(
            PartitionWorker,
            fn_constructor_args=(stage, parts, answering),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(
                size=min(cluster.actors, len(wanted)), max_tasks_in_flight_per_actor=_IN_FLIGHT
            ),
            num_cpus=cluster.cpus,
            num_gpus=cluster.gpus,
        )
        for row in rows.iter_rows():
            tell_line(row, told)


def _check_address(address: str) -> None:
    """Refuse an address where nothing listens: Ray would try for many minutes.

    Raises:
        EngineUnavailable: Nothing listens there.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # "auto", "local": Ray knows at once
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str | None, error: Exception) -> EngineUnavailable:
    return EngineUnavailable(
        f"no Ray cluster at {address or 'this machine'}: {error}",
        hint="ray start --head starts one; --address names it",
    )


def _cores(cluster: Cluster) -> int:
    return int(cluster.actors * cluster.cpus + 0.999) + _SPARE_CPUS


def _ray() -> Any:
    prepare_ray()
    try:
        if importlib.util.find_spec("pandas") is None:
            raise ImportError("No module named 'pandas'")
        import ray
    except ImportError as error:
        raise ConfigError(
            f"distributed work needs Ray and pandas: {error}",
            hint="pip install 'meld-duckdb[ray]'",
        ) from error
    return ray
