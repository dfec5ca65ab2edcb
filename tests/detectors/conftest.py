"""Fixtures for tests of detectors and recipes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.detectors.feature_world import FeatureWorld


@pytest.fixture
def float64_default() -> Iterator[None]:
    """Networks, data and noise in float64, so that the order of additions does not matter."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def world() -> FeatureWorld:
    """Features to score in float64, where every formula is exact; tests/detectors/test_float32.py tests float32."""
    world = FeatureWorld()
    world.test = world.test.astype(np.float64)
    return world
