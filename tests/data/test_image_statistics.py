"""Statistics of single images against plain loops over pixels, in blocks, and for grey images in 1 and 3 channels."""

from __future__ import annotations

import cmath
import math
import statistics as python_statistics
import tracemalloc
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from oodbench.benchmark.data import image_statistics
from oodbench.benchmark.data.image_statistics import EDGE, STATISTICS, statistics
from tests.support import noise_images


def grey_of(image: np.ndarray) -> list[list[float]]:
    channels, height, width = image.shape
    return [[sum(int(v) for v in image[:, y, x]) / channels for x in range(width)] for y in range(height)]


def neighbours(rows: list[list[float]]) -> Iterator[float]:
    height, width = len(rows), len(rows[0])
    for dy, dx in ((0, 1), (1, 0)):
        yield from (abs(rows[y][x] - rows[y + dy][x + dx]) for y in range(height - dy) for x in range(width - dx))


def patches(rows: list[list[float]]) -> list[list[float]]:
    return [
        [rows[y + dy][x + dx] for dy in range(3) for dx in range(3)]
        for y in range(len(rows) - 2)
        for x in range(len(rows[0]) - 2)
    ]


def entropy(values: list[int]) -> float:
    return -sum(n / len(values) * math.log2(n / len(values)) for n in Counter(values).values())


def slope(rows: list[list[float]]) -> float:
    height, width = len(rows), len(rows[0])
    side = min(height, width)
    rings: dict[int, list[float]] = {}
    for ky in range(height):
        for kx in range(width):
            total = sum(
                rows[y][x] * cmath.exp(-2j * math.pi * (ky * y / height + kx * x / width))
                for y in range(height)
                for x in range(width)
            )
            nearest = [min(k, n - k) / n for k, n in ((ky, height), (kx, width))]
            ring = round(math.hypot(*nearest) * side)
            rings.setdefault(ring, []).append(abs(total) ** 2 / (height * width))
    used = range(1, side // 2 + 1)
    if len(used) < 2:
        return 0.0
    logs = [math.log(python_statistics.fmean(rings[ring]) + 1) for ring in used]
    return python_statistics.linear_regression([math.log(ring) for ring in used], logs).slope


def residuals(image: np.ndarray) -> list[int]:
    found = []
    for channel in image.astype(int):
        for y in range(1, channel.shape[0]):
            for x in range(1, channel.shape[1]):
                left, above, corner = channel[y, x - 1], channel[y - 1, x], channel[y - 1, x - 1]
                guess = sorted((left, above, left + above - corner))[1]
                found.append(int(channel[y, x] - guess) % 256)
    return found


def naive(image: np.ndarray) -> dict[str, float]:
    values, grey = [int(v) for v in image.ravel()], grey_of(image)
    height, width = image.shape[1:]
    pixels = [[int(v) for v in image[:, y, x]] for y in range(height) for x in range(width)]
    border = [
        int(v)
        for y in range(height)
        for x in range(width)
        if y in (0, height - 1) or x in (0, width - 1)
        for v in image[:, y, x]
    ]
    steps = [step for channel in image for step in neighbours([[int(v) for v in row] for row in channel])]
    local = [python_statistics.pstdev(patch) for patch in patches(grey)]
    return {
        "pixel mean": python_statistics.fmean(values),
        "pixel std": python_statistics.pstdev(values),
        "pixel gradient": max(steps),
        "border mean": python_statistics.fmean(border),
        "colour difference": python_statistics.fmean(max(p) - min(p) for p in pixels),
        "red minus blue": python_statistics.fmean(p[0] - p[-1] for p in pixels),
        "spectrum slope": slope(grey),
        "local std": python_statistics.fmean(local) if local else 0.0,
        "flat patches": python_statistics.fmean(len(set(patch)) == 1 for patch in patches(grey)) if local else 0.0,
        "edge density": python_statistics.fmean(step > EDGE for step in neighbours(grey)),
        "residual entropy": entropy(residuals(image)) if residuals(image) else 0.0,
        "value entropy": entropy(values),
    }


def test_there_are_about_a_dozen_and_each_is_tested() -> None:
    assert list(STATISTICS) == list(naive(noise_images(1, shape=(3, 6, 6))[0]))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 7, 9), (3, 5, 6), (2, 4, 5), (1, 2, 9), (3, 3, 3)])
