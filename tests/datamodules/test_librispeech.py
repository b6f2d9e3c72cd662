import shutil
import tarfile

import pytest
import torchaudio

from datamodules.librispeech import LibriSpeechDataModule, download_subset
from tests.datamodules.corpora import error_of, write_librispeech

NAMES = {"train_subsets": ["train-clean-100"], "dev_subset": "dev-clean", "test_subsets": ["test-clean"]}


@pytest.fixture
def root(tmp_path):
    """A folder with LibriSpeech/ of three tiny subsets."""
    for subset in ["train-clean-100", "dev-clean", "test-clean"]:
        write_librispeech(tmp_path / "LibriSpeech", subset)
    return tmp_path


def test_official_layout_is_read_in_order_of_speakers(root):
    data = LibriSpeechDataModule(str(root), **NAMES)
    utterances = data.utterances("train")
    assert [u.id for u in utterances] == ["84-7-0000", "84-7-0001", "1089-3-0000", "1089-3-0001"]
    first = utterances[0]
    assert (first.text, first.duration_s, first.speaker) == ("it's utterance one", 0.5, "84")
    assert (first.source, first.license) == ("train-clean-100", "CC BY 4.0")
    assert data.test_splits == ["test-clean"] and len(data.utterances("test-clean")) == 4


def test_root_may_be_the_folder_librispeech_itself(root):
    outer, inner = (LibriSpeechDataModule(str(folder), **NAMES) for folder in (root, root / "LibriSpeech"))
    assert outer.utterances("dev") == inner.utterances("dev")


def test_batches_come_out(root):
    data = LibriSpeechDataModule(str(root), max_batch_s=3.0, **NAMES)
    data.prepare_data()
    assert sorted(i for batch in data.train_dataloader() for i in batch.ids) == sorted(
        u.id for u in data.utterances("train")
    )


def test_several_train_subsets_are_joined(root):
    write_librispeech(root / "LibriSpeech", "train-other-500", ["5-1"])
    data = LibriSpeechDataModule(
        str(root), ["train-clean-100", "train-other-500"], test_subsets=["test-clean"]
    )
    assert [u.source for u in data.utterances("train")][3:] == ["train-clean-100"] + ["train-other-500"] * 2


def test_missing_folder_without_download_is_one_clear_line(tmp_path):
    data = LibriSpeechDataModule(str(tmp_path), **NAMES)
    for call in (data.prepare_data, lambda: data.utterances("train")):
        message = error_of(call)
        assert "is missing; must be a folder with the official layout; or set download: true" in message
        assert f"root is {str(tmp_path)!r}" in message


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (
            {"train_subsets": ["train-clean"]},
            "train_subsets is 'train-clean'; must be one of train-clean-100, ",
        ),
        ({"train_subsets": []}, "train_subsets is []"),
        ({"train_subsets": ["test-clean"]}, "train_subsets is 'test-clean'"),
        ({"train_subsets": ["train-clean-100"] * 2}, "names a subset twice"),
        (
            {"dev_subset": "train-clean-100"},
            "dev_subset is 'train-clean-100'; must be one of dev-clean, dev-other",
        ),
        (
            {"test_subsets": "test-clean"},
            "test_subsets is 'test-clean'; must be a list of test-clean, test-other",
        ),
    ],
)
def test_unknown_subsets_are_refused_before_anything_is_read(arguments, expected):
    assert expected in error_of(LibriSpeechDataModule, "nowhere", **arguments)


def test_damaged_layouts_are_named(root):
    data = LibriSpeechDataModule(str(root), **NAMES)
    chapter = root / "LibriSpeech" / "dev-clean" / "84" / "7"
    (chapter / "84-7-0001.flac").unlink()
    assert "84-7.trans.txt, line 2, id '84-7-0001': audio file not found" in error_of(data.utterances, "dev")
    (chapter / "84-7.trans.txt").write_text("84-7-0000 AT 9 O'CLOCK\n")
    assert "line 1, id '84-7-0000': text \"at 9 o'clock\" has the character '9'" in error_of(
        data.utterances, "dev"
    )
    shutil.rmtree(root / "LibriSpeech" / "dev-clean")
    (root / "LibriSpeech" / "dev-clean").mkdir()
    assert "dev-clean: has no SPEAKER/CHAPTER/*.trans.txt" in error_of(data.utterances, "dev")


class FakeServer:
    """Puts an archive where torchaudio's downloader would have put it, and counts."""

    def __init__(self, source):
        self.source, self.calls, self.fail_with = source, 0, None

    def __call__(self, url, archive, hash_prefix):
        self.calls += 1
        assert len(hash_prefix) == 64, "a checksum is asked for"
        if self.fail_with:
            raise self.fail_with
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(self.source, "LibriSpeech/dev-clean")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A fake of the server that has dev-clean."""
    fake = FakeServer(write_librispeech(tmp_path / "origin", "dev-clean"))
    monkeypatch.setattr(torchaudio.datasets.librispeech, "download_url_to_file", fake)
    return fake


def test_download_unpacks_beside_and_renames(tmp_path, server):
    home = tmp_path / "data" / "LibriSpeech"
    assert download_subset(home, "dev-clean") == home / "dev-clean"
    assert sorted(p.name for p in home.iterdir()) == ["dev-clean"], "archive and working folder are gone"
    data = LibriSpeechDataModule(str(tmp_path / "data"), download=True, **NAMES)
    assert len(data.utterances("dev")) == 4 and server.calls == 1


def test_failed_download_is_one_line_and_leaves_nothing_that_looks_whole(tmp_path, server):
    server.fail_with = RuntimeError("invalid hash value\n(expected x, got y)")
    message = error_of(download_subset, tmp_path / "data", "dev-clean")
    assert message.startswith("download of dev-clean to ") and "invalid hash value (expected x" in message
    assert not (tmp_path / "data" / "dev-clean").exists()


def test_of_processes_that_ask_at_once_one_downloads(tmp_path, server, monkeypatch, capsys):
    home, answers = tmp_path / "data", [False, False, True]

    def held_by_another(folder):
        if not answers[0]:
            (home / "dev-clean").mkdir(parents=True, exist_ok=True)
        return answers.pop(0)

    monkeypatch.setattr("qat.system.lock.WAIT_S", 0)
    monkeypatch.setattr("qat.system.lock.try_hold", held_by_another)
    assert download_subset(home, "dev-clean") == home / "dev-clean"
    assert server.calls == 0 and [item.name for item in home.iterdir()] == ["dev-clean"]
    assert capsys.readouterr().out.count("download of dev-clean: waiting for another process") == 1


def test_interrupted_unpacking_starts_over_from_the_checked_archive(tmp_path, server, monkeypatch):
    def interrupted(archive):
        (tmp_path / "data" / "dev-clean.part" / "LibriSpeech" / "dev-clean").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torchaudio.datasets.librispeech, "_extract_tar", interrupted)
        download_subset(tmp_path / "data", "dev-clean")
    assert not (tmp_path / "data" / "dev-clean").exists()
    folder = download_subset(tmp_path / "data", "dev-clean")
    assert server.calls == 1 and len(list(folder.glob("*/*/*.flac"))) == 4
