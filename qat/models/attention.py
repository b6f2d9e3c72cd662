"""SpeechBrain's CRDNN with an attention decoder beside its CTC head, and a language model of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from speechbrain.lobes.features import Fbank
from torch import Tensor, nn

from datamodules.batch import Batch
from qat.decoding.ctc import merged
from qat.decoding.options import SearchSettings
from qat.layers.held import held_weights
from qat.layers.masking import frame_mask, to_device_of
from qat.models.attention_decoder import (
    Projected,
    States,
    best_labels,
    cross_entropy,
    first_state,
    label_divergence,
    step,
)
from qat.models.attention_guide import AttentionGuide, guide_loss
from qat.models.attention_options import AttentionOptions
from qat.models.attention_parts import Tokenizer, build_decoder, build_language_model, language_model_logits
from qat.models.attention_start import attention_folder, load_encoder_
from qat.models.crdnn import hidden_of, masked
from qat.models.distillation import Teacher
from qat.models.filterbank import FilterbankModule, log_mel_of, normalise_features
from qat.recipe import Recipe
from qat.system.errors import UserError


class AttentionModule(FilterbankModule):
    """A CRDNN encoder, a CTC head, an attentional GRU decoder over subwords, and a recurrent language model.

    Args:
        recipe: what is quantized and how; a `Recipe` or its `to_dict()`.
        init_from: float checkpoint whose weights the model starts from; None starts from random weights.
        options: fields of `AttentionOptions`.

    Raises:
        UserError: see the option groups.
    """

    groups = {
        "cnn": ["encoder.CNN.*"],
        "rnn": ["encoder.RNN.*"],
        "dnn": ["encoder.DNN.*"],
        "decoder": ["embedding.*", "decoder.*"],
        "head": ["ctc_lin.*", "seq_lin.*"],
        "lm": ["lm.*"],
    }
    lobe, hidden_readers = "encoder", ("ctc_lin.w", "decoder.attn.mlp_enc", "decoder.attn.mlp_out")
    readers = (("mlp_enc", "mlp_out"),)
    kept_float = {
        "decoder.attn.conv_loc": "reads attention weights, which begin at 1 / T: about one level of 8 bits",
        "decoder.attn.mlp_loc": "reads the location convolution's output, as small as the attention weights",
        "decoder.attn.mlp_attn": "gives the energies, which the softmax makes large",
    }
    options: AttentionOptions
    mean: Tensor
    deviation: Tensor
    embedding: Any
    decoder: Any
    ctc_lin: Any
    seq_lin: Any

    def __init__(
        self,
        recipe: Recipe | dict[str, Any] | None = None,
        init_from: str | None = None,
        **options: Any,
    ) -> None:
        chosen = AttentionOptions(**options)
        folder = attention_folder(chosen.speechbrain) if chosen.speechbrain else None
        if folder is not None:
            kept = {"lm": "none"} if chosen.lm == "none" else {}
            chosen = replace(chosen, **{**folder.options, **kept})
        super().__init__(recipe, init_from, chosen)
        self.save_hyperparameters(self.hyper_parameters())
        self.settings = SearchSettings.from_dict(chosen.search or {})
        self.tokenizer = Tokenizer(chosen.tokenizer)
        self.fbank = Fbank(sample_rate=16_000, n_mels=chosen.n_mels)
        self.register_buffer("mean", torch.zeros(chosen.n_mels))  # on the CPU: moves with the model
        self.register_buffer("deviation", torch.ones(chosen.n_mels))  # on the CPU: likewise
        self.encoder = chosen.build()
        for name, part in build_decoder(chosen).items():
            self.add_module(name, part)
        self.lm = None if chosen.lm == "none" else build_language_model(chosen)
        self.masks = chosen.build_masks()
        if folder is not None:
            folder.fill_(self, without=("lm.",) if self.lm is None else ())
        guide = chosen.guide_model or chosen.init_encoder
        self.guide = AttentionGuide(guide) if chosen.guide and guide else None
        if chosen.init_encoder:
            load_encoder_(self.encoder, chosen.init_encoder)
        if chosen.lm == "float":
            self.kept_float = {**self.kept_float, "lm.*": "float by lm: float"}
        self.finish_build()
        for module in self.frozen():
            module.requires_grad_(False)

    def frozen(self) -> Iterator[nn.Module]:
        """Modules of the groups that are not trained.

        Raises:
            UserError: the options name a group that there is not.
        """
        for group in self.options.freeze:
            if group not in self.groups:
                raise UserError(f"freeze: {group!r}, must be of {', '.join(self.groups)}")
            for name, module in self.named_modules():
                if any(fnmatchcase(name, glob) for glob in self.groups[group]):
                    yield module

    def train(self, mode: bool = True) -> AttentionModule:
        """As any module; frozen ones stay in eval mode."""
        super().train(mode)
        for module in self.frozen():
            module.eval()
        return self

    def hyper_parameters(self) -> dict[str, Any]:
        """See `RecipeModule`; files that are spent once their contents are in are left out."""
        spent = ("tokenizer", "init_encoder", "speechbrain", "guide", "guide_model")
        return {key: value for key, value in super().hyper_parameters().items() if key not in spent}

    # ---------------------------------------------------------------- text and labels
    @property
    def blank(self) -> int:
        """Index of the CTC blank; published models have one index for blank, begin, end and unknown."""
        return self.settings.blank

    @property
    def label_names(self) -> list[str]:
        """The pieces; none where no checkpoint has brought a tokenizer yet."""
        return self.symbols if self.tokenizer.model else []

    @property
    def symbols(self) -> list[str]:
        """Text of each piece, with its mark of a word's beginning."""
        return self.tokenizer.pieces.symbols

    def labels(self, text: str) -> list[int]:
        """Text -> pieces."""
        return self.tokenizer.pieces.encode(text)

    def labels_to_text(self, labels: Tensor) -> str:
        """Best label of each frame `(T,)` -> text: repeats merged, blanks dropped."""
        return self.tokenizer.pieces.decode(merged(labels.tolist(), self.blank))

    # ---------------------------------------------------------------- the forward path
    def features(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel filterbanks in dB `(B, T, F)`, normalised; padding is zero."""
        log_mel, frames = log_mel_of(self.fbank, signal, lengths)
        if self.options.normalize == "utterance":
            return normalise_features(log_mel, frames)
        mask = frame_mask(frames, log_mel).unsqueeze(-1)
        return ((log_mel - self.mean) / self.deviation).masked_fill(~mask, 0.0), frames

    def states(self, signal: Tensor, lengths: Tensor) -> States:
        """Everything that is computed once an utterance: samples `(B, S)`, valid ones `(B,)`."""
        return self.states_of(*self.features(signal, lengths))

    def states_of(self, inputs: Tensor, frames: Tensor) -> States:
        """The same of features `(B, T, F)`, valid frames `(B,)`."""
        if self.training:
            inputs = masked(self.masks, inputs)
        hidden = hidden_of(self.encoder, inputs, frames, self.options.time_pooling_size)
        attn = self.decoder.attn
        keys, values = hidden.unpack(attn.mlp_enc(hidden.data)), hidden.unpack(attn.mlp_out(hidden.data))
        return States(
            hidden.unpack(hidden.data),
            hidden.unpack(self.ctc_lin(hidden.data)),
            hidden.frames,
            Projected(keys, values, frame_mask(hidden.frames, keys)),
        )

    def encode(self, inputs: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Features `(B, T, F)` -> (CTC logits `(B, T', V)`, frames `(B,)`)."""
        states = self.states_of(inputs, frames)
        return states.logits, states.frames

    def forced(self, states: States, labels: Tensor) -> Tensor:
        """Teacher forcing: logits `(B, U, V)` of the label after each of `labels (B, U)`, the first of them `bos`."""
        return self.forced_with_attention(states, labels)[0]

    def forced_with_attention(self, states: States, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and the attention weights `(B, U, T)`."""
        decoder, embedded = self.decoder, self.embedding(labels)
        state, outputs, attention = first_state(decoder, states.projected), [], []
        with held_weights(decoder), self.step_key.frames():
            for place in range(labels.shape[1]):
                state = replace(state, attention=state.attention.detach())  # as SpeechBrain trains
                output, state = step(decoder, embedded[:, place], state, states.projected)
                outputs.append(output)
                attention.append(state.attention)
                self.step_key.frame += 1
        return self.seq_lin(torch.stack(outputs, dim=1)), torch.stack(attention, dim=1)

    # ---------------------------------------------------------------- training
    def targets(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Labels after `bos` `(B, U)`, what follows each `(B, U)` (-100 past the end), counts with the end `(B,)`."""
        labels = [[self.settings.bos, *self.labels(text), self.settings.eos] for text in texts]
        counts = torch.tensor([len(item) - 1 for item in labels], device="cpu")
        width = int(counts.max())
        inputs = torch.tensor([item[:-1] + [0] * (width + 1 - len(item)) for item in labels], device="cpu")
        after = torch.tensor([item[1:] + [-100] * (width + 1 - len(item)) for item in labels], device="cpu")
        place = next(self.parameters())
        return to_device_of(place, inputs), to_device_of(place, after), counts

    def transcript_loss(self, batch: Batch) -> Tensor:
        """The joint loss, and the language model's own."""
        return self.joint_loss(batch)[0]

    def joint_loss(self, batch: Batch) -> tuple[Tensor, States, Tensor]:
        """Loss on the transcripts, the states and the token logits that it was computed of."""
        weight = self.options.ctc_weight
        states = self.states(batch.signal, batch.lengths)
        inputs, after, _ = self.targets(batch.texts)
        tokens, attention = self.forced_with_attention(states, inputs)
        loss = (1 - weight) * cross_entropy(tokens, after, self.options.label_smoothing)
        if weight:
            loss = loss + weight * self.ctc_loss(states.logits, states.frames, batch.texts)
        if self.guide is not None:
            guided = self.guide_loss(attention, states, batch.texts)
            self.log("train/guide", guided, batch_size=len(batch.texts))
            loss = (1 - self.options.guide) * loss + self.options.guide * guided
        if self.trains_language_model:
            lm_loss = cross_entropy(language_model_logits(self.lm, inputs), after, 0.0)
            self.log("train/lm_loss", lm_loss, batch_size=len(batch.texts))
            loss = loss + lm_loss  # no parameter is in both: each has its own gradient
        return loss, states, tokens

    def posteriors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits of the frames, then of the tokens and the language model under teacher forcing; see `CTCModule`."""
        parts = [logits[:, : int(valid[0])] for logits, valid in self.emissions(batch)]
        logits = torch.cat(parts, dim=1)
        return logits, torch.tensor([logits.shape[1]], device="cpu")

    def emissions(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """Of the frames, and of the tokens and the language model under teacher forcing; see `CTCModule`."""
        states = self.states(batch.signal, batch.lengths)
        inputs, _, counts = self.targets(batch.texts)
        found = [(states.logits, states.frames), (self.forced(states, inputs), counts)]
        return found if self.lm is None else [*found, (language_model_logits(self.lm, inputs), counts)]

    def guide_loss(self, attention: Tensor, states: States, texts: Sequence[str]) -> Tensor:
        """How far the attention lies beside the guide's alignment."""
        assert self.guide is not None
        symbols = self.symbols
        pieces = [[symbols[label] for label in self.labels(text)] for text in texts]
        return guide_loss(attention, self.guide.windows(states.hidden, states.frames, texts, pieces))

    @property
    def trains_language_model(self) -> bool:
        """Whether the language model learns from the transcripts."""
        frozen = self.recipe.active and self.options.lm == "float"
        return self.lm is not None and self.options.lm_fine_tune and not frozen

    def distillation_loss(self, batch: Batch, teacher: Teacher) -> Tensor:
        """Transcripts, and the teacher's posteriors of frames and tokens."""
        options = self.options
        loss, states, tokens = self.joint_loss(batch)
        inputs, after, counts = self.targets(batch.texts)
        frames = teacher.loss(states.logits, states.frames, batch.signal, batch.lengths, counts)
        with torch.no_grad():
            model: Any = teacher.model
            theirs = model.forced(model.states(batch.signal, batch.lengths), inputs)
        divergence = label_divergence(theirs, tokens)
        of_tokens = divergence[after >= 0].mean()
        divergence = options.ctc_weight * frames + (1 - options.ctc_weight) * of_tokens
        self.log("train/divergence", divergence, batch_size=len(batch.texts))
        return (1 - options.distillation_weight) * loss + options.distillation_weight * divergence

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and corpus word error rate (percent) on the dev split, of the best label at each step."""
        states = self.states(batch.signal, batch.lengths)
        inputs, after, _ = self.targets(batch.texts)
        loss = cross_entropy(self.forced(states, inputs), after, 0.0)
        self.val_wer.update(self.greedy(states), batch.texts)
        self.log("val/loss", loss, batch_size=len(batch.texts), sync_dist=True)
        if self.lm is not None:
            lm_loss = cross_entropy(language_model_logits(self.lm, inputs), after, 0.0)
            self.log("val/lm_loss", lm_loss, batch_size=len(batch.texts), sync_dist=True)

    @torch.no_grad()
    def greedy(self, states: States) -> list[str]:
        """The best label at each step, without a language model: B texts."""
        limits = (self.settings.bos, self.settings.eos)
        with held_weights(self.embedding, self.decoder, self.seq_lin):
            found = best_labels(self.decoder, self.embedding, self.seq_lin, states.projected, *limits)
        return [self.tokenizer.pieces.decode(labels) for labels in found]
