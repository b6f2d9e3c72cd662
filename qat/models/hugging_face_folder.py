"""A folder (or hub name) of Hugging Face: its files are checked against what is built; nothing is ignored unsaid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from safetensors.torch import load_file
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2ForCTC
from transformers.utils import cached_file, logging

from qat.models.checkpoint import first_not_finite, refuse_damaged
from qat.models.hugging_face_config import check_fields, known_fields
from qat.system.errors import UserError, first_line

CONFIG, PREPROCESSOR, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"
TOKENIZER, PEFT = "tokenizer_config.json", "adapter_config.json"
PICKLED = "pytorch_model.bin"  # safetensors have no checksums
SAMPLING_RATE = 16_000
FOR_TRAINING = (
    "wav2vec2.masked_spec_embed"  # SpecAugment's vector: some folders lack it, some have it for nothing
)
BOOKKEEPING = {"_name_or_path", "architectures", "dtype", "model_type", "torch_dtype", "transformers_version"}
# file's field -> its default, and the values that are built
FEATURES: dict[str, tuple[Any, ...]] = {
    "feature_extractor_type": ("Wav2Vec2FeatureExtractor",),
    "feature_size": (1,),
    "sampling_rate": (SAMPLING_RATE,),
    "do_normalize": (True, False),
}
TOKENS: dict[str, tuple[Any, ...]] = {
    "tokenizer_class": ("Wav2Vec2CTCTokenizer", "Wav2Vec2Tokenizer"),
    "replace_word_delimiter_char": (" ",),
}


def read_model(pretrained: str) -> Wav2Vec2ForCTC:
    """The model of a folder or hub name, in float32, with all of its weights and no others.

    LayerDrop is switched off.

    Raises:
        UserError: it cannot be read, is of another type, has an option that is not built, lacks weights or has others.
    """
    check_config(pretrained)
    if file_of(pretrained, PEFT):
        raise UserError(
            f"{pretrained}/{PEFT}: must not be there, its adapters are not read; merge them into the weights"
        )
    if path := file_of(pretrained, PICKLED):
        refuse_damaged(Path(path))
    try:
        with quiet():
            loaded: Any = Wav2Vec2ForCTC.from_pretrained(
                pretrained,
                attn_implementation="sdpa",
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                output_loading_info=True,
            )
    except (
        Exception
    ) as error:  # the hub, the file system, pickles and transformers each raise errors of their own
        raise UserError(f"{pretrained}: must hold a Wav2Vec2's weights ({first_line(error)})") from None
    model, found = loaded
    check_weights(pretrained, found)
    if name := first_not_finite(model):
        raise UserError(
            f"{pretrained}: weights: {name!r} holds NaN or infinity, must be finite; the file may be damaged: fetch it "
            "again"
        )
    check_language(pretrained, model)
    model.config.layerdrop = 0.0
    return model


def check_config(pretrained: str) -> None:
    """Refuse a `config.json` that says what is not built; name its fields that mean nothing to a Wav2Vec2."""
    try:
        path = cached_file(pretrained, CONFIG)
    except (OSError, ValueError) as error:
        raise UserError(
            f"pretrained: {pretrained!r} is neither a local folder nor a hub model ({first_line(error)})"
        ) from None
    fields = read_json(Path(str(path)))
    check_fields(f"{pretrained}/{CONFIG}", fields)
    if unread := sorted(set(fields) - known_fields() - BOOKKEEPING):
        rank_zero_info(f"{pretrained}/{CONFIG}: no meaning for a Wav2Vec2 have {', '.join(unread)}")


def check_weights(pretrained: str, found: dict[str, Any]) -> None:
    """Refuse weights that are missing, superfluous or of another shape, as `from_pretrained` lists them."""
    missing = sorted(set(found["missing_keys"]) - {FOR_TRAINING})
    if missing:
        head = " (a model without a CTC head)" if missing[0].startswith("lm_head") else ""
        raise UserError(
            f"{pretrained}: weights lack {missing[0]!r}{head}, must hold all {len(missing)} that are missing; "
            "give a Wav2Vec2ForCTC"
        )
    superfluous = sorted(set(found["unexpected_keys"]) - {FOR_TRAINING})
    if superfluous:
        raise UserError(
            f"{pretrained}: weights hold {superfluous[0]!r}, must hold none but a Wav2Vec2ForCTC's; "
            f"it would be ignored, {len(superfluous)} in all"
        )
    for name, shape, expected in sorted(found["mismatched_keys"]):
        raise UserError(
            f"{pretrained}: weights: {name!r} has the shape {tuple(shape)}, must be {tuple(expected)}, as {CONFIG} says"
        )


def check_language(pretrained: str, model: Wav2Vec2ForCTC) -> None:
    """Refuse a language of the tokenizer (`target_lang`) whose adapter lies beside the weights and is not in them."""
    path = file_of(pretrained, TOKENIZER)
    language = read_json(path).get("target_lang") if path else None
    adapter = file_of(pretrained, f"adapter.{language}.safetensors") if language else None
    if adapter is None:
        return
    try:
        wanted = load_file(adapter)
    except Exception as error:  # safetensors' errors share no base class with others
        raise UserError(f"{adapter}: must be a file of safetensors ({first_line(error)})") from None
    state = model.state_dict()
    if not all(name in state and torch.equal(state[name], value.float()) for name, value in wanted.items()):
        raise UserError(
            f"{pretrained}/{TOKENIZER}: target_lang: {language!r}, must be the language of the adapter in the weights; "
            f"save the folder after model.load_adapter({language!r})"
        )


def read_preprocessor(pretrained: str) -> dict[str, Any]:
    """Whether the waveform is normalised (`do_normalize`), where a file says so.

    Raises:
        UserError: it asks for another rate or other features, or a hub name has none.
    """
    if (fields := preprocessor_of(pretrained)) is not None:
        return {"do_normalize": fields.get("do_normalize", True)}
    if not Path(pretrained).is_dir():  # of the hub it may exist and not be at hand
        raise UserError(
            f"{pretrained}: must hold {PREPROCESSOR}, which says whether the waveform is normalised; with a network, "
            f"`hf download {pretrained} --local-dir FOLDER`, then give FOLDER"
        )
    return {}


def preprocessor_of(pretrained: str) -> dict[str, Any] | None:
    """What a folder or hub name says of the waveform, all of which is built; None where no file says anything.

    Raises:
        UserError: it asks for another rate or other features.
    """
    for name in (PROCESSOR, PREPROCESSOR):  # newer versions write the first, with the second's fields nested
        if path := file_of(pretrained, name):
            contents = read_json(path)
            fields = contents.get("feature_extractor") if name == PROCESSOR else contents
            if isinstance(fields, dict):
                check_values(f"{pretrained}/{name}", fields, FEATURES)
                return fields
    return None


def read_tokenizer(pretrained: str, outputs: int) -> dict[str, Any]:
    """Fields of `HuggingFaceOptions` that a tokenizer states: labels, blank and delimiter.

    Args:
        pretrained: folder or hub name.
        outputs: of the head; there are as many labels, and tokens beyond them (which `save_pretrained` adds) are none.

    Raises:
        UserError: no tokenizer, another one, an output without a label or with two, or no blank among them.
    """
    fields: dict[str, Any] = {}
    if path := file_of(pretrained, TOKENIZER):
        fields = read_json(path)
        check_values(f"{pretrained}/{TOKENIZER}", fields, TOKENS)
        if str(fields.get("processor_class")).endswith("WithLM"):
            rank_zero_info(f"{pretrained}: its language model is not read; decoding is greedy")
    try:
        with quiet():
            tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(pretrained)
        table, blank = tokenizer.get_vocab(), str(tokenizer.pad_token)
    except Exception as error:  # transformers checks nothing that it reads here
        raise UserError(
            f"pretrained: {pretrained!r} holds no tokenizer files ({type(error).__name__}: {first_line(error)})"
        ) from None
    labels = labels_of(f"{pretrained}/vocab.json", table, outputs)
    if blank not in labels:
        raise UserError(
            f"{pretrained}/{TOKENIZER}: pad_token: {blank!r}, must be the label of one of the head's {outputs} outputs"
        )
    return {
        "vocabulary": labels,
        "blank_token": blank,
        "word_delimiter": str(tokenizer.word_delimiter_token),
    }


def labels_of(source: str, table: dict[str, Any], outputs: int) -> list[str]:
    """The label of each output.

    >>> labels_of("vocab.json", {"b": 1, "a": 0, "<s>": 2}, 2)
    ['a', 'b']

    Args:
        source: what a message names.
        table: token -> output.
        outputs: of the head.

    Raises:
        UserError: an output without a label, or with two.
    """
    labels: dict[int, str] = {}
    for token, output in table.items():
        if type(output) is not int or output < 0:
            raise UserError(
                f"{source}: {token!r}: must be a whole number of at least 0; of many languages, name one as target_lang"
            )
        if output in labels and output < outputs:
            raise UserError(
                f"{source}: {token!r}: {output}, must be an output of its own; {labels[output]!r} has it too"
            )
        labels[output] = token
    unnamed = [output for output in range(outputs) if output not in labels]
    if unnamed:
        raise UserError(
            f"{source}: {outputs - len(unnamed)} labels, must be {outputs}, one for each output of the head; "
            f"output {unnamed[0]} has none"
        )
    return [labels[output] for output in range(outputs)]


def check_values(source: str, fields: dict[str, Any], built: dict[str, tuple[Any, ...]]) -> None:
    """Refuse a field whose value is not among those that are built; an absent one has the first."""
    for name, values in built.items():
        value = fields.get(name)
        if value is not None and not any(type(value) is type(item) and value == item for item in values):
            allowed = " or ".join(json.dumps(item) for item in values)
            raise UserError(f"{source}: {name}: {value!r}, must be {allowed}; nothing else is built")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of Hugging Face.

    Raises:
        UserError: it is none.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise UserError(f"{path}: must be a JSON file, as Hugging Face writes it")
    return fields


def file_of(pretrained: str, name: str) -> Path | None:
    """A file of a folder or hub name; None where it is not there."""
    try:
        path = cached_file(pretrained, name, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):  # the hub cannot be asked, and the cache does not have it
        return None
    return Path(path) if path else None


@contextmanager
def quiet() -> Iterator[None]:
    """While active, transformers print neither a table of weights, which is checked here, nor a bar."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
