"""Every quantized layer class, and what acts on all of them in a model."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import weight_norm as old_weight_norm
from torch.nn.utils.parametrizations import weight_norm

from qat.layer_recipe import LayerRecipe
from qat.layers.base import QuantLayer
from qat.layers.conv import QuantConv1d, QuantConv2d
from qat.layers.coverage import coverage
from qat.layers.fold import fold_batch_norm_
from qat.layers.linear import QuantLinear
from qat.layers.lstm import QuantLSTM
from qat.layers.masking import valid_lengths
from qat.layers.quantizer import StepKey
from qat.layers.state import (
    calibrate_weights_,
    finish_calibration_,
    load_float_state_,
    set_enabled_,
    set_observing_,
    state_hash,
)
from qat.layers.swap import quant_layers, quantizers, set_step_key_, swap_
from qat.layers.weight import WeightQuantizer
from qat.layers.weight_norm import remove_weight_norm_, strip_weight_norm
from qat.recipe import Recipe, Rule
from qat.system.errors import UserError

KINDS: dict[str, tuple[type[QuantLayer], Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (QuantLinear, lambda: nn.Linear(12, 6), (3, 7, 12)),
    "conv1d": (QuantConv1d, lambda: nn.Conv1d(6, 8, 3, padding=1), (3, 6, 20)),
    "grouped": (QuantConv1d, lambda: nn.Conv1d(6, 6, 4, groups=3, bias=False), (3, 6, 20)),
    "conv2d": (QuantConv2d, lambda: nn.Conv2d(2, 4, 3, stride=2), (2, 2, 9, 11)),
    "lstm": (QuantLSTM, lambda: nn.LSTM(5, 6, 2, batch_first=True, bidirectional=True), (3, 9, 5)),
}
kinds = pytest.mark.parametrize("layer_kind", KINDS)


class Host(nn.Module):
    """A model of one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.layer(x)
        return out[0] if isinstance(out, tuple) else out


def host(layer_kind: str) -> tuple[Host, torch.Tensor]:
    torch.manual_seed(0)
    _, build, shape = KINDS[layer_kind]
    return Host(build()).eval(), torch.randn(shape)


def recipe(bits: int = 8, **fields: object) -> Recipe:
    values = {"reduce_range": False, "weight_bits": bits, "activation_bits": bits, **fields}
    return Recipe(preset="test", **values)  # type: ignore[arg-type]


@torch.no_grad()
def calibrated(model: nn.Module, x: torch.Tensor) -> nn.Module:
    calibrate_weights_(model)
    set_observing_(model, True)
    model(x)
    set_observing_(model, False)
    finish_calibration_(model)
    return model


def enabled(layer_kind: str, bits: int = 8, **fields: object) -> tuple[Host, torch.Tensor]:
    model, x = host(layer_kind)
    swap_(model, recipe(bits, **fields))
    calibrated(model, x)
    set_enabled_(model, True)
    return model, x


@kinds
@torch.no_grad()
def test_fewer_bits_are_coarser_and_off_is_the_float_layer_bit_for_bit(layer_kind: str) -> None:
    model, x = host(layer_kind)
    expected, errors = model(x), []
    for bits in (2, 4, 8):
        quantized = copy.deepcopy(model)
        report = swap_(quantized, recipe(bits))
        assert report.swapped == ["layer"] and type(quantized.layer) is KINDS[layer_kind][0]
        assert torch.equal(quantized(x), expected)
        calibrated(quantized, x)
        assert torch.equal(quantized(x), expected)
        set_enabled_(quantized, True)
        errors.append(float((quantized(x) - expected).square().mean()))
        set_enabled_(quantized, False)
        assert torch.equal(quantized(x), expected)
        set_enabled_(quantized, True)
        quantized.layer = quantized.layer.to_float()
        assert type(quantized.layer) is type(model.layer)
        assert torch.equal(quantized(x), expected)
        assert quantized.state_dict().keys() == model.state_dict().keys()
    assert errors[0] > 3 * errors[1] > 9 * errors[2] > 0


@kinds
def test_swapping_shares_the_parameters_of_the_layer(layer_kind: str) -> None:
    model, _ = host(layer_kind)
    before = dict(model.named_parameters())
    swap_(model, recipe())
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)


