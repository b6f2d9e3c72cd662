"""AdaRound and bias correction in a fit: they act, they are kept, and a run killed half-way ends the same."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.base import SpeechDataModule
from datamodules.manifest import ManifestDataModule
from qat.callbacks.ada_round import AdaRound
from qat.cli.train import build_cli
from qat.evaluation.candidates import candidates_of
from qat.layers.swap import quant_layers
from qat.methods.calibrate import calibrate_
from qat.methods.float_reference import FloatInputs, collect, divergence, sites
from qat.models.checkpoint import read_checkpoint
from qat.models.ctc import CTCModule
from qat.models.loading import load_module, save_module
from qat.recipe import Recipe
from qat.runs import read_config
from tests.conftest import build

SMALL = ["--qat.ada_round_steps", "120", "--qat.reconstruction_utterances", "3"]


@pytest.fixture
def data(tiny_manifests: dict[str, Path]) -> SpeechDataModule:
    paths = {key: str(tiny_manifests[key]) for key in ("train", "dev")}
    return ManifestDataModule(**paths, test=str(tiny_manifests["test_a"]), max_batch_s=6.0)


def adaround(tiny: Path, folder: Path, *flags: str) -> Any:
    arguments = ["--config", str(tiny), "--qat", "adaround", "--run", str(folder), *SMALL, *flags]
    return build_cli([*arguments, "--wandb.enabled", "false", "--evaluation.enabled", "false"])


def fit(run: Any) -> Any:
    run.save_config()
    run.trainer.fit(run.model, datamodule=run.datamodule, ckpt_path=run.checkpoint)
    return run.model


def pair(kind: str, data: SpeechDataModule, **fields: Any) -> tuple[CTCModule, CTCModule]:
    """A calibrated model and the float model it came from."""
    model = build(kind, Recipe(preset="x", ada_round=True, calibration_utterances=3, **fields))
    calibrate_(model, data)
    reference = copy.deepcopy(model.eval())
    reference.quantize(False)
    return model, reference


def test_every_layer_is_reconstructed_and_its_error_falls(kind: str, tiny: Path, tmp_path: Path) -> None:
    model = fit(adaround(tiny, tmp_path / "run", "--qat.weight_bits", "3"))
    layers = [name for name, _ in quant_layers(model)]
    treated = {item["layer"].removesuffix(".l0").removesuffix(".l1") for item in model.reconstruction}
    assert treated == set(layers)
    assert all(item["after"] < item["before"] for item in model.reconstruction)
    assert all(
        bool(q.ada_round.chosen) and q.is_rounded
        for _, layer in quant_layers(model)
        for _, _, q in layer.weights()
    )
    twin = load_module(tmp_path / "run" / "ptq.ckpt")
    assert not any(q.is_rounded for _, layer in quant_layers(twin) for _, _, q in layer.weights())
    for (_, one), (_, two) in zip(quant_layers(model), quant_layers(twin), strict=True):
        for (_, ours, rounded), (_, theirs, nearest) in zip(one.weights(), two.weights(), strict=True):
            assert torch.equal(ours, theirs)  # the float weights stay
            assert not torch.equal(rounded(ours), nearest(theirs))
            assert bool(((rounded(ours) - ours).abs() / rounded.scale.max() < 2.5).all())


def test_the_layers_of_an_attention_block_share_one_site(data: SpeechDataModule) -> None:
    model = build("wav2vec2", Recipe(preset="x", ada_round=True)).eval()
    batch = next(iter(data.loader(data.utterances("train")[:1])))
    found = [[item.name.rpartition(".")[2] for item in site] for site in sites(model, batch)]
    assert found.count(["q_proj", "k_proj", "v_proj"]) == 2
    assert found[0] == ["conv"] and found[-1] == ["lm_head"]


def test_stacked_lstm_layers_follow_each_other(data: SpeechDataModule) -> None:
    model = build("crdnn", Recipe(preset="x", ada_round=True)).eval()
    batch = next(iter(data.loader(data.utterances("train")[:1])))
    found = [[item.name for item in site] for site in sites(model, batch)]
    assert [name for site in found for name in site if ".rnn." in name] == [
        "crdnn.RNN.rnn.l0",
        "crdnn.RNN.rnn.l1",
    ]
    assert all(len(site) == 1 for site in found)


def test_inputs_come_from_the_quantized_prefix_and_targets_from_the_float_model(
    data: SpeechDataModule,
) -> None:
    """The first layer sees the same on both sides (weights only), a later one does not."""
    model, reference = pair("wav2vec2", data, weight_bits=2, activation_bits=None)
    batches = list(data.loader(data.utterances("train")[:2]))
    found = sites(model, batches[0])
    with torch.no_grad():
        floats = FloatInputs(reference, found, batches, 0)
        first = collect(model, floats, found[0])[found[0][0].name]
        later = collect(model, floats, found[3])[found[3][0].name]
    assert float(first.split()[2].abs().max()) == 0.0
    assert float(later.split()[2].abs().max()) > 0.0


def test_inputs_of_the_float_model_are_the_same_kept_or_read_anew(
    kind: str, data: SpeechDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, reference = pair(kind, data, weight_bits=3)
    batches = list(data.loader(data.utterances("train")[:2]))
    found = sites(model, batches[0])
    with torch.no_grad():
        kept = FloatInputs(reference, found, batches, 0)
        monkeypatch.setattr("qat.methods.float_reference.CACHE_BYTES", 0)
        anew = FloatInputs(reference, found, batches, 0)
        assert kept.kept and not anew.kept
        for maps in found:
            one, two = collect(model, kept, maps), collect(model, anew, maps)
            for name, moments in one.items():
                assert moments.sums is not None and two[name].sums is not None
                assert torch.equal(moments.sums, two[name].sums)
            for item in maps:  # must not reach the float side
                item.correct_bias_(one[item.name])


class Killed(Exception):
    pass


@pytest.mark.parametrize("saves", [1, 4])
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(
    kind: str, saves: int, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between layers and inside one; the resumed run ends as one that was never interrupted."""
    expected = fit(adaround(tiny, tmp_path / "whole")).state_dict()
    save, count = AdaRound.save, 0

    def kill(self: AdaRound, trainer: Any) -> None:
        nonlocal count
        save(self, trainer)
        count += 1
        if count == saves:
            raise Killed

    monkeypatch.setattr(AdaRound, "save", kill)
    run = adaround(tiny, tmp_path / "killed")
    for callback in run.trainer.callbacks:
        if isinstance(callback, AdaRound):
            callback.save_every_s = 0.0  # at every look: also inside a layer
    with pytest.raises(Killed):
        fit(run)
    monkeypatch.setattr(AdaRound, "save", save)
    inside = read_checkpoint(tmp_path / "killed" / "last.ckpt")["callbacks"]["AdaRound"]["inside"]
    resumed = fit(adaround(tiny, tmp_path / "killed", "--ckpt_path", "last")).state_dict()
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[key], expected[key]) for key in expected)
    assert saves != 1 or inside  # the first kill hits the inside of the first layer


