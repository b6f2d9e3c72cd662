"""The classes that a folder may name: SpeechBrain has them, with these arguments."""

from __future__ import annotations

import inspect
import pydoc

import pytest

from qat.models.speechbrain_classes import KNOWN

# of SpeechBrain before 1.0: read, though the SpeechBrain that is installed no longer has them
GONE = {"speechbrain.lobes.models.huggingface_wav2vec.HuggingFaceWav2Vec2"} | {
    path for path in KNOWN if path.endswith("S2SRNNBeamSearchLM")
}
GONE_ARGUMENTS = {"InputNormalization": {"requires_grad"}}


@pytest.mark.filterwarnings("ignore:.*was deprecated, redirecting.*")
@pytest.mark.parametrize("path", sorted(set(KNOWN) - GONE))
def test_a_known_class_exists_and_takes_the_arguments_that_we_know(path: str) -> None:
    known, target = KNOWN[path], pydoc.locate(path)
    assert callable(target)
    if not known.arguments:
        return
    parameters = inspect.signature(target).parameters
    if any(item.kind is item.VAR_KEYWORD for item in parameters.values()):
        return
    assert set(known.arguments) - set(parameters) <= GONE_ARGUMENTS.get(known.name, set())
    given_in_order = [name for name in known.arguments if name in parameters]
    assert given_in_order == [name for name in parameters if name in known.arguments]


def test_each_path_of_a_class_leads_to_one_name() -> None:
    paths = [path for path, known in KNOWN.items() if known.name == "Wav2Vec2"]
    assert len(paths) == 3 and len({KNOWN[path].arguments for path in paths}) == 1
    assert {"CRDNN", "RNNLM", "Sequential", "S2SRNNBeamSearchLM"} <= {known.name for known in KNOWN.values()}


def test_only_names_of_layers_searches_and_tokenizers_are_known() -> None:
    assert {path.split(".")[0] for path in KNOWN} == {"torch", "speechbrain", "sentencepiece"}
