"""The YAML file of a recipe that was found: a rule for each layer, with its reason beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from qat.recipe import Recipe
from qat.search.candidates import Candidate, Unit
from qat.search.choice import Prices
from qat.system.files import write_text

KEPT = ("preset", "activation_observer", "fine_tune", "calibration_utterances", "seed", "four_bit_linear")


def reason(unit: str, chosen: str, prices: Prices) -> str:
    """Why a unit became what it is: loss, time and bytes, those of float beside them."""
    price, base = prices[unit][chosen], prices[unit]["float"]
    if chosen == "float":
        others = {name: item for name, item in prices[unit].items() if name != "float"}
        if not others:
            return f"float: nothing tried is faster; {base.ms:.3f} ms, {base.bytes} bytes"
        name = min(others, key=lambda item: others[item].loss)
        return (
            f"float: {name} would lose {others[name].loss:.1e}, {others[name].ms:.3f} ms; "
            f"{base.ms:.3f} ms, {base.bytes} bytes"
        )
    return (
        f"{chosen}: loses {price.loss:.1e}; {price.ms:.3f} ms (float {base.ms:.3f}), "
        f"{price.bytes} bytes (float {base.bytes})"
    )


def recipe_text(
    recipe: Recipe,
    units: Sequence[Unit],
    choice: Mapping[str, Candidate],
    prices: Prices,
    head: Sequence[str],
) -> str:
    """The file's text.

    Args:
        recipe: of the choice.
        units: of the model.
        choice: unit -> candidate.
        prices: of all candidates that were measured.
        head: lines that open the file, as comments.
    """
    values = {name: getattr(recipe, name) for name in KEPT}
    lines = [*(f"# {line}" for line in head), yaml.safe_dump(values, sort_keys=False).rstrip(), "rules:"]
    for unit in units:
        candidate = choice[unit.name]
        lines.append(f"  # {reason(unit.name, candidate.name, prices)}")
        lines += [f"  - {flow({'match': layer, **candidate.fields()})}" for layer in unit.layers]
    return "\n".join(lines) + "\n"


def flow(rule: Mapping[str, Any]) -> str:
    """A rule in one line of YAML."""
    return yaml.safe_dump(dict(rule), sort_keys=False, default_flow_style=True, width=10_000).strip()


def write_recipe(path: Path, text: str) -> None:
    """Write the file; what it says is read back first.

    Raises:
        UserError: it is not a recipe.
    """
    Recipe.from_dict(yaml.safe_load(text))
    write_text(path, text)
