"""Folders as SpeechBrain publishes them, tiny, with random weights; SpeechBrain itself opens both layouts offline."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.encoder import CTCTextEncoder
from speechbrain.inference.ASR import EncoderASR, EncoderDecoderASR
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

TEXTS = (
    "TURN ON THE LIGHT IN THE KITCHEN",
    "CALL HOME AT TWO AND TELL THEM THAT I AM LATE",
    "WHAT IS THE TIME IN LONDON",
    "PLAY THE SONG THAT I LIKE BEST",
    "SET THE ALARM FOR HALF PAST SEVEN",
    "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG",
    "SHE SELLS SEA SHELLS BY THE SEA SHORE",
    "MY FATHER HAS REVEALED THE CULPRIT'S NAME",
)
LABELS = ("<blank>", "<bos>", "<eos>", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ ")
ATTENTION_SIZES: dict[str, Any] = {
    "sample_rate": 16000,
    "n_fft": 400,
    "n_mels": 8,
    "dropout": 0.15,
    "cnn_blocks": 2,
    "cnn_channels": (4, 6),
    "inter_layer_pooling_size": (2, 2),
    "cnn_kernelsize": (3, 3),
    "time_pooling_size": 4,
    "rnn_layers": 2,
    "rnn_neurons": 12,
    "rnn_bidirectional": True,
    "dnn_blocks": 2,
    "dnn_neurons": 10,
    "emb_size": 7,
    "dec_neurons": 9,
    "attn_dim": 11,
    "location_channels": 3,
    "location_kernel": 5,
    "output_neurons": 40,
    "lm_rnn_layers": 2,
    "lm_rnn_neurons": 13,
    "lm_dnn_neurons": 8,
    "blank_index": 0,
    "bos_index": 0,
    "eos_index": 0,
    "unk_index": 0,
    "min_decode_ratio": 0.0,
    "max_decode_ratio": 1.0,
    "test_beam_size": 8,
    "eos_threshold": 1.5,
    "using_max_attn_shift": True,
    "max_attn_shift": 240,
    "lm_weight": 0.5,
    "ctc_weight_decode": 0.0,
    "coverage_penalty": 1.5,
    "temperature": 1.25,
    "temperature_lm": 1.25,
}

ATTENTION_MODULES = """
activation: !name:torch.nn.LeakyReLU
rnn_class: !name:speechbrain.nnet.RNN.LSTM

normalizer: !new:speechbrain.processing.features.InputNormalization
    norm_type: global

compute_features: !new:speechbrain.lobes.features.Fbank
    sample_rate: !ref <sample_rate>
    n_fft: !ref <n_fft>
    n_mels: !ref <n_mels>

enc: !new:speechbrain.lobes.models.CRDNN.CRDNN
    input_shape: [null, null, !ref <n_mels>]
    activation: !ref <activation>
    dropout: !ref <dropout>
    cnn_blocks: !ref <cnn_blocks>
    cnn_channels: !ref <cnn_channels>
    cnn_kernelsize: !ref <cnn_kernelsize>
    inter_layer_pooling_size: !ref <inter_layer_pooling_size>
    time_pooling: True
    using_2d_pooling: False
    time_pooling_size: !ref <time_pooling_size>
    rnn_class: !ref <rnn_class>
    rnn_layers: !ref <rnn_layers>
    rnn_neurons: !ref <rnn_neurons>
    rnn_bidirectional: !ref <rnn_bidirectional>
    rnn_re_init: True
    dnn_blocks: !ref <dnn_blocks>
    dnn_neurons: !ref <dnn_neurons>

emb: !new:speechbrain.nnet.embedding.Embedding
    num_embeddings: !ref <output_neurons>
    embedding_dim: !ref <emb_size>

dec: !new:speechbrain.nnet.RNN.AttentionalRNNDecoder
    enc_dim: !ref <dnn_neurons>
    input_size: !ref <emb_size>
    rnn_type: gru
    attn_type: location
    hidden_size: !ref <dec_neurons>
    attn_dim: !ref <attn_dim>
    num_layers: 1
    scaling: 1.0
    channels: !ref <location_channels>
    kernel_size: !ref <location_kernel>
    re_init: True
    dropout: !ref <dropout>

ctc_lin: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <dnn_neurons>
    n_neurons: !ref <output_neurons>