@kinds
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@torch.no_grad()
def test_a_weight_takes_no_more_levels_than_its_bits_allow(
    layer_kind: str, bits: int, granularity: str
) -> None:
    model, _ = enabled(layer_kind, bits, weight_granularity=granularity)
    (_, layer), *_ = quant_layers(model)
    found = list(layer.weights())
    assert found
    for _, weight, quantizer in found:
        assert quantizer.scale.shape == (len(weight) if granularity == "channel" else 1,)
        rows = quantizer(weight).flatten(1) if granularity == "channel" else quantizer(weight).view(1, -1)
        assert max(len(row.unique()) for row in rows) <= 2**bits - (bits > 3)
        levels = quantizer(weight).flatten(1) / quantizer.scale.view(-1, 1)
        levels = levels - quantizer.level_offset
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
        top = 2 ** (bits - 1) - 1
        assert -top - (bits < 4) - 1e-4 <= float(levels.min()) and float(levels.max()) <= top + 1e-4


@kinds
def test_activations_take_no_more_levels_than_their_bits_allow(layer_kind: str) -> None:
    model, x = enabled(layer_kind, 3)
    (_, layer), *_ = quant_layers(model)
    assert len(layer.input_quantizer(x).unique()) <= 8


@kinds
def test_reduce_range_leaves_127_levels_at_8_bits(layer_kind: str) -> None:
    model, _ = enabled(layer_kind, 8, reduce_range=True, weight_observer="max")
    (_, layer), *_ = quant_layers(model)
    for _, weight, quantizer in layer.weights():
        levels = (quantizer(weight).detach().flatten(1) / quantizer.scale.view(-1, 1)).round()
        assert float(levels.abs().max()) == 63
        assert len(levels.unique()) <= 127
        assert (quantizer.quant_min, quantizer.quant_max) == (-63, 63)


@kinds
def test_disabled_equals_the_plain_model_after_optimiser_steps(layer_kind: str) -> None:
    plain, x = host(layer_kind)
    quantized = copy.deepcopy(plain)
    swap_(quantized, recipe(rounding="stochastic"))
    for model in (plain.train(), quantized.train()):
        optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(2):
            optimiser.zero_grad()
            model(x).square().sum().backward()
            optimiser.step()
    assert torch.equal(quantized(x), plain(x))
    for (name, ours), theirs in zip(quantized.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


@kinds
def test_gradient_reaches_every_parameter_while_enabled(layer_kind: str) -> None:
    model, x = enabled(layer_kind, 4, weight_observer="max")
    model.train()
    model(x).square().sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and bool((weight.grad != 0).any()), name


@kinds
@pytest.mark.parametrize("learn_scale", [False, True])
def test_state_keys_and_shapes_are_final_from_construction(layer_kind: str, learn_scale: bool) -> None:
    model, x = host(layer_kind)
    swap_(model, recipe(4, learn_scale=learn_scale))
    before = {key: (value.shape, value.dtype) for key, value in model.state_dict().items()}
    calibrated(model, x)
    set_enabled_(model, True)
    model.train()(x)
    assert {key: (value.shape, value.dtype) for key, value in model.state_dict().items()} == before


@kinds
@torch.no_grad()
def test_a_state_dict_carries_ranges_and_the_switch(layer_kind: str) -> None:
    model, x = enabled(layer_kind, 4)
    other, _ = host(layer_kind)
    swap_(other, recipe(4))
    assert not any(quantizer.is_enabled for _, quantizer in quantizers(other))
    other.load_state_dict(model.state_dict())
    assert all(quantizer.is_enabled for _, quantizer in quantizers(other))
    assert torch.equal(other(x), model(x)) and state_hash(other) == state_hash(model)
    set_enabled_(model, False)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))


@kinds
def test_copies_and_pickles_compute_the_same_and_stand_alone(layer_kind: str) -> None:
    model, x = enabled(layer_kind, 4)
    expected = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), expected)
        keys = {id(quantizer.noise.key) for _, quantizer in quantizers(other)}
        assert len(keys) == 1 and keys.isdisjoint({id(q.noise.key) for _, q in quantizers(model)})
        with torch.no_grad():
            for weight in other.parameters():
                weight.mul_(0.5)
        assert not torch.equal(other(x), expected)
        assert torch.equal(model(x), expected)


