"""The kernel of 4-bit linear layers that `qat.four_bit_linear: auto` stands for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from qat.layer_recipe import FourBitLinear
from qat.recipe import Recipe
from qat.runs import CONFIG_FILE, folder_of, read_config, started_outside
from qat.system.ranks import launched_rank

CHOSEN = "SPEECH_QAT_FOUR_BIT_LINEAR"  # what the first process has measured, for those that it launches


def four_bit_linear(
    recipe: Recipe, run: str | None, resumed: str | None, portable: bool = False
) -> FourBitLinear:
    """What a run's recipe says: the value given, or the kernel that is faster on this machine.

    A resumed run keeps its kernel. Processes that something else has launched do not measure, each for itself: they
    take `integer`, which is as fast as 8 bits.

    Args:
        recipe: from the command line.
        run: its name or folder, if given.
        resumed: what `--ckpt_path` names, if given.
        portable: the file holds standard operators alone, which know `integer` alone.
    """
    if recipe.four_bit_linear == "auto" and resumed:
        return kept_kernel(folder_of(run) if run else Path(resumed).parent)
    if not recipe.leaves_kernel_open:
        return recipe.four_bit_linear
    if portable or started_outside():
        return "integer"
    if launched_rank() != 0:
        return "matmul_nbits" if os.environ.get(CHOSEN) == "matmul_nbits" else "integer"
    from qat.runtime.four_bit import faster, kernel_times

    times = kernel_times()
    os.environ[CHOSEN] = chosen = faster(times)
    rank_zero_info(sentence(chosen, times))
    return chosen


def kept_kernel(folder: Path) -> FourBitLinear:
    """What the configuration of a run says; `auto` where there is none."""
    path = folder / CONFIG_FILE
    kept = read_config(path).get("qat", {}).get("four_bit_linear") if path.is_file() else None
    return next((kernel for kernel in get_args(FourBitLinear) if kernel == kept), "auto")


def sentence(chosen: str, times: Mapping[Any, float]) -> str:
    """What was measured, for the log.

    >>> sentence("integer", {"matmul_nbits": 2.0, "integer": 1.0})
    'kernel of 4-bit linear layers: integer (timed here: matmul_nbits 2.0 ms, integer 1.0 ms)'
    """
    measured = ", ".join(f"{kernel} {ms:.1f} ms" for kernel, ms in times.items())
    return f"kernel of 4-bit linear layers: {chosen} (timed here: {measured})"
