"""ONNX Runtime on a GPU: what is refused where there is none, and where nodes run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from qat.runtime import gpu
from qat.runtime.export import export_onnx
from qat.runtime.formats import Runner
from qat.runtime.gpu import CPU, NAMES, check_placement, check_provider, open_on_gpu, placement, providers_of
from qat.runtime.session import Session, session_options
from qat.system.errors import UserError
from tests.runtime.conftest import Exported


@pytest.fixture(scope="module")
def portable(crdnn: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("portable") / "model.onnx"
    export_onnx(crdnn.module, path, "integer", file_format="qdq")
    return path


def test_a_provider_leaves_the_rest_to_the_next_one() -> None:
    assert providers_of("cpu") == [CPU]
    assert providers_of("cuda") == [gpu.CUDA, CPU]
    assert providers_of("tensorrt") == [NAMES["tensorrt"], gpu.CUDA, CPU]
    assert gpu.CUDA[1]["use_tf32"] == "0"


@pytest.mark.skipif(NAMES["cuda"] in ort.get_available_providers(), reason="has a GPU build of ONNX Runtime")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_an_onnx_runtime_without_the_provider_is_one_line(portable: Path, provider: Any) -> None:
    with pytest.raises(UserError, match=f"provider: {provider} must be in the installed ONNX Runtime"):
        Session(portable, runner=Runner(provider=provider))
    check_provider("cpu")


class FallenBack:
    """A session that found no GPU and went on without, as ONNX Runtime does."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def get_providers(self) -> list[str]:
        return [CPU]


def test_a_provider_that_does_not_start_is_one_line(portable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: list(NAMES.values()))
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(ort, "InferenceSession", FallenBack)
    with pytest.raises(UserError, match="provider: cuda does not start here"):
        open_on_gpu(portable, session_options(1), "cuda")


def test_a_product_that_is_left_to_the_cpu_is_refused(portable: Path) -> None:
    options = session_options(1)
    options.add_session_config_entry(gpu.RECORD, "1")
    session = ort.InferenceSession(str(portable), options, providers=[CPU])
    nodes = placement(session)
    assert list(nodes) == [CPU] and "LSTM" in nodes[CPU].values()
    with pytest.raises(UserError, match=r"provider cuda leaves \d+ products to the CPU, first \S+ \(Conv\)"):
        check_placement(session, "cuda", "x.onnx")


def test_a_version_that_does_not_tell_is_named() -> None:
    session: Any = FallenBack()
    with pytest.raises(UserError, match="must be 1.24 or newer"):
        placement(session)
