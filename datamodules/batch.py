"""What a loader yields: a zero-padded batch of utterances."""

from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.utterance import Utterance


@dataclass
class Batch:
    """A zero-padded batch.

    Attributes:
        signal: audio at 16 kHz `(B, S)`, float32 in [-1, 1], zero after each utterance's end.
        lengths: true number of samples `(B,)`, int64, always on the CPU: packing and the CTC loss want them there.
        texts: references, in batch order.
        ids: utterance ids, in batch order.
    """

    signal: Tensor
    lengths: Tensor
    texts: list[str]
    ids: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Returns the batch with its signal on `device`; the lengths stay.

        Lightning asks for a blocking copy, which would wait for the whole step before; one to a GPU need not block.
        """
        non_blocking = non_blocking or torch.device(device).type != "cpu"
        signal = self.signal.to(device, non_blocking=non_blocking)
        return Batch(signal, self.lengths, self.texts, self.ids)

    def pin_memory(self) -> "Batch":
        """Returns the batch with its signal in page-locked memory; the loader calls this when there is a GPU."""
        return Batch(self.signal.pin_memory(), self.lengths, self.texts, self.ids)


def collate(items: list[tuple[Utterance, Tensor]], multiple: int = 1) -> Batch:
    """Pads the signals of `items` with zeros to the longest, and on to a multiple of samples.

    Args:
        items: at least one pair of an utterance and its signal `(S_i,)`.
        multiple: the padded length S is divisible by it; at least 1.

    >>> from pathlib import Path
    >>> batch = collate([
    ...     (Utterance("a", Path("a.wav"), "one", 0.1), torch.ones(2)),
    ...     (Utterance("b", Path("b.wav"), "two", 0.1), torch.ones(3)),
    ... ])
    >>> batch.signal.tolist(), batch.lengths.tolist(), batch.texts
    ([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], [2, 3], ['one', 'two'])
    >>> collate([(Utterance("a", Path("a.wav"), "one", 0.1), torch.ones(5))], multiple=4).signal.shape
    torch.Size([1, 8])
    """
    utterances, signals = zip(*items, strict=True)
    lengths = torch.tensor([signal.numel() for signal in signals], dtype=torch.int64)
    padded = torch.nn.utils.rnn.pad_sequence(list(signals), batch_first=True)
    padded = torch.nn.functional.pad(padded, (0, -padded.shape[1] % multiple))
    return Batch(padded, lengths, [u.text for u in utterances], [u.id for u in utterances])
