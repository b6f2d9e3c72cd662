"""The shipped mini corpus: manifests, audio, splits, licences, and further training utterances."""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from datamodules import audio
from datamodules.mini_corpus import MiniDataModule
from datamodules.text import ALPHABET
from qat.system.errors import UserError
from tests.datamodules.corpora import HELD_OUT, MINI, SPLITS, every

KEYS = ["id", "audio", "text", "speaker", "source", "license", "duration_s"]


def test_manifests_have_exactly_the_keys(rows):
    assert all(list(row) == KEYS for row in every(rows))
    assert all(isinstance(row["duration_s"], float) for row in every(rows))
    ids = [row["id"] for row in every(rows)]
    assert len(ids) == len(set(ids))


def test_listed_audio_is_the_audio_present(rows):
    listed = [row["audio"] for row in every(rows)]
    present = {path.relative_to(MINI).as_posix() for path in (MINI / "audio").rglob("*") if path.is_file()}
    assert len(listed) == len(set(listed))
    assert set(listed) == present
    assert all(row["audio"].startswith(f"audio/{split}/") for split in SPLITS for row in rows[split])


def test_texts_are_in_the_alphabet(rows):
    for row in every(rows):
        text = row["text"]
        assert text and set(text) <= set(ALPHABET)
        assert text == " ".join(text.split())


def test_no_sentence_is_in_two_splits(rows):
    where = defaultdict(set)
    for split in SPLITS:
        for row in rows[split]:
            where[row["text"]].add(split)
    assert [text for text, splits in where.items() if len(splits) > 1] == []


def test_held_out_voices_occur_only_in_test_unseen(rows):
    assert {row["speaker"] for row in rows["test_unseen"]} == HELD_OUT
    for split in SPLITS:
        if split != "test_unseen":
            assert not HELD_OUT & {row["speaker"] for row in rows[split]}
    assert {row["speaker"] for row in rows["test_seen"]} <= {row["speaker"] for row in rows["train"]}
    assert {row["source"] for row in rows["test_real"]} == {"asterisk-core-sounds-en"}
    assert len({row["speaker"] for row in every(rows)}) >= 11


def test_sizes(rows):
    assert sum(len(row["text"].split()) for split in SPLITS[2:] for row in rows[split]) >= 4500
    assert len(rows["train"]) >= 3200
    assert len(rows["test_seen"]) + len(rows["test_unseen"]) >= 600
    assert {row["source"].split(":")[0] for row in rows["dev"]} == {"synthetic", "asterisk-core-sounds-en"}
    assert all(0.3 <= row["duration_s"] <= 15 for row in every(rows))
    assert sum(path.stat().st_size for path in MINI.rglob("*") if path.suffix == ".opus") <= 24e6
    assert (
        sum(path.stat().st_size for path in MINI.rglob("*") if "__pycache__" not in path.parts) <= 25 * 2**20
    )


def test_every_licence_is_named_and_its_text_shipped(rows):
    overview = (MINI / "licenses" / "LICENSES.md").read_text("utf-8")
    for name in {row["license"] for row in every(rows)}:
        assert f"`{name}`" in overview
        assert (MINI / "licenses" / f"{name}.txt").stat().st_size > 500
    for name in {row["speaker"] for row in every(rows)}:
        assert f"`{name}`" in overview or name.startswith("espeak-")


def test_a_sample_of_the_audio_decodes(rows):
    soundfile = pytest.importorskip("soundfile")
    for row in random.Random(0).sample(every(rows), 20):
        signal, rate = soundfile.read(MINI / row["audio"], dtype="float32")
        assert rate == 16000
        assert signal.ndim == 1
        assert abs(len(signal) / rate - row["duration_s"]) <= 0.05
        assert 0.01 < float((signal**2).mean()) ** 0.5 < 0.3
        assert float(abs(signal).max()) <= 1.0


def test_extra_training_utterances_join_train_and_nothing_else(rows, tmp_path):
    first, second = ({**row, "audio": str(MINI / row["audio"])} for row in rows["train"][:2])
    manifest = tmp_path / "more.jsonl"
    manifest.write_text(
        "".join(json.dumps({**row, "id": f"new-{row['id']}"}) + "\n" for row in (first, second))
    )
    plain, data = MiniDataModule(), MiniDataModule(extra_train=str(manifest))
    assert data.utterances("dev") == plain.utterances("dev")
    joined = data.utterances("train")
    assert joined[:-2] == plain.utterances("train") and joined[-1].id == f"new-{second['id']}"


@pytest.mark.parametrize(
    "change, message",
    [
        ({}, r"more\.jsonl: id '.*' is also in the mini corpus"),
        ({"id": "new"}, r"more\.jsonl: id 'new': text '.*' is in a dev or test split"),
    ],
)
def test_extra_utterances_that_clash_are_refused(rows, tmp_path, change, message):
    row = {**rows["train"][0], "audio": str(MINI / rows["train"][0]["audio"]), **change}
    row["text"] = rows["test_seen"][0]["text"] if change else row["text"]
    (tmp_path / "more.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=message):
        MiniDataModule(extra_train=str(tmp_path / "more.jsonl")).utterances("train")


def test_training_decodes_in_a_worker_and_repeated_reading_where_the_cache_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = MiniDataModule(max_test_utterances=3)
    assert data.train_dataloader().num_workers == data.val_dataloader().num_workers == 1
    assert MiniDataModule(cache=False).test_dataloader()[0].num_workers == 1
    read: list[Path] = []
    decode = audio.load_audio
    monkeypatch.setattr(audio, "load_audio", lambda path: read.append(path) or decode(path))
    first, second = (list(data.test_dataloader()[0]) for _ in range(2))
    assert len(read) == 3 and all(
        torch.equal(one.signal, two.signal) for one, two in zip(first, second, strict=True)
    )


def test_no_two_embedded_recordings_are_the_same_file(rows):
    digests = [
        hashlib.sha256((MINI / row["audio"]).read_bytes()).hexdigest()
        for split in SPLITS
        for row in rows[split]
    ]
    assert len(set(digests)) == len(digests)
