"""Pure tensor mathematics of quantization: no modules, nothing of ours imported."""

from qat.numerics.affine import SCALE_FLOOR, dequantize, fake_quantize, quantize
from qat.numerics.folding import fold_batch_norm
from qat.numerics.histogram import BINS, Histogram
from qat.numerics.ranges import affine_range, histogram_range, symmetric_range, weight_magnitude
from qat.numerics.rounding import noise_bits, round_nearest, round_stochastic, uniform_noise

__all__ = [
    "BINS",
    "SCALE_FLOOR",
    "Histogram",
    "affine_range",
    "dequantize",
    "fake_quantize",
    "fold_batch_norm",
    "histogram_range",
    "noise_bits",
    "quantize",
    "round_nearest",
    "round_stochastic",
    "symmetric_range",
    "uniform_noise",
    "weight_magnitude",
]
