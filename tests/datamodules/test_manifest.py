import json

import pytest

from datamodules.manifest import ManifestDataModule, read_manifest
from tests.datamodules.corpora import error_of, sine, write_audio, write_jsonl, write_split


@pytest.fixture
def clip(tmp_path):
    """A recording of 0.5 s beside the manifests."""
    return write_audio(tmp_path / "a.wav", sine(0.5)).name


def test_jsonl_gives_every_field_and_reads_a_missing_duration(tmp_path, clip):
    rows = [
        {
            "id": "u1",
            "audio": clip,
            "text": "HELLO  World",
            "speaker": 7,
            "source": "here",
            "license": "mine",
        },
        {"id": 2, "wav": clip, "transcript": "it's", "duration_s": 0.25, "speaker": None},
        {"id": "u3", "path": str(tmp_path / clip), "text": "three", "duration_s": None},
    ]
    first, second, third = read_manifest(write_jsonl(tmp_path / "m.jsonl", rows))
    assert (first.id, first.text, first.duration_s) == ("u1", "hello world", 0.5)
    assert (first.speaker, first.source, first.license) == ("7", "here", "mine")
    assert (second.id, second.text, second.duration_s, second.speaker) == ("2", "it's", 0.25, "")
    assert third.audio == tmp_path / clip and third.duration_s == 0.5


@pytest.mark.parametrize("suffix, delimiter", [(".csv", ","), (".tsv", "\t")])
def test_csv_gives_the_same_as_jsonl(tmp_path, clip, suffix, delimiter):
    rows = [
        ["id", "wav", "transcript", "duration_s"],
        ["a", clip, "One two", "0.5"],
        ["b", clip, "three", ""],
    ]
    table = tmp_path / f"m{suffix}"
    table.write_text("\ufeff" + "\n".join(delimiter.join(row) for row in rows) + "\n", encoding="utf-8")
    lines = [{"id": "a", "audio": clip, "text": "one two"}, {"id": "b", "audio": clip, "text": "three"}]
    assert read_manifest(table) == read_manifest(write_jsonl(tmp_path / "m.jsonl", lines))


def test_audio_root_is_where_relative_paths_start(tmp_path):
    write_audio(tmp_path / "recordings" / "a.ogg", sine(0.5))
    path = write_jsonl(tmp_path / "m.jsonl", [{"id": "a", "audio": "a.ogg", "text": "a"}])
    assert read_manifest(path, tmp_path / "recordings")[0].duration_s == 0.5
    assert "audio file not found" in error_of(read_manifest, path)


def test_blank_lines_are_skipped_and_order_is_kept(tmp_path, clip):
    row = {"audio": clip, "text": "a"}
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(json.dumps({"id": name, **row}) + "\n" for name in "zay"))
    assert [u.id for u in read_manifest(path)] == ["z", "a", "y"]


def test_missing_and_empty_manifests_are_named(tmp_path):
    message = error_of(read_manifest, tmp_path / "no.jsonl")
    assert message == f"{tmp_path / 'no.jsonl'}: manifest not found; must be a .jsonl or .csv file"
    for name, content in [("a.jsonl", ""), ("b.jsonl", "\n\n"), ("c.csv", ""), ("d.csv", "id,audio,text\n")]:
        (tmp_path / name).write_text(content)
        assert f"{name}: manifest is empty; must be at least one" in error_of(read_manifest, tmp_path / name)


def test_unknown_kind_of_manifest_is_refused(tmp_path):
    (tmp_path / "m.txt").write_text("x")
    assert "m.txt: unknown kind of manifest; must be .jsonl" in error_of(read_manifest, tmp_path / "m.txt")


def test_latin_1_text_is_refused(tmp_path):
    (tmp_path / "m.csv").write_bytes("id,audio,text\na,a.wav,é\n".encode("latin-1"))
    assert "m.csv: is not UTF-8" in error_of(read_manifest, tmp_path / "m.csv")