def test_the_checkpoint_rebuilds_the_rounding(kind: str, tiny: Path, tmp_path: Path) -> None:
    model = fit(adaround(tiny, tmp_path / "run", "--qat.weight_bits", "3")).eval()
    kept = tmp_path / "run" / "model.ckpt"
    save_module(model, kept)
    again = load_module(kept)
    signal, lengths = 0.1 * torch.randn(1, 16_000), torch.tensor([16_000])
    with torch.no_grad():
        assert torch.equal(model(signal, lengths)[0], again(signal, lengths)[0])
    assert again.reconstruction == model.reconstruction
    config = read_config(tmp_path / "run" / "config.yaml")
    names = {twin: [item.name for item in candidates_of(kept, config, twin)] for twin in (True, False)}
    assert names == {True: ["float", "ptq", "model"], False: ["float", "model"]}


def test_training_after_adaround_starts_from_its_rounding(kind: str, tiny: Path, tmp_path: Path) -> None:
    """`fine_tune` after AdaRound: nearest now gives its values, and few weights had to move for that."""
    plain = fit(adaround(tiny, tmp_path / "plain", "--qat.weight_bits", "3"))
    run = adaround(
        tiny, tmp_path / "tuned", "--qat.weight_bits", "3", "--qat.fine_tune", "true", "--trainer.max_steps", "1",
        "--model.learning_rate", "0.0", "--model.weight_decay", "0.0",
    )  # fmt: skip
    tuned = fit(run)
    for (_, one), (_, two) in zip(quant_layers(plain), quant_layers(tuned), strict=True):
        for (_, ours, rounded), (_, theirs, nearest) in zip(one.weights(), two.weights(), strict=True):
            assert not nearest.is_rounded
            moved = (ours != theirs).float().mean()
            assert 0 < float(moved) < 0.8
            assert bool(((ours - theirs).abs() <= 1.01 * nearest.scale.max()).all())
            torch.testing.assert_close(nearest.eval()(theirs), rounded(ours))


