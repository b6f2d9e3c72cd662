import hashlib
import logging

import pytest
import torch

from datamodules import base, sampler
from datamodules.audio import load_audio
from datamodules.manifest import ManifestDataModule
from datamodules.mini_corpus import MiniDataModule
from qat.system.errors import UserError
from tests.datamodules.corpora import write_split


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    """20 + 6 + 5 utterances of 0.3 to 1.2 s as Ogg Opus."""
    folder = tmp_path_factory.mktemp("corpus")
    counts = [("train", 20), ("dev", 6), ("test", 5)]
    return {split: str(write_split(folder, split, count, ".ogg")) for split, count in counts}


@pytest.fixture
def data(manifests):
    """The corpus with small batches."""
    return ManifestDataModule(**manifests, max_batch_s=4.0)


def ids(batches):
    return [i for batch in batches for i in batch.ids]


def test_without_augmentation_batches_hold_the_audio_of_the_files(data):
    by_id = {u.id: u for u in data.utterances("train")}
    for batch in data.train_dataloader():
        for row, length, name, text in zip(batch.signal, batch.lengths, batch.ids, batch.texts, strict=True):
            assert torch.equal(row[:length], load_audio(by_id[name].audio)) and text == by_id[name].text


def test_augmentation_reaches_training_only(manifests):
    plain, varied = (ManifestDataModule(**manifests, max_batch_s=4.0, augment=on) for on in (False, True))
    for name in ("val_dataloader", "test_dataloader"):
        for a, b in zip(*(iter(_flat(getattr(d, name)())) for d in (plain, varied)), strict=True):
            assert torch.equal(a.signal, b.signal)
    utterances = varied.calibration_utterances(3, seed=0)
    for utterance, batch in zip(utterances, varied.loader(utterances), strict=True):
        assert torch.equal(batch.signal[0], load_audio(utterance.audio))
    sums = [sorted(batch.signal.sum().item() for batch in d.train_dataloader()) for d in (plain, varied)]
    assert sums[0] != sums[1]


@pytest.mark.parametrize(
    "strength",
    [{"room_share": 0.0}, {"noise_share": 0.0}, {"noise_snr_db": (40.0, 50.0)}],
    ids=lambda s: next(iter(s)),
)
def test_every_strength_of_augmentation_changes_the_training_audio(manifests, strength):
    strong = {"room_share": 1.0, "noise_share": 1.0, "noise_snr_db": (0.0, 5.0)}
    signals = []
    for chosen in (strong, strong, {**strong, **strength}):
        data = ManifestDataModule(**manifests, max_batch_s=4.0, augment=True, **chosen)
        signals.append([batch.signal for batch in data.train_dataloader()])
    assert all(map(torch.equal, signals[0], signals[1]))
    assert not any(map(torch.equal, signals[0], signals[2]))


def _flat(loaders):
    return [batch for loader in (loaders if isinstance(loaders, list) else [loaders]) for batch in loader]


@pytest.mark.parametrize("augment", [False, True])
def test_padded_training_batches_keep_the_bound_with_and_without_slower_speech(manifests, augment):
    data = ManifestDataModule(**manifests, max_batch_s=4.0, augment=augment)
    loader = data.train_dataloader()
    for epoch in range(4):
        loader.batch_sampler.sampler.set_epoch(epoch)
        assert all(
            batch.signal.numel() <= 4.0 * 16_000 + len(batch) for batch in loader
        )  # one sample of rounding


def test_test_loaders_give_single_utterances_in_manifest_order(data):
    (loader,) = data.test_dataloader()
    assert ids(loader) == [u.id for u in data.utterances("test")]
    assert all(len(batch) == 1 and batch.signal.shape[1] == batch.lengths[0] for batch in loader)


def test_validation_sees_every_utterance_once_even_one_longer_than_a_batch(manifests):
    data = ManifestDataModule(**manifests, max_batch_s=1.0)
    assert sorted(ids(data.val_dataloader())) == sorted(u.id for u in data.utterances("dev"))


def test_loader_keeps_order_and_batch_size(data):
    utterances = data.utterances("train")[::-2]
    assert ids(data.loader(utterances, batch_size=3)) == [u.id for u in utterances]
    assert [len(batch) for batch in data.loader(utterances, batch_size=3)] == [3, 3, 3, 1]


def test_calibration_draw_is_seeded_distinct_and_from_train(data, caplog):
    drawn = data.calibration_utterances(8, seed=1)
    assert drawn == data.calibration_utterances(8, seed=1) != data.calibration_utterances(8, seed=2)
    assert len({u.id for u in drawn}) == 8 and set(drawn) <= set(data.utterances("train"))
    with caplog.at_level(logging.INFO, logger=base.__name__):
        assert sorted(u.id for u in data.calibration_utterances(99, 0)) == sorted(
            u.id for u in data.utterances("train")
        )
    assert caplog.messages == ["calibration: 99 utterances asked for, train has 20: using all"]


