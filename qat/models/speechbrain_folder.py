"""SpeechBrain's pretrained folders, read without SpeechBrain, without a network and without running what they hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from qat.models.speechbrain_attention import read_attention
from qat.models.speechbrain_parameters import SpeechBrainFolder
from qat.models.speechbrain_search import SEARCHERS
from qat.models.speechbrain_yaml import Node, read_yaml
from qat.runs import SPEECHBRAIN_FILE, SPEECHBRAIN_PARTS
from qat.system.errors import UserError, first_line

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def read_folder(name: str | Path) -> SpeechBrainFolder:
    """Sizes, settings, parameters and tokenizer of a folder; which layout it has follows from what it holds.

    Args:
        name: path of the folder, or name of a model on the Hugging Face hub.

    Raises:
        UserError: one line that names file and key of what is missing, unknown or does not fit.
    """
    folder = find_folder(name)
    file = folder / SPEECHBRAIN_FILE
    if not file.is_file():
        raise UserError(f"{folder}: must hold a {SPEECHBRAIN_FILE}, as SpeechBrain's pretrained folders do")
    contents = read_yaml(file)
    layout = layout_of(file, contents)
    if layout == "attention":
        return read_attention(folder, file, contents)
    from qat.models.speechbrain_ctc import read_wav2vec2  # with transformers, which take seconds

    return read_wav2vec2(folder, file, contents)


def folder_layout(name: str | Path) -> str:
    """`attention` or `wav2vec2`; parameter files are not opened.

    Raises:
        UserError: see `read_folder`.
    """
    file = find_folder(name) / SPEECHBRAIN_FILE
    return layout_of(file, read_yaml(file))


def is_folder(name: str | Path) -> bool:
    """Whether a path is a folder of SpeechBrain."""
    return (Path(name) / SPEECHBRAIN_FILE).is_file()


def cached_folder(name: str | Path) -> Path | None:
    """The folder of a hub name that was downloaded before; None where it was not, or is no folder of SpeechBrain."""
    if not HUB_NAME.fullmatch(str(name)) or Path(name).is_dir():
        return None
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(str(name), SPEECHBRAIN_FILE, cache_dir=constants.HF_HUB_CACHE)
    return Path(found).parent if isinstance(found, str) else None


def layout_of(file: Path, contents: dict[str, Any]) -> str:
    """`attention` or `wav2vec2`.

    Raises:
        UserError: it is neither.
    """
    modules = contents.get("modules")
    if not isinstance(modules, dict) or "encoder" not in modules:
        raise UserError(f"{file}: modules.encoder: must be there; is it a pretrained folder of SpeechBrain?")
    decoder = modules.get("decoder")
    if isinstance(decoder, Node) and decoder.name in SEARCHERS:
        return "attention"
    if decoder is None and "decoding_function" in contents:
        return "wav2vec2"
    raise UserError(
        f"{file}: modules.decoder: must be one of {', '.join(SEARCHERS)}, or absent where there is a decoding_function"
    )


def find_folder(name: str | Path) -> Path:
    """A folder on this machine: as it is named, or downloaded from the hub.

    Raises:
        UserError: it is neither, or cannot be downloaded.
    """
    path = Path(name)
    if path.is_dir():
        return path
    if not HUB_NAME.fullmatch(str(name)):
        raise UserError(f"{name}: must be a pretrained folder of SpeechBrain; there is no such folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE

    try:
        return Path(
            snapshot_download(
                str(name), allow_patterns=list(SPEECHBRAIN_PARTS), local_files_only=HF_HUB_OFFLINE
            )
        )
    except Exception as error:  # the hub, the network and the file system each raise errors of their own
        reason = first_line(error).partition(". ")[0][:160]
        raise UserError(
            f"{name}: must be a folder, or be downloaded from the Hugging Face hub, which failed ({reason}); with a "
            f"network, `hf download {name} --local-dir FOLDER`, then give FOLDER"
        ) from None