seq_lin: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <dec_neurons>
    n_neurons: !ref <output_neurons>

log_softmax: !new:speechbrain.nnet.activations.Softmax
    apply_log: True

tokenizer: !new:sentencepiece.SentencePieceProcessor

asr_model: !new:torch.nn.ModuleList
    - [!ref <enc>, !ref <emb>, !ref <dec>, !ref <ctc_lin>, !ref <seq_lin>]

encoder: !new:speechbrain.nnet.containers.LengthsCapableSequential
    input_shape: [null, null, !ref <n_mels>]
    compute_features: !ref <compute_features>
    normalize: !ref <normalizer>
    model: !ref <enc>
"""

LANGUAGE_MODEL = """
lm_model: !new:speechbrain.lobes.models.RNNLM.RNNLM
    output_neurons: !ref <output_neurons>
    embedding_dim: !ref <emb_size>
    activation: !name:torch.nn.LeakyReLU
    dropout: 0.0
    rnn_layers: !ref <lm_rnn_layers>
    rnn_neurons: !ref <lm_rnn_neurons>
    dnn_blocks: 1
    dnn_neurons: !ref <lm_dnn_neurons>
    return_hidden: True  # For inference
"""

SEARCH = """
    embedding: !ref <emb>
    decoder: !ref <dec>
    linear: !ref <seq_lin>
    bos_index: !ref <bos_index>
    eos_index: !ref <eos_index>
    min_decode_ratio: !ref <min_decode_ratio>
    max_decode_ratio: !ref <max_decode_ratio>
    beam_size: !ref <test_beam_size>
    eos_threshold: !ref <eos_threshold>
    using_max_attn_shift: !ref <using_max_attn_shift>
    max_attn_shift: !ref <max_attn_shift>
    temperature: !ref <temperature>"""

SCORERS = """
coverage_scorer: !new:speechbrain.decoders.scorer.CoverageScorer
    vocab_size: !ref <output_neurons>

rnnlm_scorer: !new:speechbrain.decoders.scorer.RNNLMScorer
    language_model: !ref <lm_model>
    temperature: !ref <temperature_lm>

scorer: !new:speechbrain.decoders.scorer.ScorerBuilder
    full_scorers: [!ref <rnnlm_scorer>, !ref <coverage_scorer>]
    weights:
        rnnlm: !ref <lm_weight>
        coverage: !ref <coverage_penalty>
"""
SCORERS_WITHOUT_LM = """
coverage_scorer: !new:speechbrain.decoders.scorer.CoverageScorer
    vocab_size: !ref <output_neurons>

scorer: !new:speechbrain.decoders.scorer.ScorerBuilder
    full_scorers: [!ref <coverage_scorer>]
    weights:
        coverage: !ref <coverage_penalty>
"""

NEW_DECODER = f"\ndecoder: !new:speechbrain.decoders.S2SRNNBeamSearcher{SEARCH}\n    scorer: !ref <scorer>\n"
OLD_DECODER = f"""
decoder: !new:speechbrain.decoders.S2SRNNBeamSearchLM{SEARCH}
    language_model: !ref <lm_model>
    temperature_lm: !ref <temperature_lm>
    lm_weight: !ref <lm_weight>
    ctc_weight: !ref <ctc_weight_decode>
    coverage_penalty: !ref <coverage_penalty>
    blank_index: !ref <blank_index>
    ctc_linear: !ref <ctc_lin>
"""
OLD_DECODER_WITHOUT_LM = f"""
decoder: !new:speechbrain.decoders.S2SRNNBeamSearcher{SEARCH}
    coverage_penalty: !ref <coverage_penalty>
    blank_index: !ref <blank_index>
"""

ATTENTION_FILES = """
modules:
    encoder: !ref <encoder>
    decoder: !ref <decoder>{lm_module}

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        normalizer: !ref <normalizer>
        asr: !ref <asr_model>{lm_loadable}
        tokenizer: !ref <tokenizer>
