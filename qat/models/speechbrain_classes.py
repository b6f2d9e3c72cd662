"""The classes that a `hyperparams.yaml` of SpeechBrain may name, and the arguments that we know of each.

Names are compared, never imported. A class or an argument that is not listed here is refused: whoever builds a model
from less than the whole file builds another model.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """A class that a file may name.

    Attributes:
        name: what we call it, whatever module it lies in.
        arguments: in order.
        named_layers: further keywords name layers, in order (SpeechBrain's `Sequential`).
        listed_layers: positional arguments are layers.
    """

    name: str
    arguments: tuple[str, ...] = ()
    named_layers: bool = False
    listed_layers: bool = False


def known(paths: str, arguments: str = "", **kind: bool) -> dict[str, Known]:
    """Entries of one class by each of its import paths; its name is the last part of the first."""
    places = paths.split()
    return {path: Known(places[0].rpartition(".")[2], tuple(arguments.split()), **kind) for path in places}


SEARCH = """bos_index eos_index min_decode_ratio max_decode_ratio beam_size using_eos_threshold eos_threshold
 length_normalization using_max_attn_shift max_attn_shift temperature minus_inf return_topk topk"""
OLD_SEARCH = """blank_index ctc_linear ctc_weight coverage_penalty length_rewarding ctc_score_mode ctc_window_size
 return_log_probs lm_weight"""

KNOWN: dict[str, Known] = {
    **known("torch.nn.ModuleList torch.nn.modules.container.ModuleList", "modules", listed_layers=True),
    **known("torch.nn.LeakyReLU torch.nn.modules.activation.LeakyReLU", "negative_slope inplace"),
    **known("torch.nn.Dropout torch.nn.modules.dropout.Dropout", "p inplace"),
    **known("torch.nn.LogSoftmax torch.nn.modules.activation.LogSoftmax", "dim"),
    **known("sentencepiece.SentencePieceProcessor"),
    **known("speechbrain.dataio.encoder.CTCTextEncoder"),
    **known("speechbrain.utils.parameter_transfer.Pretrainer", "collect_in loadables paths"),
    **known(
        "speechbrain.processing.features.InputNormalization",
        "mean_norm std_norm norm_type avg_factor length_dim update_until_epoch avoid_padding_norm epsilon "
        "requires_grad device",
    ),
    **known(
        "speechbrain.lobes.features.Fbank",
        "deltas context requires_grad sample_rate f_min f_max n_fft n_mels filter_shape param_change_factor "
        "param_rand_factor left_frames right_frames win_length hop_length",
    ),
    **known(
        "speechbrain.lobes.models.CRDNN.CRDNN",
        "input_size input_shape activation dropout cnn_blocks cnn_channels cnn_kernelsize time_pooling "
        "time_pooling_size freq_pooling_size rnn_class inter_layer_pooling_size using_2d_pooling rnn_layers "
        "rnn_neurons rnn_bidirectional rnn_re_init dnn_blocks dnn_neurons projection_dim use_rnnp",
    ),
    **known("speechbrain.lobes.models.VanillaNN.VanillaNN", "input_shape activation dnn_blocks dnn_neurons"),
    **known(
        "speechbrain.lobes.models.RNNLM.RNNLM",
        "output_neurons embedding_dim activation dropout rnn_class rnn_layers rnn_neurons rnn_re_init "
        "return_hidden dnn_blocks dnn_neurons",
    ),
    **known("speechbrain.nnet.RNN.LSTM"),
    **known(
        "speechbrain.nnet.RNN.AttentionalRNNDecoder",
        "rnn_type attn_type hidden_size attn_dim num_layers enc_dim input_size nonlinearity re_init normalization "
        "scaling channels kernel_size bias dropout",
    ),
    **known(
        "speechbrain.nnet.embedding.Embedding", "num_embeddings embedding_dim consider_as_one_hot blank_id"
    ),
    **known("speechbrain.nnet.linear.Linear", "n_neurons input_shape input_size bias max_norm combine_dims"),
    **known("speechbrain.nnet.normalization.BatchNorm1d", "input_shape input_size eps momentum affine"),
    **known("speechbrain.nnet.activations.Softmax", "apply_log dim reshape"),
    **known(
        "speechbrain.nnet.containers.Sequential speechbrain.nnet.containers.LengthsCapableSequential",
        "input_shape",
        named_layers=True,
        listed_layers=True,
    ),
    **known(
        "speechbrain.decoders.S2SRNNBeamSearcher speechbrain.decoders.seq2seq.S2SRNNBeamSearcher",
        f"embedding decoder linear scorer {SEARCH} {OLD_SEARCH}",
    ),
    **known(
        "speechbrain.decoders.S2SRNNBeamSearchLM speechbrain.decoders.seq2seq.S2SRNNBeamSearchLM",
        f"embedding decoder linear language_model temperature_lm {SEARCH} {OLD_SEARCH}",
    ),
    **known(
        "speechbrain.decoders.scorer.ScorerBuilder", "weights full_scorers partial_scorers scorer_beam_scale"
    ),
    **known("speechbrain.decoders.scorer.RNNLMScorer", "language_model temperature"),
    **known("speechbrain.decoders.scorer.CoverageScorer", "vocab_size threshold"),
    **known("speechbrain.decoders.scorer.LengthScorer", "vocab_size"),
    **known("speechbrain.decoders.scorer.CTCScorer", "ctc_fc blank_index eos_index ctc_window_size"),
    **known("speechbrain.decoders.ctc_greedy_decode speechbrain.decoders.ctc.ctc_greedy_decode", "blank_id"),
    **known(
        "speechbrain.integrations.huggingface.wav2vec2.Wav2Vec2 "
        "speechbrain.lobes.models.huggingface_transformers.wav2vec2.Wav2Vec2 "
        "speechbrain.lobes.models.huggingface_wav2vec.HuggingFaceWav2Vec2",
        "source save_path output_norm freeze freeze_feature_extractor apply_spec_augment output_all_hiddens",
    ),
}
