"""Artifacts that older versions of the code made: which they are, and what `bench cache prune` does with them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from oodbench.benchmark.api import prepare
from oodbench.benchmark.plan import job_builder
from oodbench.benchmark.plan.stage_versions import STAGE_VERSIONS
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.runner import code_versions, outdated
from oodbench.benchmark.runner.outdated import outdated_artifacts
from tests.support import TINY_BACKBONE, artifact_files, bench, give_outputs, run_suite, write_suite

SUITE = '[[id]]\nset = "digits[0-1]"\noutliers = "glyphs"\nood = [{ set = "greek" }]'
PLUGIN = """
from oodbench.benchmark import Detector, detector

@detector("mine")
class Mine(Detector):
    def score(self, batch):
        return {sign}batch.logits.amax(dim=1)
"""


@pytest.fixture(autouse=True)
def versions_found_anew() -> Iterator[None]:
    """Versions of plug-ins are remembered in a process."""
    outdated._has_changed.cache_clear()
    yield
    outdated._has_changed.cache_clear()


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return write_suite(tmp_path, SUITE)


def train_again_with(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the version of training."""
    monkeypatch.setattr(job_builder, "TRAINING_VERSION", version)
    monkeypatch.setitem(code_versions.CURRENT, "training", version)


def test_every_stage_version_is_known_by_its_name_in_keys(suite: Path) -> None:
    done = run_suite(suite, "knn,msp", protocol="leave_one_out", ood_sets="greek,glyphs")
    given = suite.with_name("given.pt")
    torch.save(create("backbone", parse_spec(TINY_BACKBONE)).build(2, (1, 32, 32)).state_dict(), given)
    run_suite(suite, checkpoint=given, recipe="linear_probe", name="given")
    give_outputs(suite.with_name("outputs"))
    prepare("msp", outputs=suite.with_name("outputs"), results=suite.with_name("results"), threads=1).start()
    sides = [json.loads(path.read_text()) for path in (done.path.parents[1] / "cache").glob("*/*.json")]
    keys = [side["key"] for side in sides if "digest" in side]
    fields = {field for key in keys for field in key}
    assert STAGE_VERSIONS.keys() <= fields
    assert all(key[name] == now for key in keys for name, now in STAGE_VERSIONS.items() if name in key)
    assert outdated_artifacts(done.path.parents[1] / "cache") == {}


def test_an_artifact_is_outdated_with_what_it_was_made_from(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = run_suite(suite, "msp,knn").path.parents[1] / "cache"
    sides = [name.removesuffix(".json") for name in artifact_files(cache) if name.endswith(".json")]
    everything = {name for name in sides if not name.startswith("data/")}
    monkeypatch.setitem(code_versions.CURRENT, "scoring", "new")
    scored = {path for path in everything if path.startswith(("scores/", "fit/"))}
    assert outdated_artifacts(cache).keys() == scored
    train_again_with("new", monkeypatch)
    found = outdated_artifacts(cache)
    assert found.keys() == everything
    assert {str(changes) for path, changes in found.items() if path.startswith("logits")} == {
        f"training {STAGE_VERSIONS['training']} -> new"
    }


def test_plugins_that_changed_and_those_that_are_unknown(suite: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN.format(sign="-"))
    cache = run_suite(suite, "mine,msp", plugins=[plugin]).path.parents[1] / "cache"
    assert outdated_artifacts(cache) == {}
    plugin.write_text(PLUGIN.format(sign=""))
    registry.load_file(plugin)
    outdated._has_changed.cache_clear()
    found = outdated_artifacts(cache)
    assert [path.partition("--")[0] for path in found] == ["scores/mine"] * 2
    assert {str(changes) for changes in found.values()} == {"mine changed"}


def test_prune_keeps_what_runs_refer_to_unless_asked(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = run_suite(suite, name="first").path.parents[1]
    run_suite(suite, name="second")
    old = {name for name in artifact_files(results / "cache") if name.split("/")[0] != "data"}
    train_again_with("new", monkeypatch)
    run_suite(suite, name="first")
    prune = ("cache", "prune", "--results", results)
    new = set(artifact_files(results / "cache")) - old

    kept = bench(*prune, "--dry-run").output
    assert kept.startswith("Would delete 0 files, 0.0 MB.\nKept 7 artifacts, ")
    assert kept.endswith(
        " of older versions of the code, which a run uses: second. Run it again, or delete them with --old.\n"
    )
    assert bench(*prune).output.startswith("Deleted 0 files")
    assert old <= set(artifact_files(results / "cache"))

    asked = bench(*prune, "--old", "--dry-run").output
    assert asked.startswith(f"Would delete {len(old)} files, ")
    assert f" of older versions of the code (training {STAGE_VERSIONS['training']} -> new).\n" in asked
    assert ", with 7 artifacts, " in asked
    assert old <= set(artifact_files(results / "cache")), "a dry run deletes nothing"

    before = (results / "runs/second/table.md").read_bytes()
    run_suite(suite, name="second")
    assert (results / "runs/second/table.md").read_bytes() == before
    done = bench(*prune).output
    assert done.startswith(f"Deleted {len(old)} files, ")
    assert ", with 7 artifacts, " in done
    assert "Kept" not in done
    assert set(artifact_files(results / "cache")) == new


def test_prune_deletes_old_artifacts_of_runs_if_asked(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = run_suite(suite).path.parents[1]
    table = (results / "runs/tiny/table.md").read_bytes()
    train_again_with("new", monkeypatch)
    assert bench("cache", "prune", "--old", "--results", results).output.startswith("Deleted ")
    assert not [name for name in artifact_files(results / "cache") if name.split("/")[0] != "data"]
    assert (results / "runs/tiny/table.md").read_bytes() == table
    assert {record.status for record in run_suite(suite).records} == {"ok"}