@pytest.mark.parametrize(
    "line, expected",
    [
        ("not json", "line 2: is not JSON"),
        ('{"id": "b", ', "line 2: is not JSON"),
        ("[1, 2]", "line 2: is a JSON list; must be one JSON object per line"),
        (
            '{"audio": "a.wav", "text": "b"}',
            "field 'id' is missing; must be given; the line's fields are audio, text",
        ),
        ('{"id": "b", "text": "b"}', "line 2, id 'b': field 'audio' or 'wav' or 'path' is missing"),
        ('{"id": "b", "audio": "a.wav"}', "line 2, id 'b': field 'text' or 'transcript' is missing"),
        ('{"id": "b", "audio": "a.wav", "text": null}', "field 'text' or 'transcript' is missing"),
        ('{"id": "a", "audio": "a.wav", "text": "b"}', "line 2, id 'a': duplicate id, first used in line 1"),
        ('{"id": "b", "audio": "no.wav", "text": "b"}', "line 2, id 'b': audio file not found: "),
        ('{"id": "b", "audio": "a.wav", "text": "route 66"}', "has the character '6'"),
        ('{"id": "b", "audio": "a.wav", "text": "  "}', "line 2, id 'b': text is empty"),
        (
            '{"id": "b", "audio": "a.wav", "text": "b", "duration_s": 0}',
            "duration_s is 0; must be seconds",
        ),
        ('{"id": "b", "audio": "a.wav", "text": "b", "duration_s": "long"}', "duration_s is 'long'"),
        ('{"id": "b", "audio": "a.wav", "text": "b", "duration_s": NaN}', "duration_s is nan"),
    ],
)
def test_bad_jsonl_lines_are_named_by_file_and_line(tmp_path, clip, line, expected):
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"id": "a", "audio": clip, "text": "a"}) + "\n" + line + "\n")
    message = error_of(read_manifest, path)
    assert message.startswith(f"{path}, line 2") and expected in message


@pytest.mark.parametrize(
    "content, expected",
    [
        (
            "id,audio\na,a.wav\n",
            "line 2, id 'a': field 'text' or 'transcript' is missing; must be given; the line's fields are id, audio",
        ),
        ("id,audio,text\na,a.wav,yes, no\n", "line 2: has more fields than the header"),
        ("id,audio,text\na,a.wav\n", "line 2, id 'a': field 'text'"),
        ('id,audio,text\na,a.wav,"open\n', "is not CSV"),
        ("id,audio,text\na,a.wav,a\na,a.wav,b\n", "line 3, id 'a': duplicate id, first used in line 2"),
    ],
)
def test_bad_csv_lines_are_named_by_file_and_line(tmp_path, clip, content, expected):
    path = tmp_path / "m.csv"
    path.write_text(content)
    message = error_of(read_manifest, path)
    assert message.startswith(str(path)) and expected in message


def test_data_module_takes_one_test_manifest_or_several_by_name(tmp_path):
    paths = {split: str(write_split(tmp_path, split, 3)) for split in ["train", "dev", "easy", "hard"]}
    one = ManifestDataModule(paths["train"], paths["dev"], paths["easy"])
    assert one.test_splits == ["test"] and len(one.utterances("test")) == 3
    tests = {"easy": paths["easy"], "hard": paths["hard"]}
    several = ManifestDataModule(paths["train"], paths["dev"], tests)
    assert several.test_splits == ["easy", "hard"]
    assert [u.id for u in several.utterances("hard")] == ["hard-0", "hard-1", "hard-2"]


def test_test_splits_need_names_of_their_own():
    message = error_of(ManifestDataModule, "t", "d", {"dev": "x"})
    assert message == "test: split 'dev' has a name that is taken; must be any name but train and dev"
    assert "test has no split" in error_of(ManifestDataModule, "t", "d", {})