def test_limits_are_evenly_spaced_and_the_same_for_every_seed(manifests):
    limited = [
        ManifestDataModule(**manifests, seed=seed, max_train_utterances=4, max_test_utterances=2)
        for seed in (0, 1)
    ]
    for data in limited:
        assert [u.id for u in data.utterances("train")] == ["train-0", "train-5", "train-10", "train-15"]
        assert [u.id for u in data.utterances("dev")] == ["dev-0", "dev-3"]
        assert [u.id for u in data.utterances("test")] == ["test-0", "test-2"]
    assert len(ManifestDataModule(**manifests, max_train_utterances=999).utterances("train")) == 20


def test_fingerprint_is_over_ids_and_texts_of_what_is_used(data, manifests):
    lines = "".join(f"{u.id}\t{u.text}\n" for u in data.utterances("test"))
    assert data.split_fingerprint("test") == hashlib.sha256(lines.encode()).hexdigest()
    assert data.split_fingerprint("test") != ManifestDataModule(
        **manifests, max_test_utterances=2
    ).split_fingerprint("test")


def test_description_has_one_line_per_split(data):
    lines = data.describe().splitlines()
    assert [line.split(":")[0] for line in lines] == ["train", "dev", "test"]
    assert lines[1].startswith("dev: 6 utterances, 0.00 h, 6 words")


def test_cached_audio_survives_the_loss_of_the_files(manifests, tmp_path):
    path = write_split(tmp_path, "train", 3)
    data = ManifestDataModule(str(path), manifests["dev"], manifests["test"], max_batch_s=4.0, cache=True)
    loader = data.train_dataloader()
    first = [batch.signal for batch in loader]
    for file in (tmp_path / "audio").iterdir():
        file.unlink()
    assert all(torch.equal(a, b.signal) for a, b in zip(first, loader, strict=True))


def test_unknown_split_names_the_allowed_ones(data):
    with pytest.raises(UserError, match="unknown split 'eval'; must be one of train, dev, test"):
        data.utterances("eval")


@pytest.mark.parametrize(
    "field, value",
    [("max_batch_s", 0.0), ("max_batch_s", float("nan")), ("num_buckets", 0), ("num_workers", -1),
     ("max_corrupt", -1), ("max_unalignable", 1.5), ("max_unalignable", -0.1), ("max_train_utterances", 0),
     ("max_test_utterances", -3)],
)  # fmt: skip
def test_bad_arguments_name_field_and_value(manifests, field, value):
    with pytest.raises(UserError, match=f"{field} is {value}; must be a"):
        ManifestDataModule(**manifests, **{field: value})


def test_training_utterance_longer_than_a_batch_is_refused(manifests):
    with pytest.raises(UserError, match="max_batch_s is 0.5, but an utterance needs"):
        ManifestDataModule(**manifests, max_batch_s=0.5).train_dataloader()


def test_calibration_needs_at_least_one_utterance(data):
    with pytest.raises(UserError, match="calibration_utterances is 0"):
        data.calibration_utterances(0, seed=0)


def test_the_embedded_corpus_is_ready_to_use():
    data = MiniDataModule(max_train_utterances=12, max_test_utterances=3, max_batch_s=30.0)
    assert data.test_splits == ["test_seen", "test_unseen", "test_real"]
    assert len(ids(data.train_dataloader())) == 12
    assert [len(ids(loader)) for loader in data.test_dataloader()] == [3, 3, 3]


@pytest.mark.parametrize("world", [2, 4, 6])
def test_every_process_gets_some_of_dev_and_all_get_all_of_it(data, monkeypatch, world):
    seen = []
    for rank in range(world):
        for module in (base, sampler):
            monkeypatch.setattr(module, "rank_and_world", lambda rank=rank: (rank, world))
        shard = ids(data.val_dataloader())
        assert shard
        seen += shard
    assert sorted(seen) == [f"dev-{i}" for i in range(6)]
    monkeypatch.setattr(base, "rank_and_world", lambda: (0, 7))
    with pytest.raises(UserError, match="split 'dev' has 6 utterances; must be at least one per process, 7"):
        data.val_dataloader()


def test_few_shapes_occur_where_training_batches_are_padded_to_a_step(manifests):
    plain, padded = (
        ManifestDataModule(**manifests, max_batch_s=6.0, augment=True, pad_to_s=step) for step in (0.0, 0.5)
    )
    batches = list(padded.train_dataloader())
    assert sorted(ids(batches)) == sorted(ids(plain.train_dataloader()))
    for batch in batches:
        assert batch.signal.shape[1] % 8_000 == 0 and batch.signal.shape[1] - batch.lengths.max() < 8_000
        assert batch.signal.numel() <= 6.0 * 16_000
        for row, length in zip(batch.signal, batch.lengths, strict=True):
            assert not row[length:].any()
    assert any(batch.signal.shape[1] % 8_000 for batch in plain.train_dataloader())
    assert any(batch.signal.shape[1] % 8_000 for batch in padded.val_dataloader())
    with pytest.raises(UserError, match="pad_to_s is -1.0; must be a number from 0"):
        ManifestDataModule(**manifests, pad_to_s=-1.0)
