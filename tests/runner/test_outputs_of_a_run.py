"""What a run stores of a network, given back with `--outputs`, has the same scores and metrics, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark.api import Prepared, prepare
from oodbench.benchmark.data.outputs import GivenArrays, GivenHead, GivenOutputs, write_outputs
from oodbench.benchmark.plan.jobs import ExtractJob
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.store.npy import load_array
from tests.support import prepare_suite, write_suite

pytestmark = [pytest.mark.usefixtures("unchanged_registry", "unchanged_threads", "undrawn")]

MATRIX = """
[[id]]
set = "digits[0-3]"
ood = [{ set = "digits[4-9]", group = "near" }, { set = "greek", group = "far" }]
"""

GIVEN = {"logits", "features", "similarities", "head"}
"""What given outputs have of what detectors need."""

SPLITS = {"train": "train", "validation": "val", "test": "test"}


def outputs_of(prepared: Prepared, folder: Path, id_set: str) -> GivenOutputs:
    """The stored logits, features and head of a run with one classifier of an ID set, as files of a user."""
    context = prepared.context
    passes = [job for job in prepared.plan.jobs.values() if isinstance(job, ExtractJob)]
    id_sets: dict[str, GivenArrays] = {}
    ood_sets: dict[str, GivenArrays] = {}
    for job in passes:
        data, load = job.outputs.data, context.store.load_array
        images = context.images(data)
        is_id = data.set == id_set
        labels = images.labels.astype(np.int64) if is_id and images.labels is not None else None
        logits, features = load(job.outputs.logits), load(job.outputs.features)
        (id_sets if is_id else ood_sets)[SPLITS[data.part] if is_id else data.set] = GivenArrays(
            len(images), logits=logits, features=features, labels=labels
        )
    weights = context.store.load_tensors(passes[0].checkpoint.key)
    head = GivenHead(*(weights[f"classifier.head.{name}"].numpy() for name in ("weight", "bias")))
    classes = context.images(passes[0].outputs.data).classes
    assert set(id_sets) == {"train", "val", "test"}
    given = GivenOutputs(folder, folder.name, id_set, id_sets, ood_sets, classes=classes, head=head)
    write_outputs(folder, given)
    return given


def by_cell(stored: StoredRun) -> dict[tuple[str, str], Record]:
    return {(record.label, record.ood_set): record for record in stored.records}


def same_bytes(tmp_path: Path, prepared: Prepared, detectors: str, id_set: str, **options: Any) -> set[str]:
    """Run detectors on the outputs of a finished run, compare every cell, and return the detectors that both have."""
    stored = prepared.start()
    outputs_of(prepared, tmp_path / "given", id_set)
    results = tmp_path / "again"
    again = prepare(detectors, outputs=tmp_path / "given", results=results, **options).start()
    expected, found = by_cell(stored), by_cell(again)
    caches = (stored.path.parents[1] / "cache", results / "cache")
    for place, record in found.items():
        assert record.status == OK, (place, record.reason)
        known = expected[place]
        for side in ("id_scores", "ood_scores"):
            one, other = (
                load_array(cache / of.artifacts[side]) for cache, of in zip(caches, (known, record), strict=True)
            )
            assert one.tobytes() == other.tobytes(), (place, side)
        # Not the intervals: the suite's images are in groups, of which given arrays know nothing.
        assert (record.metrics, record.tpr, record.ties) == (known.metrics, known.tpr, known.ties)
        assert record.id_accuracy == known.id_accuracy
    return {label for label, _ in found}


def test_a_small_suite(tmp_path: Path) -> None:
    detectors = "msp,energy,knn,vim,react"
    suite = write_suite(tmp_path, MATRIX, backbone="small_cnn[hidden=32,width=8]", training="epochs = 4")
    prepared = prepare_suite(suite, detectors)
    assert same_bytes(tmp_path, prepared, detectors, "digits[0-3]", threads=1) == set(detectors.split(","))


@pytest.mark.slow
def test_every_detector_on_the_default_suite(tmp_path: Path) -> None:
    loaded = {name: entry.load() for name, entry in registry.entries("detector").items() if not entry.reason()}
    # Without those of texts, which this network does not know.
    on_arrays = {name for name, cls in loaded.items() if cls.recipe is None and cls.fits_images and cls.needs <= GIVEN}
    options: dict[str, Any] = {"id_sets": "digits", "results": tmp_path / "results", "stability": False}
    prepared = prepare(",".join(on_arrays), **options)
    again = ",".join(["all", *sorted(name for name in on_arrays if not loaded[name].in_all)])
    assert same_bytes(tmp_path, prepared, again, "digits", threads=prepared.plan.threads) == on_arrays
    assert len(on_arrays) >= 25, sorted(on_arrays)