@pytest.mark.parametrize("levels", [256, 40, 2])
def test_statistics_are_those_of_plain_loops(shape: tuple[int, int, int], levels: int) -> None:
    images = noise_images(4, shape=shape) // (256 // levels)
    images[1, :, : shape[1] // 2 + 1] = 7  # flat patches
    images[2] = images[2, :1]  # grey
    found = statistics(images)
    for row, image in enumerate(images):
        expected = naive(image)
        for name, values in found.items():
            assert values[row] == pytest.approx(expected[name], rel=1e-9, abs=1e-9), name


def test_known_values() -> None:
    flat = np.full((1, 3, 8, 8), 90, np.uint8)
    values = {name: float(found[0]) for name, found in statistics(flat).items()}
    assert values == {
        **dict.fromkeys(STATISTICS, 0.0), "pixel mean": 90.0, "border mean": 90.0, "flat patches": 1.0,
    }  # fmt: skip
    tinted = flat.copy()
    tinted[:, 0] += 13
    tinted[:, 2] -= 13
    values = {name: float(found[0]) for name, found in statistics(tinted).items()}
    assert (values["colour difference"], values["red minus blue"], values["pixel mean"]) == (26.0, 26.0, 90.0)
    ramp = np.tile(np.arange(0, 160, 10, dtype=np.uint8), (1, 1, 16, 1))
    assert statistics(ramp)["residual entropy"][0] == 0.0, "a ramp is predicted without error"
    assert statistics(noise_images(1, shape=(3, 64, 64)))["residual entropy"][0] > 7.9
    assert abs(statistics(noise_images(1, shape=(1, 64, 64)))["spectrum slope"][0]) < 0.1, "white noise"


def test_images_with_power_that_falls_with_frequency_have_that_slope() -> None:
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)) * 64
    amplitude = 1 / np.maximum(frequency, 1)
    noise = np.fft.fft2(np.random.RandomState(0).standard_normal((4, 64, 64)))
    fields = np.fft.ifft2(noise * amplitude).real
    images = np.clip(127 + 40 * fields / fields.std(), 0, 255).astype(np.uint8)[:, None]
    assert statistics(images)["spectrum slope"] == pytest.approx(np.full(4, -2.0), abs=0.25)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 31, 33), (1, 1, 5), (1, 2, 2)])
def test_a_grey_image_and_its_repeat_in_three_channels_are_the_same_bits(shape: tuple[int, int, int]) -> None:
    images = noise_images(9, shape=shape)
    one, three = statistics(images), statistics(np.repeat(images, 3, axis=1))
    assert {name: values.tobytes() for name, values in one.items()} == {n: v.tobytes() for n, v in three.items()}


@pytest.mark.parametrize("block", [1, 3 * 31 * 33, 5 * 3 * 31 * 33 + 7, 1 << 20])
def test_blocks_change_no_bit_of_a_statistic(block: int) -> None:
    images = noise_images(23, shape=(3, 31, 33))
    for flipped in (images, images[:, :, ::-1]):
        whole = [statistic.of(flipped) for statistic in STATISTICS.values()]
        assert [part.tobytes() for part in statistics(flipped, block).values()] == [array.tobytes() for array in whole]


@pytest.mark.parametrize("channels", [1, 3])
def test_temporaries_of_big_images_are_small(channels: int) -> None:
    images = np.zeros((40, channels, 256, 256), np.uint8)
    tracemalloc.start()
    statistics(images)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 80 * image_statistics.BLOCK, f"{peak / 2**20:.0f} MiB"
