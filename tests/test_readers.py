"""Whatever a reader is given, it reads it rightly or refuses it in one line; `tests.coverage_fuzz` looks further."""

from __future__ import annotations

import json
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datamodules.utterance import parse_json_line, to_utterance
from qat.cli.flags import expand_presets
from qat.models.speechbrain_yaml import read_yaml
from qat.models.yaml_values import arithmetic, plain
from qat.recipe import Recipe
from qat.rule import Rule
from qat.system.errors import UserError
from tests.coverage_fuzz import READERS, attempt, seeds, write_audio
from tests.datamodules.corpora import sine
from tests.datamodules.corpora import write_audio as write_clip

few = settings(max_examples=40, derandomize=True, deadline=None, database=None)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["1e3", "nan", "-1"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
GROUPS = {"cnn": ["cnn.*"], "head": ["head"]}
LAYERS = ("cnn.0", "cnn.1", "rnn", "head")
PATTERNS = st.sampled_from(["cnn", "head", "*", "cnn.1", "r?n", "[a", "nothing"])


def read_or_refused(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a reader gives; None where it refuses in one line."""
    try:
        return call(*arguments)
    except UserError as error:
        assert "\n" not in str(error)
        return None


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "a.wav", sine(0.2))
    return folder


FIELDS = st.fixed_dictionaries(
    {"id": VALUES, "audio": st.just("a.wav") | VALUES, "text": st.just("one two") | VALUES},
    optional={"duration_s": st.floats(0.1, 9.0) | VALUES, "speaker": VALUES},
)


@few
@given(row=FIELDS)
def test_a_row_of_a_manifest_is_an_utterance_or_refused(clips: Path, row: dict[str, Any]) -> None:
    kept = {key: value for key, value in row.items() if value is not None}
    found = read_or_refused(to_utterance, kept, "m.jsonl, line 1", clips)
    if found is not None:
        assert (
            0 < found.duration_s <= 604_800
            and found.text
            and set(found.text) <= set("abcdefghijklmnopqrstuvwxyz' ")
        )


@few
@given(text=st.text(max_size=30) | VALUES.map(json.dumps))
def test_a_line_of_json_is_an_object_without_nulls_or_refused(text: str) -> None:
    found = read_or_refused(parse_json_line, text, "m.jsonl, line 1")
    assert found is None or (isinstance(found, dict) and None not in found.values())


@few
@given(value=st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none())
def test_a_plain_yaml_value_is_itself(value: Any) -> None:
    text = repr(value) if type(value) in (int, float) else {True: "true", False: "False", None: "~"}[value]
    assert plain(text) == value and type(plain(text)) is type(value)


@few
@given(text=st.text(alphabet="0123456789.eE+-*/%() ,'[]n<x", max_size=20))
@example(text="9" * 5000)
def test_any_other_text_is_a_builtin_or_refused(text: str) -> None:
    try:
        found = plain(text)
    except ValueError:
        return
    assert found is None or isinstance(found, bool | int | float | str | tuple)


NUMBERS = st.integers(0, 50).map(str)
SUMS = st.recursive(
    NUMBERS,
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "//", "%", "/"]), inner).map(
        lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"
    ),
    max_leaves=5,
)


@few
@given(text=SUMS)
def test_arithmetic_is_pythons(text: str) -> None:
    try:
        expected = eval(text)
    except ZeroDivisionError:
        with pytest.raises(ArithmeticError):
            arithmetic(text)
        return
    assert arithmetic(text) == expected if abs(expected) <= 1e12 else True


LINES = (
    *(
        "a: !ref <b>",
        "b: 2",
        "c: !ref <a> * 2",
        "d: !copy <c>",
        "e: !new:torch.nn.LeakyReLU",
        "f: [1, !ref <e>]",
    ),
    *(
        "g: !apply:os.system [x]",
        "a: 1",
        "h: &x [*x]",
        "i: !ref <f[0]>",
        "j: {k: 1, k: 2}",
        "l: (1, 2)",
        "- m",
    ),
)


@few
@given(lines=st.lists(st.sampled_from(LINES), max_size=6))
def test_hyper_parameters_are_read_or_refused_and_nothing_is_run(
    lines: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "hyperparams.yaml"
    path.write_text("\n".join(lines))
    found = read_or_refused(read_yaml, path)
    if found is not None:
        assert not any("apply" in line for line in lines) and set(found) <= set("abcdefhijl")


RULES = st.lists(
    st.fixed_dictionaries(
        {"match": PATTERNS},
        optional={"weight_bits": st.sampled_from([0, 2, 4, 8, None]), "quantize": st.booleans()},
    ),
    max_size=3,
)


@few
@given(rules=RULES)
def test_the_first_rule_that_matches_decides(rules: list[dict[str, Any]]) -> None:
    recipe = Recipe.from_dict({"preset": "x", "activation_bits": 8, "rules": rules})
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    for layer in LAYERS:
        globs = [GROUPS.get(rule["match"], [rule["match"]]) for rule in rules]
        fitting = [
            rule
            for rule, own in zip(rules, globs, strict=True)
            if any(fnmatchcase(layer, glob) for glob in own)
        ]
        first = fitting[0] if fitting else {}
        found = recipe.for_layer(layer, GROUPS)
        if not first.get("quantize", True):
            assert found == "excluded by the recipe"
        else:
            bits = first.get("weight_bits")
            assert not isinstance(found, str) and found.weight_bits == (8 if bits is None else bits or None)


@few
@given(
    values=st.dictionaries(
        st.sampled_from(["preset", "rules", "weight_bits", "percentile", "seed", "x"]), VALUES
    )
)
def test_fields_of_a_recipe_are_taken_as_they_are_or_refused(values: dict[str, Any]) -> None:
    found = read_or_refused(Recipe.from_dict, values)
    if found is not None:
        kept = {key: value for key, value in found.to_dict().items() if key in values and key != "rules"}
        assert kept == {key: value for key, value in values.items() if key != "rules"}


@few
@given(match=VALUES, bits=VALUES)
def test_a_rule_has_a_pattern_and_bits_or_is_refused(match: Any, bits: Any) -> None:
    found = read_or_refused(lambda: Rule(match, weight_bits=bits))
    assert found is None or (isinstance(match, str) and match and (bits is None or bits in range(9)))


WORDS = st.sampled_from(
    ["--qat", "--qat=", "--config", "-c", "--config=x.yaml", "stochastic", "4", "--model.speechbrain"]
)


@few
@given(arguments=st.lists(WORDS | st.text(max_size=6), max_size=5))
def test_presets_of_any_command_line_are_files_or_refused(arguments: list[str]) -> None:
    found = read_or_refused(expand_presets, arguments)
    if found is not None:
        presets = [after for name, after in zip(found, found[1:], strict=False) if name == "--qat"]
        assert all(Path(preset).is_file() for preset in presets)


@pytest.mark.parametrize("name", sorted(READERS))
def test_what_fuzzing_starts_from_is_read_or_refused(name: str, tmp_path: Path) -> None:
    (corpus := tmp_path / "corpus").mkdir()
    seeds(name, corpus)
    write_audio(tmp_path)
    for path in sorted(corpus.iterdir()):
        assert attempt(name, path.read_bytes(), tmp_path) == ""
