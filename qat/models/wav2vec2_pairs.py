"""Which channels of a Wav2Vec2 can be scaled between two layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from qat.layers.equalize import ScalePair

NOT_HOMOGENEOUS = "{} stands between them, which no factor passes"
RESIDUAL = "the residual reads the norm as well (post-norm encoder)"
DROPPED = "training may drop the last layer (layerdrop), and the head reads what is before it"


def extractor_pairs(backbone: Any, name: str) -> Iterator[ScalePair]:
    """Convolutions -> the next one: all through an activation; then the LayerNorm of the features -> projection."""
    place, activation = f"{name}.feature_extractor.conv_layers", backbone.config.feat_extract_activation
    layers = backbone.feature_extractor.conv_layers
    for index in range(len(layers) - 1):
        norm = getattr(layers[index], "layer_norm", None)
        producer = f"{place}.{index}.conv" if norm is None else f"{place}.{index}.layer_norm"
        reason = "" if activation == "relu" else NOT_HOMOGENEOUS.format(activation.upper())
        yield ScalePair(producer, (f"{place}.{index + 1}.conv",), reason=reason)
    projection = f"{name}.feature_projection"
    yield ScalePair(f"{projection}.layer_norm", (f"{projection}.projection",))


def encoder_pairs(backbone: Any, name: str, readers: Sequence[str], reason: str = "") -> Iterator[ScalePair]:
    """LayerNorms -> what reads them, values -> output of the attention, both layers of each feed-forward.

    Args:
        backbone: `Wav2Vec2Model`.
        name: of it in the model.
        readers: names of the layers that read its output.
        reason: why their input cannot be scaled; empty where it can.
    """
    config, layers = backbone.config, backbone.encoder.layers
    stable = config.do_stable_layer_norm
    activation = config.hidden_act
    feed_forward_reason = "" if activation == "relu" else NOT_HOMOGENEOUS.format(str(activation).upper())
    for index in range(len(layers)):
        place = f"{name}.encoder.layers.{index}"
        attention, dense = f"{place}.attention", f"{place}.feed_forward.intermediate_dense"
        projections = tuple(f"{attention}.{kind}_proj" for kind in "qkv")
        before, between = ("layer_norm", "final_layer_norm") if stable else (None, "layer_norm")
        if before:
            yield ScalePair(f"{place}.{before}", projections)
        else:
            norm = (
                f"{name}.encoder.layers.{index - 1}.final_layer_norm"
                if index
                else f"{name}.encoder.layer_norm"
            )
            yield ScalePair(norm, projections, reason=RESIDUAL)
        yield ScalePair(f"{attention}.v_proj", (f"{attention}.out_proj",))
        yield ScalePair(f"{place}.{between}", (dense,), reason="" if stable else RESIDUAL)
        yield ScalePair(dense, (f"{place}.feed_forward.output_dense",), reason=feed_forward_reason)
    if stable:
        yield ScalePair(f"{name}.encoder.layer_norm", tuple(readers), reason=reason)
    else:
        last = f"{name}.encoder.layers.{len(layers) - 1}.final_layer_norm"
        yield ScalePair(last, tuple(readers), reason=reason or (DROPPED if config.layerdrop else ""))
