"""A tokenizer of a manifest's texts."""

from pathlib import Path

import pytest
import sentencepiece

from datamodules.make_tokenizer import main, train
from datamodules.manifest import read_manifest
from qat.system.errors import UserError

MINI = Path(__file__).parents[2] / "datamodules" / "mini"


def test_the_shipped_tokenizer_is_what_the_command_writes(tmp_path: Path) -> None:
    main(["--manifest", str(MINI / "train.jsonl"), "--size", "200", "--out", str(tmp_path / "t.model")])
    assert (tmp_path / "t.model").read_bytes() == (MINI / "tokenizer.model").read_bytes()


def test_order_and_repetition_of_texts_do_not_matter_and_nothing_is_unknown() -> None:
    texts = [item.text for item in read_manifest(MINI / "dev.jsonl")]
    model = train(texts, 60)
    assert model == train([*reversed(texts), texts[0]], 60)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert (len(pieces), pieces.unk_id(), pieces.bos_id(), pieces.eos_id()) == (60, 0, -1, -1)
    assert all(0 not in pieces.encode(text) and pieces.decode(pieces.encode(text)) == text for text in texts)


@pytest.mark.parametrize("size", [5, 100_000])
def test_a_size_that_the_texts_do_not_support_is_one_line(size: int) -> None:
    with pytest.raises(UserError, match=f"--size: {size}, must fit the texts"):
        train(["one two three", "four five six"], size)
