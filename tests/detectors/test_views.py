"""Random views of images, against a sampling pixel by pixel and torchvision's changes of colour."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torch import Tensor

from oodbench.detectors._views import LUMA, Augmentation, Draws, draw, view

pytestmark = pytest.mark.usefixtures("one_thread", "float64_default")

PLAIN = Augmentation(1.0, jitter=0.0, grey=0.0)


def images(count: int = 6, channels: int = 3, side: tuple[int, int] = (8, 10), seed: int = 0) -> Tensor:
    return torch.rand(count, channels, *side, generator=torch.Generator().manual_seed(seed))


def drawn(count: int, augmentation: Augmentation, seed: int = 1) -> Draws:
    return draw(count, augmentation, torch.Generator().manual_seed(seed))


def chosen(draws: Draws, rows: Tensor) -> Draws:
    return Draws(*(part[rows] for part in draws))


def test_draws_are_in_their_ranges() -> None:
    draws = drawn(4000, Augmentation(0.08, 0.9, flip=True, jitter=0.4, grey=0.2))
    area = draws.size.prod(dim=1)
    assert area.min() == pytest.approx(0.08, abs=0.01)
    assert area.max() == pytest.approx(0.9, abs=0.01)
    assert area.mean() == pytest.approx(0.49, abs=0.02)
    assert (draws.start >= 0).all()
    assert (draws.start + draws.size <= 1 + 1e-12).all()
    stretch = (draws.size[:, 1] / draws.size[:, 0]).log()
    assert stretch.abs().max() <= math.log(4 / 3) + 1e-9
    assert stretch.mean() == pytest.approx(0, abs=0.02)
    changed = (draws.factors != 1).any(dim=1)
    assert changed.double().mean() == pytest.approx(0.8, abs=0.03)
    assert ((draws.turn != 0) == changed).all()
    for part, low, high in ((draws.factors[changed], 0.6, 1.4), (draws.turn[changed], -0.1, 0.1)):
        assert part.min() == pytest.approx(low, abs=0.01)
        assert part.max() == pytest.approx(high, abs=0.01)
    assert draws.grey.double().mean() == pytest.approx(0.2, abs=0.03)
    assert draws.mirrored.double().mean() == pytest.approx(0.5, abs=0.03)


def test_no_view_is_mirrored_without_flips() -> None:
    assert not drawn(500, Augmentation(0.2)).mirrored.any()


def test_crops_of_one_area_have_it() -> None:
    assert torch.allclose(drawn(50, Augmentation(0.54, 0.54)).size.prod(dim=1), torch.tensor(0.54))


@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_images_and_follow_from_the_generator(channels: int) -> None:
    given = images(40, channels)
    augmentation = Augmentation(0.2, flip=True, jitter=0.8)
    before, state = given.clone(), torch.get_rng_state()
    one, two = (view(given, drawn(40, augmentation)) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(given, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.shape == given.shape
    assert one.dtype == given.dtype
    assert one.is_contiguous(memory_format=torch.channels_last)
    assert one.min() >= 0
    assert one.max() <= 1
    other = view(given, drawn(40, augmentation, seed=2))
    assert ((one - other).abs().amax(dim=(1, 2, 3)) > 0.01).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_depends_on_its_own_image_and_numbers_alone(channels: int) -> None:
    given, draws = images(12, channels), drawn(12, Augmentation(0.2, flip=True))
    whole = view(given, draws)
    rows = torch.randperm(12, generator=torch.Generator().manual_seed(3))[:7]
    assert torch.allclose(view(given[rows], chosen(draws, rows)), whole[rows], rtol=0, atol=1e-12)


def test_one_draw_serves_all_images() -> None:
    given, draws = images(5), drawn(1, Augmentation(0.3, flip=True, jittered=1.0))
    repeated = Draws(*(part.expand(5, *part.shape[1:]) for part in draws))
    assert torch.allclose(view(given, draws), view(given, repeated), rtol=0, atol=1e-12)


def test_a_view_of_all_of_an_image_is_the_image() -> None:
    given = images()
    assert torch.allclose(view(given, drawn(6, PLAIN)), given, rtol=0, atol=1e-12)
    mirrored = drawn(6, PLAIN)._replace(mirrored=torch.ones(6, dtype=torch.bool))
    assert torch.allclose(view(given, mirrored), given.flip(3), rtol=0, atol=1e-12)


def test_crops_are_sampled_between_pixels() -> None:
    given = images()
    height, width = given.shape[2:]
    draws = drawn(6, Augmentation(0.2, flip=True, jitter=0, grey=0))
    assert 0 < draws.mirrored.sum() < 6
    ours = view(given, draws)
    for n in range(6):
        for row in range(height):
            for column in range(width):
                across = width - 1 - column if draws.mirrored[n] else column
                y = (draws.start[n, 0] + draws.size[n, 0] * (row + 0.5) / height) * height - 0.5
                x = (draws.start[n, 1] + draws.size[n, 1] * (across + 0.5) / width) * width - 0.5
                expected = sum(
                    (1 - abs(float(y) - i)) * (1 - abs(float(x) - j))
                    * given[n, :, min(max(i, 0), height - 1), min(max(j, 0), width - 1)]
                    for i in (math.floor(y), math.floor(y) + 1)
                    for j in (math.floor(x), math.floor(x) + 1)
                )  # fmt: skip
                assert torch.allclose(ours[n, :, row, column], torch.as_tensor(expected), rtol=0, atol=1e-12)


# colours


def middle(count: int = 4) -> Tensor:
    """Images whose colours no change of a test moves out of [0, 1]."""
    return 0.4 + 0.2 * images(count)


@pytest.mark.parametrize(("place", "name"), [(0, "brightness"), (1, "contrast"), (2, "saturation")])
def test_a_factor_is_that_of_torchvision(place: int, name: str) -> None:
    given = middle()
    for factor in (0.6, 1.0, 1.4):
        draws = drawn(4, PLAIN)
        draws.factors[:, place] = factor
        expected = getattr(tv, f"adjust_{name}")(given, factor)
        assert torch.allclose(view(given, draws), expected, rtol=0, atol=1e-3)  # its weights of luma have four digits


def test_all_factors_together_are_torchvision_s_in_any_order() -> None:
    given = middle()
    draws = drawn(4, PLAIN)
    draws.factors[:] = torch.tensor([0.9, 1.2, 0.7])
    expected = tv.adjust_saturation(tv.adjust_contrast(tv.adjust_brightness(given, 0.9), 1.2), 0.7)
    assert torch.allclose(view(given, draws), expected, rtol=0, atol=1e-3)


def test_a_turn_of_the_hue_keeps_luma_and_greys() -> None:
    given, turn = middle(), 0.1
    draws = drawn(4, PLAIN)
    draws.turn[:] = turn
    ours = view(given, draws)
    luma = torch.tensor(LUMA)[:, None, None]
    assert torch.allclose((ours * luma).sum(dim=1), (given * luma).sum(dim=1), rtol=0, atol=1e-12)
    grey = given[:, :1].expand(-1, 3, -1, -1)
    assert torch.allclose(view(grey, draws), grey, rtol=0, atol=1e-12)
    for before, after in zip(given.permute(0, 2, 3, 1).reshape(-1, 3), ours.permute(0, 2, 3, 1).reshape(-1, 3),
                             strict=True):  # fmt: skip
        one, two = (np.array(colorsys.rgb_to_yiq(*colour.tolist()))[1:] for colour in (before, after))
        angle = math.atan2(one[0] * two[1] - one[1] * two[0], one @ two) / (2 * math.pi)
        assert angle == pytest.approx(turn, abs=0.03)  # colorsys has rounded coordinates


def test_grey_views_have_no_colour_and_their_image_s_luma() -> None:
    given = middle()
    ours = view(given, drawn(4, PLAIN)._replace(grey=torch.tensor([True, False, True, False])))
    luma = (given * torch.tensor(LUMA)[:, None, None]).sum(dim=1)
    for n in (0, 2):
        for channel in range(3):
            assert torch.allclose(ours[n, channel], luma[n], rtol=0, atol=1e-12)
    assert torch.allclose(ours[1], given[1], rtol=0, atol=1e-12)


def test_a_grey_image_changes_alike_in_one_channel_and_in_three() -> None:
    given = images(8, channels=1)
    draws = drawn(8, Augmentation(0.3, flip=True, jittered=1.0))
    three = view(given.expand(-1, 3, -1, -1), draws)
    one = view(given, draws)
    assert (one - view(given, draws._replace(factors=torch.ones(8, 3)))).abs().max() > 0.05
    for channel in range(3):
        assert torch.allclose(three[:, channel], one[:, 0], rtol=0, atol=1e-12)
