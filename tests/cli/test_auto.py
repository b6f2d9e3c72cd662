"""`--qat auto` searches in place of a preset, and the recipe that it finds takes the preset's place."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from qat.cli.auto import keep, searched, settings, split
from qat.models.loading import save_module
from qat.runtime.export import ExportInfo
from qat.search import search as found
from qat.search.cost import REST, Costs
from qat.search.options import SearchOptions
from qat.system.errors import UserError
from tests.search.conftest import decided


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.ckpt").write_text("")
    path = tmp_path / "c.yaml"
    path.write_text(
        f"model: {{class_path: M, init_args: {{init_from: {tmp_path}/model/a.ckpt}}}}\n"
        "data: {class_path: datamodules.MiniDataModule, init_args: {max_batch_s: 3.0}}\n"
    )
    return path


def test_without_it_nothing_changes() -> None:
    assert searched(["--qat", "ptq_max", "--run", "x"]) == ["--qat", "ptq_max", "--run", "x"]


def test_its_own_flags_are_the_searchs() -> None:
    rest, options = split(["--qat=auto", "--auto.max_size_mb=1e-1", "--run", "x", "--auto.bits", "[8, 3]"])
    assert rest == ["--run", "x"]
    assert options == SearchOptions(max_size_mb=0.1, bits=[8, 3])


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--qat", "off", "--auto.max_loss", "1"], "--auto.max_loss: must be given with --qat auto"),
        (["--qat", "auto", "--auto.max_los", "1"], "did you mean --auto.max_loss"),
        (["--qat", "auto", "--auto.max_loss", "much"], "--auto.max_loss: 'much' must be a number"),
        (["--qat", "auto", "--auto.max_loss", "-1"], "max_loss -1 must be a number above 0"),
        (["--qat", "auto", "--auto.max_loss"], "--auto.max_loss: '' must be a number"),
    ],
)
def test_mistakes_are_one_line(args: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        split(args)


def test_a_search_is_for_the_runtime_that_it_measures() -> None:
    with pytest.raises(UserError, match="qat.target: 'openvino', must be onnxruntime with --qat auto"):
        searched(["--qat", "auto", "--qat.target", "openvino"])


def test_flags_change_the_data_and_the_start(config: Path) -> None:
    read = settings(["--config", str(config), "--data.max_batch_s", "4", "--model.init_from", "b.ckpt"])
    assert read["data"]["init_args"] == {"max_batch_s": 4}
    assert read["model"]["init_args"]["init_from"] == "b.ckpt"


def test_the_recipe_takes_the_place_of_the_preset(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(found, "search", lambda *given: asked.extend(given))
    args = searched(["--config", str(config), "--qat", "auto", "--auto.seed", "3", "--qat.seed", "1"])
    recipe = str(tmp_path / "model" / "search" / "recipe.yaml")
    assert args == ["--config", str(config), "--qat", recipe, "--qat.seed", "1"]
    assert asked[0] == tmp_path / "model" / "a.ckpt" and asked[4] == SearchOptions(seed=3)


def test_a_resumed_run_keeps_its_recipe(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "search").mkdir(parents=True)
    (run / "search" / "recipe.yaml").write_text("preset: mine\n")
    args = searched(["--config", str(config), "--qat", "auto", "--run", str(run), "--ckpt_path", "last"])
    assert args[2:4] == ["--qat", str(run / "search" / "recipe.yaml")]


def test_no_float_start_is_one_line(config: Path) -> None:
    with pytest.raises(UserError, match="the float start gone.ckpt must be a checkpoint file"):
        searched(["--config", str(config), "--model.init_from", "gone.ckpt", "--qat", "auto"])


def test_the_search_is_kept_with_the_run(tmp_path: Path) -> None:
    (tmp_path / "search").mkdir()
    for name in ("recipe.yaml", "search.json", "pareto.png", ".lock"):
        (tmp_path / "search" / name).write_text(name)
    (tmp_path / "run").mkdir()
    kept = list(keep(["--qat", str(tmp_path / "search" / "recipe.yaml")], tmp_path / "run"))
    assert [path.name for path in kept] == ["pareto.png", "recipe.yaml", "search.json"]
    assert not list(keep(["--qat", "configs/qat/off.yaml"], tmp_path / "run"))


def search_on_rank(config: str, results: Any) -> None:
    """What a process that torchrun has started makes of `--qat auto`.

    Nothing is exported: integer layers take half of float's time, and dev shows nothing.
    """
    from qat.search import measure, proof
    from qat.search.proof import Proof

    def costs_of(files: dict[str, Path], work: Any) -> dict[str, Costs]:
        times = {name: dict.fromkeys(work.layers, 2.0 if name == "float" else 1.0) for name in files}
        return {
            name: Costs({**ms, REST: 1.0}, {**dict.fromkeys(ms, 9), REST: 9}) for name, ms in times.items()
        }

    def exported(module: Any, path: Path) -> ExportInfo:
        path.write_bytes(b"file")
        return ExportInfo(path, "integer", 0.0, "", 0)

    def prove(path: Path) -> Proof:
        return Proof(1.0, 1.0, {"mean": 0.0, "ci95": [0.0, 0.0], "p_value": 1.0})

    side = {"latency_ms": {"p50": 1.0}}
    times = {"integer": side, "float": side, "speedup": 1.0, "engine": "x", "threads": 1, "device": "y"}
    for module, name, stub in (
        (measure, "costs_of", costs_of),
        (found, "Prover", lambda *given: prove),
        (proof, "exported", exported),
        (found, "measure_latency", lambda *given, **more: times),
    ):
        setattr(module, name, stub)
    auto = ["--auto.bits", "[8]", "--auto.utterances", "2", "--auto.calibration_utterances", "4"]
    more = ["--auto.max_loss", "10", "--run", "x"]
    results.put(searched(["--config", config, "--qat", "auto", *auto, *more]))


@pytest.mark.slow
def test_processes_that_a_launcher_starts_share_a_search(
    tiny_manifests: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, found = multiprocessing.get_context("spawn"), {}
    for world in (1, 2):
        model = tmp_path / str(world) / "float.ckpt"
        model.parent.mkdir()
        save_module(decided("crdnn"), model)
        config = tmp_path / f"{world}.yaml"
        data = {key: str(tiny_manifests[key]) for key in ("train", "dev")} | {"max_batch_s": 6.0}
        data |= {"test": str(tiny_manifests["test_a"])}
        sections = {
            "model": {"class_path": "qat.models.CRDNNModule", "init_args": {"init_from": str(model)}},
            "data": {"class_path": "datamodules.ManifestDataModule", "init_args": data},
        }
        config.write_text(yaml.safe_dump(sections))
        results, port = context.Queue(), find_free_network_port()
        processes = [
            context.Process(target=search_on_rank, args=(str(config), results)) for _ in range(world)
        ]
        launched = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0}
        launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "x"}
        for rank, process in enumerate(processes):
            for name, value in {**launched, "RANK": rank, "LOCAL_RANK": rank}.items():
                monkeypatch.setenv(name, str(value))
            process.start()
        recipe = model.parent / "search" / "recipe.yaml"
        for _ in processes:
            assert results.get(timeout=300)[2:4] == ["--qat", str(recipe)]
        for process in processes:
            process.join()
        found[world] = json.loads((recipe.parent / "search.json").read_text())
    assert found[1]["losses"] == found[2]["losses"]
    assert found[1]["result"]["rounds"] == found[2]["result"]["rounds"]
