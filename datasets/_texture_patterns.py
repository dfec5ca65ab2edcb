"""The 25 kinds of texture of `drawn-textures`.

A pattern receives its texture's random numbers and coordinates in units of its period (x and y, float64 arrays of one
shape), and returns values in [0, 1] of that shape: how far along the texture's palette a point lies. Whatever it draws
from `random` is drawn once for a texture; what varies from place to place comes from the hashes of `_texture_noise`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from oodbench.datasets._texture_noise import (
    Array,
    cells,
    edge,
    fraction,
    hashed,
    noise,
    smooth,
    triangle,
    turbulence,
    wave,
)


class Random:
    """Random numbers of one texture. RandomState's uniform numbers and integers are the same in every NumPy."""

    def __init__(self, seed: int) -> None:
        self.state = np.random.RandomState(seed)

    def between(self, low: float, high: float) -> float:
        """A uniform number in [low, high)."""
        return low + (high - low) * float(self.state.random_sample())

    def whole(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return int(self.state.randint(low, high + 1))

    def seed(self) -> int:
        """A seed for `_texture_noise`, far from that of any other call."""
        return 64 * int(self.state.randint(0, 2**24))

    def chance(self, share: float = 0.5) -> bool:
        """True with that probability."""
        return float(self.state.random_sample()) < share


def stripes(random: Random, x: Array, y: Array) -> Array:
    """Straight stripes, sharp or soft, of one or two widths."""
    bands = edge(triangle(x), random.between(0.3, 0.7), random.between(0.15, 1))
    if random.chance():
        bands = 0.6 * bands + 0.4 * edge(triangle(x / random.whole(2, 4)), random.between(0.3, 0.7), 0.2)
    return bands


def ripples(random: Random, x: Array, y: Array) -> Array:
    """Wavy stripes that run together and apart, as in sand."""
    bend, seed = random.between(0.8, 2), random.seed()
    return wave(x + bend * noise(seed, x / 3, y / 5)) * (0.7 + 0.3 * noise(seed + 1, x, y))


def checks(random: Random, x: Array, y: Array) -> Array:
    """A chequerboard, its squares a little uneven in shade."""
    column, row = np.floor(x), np.floor(y * random.between(0.6, 1))
    odd = 2 * fraction((column + row) / 2)
    return 0.8 * odd + 0.2 * hashed(random.seed(), column, row)


def tartan(random: Random, x: Array, y: Array) -> Array:
    """Crossing bands of several widths, the same both ways."""
    edges = [random.between(0.1, 0.9) for _ in range(3)]

    def sett(t: Array) -> Array:
        return (edge(triangle(t / 2), edges[0], 0.05) + edge(triangle(t), edges[1], 0.1)) / 2

    twill = edge(triangle(3 * (x + y)), 0.5, 0.3)
    return sett(x) * twill + sett(y) * (1 - twill)


def dots(random: Random, x: Array, y: Array) -> Array:
    """Equal dots or rings on a square or staggered lattice."""
    x = x + 0.5 * random.whole(0, 1) * np.floor(y)
    from_x, from_y = fraction(x) - 0.5, fraction(y) - 0.5
    distance = np.sqrt(from_x * from_x + from_y * from_y)
    dot = 1 - edge(distance, random.between(0.2, 0.4), random.between(0.08, 0.3))
    return dot * edge(distance, 0.12, 0.1) if random.chance(0.3) else dot


def confetti(random: Random, x: Array, y: Array) -> Array:
    """Dots of several shades, thrown at random."""
    distance, _, owner = cells(random.seed(), x, y, random.between(0.6, 1))
    return (1 - edge(distance, 0.15 + 0.25 * owner, 0.12)) * (0.35 + 0.65 * fraction(7 * owner))


def bricks(random: Random, x: Array, y: Array) -> Array:
    """A wall of bricks in running bond, each of its own shade, with mortar between."""
    row = np.floor(y)
    x = x / random.between(1.8, 2.6) + random.between(0.3, 0.5) * row
    joint = random.between(0.06, 0.14)
    inside = edge(np.minimum(triangle(x) * 2, triangle(y)), 2 * joint, joint)
    seed = random.seed()
    return inside * (0.45 + 0.4 * hashed(seed, np.floor(x), row) + 0.15 * noise(seed + 1, 12 * x, 6 * y))


def tiles(random: Random, x: Array, y: Array) -> Array:
    """Square tiles, each with a slope of shade across it and dark joints."""
    seed, column, row = random.seed(), np.floor(x), np.floor(y)
    slope = (fraction(x) + fraction(y)) / 2
    shade = 0.3 + 0.4 * hashed(seed, column, row) + 0.3 * slope
    return shade * edge(np.minimum(triangle(x), triangle(y)), random.between(0.08, 0.2), 0.1)


def honeycomb(random: Random, x: Array, y: Array) -> Array:
    """Hexagons with walls, hollow or domed."""
    nearest, second = np.full_like(x, 9.0), np.full_like(x, 9.0)
    for down in (-1, 0, 1):
        row = np.floor(y) + down
        stagger = fraction(row / 2)  # 0 or a half
        for across in (-1, 0, 1):
            to_x = np.floor(x - stagger) + across + 0.5 + stagger - x
            to_y = 0.866 * (row + 0.5 - y)
            distance = np.sqrt(to_x * to_x + to_y * to_y)
            nearest, second = np.minimum(nearest, distance), np.minimum(np.maximum(nearest, distance), second)
    dome = 1 - random.between(0, 1.2) * np.minimum(nearest, 0.6)
    return edge(second - nearest, random.between(0.1, 0.25), 0.1) * dome


def weave(random: Random, x: Array, y: Array) -> Array:
    """Threads that pass over and under each other."""
    seed, width = random.seed(), random.between(0.75, 0.95)
    over = 2 * fraction((np.floor(x) + np.floor(y)) / 2)
    warp = (
        smooth(triangle(x) / width) * (0.6 + 0.4 * triangle(y + 0.5)) * (0.8 + 0.2 * hashed(seed, np.floor(x), 0 * y))
    )
    weft = (
        smooth(triangle(y) / width) * (0.6 + 0.4 * triangle(x + 0.5)) * (0.6 + 0.2 * hashed(seed, 0 * x, np.floor(y)))
    )
    return np.where(over > 0.5, warp, weft)


def knit(random: Random, x: Array, y: Array) -> Array:
    """Columns of V-shaped stitches."""
    across = triangle(x)
    stitch = fraction(y + random.between(0.5, 0.9) * across)
    bulge = smooth(triangle(stitch) * 1.5) * smooth(triangle(2 * x) * 2)
    return bulge * (0.75 + 0.25 * hashed(random.seed(), np.floor(2 * x), np.floor(y)))


def scales(random: Random, x: Array, y: Array) -> Array:
    """Overlapping rows of round scales, dark towards the edge."""
    seed = random.seed()
    value = np.zeros_like(x)
    y = 2 * y
    for down in (1, 0, -1):  # a higher row lies on top of the next
        row = np.floor(y) + down
        shifted = x + fraction(row / 2)
        from_x, from_y = fraction(shifted) - 0.5, 0.5 * (y - row)
        distance = np.sqrt(from_x * from_x + from_y * from_y)
        shade = (0.55 + 0.45 * hashed(seed, np.floor(shifted), row)) * (1 - smooth(1.6 * distance))
        value = np.where((distance < 0.56) & (from_y >= 0), shade, value)
    return value


def zigzag(random: Random, x: Array, y: Array) -> Array:
    """Chevrons: stripes that turn at sharp corners."""
    bands = fraction(x + random.between(0.6, 1.4) * triangle(y / 2))
    return edge(triangle(bands), random.between(0.35, 0.65), random.between(0.15, 0.6))


def cracks(random: Random, x: Array, y: Array) -> Array:
    """Dry ground: plates of uneven shade between dark cracks."""
    seed = random.seed()
    bent_x, bent_y = x + 0.3 * noise(seed, 3 * x, 3 * y), y + 0.3 * noise(seed + 1, 3 * x, 3 * y)
    first, second, owner = cells(seed + 2, bent_x, bent_y)
    plate = 0.6 + 0.2 * owner + 0.2 * turbulence(seed + 8, 3 * x, 3 * y, 3)
    return plate * edge(second - first, random.between(0.05, 0.15), 0.12)


def mosaic(random: Random, x: Array, y: Array) -> Array:
    """Irregular plates, each of one shade; or with its edges lit."""
    first, second, owner = cells(random.seed(), x, y, random.between(0.5, 1))
    return owner * (edge(second - first, 0.08, 0.08) if random.chance() else 1 - 0.25 * first)


def pebbles(random: Random, x: Array, y: Array) -> Array:
    """Round stones of many shades, lit from one side, with shadows between."""
    seed = random.seed()
    first, second, owner = cells(seed, x, y, 0.8)
    dome = 1 - smooth(1.5 * first)
    lit = cells(seed, x + 0.12, y + 0.12, 0.8)[0] - first
    return np.clip((0.25 + 0.5 * owner) * edge(second - first, 0.08, 0.16) + 0.3 * dome + 1.5 * lit - 0.1, 0, 1)


def clouds(random: Random, x: Array, y: Array) -> Array:
    """Soft noise, or billows with creases."""
    values = turbulence(random.seed(), x / 2, y / 2, random.whole(3, 5), folded=random.chance())
    return smooth(2.2 * values - 0.6)


def marble(random: Random, x: Array, y: Array) -> Array:
    """Thin veins along a direction, bent by turbulence."""
    swirl = turbulence(random.seed(), x / 2, y / 2, 5)
    vein = triangle(x / 3 + random.between(1.5, 4) * swirl)
    return np.sqrt(np.sqrt(vein)) if random.chance() else vein


def wood(random: Random, x: Array, y: Array) -> Array:
    """Yearly rings of a trunk cut lengthwise, with fine grain."""
    seed = random.seed()
    from_x, from_y = x / 2 + 0.6 * noise(seed, x / 4, y / 12) + random.between(1, 4), y / random.between(12, 30)
    radius = np.sqrt(from_x * from_x + from_y * from_y)
    ring = fraction(random.between(1, 2.5) * radius)
    return (0.25 + 0.6 * ring * edge(ring, 0.1, 0.2)) * (0.75 + 0.25 * noise(seed + 1, 9 * x, y / 2))


def fibres(random: Random, x: Array, y: Array) -> Array:
    """Fur or brushed metal: noise stretched along a slowly turning direction."""
    seed = random.seed()
    bend = random.between(0, 3) * noise(seed, x / 6, y / 6)
    length = random.between(4, 12)
    coarse, fine = noise(seed + 1, 1.5 * x + bend, y / length), noise(seed + 2, 4 * x + 2 * bend, y / length * 2)
    return smooth(0.65 * coarse + 0.55 * fine - 0.1)


def hatching(random: Random, x: Array, y: Array) -> Array:
    """Pen strokes in one or two directions, broken off here and there."""
    seed, paper = random.seed(), np.ones_like(x)
    for layer in range(random.whole(1, 2)):
        wobble = 0.3 * noise(seed + 8 * layer, x / 2, y / 2)
        thin = edge(triangle(x + wobble), random.between(0.25, 0.45), 0.2)
        gap = edge(noise(seed + 8 * layer + 1, np.floor(x + wobble), y / 3), random.between(0.1, 0.4), 0.1)
        paper = paper * np.maximum(thin, 1 - gap)
        x, y = 0.6 * x + 0.8 * y, 0.6 * y - 0.8 * x
    return paper


def camouflage(random: Random, x: Array, y: Array) -> Array:
    """Blotches of a few flat shades."""
    levels = random.whole(2, 4)
    values = turbulence(random.seed(), x / 1.5, y / 1.5, random.whole(2, 3))
    return np.clip(np.floor(levels * (2 * values - 0.5)), 0, levels - 1) / (levels - 1)


def granite(random: Random, x: Array, y: Array) -> Array:
    """Mottled stone: flecks of several sizes over a blotchy ground."""
    seed = random.seed()
    value = 0.3 + 0.4 * turbulence(seed, x, y, 3)
    for layer, size in enumerate((1.5, 3.0, 5.0)):
        _, _, owner = cells(seed + 8 + 8 * layer, size * x, size * y)
        value = np.where(owner > random.between(0.7, 0.9), random.between(0, 1), value)
    return value


def labyrinth(random: Random, x: Array, y: Array) -> Array:
    """Bands that wind and fork, as on a zebra or a brain coral."""
    values = 0.7 * noise(seed := random.seed(), x, y) + 0.3 * noise(seed + 1, 0.6 * x - 0.8 * y, 0.8 * x + 0.6 * y)
    return edge(triangle(random.between(2, 4) * values), 0.5, random.between(0.2, 0.8))


def triangles(random: Random, x: Array, y: Array) -> Array:
    """Squares cut along a diagonal, every half of its own shade."""
    column, row = np.floor(x), np.floor(y)
    flipped = hashed(seed := random.seed(), column, row) < random.between(0, 0.6)
    from_x = np.where(flipped, 1 - fraction(x), fraction(x))
    upper = from_x > fraction(y)
    return np.where(upper, hashed(seed + 1, column, row), hashed(seed + 2, column, row))


PATTERNS: tuple[Callable[[Random, Array, Array], Array], ...] = (
    stripes, ripples, checks, tartan, dots, confetti, bricks, tiles, honeycomb, weave, knit, scales, zigzag, cracks,
    mosaic, pebbles, clouds, marble, wood, fibres, hatching, camouflage, granite, labyrinth, triangles,
)  # fmt: skip
"""The order decides the numbers of the groups."""
