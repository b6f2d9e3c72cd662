"""Training items that cannot be used: each is logged and counted, and one more than is allowed stops the run."""

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from datamodules.audio_file import Recording
from datamodules.utterance import Utterance
from qat.system.errors import UserError

_log = logging.getLogger(__name__)


def count_skipped(reason: str, count: int, limit: int) -> None:
    """Log the `count`-th item that cannot be used.

    Raises:
        UserError: it is one more than `limit`.
    """
    if count > limit:
        raise UserError(f"{reason} (item {count} to skip; max_corrupt is {limit})")
    _log.warning(f"skipped ({count} of at most {limit} per worker): {reason}")


def too_long(item: Utterance, max_batch_s: float) -> str:
    """What is said of an utterance that no batch can hold."""
    return f"{item.audio}: lasts {item.duration_s:.1f} s; must be at most a batch, {max_batch_s:g} s"


@dataclass
class Skipped:
    """The items of a listed corpus that were skipped, each counted once however often it is met.

    Args:
        limit: how many may be skipped.
        items: those that were.
        decoded: recordings that can be read, as far as anybody asked.
    """

    limit: int
    items: set[Hashable] = field(default_factory=set)
    decoded: set[Recording] = field(default_factory=set)

    def add(self, item: Hashable, reason: str) -> None:
        """Skip an item.

        Raises:
            UserError: it is one more than `limit`.
        """
        if item not in self.items:
            self.items.add(item)
            count_skipped(reason, len(self.items), self.limit)

    def reads(self, recording: Recording, load: Callable[[Recording], object]) -> bool:
        """Whether a recording can be decoded; it is skipped where it cannot.

        Raises:
            UserError: it cannot, and it is one more than `limit`.
        """
        if recording not in self.decoded:
            try:
                load(recording)
            except UserError as error:
                self.add(recording, str(error))
                return False
            self.decoded.add(recording)
        return True
