"""A store from before a change of the code: one line says how much of it is computed again, and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark.api import Prepared
from oodbench.benchmark.plan import detector_jobs, job_builder
from oodbench.benchmark.plan.jobs import TrainJob
from oodbench.benchmark.stages import evaluate
from tests.support import prepare_suite, run_suite, write_suite

SUITE = '[[id]]\nset = "digits[0-1]"\noutliers = "glyphs"\nood = [{ set = "greek" }]'
PRUNE = "; 'bench cache prune' deletes the old artifacts afterwards"
PLUGIN = """
import numpy as np
from oodbench.benchmark import Dataset, Detector, ImageSet, dataset, detector

class Mine(Detector):
    factor: float = 1.0
    {pinned}

    def score(self, batch):
        return {sign}batch.logits.amax(dim=1)

{detectors}

@dataset("test_drawn")
class Drawn(Dataset):
    splits = ("test",)

    def load(self, split, data_dir):
        return ImageSet(np.random.RandomState({seed}).randint(0, 256, (20, 3, 32, 32)).astype(np.uint8))
"""
Lines = list[str]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return write_suite(tmp_path, SUITE)


def plugin(folder: Path, sign: str = "-", seed: int = 0, names: tuple[str, ...] = ("mine",), pinned: str = "") -> Path:
    path = folder / "plugin.py"
    detectors = "\n\n".join(f'@detector("{name}")\nclass {name.title()}(Mine):\n    pass' for name in names)
    path.write_text(PLUGIN.format(sign=sign, seed=seed, detectors=detectors, pinned=pinned))
    return path


def older(logged: Lines) -> Lines:
    return [line for line in logged if "older version of the code" in line]


def line(counts: str, why: str, prune: str = PRUNE) -> str:
    exist, are = ("exists", "is") if counts in ("1 artifact", "1 record") else ("exist", "are")
    return f"{counts} of this plan {exist} from an older version of the code ({why}) and {are} computed again{prune}."


@pytest.mark.parametrize(
    "module, name, counts",
    [
        (job_builder, "TRAINING_VERSION", "7 artifacts and 1 record"),
        (job_builder, "EXTRACTION_VERSION", "6 artifacts and 1 record"),
        (detector_jobs, "SCORING_VERSION", "2 artifacts and 1 record"),
        (evaluate, "METRICS_VERSION", "1 record"),
    ],
)
def test_a_stage_that_changed(
    suite: Path, monkeypatch: pytest.MonkeyPatch, logged: Lines, module: Any, name: str, counts: str
) -> None:
    run_suite(suite)
    assert older(logged) == []
    why = f"{name.partition('_')[0].lower()} {getattr(module, name)} -> new"
    monkeypatch.setattr(module, name, "new")
    run_suite(suite)
    expected = line(counts, why, PRUNE if "artifact" in counts else "")
    assert older(logged) == [expected]
    run_suite(suite)
    assert older(logged) == [expected], "only the first run over an older store has something to say"


def test_plugins_that_changed_are_named_or_counted(suite: Path, tmp_path: Path, logged: Lines) -> None:
    names = ("one", "two", "three", "four")
    run_suite(suite, ",".join(names[:1]), plugins=[plugin(tmp_path, names=names)])
    run_suite(suite, ",".join(names[:1]), plugins=[plugin(tmp_path, "", names=names)])
    assert older(logged) == [line("2 artifacts and 1 record", "one changed")]
    run_suite(suite, ",".join(names), plugins=[plugin(tmp_path, "", names=names)])
    assert len(older(logged)) == 1, "detectors that are new to the store are not older"
    run_suite(suite, ",".join(names), plugins=[plugin(tmp_path, "2 * ", names=names)])
    assert older(logged)[1:] == [line("8 artifacts and 4 records", "four, one, three and 1 more plug-in changed")]


def test_several_changes_at_once(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Lines) -> None:
    run_suite(suite, "mine,msp", plugins=[plugin(tmp_path)])
    monkeypatch.setattr(job_builder, "TRAINING_VERSION", "new")
    monkeypatch.setattr(evaluate, "METRICS_VERSION", "new")
    file = plugin(tmp_path, pinned='version = "7"')
    run_suite(suite, "mine,msp", plugins=[file])
    [found] = older(logged)
    assert found.startswith("9 artifacts and 2 records of this plan exist")
    assert "(metrics 1 -> new, training " in found
    assert " -> new, mine changed)" in found


def test_images_that_changed_under_their_name(suite: Path, tmp_path: Path, logged: Lines) -> None:
    for seed in (0, 1):
        run_suite(suite, "msp", plugins=[plugin(tmp_path, seed=seed)], ood_sets="test_drawn")
    assert older(logged) == [line("3 artifacts and 1 record", "other images of test_drawn")]


def test_a_detector_with_another_default(suite: Path, tmp_path: Path, logged: Lines) -> None:
    file = plugin(tmp_path)
    run_suite(suite, "mine", plugins=[file])
    file.write_text(file.read_text().replace("factor: float = 1.0", "factor: float = 2.0"))
    run_suite(suite, "mine", plugins=[file])
    assert older(logged) == [line("2 artifacts and 1 record", "mine changed")]


def test_keys_that_include_more(suite: Path, logged: Lines) -> None:
    run = prepare_suite(suite)
    train = next(job for job in run.work.jobs if isinstance(job, TrainJob)).makes[0]
    content = {name: value for name, value in train.content.items() if name != "precision"}
    run.context.store.save_array(replace(train, content=content), np.zeros(2), {})
    prepare_suite(suite)
    assert older(logged) == [line("1 artifact", "keys include precision")]


def test_what_was_not_asked_for_before_is_not_older(suite: Path, tmp_path: Path, logged: Lines) -> None:
    def prepared(detectors: str = "mine", **options: Any) -> Prepared:
        return prepare_suite(suite, detectors, plugins=[plugin(tmp_path)], **options)

    prepared().start()
    asked: list[dict[str, Any]] = [
        {"epochs": 2},
        {"limit_train": 100},
        {"store_features": "float16"},
        {"block": 64},
        {"seeds": [1]},
        {"backbone": "small_cnn[hidden=5,width=2]"},
        {"detectors": "mine[factor=2]"},
        {"ood_sets": "glyphs"},
        {"rerun": "all"},
    ]
    for options in asked:
        assert prepared(**options).work.cells
    assert older(logged) == []


def test_results_that_are_never_reused_are_not_older(suite: Path, tmp_path: Path, logged: Lines) -> None:
    file = plugin(tmp_path)
    file.write_text(f"{file.read_text()}\nfrom pathlib import Path\nTEXT = Path(__file__).read_text()\n")
    for _ in range(2):
        run_suite(suite, "mine", plugins=[file])
    assert older(logged) == []


def forged(side: dict[str, Any], **values: Any) -> dict[str, Any]:
    """A side file with other values of fields that its key has."""
    return {**side, "key": {**side["key"], **{name: values[name] for name in values.keys() & side["key"].keys()}}}


def test_forged_side_files_are_no_reason(suite: Path, monkeypatch: pytest.MonkeyPatch, logged: Lines) -> None:
    cache = run_suite(suite).path.parents[1] / "cache"
    monkeypatch.setattr(job_builder, "TRAINING_VERSION", "new")
    sides = {path: json.loads(path.read_text()) for path in cache.glob("*/*.json") if path.parent.name != "data"}
    forgeries: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
        lambda side: {},
        lambda side: {**side, "key": "none"},
        lambda side: {**side, "key": dict.fromkeys(side["key"], 7)},
        lambda side: forged(side, detector={"name": [], "settings": 1, "version": {}}, recipe={"name": {}}),
        lambda side: forged(side, checkpoint="0" * 64, outputs=[side["digest"]], recipe=[side["digest"]]),
    ]
    for forge in forgeries:
        for path, side in sides.items():
            path.write_text(json.dumps(forge(side)))
        assert prepare_suite(suite).work.jobs
    assert older(logged) == []
    for path, side in sides.items():
        path.write_text(json.dumps(side))
    prepare_suite(suite)
    assert len(older(logged)) == 1
