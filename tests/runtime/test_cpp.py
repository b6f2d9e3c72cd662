"""The C++ of docs/runtimes.md compiles, and gives the labels that our own session gives."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import openvino
import pytest

from benchmarks.result_file import ROOT
from qat.runtime.export import export_onnx
from qat.runtime.formats import Runner
from qat.runtime.session import Session
from tests.conftest import noise
from tests.runtime.conftest import Exported

PROGRAM = """
%s
#include <cstdio>
#include <fstream>
#include <vector>
int main() {
std::vector<float> samples(%d);
std::ifstream("signal.f32", std::ios::binary).read((char *)samples.data(), 4 * samples.size());
%s
auto shape = request.get_tensor("logits").get_shape();
for (size_t frame = 0; frame < shape[1]; ++frame, logits += shape[2]) {
    size_t best = 0;
    for (size_t label = 1; label < shape[2]; ++label) best = logits[label] > logits[best] ? label : best;
    std::printf("%%zu ", best);
}
}
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("kind", ["crdnn", "wav2vec2"])
def test_openvino_in_cpp_emits_our_labels(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    exported: Exported = request.getfixturevalue(kind)
    export_onnx(exported.module, tmp_path / "model.onnx", "integer", file_format="qdq")
    signal = noise(1, 1.3)[0].numpy()
    signal.tofile(tmp_path / "signal.f32")
    page = (ROOT / "docs" / "runtimes.md").read_text()
    block = page.partition("OpenVINO, C++:")[2].partition("```cpp\n")[2].partition("```")[0]
    include, code = block.split("\n", 1)
    (tmp_path / "main.cpp").write_text(PROGRAM % (include, signal.size, code))
    place = Path(openvino.__file__).parent
    library = next((place / "libs").glob("libopenvino.so.*"))
    command = ["g++", "-std=c++17", "main.cpp", "-o", "main", f"-I{place / 'include'}", str(library)]
    subprocess.run([*command, f"-Wl,-rpath,{place / 'libs'}"], cwd=tmp_path, check=True)
    done = subprocess.run(["./main"], cwd=tmp_path, check=True, capture_output=True, text=True)
    ours = Session(tmp_path / "model.onnx", runner=Runner("openvino")).logits(signal).argmax(-1)
    found = np.array(done.stdout.split(), dtype=np.int64)
    assert np.mean(found[: len(ours)] == ours) >= 0.99
