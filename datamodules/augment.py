"""Mild augmentation of training audio: speed, room, noise, gain. Pure functions on signals `(S,)` at 16 kHz.

Everything is drawn from a key (seed, epoch, utterance id), so that a resumed run gets the same audio.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import isfinite

import torch
import torchaudio
from torch import Tensor

from datamodules.audio_file import SAMPLE_RATE
from qat.system.errors import UserError
from qat.system.seeds import hashed_seed

SPEEDS = {0.9: (9, 10), 1.0: (1, 1), 1.1: (11, 10)}
"""Speed: resampling ratio (from, to). After Ko et al. 2015, "Audio augmentation for speech recognition"."""
SLOWEST = min(SPEEDS)
_BLOCK = 16_384  # fastest for responses of 0.1 to 0.4 s
_BANK_SAMPLES = 1 << 19  # 33 s of each noise, drawn once: it repeats in longer utterances


@dataclass(frozen=True)
class Augmentation:
    """How strongly training audio is varied.

    Args:
        room_share: share of the utterances that get the reverberation of a room, in [0, 1].
        noise_share: share of the utterances with noise, in [0, 1].
        noise_snr_db: range of signal energy over noise energy, lowest first.

    Raises:
        UserError: a value outside its range.
    """

    room_share: float = 1 / 3
    noise_share: float = 1 / 2
    noise_snr_db: tuple[float, float] = (10.0, 30.0)

    def __post_init__(self) -> None:
        for name in ("room_share", "noise_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"{name} is {getattr(self, name)}; must be a number from 0 to 1")
        low_high = [value for value in self.noise_snr_db if isfinite(value)]
        if len(self.noise_snr_db) != 2 or len(low_high) != 2 or low_high[0] > low_high[1]:
            raise UserError(f"noise_snr_db is {list(self.noise_snr_db)}; must be two numbers, lowest first")


def augment(
    signal: Tensor, seed: int, epoch: int, utterance_id: str, how: Augmentation = Augmentation()
) -> Tensor:
    """Applies a random speed, a room to some utterances, noise to some, then a gain.

    Args:
        signal: audio `(S,)`, float32 in [-1, 1], S at least 1.
        seed: data seed.
        epoch: training epoch.
        utterance_id: the same (seed, epoch, utterance_id) always give the same result.
        how: shares and noise level.

    Returns:
        Audio `(S',)` in [-1, 1], S' at most S / 0.9 rounded up.
    """
    generator = keyed_generator(seed, epoch, utterance_id)
    draw = torch.rand(9, generator=generator).tolist()
    signal = change_speed(signal, sorted(SPEEDS)[int(draw[0] * len(SPEEDS))])
    if draw[1] < how.room_share:
        signal = add_room(signal, room_response(0.1 + 0.3 * draw[2], 12.0 * draw[3], generator))
    if draw[4] < how.noise_share:
        color = "pink" if draw[5] < 1 / 2 else "white"
        noise = noise_like(signal.numel(), color, offset=int(draw[6] * _BANK_SAMPLES))
        low, high = how.noise_snr_db
        signal = add_noise(signal, noise, snr_db=low + (high - low) * draw[7])
    return change_gain(signal, gain_db=12.0 * draw[8] - 6.0)


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by a hash of `key`: equal keys give equal draws in any process."""
    return torch.Generator().manual_seed(hashed_seed(*key))


def change_speed(signal: Tensor, speed: float) -> Tensor:
    """Changes `(S,)` to one of `SPEEDS` by resampling, which shifts the pitch too: `(ceil(S / speed),)`.

    >>> change_speed(torch.zeros(900), 0.9).numel()
    1000
    """
    source, target = SPEEDS[speed]
    if source == target:
        return signal
    changed: Tensor = _resampler(source, target)(signal)
    return changed


