"""Distillation: the divergence, a teacher that leaves no trace in the student, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datamodules.batch import Batch, collate
from datamodules.utterance import Utterance
from qat.models.ctc import CTCModule
from qat.models.distillation import frame_divergence, splice
from qat.models.loading import load_module, load_teacher_, save_module
from qat.system.errors import UserError
from tests.conftest import build, noise
from train import train


def batch(first: str = "a b") -> Batch:
    items = [(first, 1.0), ("one two", 1.5)]
    return collate(
        [
            (Utterance(text, Path("x"), text, seconds), noise(1, seconds, seed=index)[0])
            for index, (text, seconds) in enumerate(items)
        ]
    )


def loss_of(model: CTCModule, first: str = "a b") -> torch.Tensor:
    """Loss of one training step outside a trainer, without dropout."""
    vars(model)["log"] = lambda *args, **kwargs: None
    load_teacher_(model)
    return model.eval().training_step(batch(first), 0)


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    torch.manual_seed(0)
    model = build("crdnn")
    torch.nn.init.normal_(model.head.weight)
    save_module(model, tmp_path / "teacher.ckpt")
    return str(tmp_path / "teacher.ckpt")


def test_divergence_equals_a_loop_and_ignores_padding() -> None:
    torch.manual_seed(0)
    teacher, logits = torch.randn(2, 5, 4).log_softmax(-1), torch.randn(2, 6, 4)
    frames, labels = torch.tensor([5, 3]), torch.tensor([2, 0])
    student = logits.log_softmax(-1)
    total = 0.0
    for row, (count, label) in enumerate(zip(frames.tolist(), labels.tolist(), strict=True)):
        for frame in range(count):
            p = teacher[row, frame].exp()
            total += float((p * (teacher[row, frame] - student[row, frame])).sum()) / max(label, 1)
    torch.testing.assert_close(frame_divergence(teacher, logits, frames, labels), torch.tensor(total / 2))
    logits[1, 3:] = 99.0
    torch.testing.assert_close(frame_divergence(teacher, logits, frames, labels), torch.tensor(total / 2))


def test_a_model_does_not_diverge_from_itself(teacher: str) -> None:
    student = build("crdnn", init_from=teacher, teacher=teacher, distillation_weight=1.0)
    assert float(loss_of(student).detach()) == pytest.approx(0.0, abs=1e-5)


def test_the_weight_mixes_transcript_and_teacher(teacher: str) -> None:
    def loss(weight: float) -> float:
        return float(loss_of(build("crdnn", teacher=teacher, distillation_weight=weight)).detach())

    alone = float(loss_of(build("crdnn")).detach())
    assert loss(0.0) == alone
    assert loss(1.0) > 0.01 and loss(1.0) != alone
    assert loss(0.25) == pytest.approx(0.75 * alone + 0.25 * loss(1.0), rel=1e-5)


def test_a_teacher_leaves_no_trace_and_learns_nothing(teacher: str, tmp_path: Path) -> None:
    student = build("crdnn", teacher=teacher)
    loss_of(student).backward()
    assert student.state_dict().keys() == build("crdnn").state_dict().keys()
    assert student.teacher is not None and not student.teacher.model.training
    assert all(p.grad is None and not p.requires_grad for p in student.teacher.model.parameters())
    assert all(p.grad is not None for p in student.head.parameters())
    save_module(student, tmp_path / "student.ckpt")
    (tmp_path / "teacher.ckpt").unlink()
    assert torch.load(tmp_path / "student.ckpt", weights_only=True)["hyper_parameters"]["teacher"] == teacher
    assert load_module(tmp_path / "student.ckpt").teacher is None  # evaluated without it


def test_a_spliced_utterance_begins_as_one_and_ends_as_another() -> None:
    torch.manual_seed(0)
    signal = torch.arange(1.0, 7.0)[:, None] * torch.ones(6, 100)  # the value says whose sample it is
    lengths, labels = torch.tensor([100, 90, 80, 70, 60, 50]), torch.tensor([10, 9, 8, 7, 6, 5])
    signal = signal.masked_fill(torch.arange(100) >= lengths[:, None], 0.0)
    seen = 0
    for _ in range(20):
        mixed, new_lengths, new_labels, spliced = splice(signal, lengths, labels, 0.5)
        assert torch.equal(mixed[~spliced], signal[~spliced])
        assert torch.equal(new_lengths[~spliced], lengths[~spliced])
        assert 3 <= int(spliced.sum()) <= 4
        for row in spliced.nonzero().flatten().tolist():
            values = torch.unique_consecutive(mixed[row, : new_lengths[row]]).tolist()
            assert len(values) == 2 and values[0] == row + 1 and values[1] != row + 1
            assert not mixed[row, new_lengths[row] :].any()
            assert float(new_labels[row]) == pytest.approx(int(new_lengths[row]) / 10, abs=0.3)
            seen += 1
    assert seen > 50


def test_one_utterance_always_stays_whole_and_a_share_of_zero_changes_nothing() -> None:
    signal, lengths, labels = torch.ones(3, 50), torch.tensor([50, 40, 30]), torch.tensor([5, 4, 3])
    assert int(splice(signal, lengths, labels, 1.0)[3].sum()) == 2
    assert not splice(signal[:1], lengths[:1], labels[:1], 1.0)[3].any()
    mixed, new_lengths, new_labels, spliced = splice(signal, lengths, labels, 0.0)
    assert torch.equal(mixed, signal) and torch.equal(new_lengths, lengths) and not spliced.any()
    assert torch.equal(new_labels, labels.float())


def test_a_spliced_utterance_counts_for_the_teacher_and_not_for_its_transcript(
    teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(first: str, weight: float) -> float:
        model = build("crdnn", teacher=teacher, splice_share=0.5, distillation_weight=weight)
        return float(loss_of(model, first).detach())

    def marked(spliced: list[bool]) -> None:
        monkeypatch.setattr("qat.models.ctc.splice", lambda *args: (*args[:3], torch.tensor(spliced)))

    marked([False, False])
    assert loss("a b", 0.0) != loss("c d", 0.0)
    divergence = loss("a b", 1.0)
    marked([True, False])
    assert loss("a b", 0.0) == loss("c d", 0.0)
    assert loss("a b", 1.0) == divergence


def test_teachers_that_do_not_fit_are_refused(teacher: str, tmp_path: Path) -> None:
    save_module(build("wav2vec2", vocabulary=["<blank>", "a", " "]), tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"other\.ckpt: teacher has 3 labels .* the student 29"):
        loss_of(build("crdnn", teacher=str(tmp_path / "other.ckpt")))
    with pytest.raises(UserError, match=r"teacher\.ckpt: teacher has \d+ frames where the student has \d+"):
        loss_of(build("crdnn", teacher=teacher, time_pooling_size=1))


def test_a_missing_teacher_is_told_before_the_run_folder_is_made(tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"gone\.ckpt: no such checkpoint"):
        train(["--config", str(tiny), "--run", str(run), "--model.teacher", str(tmp_path / "gone.ckpt")])
    assert not run.exists()
