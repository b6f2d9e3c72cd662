"""The recipe of one layer, resolved: its bits, levels, observers and rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rounding = Literal["nearest", "stochastic"]
Observer = Literal["max", "mse", "percentile", "entropy"]
Granularity = Literal["channel", "tensor"]
ActivationGranularity = Literal["tensor", "frame", "dynamic"]
FourBitLinear = Literal["auto", "matmul_nbits", "integer"]
Target = Literal["onnxruntime", "openvino", "tensorrt"]

MID_RISE_BITS = (
    3  # above, zero as a level is worth more than one level more; 4-bit kernels have no half steps
)


@dataclass(frozen=True)
class LayerFields:
    """What a whole model's recipe says to each layer, and a layer's own recipe holds.

    Args:
        weight_bits: 2 to 8; null or 0 keeps weights float.
        activation_bits: 2 to 8; null or 0 keeps activations float.
        attention_bits: 2 to 8: both products of self-attention run on integers (Wav2Vec2): queries, keys and values on
            ranges from calibration, each row of the probabilities on levels up to its largest; null or 0: in float.
        rounding: nearest, or stochastic (weights and activations, in training only; evaluation rounds to nearest).
        weight_observer: how weight ranges are chosen; `max` follows the weights through training.
        activation_observer: how activation ranges are chosen from the calibration histogram.
        percentile: share of values inside the range of the percentile observer, in (50, 100].
        weight_granularity: one weight scale per output channel, or one per tensor.
        activation_granularity: one activation range for the whole tensor, from calibration; or one for each frame (of a
            convolution: each window), taken when it is computed: for linear layers and convolutions along time whose
            frames differ in loudness and are normalised later. dynamic calibrates nothing: frame where a layer can
            have it, LSTMs as their kernel does, and float activations in convolutions in 2D, of groups or of the
            waveform.
        activation_signed: symmetric signed activations in place of unsigned ones with a zero point.
        target: the runtime whose arithmetic is trained. onnxruntime: LSTMs on integers, ranges per frame, all kernels.
            openvino: LSTMs on float activations, as a file of standard operators has them (--export.format qdq).
            tensorrt: that, and 8-bit activations signed with a zero point of 0, those that convolutions write as well.
        mid_rise: levels of 2 and 3-bit weights lie half a step beside zero, so that all 4 or 8 of them are used (a
            third, a fifth less noise at 2, 3 bits); false: 3 or 7 levels, one of them zero.
        four_bit_linear: kernel of linear layers with 4-bit weights and 8-bit activations. matmul_nbits keeps the
            weights at 4 bits in memory too and quantizes activations on the fly, in blocks; integer unpacks them when
            the file is loaded and computes as at 8 bits. auto: train.py times both and takes the faster one; where
            nothing was timed, integer.
        learn_scale: train the scales as well (LSQ, arXiv 1902.08153).
        quant_noise: share of weights quantized at each training step, the others stay float, in [0, 1]; 0 is off:
            all are quantized (Fan 2020, arXiv 2004.07320). Evaluation quantizes all.
        ada_round: choose each weight's rounding by the error at its layer's output (AdaRound, arXiv 2004.10568).
    """

    weight_bits: int | None = 8
    activation_bits: int | None = 8
    attention_bits: int | None = None
    rounding: Rounding = "nearest"
    weight_observer: Observer = "mse"
    activation_observer: Observer = "mse"
    percentile: float = 99.99
    weight_granularity: Granularity = "channel"
    activation_granularity: ActivationGranularity = "tensor"
    activation_signed: bool = False
    target: Target = "onnxruntime"
    mid_rise: bool = True
    four_bit_linear: FourBitLinear = "auto"
    learn_scale: bool = False
    quant_noise: float = 0.0
    ada_round: bool = False


@dataclass(frozen=True)
class LayerRecipe(LayerFields):
    """The resolved recipe of one layer; bits of None keep that side float.

    Args:
        reduce_range: 7-bit weight range at 8 bits.
    """

    reduce_range: bool = False

    @property
    def by_frame(self) -> bool:
        """Whether each frame of the input has a range of its own."""
        return bool(self.activation_bits) and self.activation_granularity == "frame"

    @property
    def packs_linear(self) -> bool:
        """Whether a linear layer runs on 4-bit weights as they are stored, its activations in blocks."""
        bits, one_range = (self.weight_bits, self.activation_bits), self.activation_granularity == "tensor"
        return (
            bits == (4, 8)
            and self.four_bit_linear == "matmul_nbits"
            and one_range
            and not self.activation_signed
        )

    @property
    def weight_quant_max(self) -> int:
        """Largest weight level: 2^(b-1) - 1; 63 at 8 bits with a reduced range."""
        bits = self.weight_bits or 8
        return 63 if bits == 8 and self.reduce_range else 2 ** (bits - 1) - 1

    @property
    def weight_quant_min(self) -> int:
        """Smallest weight level; symmetric: -2^(b-1) is used only where levels lie between the whole steps."""
        return -self.weight_quant_max - (1 if self.weight_offset else 0)

    @property
    def weight_offset(self) -> float:
        """Steps that the weight levels lie above the whole ones: a half (mid-rise, at 2 and 3 bits) or none."""
        return 0.5 if self.mid_rise and (self.weight_bits or 8) <= MID_RISE_BITS else 0.0

    @property
    def activation_quant_min(self) -> int:
        """Smallest activation level: 0, or -(2^(b-1) - 1) when signed; TensorRT clips at -2^(b-1)."""
        below = 1 if self.target == "tensorrt" else 0
        return -self.activation_quant_max - below if self.activation_signed else 0

    @property
    def activation_quant_max(self) -> int:
        """Largest activation level: 2^b - 1, or 2^(b-1) - 1 when signed."""
        bits = self.activation_bits or 8
        return 2 ** (bits - 1) - 1 if self.activation_signed else 2**bits - 1
