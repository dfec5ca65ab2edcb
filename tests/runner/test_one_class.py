"""One-class suites: a digit against the other nine, with Deep SVDD, Deep SAD and the classical baselines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.suite_file import read_suite
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.tables.brief import closing_text
from tests.support import run_suite

SUITES = ("one-class-mnist", "one-class-fashion", "one-class-cifar10", "one-class-digits")
LABELLED = "deep_sad@deep_sad[label_share=0.2]"
DETECTORS = f"deep_svdd,deep_sad,{LABELLED},knn,ocsvm,ocsvm[on=pixels],isolation_forest,kde[on=pixels]"

Run = Callable[..., StoredRun]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the suite on one digit, with few epochs and what else its protocol says."""
    folder = tmp_path_factory.mktemp("one-class")

    def runner(detectors: str, name: str = "clean", protocol: str = "", **options: Any) -> StoredRun:
        path = folder / f"{name}.toml"
        path.write_text(f'schema = 1\nextends = "one-class-digits"\n[protocol]\n{protocol}\n', encoding="utf-8")
        options = {"id_sets": "digits[3]", "epochs": 2, "limit_test": 150, **options}
        return run_suite(path, detectors, **options)

    return runner


@pytest.fixture(scope="module")
def stored(run: Run) -> StoredRun:
    return run(DETECTORS)


@pytest.fixture(scope="module")
def records(stored: StoredRun) -> dict[str, Record]:
    return {record.label: record for record in stored.records}


def test_every_row_has_a_cell_without_accuracy(records: dict[str, Record]) -> None:
    assert records.keys() == {
        *("deep_svdd", "deep_sad", LABELLED, "knn", "ocsvm", "ocsvm[on=pixels]", "isolation_forest", "kde[on=pixels]")
    }
    for record in records.values():
        assert (record.status, record.reason) == (OK, "")
        assert record.id_accuracy is None
        assert record.id_set == "digits[3]"
        assert record.ood_set == "digits[0-2,4-9]"


def test_pixels_alone_tell_digits_apart(records: dict[str, Record]) -> None:
    for name in ("ocsvm[on=pixels]", "kde[on=pixels]"):
        assert records[name].metrics["auroc"] > 0.9


def test_a_short_table_shows_the_only_ood_set_though_it_is_the_outlier_source(stored: StoredRun) -> None:
    """No mean includes it: without it, the table would have no number."""
    short = closing_text(stored, 80)
    assert "The whole table: bench table" in short
    row = next(line for line in short.splitlines() if line.startswith("kde[on=pixels]"))
    (auroc,) = (r.metrics["auroc"] for r in stored.records if r.label == "kde[on=pixels]")
    assert f"{100 * auroc:.1f}" in row
    best = max(stored.records, key=lambda r: r.metrics["auroc"])
    first = next(line for line in short.splitlines() if line.startswith(tuple(r.label for r in stored.records)))
    assert first.split()[0] == best.label


def test_cells_of_labelled_anomalies_are_seen(records: dict[str, Record]) -> None:
    """The scored images have the distribution of the anomalies that training saw."""
    assert {name for name, record in records.items() if record.seen} == {"deep_sad", LABELLED}


def test_what_needs_a_classifier_is_refused_with_the_reason(run: Run) -> None:
    reason = "it needs logits, and recipe 'svdd_autoencoder' trains no classifier"
    with pytest.raises(UserError, match=f"Detector 'msp' cannot run: {reason}"):
        run("msp")


@pytest.mark.parametrize("detector", ["gram", "rankfeat@deep_svdd"])
def test_maps_of_blocks_are_the_backbones(run: Run, detector: str) -> None:
    recipe = "deep_svdd" if "@" in detector else "svdd_autoencoder"
    reason = f"recipe '{recipe}' trains a network without them"
    with pytest.raises(UserError, match=f"it looks at the maps of blocks, and {reason}"):
        run(detector)


def test_polluted_images_are_learnt_from(run: Run, records: dict[str, Record]) -> None:
    polluted = run("kde[on=pixels],deep_svdd", "dirty", "pollution = 0.2")
    for record in polluted.records:
        clean = records[record.label]
        assert record.status == OK
        assert record.fitted_on["pollution"] == 0.2
        assert record.fitted_on["images"] == round(clean.training["images"] / 0.8)
        assert record.training["images"] == record.fitted_on["images"]
        assert (record.n_id, record.n_ood) == (clean.n_id, clean.n_ood)
        assert record.metrics["auroc"] != clean.metrics["auroc"]
    assert any("(pollution 0.2)" in note for note in polluted.info["notes"])


def test_the_option_says_what_the_suite_says(run: Run) -> None:
    names, share = "kde[on=pixels],deep_svdd", 0.2
    of_suite, of_option = run(names, "dirty", "pollution = 0.2"), run(names, "asked", pollution=share)
    none = run(names, "clean-again", "pollution = 0.2", pollution=0)
    assert [record.key for record in of_suite.records] == [record.key for record in of_option.records]
    assert {record.key for record in none.records}.isdisjoint(record.key for record in of_suite.records)
    assert all(record.fitted_on["pollution"] == share for record in of_option.records)
    assert not any("pollution" in record.fitted_on for record in none.records)


def test_another_share_is_refused(run: Run) -> None:
    expected = r"--pollution must be 0, or a share of the training images from 0\.001 to 0\.5; got 0\.7\."
    with pytest.raises(UserError, match=expected):
        run("kde[on=pixels]", pollution=0.7)


@pytest.mark.parametrize("name", SUITES)
def test_every_class_is_normal_once(name: str) -> None:
    suite = read_suite(name)
    data = suite.entries[0].set.name
    classes = len(registry.get("dataset", data).classes)
    assert [entry.set for entry in suite.entries] == [parse_set(f"{data}[{k}]") for k in range(classes)]
    for k, entry in enumerate(suite.entries):
        (ood,) = entry.ood
        assert ood.set == parse_set(f"{data}[{','.join(str(j) for j in range(classes) if j != k)}]")
        assert entry.outliers == parse_set(f"{data}[{(k + 1) % classes}]")
    assert suite.recipe == "svdd_autoencoder"
    assert suite.every_detector
    for recipe in ("svdd_autoencoder", "deep_svdd", "deep_sad"):
        assert suite.schedule(recipe, suite.entries[0].set).epochs <= 50
    networks = {suite.recipes[recipe].get("network") for recipe in ("svdd_autoencoder", "deep_svdd", "deep_sad")}
    assert networks == {"fashion" if name == "one-class-fashion" else None}
