"""Forged runs: `bench verify`, `bench show --cell` and the comparison of a repetition say what is wrong, in sentences.

Records, `run.json`, side files and arrays may come from anyone. Whatever they say, nothing outside the store is read as
an artifact, and no command ends in a traceback.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oodbench.benchmark.errors import OodbenchError, UserError
from oodbench.benchmark.records.record import read_record
from oodbench.benchmark.records.run import read_stored_run
from oodbench.benchmark.store import store
from oodbench.benchmark.verify import run as verify_run
from oodbench.benchmark.verify.artifacts import Artifact, examine
from oodbench.benchmark.verify.repeat import RepetitionOutcome, _machine_differences, _outcome
from oodbench.benchmark.verify.run import Verdict, verify
from oodbench.benchmark.views.cell import cell_text
from tests.mutations import json_like
from tests.support import bench, run_suite, write_suite

MATRIX = """
[[id]]
set = "digits[0-1]"
ood = [{ set = "greek" }]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a finished run of two cells, 'tiny', whose records have every optional part."""
    suite = write_suite(tmp_path_factory.mktemp("forged"), MATRIX)
    run_suite(suite, "msp,knn[k=3]", metrics="lee2018,extended", stability=True)
    return suite.parent / "results"


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    """A copy that tests may damage."""
    copy: Path = shutil.copytree(made, tmp_path / "results")
    return copy


def record_of(results: Path, detector: str = "knn") -> Path:
    return next((results / "runs/tiny/cells").glob(f"{detector}*.json"))


def look_at_everything(results: Path) -> Verdict:
    """What every command that reads a run does with it, except for printing tables."""
    verdict = verify(results / "runs/tiny", results, results / "data")
    try:
        run = read_stored_run(results / "runs/tiny")
    except OodbenchError:
        return verdict
    for record in run.records:
        assert all(line.isprintable() for line in cell_text(record, results / "cache").split("\n"))
        outcome = _outcome(record, run.records[0], run, run)
        differences = tuple(_machine_differences(record, run.records[0], run, run))
        list(RepetitionOutcome(run.path, run.path, differences, (outcome,)).lines())
    return verdict


def forged_records(results: Path) -> tuple[str, Callable[[bytes], None]]:
    path = record_of(results)
    return path.read_text(), lambda content: void(path.write_bytes(content))


def forged_info(results: Path) -> tuple[str, Callable[[bytes], None]]:
    path = results / "runs/tiny/run.json"
    return path.read_text(), lambda content: void(path.write_bytes(content))


def forged_best(results: Path) -> tuple[str, Callable[[bytes], None]]:
    path = results / "runs/tiny/best.json"
    return path.read_text(), lambda content: void(path.write_bytes(content))


def forged_scores_side(results: Path) -> tuple[str, Callable[[bytes], None]]:
    return forged_side(results / "cache" / json.loads(record_of(results).read_text())["artifacts"]["id_scores"])


def forged_logits_side(results: Path) -> tuple[str, Callable[[bytes], None]]:
    return forged_side(next((results / "cache/logits").glob("*--digits*-test-*.npy")))


def forged_side(artifact: Path) -> tuple[str, Callable[[bytes], None]]:
    """A side file whose key and digest agree whatever the key says, and whose artifact carries the digest."""
    side = artifact.with_name(f"{artifact.name}.json")
    records = sorted((artifact.parents[2] / "runs/tiny/cells").glob("*.json"))
    plain, texts = side.read_text(), [record.read_text() for record in records]

    def write(content: bytes) -> None:
        try:
            forged = json.loads(content)
            digest = store.digest(forged["key"])
        except (ValueError, KeyError, TypeError):
            side.write_bytes(content)
            return
        old = json.loads(plain)["digest"]
        name = artifact.name.replace(old[:12], digest[:12])
        if name != artifact.name:
            shutil.copy(artifact, artifact.with_name(name))
        artifact.with_name(f"{name}.json").write_text(json.dumps({**forged, "digest": digest}))
        for record, text in zip(records, texts, strict=True):
            record.write_text(text.replace(artifact.name, name).replace(old, digest))

    return plain, write


def void(_: object) -> None:
    """For callables that must return nothing."""


TARGETS = [forged_records, forged_info, forged_best, forged_scores_side, forged_logits_side]
EXAMPLES = [pytest.param(6, id="few"), pytest.param(60, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("target", TARGETS)
def test_whatever_a_file_says_is_a_sentence(
    results: Path, target: Callable[[Path], Any], examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, write = target(results)
    cache = (results / "cache").resolve()

    def examine_inside(path: Path) -> Artifact:
        assert cache in path.absolute().parents or path == results / "cache", f"{path} is outside the store"
        assert ".." not in path.parts
        return examine(path)

    monkeypatch.setattr(verify_run, "examine", examine_inside)

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(json_like(text))
    def holds(content: bytes) -> None:
        write(content)
        for problem in look_at_everything(results).problems:
            assert "\n" not in problem

    holds()


ARRAYS = {
    "more images": np.zeros(1000),
    "fewer images": np.zeros(3),
    "none": np.zeros(0),
    "a scalar": np.array(1.0),
    "two dimensions": np.zeros((103, 2)),
    "three dimensions": np.zeros((103, 2, 2)),
    "not a number": np.full((103, 2), np.nan),
    "text": np.array(["a"] * 103),
    "complex": np.zeros(103, complex),
    "Boolean": np.zeros((103, 2), bool),
    "integers": np.zeros(103, np.uint8),
    "another number of classes": np.zeros((103, 7)),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("kind", ["scores", "logits"])
def test_an_array_of_another_shape_or_type_is_a_problem(results: Path, kind: str, name: str) -> None:
    """The bytes match their side file and the record's provenance, so that only reading the array shows it."""
    used = json.loads(record_of(results).read_text())["provenance"]["artifacts"]
    paths = [one["path"] for one in used if one["kind"] == kind and "digits" in one["path"]]
    assert paths
    for path in paths:
        out = io.BytesIO()
        np.save(out, ARRAYS[name])
        sha256 = hashlib.sha256(out.getvalue()).hexdigest()
        artifact = results / "cache" / path
        old = json.loads(artifact.with_name(artifact.name + ".json").read_text())["sha256"]
        artifact.write_bytes(out.getvalue())
        for file in (artifact.with_name(artifact.name + ".json"), *(results / "runs/tiny/cells").glob("*.json")):
            file.write_text(file.read_text().replace(old, sha256))
    verdict = look_at_everything(results)
    # The integers are valid scores, but not those behind the metrics; logits of the wrong shape cannot be checked.
    assert verdict.problems or any(
        "logits have shape" in what or "cannot be read" in what for what in verdict.unchecked
    )