"""

WAV2VEC2_SIZES: dict[str, Any] = {
    "sample_rate": 16000,
    "dnn_layers": 2,
    "dnn_neurons": 12,
    "freeze_wav2vec": True,
    "output_neurons": len(LABELS),
    "blank_index": 0,
    "bos_index": 1,
    "eos_index": 2,
}
WAV2VEC2_CONFIG: dict[str, Any] = {
    "conv_dim": [8, 8, 8, 8, 8, 8, 8],
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}
VANILLA_HEAD = """
enc: !new:speechbrain.lobes.models.VanillaNN.VanillaNN
    input_shape: [null, null, {hidden}]
    activation: !ref <activation>
    dnn_blocks: !ref <dnn_layers>
    dnn_neurons: !ref <dnn_neurons>
"""
BATCH_NORM_HEAD = """
enc: !new:speechbrain.nnet.containers.Sequential
    input_shape: [null, null, {hidden}]
    linear1: !name:speechbrain.nnet.linear.Linear
        n_neurons: !ref <dnn_neurons>
        bias: True
    bn1: !name:speechbrain.nnet.normalization.BatchNorm1d
    activation: !new:torch.nn.LeakyReLU
    drop: !new:torch.nn.Dropout
        p: 0.15
    linear2: !name:speechbrain.nnet.linear.Linear
        n_neurons: !ref <dnn_neurons>
        bias: True
    bn2: !name:speechbrain.nnet.normalization.BatchNorm1d
    activation2: !new:torch.nn.LeakyReLU
    drop2: !new:torch.nn.Dropout
        p: 0.15
"""
WAV2VEC2_MODULES = """
activation: !name:torch.nn.LeakyReLU

wav2vec2: !new:speechbrain.{lobe}
    source: !ref <wav2vec2_hub>
    output_norm: {output_norm}
    freeze: !ref <freeze_wav2vec>
    save_path: {cache}
{head}
ctc_lin: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <dnn_neurons>
    n_neurons: !ref <output_neurons>

log_softmax: !new:speechbrain.nnet.activations.Softmax
    apply_log: True

tokenizer: !new:speechbrain.dataio.encoder.CTCTextEncoder

asr_model: !new:torch.nn.ModuleList
    - [!ref <enc>, !ref <ctc_lin>]

encoder: !new:speechbrain.nnet.containers.LengthsCapableSequential
    wav2vec2: !ref <wav2vec2>
    enc: !ref <enc>
    ctc_lin: !ref <ctc_lin>
    log_softmax: !ref <log_softmax>

decoding_function: !name:speechbrain.decoders.ctc_greedy_decode
    blank_id: !ref <blank_index>

modules:
    encoder: !ref <encoder>

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        wav2vec2: !ref <wav2vec2>
        asr: !ref <asr_model>
        tokenizer: !ref <tokenizer>
