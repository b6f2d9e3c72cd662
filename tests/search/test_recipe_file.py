"""The file of a recipe is one that train.py takes, and says why each layer is what it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from qat.recipe import Recipe
from qat.search.candidates import FLOAT, Candidate
from qat.search.models import uniform
from qat.search.recipe_file import recipe_text, write_recipe
from qat.search.workbench import Workbench


def test_it_reads_back_as_the_recipe_and_gives_reasons(
    bench: Callable[..., Workbench], tmp_path: Path
) -> None:
    work = bench()
    frame = Candidate(8, "frame")
    for unit in work.units:
        work.store.losses[unit.name] = {frame.name: 0.25} if frame in unit.candidates else {}
    choice = {**uniform(work.units, frame), "hf.lm_head": FLOAT}
    recipe = work.recipe(choice)
    text = recipe_text(recipe, work.units, choice, work.prices(), ["found by hand"])
    write_recipe(tmp_path / "recipe.yaml", text)
    assert Recipe.from_dict(yaml.safe_load((tmp_path / "recipe.yaml").read_text())) == recipe
    assert text.startswith("# found by hand\npreset: searched\n")
    lines = text.splitlines()
    head = lines.index("  - {match: hf.lm_head, quantize: false}")
    assert lines[head - 1] == "  # float: W8A8 frame would lose 2.5e-01, 2.000 ms; 3.000 ms, 1856 bytes"
    conv = next(i for i, line in enumerate(lines) if "conv_layers.1.conv" in line)
    assert lines[conv - 1].startswith("  # W8A8 frame: loses 2.5e-01; 2.000 ms (float 3.000), 192 bytes")
    pos = next(i for i, line in enumerate(lines) if "pos_conv" in line)
    assert lines[pos - 1].startswith("  # float: nothing tried is faster; 3.000 ms")
