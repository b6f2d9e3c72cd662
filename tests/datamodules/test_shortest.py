"""The shortest audio: cheap to import, and long enough for every model's first layers."""

from __future__ import annotations

import subprocess
import sys

from datamodules.shortest import SHORTEST
from tests.conftest import ROOT


def test_the_shortest_audio_is_a_tenth_of_a_second_and_imports_nothing() -> None:
    ask = "import sys, datamodules.shortest; print('torch' in sys.modules or 'soundfile' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"] and SHORTEST == 1_600