def test_a_run_killed_between_adaround_and_training_trains_its_weights(
    kind: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last checkpoint of AdaRound holds variables; training that starts from it needs weights."""
    flags = ["--qat.fine_tune", "true", "--trainer.max_steps", "2", "--trainer.num_sanity_val_steps", "0"]
    whole = fit(adaround(tiny, tmp_path / "whole", *flags)).state_dict()
    monkeypatch.setattr(
        "qat.callbacks.ada_round.move_weights_to_levels_", lambda model: (_ for _ in ()).throw(Killed())
    )
    with pytest.raises(Killed):
        fit(adaround(tiny, tmp_path / "killed", *flags))
    monkeypatch.undo()
    resumed = fit(adaround(tiny, tmp_path / "killed", *flags, "--ckpt_path", "last")).state_dict()
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_the_mean_error_counts_where_no_bias_can_take_it_out(kind: str, tiny: Path, tmp_path: Path) -> None:
    """The convolutions of a Wav2Vec2 have no bias: their rounding is chosen on plain, not on centred moments."""
    from qat.methods.reconstruction import LinearMap, Moments

    seen: dict[str, bool] = {}
    original = LinearMap.problem

    def spy(self: LinearMap, moments: Moments, centred: bool) -> Any:
        seen[self.name] = centred
        return original(self, moments, centred)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LinearMap, "problem", spy)
        model = fit(adaround(tiny, tmp_path / "run"))
    corrected = {item["layer"]: item["bias_corrected"] for item in model.reconstruction}
    assert seen == corrected and False in seen.values()  # the last layer, and those without bias


def alone(tiny: Path, folder: Path) -> tuple[CTCModule, CTCModule, set[str]]:
    """Bias correction of a model rounded to nearest; the model before it; names of what changed."""
    model = fit(adaround(tiny, folder, "--qat.ada_round", "false", "--qat.weight_bits", "3"))
    twin = load_module(folder / "ptq.ckpt")
    before = twin.state_dict()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    return model.eval(), twin.eval(), changed


def test_bias_correction_alone_changes_the_biases_it_reports(kind: str, tiny: Path, tmp_path: Path) -> None:
    model, _, changed = alone(tiny, tmp_path / "run")
    assert changed and {key.rpartition(".")[2].partition("_l")[0] for key in changed} <= {"bias", "bias_ih"}
    assert all(item["steps"] == 0 for item in model.reconstruction)
    corrected = {item["layer"] for item in model.reconstruction if item["bias_corrected"]}
    of_lstm = {
        f"{key.partition('.bias_ih_l')[0]}.l{key.rpartition('_l')[2][0]}" for key in changed if "_ih_" in key
    }
    assert corrected == of_lstm | {key.removesuffix(".bias") for key in changed if "_ih_" not in key}


def test_bias_correction_alone_brings_the_posteriors_nearer(
    kind: str, tiny: Path, tmp_path: Path, data: SpeechDataModule
) -> None:
    model, twin, _ = alone(tiny, tmp_path / "run")
    reference = copy.deepcopy(twin)
    reference.quantize(False)
    batches = list(data.loader(data.utterances("train")))[:3]
    with torch.no_grad():
        floats = FloatInputs(reference, sites(twin, batches[0]), batches, 0)
        assert divergence(model, floats) < divergence(twin, floats)


def test_a_bias_correction_that_does_not_help_is_undone(
    kind: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for user in ("ada_round", "bias_correction"):
        monkeypatch.setattr(f"qat.methods.{user}.divergence", lambda *_: 1.0)
    model, _, changed = alone(tiny, tmp_path / "run")
    assert not changed
    assert all(item["after"] == item["before"] for item in model.reconstruction)
    assert not any(item["bias_corrected"] for item in model.reconstruction)


def test_a_layer_too_wide_for_memory_is_named_and_left_to_nearest(
    kind: str,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("qat.methods.ada_round.MAX_BYTES", {"crdnn": 20_000, "wav2vec2": 30_000}[kind])
    with caplog.at_level("INFO"):
        model = fit(adaround(tiny, tmp_path / "run"))
    left = {line.split()[2].rstrip(",") for line in caplog.messages if line.startswith("not reconstructed: ")}
    assert left and model.reconstruction
    assert not left & {item["layer"] for item in model.reconstruction}
    for name, layer in quant_layers(model):
        for _, _, quantizer in () if ".rnn" in name else layer.weights():
            assert quantizer.is_rounded is not any(item.startswith(name) for item in left)
