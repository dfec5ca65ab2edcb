"""Detectors that read images get large ones in the small pieces of the shared pass."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from oodbench.benchmark import Batch, Detector, run
from oodbench.benchmark.plugins.registry import registry
from tests.support import TINY_BACKBONE

pytestmark = pytest.mark.usefixtures("one_thread")


class Watching(Detector):
    """Notes what it gets."""

    name = "test_watching"
    title = "Watching"
    needs = frozenset({"images", "network"})
    seen: ClassVar[list[tuple[int, bool]]] = []

    def score(self, batch: Batch) -> torch.Tensor:
        parts = []
        for part in batch.batches(64):
            is_last = part.images.is_contiguous(memory_format=torch.channels_last)
            Watching.seen.append((len(part), is_last))
            parts.append(part.images.mean(dim=(1, 2, 3)))
        return torch.cat(parts)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    random = np.random.RandomState(0)
    for split, count in (("train", 4), ("test", 5)):
        for label in "ab":
            folder = tmp_path / "photographs" / split / label
            folder.mkdir(parents=True)
            for k in range(count):
                Image.fromarray(random.randint(0, 256, (50, 70, 3)).astype(np.uint8)).save(folder / f"{k}.png")
    return tmp_path / "photographs"


@pytest.mark.slow
def test_large_images_come_in_blocks_of_the_pass(photographs: Path, tmp_path: Path) -> None:
    registry.adopt("detector", "test_watching", Watching, "this test")
    Watching.seen.clear()
    done = run(
        "test_watching",
        id_sets=f"folder:{photographs}",
        ood_sets="greek",
        backbone=TINY_BACKBONE,
        resize="192x192",
        epochs=1,
        limit_test=10,
        stability=False,
        results=tmp_path / "results",
    )
    assert [record.status for record in done.records] == ["ok"]
    assert {count for count, _ in Watching.seen} == {8, 2}
    assert all(is_last for _, is_last in Watching.seen)
