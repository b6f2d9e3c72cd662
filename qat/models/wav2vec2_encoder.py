"""What every Wav2Vec2 shares: the waveform's normalisation and Hugging Face's encoder, with padding masked."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

from qat.layers.attention import quantize_attention_
from qat.layers.base import QuantLayer
from qat.layers.equalize import ScalePair
from qat.layers.masked_norm import MaskedGroupNorm, mask_group_norms_
from qat.layers.masking import at_least_shortest, frame_mask, to_device_of, valid_lengths
from qat.layers.weight_norm import remove_weight_norm_
from qat.models.ctc import CTCModule
from qat.models.wav2vec2_pairs import encoder_pairs, extractor_pairs
from qat.rule import Rule
from qat.system.errors import UserError

GELU_FLOOR = -3.0  # |gelu(x)| <= 0.0041 below: a range that reaches further down wastes levels


class Wav2Vec2Encoder(CTCModule):
    """A `transformers.Wav2Vec2Model` and a head that subclasses bring.

    The forward path reuses the submodules of the Hugging Face model but masks padding everywhere, the first
    layer's GroupNorm included, so that the output for an utterance is the same alone and in a batch.

    Attributes:
        waveform_eps: added to the variance of an utterance before its root divides the waveform.
    """

    readers = (("q_proj", "k_proj", "v_proj"),)
    compiled_functions = ("masked_layer",)
    waveform_eps = 1e-7
    options: Any

    @property
    @abstractmethod
    def backbone(self) -> Any:
        """The `Wav2Vec2Model`."""

    @abstractmethod
    def emit(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """The head: states `(B, T, H)` with `frames (B,)` valid -> logits `(B, T, V)`."""

    def prepare_backbone_(self, freeze_feature_encoder: bool) -> None:
        """What a float model needs before its weights are loaded and its layers swapped."""
        remove_weight_norm_(self.backbone)
        mask_group_norms_(self.backbone.feature_extractor)
        if hasattr(self.backbone, "masked_spec_embed"):  # without masking it would stay without gradient
            self.backbone.masked_spec_embed.requires_grad_(self.masks_time)
        if freeze_feature_encoder:
            self.backbone.feature_extractor._freeze_parameters()

    def finish_build(self) -> None:
        """See `RecipeModule`; quantized convolutions are told what reads their outputs."""
        super().finish_build()
        for conv in self.convolutions_before_gelu():
            if isinstance(conv, QuantLayer):
                conv.ignore_output_below_(GELU_FLOOR)
        for layer in self.backbone.feature_extractor.modules():
            if isinstance(layer, QuantLayer):
                layer.relative_error = True  # linear in the waveform's loudness up to a LayerNorm

    def quantize_attention_(self) -> None:
        """See `RecipeModule`."""
        recipe = self.recipe
        hindrance = ""
        if recipe.target != "onnxruntime":
            hindrance = f"qat.target {recipe.target}; it needs onnxruntime"
        elif recipe.activation_granularity == "dynamic":
            hindrance = "qat.activation_granularity dynamic; it needs tensor or frame"
        if hindrance:
            raise UserError(f"qat.attention_bits: {recipe.attention_bits}, must be 0 with {hindrance}")
        of_products = recipe.of_rule(Rule("*", activation_bits=recipe.attention_bits))
        assert not isinstance(of_products, str)
        quantize_attention_(self.backbone, of_products)

    def convolutions_before_gelu(self) -> Iterator[nn.Module]:
        """Convolutions whose output goes through GELU and nowhere else."""
        if self.backbone.config.feat_extract_activation != "gelu":
            return
        for layer in cast(nn.ModuleList, self.backbone.feature_extractor.conv_layers):
            if getattr(layer, "layer_norm", None) is None:
                yield cast(nn.Module, layer.conv)
        yield self.backbone.encoder.pos_conv_embed.conv

    @property
    def masks_time(self) -> bool:
        """Whether training masks spans of frames (SpecAugment as the Hugging Face configuration asks for it)."""
        config = self.backbone.config
        return bool(config.apply_spec_augment and config.mask_time_prob > 0)

    @property
    def blank(self) -> int:
        """Index of the CTC blank."""
        return self.vocabulary.index(self.options.blank_token)

    @property
    def frame_samples(self) -> int:
        """See `CTCModule`: the product of the convolutions' strides."""
        return math.prod(self.backbone.config.conv_stride)

    def emitted_frames(self, samples: int) -> int:
        """See `CTCModule`: what the convolutions leave, at least one."""
        config = self.backbone.config
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            samples = max(1, (samples - kernel) // stride + 1)
        return samples

    def features(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveform `(B, S)`, normalised per utterance over valid samples; padding is zero.

        In float64, so that the order in which PyTorch and ONNX Runtime add leaves no trace in the float32 result.
        """
        signal = at_least_shortest(signal)
        mask = frame_mask(lengths, signal)
        signal = signal.float().masked_fill(~mask, 0.0)
        if not self.options.do_normalize:
            return signal, lengths
        signal, count = signal.double(), to_device_of(signal, lengths).double().unsqueeze(1)
        mean = signal.sum(1, keepdim=True) / count
        centred = (signal - mean) * mask
        variance = centred.square().sum(1, keepdim=True) / count
        return (centred / (variance + self.waveform_eps).sqrt()).float(), lengths

    def encode(self, inputs: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Waveform `(B, S)`, valid samples `(B,)` -> (logits `(B, T, V)`, valid frames `(B,)`)."""
        with valid_lengths(frames, inputs.shape[1]):
            hidden, frames = self.extract(inputs, frames)
            hidden = self.backbone.feature_projection(hidden.transpose(1, 2))[0]
            return self.emit(self.transform(hidden, frames), frames), frames

    def extract(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Convolutional feature extractor: `(B, S)` -> (features `(B, C, T)`, valid frames `(B,)`)."""
        hidden = signal.unsqueeze(1)
        layers: Any = self.backbone.feature_extractor.conv_layers
        for layer in layers:
            kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
            lengths = (lengths - kernel).clamp(min=0) // stride + 1
            if isinstance(getattr(layer, "layer_norm", None), MaskedGroupNorm):
                hidden = self.masked_layer(layer, hidden, to_device_of(hidden, lengths))
            else:
                hidden = layer(hidden)
        return hidden, lengths

    @staticmethod
    def masked_layer(layer: Any, hidden: Tensor, frames: Tensor) -> Tensor:
        """The first layer of a feature extractor with GroupNorm: `(B, C, T)` -> `(B, C', T')`, `frames (B,)` valid."""
        return layer.activation(layer.layer_norm(layer.conv(hidden), frames))

    def head_pairs(self) -> tuple[Sequence[str], str, Iterator[ScalePair]]:
        """Which layers read the encoder's output, why it cannot be scaled (or empty), and the pairs within the head."""
        raise NotImplementedError

    def scale_pairs(self) -> Iterator[ScalePair]:
        """See `RecipeModule`."""
        name = next(name for name, module in self.named_modules() if module is self.backbone)
        readers, reason, further = self.head_pairs()
        yield from extractor_pairs(self.backbone, name)
        yield from encoder_pairs(self.backbone, name, readers, reason)
        yield from further

    def compiled_parts(self) -> Iterator[nn.Module]:
        """The first convolution, the projection after the last, and the transformer's layers."""
        model = self.backbone
        yield from (model.feature_extractor.conv_layers[0], model.feature_projection, *model.encoder.layers)

    def transform(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """Transformer encoder on `(B, T, H)` with `frames (B,)` valid."""
        encoder = self.backbone.encoder
        config = self.backbone.config
        mask = frame_mask(frames, hidden)
        if self.training and config.apply_spec_augment and hidden.shape[1] >= config.mask_time_length:
            hidden = spec_augment(self.backbone, hidden, frames)
        hidden = hidden.masked_fill(~mask.unsqueeze(-1), 0.0)
        hidden = hidden + encoder.pos_conv_embed(hidden)
        stable = config.do_stable_layer_norm
        hidden = encoder.dropout(hidden if stable else encoder.layer_norm(hidden))
        bias = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, torch.finfo(hidden.dtype).min)
        bias = bias[:, None, None, :]
        for layer in encoder.layers:
            if self.training and config.layerdrop > 0 and torch.rand([], device="cpu") < config.layerdrop:
                continue
            hidden = layer(hidden, attention_mask=bias)
        return encoder.layer_norm(hidden) if stable else hidden


def spec_augment(model: Any, hidden: Tensor, frames: Tensor) -> Tensor:
    """SpecAugment (arXiv 1904.08779) as `Wav2Vec2Model` does it, in training; nothing is read back from a GPU.

    Args:
        model: its configuration says how much is masked.
        hidden: `(B, T, H)`.
        frames: valid frames `(B,)`.
    """
    config, (rows, total, width) = model.config, hidden.shape
    hidden = hidden.clone()
    if config.mask_time_prob > 0:
        spans = _compute_mask_indices(
            (rows, total),
            mask_prob=config.mask_time_prob,
            mask_length=config.mask_time_length,
            attention_mask=cast(Any, torch.arange(total, device="cpu") < frames.cpu()[:, None]),
            min_masks=config.mask_time_min_masks,
        )
        places = (to_device_of(hidden, torch.tensor(axis, device="cpu")) for axis in spans.nonzero())
        hidden[tuple(places)] = model.masked_spec_embed.to(hidden.dtype)
    if config.mask_feature_prob > 0:
        bands = _compute_mask_indices(
            (rows, width),
            mask_prob=config.mask_feature_prob,
            mask_length=config.mask_feature_length,
            min_masks=config.mask_feature_min_masks,
        )
        hidden = hidden.masked_fill(to_device_of(hidden, torch.tensor(bands, device="cpu"))[:, None], 0.0)
    return hidden
