"""PixMix: operations against Pillow's, mixtures against their formulas, and the pictures that are drawn for it."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from oodbench.benchmark import Task
from oodbench.benchmark.plugins.registry import registry
from oodbench.detectors._fractals import fractal_pictures, mixing_pictures
from oodbench.detectors._pixel_operations import (
    GEOMETRIC,
    OPERATIONS,
    OVERLAPPING,
    equalised,
    matrix,
    random_operation,
    recoloured,
    resampled,
)
from oodbench.detectors.pixmix import exponents, mixed_by_addition, mixed_by_multiplication, windows
from tests.detectors.recipe_setups import BATCH, CLASSES, SmallNet16
from tests.detectors.test_loss_recipes import batch, cross_entropy, one_hot, start

pytestmark = pytest.mark.usefixtures("one_thread")

LEVELS = (0.1, 1.7, 2.9, 6.3, 9.9)
SIDE = (15, 20)


def make(**settings: Any) -> Any:
    return registry.get("recipe", "pixmix")(**settings)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coloured(seed: int) -> np.ndarray:
    """A smooth picture, in which neighbours are alike, with few levels in one channel, uint8 (H, W, 3)."""
    random = np.random.RandomState(seed)
    rough = random.randint(20, 230, (4, 5, 3)).astype(np.uint8)
    picture: np.ndarray = np.array(Image.fromarray(rough).resize(SIDE[::-1], Image.Resampling.BICUBIC))
    picture[..., 2] = picture[..., 2] // 100 * 60
    return picture


def by_pillow(name: str, picture: np.ndarray, level: float, sign: int) -> np.ndarray:
    """As the authors apply it, with their units of the level."""
    image, (height, width) = Image.fromarray(picture), SIDE
    affine: dict[str, tuple[float, ...]] = {
        "shear_x": (1, sign * level * 0.3 / 10, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, sign * level * 0.3 / 10, 1, 0),
        "translate_x": (1, 0, sign * int(level * width / 3 / 10), 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, sign * int(level * height / 3 / 10)),
    }
    if name in affine:
        changed = image.transform((width, height), Image.Transform.AFFINE, affine[name], Image.Resampling.BILINEAR)
    elif name == "rotate":
        changed = image.rotate(sign * int(level * 30 / 10), Image.Resampling.BILINEAR)
    elif name in OVERLAPPING:
        changed = getattr(ImageEnhance, name.title())(image).enhance(level * 1.8 / 10 + 0.1)
    else:
        plain: dict[str, Any] = {
            "autocontrast": lambda: ImageOps.autocontrast(image),
            "equalize": lambda: ImageOps.equalize(image),
            "posterize": lambda: ImageOps.posterize(image, 4 - int(level * 4 / 10)),
            "solarize": lambda: ImageOps.solarize(image, 256 - int(level * 256 / 10)),
        }
        changed = plain[name]()
    return np.asarray(changed)


def by_us(name: str, pictures: np.ndarray, levels: Tensor, signs: Tensor) -> np.ndarray:
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    if name in GEOMETRIC:
        changed = resampled(images, matrix(name, levels, signs, SIDE))
    else:
        changed = recoloured(name, images, levels)
    return np.asarray((255 * changed).permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("name", (*OPERATIONS, *OVERLAPPING))
def test_operations_are_pillow_s_to_within_a_level(name: str) -> None:
    """To within two where Pillow rounds twice: luma or a smoothed image, and then what is between it and the image."""
    levels_off = 2.0 if name in OVERLAPPING else 1.01
    cases = [(level, sign) for level in LEVELS for sign in (-1, 1)]
    pictures = np.stack([coloured(number) for number in range(len(cases))])
    levels, signs = torch.tensor(cases).T
    ours = by_us(name, pictures, levels, signs)
    unlike = 0.0
    for (level, sign), picture, mine in zip(cases, pictures, ours, strict=True):
        theirs = by_pillow(name, picture, level, sign).astype(float)
        difference = np.abs(mine - theirs)
        # A rotated edge of the image may pass a pixel's centre on either side of it.
        assert (difference > levels_off).mean() <= (0.01 if name == "rotate" else 0), (level, sign, difference.max())
        unlike += float(np.abs(picture - theirs).mean())
    assert unlike > 1, "the operation changed nothing"


def test_equalise_leaves_a_constant_channel_alone() -> None:
    images = torch.full((1, 1, 4, 5), 77 / 255)
    assert torch.equal(equalised(images), images)


def test_each_image_has_an_operation_of_its_own() -> None:
    """Every operation is drawn as often as the others; images do not depend on what else is in their batch."""
    images = torch.from_numpy(coloured(3)).permute(2, 0, 1).float().div(255).expand(3000, 3, *SIDE)
    for overlapping in (False, True):
        names = (*OPERATIONS, *OVERLAPPING) if overlapping else OPERATIONS
        changed = random_operation(images, 3.0, generator(), overlapping)
        assert changed.shape == images.shape
        assert changed.min() >= 0
        assert changed.max() <= 1
        same = sum(torch.equal(a, b) for a, b in zip(changed, images, strict=True))  # shifts and turns by nothing
        assert 0 < same < 0.35 * len(images)
        equal = (changed == recoloured("equalize", images[:1], torch.ones(1))).flatten(1).all(dim=1).float().mean()
        assert float(equal) == pytest.approx(1 / len(names), abs=0.02)
    assert torch.equal(images[0], images[-1])


def test_grey_images_stay_grey() -> None:
    images = torch.rand(200, 1, 9, 9, generator=generator())
    assert random_operation(images, 3.0, generator(), True).shape == images.shape
    three = random_operation(images.expand(-1, 3, -1, -1), 3.0, generator(), True)
    assert torch.allclose(three[:, :1].expand_as(three), three, rtol=0, atol=1e-6)


# mixtures


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_exponents_have_their_distributions(beta: float) -> None:
    a, b = (value.flatten().numpy() for value in exponents(4000, beta, generator()))
    usual = a < 1
    assert usual.mean() == pytest.approx(0.5, abs=0.03)
    assert (b[usual] >= 0).all()
    assert (b[~usual] <= 0).all()
    near, far = scipy.stats.beta(beta, 1), scipy.stats.beta(1, beta)
    for values, law in ((a[usual], near), (b[usual], far), (a[~usual] - 1, far), (-b[~usual], far)):
        assert scipy.stats.kstest(values, law.cdf).pvalue > 0.01
    assert abs(np.corrcoef(a[usual], b[usual])[0, 1]) < 0.06


def test_mixtures_are_those_of_the_formulas() -> None:
    random = np.random.default_rng(0)
    x, y = random.uniform(size=(2, 6, 3, 4, 5))
    y[0, 0, 0, 0] = 0
    a, b = random.uniform(0, 2, 6), random.uniform(-1, 1, 6)
    a[0], b[0] = 1.5, -0.9
    both = [torch.from_numpy(value) for value in (x, y, a[:, None, None, None], b[:, None, None, None])]
    added, multiplied = mixed_by_addition(*both).numpy(), mixed_by_multiplication(*both).numpy()
    for k in range(6):
        assert added[k] == pytest.approx(np.clip((a[k] * (2 * x[k] - 1) + b[k] * (2 * y[k] - 1) + 1) / 2, 0, 1))
        expected = (2 * x[k]) ** a[k] * np.maximum(2 * y[k], 1e-37) ** b[k] / 2
        assert multiplied[k] == pytest.approx(np.clip(expected, 0, 1))
    assert multiplied[0, 0, 0, 0] == 1


def test_windows_are_parts_of_pictures() -> None:
    pictures = torch.rand(3, 1, 6, 8, generator=generator())
    found = windows(pictures, (4, 5), 100, generator())
    places = [(n, top, left) for n in range(3) for top in range(3) for left in range(4)]
    parts = {(n, top, left): pictures[n, :, top : top + 4, left : left + 5] for n, top, left in places}
    where = [next(place for place, part in parts.items() if torch.equal(part, window)) for window in found]
    assert len(set(where)) > 25, "all places are drawn"


def test_without_rounds_half_of_the_images_have_one_operation() -> None:
    images = torch.rand(400, 3, 12, 12, generator=generator())
    recipe = make(k=0)
    training = start(recipe)
    mixed = recipe.augmented(images, training)
    same = (mixed == images).flatten(1).all(dim=1).float().mean()
    assert 0.44 < float(same) < 0.66  # some operations change nothing


@pytest.mark.parametrize("channels", [1, 3])
def test_mixtures_are_images_of_their_own(channels: int) -> None:
    images = torch.rand(64, channels, 12, 10, generator=generator())
    before = images.clone()
    recipe = make(overlapping=True, pictures=5)
    training = start(recipe)
    mixed = recipe.augmented(images, training)
    assert torch.equal(images, before)
    assert mixed.shape == images.shape
    assert mixed.min() >= 0
    assert mixed.max() <= 1
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert (mixed != images).flatten(1).any(dim=1).float().mean() > 0.7
    training.generator.manual_seed(5)
    assert torch.equal(recipe.augmented(images, training), mixed)
    assert not torch.equal(recipe.augmented(images, training), mixed)


def test_grey_images_are_mixed_with_grey_pictures() -> None:
    images = torch.rand(64, 1, 12, 12, generator=generator()).expand(-1, 3, -1, -1)
    for grey in (True, False):
        recipe = make(pictures=5)
        training = start(recipe)
        recipe.networks(Task(CLASSES, (3, 12, 12), SmallNet16, repeats_grey=grey))
        mixed = recipe.augmented(images, training)
        assert torch.allclose(mixed[:, :1].expand_as(mixed), mixed, rtol=0, atol=1e-6) == grey


@pytest.mark.usefixtures("float64_default")
def test_a_step_descends_on_the_cross_entropy_of_the_mixtures() -> None:
    recipe = make(pictures=5)
    training = start(recipe)
    network = training.networks["classifier"]
    training.optimizers["classifier"] = torch.optim.SGD(network.parameters(), lr=0.1)
    again = training._replace(generator=generator(5))
    for step in range(3):
        plain, given = copy.deepcopy(network), batch(step)
        loss = cross_entropy(plain(recipe.augmented(given.images, again)), one_hot(given.labels))
        gradients = torch.autograd.grad(loss, tuple(plain.parameters()))
        recipe.step(training, given)
        for before, after, gradient in zip(plain.parameters(), network.parameters(), gradients, strict=True):
            assert torch.allclose(after, before - 0.1 * gradient, rtol=0, atol=1e-12)
    assert len(given.images) == BATCH


# pictures


def test_pictures_are_always_the_same() -> None:
    pictures = fractal_pictures(12, 20)
    assert np.array_equal(fractal_pictures(5, 20), pictures[:5])
    assert len({hashlib.sha256(picture.tobytes()).digest() for picture in pictures}) == 12


def test_pictures_have_structure_at_all_scales() -> None:
    """Every picture varies, and the variation does not sit in one band of frequencies, as that of a ramp or of white
    noise does."""
    pictures = fractal_pictures(60, 32).astype(float)
    assert pictures.reshape(60, -1).std(axis=1).min() > 15
    spectra = np.abs(np.fft.fft2(pictures - pictures.mean(axis=(2, 3), keepdims=True))) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32)))
    bands = [(0, 0.08), (0.08, 0.2), (0.2, 0.8)]
    power = np.array([spectra[..., (frequency > low) & (frequency <= high)].sum() for low, high in bands])
    assert (power / power.sum() > 0.1).all()


def test_pictures_of_grey_images_are_luma() -> None:
    colour, grey = (mixing_pictures(4, 9, channels, torch.device("cpu")) for channels in (3, 1))
    assert grey.shape == (4, 1, 9, 9)
    expected = 0.299 * colour[:, 0] + 0.587 * colour[:, 1] + 0.114 * colour[:, 2]
    assert torch.allclose(grey[:, 0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": -1}, "k must be 0 or more, got -1"),
        ({"pictures": 0}, "pictures must be 1 or more, got 0"),
        ({"beta": 0.0}, "beta must be positive and finite, got 0.0"),
        ({"severity": 11.0}, r"severity must be in \[0.1, 10\], got 11.0"),
        ({"severity": float("nan")}, r"severity must be in \[0.1, 10\], got nan"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)
