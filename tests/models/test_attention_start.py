"""What an attention model may start from."""

from pathlib import Path

import pytest
import torch

from qat.models.attention import AttentionModule
from qat.models.attention_start import attention_folder
from qat.recipe import Recipe
from qat.system.errors import UserError
from tests.models.attention_models import batch_of
from tests.models.speechbrain_folders import write_attention_folder, write_wav2vec2_folder


def test_a_folder_gives_sizes_weights_tokenizer_and_search(tmp_path: Path) -> None:
    write_attention_folder(tmp_path / "folder")
    module = AttentionModule(speechbrain=str(tmp_path / "folder"), lm="float", dropout=0.3)
    assert module.options.vocabulary_size == 40 and module.options.normalize == "global"
    assert module.settings.beam == 8 and module.options.lm == "float"
    assert module.tokenizer.pieces.decode(module.labels("turn on the light")) == "turn on the light"
    assert "speechbrain" not in module.hparams
    alone = AttentionModule(speechbrain=str(tmp_path / "folder"), lm="none")
    assert alone.lm is None
    assert torch.equal(alone.state_dict()["decoder.proj.weight"], module.state_dict()["decoder.proj.weight"])


def test_a_folder_is_quantized_whole_but_for_what_is_named(tmp_path: Path) -> None:
    write_attention_folder(tmp_path / "folder")
    module = AttentionModule(Recipe(preset="x"), speechbrain=str(tmp_path / "folder"))
    assert len(module.swap_report.skipped) == 3
    with torch.no_grad():
        assert module.eval().posteriors(batch_of(1))[0].isfinite().all()


def test_a_wav2vec2_folder_has_no_attention_decoder(tmp_path: Path) -> None:
    write_wav2vec2_folder(tmp_path / "folder")
    with pytest.raises(UserError, match="a Wav2Vec2, must have an attention decoder"):
        attention_folder(str(tmp_path / "folder"))
