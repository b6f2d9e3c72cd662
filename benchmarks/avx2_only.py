"""Run a benchmark as on a processor with AVX2 but without AVX-512, VNNI and AMX: what would an older server do?

`python -m benchmarks.avx2_only integer_vs_float --name integer_vs_float_avx2` (x86-64 Linux with `cc` and `objdump`)

PyTorch and oneDNN have settings for that. ONNX Runtime asks the CPUID instruction and nothing else, so the benchmark
loads a copy of it in which every CPUID is an undefined instruction, whose signal `avx2_only.c` answers without the bits
of what is to be hidden. Clock, caches and width of the units stay those of the real processor.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import onnxruntime

HANDLER = Path(__file__).with_suffix(".c")
CPUID, UD2 = b"\x0f\xa2", b"\x0f\x0b"
SETTINGS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


def output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def hide_cpuid_(library: Path) -> int:
    """Overwrite each CPUID in the code of a shared library; returns how many there were."""
    sections = re.findall(
        r"PROGBITS\s+([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+) \S+ +AX", output("readelf", "-SW", library)
    )
    code = [tuple(int(number, 16) for number in section) for section in sections]
    found = re.findall(
        r"^\s*([0-9a-f]+):\s+cpuid\b", output("objdump", "-d", "--no-show-raw-insn", library), re.M
    )
    data = bytearray(library.read_bytes())
    for address in (int(text, 16) for text in found):
        start, offset = next(
            (start, offset) for start, offset, size in code if start <= address < start + size
        )
        place = slice(address - start + offset, address - start + offset + len(CPUID))
        assert data[place] == CPUID, f"{library}: no CPUID at {address:#x}"
        data[place] = UD2
    library.write_bytes(data)
    return len(found)


def prepare(folder: Path) -> dict[str, str]:
    """Compile the handler and copy ONNX Runtime into `folder`; returns the environment to run in."""
    handler = folder / "avx2_only.so"
    output("cc", "-O2", "-shared", "-fPIC", HANDLER, "-o", handler)
    package = Path(onnxruntime.__file__).parent
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    (library,) = (folder / package.name / "capi").glob("onnxruntime_pybind11_state*.so")
    assert hide_cpuid_(library), f"{library} asks no CPUID"
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **SETTINGS, "LD_PRELOAD": str(handler), "PYTHONPATH": paths}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "benchmark", choices=["integer_vs_float", "qat_step", "calibration", "ada_round", "throughput"]
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="those of the benchmark")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", f"benchmarks.{options.benchmark}", *options.arguments]
        sys.exit(subprocess.run(command, env=prepare(Path(folder))).returncode)


if __name__ == "__main__":
    main()
