"""Two ranks find, round, count and train what one does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from qat.callbacks.agreement import check_ranks_agree
from qat.report.row import load_report
from qat.system.errors import UserError
from qat.system.ranks import CHUNKS, gather_from_all, in_chunks, interleaved, items_of_this_rank, parts_of
from tests.processes import CONTEXT, finish, start
from tests.test_invariants import assert_equal
from tests.test_kill import flags
from train import train


def test_chunks_hold_every_item_once_in_order() -> None:
    for count in (0, 1, 5, CHUNKS, 100):
        assert [number for part in parts_of(count) for number in part] == list(range(count))
        assert [number for part in in_chunks(count, list) for number in part] == list(range(count))
    assert items_of_this_rank(100) == list(range(100))


def test_items_of_ranks_come_back_in_their_order() -> None:
    for world in (1, 2, 3, 5):
        items = list(range(13))
        assert interleaved([items[rank::world] for rank in range(world)]) == items


def on_rank(rank: int, world: int, port: int, results: Any) -> None:
    """What one rank of a group sees."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    torch.set_num_threads(1)
    values = torch.randn(37, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(())
    for part in in_chunks(37, lambda numbers: values[list(numbers)].sum()):
        total = total + part
    model = torch.nn.Linear(2, 2)
    from qat.layers.swap import quantizers, swap_
    from qat.recipe import Recipe

    host = torch.nn.Sequential(model)
    swap_(host, Recipe(preset="x"))
    check_ranks_agree(host, "at first")
    said = ""
    if rank == 1:
        next(iter(quantizers(host)))[1].scale.mul_(2)
    try:
        check_ranks_agree(host, "after epoch 1")
    except UserError as error:
        said = str(error)
    results.put((rank, float(total), items_of_this_rank(37), gather_from_all(rank), said))
    dist.barrier()
    dist.destroy_process_group()


def test_sums_are_the_same_bits_on_any_number_of_ranks_and_a_rank_that_differs_is_named() -> None:
    found: dict[int, list[Any]] = {}
    for world in (1, 2, 3):
        port = find_free_network_port()
        results = CONTEXT.Queue()
        processes = [
            CONTEXT.Process(target=on_rank, args=(rank, world, port, results)) for rank in range(world)
        ]
        for process in processes:
            process.start()
        found[world] = sorted(results.get(timeout=300) for _ in processes)
        for process in processes:
            process.join()
    sums = {item[1] for items in found.values() for item in items}
    assert len(sums) == 1
    for world, items in found.items():
        assert sorted(number for item in items for number in item[2]) == list(range(37))
        assert all(item[3] == list(range(world)) for item in items)
        for item in items:
            assert ("after epoch 1: the quantizers of rank 1 differ from those of rank 0" in item[4]) is (
                world > 1
            )


@pytest.fixture
def config(tiny: Path) -> Path:
    """A tiny run of one epoch; test sets of an odd number of utterances."""
    content = yaml.safe_load(tiny.read_text())
    content["data"]["init_args"] |= {"max_batch_s": 2.5, "max_test_utterances": 3}
    content["trainer"] |= {"num_sanity_val_steps": 0, "enable_progress_bar": False}
    content |= {"wandb": {"enabled": False}}
    tiny.write_text(yaml.safe_dump(content))
    return tiny


def both(config: Path, tmp_path: Path, *more: str) -> tuple[Path, Path]:
    """The folders of the same run on one rank and on two."""
    folders = tmp_path / "on1", tmp_path / "on2"
    for processes, folder in enumerate(folders, start=1):
        log = tmp_path / f"log{processes}"
        assert finish(start(flags(config, folder, *more), log, processes)) == [0] * processes, (
            log.read_text()[-3000:]
        )
    return folders


def state(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / name, weights_only=True)["state_dict"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["ptq_max", "ptq_mse", "ptq_percentile", "ptq_entropy"])
@pytest.mark.parametrize("kind", ["crdnn"])
def test_every_calibrator_gives_the_same_bits(config: Path, tmp_path: Path, preset: str) -> None:
    more = ["--qat", preset, "--qat.calibration_utterances", "5", "--evaluation.enabled", "false"]
    one, two = both(config, tmp_path, *more)
    assert_equal(state(one, "ptq.ckpt"), state(two, "ptq.ckpt"))


CORRECTED = ["--qat", "ptq_mse", "--qat.bias_correction", "true", "--qat.reconstruction_utterances", "7"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wav2vec2"])
def test_bias_correction_after_a_search_of_ranges_gives_the_same_bits(config: Path, tmp_path: Path) -> None:
    one, two = both(config, tmp_path, *CORRECTED, "--evaluation.enabled", "false")
    assert_equal(state(one, "model.ckpt"), state(two, "model.ckpt"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["crdnn"])
def test_every_utterance_counts_once_in_the_report(config: Path, tmp_path: Path) -> None:
    """Three utterances on two ranks; bias correction on seven. The report is that of one process."""
    more = [*CORRECTED, "--evaluation.twin", "false", "--evaluation.repeats", "1"]
    one, two = both(config, tmp_path, *more)
    assert_equal(state(one, "model.ckpt"), state(two, "model.ckpt"))
    texts = [json.loads((folder / "utterances.json").read_text()) for folder in (one, two)]
    assert texts[0] == texts[1] and len(texts[0]["splits"]["test_a"]["ids"]) == 3
    rows = [load_report(folder / "report.json") for folder in (one, two)]
    for first, second in zip(*rows, strict=True):
        for key in ("wer", "substitutions", "deletions", "insertions", "utterances", "parity", "wer_ci95"):
            assert getattr(first, key) == getattr(second, key), key


@pytest.mark.slow
def test_adaround_and_bias_correction_give_the_same_bits(config: Path, tmp_path: Path) -> None:
    more = ["--qat", "adaround", "--qat.ada_round_steps", "110", "--qat.reconstruction_utterances", "7"]
    one, two = both(config, tmp_path, *more, "--evaluation.enabled", "false")
    first, second = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (one, two))
    assert_equal(first["state_dict"], second["state_dict"])
    assert_equal(first["callbacks"]["AdaRound"], second["callbacks"]["AdaRound"])
    for item in (*first["reconstruction"], *second["reconstruction"]):
        item.pop("seconds")
    assert_equal(first["reconstruction"], second["reconstruction"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["crdnn"])
def test_re_estimated_statistics_are_the_same_bits(config: Path, tmp_path: Path) -> None:
    more = [
        "--qat",
        "deterministic",
        "--qat.fold_batch_norm",
        "false",
        "--qat.re_estimate_batch_norm",
        "true",
    ]
    more += ["--model.learning_rate", "0", "--model.weight_decay", "0", "--evaluation.enabled", "false"]
    one, two = both(config, tmp_path, *more)
    states = [state(folder, "model.ckpt") for folder in (one, two)]
    names = [name for name in states[0] if "running" in name]
    assert names
    for name in names:
        assert torch.equal(states[0][name], states[1][name]), name


@pytest.mark.slow
def test_another_number_of_processes_may_not_resume_inside_an_epoch(
    config: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "wav2vec2":
        pytest.skip("one model is enough")
    log, folder = tmp_path / "log", tmp_path / "run"
    more = ["--qat", "deterministic", "--evaluation.enabled", "false", "--save_every_steps", "1"]
    train(flags(config, folder, *more))
    inside = folder / "before_last.ckpt"
    assert torch.load(inside, weights_only=True)["inside_epoch"]
    again = flags(config, folder, *more, "--ckpt_path", str(inside))
    assert finish(start(again, log, 2)) != [0, 0]
    assert (
        "--ckpt_path: 2 processes must be 1, as the checkpoint was written inside an epoch" in log.read_text()
    )


@pytest.mark.parametrize("kind", ["crdnn"])
@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_stage_2", "FSDP"])
def test_strategies_that_shard_weights_are_refused(config: Path, tmp_path: Path, strategy: str) -> None:
    with pytest.raises(
        UserError, match=f"--trainer.strategy {strategy}: must be auto, ddp .* it shards the weights"
    ):
        train(flags(config, tmp_path / "run", "--qat", "deterministic", "--trainer.strategy", strategy))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["crdnn"])
def test_a_launcher_of_many_processes_needs_a_name(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        UserError, match="--run: must be given where torchrun or srun starts every process by itself"
    ):
        train(["--config", str(config), "--qat", "deterministic"])
