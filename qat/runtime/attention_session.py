"""Running an exported folder: an attention model that needs numpy, onnxruntime and sentencepiece, but no PyTorch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from datamodules.shortest import SHORTEST
from qat.decoding.attention_search import Hypothesis
from qat.decoding.encoded import Encoded
from qat.decoding.method import search_of
from qat.decoding.options import DecodingOptions, Method
from qat.decoding.recogniser import Emission
from qat.decoding.search_text import search_text
from qat.decoding.tokenizer import SentencePieceTokenizer
from qat.runtime.formats import DEFAULT_RUNNER, Runner
from qat.runtime.graph_steps import GraphDecoderStep, GraphLanguageModelStep
from qat.runtime.manifest import DECODER, ENCODER, LANGUAGE_MODEL, TOKENIZER, read_manifest
from qat.runtime.session import Session, check_signal, open_graph, provider_of
from qat.system.errors import UserError


class AttentionSession:
    """An exported attention recogniser.

    Args:
        path: a folder of `export_folder`.
        threads: at least 1.
        decoding: what to change of the model's own search.
        runner: engine and provider of all graphs.

    Attributes:
        settings: of the search, in force.
        method: attention, ctc_greedy or ctc_beam.
        decoding: the search in a few words.
        engines: of the graphs that are open, by file name.
        times_ms: of the last transcription: `encoder`, `decoder_step`, `lm_step` and, around both, `search`.

    Raises:
        UserError: not such a folder, a file in it that is missing or changed, or settings that cannot be.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int = 1,
        decoding: DecodingOptions | None = None,
        runner: Runner = DEFAULT_RUNNER,
    ) -> None:
        self.path, self.threads, self.runner = Path(path), threads, runner
        self.provider, self.engines = provider_of(runner), dict[str, Any]()
        options = decoding or DecodingOptions()
        self.manifest = read_manifest(self.path)
        self.sample_rate = self.manifest.sample_rate
        self.settings = options.over(self.manifest.settings)
        self.method = cast(Method, options.method or self.manifest.method)
        has_language_model = self.manifest.has_language_model
        self.decoding = search_text(self.method, self.settings, has_language_model, options)
        self.tokenizer = SentencePieceTokenizer(
            (self.path / TOKENIZER).read_bytes(), str(self.path / TOKENIZER)
        )
        if len(self.tokenizer) != self.manifest.vocabulary_size:
            raise UserError(
                f"{self.path / TOKENIZER}: {len(self.tokenizer)} pieces, must be {self.manifest.vocabulary_size} "
                "as the model's vocabulary; export the model again"
            )
        self.encoder = self.open(ENCODER)
        self.decoder_step = GraphDecoderStep(self.open(DECODER))
        self.lm_step = None
        if has_language_model and self.settings.lm_weight and self.method != "ctc_greedy":
            self.lm_step = GraphLanguageModelStep(self.open(LANGUAGE_MODEL))
        self.search = search_of(self.method, self.settings, self.decoder_step, self.lm_step)
        self.times_ms: dict[str, float] = {}

    def open(self, graph: str) -> Any:
        """What runs a graph of the folder."""
        self.engines[graph] = open_graph(self.path / graph, self.threads, self.runner)
        return self.engines[graph]

    def run(self, signal: NDArray[Any], lengths: NDArray[Any]) -> list[NDArray[Any]]:
        """Zero-padded `(B, S)` float32, `(B,)` int64 -> states, keys, values, logits `(B, T, ...)`, frames `(B,)`."""
        if signal.shape[1] < SHORTEST:
            signal = np.pad(signal, ((0, 0), (0, SHORTEST - signal.shape[1])))
        names = ["states", "keys", "values", "logits", "frames"]
        return list(self.encoder.run(names, {"signal": signal, "lengths": lengths}))

    def encode(self, signal: NDArray[Any]) -> Encoded:
        """Samples `(S,)` at `sample_rate` in [-1, 1] -> what a search reads.

        Raises:
            UserError: empty, not one-dimensional, or not finite.
        """
        signal = check_signal(signal)
        started = time.perf_counter()
        *arrays, frames = self.run(signal[None], np.array([signal.size], dtype=np.int64))
        encoded = Encoded(*(item[0, : int(frames[0])] for item in arrays))
        self.times_ms = {"encoder": 1000 * (time.perf_counter() - started)}
        return encoded

    def decode(self, encoded: Encoded) -> Hypothesis:
        """The best hypothesis of one utterance, with times of the parts of the search."""
        steps: dict[str, Any] = {"decoder_step": self.decoder_step, "lm_step": self.lm_step}
        for step in steps.values():
            if step is not None:
                step.seconds = 0.0
        started = time.perf_counter()
        found = self.search(encoded)
        total = time.perf_counter() - started
        spent = {name: 0.0 if step is None else step.seconds for name, step in steps.items()}
        parts = {**spent, "search": total - sum(spent.values())}
        self.times_ms = {
            **{key: value for key, value in self.times_ms.items() if key == "encoder"},
            **{key: 1000 * value for key, value in parts.items()},
        }
        return found

    def logits(self, signal: NDArray[Any]) -> NDArray[Any]:
        """Samples `(S,)` -> logits of the CTC head `(T, V)`."""
        logits = self.encode(signal).logits
        assert logits is not None
        return logits

    def emit(self, signal: NDArray[Any]) -> Emission:
        """Samples `(S,)` -> what a search reads; raises as `encode`."""
        encoded = self.encode(signal)
        assert encoded.logits is not None
        return Emission(encoded.logits, encoded)

    def text_of(self, emission: Emission) -> str:
        """Search what `emit` gave: its text, and tokens in `emission.tokens`."""
        assert emission.encoded is not None
        emission.tokens = self.decode(emission.encoded).tokens
        return self.tokenizer.decode(emission.tokens)

    def transcribe(self, signal: NDArray[Any]) -> str:
        """Samples `(S,)` -> text."""
        return self.text_of(self.emit(signal))


def open_session(
    path: str | Path,
    threads: int = 1,
    decoding: DecodingOptions | None = None,
    runner: Runner = DEFAULT_RUNNER,
) -> Session | AttentionSession:
    """Open what a model was exported to: a file, or a folder.

    Args:
        path: of either.
        threads: at least 1.
        decoding: what to change of the model's own search; a file has greedy CTC and takes no settings.
        runner: engine and provider.

    Raises:
        UserError: neither, a file that is to be searched otherwise, or a runner that is not there or cannot read it.
    """
    if Path(path).is_dir():
        return AttentionSession(path, threads, decoding, runner)
    (decoding or DecodingOptions()).refuse_for_ctc(f"{path}, a CTC model in one file")
    return Session(path, threads, runner=runner)
