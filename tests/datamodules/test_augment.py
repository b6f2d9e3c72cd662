import math
import time

import numpy as np
import pytest
import torch

from datamodules import augment as module
from datamodules.augment import (
    SLOWEST,
    SPEEDS,
    Augmentation,
    add_noise,
    add_room,
    augment,
    change_gain,
    change_speed,
    convolve,
    keyed_generator,
    noise_like,
    room_response,
)
from qat.system.errors import UserError


def tone(seconds=1.0, frequency_hz=440.0):
    return 0.5 * torch.sin(2 * math.pi * frequency_hz * torch.arange(int(16_000 * seconds)) / 16_000)


def peak_frequency_hz(signal):
    return torch.fft.rfft(signal * torch.hann_window(signal.numel())).abs().argmax() * 16_000 / signal.numel()


def test_equal_keys_give_equal_audio_and_any_other_key_gives_other_audio():
    signal = tone()
    once = augment(signal, 0, 1, "a")
    torch.rand(10)  # the global generator plays no part
    assert torch.equal(once, augment(signal, 0, 1, "a"))
    for key in [(1, 1, "a"), (0, 2, "a"), (0, 1, "b")]:
        assert not torch.equal(once, augment(signal, *key)[: once.numel()])


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    augment(tone(), 0, 0, "a")
    assert torch.equal(before, torch.get_rng_state())


def test_input_is_not_changed():
    signal = tone()
    for i in range(20):
        augment(signal, 0, 0, str(i))
    assert torch.equal(signal, tone())


@pytest.mark.parametrize("samples", [1, 2, 399, 16_001])
def test_any_length_stays_in_range_finite_and_within_the_longest(samples):
    signal = torch.rand(samples, generator=keyed_generator(samples)) * 2 - 1
    for i in range(40):
        varied = augment(signal, 0, 0, str(i))
        assert varied.dtype == torch.float32 and varied.dim() == 1
        assert 1 <= varied.numel() <= math.ceil(samples / SLOWEST)
        assert varied.isfinite().all() and varied.abs().max() <= 1.0 + 1e-6  # one rounding of float32


@pytest.mark.parametrize(
    "wrong",
    [{"room_share": 1.5}, {"noise_share": -0.1}, {"noise_snr_db": (30.0, 10.0)}, {"noise_snr_db": (1.0,)}],
)
def test_a_strength_out_of_range_is_an_error_that_names_it(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=name):
        Augmentation(**wrong)


def test_strength_bounds_the_noise_and_zero_shares_leave_speed_and_gain_only():
    signal = torch.randn(16_000, generator=keyed_generator(1)) * 0.1
    still = Augmentation(room_share=0.0, noise_share=0.0)
    for i in range(30):
        varied = augment(signal, 0, 0, str(i), still)
        plain = [change_speed(signal, speed) for speed in SPEEDS]
        same = [p for p in plain if p.numel() == varied.numel()]
        assert any(torch.allclose(varied / varied.norm(), p / p.norm(), atol=1e-6) for p in same)
    always = Augmentation(room_share=0.0, noise_share=1.0, noise_snr_db=(20.0, 40.0))
    ratios = []
    for i in range(90):
        varied = augment(signal, 0, 0, str(i), always)
        if varied.numel() == signal.numel():
            gain = (varied @ signal) / (signal @ signal)
            ratios.append(20 * math.log10(float(signal.norm() * gain / (varied - gain * signal).norm())))
    assert len(ratios) > 15 and 19.0 < min(ratios) < 27.0 and 33.0 < max(ratios) < 41.0


def test_silence_stays_silent():
    assert all(augment(torch.zeros(8_000), 0, 0, str(i)).abs().max() == 0 for i in range(20))


def test_the_three_speeds_are_drawn_about_equally_often():
    lengths = [augment(tone(0.05), 0, 0, str(i)).numel() for i in range(600)]
    counts = [lengths.count(change_speed(tone(0.05), speed).numel()) for speed in SPEEDS]
    sigma = math.sqrt(600 * (1 / 3) * (2 / 3))
    assert sum(counts) == 600 and all(abs(c - 200) < 4 * sigma for c in counts)


