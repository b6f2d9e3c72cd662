"""What pictures share."""

from __future__ import annotations

from pathlib import Path

from matplotlib.image import imread

from qat.report.drawing import COLOURS, canvas, colour_of, finish, logarithmic_wer


def test_colours_are_all_different_and_come_round() -> None:
    assert len(set(COLOURS)) == len(COLOURS) and colour_of(len(COLOURS)) == colour_of(0)


def test_a_picture_is_written_into_a_folder_that_is_made(tmp_path: Path) -> None:
    figure, axes = canvas(4.0, 3.0)
    axes.plot([0, 1], [3.0, 90.0], label="x")
    logarithmic_wer(axes)
    path = finish(figure, axes, tmp_path / "new" / "a.png", legend=True)
    height, width = imread(path).shape[:2]
    assert (height, width) == (390, 520) and axes.get_yscale() == "log"
