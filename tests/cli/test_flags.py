"""Presets by name, the default configuration, help in one screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from qat.cli.flags import DEFAULT_CONFIG, PRESETS, expand_presets, help_text, preset_names
from qat.system.errors import UserError
from tests.models.speechbrain_folders import write_attention_folder, write_wav2vec2_folder


def test_a_preset_is_its_file_and_the_default_configuration_comes_first() -> None:
    file = str(PRESETS / "stochastic.yaml")
    for args in (["--qat", "stochastic"], ["--qat=stochastic"]):
        assert expand_presets(args) == ["--config", str(DEFAULT_CONFIG), "--qat", file]
    assert expand_presets(["-c", "a.yaml", "--run", "x"]) == ["-c", "a.yaml", "--run", "x"]


def test_a_users_own_file_is_a_preset(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("preset: mine\n")
    assert expand_presets([f"--qat={tmp_path}/mine.yaml"])[-1] == f"{tmp_path}/mine.yaml"


@pytest.mark.parametrize(
    ("name", "near"),
    [("stocastic", "; did you mean 'stochastic'?"), ("ptq_msee", "; did you mean 'ptq_mse'?"), ("xyz", "")],
)
def test_an_unknown_preset_is_refused_and_the_nearest_is_named(name: str, near: str) -> None:
    with pytest.raises(UserError) as caught:
        expand_presets(["--qat", name])
    known = ", ".join(preset_names())
    assert str(caught.value) == f"--qat {name!r}: must be one of {known}, or a YAML file{near}"


def test_help_names_every_preset_and_fits_one_screen() -> None:
    assert len(help_text().splitlines()) <= 30
    assert all(name in help_text() for name in preset_names())


def test_a_folder_of_speechbrain_brings_the_configuration_of_its_layout(tmp_path: Path) -> None:
    write_attention_folder(tmp_path / "one")
    write_wav2vec2_folder(tmp_path / "two")
    for name, layout in ((tmp_path / "one", "attention"), (tmp_path / "two", "wav2vec2")):
        for args in (["--model.speechbrain", str(name)], [f"--model.speechbrain={name}"]):
            assert expand_presets(args)[1].endswith(f"configs/speechbrain_{layout}.yaml")
    hub = expand_presets(["--model.speechbrain", "speechbrain/asr-wav2vec2-librispeech"])
    assert hub[1].endswith("configs/speechbrain_wav2vec2.yaml")
    assert expand_presets(["--config", "a.yaml", "--model.speechbrain", "x"])[1] == "a.yaml"
