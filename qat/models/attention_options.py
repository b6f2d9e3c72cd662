"""Options of the attention model: sizes of decoder and language model, joint loss, where weights come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from qat.models.crdnn import CRDNNShape, SpecAugmentOptions
from qat.models.options import MOST_LAYERS, Options, TrainingOptions
from qat.system.errors import UserError

LanguageModel = Literal["quantize", "float", "none"]
Normalization = Literal["utterance", "global"]


@dataclass(frozen=True)
class DecoderShape(Options):
    """Size of SpeechBrain's attentional decoder.

    Args:
        vocabulary_size: labels, `V`; those of the tokenizer.
        embedding_dim: of a label in the decoder.
        decoder_neurons: `H` of the GRU.
        decoder_layers: stacked GRU cells.
        attention_dim: `A`.
        attention_channels: of the convolution over the attention weights before.
        attention_kernel: frames on each side that it sees.
        attention_scaling: factor of the energies.

    Raises:
        UserError: a size below 1, or a factor below 0.
    """

    vocabulary_size: int = 200
    embedding_dim: int = 64
    decoder_neurons: int = 256
    decoder_layers: int = 1
    attention_dim: int = 128
    attention_channels: int = 8
    attention_kernel: int = 50
    attention_scaling: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = ("vocabulary_size", "embedding_dim", "decoder_neurons", "attention_dim", "attention_channels")
        self.check(sizes, 1, kind="an integer ")
        self.check(("decoder_layers",), 1, MOST_LAYERS, kind="an integer ")
        self.check(("attention_kernel",), 0, kind="an integer ")
        self.check(("attention_scaling",), 0)


@dataclass(frozen=True)
class LanguageModelShape(Options):
    """Size of SpeechBrain's recurrent language model.

    Args:
        lm: quantize it like the rest, keep it in float, or have none.
        lm_embedding_dim: of a label.
        lm_layers: stacked LSTM layers.
        lm_neurons: of each.
        lm_dnn_blocks: Linear + LayerNorm blocks after them.
        lm_dnn_neurons: of each.
        lm_dropout: of all of them, in [0, 1].
        lm_fine_tune: train it on the transcripts; false: it keeps its weights and is only calibrated.

    Raises:
        UserError: `lm` is none of the three, a size below 1, or a share outside its range.
    """

    lm: LanguageModel = "quantize"
    lm_embedding_dim: int = 64
    lm_layers: int = 1
    lm_neurons: int = 256
    lm_dnn_blocks: int = 1
    lm_dnn_neurons: int = 128
    lm_dropout: float = 0.15
    lm_fine_tune: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lm not in ("quantize", "float", "none"):
            raise UserError(f"lm: {self.lm!r}, must be quantize, float or none")
        self.check(("lm_embedding_dim", "lm_neurons", "lm_dnn_neurons"), 1, kind="an integer ")
        self.check(("lm_layers", "lm_dnn_blocks"), 1, MOST_LAYERS, kind="an integer ")
        self.check(("lm_dropout",), 0, 1)


@dataclass(frozen=True)
class JointLossOptions(Options):
    """SpeechBrain's joint loss, and where the model comes from.

    Args:
        ctc_weight: share of the CTC loss; the attention decoder's cross-entropy has the rest, in [0, 1].
        label_smoothing: of that cross-entropy, in [0, 1].
        normalize: features by the statistics of each utterance, or by stored ones.
        tokenizer: SentencePiece model file; the checkpoint holds its contents.
        freeze: groups of layers (`cnn`, `rnn`, `dnn`, ...) that are not trained; they have neither dropout nor moving
            statistics.
        guide: share in the loss of how far attention lies beside the alignment of the CTC model `init_encoder` or
            `guide_model`, in [0, 1]; its encoder must be the frozen one of this model.
        guide_model: checkpoint of that CTC model, where `init_encoder` does not name it.
        init_encoder: checkpoint of a `CRDNNModule` whose encoder the weights start from.
        speechbrain: SpeechBrain's pretrained folder (or its name on the hub), which gives all sizes and weights.
        search: settings of the beam search that go with the model (`qat.decoding.options.SearchSettings`).

    Raises:
        UserError: a share outside its range, or an unknown normalisation.
    """

    ctc_weight: float = 0.3
    label_smoothing: float = 0.1
    normalize: Normalization = "utterance"
    tokenizer: str | None = None
    freeze: list[str] = field(default_factory=list)
    guide: float = 0.0
    guide_model: str | None = None
    init_encoder: str | None = None
    speechbrain: str | None = None
    search: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(("ctc_weight", "label_smoothing", "guide"), 0, 1)
        if self.guide and not (self.guide_model or self.init_encoder):
            raise UserError(
                f"guide: {self.guide}, must be 0 without a CTC model; name one with --model.guide_model"
            )
        if self.normalize not in ("utterance", "global"):
            raise UserError(f"normalize: {self.normalize!r}, must be utterance or global")


@dataclass(frozen=True)
class AttentionOptions(
    TrainingOptions, JointLossOptions, LanguageModelShape, DecoderShape, SpecAugmentOptions, CRDNNShape
):
    """All options of an `AttentionModule`.

    Raises:
        UserError: what an attention decoder cannot do.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.splice_share:
            raise UserError(
                f"splice_share: {self.splice_share}, must be 0: an attention decoder needs a transcript to follow"
            )
        if self.compile:
            raise UserError("compile: true, must be false: the decoder's loop over labels is not compiled")
