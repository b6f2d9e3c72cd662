"""Training at scale: two processes against one, what the loader costs, what resuming costs, memory of a stream.

`python -m benchmarks.throughput [--parts ranks loader resume stream] [--rounds 3] [--steps 12] [--lines 5000000]`
Needs quiet cores: two processes are to have one each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from torch.nn.parallel import DistributedDataParallel

from benchmarks.common import calibrate_on_noise_, mini, noise
from benchmarks.qat_step import RECIPES, TEXT, step
from benchmarks.result_file import ROOT, save, table
from datamodules.mini_corpus import MiniDataModule
from datamodules.stream import SpeechStream
from datamodules.stream_module import StreamDataModule
from qat.models.ctc import CTCModule

FIRST_BATCH = "first batch after"


class Loss(torch.nn.Module):
    """The loss as a forward, which is what DDP wraps."""

    def __init__(self, module: CTCModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, signal: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """CTC loss of a batch."""
        return self.module.ctc_loss(*self.module(signal, lengths), [TEXT] * len(signal))


def train_on_rank(rank: int, world: int, port: int, options: argparse.Namespace, results: Any) -> None:
    """Seconds of the measured steps of one rank, with one thread."""
    torch.set_num_threads(1)
    module = mini(options.model, RECIPES["stochastic"])
    calibrate_on_noise_(module)
    loss: torch.nn.Module = Loss(module.train())
    if world > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        dist.init_process_group("gloo", rank=rank, world_size=world)
        loss = DistributedDataParallel(loss, gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-6)
    signal = noise(options.batch, 3.0, seed=rank)
    lengths = torch.full((options.batch,), signal.shape[1])
    for number in range(options.warmup + options.steps):
        if number == options.warmup:
            started = time.perf_counter()
        optimizer.zero_grad()
        loss(signal, lengths).backward()
        optimizer.step()
        module.step_key.step += 1
    results.put(time.perf_counter() - started)
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


def ranks(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Utterances a second of one and of two processes of one thread each, taking turns."""
    context = multiprocessing.get_context("spawn")
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(options.rounds):
        for world, found in speeds.items():
            port = find_free_network_port()
            results: Any = context.Queue()
            members = [
                context.Process(target=train_on_rank, args=(rank, world, port, options, results))
                for rank in range(world)
            ]
            for member in members:
                member.start()
            slowest = max(results.get() for _ in members)
            for member in members:
                member.join()
            found.append(world * options.batch * options.steps / slowest)
    ratios = [two / one for one, two in zip(speeds[1], speeds[2], strict=True)]
    return [
        {
            "part": "ranks",
            "what": f"mini {options.model}, stochastic, utterances/s of 2 gloo processes / 1, a thread each",
            "value": statistics.median(speeds[2]),
            "beside": statistics.median(speeds[1]),
            "ratio": statistics.median(ratios),
            "aim": ">= 1.7",
        }
    ]


def loader(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Share of a step that training waits for its batch, mini corpus with augmentation, without and with a worker."""
    found = []
    for workers in (0, 1):
        data = MiniDataModule(max_batch_s=30.0, pad_to_s=0.5, augment=True, num_workers=workers)
        module = mini(options.model, RECIPES["stochastic"])
        calibrate_on_noise_(module)
        module.train()
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-6)
        batches = iter(data.train_dataloader())
        waits, steps = [], []
        for number in range(options.warmup + 2 * options.steps):
            started = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - started
            took = step(module, optimizer, batch.signal, batch.lengths)
            if number >= options.warmup:
                waits.append(waited)
                steps.append(took)
        found.append(
            {
                "part": "loader",
                "what": f"mini {options.model}: wait for a batch / training step, {workers} workers",
                "value": 1000 * sum(waits) / len(waits),
                "beside": 1000 * sum(steps) / len(steps),
                "ratio": sum(waits) / sum(steps),
                "aim": "< 0.05",
            }
        )
    return found


def resume(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds from the start of train.py to its first batch, resumed inside an epoch and fresh, taking turns."""
    times: dict[str, list[float]] = {"fresh": [], "resumed": []}
    with tempfile.TemporaryDirectory() as folder:
        common = [
            "--config",
            f"configs/mini_{options.model}.yaml",
            "--qat",
            "off",
            "--wandb.enabled",
            "false",
        ]
        common += ["--evaluation.enabled", "false", "--trainer.num_sanity_val_steps", "0"]
        begun = [*common, "--run", f"{folder}/begun", "--save_every_steps", "4"]
        to_first_batch(begun, stop_at=6)
        for number in range(options.rounds):
            times["fresh"].append(to_first_batch([*common, "--run", f"{folder}/fresh{number}"], stop_at=1))
            times["resumed"].append(to_first_batch([*begun, "--ckpt_path", "last"], stop_at=5))
    fresh, resumed = (statistics.median(times[key]) for key in ("fresh", "resumed"))
    return [
        {
            "part": "resume",
            "what": f"mini {options.model}: seconds to the first batch, resumed inside an epoch - fresh",
            "value": resumed,
            "beside": fresh,
            "ratio": resumed - fresh,
            "aim": "< 5 (a difference in seconds)",
        }
    ]


def to_first_batch(args: list[str], stop_at: int) -> float:
    """Run train.py until `stop_at` optimiser steps are reached; seconds from its start to its first batch."""
    command = [sys.executable, "-m", "benchmarks.throughput", "--train", str(stop_at), *args]
    started = time.time()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith(FIRST_BATCH))
    return float(line.removeprefix(FIRST_BATCH)) - started


