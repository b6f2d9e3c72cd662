"""Texts that CTC cannot align because they need more frames than the model emits: counted, never passed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from qat.system.errors import UserError

ENOUGH = 100  # utterances before a share is judged


def frames_needed(labels: Sequence[int]) -> int:
    """The fewest frames that CTC aligns labels to: one each, and a blank between two equal ones (Graves 2006).

    >>> frames_needed([5, 5, 3])
    4
    """
    return len(labels) + sum(one == two for one, two in pairwise(labels))


def check_share(count: int, total: int, limit: float, names: str = "") -> None:
    """Refuse training where too many of the utterances cannot be aligned.

    Args:
        count: of these utterances.
        total: utterances.
        limit: largest share of them, in [0, 1].
        names: of some, for the message.

    Raises:
        UserError: they are more than that share, or all.
    """
    if count and (count > limit * total or count == total):
        allowed = "fewer than all" if count == total else f"at most {100 * limit:g}%"
        raise UserError(
            f"train: {count} of {total} utterances have more text than their audio can hold{names}; must be {allowed}; "
            "check that text and audio belong together, leave them out, or set --data.max_unalignable"
        )


@dataclass
class Unalignable:
    """How many training utterances could not be aligned, since training began or was resumed.

    Attributes:
        limit: largest share of them, in [0, 1].
        seen: utterances so far.
        count: of them, without an alignment.
    """

    limit: float = 1.0
    seen: int = 0
    count: int = 0

    def add(self, labels: Sequence[Sequence[int]], frames: Sequence[int], texts: Sequence[str]) -> None:
        """Count the utterances of a batch; warn of the first that cannot be aligned: its loss is 0.

        Raises:
            UserError: of at least `ENOUGH` utterances more than `limit`, or all.
        """
        self.seen += len(texts)
        for item, emitted, text in zip(labels, frames, texts, strict=True):
            needed = frames_needed(item)
            if needed <= emitted:
                continue
            self.count += 1
            if self.count == 1:
                rank_zero_warn(
                    f"text {text!r} needs {needed} frames, its audio gives {emitted}: it teaches nothing"
                )
        if self.seen >= ENOUGH:
            check_share(self.count, self.seen, self.limit)
