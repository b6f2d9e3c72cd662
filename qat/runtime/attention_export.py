"""Writing an attention model to a folder of graphs that needs neither PyTorch nor SpeechBrain."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from datamodules.audio_file import SAMPLE_RATE
from qat.models.attention import AttentionModule
from qat.models.ctc import CTCModule
from qat.runtime.attention_graph import expand_energies_
from qat.runtime.attention_parts import Part, parts_of
from qat.runtime.export import ExportInfo, check_ready, export_onnx, trace
from qat.runtime.formats import FORMAT_KEY, FileFormat, Precision, check_target
from qat.runtime.frontend import OnnxFbank
from qat.runtime.fused import fuse_
from qat.runtime.layers import replace_layers_
from qat.runtime.layouts import quantize_first_
from qat.runtime.manifest import FORMAT_VERSION, MANIFEST, TOKENIZER
from qat.runtime.metadata import origin
from qat.runtime.packing import name_axes_, name_nodes_, pack_low_bits_, write_atomically
from qat.runtime.portable import make_portable_
from qat.system.files import replacing_folder, sha256_file


def export(
    module: CTCModule,
    place: Path,
    precision: Precision,
    checkpoint_sha256: str = "",
    file_format: FileFormat = "onnxruntime",
) -> ExportInfo:
    """Write a model to what its kind needs: one file `PLACE.onnx`, or a folder `PLACE` of several graphs.

    Args:
        module: see `export_onnx` and `export_folder`.
        place: path without a suffix.
        precision: "integer" or "float".
        checkpoint_sha256: see `qat.runtime.metadata.origin`.
        file_format: of an integer file.

    Raises:
        UserError: see `export_onnx`.
    """
    if isinstance(module, AttentionModule):
        return export_folder(module, place, precision, checkpoint_sha256, file_format)
    return export_onnx(
        module, place.with_name(f"{place.name}.onnx"), precision, checkpoint_sha256, file_format
    )


@torch.no_grad()
def export_folder(
    module: AttentionModule,
    folder: Path,
    precision: Precision,
    checkpoint_sha256: str = "",
    file_format: FileFormat = "onnxruntime",
) -> ExportInfo:
    """Write the graphs of encoder, decoder step and language model step, the tokenizer and a manifest.

    The folder is filled under a hidden name and takes the place of one that is there. The module is not changed.

    Args:
        module: with or without quantized layers.
        folder: made, or replaced.
        precision: "integer" computes quantized layers on integers, "float" exports the same layers unquantized.
        checkpoint_sha256: see `qat.runtime.metadata.origin`.
        file_format: of an integer folder; see `qat.runtime.formats.ExportOptions`.

    Raises:
        UserError: an integer export of a module that is not quantized and calibrated, or that was made for another
            runtime, no tokenizer, a graph of more than 2 GB, or see `make_portable_`.
    """
    folder, portable = Path(folder), file_format == "qdq"
    check_ready(module, precision)
    if precision == "integer":
        check_target(module.recipe, file_format)
    tokenizer, packed = module.tokenizer.pieces, 0
    facts = origin(module, precision, checkpoint_sha256) | ({FORMAT_KEY: file_format} if portable else {})
    copied: Any = copy.deepcopy(module, {id(getattr(module, "_trainer", None)): None}).cpu().float().eval()
    replace_layers_(copied, precision)
    if not portable:
        fuse_(copied)
    with replacing_folder(folder) as part:
        for name, piece in parts_of(copied).items():
            model = graph_of(piece, portable)
            signed = module.recipe.target == "tensorrt"
            if not portable:
                quantize_first_(model)
            packed += make_portable_(model, signed) if portable else pack_low_bits_(model)
            model.metadata_props.update(facts)
            write_atomically(model, part / name)
        (part / TOKENIZER).write_bytes(module.tokenizer.model)
        content = manifest(module, part, facts, len(tokenizer))
        (part / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.iterdir())
    return ExportInfo(folder, precision, size / 1e6, sha256_file(folder / MANIFEST), packed)


def graph_of(part: Part, portable: bool = False) -> ir.Model:
    """One graph, its nodes and axes named.

    Args:
        part: of the model.
        portable: for any runtime; see `make_portable_`, which is still to come.
    """
    model = trace(part.module, part.inputs, part.outputs, part.run, part.axes)
    frontends = [name for name, child in part.module.named_modules() if isinstance(child, OnnxFbank)]
    name_nodes_(model, frontends, portable)
    expand_energies_(model, portable)
    name_axes_(model, part.axes)
    return model


def manifest(
    module: AttentionModule, folder: Path, facts: dict[str, str], vocabulary_size: int
) -> dict[str, Any]:
    """What a folder says of itself, and of each file that lies in it by now.

    Args:
        module: what is exported.
        folder: holds all other files.
        facts: `origin`.
        vocabulary_size: pieces of the tokenizer.
    """
    files = sorted(folder.iterdir())
    return {
        "format_version": FORMAT_VERSION,
        **facts,
        "sample_rate": SAMPLE_RATE,
        "recipe": module.recipe.to_dict(),
        "vocabulary_size": vocabulary_size,
        "has_language_model": module.lm is not None,
        "method": "attention",
        "search": module.settings.to_dict(),
        "files": {path.name: {"sha256": sha256_file(path), "bytes": path.stat().st_size} for path in files},
    }