@pytest.mark.parametrize("speed", sorted(SPEEDS))
def test_speed_moves_length_and_pitch(speed):
    changed = change_speed(tone(), speed)
    assert changed.numel() == math.ceil(16_000 / speed)
    assert peak_frequency_hz(changed) == pytest.approx(440.0 * speed, abs=1.0)


def test_noise_has_the_asked_ratio():
    signal, noise = tone(), noise_like(16_000, "white", 5)
    added = add_noise(signal, noise, snr_db=15.0) - signal
    assert 20 * torch.log10(signal.norm() / added.norm()) == pytest.approx(15.0, abs=1e-3)


def test_white_noise_is_flat_and_pink_noise_falls_by_3_db_per_octave():
    for color, slope_db in [("white", 0.0), ("pink", -3.01)]:
        power = torch.fft.rfft(noise_like(1 << 19, color, 0)).abs() ** 2
        octaves_db = [10 * torch.log10(power[1 << k : 2 << k].mean()) for k in range(10, 18)]
        steps = [float(b - a) for a, b in zip(octaves_db, octaves_db[1:], strict=False)]
        assert sum(steps) / len(steps) == pytest.approx(slope_db, abs=0.2)


def test_noise_wraps_round_its_bank():
    bank = noise_like(1 << 19, "white", 0)
    wrapped = noise_like(1000, "white", (1 << 19) - 400)
    assert torch.equal(wrapped, torch.cat([bank[-400:], bank[:600]]))
    assert noise_like((1 << 20) + 7, "white", 3).numel() == (1 << 20) + 7


@pytest.mark.parametrize(
    "samples, taps", [(1, 2), (5_000, 1_600), (20_000, 6_400), (20_000, 9_000), (16_384, 1)]
)
def test_convolution_equals_the_direct_sum(samples, taps):
    signal, response = torch.randn(samples), torch.randn(taps) / taps
    direct = np.convolve(signal.double().numpy(), response.double().numpy())[:samples]
    np.testing.assert_allclose(convolve(signal, response).numpy(), direct, atol=1e-5)  # float32 transform


def test_room_decays_by_60_db_and_keeps_direct_sound_first():
    response = room_response(0.4, direct_to_reverberant_db=6.0, generator=keyed_generator("room"))
    assert response.numel() == 6_400 and response[0] == 1.0
    assert 20 * torch.log10(response[1:].norm()) == pytest.approx(-6.0, abs=1e-3)
    early, late = response[1:641].norm(), response[-640:].norm()  # 90 % of the time apart: 54 dB
    assert 20 * torch.log10(early / late) == pytest.approx(54.0, abs=2.0)


def test_room_keeps_energy_and_adds_a_tail():
    click = torch.zeros(16_000)
    click[100] = 1.0
    wet = add_room(click, room_response(0.3, 3.0, keyed_generator(0)))
    assert wet.norm() == pytest.approx(1.0, abs=1e-5)
    assert wet[:100].abs().max() < 1e-5 and wet[101:4000].norm() > 0.3


def test_gain_is_exact_until_the_peak_reaches_one():
    assert change_gain(tone(), 6.0).abs().max() <= 1.0
    torch.testing.assert_close(change_gain(tone(), -6.0), tone() * 10 ** (-6 / 20))
    assert change_gain(tone() * 1.5, 6.0).abs().max() == pytest.approx(1.0)


def test_is_cheap():
    torch.set_num_threads(1)
    signal = tone(5.0)
    augment(signal, 0, 0, "warm up"), module._noise_bank("pink"), module._noise_bank("white")
    start = time.process_time()
    for i in range(60):
        augment(signal, 0, 0, str(i))
    assert (
        time.process_time() - start
    ) / 60 < 0.010  # 1.5 ms measured for 5 s of audio; room for slow CI machines
