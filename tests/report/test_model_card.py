"""The README.md of a checkpoint folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from qat.report.model_card import model_card, write_model_card
from qat.report.row import Row

CONFIG = {
    "model": {
        "class_path": "qat.models.CRDNNModule",
        "init_args": {
            "recipe": {
                "preset": "stochastic",
                "weight_bits": 8,
                "activation_bits": 8,
                "rounding": "stochastic",
            }
        },
    },
    "data": {"class_path": "datamodules.MiniDataModule"},
}


def test_card_says_what_a_user_needs(row: Row) -> None:
    text = model_card("demo", [row], CONFIG, "CC BY 4.0", {"model.onnx": 1.4})
    for needed in (
        "# demo",
        "Task: English",
        "Data: mini (`MiniDataModule`)",
        "Licence: CC BY 4.0",
        "preset `stochastic`",
        "Size: 1.40 MB (float: 5.20 MB)",
        "12.50 [0.00, 21.05]",
        "98.0 % of the weights",
        "`model.onnx`: 1.40 MB",
        "python evaluate.py transcribe demo",
        "## Limits",
        "`python train.py --qat deterministic`",
    ):
        assert needed in text, needed


def test_unmeasured_float_model_gets_an_honest_card(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "best.ckpt").write_bytes(b"x" * 20_000)
    path = write_model_card(folder, [], {"model": {"class_path": "qat.models.CRDNNModule"}, "data": None})
    text = path.read_text()
    assert path == folder / "README.md"
    assert (
        "Quantization: none (float)" in text and "Not measured yet" in text and "`best.ckpt`: 0.02 MB" in text
    )
    assert "Licence: not stated" in text and "Data: not stated" in text


def test_card_of_an_attention_model_names_its_search_and_its_folders(tmp_path: Path, row: Row) -> None:
    folder = tmp_path / "demo"
    (folder / "model").mkdir(parents=True)
    for name in ("encoder.onnx", "manifest.json"):
        (folder / "model" / name).write_bytes(b"x" * 10_000)
    searched = replace(row, decoding="attention, beam 8, lm 0.5", parts_ms={"encoder": 3.0})
    text = write_model_card(folder, [searched], {}).read_text()
    assert "lower-case text, attention, beam 8, lm 0.5)" in text and "- `model`: 0.02 MB" in text
    assert "## Parts of a transcription" in text
    assert "text, attention)" in model_card("x", [], {"model": {"class_path": "qat.models.AttentionModule"}})
