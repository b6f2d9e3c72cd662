"""Runs of train.py in processes that start in no time: a server has imported everything and forks."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.lightning import find_free_network_port

CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = ["tests.processes", "qat.cli.train", "speechbrain.lobes.models.CRDNN", "transformers"]
CONTEXT.set_forkserver_preload(PRELOADED)


def start(args: Sequence[str], log: Path, processes: int = 1, program: str = "train") -> list[BaseProcess]:
    """Start `train.py`, on several ranks as `torchrun` does; output goes to `log` (of rank 1 to `log.1`).

    Args:
        args: of the command line.
        log: file.
        processes: ranks.
        program: `train`, or `evaluate` for evaluate.py.
    """
    environment = {"WANDB_MODE": "offline"}
    started: list[BaseProcess] = []
    port = find_free_network_port()
    for rank in range(processes):
        if processes > 1:
            environment |= {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": str(processes),
            }
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
            environment |= {
                "TORCHELASTIC_RUN_ID": "test",
                "GROUP_RANK": "0",
                "LOCAL_WORLD_SIZE": str(processes),
            }
            args = [*args, "--trainer.devices", str(processes), "--trainer.strategy", "ddp"]
        own = log if rank == 0 else log.with_suffix(f".{rank}")
        process: Any = CONTEXT.Process(target=run, args=(list(args), dict(environment), str(own), program))
        process.start()
        started.append(process)
    return started


def finish(started: Sequence[BaseProcess], timeout_s: float = 120.0) -> list[int | None]:
    """Wait for all; their exit statuses (negative: the signal that killed one, after which the others are killed)."""
    for process in started:
        process.join(timeout_s)
        if process.exitcode != 0:
            timeout_s = 15.0
    for process in started:
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in started]


def run(args: list[str], environment: dict[str, str], log: str, program: str = "train") -> None:
    """In the child: one rank."""
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    import torch
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from qat.system.errors import UserError

    rank_zero_only.rank = int(environment.get("RANK", 0))  # was read when the server started
    torch.set_num_threads(1)
    try:
        command = getattr(import_module(program), program)
        command(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(2)
