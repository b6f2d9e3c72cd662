"""Groups of runs, and notices on the first rank."""

from __future__ import annotations

import pytest

from qat.tracking import wandb_names
from qat.tracking.wandb_names import group_of, print_notice


def test_the_group_is_the_configured_one_else_the_models_class() -> None:
    model = {"class_path": "qat.models.CRDNNModule"}
    assert group_of({"model": model, "wandb": {"group": "mine"}}) == "mine"
    assert group_of({"model": model, "wandb": {"group": None}}) == group_of({"model": model}) == "CRDNNModule"
    assert group_of({}) == ""


@pytest.mark.parametrize(("rank", "printed"), [(0, "W&B: online\n"), (1, "")])
def test_a_notice_is_printed_once(
    rank: int, printed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wandb_names, "launched_rank", lambda: rank)
    print_notice("W&B: online")
    assert capsys.readouterr().err == printed