OUTSIDE = ["../../secret.npy", "/etc/hostname", "C:x", "..\\x", "scores/../../../secret.npy", "a\0b"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_provenance_names_no_path_outside_the_store(results: Path, path: str) -> None:
    (results.parent / "secret.npy").write_bytes(b"not yours")
    file = record_of(results)
    content = json.loads(file.read_text())
    content["provenance"]["artifacts"][0]["path"] = path
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"outside the cache.*Remove it and run again"):
        read_record(file)
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 1
    assert hashlib.sha256(b"not yours").hexdigest()[:12] not in done.output
    shown = bench("show", "tiny", "--cell", "digits[0-1]/greek/knn[k=3]", "--results", results)
    assert shown.exit_code == 2
    assert "outside the cache" in shown.output


WRONG = {
    "artifacts as a string": lambda p: p.update(artifacts="abc"),
    "artifacts as names": lambda p: p.update(artifacts=["a", "b"]),
    "an artifact without a path": lambda p: p["artifacts"][0].pop("path"),
    "a path that is a number": lambda p: p["artifacts"][0].update(path=7),
    "seconds as text": lambda p: p["artifacts"][0].update(seconds="long"),
    "a commit as text": lambda p: p["artifacts"][0].update(commit="abc"),
    "chosen settings as text": lambda p: p["artifacts"][0].update(chosen="k"),
    "data as a number": lambda p: p.update(data=3),
    "data without a name": lambda p: p["data"][0].pop("set"),
    "images as text": lambda p: p["data"][0].update(images="many"),
    "a limit as text": lambda p: p["data"][0].update(limit="x"),
    "resolved as a list": lambda p: p.update(resolved=[1]),
    "a detector as text": lambda p: p["resolved"].update(detector="knn"),
    "made as a list": lambda p: p.update(made=[]),
    "needs as numbers": lambda p: p.update(needs=[1]),
    "a key as text": lambda p: p.update(key="00"),
    "extended as a number": lambda p: p["key"].update(extended=2),
    "stability as a number": lambda p: p["key"].update(stability=1),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_sentence_names_the_field(results: Path, name: str) -> None:
    file = record_of(results)
    content = json.loads(file.read_text())
    WRONG[name](content["provenance"])
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"is not a cell record: .*Remove it and run again"):
        read_record(file)
    for command in (("verify", "tiny"), ("show", "tiny", "--cell", "digits[0-1]/greek/knn[k=3]")):
        done = bench(*command, "--results", results)
        assert done.exit_code in (1, 2), done.output
        assert "Traceback" not in done.output
        assert not done.exception or isinstance(done.exception, SystemExit)


@given(st.text(max_size=30))
@settings(max_examples=50, derandomize=True, database=None, deadline=None)
def test_real_provenance_is_accepted_whatever_names_are(name: str) -> None:
    from oodbench.benchmark.records.provenance import check_provenance

    used = {"use": "score", "set": name, "part": name, "images": 1, "sha256": name, "more": name}
    check_provenance({"data": [used], "unknown": {"a": name}, "needs": [name]})
    check_provenance({})