@lru_cache
def _resampler(source: int, target: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(source, target)


def room_response(rt60_s: float, direct_to_reverberant_db: float, generator: torch.Generator) -> Tensor:
    """A synthetic room: a direct impulse, then noise that decays by 60 dB in `rt60_s` seconds (Polack 1988).

    Args:
        rt60_s: reverberation time, above 0; 0.1 to 0.4 is a furnished room.
        direct_to_reverberant_db: energy of the impulse over the energy of the tail.
        generator: source of the noise.

    Returns:
        Impulse response `(rt60_s * 16000,)` whose first sample is 1.
    """
    count = max(2, int(rt60_s * SAMPLE_RATE))
    decay = torch.exp(torch.arange(count) * (-3.0 * 2.302585 / count))
    tail = torch.randn(count, generator=generator) * decay
    tail[0] = 0.0
    tail *= 10.0 ** (-direct_to_reverberant_db / 20.0) / tail.norm()
    tail[0] = 1.0
    return tail


def add_room(signal: Tensor, response: Tensor) -> Tensor:
    """Convolves `(S,)` with `response`, cuts at S samples and keeps the signal's energy.

    >>> add_room(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0]))
    tensor([1., 2., 3.])
    """
    wet = convolve(signal, response)
    return wet * (signal.norm() / wet.norm().clamp_min(1e-12))


def convolve(signal: Tensor, response: Tensor) -> Tensor:
    """The first S samples of `(S,)` convolved with `(R,)`, by Fourier transform.

    Works on blocks (overlap-add), which takes a third of the time of one transform over the whole signal.
    """
    size = _BLOCK
    while size < 2 * response.numel():
        size *= 2
    step = size - response.numel() + 1
    count = -(-signal.numel() // step)
    blocks = torch.nn.functional.pad(signal, (0, count * step - signal.numel())).view(count, step)
    wet = torch.fft.irfft(torch.fft.rfft(blocks, size) * torch.fft.rfft(response, size), size)
    head, tail = wet[:, :step].clone(), wet[:-1, step:]  # a tail reaches only the next block
    head[1:, : tail.shape[1]] += tail
    return head.reshape(-1)[: signal.numel()]


def add_noise(signal: Tensor, noise: Tensor, snr_db: float) -> Tensor:
    """Adds `noise` `(S,)` scaled so that signal energy over noise energy is `snr_db`; silence stays silent.

    >>> noisy = add_noise(torch.ones(4), torch.tensor([1.0, -1.0, 1.0, -1.0]), snr_db=20.0)
    >>> [round(x, 4) for x in noisy.tolist()]
    [1.1, 0.9, 1.1, 0.9]
    """
    scale = signal.norm() / noise.norm().clamp_min(1e-12) * 10.0 ** (-snr_db / 20.0)
    return torch.add(signal, noise * scale)


def change_gain(signal: Tensor, gain_db: float) -> Tensor:
    """Scales by `gain_db`, or by as much as leaves the peak at 1."""
    peak = float(signal.abs().max())
    gain = 10.0 ** (gain_db / 20.0)
    return signal * min(gain, 1.0 / max(peak, 1e-12))


def noise_like(count: int, color: str, offset: int) -> Tensor:
    """`count` samples of unit-variance "white" or "pink" noise: a bank of 33 s from `offset` on, wrapping."""
    bank = _noise_bank(color)
    first = bank[offset : offset + count]
    if first.numel() == count:
        return first
    return torch.cat([first, bank.repeat(-(-count // _BANK_SAMPLES))])[:count]


@lru_cache
def _noise_bank(color: str) -> Tensor:
    white = torch.randn(_BANK_SAMPLES, generator=keyed_generator("noise bank", color))
    if color == "white":
        return white
    spectrum = torch.fft.rfft(white)
    spectrum[1:] /= torch.arange(1, spectrum.numel()).sqrt()  # power falls as 1 / f
    spectrum[0] = 0.0
    pink = torch.fft.irfft(spectrum, _BANK_SAMPLES)
    return pink / pink.std()
