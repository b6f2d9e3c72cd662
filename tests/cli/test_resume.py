"""Which checkpoints a run may resume from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qat.cli.resume import check_same_batches, check_same_run, difference, read_last, resume_from
from qat.models.checkpoint import write_checkpoint
from qat.recipe import Recipe
from qat.system.errors import UserError
from qat.system.files import sha256_file
from tests.conftest import build

PATH = Path("last.ckpt")


def checkpoint_of(recipe: Recipe, **more: Any) -> dict[str, Any]:
    """What a run of a tiny CRDNN leaves."""
    model = build("crdnn", recipe)
    stored: dict[str, Any] = {"hyper_parameters": dict(model.hparams), "state_dict": {}, "global_step": 3}
    model.on_save_checkpoint(stored)
    return {**stored, **more}


def test_a_new_run_resumes_from_nothing(tmp_path: Path) -> None:
    assert resume_from(None, tmp_path, build("crdnn"), {}) == (None, [])


def test_a_checkpoint_brings_its_rows_of_the_log(tmp_path: Path) -> None:
    rows = [{"step": 0, "train/loss": 1.0}]
    write_checkpoint(checkpoint_of(Recipe(), logged=rows, course={"seed": 1}), tmp_path / "last.ckpt")
    found = resume_from("last", tmp_path, build("crdnn"), {"seed": 1})
    assert found == (str(tmp_path / "last.ckpt"), rows)


def test_another_recipe_or_model_is_refused_with_both_values() -> None:
    stored = checkpoint_of(Recipe(preset="x", weight_bits=4))
    check_same_run(build("crdnn", Recipe(preset="x", weight_bits=4)), stored, PATH)
    with pytest.raises(
        UserError, match="its recipe is weight_bits=4 and must be weight_bits=8 as in this run"
    ):
        check_same_run(build("crdnn", Recipe(preset="x")), stored, PATH)
    with pytest.raises(
        UserError, match=r"its model is .*CRDNNModule and must be .*Wav2Vec2Module as in this run"
    ):
        check_same_run(build("wav2vec2"), stored, PATH)


def test_weights_without_an_optimiser_are_refused() -> None:
    stored = checkpoint_of(Recipe())
    del stored["global_step"]
    with pytest.raises(UserError, match=r"holds weights only .* start from it with --model\.init_from"):
        check_same_run(build("crdnn"), stored, PATH)


def test_a_recipe_that_lacks_a_newer_field_has_its_default() -> None:
    stored = checkpoint_of(Recipe(preset="x"))
    del stored["hyper_parameters"]["recipe"]["quant_noise"]
    check_same_run(build("crdnn", Recipe(preset="x")), stored, PATH)


def test_a_checkpoint_that_lacks_a_newer_option_has_its_default() -> None:
    stored = checkpoint_of(Recipe())
    del stored["hyper_parameters"]["compile"]
    check_same_run(build("crdnn"), stored, PATH)
    with pytest.raises(UserError, match="its compile is False and must be True as in this run"):
        check_same_run(build("crdnn", compile=True), stored, PATH)


def test_other_batches_are_refused_but_no_seed_is_no_promise() -> None:
    stored = {"course": {"seed": 1, "max_batch_s": 2.5}}
    check_same_batches(stored, PATH, {"seed": 1, "max_batch_s": 2.5})
    check_same_batches(stored, PATH, {"max_batch_s": 2.5})
    check_same_batches({}, PATH, {"max_batch_s": 2.5})
    with pytest.raises(UserError, match=r"its max_batch_s is 2\.5 and must be 3\.0 as in this run"):
        check_same_batches(stored, PATH, {"max_batch_s": 3.0})


def test_a_torn_last_checkpoint_is_replaced_by_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"last\.ckpt: not a readable checkpoint"):
        read_last(tmp_path / "last.ckpt")
    write_checkpoint(checkpoint_of(Recipe()), tmp_path / "before_last.ckpt")
    assert read_last(tmp_path / "last.ckpt")["global_step"] == 3
    assert "resuming from before_last.ckpt, which takes its place" in capsys.readouterr().err
    assert read_last(tmp_path / "last.ckpt")["global_step"] == 3


def test_of_two_mappings_only_the_difference_is_shown() -> None:
    assert difference({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == ("b=2, c=None", "b=3, c=4")
    assert difference(1, {"a": 1}) == ("1", "{'a': 1}")


def test_a_teacher_that_has_changed_is_refused_and_an_older_run_has_none_to_compare(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.ckpt"
    teacher.write_bytes(b"one")
    student = build("crdnn", teacher=str(teacher))
    stored: dict[str, Any] = {"hyper_parameters": dict(student.hparams), "state_dict": {}, "global_step": 3}
    student.on_save_checkpoint(stored)
    digest = sha256_file(teacher)
    write_checkpoint({**stored, "teacher_sha256": digest}, tmp_path / "last.ckpt")
    write_checkpoint(stored, tmp_path / "older.ckpt")
    assert resume_from("last", tmp_path, student, {})[0] == str(tmp_path / "last.ckpt")
    teacher.write_bytes(b"two")
    assert resume_from(str(tmp_path / "older.ckpt"), tmp_path, student, {})[0] == str(tmp_path / "older.ckpt")
    other = rf"its teacher .*teacher.ckpt has the SHA-256 {sha256_file(teacher)[:12]}... and must have {digest[:12]}"
    with pytest.raises(UserError, match=other) as caught:
        resume_from("last", tmp_path, student, {})
    assert "\n" not in str(caught.value)
    teacher.unlink()
    with pytest.raises(UserError, match=r"its teacher .*teacher.ckpt is not on this machine and must have"):
        resume_from("last", tmp_path, student, {})