def train_until(stop_at: int, args: list[str]) -> None:
    """In the child of `to_first_batch`: say when the first batch comes, leave at a step."""
    from lightning.pytorch import Callback, Trainer

    from qat.cli.train import build_cli

    class Watch(Callback):
        said = False

        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if not self.said:
                print(f"{FIRST_BATCH} {time.time()}", flush=True)
                self.said = True

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step >= stop_at:
                os._exit(0)

    run = build_cli(args)
    run.trainer.callbacks.append(Watch())
    run.save_config()
    run.trainer.fit(run.model, datamodule=run.datamodule, ckpt_path=run.checkpoint)


def stream(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Memory and seconds to the first batch of a manifest of many lines, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        audio = next(iter(MiniDataModule().utterances("dev"))).audio
        line = json.dumps({"id": "%d", "audio": str(audio), "text": "turn the light on", "duration_s": 2.0})
        path = Path(folder) / "train.jsonl"
        with path.open("w") as file:
            for start in range(0, options.lines, 100_000):
                file.writelines(
                    f"{line % index}\n" for index in range(start, min(start + 100_000, options.lines))
                )
        command = [sys.executable, "-m", "benchmarks.throughput", "--stream", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        measured = json.loads(done.stdout.splitlines()[-1])
    name = f"JSON lines manifest of {options.lines:,} lines"
    return [
        {
            "part": "stream",
            "what": f"{name}: peak memory MB / before it",
            **measured["memory"],
            "aim": "< 500 MB more",
        },
        {"part": "stream", "what": f"{name}: seconds to the first batch", **measured["time"], "aim": "< 10"},
    ]


def read_stream(path: str) -> None:
    """In the child of `stream`."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    started = time.perf_counter()
    stream = StreamDataModule(train=path, dev=path, test=path, max_batch_s=30.0, augment=True)
    data = SpeechStream(stream.segments, stream.settings())  # its test set is its training set
    batches = iter(data)
    next(batches)
    first = time.perf_counter() - started
    list(islice(batches, 50))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    memory = {"value": after, "beside": before, "ratio": after - before}
    print(json.dumps({"memory": memory, "time": {"value": first, "beside": None, "ratio": first}}))


PARTS = {"ranks": ranks, "loader": loader, "resume": resume, "stream": stream}


def main() -> None:
    if sys.argv[1:2] == ["--train"]:
        return train_until(int(sys.argv[2]), sys.argv[3:])
    if sys.argv[1:2] == ["--stream"]:
        return read_stream(sys.argv[2])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--model", choices=["crdnn", "wav2vec2"], default="crdnn")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--lines", type=int, default=5_000_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for part in options.parts:  # a file each: what is measured again leaves the others alone
        results = PARTS[part](options)
        print(table(results, ["what", "value", "beside", "ratio", "aim"]))
        print(f"saved {save(f'throughput_{part}', results)}", flush=True)


if __name__ == "__main__":
    main()
