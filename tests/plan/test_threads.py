"""What the machine has decides no number: the suite states the threads, on every engine and on any number of cores."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info
from torch import Tensor

from oodbench.benchmark import Detector
from oodbench.benchmark.api import Prepared, prepare
from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.engines.local import run_jobs
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.jobs import Job
from oodbench.benchmark.plan.suite_file import read_suite
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.records.environment import computed_on
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.stages.context import use_threads
from oodbench.benchmark.store import cores
from oodbench.benchmark.views.tables import markdown as table_markdown
from oodbench.benchmark.views.tables import text as table_text
from tests.support import bench, prepare_suite, tiny_suite, write_suite

MATRIX = """
[[id]]
set = "digits[0-1]"
ood = [{ set = "uniform" }]
"""
PLAN = partial(prepare_suite, threads=0, device="cpu")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return write_suite(tmp_path, MATRIX, threads=2)


def stated(folder: Path, line: str) -> Path:
    """A suite with a line about threads in its [protocol]."""
    path = folder / "stated.toml"
    path.write_text(tiny_suite(MATRIX).replace("threads = 1\n", line), encoding="utf-8")
    return path


@pytest.mark.parametrize("line, expected", [("", 2), ("threads = 1\n", 1), ("threads = 7\n", 7)])
def test_the_suite_states_the_threads(tmp_path: Path, line: str, expected: int) -> None:
    suite = stated(tmp_path, line)
    assert read_suite(str(suite)).threads == expected
    prepared = PLAN(suite)
    assert prepared.plan.threads == expected == torch.get_num_threads()
    assert prepared.asked["commands"][0]["threads"] == expected


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "true", '"2"', "257"])
def test_no_other_value_is_a_number_of_threads(tmp_path: Path, value: str) -> None:
    with pytest.raises(UserError, match=r"threads in \[protocol\] is .*; it must be a whole number from 1 to 256\.$"):
        read_suite(str(stated(tmp_path, f"threads = {value}\n")))


@pytest.mark.parametrize("value", [-1, 257, 1.5, True])
def test_the_option_takes_no_other_value_either(suite: Path, value: Any) -> None:
    with pytest.raises(
        UserError, match=r"^threads must be a whole number from 1 to 256, or 0 for the suite's own; got"
    ):
        prepare("msp", suite=str(suite), threads=value)
    assert bench("run", "--suite", suite, "--threads", value).exit_code == 2


@pytest.mark.parametrize("name", sorted(registry.entries("suite")))
def test_every_suite_of_the_package_says_it(name: str) -> None:
    text = Path(registry.get("suite", name)).read_text(encoding="utf-8")
    extended = re.search(r'^extends = "(.+)"$', text, re.MULTILINE)
    said = text if extended is None else Path(registry.get("suite", extended[1])).read_text(encoding="utf-8")
    expected = 1 if name in ("one-class-mnist", "one-class-fashion") else 2
    assert re.search(rf"^threads = {expected}\b", said, re.MULTILINE)
    assert read_suite(name).threads == expected


@pytest.mark.parametrize("cores", [1, 3, 64])
def test_cores_and_engines_change_no_key(suite: Path, monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    expected = PLAN(suite, "msp,gram,odin")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    for options in ({}, {"jobs": 2}, {"jobs": 16}, {"engine": "ray"}):
        prepared = PLAN(suite, "msp,gram,odin", **options)
        assert prepared.plan.jobs.keys() == expected.plan.jobs.keys(), options
        assert torch.get_num_threads() == 2


def test_threads_are_in_the_key_of_every_job(suite: Path) -> None:
    one, two = (PLAN(suite, "msp,gram,odin,mahalanobis", threads=count) for count in (1, 2))
    assert {job.kind for job in one.plan.jobs.values()} == {"train", "extract", "reduce", "fit", "score"}
    assert not one.plan.jobs.keys() & two.plan.jobs.keys()
    assert PLAN(suite, "msp,gram,odin,mahalanobis").plan.jobs.keys() == two.plan.jobs.keys()


def test_given_weights_are_one_file_whose_outputs_depend_on_the_threads(suite: Path, tmp_path: Path) -> None:
    from oodbench.benchmark.backbones.small_cnn import SmallCNN

    torch.save(SmallCNN(hidden=4, width=2).build(2, (3, 32, 32)).state_dict(), tmp_path / "mine.pt")
    one, two = (PLAN(suite, "msp", threads=count, checkpoint=tmp_path / "mine.pt") for count in (1, 2))
    assert {one.plan.jobs[id_].kind for id_ in one.plan.jobs.keys() & two.plan.jobs.keys()} == {"import"}


# The mark


def shown(run: Any) -> list[str]:
    """The text of every view that has notes, and the plots."""
    texts = [table_markdown.table_markdown(run), table_text.text_table(run), (run.path / "records.csv").read_text()]
    return [" ".join(text.split()) for text in texts]


@pytest.mark.usefixtures("drawn")
def test_another_number_than_the_suites_marks_every_view(suite: Path) -> None:
    run = PLAN(suite, threads=3).start()
    for text in shown(run):
        assert "not the suite's number of threads: computed on 3 threads, the suite states 2" in text
    pictures = [path.read_text() for path in (run.path / "plots").glob("*.svg")]
    assert pictures
    assert all("not the suite's number of threads" in picture for picture in pictures)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("threads", [0, 2])
def test_the_suites_number_is_no_mark_but_is_said(suite: Path, threads: int) -> None:
    run = PLAN(suite, threads=threads).start()
    assert not any("number of threads" in text for text in shown(run))
    for text in shown(run)[:2]:
        assert "Computed on cpu, 2 CPU threads a job; networks trained in " in text
    (record,) = run.records
    assert record.training["threads"] == record.provenance["resolved"]["threads"] == 2
    assert {artifact["threads"] for artifact in record.provenance["artifacts"]} == {2}


def test_devices_threads_and_precisions_that_were_mixed_are_all_named() -> None:
    names: dict[str, Any] = dict.fromkeys(
        ("id_set", "ood_set", "group", "detector", "recipe", "backbone", "label"), "some"
    )
    facts: dict[str, Any] = {"outlier_source": False, "seen": False, "settings": {}, "recipe_settings": {}, "seed": 0}

    def made(precision: str, *places: tuple[str, int]) -> Record:
        artifacts = [{"device": device, "threads": threads} for device, threads in places]
        return Record(**names, **facts, training={"precision": precision}, provenance={"artifacts": artifacts})

    records = [made("float32", ("cpu", 1)), made("bfloat16", ("cuda:1", 2), ("cuda:0", 2), ("cpu", 2))]
    found = computed_on(records)
    assert found == "Computed on cpu and cuda, 1 and 2 CPU threads a job; networks trained in bfloat16 and float32."
    assert computed_on(records[:1]) == "Computed on cpu, 1 CPU thread a job; networks trained in float32."
    assert computed_on([Record(**names, **facts)]) == "", "a record of an older version"


# The threads of the process


class TakesThreads(Detector):
    """Changes the number of threads of its process, as a careless plug-in may."""

    version = "1"
    needs = frozenset({"logits"})

    def score(self, batch: Any) -> Tensor:
        """The first logit."""
        torch.set_num_threads(5)
        logits: Tensor = batch.logits
        return logits[:, 0]


def threads_of(prepared: Prepared) -> dict[str, int]:
    """Run the jobs; title -> the threads that each began with."""
    found: dict[str, int] = {}

    class Watched(Quiet):
        def tick(self, job: Job, images: int) -> None:
            found.setdefault(job.title, torch.get_num_threads())

    outcomes = list(run_jobs(prepared.work.jobs, prepared.context, Watched()))
    assert {outcome.reason for outcome in outcomes} == {""}
    return found


@pytest.mark.slow
def test_a_job_computes_on_the_threads_of_its_key_whatever_ran_before_it(suite: Path, register: Any) -> None:
    register("test_takes_threads", TakesThreads)
    prepared = PLAN(suite, "test_takes_threads,msp,energy")
    PLAN(suite, threads=3)  # another run is prepared in between
    found = threads_of(prepared)
    assert len([title for title in found if title.startswith("score")]) == 6
    assert {count for title, count in found.items() if "test_takes_threads" not in title} == {2}
    use_threads(4)
    assert prepare_suite(suite, threads=1).start().records[0].provenance["made"]["threads"] == 1


def pools() -> dict[str, int]:
    return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}


def test_numpys_threads_are_set_too() -> None:
    random = np.random.default_rng(0)
    values, square = random.standard_normal(50_000), random.standard_normal((200, 200))
    found: dict[int, set[bytes]] = {1: set(), 2: set(), 3: set()}
    for count in (1, 2, 3, 2, 1, 3):
        use_threads(count)
        assert set(pools().values()) == {count}
        eigenvalues = np.linalg.eigvalsh(square @ square.T)
        found[count].add(np.float64(values @ values).tobytes() + eigenvalues.tobytes())
    assert {len(results) for results in found.values()} == {1}


@pytest.mark.slow
def test_libraries_that_a_job_loads_follow() -> None:
    code = (
        "from oodbench.benchmark.stages.context import use_threads\nuse_threads(3)\nimport threadpoolctl\n"
        "before = len(threadpoolctl.threadpool_info())\nimport scipy.linalg, sklearn.cluster\n"
        "found = threadpoolctl.threadpool_info()\n"
        "print(len(found) > before, {pool['num_threads'] for pool in found})"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True {3}\n"


def test_the_number_of_cores_is_the_one_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 4, 5}, raising=False)
    assert cores.usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.usable_cores() == 1
