"""The picture of a search is drawn from choices, lossless ones too."""

from __future__ import annotations

from pathlib import Path

from qat.search.choice import pareto, solve
from qat.search.figure import draw_pareto
from tests.search.test_choice import PRICES


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    chosen = solve(PRICES, "ms", {"loss": 0.03})
    path = draw_pareto(tmp_path / "pareto.png", pareto(PRICES), {"float": chosen}, chosen, rest_ms=1.0)
    assert path.read_bytes().startswith(b"\x89PNG")
