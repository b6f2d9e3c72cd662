"""Finding a folder of SpeechBrain, on this machine or on the hub, and telling its layout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest

from qat.models.speechbrain_folder import cached_folder, find_folder, is_folder, layout_of, read_folder
from qat.models.speechbrain_yaml import Node
from qat.system.errors import UserError
from tests.conftest import ROOT
from tests.models.conftest import edited
from tests.models.speechbrain_folders import cached_folder_of


def test_a_path_is_itself(attention_folder: Path, wav2vec2_folder: Path) -> None:
    assert find_folder(str(attention_folder)) == attention_folder
    assert (
        is_folder(attention_folder) and is_folder(wav2vec2_folder) and not is_folder(attention_folder.parent)
    )
    assert read_folder(attention_folder).layout == "attention"
    assert read_folder(wav2vec2_folder).layout == "wav2vec2"


@pytest.mark.parametrize("name", ["/nowhere/folder", "./nowhere/folder", "nowhere", "a/b/c"])
def test_what_is_neither_a_folder_nor_a_hub_name_is_one_line(name: str) -> None:
    with pytest.raises(
        UserError, match="must be a pretrained folder of SpeechBrain; there is no such folder"
    ):
        read_folder(name)


def test_a_hub_name_without_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise ConnectionError("Name or service not known\nmore lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(
        UserError, match=r"which failed \(Name or service not known\); with a network"
    ) as caught:
        read_folder("speechbrain/asr-crdnn-rnnlm-librispeech")
    assert "\n" not in str(caught.value)


def test_a_hub_name_with_network_is_a_folder(attention_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, **_: object) -> str:
        asked.append(name)
        return str(attention_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert read_folder("speechbrain/asr").path == attention_folder and asked == ["speechbrain/asr"]


def test_a_hub_name_is_in_the_cache_or_not(
    attention_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cached_folder_of(tmp_path, "speechbrain/asr")
    shutil.copytree(attention_folder, snapshot)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert cached_folder("speechbrain/asr") == snapshot
    assert cached_folder("speechbrain/other") is None and cached_folder(attention_folder) is None


def test_a_folder_without_hyper_parameters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must hold a hyperparams.yaml"):
        read_folder(tmp_path)


def test_a_layout_follows_from_what_a_folder_holds() -> None:
    file = Path("h.yaml")
    encoder, search = Node("new", "Sequential"), Node("new", "S2SRNNBeamSearcher")
    assert layout_of(file, {"modules": {"encoder": encoder, "decoder": search}}) == "attention"
    assert layout_of(file, {"modules": {"encoder": encoder}, "decoding_function": 1}) == "wav2vec2"
    for contents, problem in (
        ({}, "modules.encoder: must be there"),
        ({"modules": {"encoder": encoder}}, "modules.decoder: must be one of"),
        ({"modules": {"encoder": encoder, "decoder": encoder}}, "modules.decoder: must be one of"),
    ):
        with pytest.raises(UserError, match=problem):
            layout_of(file, contents)


def test_a_folder_that_wants_to_run_something_runs_nothing(attention_folder: Path, tmp_path: Path) -> None:
    folder = edited(
        attention_folder,
        tmp_path / "f",
        "modules:",
        f"evil: !apply:os.system ['touch {tmp_path}/witness']\nmodules:",
    )
    with pytest.raises(UserError, match="evil: !apply:os.system"):
        read_folder(folder)
    assert not (tmp_path / "witness").exists()


def test_reading_an_attention_folder_takes_no_speechbrain_and_no_transformers(attention_folder: Path) -> None:
    code = (
        "import sys; from qat.models.speechbrain_folder import read_folder; "
        f"read_folder({str(attention_folder)!r}); print([name for name in "
        "('speechbrain', 'hyperpyyaml', 'transformers.modeling_utils') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
