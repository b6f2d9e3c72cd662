"""Sharing work among the ranks of a distributed run, such that all come to the bits of a single process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

T = TypeVar("T")
CHUNKS = 16  # floating-point sums are taken chunk by chunk, however many ranks share the chunks
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # in Lightning's order


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes: (0, 1) when not distributed."""
    torch = sys.modules.get("torch")  # where nobody imported it, nothing is distributed
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def launched_rank() -> int:
    """Global rank of this process, also before a process group exists.

    It is Lightning's where Lightning has been imported, else what the launcher put into the environment.
    """
    rank_zero = sys.modules.get("lightning_utilities.core.rank_zero")
    known = getattr(getattr(rank_zero, "rank_zero_only", None), "rank", None)
    if known is not None:
        return int(known)
    return next((int(os.environ[name]) for name in RANK_VARIABLES if name in os.environ), 0)


def parts_of(count: int) -> list[range]:
    """The `CHUNKS` consecutive parts of `count` items, some empty where there are fewer."""
    return [range(part * count // CHUNKS, (part + 1) * count // CHUNKS) for part in range(CHUNKS)]


def in_chunks(count: int, work: Callable[[Sequence[int]], T]) -> Iterator[T]:
    """Results of `work` on each part of `count` items, in order, on every rank; ranks take turns in computing them.

    Args:
        count: items.
        work: indices of some items -> a result that can be pickled, its tensors on the CPU.
    """
    rank, world = rank_and_world()
    parts = parts_of(count)
    for start in range(0, CHUNKS, world):
        mine = work(parts[start + rank]) if start + rank < CHUNKS else None
        for source in range(min(world, CHUNKS - start)):
            yield cast(T, broadcast_from(mine, source))  # the source has computed its part


def items_of_this_rank(count: int) -> list[int]:
    """The items that `in_chunks` gives to this rank."""
    rank, world = rank_and_world()
    return [number for part in parts_of(count)[rank::world] for number in part]


def broadcast_from(value: T, source: int = 0) -> T:
    """The value on rank `source`, on every rank."""
    if rank_and_world()[1] == 1:
        return value
    import torch.distributed as dist

    held = [value]
    dist.broadcast_object_list(held, src=source)
    return held[0]


def gather_from_all(value: T) -> list[T]:
    """The values of all ranks, in the order of the ranks, on every rank."""
    world = rank_and_world()[1]
    if world == 1:
        return [value]
    import torch.distributed as dist

    held: list[Any] = [None] * world
    dist.all_gather_object(held, value)
    return held


def on_first_rank(work: Callable[[], T]) -> T:
    """What `work` gives on the first rank, on every rank; what it raises there is raised on all.

    Raises:
        Exception: of the first rank.
    """
    rank, world = rank_and_world()
    if world == 1:
        return work()
    held: list[Any] = [None, None]
    if rank == 0:
        try:
            held[0] = work()
        except Exception as error:  # the others wait: they must not wait for ever
            held[1] = error
    value, raised = broadcast_from(held)
    if raised is not None:
        raise raised
    return cast(T, value)


@contextmanager
def group_of_launched() -> Iterator[None]:
    """A process group, before Lightning makes its own, of processes that torchrun or srun has started.

    Raises:
        RuntimeError: their launcher names no address at which they meet.
    """
    import torch.distributed as dist
    from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    environment = next(kind() for kind in (TorchElasticEnvironment, SLURMEnvironment) if kind.detect())
    os.environ["MASTER_ADDR"] = environment.main_address
    os.environ["MASTER_PORT"] = str(environment.main_port)
    patience = timedelta(days=1)  # one rank may work while the others wait
    dist.init_process_group(
        "gloo", rank=environment.global_rank(), world_size=environment.world_size(), timeout=patience
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def interleaved(parts: Sequence[Sequence[T]]) -> list[T]:
    """Items in their first order, of which rank r had r, r + n, r + 2 n, ...

    >>> interleaved([["a", "c", "e"], ["b", "d"]])
    ['a', 'b', 'c', 'd', 'e']
    """
    every: list[Any] = [None] * sum(len(part) for part in parts)
    for rank, part in enumerate(parts):
        every[rank :: len(parts)] = part
    return every
