"""Rows as a function of measurements."""

from __future__ import annotations

from dataclasses import replace

from qat.evaluation.measurement import Nodes
from qat.report.row import reason_for_null, row_problems
from qat.report.rows import rows_of
from qat.report.tables import report_markdown
from tests.evaluation.measurements import conditions, float_measurement, integer_measurement, transcribed


def test_there_is_one_row_per_split_and_model_splits_in_turn() -> None:
    rows = rows_of([float_measurement(), integer_measurement()], conditions())
    assert [(row.split, row.method) for row in rows] == [
        (split, method) for split in ("test_seen", "test_real") for method in ("float", "deterministic")
    ]
    assert all(list(row_problems(row.to_dict())) == [] for row in rows)
    assert rows == rows_of([float_measurement(), integer_measurement()], conditions())


def test_errors_are_compared_with_the_float_model_on_the_same_utterances() -> None:
    first, own = rows_of([float_measurement(), integer_measurement()], conditions())[:2]
    assert (first.wer, own.wer, own.substitutions, own.reference_words) == (0.0, 100 / 7, 1, 7)
    assert own.delta_wer_vs_float is not None and own.delta_wer_vs_float.mean == 100 / 7
    assert own.parity is not None and own.parity.wer_integer == 14.0
    assert (own.size_mb, own.float_size_mb, own.speedup, own.rounding) == (1.4, 5.2, 2.0, "nearest")


def test_the_float_row_says_why_its_fields_are_null() -> None:
    row = rows_of([float_measurement(), integer_measurement()], conditions())[0]
    for path in ("delta_wer_vs_float", "float_latency_ms", "speedup", "float_size_mb", "coverage", "parity"):
        assert getattr(row, path) is None and reason_for_null(row.notes, path) == "this is the float row"
    assert (row.weight_bits, row.rounding, row.integer_nodes, row.float_compute_nodes) == (None, None, 0, 1)


def test_a_float_control_is_compared_and_timed_but_has_no_parity() -> None:
    timing = integer_measurement().timing
    assert timing is not None
    control = float_measurement(
        name="control",
        method="float control",
        timing=replace(timing, rtf=0.015),
        utterances={"test_seen": transcribed("turn the light", "call home now")},
    )
    float_one = float_measurement(utterances={"test_seen": float_measurement().utterances["test_seen"]})
    row = rows_of([float_one, control], conditions())[1]
    assert row.delta_wer_vs_float is not None and row.speedup == 2.0 and row.rtf == 0.015
    assert row.parity is None and reason_for_null(row.notes, "parity") == "a float model"


def test_a_row_says_where_dev_error_rates_have_another_arithmetic() -> None:
    row = rows_of([float_measurement(), integer_measurement(validated_on="cuda")], conditions())[1]
    assert row.notes == [
        "dev WER: training.png and metrics.csv show it in training's arithmetic on a GPU; this report measures the "
        "exported file"
    ]
    assert row.notes[0] in report_markdown([row])


def test_notes_count_weights_that_are_unpacked_or_computed_in_blocks() -> None:
    nodes = Nodes(
        {"a/MatMul": "MatMulNBits", "b/MatMul": "MatMulNBits", "rnn/LSTM": "DynamicQuantizeLSTM"}, {}, {}
    )
    own = integer_measurement(packed=3, nodes=nodes)
    row = rows_of([float_measurement(), own], conditions())[1]
    assert row.notes == [
        "integer_nodes: 3 weights of 2 to 4 bits are unpacked at load and computed on int8",
        "integer_nodes: 2 linear layers compute on 4-bit weights as stored, int8 activations",
    ]


def test_what_was_not_timed_is_null_with_a_note() -> None:
    row = rows_of([float_measurement(timing=None), integer_measurement(timing=None)], conditions())[1]
    assert row.latency_ms is None and reason_for_null(row.notes, "latency_ms") == "not measured"


def test_a_post_training_twin_has_no_rounding_of_training() -> None:
    twin = integer_measurement(name="ptq", method="ptq")
    assert rows_of([float_measurement(), twin], conditions())[1].rounding is None


def test_the_search_and_its_parts_stand_in_rows_of_models_that_have_them() -> None:
    timing = integer_measurement().timing
    assert timing is not None
    parts = {"encoder": 3.0, "decoder_step": 5.0, "lm_step": 1.0, "search": 2.0}
    own = integer_measurement(decoding="attention, beam 8, lm 0.5", timing=replace(timing, parts_ms=parts))
    plain, searched = rows_of([float_measurement(), own], conditions())[:2]
    assert searched.decoding == "attention, beam 8, lm 0.5" and searched.parts_ms == parts
    assert (plain.decoding, plain.parts_ms) == (None, None)
    assert (
        not {"decoding", "parts_ms"} & set(plain.to_dict())
        and plain.notes == rows_of([float_measurement(), integer_measurement()], conditions())[0].notes
    )


def test_a_variant_comes_before_the_runs_own_model_and_says_why_it_has_no_parity() -> None:
    alone = float_measurement(name="float_no_lm", method="float, no language model", is_variant=True)
    rows = rows_of([float_measurement(), alone], conditions())
    assert [row.method for row in rows[:2]] == ["float, no language model", "float"]
    assert rows[0].delta_wer_vs_float is not None and rows[1].delta_wer_vs_float is None
    variant = integer_measurement(name="model_no_lm", is_variant=True, parity={})
    row = rows_of([float_measurement(), variant, integer_measurement()], conditions())[1]
    assert reason_for_null(row.notes, "parity") == "compared for the run's own model"


def test_a_row_says_how_many_utterances_were_read_in_windows() -> None:
    rows = rows_of([float_measurement(), integer_measurement()], conditions(window_s=1))
    long = "utterances: 2 of more than 1 s, read in windows that are joined where it is quiet"
    assert all(row.notes.count(long) == 1 and long in report_markdown([row]) for row in rows)
    in_one = rows_of([float_measurement(), integer_measurement()], conditions())
    assert not any("windows" in note for row in in_one for note in row.notes)


def test_texts_that_are_in_train_too_are_counted_in_row_and_table() -> None:
    measured = [float_measurement(), integer_measurement()]
    counts = {"test_seen": 2, "test_real": 0}
    rows = rows_of(measured, conditions(texts_in_train=counts))
    assert [row.texts_in_train for row in rows] == [2, 2, 0, 0]
    assert all(list(row_problems(row.to_dict())) == [] for row in rows)
    header = report_markdown(rows).partition("| split |")[2].partition("\n")[0]
    assert "| utterances | texts in train | WER % [95 % CI] |" in header
    uncounted = rows_of(measured, conditions())
    assert "texts_in_train" not in uncounted[0].to_dict() and "texts in train" not in report_markdown(
        uncounted
    )


def test_a_count_over_a_part_of_a_stream_is_a_note_and_no_number() -> None:
    counts = {"test_seen": 2, "test_real": 0}
    rows = rows_of([float_measurement()], conditions(texts_in_train=counts, trained_on=20_000))
    assert rows[0].texts_in_train is None and reason_for_null(rows[0].notes, "texts_in_train").startswith(
        "test_seen: 2 in the first 20000 utterances of the training stream"
    )
    assert rows[0].notes[-1] in report_markdown(rows)


def test_a_row_says_why_a_runner_has_no_integer_nodes() -> None:
    on_gpu = integer_measurement(nodes=Nodes({}, {}, {}), without_integers="provider cuda has none")
    row = rows_of([float_measurement(), on_gpu], conditions())[1]
    assert row.integer_nodes == 0 and "integer_nodes: provider cuda has none" in row.notes
