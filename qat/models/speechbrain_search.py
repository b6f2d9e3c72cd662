"""Search settings of a SpeechBrain folder, of either style: scorers (1.x), or one class for everything (0.5)."""

from __future__ import annotations

from typing import Any

from qat.models.speechbrain_arguments import Arguments, shown
from qat.models.speechbrain_yaml import Node

SEARCHERS = ("S2SRNNBeamSearcher", "S2SRNNBeamSearchLM")


class SearchReader:
    """Reads a searcher's node.

    Args:
        file: for messages.
        node: the searcher.

    Attributes:
        settings: fields of `qat.decoding.options.SearchSettings`.
        embedding, decoder, linear: nodes of the modules that it searches with.
        language_model: node of the language model; None where it uses none.
        vocabulary: sizes that its parts state, by what states them.

    Raises:
        UserError: naming an argument that no search of ours knows.
    """

    def __init__(self, file: object, node: Node) -> None:
        self.file = file
        self.vocabulary: dict[str, int] = {}
        arguments = Arguments(file, node)
        self.embedding: Node = arguments.node_of("embedding", "Embedding")
        self.decoder: Node = arguments.node_of("decoder", "AttentionalRNNDecoder")
        self.linear: Node = arguments.node_of("linear", "Linear")
        self.language_model: Node | None = arguments.node_of("language_model", "RNNLM", default=None)
        self.settings = common_settings(arguments)
        scorer = arguments.node_of("scorer", "ScorerBuilder", default=None)
        self.settings.update(old_settings(arguments))
        arguments.ignore("minus_inf", "return_log_probs", "ctc_linear", "ctc_score_mode", "ctc_window_size")
        arguments.only(False, "return_topk")
        arguments.only(1, "topk")
        arguments.finish()
        if scorer is not None:
            self.read_scorers(scorer)
        if self.language_model is None:
            self.settings["lm_weight"] = 0.0

    def read_scorers(self, node: Node) -> None:
        """Weights and settings of what scores beside the decoder."""
        arguments = Arguments(self.file, node)
        weights = arguments.take("weights", {})
        scorers = [*arguments.take("full_scorers", []), *arguments.take("partial_scorers", [])]
        arguments.ignore("scorer_beam_scale")
        arguments.finish()
        if not isinstance(weights, dict) or any(
            type(value) not in (int, float) for value in weights.values()
        ):
            arguments.refuse("weights", f"{weights!r}, must be a number by the name of each scorer")
        left = dict(weights)
        readers = {
            "RNNLMScorer": ("rnnlm", self.read_language_model),
            "CoverageScorer": ("coverage", self.read_coverage),
            "LengthScorer": ("length", self.read_length),
            "CTCScorer": ("ctc", self.read_ctc),
        }
        for scorer in scorers:
            if not isinstance(scorer, Node) or scorer.name not in readers:
                arguments.refuse("full_scorers", f"{shown(scorer)}, must be one of {', '.join(readers)}")
            name, read = readers[scorer.name]
            if name not in left:
                arguments.refuse(f"weights.{name}", f"must be given, as {scorer.name} is listed")
            read(Arguments(self.file, scorer), float(left.pop(name)))
        for name, value in left.items():
            if value:
                arguments.refuse(f"weights.{name}", f"{value}, must have its scorer listed")

    def read_language_model(self, arguments: Arguments, weight: float) -> None:
        """A recurrent language model."""
        self.language_model = arguments.node_of("language_model", "RNNLM")
        self.settings["lm_temperature"] = arguments.number("temperature", 1.0)
        self.settings["lm_weight"] = weight
        arguments.finish()

    def read_coverage(self, arguments: Arguments, weight: float) -> None:
        """The penalty on frames that are attended to twice."""
        self.vocabulary[f"{arguments.node.key}.vocab_size"] = arguments.integer("vocab_size")
        self.settings["coverage_threshold"] = arguments.number("threshold", 0.5)
        self.settings["coverage_weight"] = weight
        arguments.finish()

    def read_length(self, arguments: Arguments, weight: float) -> None:
        """A bonus for each token."""
        self.vocabulary[f"{arguments.node.key}.vocab_size"] = arguments.integer("vocab_size")
        self.settings["length_bonus"] = weight
        arguments.finish()

    def read_ctc(self, arguments: Arguments, weight: float) -> None:
        """The CTC head within the search."""
        arguments.ignore("ctc_fc", "eos_index", "ctc_window_size")
        self.settings["blank"] = arguments.integer("blank_index")
        self.settings["ctc_weight"] = weight
        arguments.finish()


def common_settings(arguments: Arguments) -> dict[str, Any]:
    """What both styles say of the search itself."""
    shift = arguments.integer("max_attn_shift", 60)
    return {
        "beam": arguments.integer("beam_size", least=1),
        "bos": arguments.integer("bos_index"),
        "eos": arguments.integer("eos_index"),
        "min_ratio": arguments.number("min_decode_ratio"),
        "max_ratio": arguments.number("max_decode_ratio"),
        "use_eos_threshold": arguments.truth("using_eos_threshold", True),
        "eos_threshold": arguments.number("eos_threshold", 1.5),
        "length_normalization": arguments.truth("length_normalization", True),
        "max_attention_shift": shift if arguments.truth("using_max_attn_shift", False) else 0,
        "temperature": arguments.number("temperature", 1.0),
    }


def old_settings(arguments: Arguments) -> dict[str, Any]:
    """What SpeechBrain 0.5 said in the searcher, and has in scorers since."""
    return {
        "lm_weight": arguments.number("lm_weight", 0.0),
        "lm_temperature": arguments.number("temperature_lm", 1.0),
        "coverage_weight": arguments.number("coverage_penalty", 0.0),
        "length_bonus": arguments.number("length_rewarding", 0.0),
        "ctc_weight": arguments.number("ctc_weight", 0.0),
        "blank": arguments.integer("blank_index", 0),
    }