"""


def write_attention_folder(
    folder: Path,
    seed: int = 0,
    language_model: bool = True,
    style: str = "scorers",
    sharpness: float = 4.0,
    texts: Sequence[str] = TEXTS,
    **sizes: Any,
) -> dict[str, Any]:
    """A folder in the layout of `asr-crdnn-rnnlm-librispeech`, random weights; train the modules and `save_attention_`
    them to have others.

    Args:
        folder: to write; made where it is missing.
        seed: of the weights.
        language_model: whether there is one.
        style: of the search in `hyperparams.yaml`: `scorers` (SpeechBrain 1.x, which opens it), or `searcher` (0.5.x).
        sharpness: times which a decoder's weights are larger than SpeechBrain starts them: else every token is as
            likely as any other, whatever came before. 1 to train them.
        texts: that the tokenizer learns from.
        sizes: replace fields of `ATTENTION_SIZES`.

    Returns:
        SpeechBrain's objects by their key in `hyperparams.yaml`.
    """
    chosen = {**ATTENTION_SIZES, **sizes}
    old, new = (OLD_DECODER if language_model else OLD_DECODER_WITHOUT_LM), NEW_DECODER
    scorers = SCORERS if language_model else SCORERS_WITHOUT_LM
    files = ATTENTION_FILES.format(
        lm_module="\n    lm_model: !ref <lm_model>" if language_model else "",
        lm_loadable="\n        lm: !ref <lm_model>" if language_model else "",
    )
    top = header(chosen) + ATTENTION_MODULES + (LANGUAGE_MODEL if language_model else "")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    objects: dict[str, Any] = load_hyperpyyaml(top + scorers + new + files)
    written = top + (scorers + new if style == "scorers" else old) + files
    (folder / "hyperparams.yaml").write_text(written)
    randomise_(objects["asr_model"])
    encoder, decoder = objects["enc"], objects["dec"]
    sharpen_(4.0, encoder["RNN"], encoder["DNN"]["block_1"]["linear"])
    sharpen_(sharpness, decoder.rnn, decoder.attn, decoder.proj, objects["seq_lin"])
    if language_model:
        randomise_(objects["lm_model"])
        sharpen_(sharpness, objects["lm_model"].rnn, objects["lm_model"].out)
    features = objects["compute_features"](0.1 * torch.randn(2, 16_000))
    norm = objects["normalizer"]
    norm.count, norm.glob_mean, norm.glob_std = 2, features.mean((0, 1)), features.std((0, 1))
    save_attention_(objects, folder)
    (folder / "tokenizer.ckpt").write_bytes(tokenizer_model(tuple(texts), chosen["output_neurons"]))
    return objects


def save_attention_(objects: dict[str, Any], folder: Path) -> None:
    """Write the parameter files of an attention folder."""
    torch.save(objects["asr_model"].state_dict(), folder / "asr.ckpt")
    if "lm_model" in objects:
        torch.save(objects["lm_model"].state_dict(), folder / "lm.ckpt")
    norm = objects["normalizer"]
    statistics = {"count": norm.count, "glob_mean": norm.glob_mean, "glob_std": norm.glob_std}
    by_speaker: dict[str, dict[int, Any]] = {
        f"spk_dict_{name}": {} for name in ("mean", "std", "count")
    }  # as published, though SpeechBrain 1.x writes none
    torch.save({**statistics, **by_speaker}, folder / "normalizer.ckpt")


def overfit_attention_(
    objects: dict[str, Any], folder: Path, signals: Sequence[Tensor], texts: Sequence[str], steps: int = 150
) -> None:
    """Teach a decoder (and its language model) a few short utterances by heart, so that hypotheses end, and save it.

    Args:
        objects: as `write_attention_folder` returns them.
        folder: it wrote, and to write to.
        signals: samples `(S,)` of each utterance.
        texts: transcripts that its tokenizer can write.
        steps: of Adam.
    """
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=(folder / "tokenizer.ckpt").read_bytes())
    language_model, modules = objects.get("lm_model"), objects["asr_model"]
    fbank, norm, one = objects["compute_features"], objects["normalizer"].eval(), torch.ones(1)
    parameters = [*modules.parameters(), *(language_model.parameters() if language_model else ())]
    optimizer = torch.optim.Adam(parameters, lr=0.03)
    modules.eval()  # without dropout, and BatchNorm keeps its statistics
    with torch.no_grad():
        encoded = [objects["enc"](norm(fbank(signal[None]), one)) for signal in signals]
    for step in range(steps):
        states, tokens = encoded[step % len(texts)], tokenizer.encode(texts[step % len(texts)])
        inputs, targets = torch.tensor([[0, *tokens]]), torch.tensor([*tokens, 0])
        logits = objects["seq_lin"](objects["dec"](objects["emb"](inputs), states, one)[0])[0]
        loss = nn.functional.cross_entropy(logits, targets)
        if language_model:
            loss = loss + nn.functional.cross_entropy(language_model(inputs)[0][0], targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_attention_(objects, folder)


def write_wav2vec2_folder(
    folder: Path,
    seed: int = 0,
    batch_norm: bool = False,
    output_norm: bool = True,
    old_weight_norm: bool = False,
    style: str = "integrations",
    **config: Any,
) -> dict[str, Any]:
    """A folder in the layout of `asr-wav2vec2-librispeech`, random weights.

    SpeechBrain finds the configuration of `wav2vec2_hub` in `folder/hub` (with other weights, which `wav2vec2.ckpt`
    replaces); `config.json` and `preprocessor_config.json` lie in the folder as well.

    Args:
        folder: to write; made where it is missing.
        seed: of the weights.
        batch_norm: a head of Linear, BatchNorm, LeakyReLU and Dropout, as the sister models have; else a `VanillaNN`.
        output_norm: of the lobe.
        old_weight_norm: save `weight_g` and `weight_v`, as published, in place of parametrizations.
        style: path of the lobe: `integrations`, `lobes` (SpeechBrain 1.0) or `old` (0.5.x).
        config: replaces fields of `WAV2VEC2_CONFIG`.

    Returns:
        SpeechBrain's objects by their key in `hyperparams.yaml`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hub = folder / "hub"
    torch.manual_seed(seed + 1_000)
    settings = Wav2Vec2Config(**{**WAV2VEC2_CONFIG, **config})
    Wav2Vec2Model(settings).save_pretrained(hub)
    for place in (hub, folder):
        settings.save_pretrained(place)
        Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(place)
    lobes = {
        "integrations": "integrations.huggingface.wav2vec2.Wav2Vec2",
        "lobes": "lobes.models.huggingface_transformers.wav2vec2.Wav2Vec2",
        "old": "lobes.models.huggingface_wav2vec.HuggingFaceWav2Vec2",
    }
    head = (BATCH_NORM_HEAD if batch_norm else VANILLA_HEAD).format(hidden=settings.hidden_size)
    fields = {"output_norm": output_norm, "cache": folder / "wav2vec2_checkpoint", "head": head}
    top = f"wav2vec2_hub: {hub}\n" + header(WAV2VEC2_SIZES)
    (folder / "hyperparams.yaml").write_text(top + WAV2VEC2_MODULES.format(lobe=lobes[style], **fields))
    torch.manual_seed(seed)
    objects: dict[str, Any] = load_hyperpyyaml(
        top + WAV2VEC2_MODULES.format(lobe=lobes["integrations"], **fields)
    )
    model = Wav2Vec2Model(settings)
    randomise_(model)
    objects["wav2vec2"].model.load_state_dict(model.state_dict())
    randomise_(objects["asr_model"])
    sharpen_(4.0, objects["ctc_lin"])
    state = objects["wav2vec2"].state_dict()
    if old_weight_norm:
        state = {old_key(key): value for key, value in state.items()}
    torch.save(state, folder / "wav2vec2.ckpt")
    torch.save(objects["asr_model"].state_dict(), folder / "asr.ckpt")
    text_encoder().save(folder / "tokenizer.ckpt")
    return objects


