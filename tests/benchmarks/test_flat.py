"""The verdict of the soak."""

from __future__ import annotations

import os

import numpy as np
import pytest

from benchmarks.load import flat


def samples(memory, descriptors=None, threads=None) -> list[flat.Sample]:
    count = len(memory)
    descriptors = np.full(count, 20) if descriptors is None else descriptors
    threads = np.full(count, 8) if threads is None else threads
    return [
        flat.Sample(float(second), float(m), int(d), int(t))
        for second, (m, d, t) in enumerate(
            zip(memory, descriptors, threads, strict=True)
        )
    ]


def noise(size: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, size, 600)


def test_memory_that_settles_is_flat():
    memory = 1_000 - 400 * np.exp(-np.arange(600) / 40) + noise(3)
    growth = flat.judge(samples(memory))["rss_mib"]
    assert growth.flat
    assert growth.allowed == pytest.approx(30, rel=0.02)


def test_a_leak_is_not_flat_though_it_is_small():
    memory = 300 + 0.08 * np.arange(600) + noise(3)
    growth = flat.judge(samples(memory))["rss_mib"]
    assert not growth.flat
    assert growth.growth == pytest.approx(0.08 * 400, rel=0.05)
    assert growth.allowed == 16


def test_peaks_do_not_decide_where_they_come_again():
    memory = 1_000 + 300 * (np.arange(600) % 40 < 8) + noise(3)
    memory[-8:] += 300
    growth = flat.judge(samples(memory))["rss_mib"]
    assert growth.flat and growth.peak > 1_250


def test_a_leak_of_descriptors_is_not_flat():
    steady = np.full(600, 100.0)
    leaking = 20 + np.arange(600) // 60
    found = flat.judge(samples(steady, descriptors=leaking))
    assert not found["descriptors"].flat
    assert found["rss_mib"].flat and found["threads"].flat
    found = flat.judge(samples(steady, threads=leaking))
    assert not found["threads"].flat and found["descriptors"].flat


def test_what_shrinks_is_flat():
    memory = 2_000 - np.arange(600)
    assert flat.judge(samples(memory))["rss_mib"].flat


def test_too_few_samples_are_no_verdict():
    with pytest.raises(ValueError, match="Too few"):
        flat.judge(samples(np.full(5, 1.0)))


def test_a_sample_is_of_the_process():
    before = flat.take_sample(os.getpid(), 0)
    with open(os.devnull), open(os.devnull):
        block = np.ones(40 * 2**20, np.uint8)
        after = flat.take_sample(os.getpid(), 1)
    assert after.descriptors == before.descriptors + 2
    assert after.rss_mib - before.rss_mib > block.nbytes / 2**20 / 2
    with pytest.raises(OSError):
        flat.take_sample(2**30, 0)
