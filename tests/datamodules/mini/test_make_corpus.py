"""Building the mini corpus: the plan that it ships, and further training commands."""

from __future__ import annotations

from datamodules.mini import make_corpus
from tests.datamodules.corpora import HELD_OUT, MINI, SPLITS, every


def test_the_plan_repeats_the_shipped_sentences(rows):
    exclude = {row["text"] for row in every(rows) if row["speaker"] == "allison"}
    planned = make_corpus.plan(17, exclude)
    known = {(item.key, item.split) for item in planned}
    shipped = [row for row in every(rows) if row["speaker"] != "allison"]
    found = sum((row["id"], split) in known for split in SPLITS for row in rows[split])
    assert found == len(shipped)


def test_more_commands_are_new_and_in_voices_of_training(rows):
    more = make_corpus.plan_more(17, 50, MINI)
    assert more == make_corpus.plan_more(17, 50, MINI) and len({item.text for item in more}) == 50
    assert not {item.text for item in more} & {row["text"] for row in every(rows)}
    assert {item.split for item in more} == {"train"} and not {item.voice for item in more} & HELD_OUT


def test_no_more_commands_is_one_clear_line_and_removes_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "audio").mkdir()
    monkeypatch.setattr("sys.argv", ["make_corpus", "--out", str(tmp_path), "--more", "0"])
    assert make_corpus.main() == 1 and (tmp_path / "audio").is_dir()
    assert capsys.readouterr().err == "make_corpus: --more is 0; must be an integer from 1\n"


def test_more_commands_do_not_replace_a_whole_corpus(tmp_path, monkeypatch, capsys):
    (tmp_path / "audio").mkdir()
    (tmp_path / "dev.jsonl").touch()
    monkeypatch.setattr("sys.argv", ["make_corpus", "--out", str(tmp_path), "--more", "9"])
    assert make_corpus.main() == 1 and (tmp_path / "audio").is_dir()
    assert "holds a whole corpus; must be another folder with --more" in capsys.readouterr().err


def test_equal_recorded_sentences_stay_in_one_split_and_shares_are_kept() -> None:
    splits = [make_corpus.split_of_recording(17, f"sentence {number}") for number in range(2_000)]
    assert splits == [make_corpus.split_of_recording(17, f"sentence {number}") for number in range(2_000)]
    for split, share in make_corpus.REAL_SHARES:
        assert abs(splits.count(split) / 2_000 - share) < 4 * (share * (1 - share) / 2_000) ** 0.5