@kinds
@torch.no_grad()
def test_stochastic_training_is_keyed_by_step_and_evaluation_repeats(layer_kind: str) -> None:
    model, x = enabled(layer_kind, 4, rounding="stochastic", weight_observer="max")
    nearest, _ = enabled(layer_kind, 4, weight_observer="max")
    key = StepKey(seed=3)
    set_step_key_(model, key)
    model.train()
    first = model(x)
    assert torch.equal(model(x), first)
    for change in ("step", "seed"):
        setattr(key, change, 17)
        assert not torch.equal(model(x), first), change
        assert torch.equal(model.eval()(x), nearest.eval()(x))
        model.train()
    key.step, key.seed = 0, 3
    assert torch.equal(model(x), first)


@kinds
def test_weights_leave_the_rank_out_of_their_noise_and_activations_do_not(layer_kind: str) -> None:
    model, x = enabled(layer_kind, 4, rounding="stochastic", weight_observer="max")
    key = StepKey()
    set_step_key_(model, key)
    (_, layer), *_ = quant_layers(model.train())
    weights = [quantizer(weight) for _, weight, quantizer in layer.weights()]
    inputs = layer.input_quantizer(x)
    key.rank = 1
    for before, (_, weight, quantizer) in zip(weights, layer.weights(), strict=True):
        assert torch.equal(quantizer(weight), before)
    assert not torch.equal(layer.input_quantizer(x), inputs)


def test_quantizers_of_a_model_draw_different_noise() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    model[1].load_state_dict(model[0].state_dict())
    swap_(model, recipe(4, rounding="stochastic", weight_observer="max", activation_bits=0))
    calibrate_weights_(model)
    set_enabled_(model.train(), True)
    a, b = (layer.weight_quantizer(layer.weight) for layer in model)
    assert not torch.equal(a, b)


def test_quant_noise_quantizes_its_share_in_training_and_all_in_evaluation() -> None:
    model, _ = enabled("linear", 2, quant_noise=0.25, weight_observer="max")
    big = nn.Sequential(nn.Linear(200, 100))
    swap_(big, recipe(2, quant_noise=0.25, activation_bits=0, weight_observer="max"))
    calibrate_weights_(big)
    set_enabled_(big, True)
    layer = big[0]
    kept = (layer.train().weight_quantizer(layer.weight) == layer.weight).float().mean()
    assert abs(float(kept) - 0.75) < 0.02
    assert (layer.eval().weight_quantizer(layer.weight) == layer.weight).float().mean() < 0.02
    assert model.layer.eval().weight_quantizer(model.layer.weight).unique().numel() <= 4 * 6


def test_max_scales_follow_the_weights_in_training_and_others_stay() -> None:
    for observer, moves in (("max", True), ("mse", False)):
        model, x = enabled("linear", 8, weight_observer=observer)
        before = model.layer.weight_quantizer.scale.clone()
        with torch.no_grad():
            model.layer.weight.mul_(2)
        model.train()(x)
        expected = 2 * before if moves else before
        torch.testing.assert_close(model.layer.weight_quantizer.scale, expected, rtol=1e-6, atol=0)


def test_sides_without_bits_stay_float() -> None:
    for bits in ({"weight_bits": 0}, {"activation_bits": 0}):
        model, x = enabled("conv1d", 8, **bits)
        assert isinstance(model.layer.weight_quantizer, nn.Identity) is ("weight_bits" in bits)
        assert isinstance(model.layer.input_quantizer, nn.Identity) is ("activation_bits" in bits)
        assert isinstance(model.layer.output_quantizer, nn.Identity) is ("activation_bits" in bits)
        assert not torch.equal(model(x), Host(model.layer.to_float())(x))


