"""Quantized layers, and what acts on all of them in a model."""

from qat.layers.base import QuantLayer
from qat.layers.conv import QuantConv1d, QuantConv2d
from qat.layers.coverage import count_macs, coverage, side_in_float
from qat.layers.fold import fold_batch_norm_
from qat.layers.integer import bias_levels, weight_levels
from qat.layers.linear import QuantLinear
from qat.layers.lstm import QuantLSTM
from qat.layers.masking import frame_mask, valid_lengths
from qat.layers.observer import Observer
from qat.layers.quantizer import Quantizer, StepKey
from qat.layers.ragged_lstm import packed_lstm
from qat.layers.reconstruction import LinearMap, Moments, linear_maps
from qat.layers.recording import execution_order, record_inputs
from qat.layers.state import (
    calibrate_weights_,
    finish_calibration_,
    harden_,
    load_float_state_,
    set_enabled_,
    set_observing_,
    state_hash,
)
from qat.layers.swap import QUANT_LAYERS, SwapReport, quant_layers, quantizers, set_step_key_, swap_
from qat.layers.weight_norm import remove_weight_norm_, strip_weight_norm

__all__ = [
    "QUANT_LAYERS",
    "LinearMap",
    "Moments",
    "Observer",
    "QuantConv1d",
    "QuantConv2d",
    "QuantLSTM",
    "QuantLayer",
    "QuantLinear",
    "Quantizer",
    "StepKey",
    "SwapReport",
    "bias_levels",
    "calibrate_weights_",
    "count_macs",
    "coverage",
    "execution_order",
    "finish_calibration_",
    "fold_batch_norm_",
    "frame_mask",
    "harden_",
    "linear_maps",
    "load_float_state_",
    "packed_lstm",
    "quant_layers",
    "quantizers",
    "record_inputs",
    "remove_weight_norm_",
    "set_enabled_",
    "set_observing_",
    "set_step_key_",
    "side_in_float",
    "state_hash",
    "strip_weight_norm",
    "swap_",
    "valid_lengths",
    "weight_levels",
]
