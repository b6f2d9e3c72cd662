"""Train a subword tokenizer on the texts of a manifest.

    python -m datamodules.make_tokenizer --manifest datamodules/mini/train.jsonl --size 200 --out tokenizer.model

SentencePiece's unigram model (Kudo 2018, arXiv 1804.10959), laid out as SpeechBrain's published models have it: index
0 is the unknown piece, and serves as blank, begin and end of a sentence as well.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from datamodules.manifest import read_manifest
from qat.system.errors import UserError
from qat.system.files import replacing


def train(texts: Sequence[str], size: int) -> bytes:
    """The tokenizer, serialised; the same texts in any order give the same bytes.

    Args:
        texts: normalised; repeated ones count once.
        size: pieces, the unknown one included.

    Raises:
        UserError: the texts do not support that many pieces, or have more characters.
    """
    file = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sorted(set(texts))),
            model_writer=file,
            vocab_size=size,
            model_type="unigram",
            normalization_rule_name="identity",
            character_coverage=1.0,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].rpartition("] ")[2]
        raise UserError(f"--size: {size}, must fit the texts ({reason})") from None
    return file.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, train, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--manifest", type=Path, required=True, help="JSONL or CSV of utterances")
    parser.add_argument("--size", type=int, default=200, help="pieces, the unknown one included")
    parser.add_argument("--out", type=Path, required=True, help="file of the tokenizer")
    options = parser.parse_args(arguments)
    texts = [item.text for item in read_manifest(options.manifest)]
    with replacing(options.out) as part:
        part.write_bytes(train(texts, options.size))
    print(f"{options.out}: {options.size} pieces from {len(set(texts))} texts")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"make_tokenizer: {error}")
