"""A module as evaluation sees an exported file: what it emits, its text by a search, and what it cannot become."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from qat.decoding.method import search_of
from qat.decoding.options import DecodingOptions, Method, SearchSettings
from qat.decoding.recogniser import Emission, Recogniser
from qat.decoding.windows import Frames
from qat.layers.base import device_of
from qat.layers.held import held_weights
from qat.layers.linear import QuantLinear
from qat.layers.swap import quant_layers
from qat.models.ctc import CTCModule
from qat.runtime.attention_session import AttentionSession
from qat.runtime.formats import ExportOptions, Runner, check_target
from qat.runtime.gpu import check_provider
from qat.runtime.openvino_engine import import_openvino
from qat.system.errors import UserError


class ModuleLogits:
    """A module that emits frames' scores, with the decoder of its file.

    Args:
        module: in eval mode.
        file: whose decoder makes text of the logits.
    """

    def __init__(self, module: CTCModule, file: Recogniser) -> None:
        self.module, self.file = module, file

    @property
    def frames(self) -> Frames:
        """The frames that it emits."""
        return Frames(self.module.frame_samples, self.module.blank)

    @torch.no_grad()
    def emit(self, signal: NDArray[Any]) -> Emission:
        """Samples `(S,)` -> logits of the valid frames."""
        samples = torch.from_numpy(signal)[None].to(device_of(self.module))
        logits, frames = self.module(samples, torch.tensor([signal.size]))
        return Emission(logits[0, : int(frames[0])].float().cpu().numpy())

    def text_of(self, emission: Emission) -> str:
        """Logits -> text."""
        return self.file.text_of(emission)

    def transcribe(self, signal: NDArray[Any]) -> str:
        """Samples `(S,)` -> text."""
        return self.text_of(self.emit(signal))


class ModuleSearch:
    """A module with an attention decoder, searched as its folder is.

    Args:
        module: in eval mode.
        method: of decoding.
        settings: of the search.
    """

    def __init__(self, module: CTCModule, method: Method, settings: SearchSettings) -> None:
        from qat.models.attention import AttentionModule
        from qat.models.attention_steps import ModuleDecoder, ModuleLanguageModel, encode

        assert isinstance(module, AttentionModule)
        self.module, self.encode = module, encode
        weighed = module.lm is not None and settings.lm_weight
        language_model = ModuleLanguageModel(module) if weighed else None
        self.search = search_of(method, settings, ModuleDecoder(module), language_model)

    def emit(self, signal: NDArray[Any]) -> Emission:
        """Samples `(S,)` -> encoder states and the CTC head's logits."""
        encoded = self.encode(self.module, signal)
        assert encoded.logits is not None
        return Emission(encoded.logits, encoded)

    def text_of(self, emission: Emission) -> str:
        """The text of the best hypothesis, whose tokens it leaves in the emission."""
        assert emission.encoded is not None
        with held_weights(self.module):
            emission.tokens = self.search(emission.encoded).tokens
        return self.module.tokenizer.pieces.decode(emission.tokens)

    def transcribe(self, signal: NDArray[Any]) -> str:
        """Samples `(S,)` -> text."""
        return self.text_of(self.emit(signal))


def module_side(module: CTCModule, file: Recogniser) -> Recogniser:
    """The recogniser that a module is, with the search of its exported file.

    Args:
        module: in eval mode.
        file: exported from it.
    """
    if isinstance(file, AttentionSession):
        return ModuleSearch(module, file.method, file.settings)
    return ModuleLogits(module, file)


def check_search(module: CTCModule, decoding: DecodingOptions) -> None:
    """Refuse what a user has changed of a model's search where the model cannot follow it.

    Raises:
        UserError: naming the setting.
    """
    settings = getattr(module, "settings", None)
    if isinstance(settings, SearchSettings):
        ModuleSearch(module, decoding.method or "attention", decoding.over(settings))
        return
    decoding.refuse_for_ctc(f"{type(module).__name__}, a CTC model")


def check_export(module: CTCModule, exported: ExportOptions, runner: Runner) -> None:
    """Refuse a format or a runner that a report at the end of a run would fail on.

    Raises:
        UserError: the runner is not installed, a file of standard operators cannot hold the model, or the model was
            made for a runtime that reads no other.
    """
    file_format = exported.format_for(runner)
    check_target(module.recipe, file_format)
    if runner.engine == "openvino":
        import_openvino()
    else:
        check_provider(runner.provider)
    if file_format == "onnxruntime":
        return
    layers = [layer for _, layer in quant_layers(module) if isinstance(layer, QuantLinear)]
    if any(layer.layer_recipe.packs_linear for layer in layers):
        raise UserError(
            f"export.format: {file_format!r} has no kernel matmul_nbits; must go with --qat.four_bit_linear integer"
        )