def open_attention_folder(folder: Path, scratch: Path) -> EncoderDecoderASR:
    """SpeechBrain's own reader of an attention folder; `scratch` collects links to its files."""
    return EncoderDecoderASR.from_hparams(source=str(folder), savedir=str(scratch))


def open_wav2vec2_folder(folder: Path, scratch: Path) -> EncoderASR:
    """SpeechBrain's own reader of a Wav2Vec2 folder; `scratch` collects links to its files."""
    return EncoderASR.from_hparams(source=str(folder), savedir=str(scratch))


def cached_folder_of(cache: Path, name: str) -> Path:
    """Where the Hugging Face hub's cache keeps the model `name`, to be written there: as if it had been downloaded."""
    model = cache / f"models--{name.replace('/', '--')}"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc")
    return model / "snapshots" / "abc"


def header(values: dict[str, Any]) -> str:
    """Plain keys of a `hyperparams.yaml`; tuples in HyperPyYAML's way, `(1, 2)`."""
    return "".join(f"{key}: {value}\n" for key, value in values.items())


@cache
def tokenizer_model(texts: tuple[str, ...], size: int) -> bytes:
    """A SentencePiece unigram model of `size` pieces; unk is 0, and there is no bos, eos or padding, as published."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=size,
        model_type="unigram",
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        character_coverage=1.0,
        minloglevel=2,
    )
    return model.getvalue()


def text_encoder() -> CTCTextEncoder:
    """The published models' labels: blank, bos, eos, letters, apostrophe and space."""
    encoder = CTCTextEncoder()
    for label in LABELS:
        encoder.add_label(label)
    encoder.blank_label, encoder.bos_label, encoder.eos_label = LABELS[:3]
    return encoder


def old_key(key: str) -> str:
    """Key of a factor of weight_norm as PyTorch named it before version 2."""
    return key.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


def randomise_(model: nn.Module) -> None:
    """Give norms weights and statistics of their own: a mistake in one would not show otherwise."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.BatchNorm1d | nn.GroupNorm) and module.weight is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)


def sharpen_(factor: float, *modules: nn.Module) -> None:
    """Multiply all parameters."""
    for module in modules:
        for parameter in module.parameters():
            parameter.data *= factor
