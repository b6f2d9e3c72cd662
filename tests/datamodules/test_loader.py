"""Loaders under Lightning: epochs, resuming in the middle of one, worker processes, ranks."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from datamodules.loader import end_with_parent
from datamodules.manifest import ManifestDataModule
from qat.system.errors import UserError
from tests.datamodules.corpora import sine, write_audio, write_jsonl, write_split


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    """24 training utterances of 0.3 to 1.2 s."""
    folder = tmp_path_factory.mktemp("corpus")
    return {
        split: str(write_split(folder, split, count))
        for split, count in [("train", 24), ("dev", 5), ("test", 4)]
    }


def make(manifests, **keywords):
    return ManifestDataModule(**manifests, **{"max_batch_s": 4.0, "augment": True, "seed": 3, **keywords})


def fingerprint(batch):
    """What must be equal for two batches to be the same."""
    return batch.ids, batch.signal.double().sum().item(), batch.signal.double().pow(2).sum().item()


class Recorder(LightningModule):
    """Learns nothing and remembers every batch that it is given."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches, self.dev, self.stop_at = [], [], stop_at

    def training_step(self, batch, _):
        self.batches.append((self.current_epoch, *fingerprint(batch)))
        return self.weight.sum()

    def validation_step(self, batch, _):
        self.dev += batch.ids

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Crash(Callback):
    """Saves after a given number of steps, then stops as a machine would."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


def fit(data, module, epochs=3, callbacks=(), ckpt_path=None):
    quiet = dict.fromkeys(
        ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False
    )
    ours = {"accelerator": "cpu", "use_distributed_sampler": False, "num_sanity_val_steps": 0}
    trainer = Trainer(max_epochs=epochs, callbacks=list(callbacks), **quiet, **ours)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return module


def test_every_epoch_yields_every_utterance_once_in_new_batches_and_new_variants(manifests):
    data = make(manifests)
    module = fit(data, Recorder())
    epochs = [[b for b in module.batches if b[0] == epoch] for epoch in range(3)]
    assert len({len(e) for e in epochs}) == 1
    for epoch in epochs:
        assert sorted(i for _, ids, *_ in epoch for i in ids) == sorted(
            u.id for u in data.utterances("train")
        )
    assert epochs[0][0][1:] != epochs[1][0][1:] != epochs[2][0][1:]
    assert sorted(module.dev) == sorted([u.id for u in data.utterances("dev")] * 3)


@pytest.mark.parametrize(
    "where", ["inside the first epoch", "inside a later epoch", "at the end of an epoch"]
)
def test_interrupted_training_gets_the_batches_of_uninterrupted_training(manifests, tmp_path, where):
    whole = fit(make(manifests), Recorder()).batches
    per_epoch = len(whole) // 3
    assert per_epoch >= 4, "the test needs room inside an epoch"
    step = {
        "inside the first epoch": 2,
        "inside a later epoch": per_epoch + 2,
        "at the end of an epoch": per_epoch,
    }[where]
    before, after = Recorder(), Recorder()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(make(manifests), before, callbacks=[Crash(step, tmp_path / "last.ckpt")])
    fit(make(manifests), after, ckpt_path=tmp_path / "last.ckpt")
    assert before.batches + after.batches == whole


def test_worker_processes_give_the_same_batches_and_the_same_epochs(manifests):
    assert (
        fit(make(manifests), Recorder(), 2).batches
        == fit(make(manifests, num_workers=1), Recorder(), 2).batches
    )


def test_bad_file_in_a_worker_process_is_one_line(manifests, tmp_path):
    bad = write_audio(tmp_path / "bad.flac", sine(0.5))
    train = write_jsonl(tmp_path / "t.jsonl", [{"id": "a", "audio": "bad.flac", "text": "a"}])
    for num_workers in (0, 1):
        bad_data = make({**manifests, "train": str(train)}, num_workers=num_workers)
        bad_data.utterances("train")
        bad.write_bytes(bad.read_bytes()[:2000])
        with pytest.raises(UserError) as error:
            list(bad_data.train_dataloader())
        assert "\n" not in str(error.value) and "bad.flac: is truncated" in str(error.value)


def test_state_of_another_epoch_or_another_batching_is_not_skipped(manifests):
    loader = make(manifests).train_dataloader()
    whole = [fingerprint(batch) for batch in loader]
    state = loader.state_dict()
    assert state == {"epoch": 0, "position": len(whole), "length": len(whole)}
    for other in ({**state, "epoch": 1, "position": 2}, {**state, "length": 1, "position": 2}):
        loader.load_state_dict(other)
        assert [fingerprint(batch) for batch in loader] == whole
    loader.load_state_dict({**state, "position": 2})
    assert [fingerprint(batch) for batch in loader] == whole[2:]
    assert [fingerprint(batch) for batch in loader] == whole, "a state counts once"


def load_and_die(pids: Any) -> None:
    """A process whose loader has workers, which is then killed."""
    loader = DataLoader([1, 2], num_workers=2, worker_init_fn=end_with_parent)
    iterator: Any = iter(loader)
    next(iterator)
    pids.send([worker.pid for worker in iterator._workers])
    pids.close()
    os.kill(os.getpid(), signal.SIGKILL)


def runs(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_end_with_a_process_that_is_killed(method: str) -> None:
    context = multiprocessing.get_context(method)
    here, there = context.Pipe(duplex=False)
    process: Any = context.Process(target=load_and_die, args=(there,))
    process.start()
    pids = here.recv()
    process.join()
    assert process.exitcode == -signal.SIGKILL and len(pids) == 2
    deadline = time.monotonic() + 20
    while any(runs(pid) for pid in pids):
        assert time.monotonic() < deadline, f"workers {pids} live on"
        time.sleep(0.05)
