"""The reader of `hyperparams.yaml`: HyperPyYAML's meaning, nothing run, one line for what it cannot take."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hyperpyyaml import load_hyperpyyaml

from qat.models.speechbrain_yaml import Node, read_yaml
from qat.system.errors import UserError
from tests.models.speechbrain_folders import write_attention_folder, write_wav2vec2_folder


def read(tmp_path: Path, text: str) -> dict[str, Any]:
    path = tmp_path / "hyperparams.yaml"
    path.write_text(text)
    return read_yaml(path)


PLAIN = """
sample_rate: 16000
rate: 1e-3
flag: True
none: null
quoted: "12"
channels: (128, 256)
listed: [1, two, 3.5]
nested: {a: {b: 4}, c: !ref <sample_rate>}
folder: results
seed: 7
path: !ref <folder>/<seed>/save
inner: !ref <nested[a][b]>
whole: !ref <channels>
double: !ref <sample_rate> * 2
mean: !ref (<sample_rate> + 2) / <seed>
copied: !copy <nested>
"""


def test_plain_values_and_references_read_as_in_speechbrain(tmp_path: Path) -> None:
    assert read(tmp_path, PLAIN) == dict(load_hyperpyyaml(StringIO(PLAIN)))


def test_a_reference_within_parentheses_makes_a_tuple(tmp_path: Path) -> None:
    """In SpeechBrain it does in the first file that a process reads, and makes text in later ones."""
    assert read(tmp_path, "seed: 7\npair: !ref (<seed>, 2)\n")["pair"] == (7, 2)


def test_references_may_point_forward_and_at_references(tmp_path: Path) -> None:
    assert read(tmp_path, "a: !ref <b>\nb: !ref <c>\nc: 3\n") == {"a": 3, "b": 3, "c": 3}


def test_keys_with_two_underscores_are_dropped(tmp_path: Path) -> None:
    assert read(tmp_path, "__set: 1\na: 2\n") == {"a": 2}


def test_two_references_are_one_node_and_a_copy_is_another(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "lin: !new:speechbrain.nnet.linear.Linear\n    n_neurons: 3\n"
        "a: !ref <lin>\nb: [!ref <lin>]\nc: !copy <lin>\n",
    )
    assert isinstance(found["lin"], Node) and found["a"] is found["b"][0] is found["lin"]
    assert found["c"] is not found["lin"] and found["c"].arguments == {"n_neurons": 3}
    assert (found["lin"].kind, found["lin"].name, found["lin"].key, found["lin"].line) == (
        "new",
        "Linear",
        "lin",
        1,
    )


def test_lists_of_layers_and_positional_arguments_are_told_apart(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "a: !new:torch.nn.LeakyReLU\nlist: !new:torch.nn.ModuleList\n    - [!ref <a>, !ref <a>]\n"
        "row: !new:speechbrain.nnet.containers.Sequential\n    - !ref <a>\n    - !ref <a>\n"
        "lin: !new:speechbrain.nnet.linear.Linear [5, null]\nact: !name:torch.nn.LeakyReLU []\n",
    )
    assert found["list"].layers == (found["a"], found["a"]) == found["row"].layers
    assert found["lin"].arguments == {"n_neurons": 5, "input_shape": None}
    assert found["act"].kind == "name" and found["act"].arguments == {}


@pytest.mark.parametrize("style", ["scorers", "searcher"])
def test_the_published_style_reads_whole(tmp_path: Path, style: str) -> None:
    write_attention_folder(tmp_path, style=style)
    found = read_yaml(tmp_path / "hyperparams.yaml")
    assert found["asr_model"].layers[0] is found["encoder"].arguments["model"] is found["enc"]
    assert found["enc"].arguments["cnn_channels"] == (4, 6)
    assert found["decoder"].arguments["beam_size"] == 8


@pytest.mark.parametrize("style", ["integrations", "lobes", "old"])
def test_the_published_wav2vec2_reads_whole_whatever_its_lobe_is_called(tmp_path: Path, style: str) -> None:
    write_wav2vec2_folder(tmp_path, style=style)
    found = read_yaml(tmp_path / "hyperparams.yaml")
    assert found["encoder"].arguments["wav2vec2"].name == "Wav2Vec2"


REFUSED = {
    "a: !apply:os.system [touch HERE]": r"line 1: a: !apply:os.system, must be !new:",
    "a: !applyref:os.system [touch HERE]": "nothing in the file is run",
    "a: !new:os.system [touch HERE]": "class os.system, must be one of",
    "a: !name:subprocess.run [touch HERE]": "class subprocess.run, must be one of",
    "a: !!python/object/apply:os.system [touch HERE]": "nothing in the file is run",
    "a: !!python/name:os.system": "nothing in the file is run",
    "a: !module:os": "nothing in the file is run",
    "a: !include:other.yaml": "nothing in the file is run",
    "data: !PLACEHOLDER": "data: !PLACEHOLDER, must be a value",
    "a: 1\nb:\n  c: !new:speechbrain.nnet.linear.Liner": r"line 3: b.c: class .*; did you mean",
    "a: !new:speechbrain.nnet.linear.Linear\n    n_neurns: 3": "a.n_neurns: must be an argument of Linear",
    "a: !new:speechbrain.nnet.linear.Linear [1, 2, 3, 4, 5, 6, 7]": "7 arguments, must be at most 6",
    "a: !new:torch.nn.Dropout word": "'word', must be arguments by name",
    "a: !ref <b>": "<b>, must name a key of the file",
    "sample_rate: 1\na: !ref <sample_rat>": "did you mean",
    "a: {b: 1}\nc: !ref <a[d]>": r"<a\[d\]>, must name a key",
    "a: !ref <b.weight>\nb: 1": "attributes of objects",
    "a: !ref <b>\nb: !ref <a>": "must not refer to itself",
    "a: !ref <a>": "must not refer to itself",
    "a: !ref [1]": "must be followed by text",
    "a: {b: 1}\nc: !ref <a>/x": "<a> within text",
    "a: 2\nb: !ref <a> ** 9": "must be arithmetic with a value",
    "a: 0\nb: !ref 1 / <a>": "must be arithmetic with a value",
    "a: 1\na: 2": "'a' must be given once",
    "a: [1": "must be a YAML file",
    "- 1": "must hold keys and their values",
    "": "must hold keys and their values",
    "a: ((1, 2), 3)": "must be a tuple of numbers",
    "a: &x [*x]": "must not refer to itself",
    "b: &x {c: 1}\na:\n  <<: *x": "must be a plain key",
    "a: \xff\x00": "must be a YAML file",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_taken_is_one_line_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=REFUSED[text]) as caught:
        read(tmp_path, text.replace("HERE", "witness"))
    assert "\n" not in str(caught.value) and "hyperparams.yaml" in str(caught.value)
    assert [item.name for item in tmp_path.iterdir()] == ["hyperparams.yaml"]


def test_references_cannot_write_without_end(tmp_path: Path) -> None:
    lines = ["k0: aaaaaaaaaa"] + [f"k{n}: !ref <k{n - 1}><k{n - 1}><k{n - 1}>" for n in range(1, 30)]
    with pytest.raises(UserError, match="must be at most"):
        read(tmp_path, "\n".join(lines))


def test_deep_nesting_large_and_missing_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must nest less deeply"):
        read(tmp_path, "a: " + "[" * 700 + "]" * 700)
    with pytest.raises(UserError, match="must be at most 1000000"):
        read(tmp_path, "#" * 1_000_001)
    with pytest.raises(UserError, match="must be a readable file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"a: \xff\xfe\xfa")
    with pytest.raises(UserError, match="must be"):
        read_yaml(tmp_path / "bytes.yaml")
