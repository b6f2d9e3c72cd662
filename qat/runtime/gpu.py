"""ONNX Runtime on an NVIDIA GPU: its CUDA and TensorRT execution providers (package `onnxruntime-gpu`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort

from qat.runtime.formats import ProviderName
from qat.system.errors import UserError, first_line

CPU = "CPUExecutionProvider"
NAMES: Mapping[ProviderName, str] = {
    "cpu": CPU,
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# float32 as on a CPU; and no search for the fastest convolution, which would run anew for each length of audio
CUDA = (NAMES["cuda"], {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})
PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN"}
RECORD = "session.record_ep_graph_assignment_info"


def providers_of(provider: ProviderName) -> list[Any]:
    """What a session is to be given: a GPU's providers leave what they have no kernel for to the next one."""
    if provider == "cpu":
        return [CPU]
    first = [] if provider == "cuda" else [NAMES["tensorrt"]]
    return [*first, CUDA, CPU]


def check_provider(provider: ProviderName) -> None:
    """Refuse a provider that this ONNX Runtime was not built with.

    Raises:
        UserError: naming it.
    """
    if NAMES[provider] not in ort.get_available_providers():
        raise UserError(
            f"provider: {provider} must be in the installed ONNX Runtime, which has "
            f"{', '.join(ort.get_available_providers())}; pip uninstall onnxruntime and install onnxruntime-gpu, "
            "or take cpu"
        )


def open_on_gpu(
    path: str | Path, options: ort.SessionOptions, provider: ProviderName
) -> ort.InferenceSession:
    """A session whose products are all on the GPU.

    Args:
        path: of a file of standard operators.
        options: of the session.
        provider: cuda or tensorrt.

    Raises:
        UserError: not built in, its libraries or the GPU are missing, or a product was left to the CPU.
    """
    check_provider(provider)
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # of the nvidia packages that pip installs
    options.add_session_config_entry(RECORD, "1")
    try:
        session = ort.InferenceSession(str(path), options, providers=providers_of(provider))
    except Exception as error:  # onnxruntime's errors share no base class
        raise UserError(f"{path}: provider {provider} cannot run it ({first_line(error, 160)})") from None
    if NAMES[provider] not in session.get_providers():  # it has warned, and goes on without
        raise UserError(
            f"provider: {provider} does not start here; must find an NVIDIA GPU and its libraries (nvidia-smi, "
            "python -c 'import onnxruntime; onnxruntime.print_debug_info()'), or take cpu"
        )
    check_placement(session, provider, str(path))
    return session


def placement(session: ort.InferenceSession) -> dict[str, dict[str, str]]:
    """Provider -> node -> operator, as ONNX Runtime has placed the nodes of a session.

    Raises:
        UserError: the installed version does not tell.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise UserError(
            f"onnxruntime-gpu {ort.__version__}: must be 1.24 or newer, which says where nodes run"
        )
    found: dict[str, dict[str, str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, {}).update({node.name: node.op_type for node in part.get_nodes()})
    return found


def check_placement(session: ort.InferenceSession, provider: ProviderName, path: str) -> None:
    """Refuse a session that computes a product on the CPU; what it finds lengths with may stay there.

    Raises:
        UserError: naming the first such node.
    """
    left = {name: kind for name, kind in placement(session).get(CPU, {}).items() if kind in PRODUCTS}
    if left:
        name, kind = next(iter(left.items()))
        raise UserError(
            f"{path}: provider {provider} leaves {len(left)} products to the CPU, first {name} ({kind}); must run on "
            "the GPU, or take cpu"
        )
