"""README.md and docs/: every command parses, every flag and link exists, the tables are those of the stored results."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from benchmarks import publish
from qat.cli import train as cli
from qat.cli.auto import split
from qat.cli.evaluate import parser
from qat.report.readme import fill, pages
from tests.conftest import ROOT
from tests.runtime.mini import float_file

DOCS = pages(ROOT)
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text()
    for page in [*DOCS, *map(ROOT.joinpath, ("CONTRIBUTING.md", "datamodules/mini/README.md"))]
}
CARDS = {
    page.relative_to(ROOT).as_posix(): page.read_text() for page in ROOT.glob("checkpoints/mini_*/README.md")
}
LINES = sorted(
    {
        line.split(" #")[0].strip()
        for text in PAGES.values()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
    }
)
PREFIXES = (
    "python train.py ",
    "python evaluate.py ",
    "python -m ",
    "torchrun ",
    "make ",
    "pip install ",
    "sbatch ",
)
TRAIN = [
    line for line in LINES if line.startswith("python train.py") and not line.endswith(("-h", "--help_all"))
]
OURS = r"`(--(?:qat|model|data|trainer|wandb|evaluation|seed_everything|save_every_steps)\b[^`*]*)`"
FLAGS = sorted({flags for text in PAGES.values() for flags in re.findall(OURS, text)})
ATTENTION = ("ctc_weight", "freeze", "guide", "label_smoothing", "lm", "lm_fine_tune")
NEEDS = {  # flags of other classes than those of the default configuration
    "--data.audio_root": "--data datamodules.StreamDataModule --data.train a --data.dev b --data.test c",
    "--data.max_corrupt": "--data datamodules.StreamDataModule --data.train a --data.dev b --data.test c",
    "--data.test": "--data datamodules.ManifestDataModule --data.train a --data.dev b",
    "--model.pretrained": "--config configs/librispeech_wav2vec2.yaml",
    **{f"--model.{name}": "--config configs/mini_crdnn_attention.yaml" for name in ATTENTION},
}
VALUES = {  # for flags that a page names alone; 1 for all others
    "--model.lm": "float",
    "--qat": "off",
    "--qat.equalize": "smooth",
    "--qat.reduce_range": "true",
    "--qat.target": "openvino",
    "--trainer.precision": "bf16-mixed",
}


class ParseOnly(cli.SpeechCLI):
    """Parses, builds nothing."""

    def instantiate_classes(self) -> None:
        """Leave it at the parsed configuration."""


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(cli, "SpeechCLI", ParseOnly)
    monkeypatch.chdir(ROOT)
    return lambda args: cli.build_cli([*split(args)[0], "--run", "x/y"]).config


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_tables_are_those_of_the_stored_results(page: Path) -> None:
    text = page.read_text()
    assert fill(text) == text and publish.fill(text) == text


def test_every_result_file_of_the_benchmarks_is_published() -> None:
    text = "".join(page.read_text() for page in publish.PAGES)
    assert [
        f.name
        for f in (ROOT / "benchmarks/results").glob("*.json")
        if f": benchmarks/results/{f.name} " not in text
    ] == []


def test_the_first_page_is_short() -> None:
    first, links, _ = PAGES["README.md"].partition("## Links")
    assert links and len(first.split()) <= 700


def test_every_line_of_a_command_block_is_a_command() -> None:
    assert len(LINES) > 40
    assert [line for line in LINES if not f"{line} ".startswith(PREFIXES)] == []


def test_make_targets_exist() -> None:
    targets = {line.split()[1] for line in LINES if line.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text()
    assert {"run", "quickstart", "tables", "test", "quick"} <= targets
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []


def test_git_runs_what_make_lint_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint
    wanted = [line.strip().replace("$(BIN)", ".venv/bin").removesuffix(" .") for line in lint[1].splitlines()]
    assert [hook["entry"].removesuffix(" --force-exclude") for hook in hooks] == wanted


@pytest.mark.parametrize("line", TRAIN)
def test_train_commands_parse(line: str, parse: Any) -> None:
    assert parse(shlex.split(line)[2:]).data.class_path.startswith("datamodules.")


@pytest.mark.parametrize("flags", FLAGS)
def test_flags_in_the_text_parse(flags: str, parse: Any) -> None:
    flag, *values = shlex.split(flags)
    values = ["1" if value == "N" else value for value in values] or [VALUES.get(flag, "1")]
    parse([*shlex.split(NEEDS.get(flag, "")), flag, *values])


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("python evaluate.py")])
def test_evaluate_commands_parse(line: str) -> None:
    commands = ("suite", "report", "transcribe", "compare", "search")
    assert parser().parse_args(shlex.split(line)[2:]).command in commands


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("torchrun")])
def test_torchrun_leaves_our_flags_to_us(line: str, parse: Any) -> None:
    """Without `--` it takes `--run` for a short form of its own flags."""
    ours = get_args_parser().parse_args(shlex.split(line)[1:])
    assert ours.training_script == "train.py" and "--run" in ours.training_script_args
    parse(ours.training_script_args)


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("python -m")])
def test_modules_exist_and_know_their_flags(line: str) -> None:
    module, *arguments = shlex.split(line)[2:]
    if module == "benchmarks.avx2_only":
        module = f"benchmarks.{arguments[0]}"
    found = importlib.util.find_spec(module)
    assert found and found.origin
    source = Path(found.origin).read_text()
    assert [word for word in arguments if word.startswith("--") and f'"{word}"' not in source] == []


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("sbatch")])
def test_batch_scripts_exist_and_their_flags_parse(line: str, parse: Any) -> None:
    script, *arguments = shlex.split(line)[1:]
    assert (ROOT / script).is_file()
    parse(arguments)


@pytest.mark.parametrize("name", [*PAGES, *CARDS])
def test_links_and_pictures_exist(name: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", {**PAGES, **CARDS}[name]):
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), target


@pytest.mark.parametrize(
    "page", [page for page in DOCS if page.parent.name == "docs" and page.stem != "README"]
)
def test_a_page_begins_with_its_contents(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"^- \[.*\]\(#(.*)\)$", text.partition("\n## ")[0], re.MULTILINE) == anchors(text)
    assert f"({page.name})" in PAGES["docs/README.md"] and f"(docs/{page.name})" in PAGES["README.md"]


def anchors(text: str) -> list[str]:
    """Anchors of the second-level headings of a page, as GitHub makes them."""
    return [
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^## (.*)$", text, re.MULTILINE)
    ]


def test_the_program_without_this_package_transcribes(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    program = re.search(r"```python\n(.*?)```", PAGES["README.md"], re.DOTALL)
    assert program
    imports = [node for node in ast.walk(ast.parse(program[1])) if isinstance(node, ast.Import)]
    names = {alias.name for node in imports for alias in node.names}
    assert names == {"itertools", "json", "sys", "numpy", "onnxruntime", "soundfile"}
    shutil.copyfile(float_file(tmp_path_factory, "mini_crdnn"), tmp_path / "model.onnx")
    (tmp_path / "transcribe.py").write_text(program[1])
    corpus = ROOT / "datamodules" / "mini"
    said = json.loads((corpus / "test_seen.jsonl").read_text().partition("\n")[0])
    command = [sys.executable, "transcribe.py", "model.onnx", str(corpus / said["audio"])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said["text"]


def test_the_parity_that_the_results_page_states() -> None:
    """Largest difference of WER between model and file in the W8A8 rows, each row's three test sets together."""
    runs: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in json.loads((ROOT / "docs/results/seed_tables.json").read_text()):
        if row["parity"] and (row["weight_bits"], row["activation_bits"]) == (8, 8):
            runs.setdefault((row["model"], row["suite_row"], row["seed"]), []).append(row)
    worst = {"Attention": 0.0, "CRDNN": 0.0, "Wav2Vec2": 0.0}
    for (model, _, _), rows in runs.items():
        words = sum(row["reference_words"] for row in rows)
        gap = sum(
            (row["parity"]["wer_integer"] - row["parity"]["wer_fake"]) * row["reference_words"]
            for row in rows
        )
        worst[model] = max(worst[model], abs(gap / words))
    text = " ".join(PAGES["docs/results.md"].split())
    assert f"at most {worst['CRDNN']:.2f} points in the CRDNN's W8A8 rows" in text
    assert f"at most {worst['Wav2Vec2']:.2f} points in the Wav2Vec2's" in text
    assert f"{worst['Attention']:.2f} points in those of the attention CRDNN" in text


def test_the_frames_that_the_methods_page_states() -> None:
    """Largest share of frames that differ between model and file, in rows with ranges per frame."""
    worst = {8: 0.0, 4: 0.0}
    for row in json.loads((ROOT / "docs/results/seed_tables.json").read_text()):
        if row["parity"] and "frame" in row["suite_row"]:
            bits = row["activation_bits"]
            worst[bits] = max(worst[bits], row["parity"]["argmax_disagreement"])
    text = " ".join(PAGES["docs/methods.md"].split())
    assert f"up to {worst[8]:.1%} of the frames with 8-bit".replace("%", " %") in text
    assert f"up to {worst[4]:.1%} with 4-bit".replace("%", " %") in text
