"""What a dry run says a run will store, against what it stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodbench.benchmark.runner.store_estimate import COUNTED, StoreEstimate, estimate
from oodbench.benchmark.store.sizes import in_bytes
from tests.support import bench, encode_image, noise_images, prepare_suite, write_suite

pytestmark = pytest.mark.usefixtures("one_thread", "undrawn")

PAIR = "[[id]]\nset = 'digits[0-2]'\nood = [{ set = 'uniform' }]\noutliers = 'glyphs'"
HEADERS = 3000
"""Bytes of a file besides its numbers, at most."""


def stored(cache: Path, kind: str) -> tuple[int, int]:
    """Bytes and number of the artifacts of a kind."""
    suffixes = (".npy", ".safetensors")
    sizes = [path.stat().st_size for path in (cache / kind).rglob("*") if path.suffix in suffixes]
    return sum(sizes), len(sizes)


@pytest.mark.parametrize("features", ["float32", "float16"])
def test_the_estimate_is_what_is_stored(tmp_path: Path, features: str) -> None:
    suite = write_suite(tmp_path, PAIR)
    prepared = prepare_suite(suite, "msp,knn,confidence,learned_confidence", stability=True, store_features=features)
    before = estimate(prepared.plan, prepared.context.store, prepared.context.library)
    assert before.there == 0
    assert before.stored_as == (features,)
    assert before.uncounted == ("what detectors learn",)
    prepared.start()
    for kind in COUNTED:
        size, count = stored(tmp_path / "results" / "cache", kind)
        assert count > 0
        assert before.sizes[kind] <= size <= before.sizes[kind] + HEADERS * count, kind
    after = estimate(prepared.plan, prepared.context.store, prepared.context.library)
    assert after.there == sum(after.sizes.values()) == sum(before.sizes.values())


def test_a_dry_run_prints_one_line(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, PAIR, backbone="small_cnn")
    result = bench("run", "--suite", suite, "--detectors", "msp,gram", "--results", tmp_path / "r", "--dry-run")
    assert result.exit_code == 0, result.output
    (line,) = (line for line in result.output.splitlines() if line.startswith("  stores "))
    assert "0 MB of it there: features " in line
    assert line.endswith("; not counted: what detectors keep of feature maps, what detectors learn")


def test_decoded_pixels_of_small_sets_of_pictures_are_named(tmp_path: Path) -> None:
    for number, image in enumerate(noise_images(12, shape=(40, 40, 3))):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(image))
    suite = write_suite(tmp_path, PAIR)
    sets = {"id_sets": "digits[0-2]", "ood_sets": f"folder:{tmp_path / 'photos'}", "resize": "24x24"}
    for gigabytes, expected in ((1.0, 12 * 3 * 24 * 24), (0.0, 0)):
        prepared = prepare_suite(suite, "msp", **sets, pixel_cache=gigabytes)
        found = estimate(prepared.plan, prepared.context.store, prepared.context.library)
        assert found.decoded == expected
        assert ("decoded pixels up to 0.0 MB (--pixel-cache)" in found.text()) == bool(expected)


def test_the_text_names_sizes_types_and_what_is_not_counted() -> None:
    sizes = {"features": 2_400_000_000, "logits": 812_000_000, "scores": 0, "checkpoint": 90_000}
    text = StoreEstimate(sizes, 1_000_000, ("what detectors learn",), ("float16",)).text()
    assert text == (
        "stores 3.2 GB, 1.0 MB of it there: features 2.4 GB as float16, logits 812 MB, networks 0.1 MB; not counted: "
        "what detectors learn"
    )
    assert in_bytes(0) == "0 MB"