class Zoo(nn.Module):
    """Layers of many kinds, of which not all can be quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)
        self.up = nn.ConvTranspose1d(4, 4, 3)
        self.gru = nn.GRU(4, 4)
        self.projected = nn.LSTM(4, 4, proj_size=2)
        self.head = nn.Linear(4, 4)
        self.shared = self.conv
        self.norm = nn.LayerNorm(4)


def test_the_report_names_the_layers_left_out_with_reasons() -> None:
    model = Zoo()
    report = swap_(model, recipe(rules=[Rule("head", quantize=False)]))
    assert report.swapped == ["conv"]
    assert dict(report.skipped) == {
        "up": "no quantized ConvTranspose1d",
        "gru": "no quantized GRU",
        "projected": "no quantized LSTM with a projection",
        "head": "excluded by the recipe",
    }
    assert "`head`: excluded by the recipe" in str(report)
    assert model.shared is model.conv and isinstance(model.conv, QuantConv1d)
    assert type(model.head) is nn.Linear
    again = swap_(model, recipe())
    assert again.swapped == ["head"] and ("conv", "is quantized already") in again.skipped
    assert coverage(model)["skipped"] == ["up", "gru", "projected"]


def test_groups_reach_swap_and_a_rule_for_nothing_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with pytest.raises(UserError, match="'cnn' matches no layer"):
        swap_(model, recipe(rules=[Rule("cnn")]))
    assert type(model[0]) is nn.Linear
    swap_(model, recipe(rules=[Rule("last", weight_bits=4)]), {"last": ["1"]})
    assert [layer.layer_recipe.weight_bits for layer in model] == [8, 4]


def test_the_off_recipe_swaps_nothing() -> None:
    model, _ = host("linear")
    assert swap_(model, Recipe()).skipped == [("layer", "the recipe is off")]
    assert type(model.layer) is nn.Linear


def test_float_weights_that_do_not_fit_are_refused_by_key() -> None:
    model, x = host("conv1d")
    state = {key: value.clone() + 1 for key, value in model.state_dict().items()}
    swap_(model, recipe())
    load_float_state_(model, state)
    assert torch.equal(model.layer.weight, state["layer.weight"])
    with pytest.raises(UserError, match="'layer.bias' is missing"):
        load_float_state_(model, {"layer.weight": state["layer.weight"]})
    with pytest.raises(UserError, match="'layer.extra' is not in the model"):
        load_float_state_(model, {**state, "layer.extra": torch.ones(1)})
    with pytest.raises(UserError, match=r"'layer.weight' has shape \(1,\).*\(8, 6, 3\)"):
        load_float_state_(model, {**state, "layer.weight": torch.ones(1)})
    assert torch.equal(model.layer.weight, state["layer.weight"])


@pytest.mark.parametrize("style", ["parametrization", "hook"])
@pytest.mark.parametrize("dim", [0, 2])
def test_removing_weight_norm_changes_nothing(style: str, dim: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(6, 6, 5, groups=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = Host((weight_norm if style == "parametrization" else old_weight_norm)(conv, dim=dim))
    x = torch.randn(2, 6, 20)
    for factor in model.parameters():
        factor.data.mul_(1.7)
    expected, state = model(x), {key: value.clone() for key, value in model.state_dict().items()}
    plain = strip_weight_norm(state)
    assert remove_weight_norm_(model) == ["layer"]
    assert torch.equal(model(x), expected)
    assert plain.keys() == model.state_dict().keys()
    assert torch.equal(plain["layer.weight"], model.layer.weight)
    assert type(model.layer) is nn.Conv1d and swap_(model, recipe()).swapped == ["layer"]
    nn.init.zeros_(model.layer.weight)
    load_float_state_(model, state)
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("layer_kind,time", [("linear", 1), ("conv1d", 2), ("conv2d", 3)])
@pytest.mark.parametrize("observer", ["max", "mse"])
def test_padding_is_left_out_of_activation_ranges(layer_kind: str, time: int, observer: str) -> None:
    model, x = host(layer_kind)
    swap_(model, recipe(activation_observer=observer))
    quantizer, frames = model.layer.input_quantizer, x.shape[time]
    lengths = torch.tensor([1000, 400, 700][: len(x)])
    counts = [-(-frames * length // 1000) for length in lengths.tolist()]
    for row, count in zip(x, counts, strict=True):
        row.narrow(time - 1, count, frames - count).fill_(99.0)
    set_observing_(model, True)
    with torch.no_grad(), valid_lengths(lengths, 1000):
        model(x)
    quantizer.finish_calibration_("padded")
    padded = (quantizer.scale.clone(), quantizer.zero_point.clone())
    assert float(quantizer.observer.maximum) < 10
    quantizer.observer.histogram.clear_()
    with torch.no_grad():
        for row, count in zip(x, counts, strict=True):
            model(row.narrow(time - 1, 0, count)[None])
    quantizer.finish_calibration_("unpadded")
    assert torch.equal(quantizer.scale, padded[0]) and torch.equal(quantizer.zero_point, padded[1])


def test_a_quantizer_that_saw_nothing_or_nan_is_named() -> None:
    model, x = host("linear")
    model.unused = nn.Linear(2, 2)
    swap_(model, recipe())
    with pytest.raises(UserError, match="unused.input_quantizer: saw no value"):
        calibrated(model, x)
    with pytest.raises(UserError, match="is not calibrated yet"):
        set_enabled_(model, True)
    assert not any(quantizer.is_enabled for _, quantizer in quantizers(model))
    model, x = host("linear")
    swap_(model, recipe())
    with pytest.raises(UserError, match="layer.input_quantizer: saw NaN or infinite"):
        calibrated(model, x * torch.nan)
    with torch.no_grad():
        model.layer.weight[0, 0] = torch.inf
    with pytest.raises(UserError, match="layer.weight: the weight holds NaN or infinite"):
        calibrate_weights_(model)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("layer_kind", ["linear", "conv1d"])
@torch.no_grad()
def test_folding_a_norm_keeps_the_function(
    layer_kind: str, bias: bool, affine: bool, quantized: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(5, 7, bias=bias) if layer_kind == "linear" else nn.Conv1d(5, 7, 3, bias=bias)
    norm, x = (
        nn.BatchNorm1d(7, affine=affine),
        torch.randn(4, 5) if layer_kind == "linear" else torch.randn(4, 5, 9),
    )
    for values in (norm.running_mean, *norm.parameters()):
        values.normal_()
    norm.running_var.uniform_(0.1, 3)
    model = nn.Sequential(layer, norm).double().eval()
    expected = model(x.double())
    if quantized:
        swap_(model, recipe())
    fold_batch_norm_(model[0], model[1])
    torch.testing.assert_close(model[0](x.double()), expected, atol=1e-12, rtol=1e-12)


def test_folding_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be folded into a LSTM"):
        fold_batch_norm_(nn.LSTM(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(UserError, match="no running statistics"):
        fold_batch_norm_(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    with pytest.raises(UserError, match="3 channels does not fit 2 outputs"):
        fold_batch_norm_(nn.Linear(2, 2), nn.BatchNorm1d(3))


@pytest.mark.parametrize(
    ("bits", "mid_rise", "least"),
    [(2, False, 0.1902), (2, True, 0.1188), (3, True, 0.03744)],
)
def test_noise_on_gaussian_weights_is_that_of_the_best_uniform_quantizer(
    bits: int, mid_rise: bool, least: float
) -> None:
    """Max 1960, "Quantizing for minimum distortion", table II: 3, 4 and 8 levels."""
    layer_recipe = LayerRecipe(weight_bits=bits, mid_rise=mid_rise, weight_granularity="tensor")
    weight = torch.randn(200_000, generator=torch.Generator().manual_seed(0)).view(1, -1)
    quantizer = WeightQuantizer(weight, layer_recipe).eval()
    quantizer.calibrate_(weight, "w")
    quantizer.set_enabled_(True)
    found = quantizer(weight)
    assert len(found.unique()) == 2**bits - (not mid_rise)
    assert float((found - weight).square().mean()) == pytest.approx(least, rel=0.01)
    torch.testing.assert_close(found.unique(), -found.unique().flip(0))


def test_a_learned_scale_gets_the_gradient_of_lsq_between_whole_steps_as_well() -> None:
    """(level - w / s) inside, the level outside, times 1 / sqrt(numel quant_max); the levels are -1.5 ... 1.5."""
    weight = torch.tensor([[0.2, 0.9, -0.4, 5.0, -5.0]], requires_grad=True)
    quantizer = WeightQuantizer(weight, LayerRecipe(weight_bits=2, learn_scale=True)).train()
    quantizer.set_scale_(torch.tensor([0.5]))
    quantizer.set_enabled_(True)
    out = quantizer(weight)
    levels = torch.tensor([[0.5, 1.5, -0.5, 1.5, -1.5]])
    torch.testing.assert_close(out, 0.5 * levels)
    out.sum().backward()
    inside = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]])
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, inside)
    expected = (levels - inside * weight.detach() / 0.5).sum() / (5 * quantizer.quant_max) ** 0.5
    torch.testing.assert_close(quantizer.scale.grad, expected.view(1))


@torch.no_grad()
def test_a_dead_channel_between_whole_steps_still_has_a_bias() -> None:
    layer = nn.Linear(6, 2)
    layer.weight[0] = 0.0
    model = Host(layer).eval()
    swap_(model, recipe(2, activation_bits=8))
    x = torch.randn(3, 6)
    calibrated(model, x)
    set_enabled_(model, True)
    out = model(x)
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out[:, 0], layer.bias[0].expand(3), atol=0.02, rtol=0)
