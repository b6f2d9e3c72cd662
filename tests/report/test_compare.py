"""Two runs with a known difference, side by side."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml

from qat.cli import evaluate as commands
from qat.evaluation.significance import paired_difference
from qat.report.compare import compare, flat, read_run
from qat.report.compare_files import markdown
from qat.report.row import Row, save_report
from qat.system.errors import UserError
from qat.tracking import wandb_runs
from qat.tracking.wandb_runs import find_runs

REFERENCES = [f"turn light number {index} on" for index in range(8)]
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: Row) -> Make:
    """Writes `checkpoints/NAME`, a run that got the given utterances wrong by one word each."""
    monkeypatch.chdir(tmp_path)

    def make_run(name: str, wrong: list[int], group: str | None = None, **config: Any) -> Path:
        folder = Path("checkpoints") / name
        texts = [
            text.replace("turn", "burn") if index in wrong else text for index, text in enumerate(REFERENCES)
        ]
        errors = [int(index in wrong) for index in range(len(REFERENCES))]
        words = [len(text.split()) for text in REFERENCES]
        own = {"wer": 100.0 * len(wrong) / sum(words), "substitutions": len(wrong)}
        own |= {"deletions": 0, "insertions": 0, "reference_words": sum(words), "run": name}
        folder.mkdir(parents=True)
        save_report(folder / "report.json", [{**row, **own, **config.pop("row", {})}])
        stored = {
            "splits": {
                "test_seen": {
                    "ids": [f"u{index}" for index in range(8)],
                    "references": REFERENCES,
                    "words": words,
                }
            },
            "files": {"model": {"test_seen": {"hypotheses": texts, "errors": errors}}},
        }
        (folder / "utterances.json").write_text(json.dumps(stored))
        settings = {"model": {"class_path": "qat.models.CRDNNModule"}, "wandb": {"group": group}, **config}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        (folder / "wandb_id").write_text(f"id-{name}\n")
        return folder

    return make_run


def test_the_difference_is_paired_to_the_first_run_and_sorted_by_error_rate(make: Make) -> None:
    runs = [read_run(make("one", [0, 1, 2])), read_run(make("two", [2, 5]))]
    found = compare(runs)
    first, second = found.lines["test_seen"]
    assert (first.run, second.run) == ("two", "one")
    assert second.difference is None and "first run" in second.note
    assert first.difference == paired_difference(
        [0, 0, 1, 0, 0, 1, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0], [5] * 8, 0
    )
    assert first.difference is not None and first.difference.mean == pytest.approx(-2.5)
    changed = {(item.id, item.errors_before, item.errors_after) for item in found.changes}
    assert changed == {("u0", 1, 0), ("u1", 1, 0), ("u5", 0, 1)}
    assert found.changes[0].before == "burn light number 0 on" and found.changes[0].after == REFERENCES[0]


def test_only_settings_that_differ_are_listed(make: Make) -> None:
    runs = [
        read_run(make("one", [0], qat={"weight_bits": 8, "seed": 1}, run="one")),
        read_run(make("two", [1], qat={"weight_bits": 4, "seed": 1}, run="two", data={"augment": True})),
    ]
    found = compare(runs)
    assert found.settings == {
        "data.augment": {"two": True},
        "qat.weight_bits": {"one": 8, "two": 4},
    }
    assert "| `data.augment` | not set | true |" in markdown(found)


def test_runs_that_heard_other_utterances_have_no_difference_and_the_reason_stands_there(make: Make) -> None:
    one, two = make("one", [0]), make("two", [1])
    stored = json.loads((two / "utterances.json").read_text())
    stored["splits"]["test_seen"]["references"][0] = "another sentence"
    (two / "utterances.json").write_text(json.dumps(stored))
    found = compare([read_run(one), read_run(two)])
    line = next(line for line in found.lines["test_seen"] if line.run == "two")
    assert line.difference is None and line.note == "other utterances than the first run's"


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("wer", ["b", "c", "a"]),
        ("size", ["c", "a", "b"]),
        ("speedup", ["a", "b", "c"]),
        ("latency", ["b", "a", "c"]),
    ],
)
def test_every_order_puts_the_best_first(make: Make, sort: str, order: list[str]) -> None:
    def values(size: float, speedup: float, p50: float) -> dict[str, Any]:
        return {"size_mb": size, "speedup": speedup, "latency_ms": {"p50": p50, "p95": 99.0}}

    runs = [
        read_run(make("a", [0, 1, 2], row=values(2.0, 3.0, 12.0))),
        read_run(make("b", [0], row=values(3.0, 2.0, 11.0))),
        read_run(make("c", [0, 1], row=values(1.0, 1.0, 13.0))),
    ]
    assert [line.run for line in compare(runs, sort).lines["test_seen"]] == order


def test_latencies_from_different_places_are_said_to_be(make: Make) -> None:
    runs = [read_run(make("one", [0])), read_run(make("two", [1], row={"threads": 4}))]
    assert "cannot be compared (threads: 1, 4)" in markdown(compare(runs))


@pytest.mark.parametrize("form", ["md", "json", "csv"])
def test_the_command_prints_one_format_and_writes_all(
    make: Make, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    make("one", [0, 1])
    make("two", [])
    commands.run(["compare", "one", "two", "--format", form, "--out", "side", "--sort", "size", "--no-wandb"])
    printed = capsys.readouterr().out
    assert printed == Path(f"side/comparison.{form}").read_text()
    assert {path.name for path in Path("side").iterdir()} == {
        *("comparison.md", "comparison.json", "comparison.csv"),
        *("wer.png", "wer_size.png", "wer_latency.png"),
    }
    lines = list(csv.DictReader(io.StringIO(Path("side/comparison.csv").read_text())))
    gaps = {line["run"]: line["difference"] for line in lines}
    assert gaps["one"] == "" and float(gaps["two"]) == pytest.approx(-5.0)
    found = json.loads(Path("side/comparison.json").read_text())
    assert found["baseline"] == "one" and len(found["changes"]) == 2


def test_the_table_is_logged_to_wandb(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    make("one", [0, 1])
    make("two", [])
    logged: dict[str, Any] = {}
    monkeypatch.setattr(wandb.Run, "log", lambda self, values, *rest, **more: logged.update(values))
    commands.run(["compare", "one", "two", "--seed", "1"])
    assert logged["comparison"].columns[:2] == ["split", "run"]
    assert [line[1] for line in logged["comparison"].data] == ["two", "one"]
    assert "figures/wer" in logged
    assert Path("checkpoints/comparisons/one--two/comparison.md").is_file()


def test_runs_are_found_by_name_folder_wandb_id_and_group(make: Make) -> None:
    one, two = make("one", [0], group="mine"), make("two", [1], group="mine")
    three = make("three", [2])
    assert find_runs(["one", str(two), "id-three", "id-one"]) == [one, two, three]
    assert find_runs(["mine"]) == [one, two]
    assert find_runs(["CRDNNModule"]) == [three]  # a run's group where none is configured


def test_runs_of_other_machines_are_fetched(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("one", [0])

    class Report:
        type = "report"

        def download(self, root: str) -> None:
            Path(root).mkdir(parents=True)
            for path in folder.iterdir():
                (Path(root) / path.name).write_bytes(path.read_bytes())

    class Remote:
        name, id = "far", "abc"

        def logged_artifacts(self) -> list[Any]:
            return [Report()]

    class Api:
        def __init__(self, timeout: int) -> None:
            self.timeout = timeout

        def run(self, path: str) -> Remote:
            if path != "team/project/abc":
                raise wandb.errors.CommError(f"no run {path}")
            return Remote()

        def runs(self, path: str, filters: dict[str, str]) -> list[Remote]:
            return [Remote()] if (path, filters) == ("speech-qat", {"group": "theirs"}) else []

    monkeypatch.setattr(wandb, "Api", Api)
    monkeypatch.setattr(wandb_runs, "choose_mode", lambda offline: ("online", "a key is stored"))
    assert find_runs(["team/project/abc"]) == [Path("checkpoints/wandb/far-abc")]
    assert read_run(Path("checkpoints/wandb/far-abc")).config["model.class_path"] == "qat.models.CRDNNModule"
    monkeypatch.setattr(Report, "download", lambda self, root: None)
    assert find_runs(["theirs"]) == [Path("checkpoints/wandb/far-abc")]
    with pytest.raises(UserError, match=r"'nothing': no run of that id or group on W&B holds a report"):
        find_runs(["nothing"])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["one"], "compare: 1 run (one); at least two are needed"),
        (["one", "ghost"], "'ghost': no run folder, and no W&B id or group"),
        (["one", "bare"], "bare: holds no report.json"),
        (["one", "old"], "old/utterances.json: is missing; measure the run again"),
        (["one", "torn"], "torn/utterances.json: not the texts of a run"),
        (["one", "elsewhere"], "no test split in common (one: test_seen; elsewhere: test_far)"),
    ],
)
def test_a_mistake_is_one_line(make: Make, targets: list[str], message: str) -> None:
    make("one", [0])
    Path("checkpoints/bare").mkdir()
    (make("old", [0]) / "utterances.json").unlink()
    (make("torn", [0]) / "utterances.json").write_text('{"splits": ')
    make("elsewhere", [0], row={"split": "test_far"})
    with pytest.raises(UserError) as caught:
        commands.run(["compare", *targets, "--no-wandb"])
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("checkpoints/comparisons").exists()


def test_flat_keeps_empty_mappings() -> None:
    assert flat({"a": {}, "b": {"c": None}}) == {"a": {}, "b.c": None}
