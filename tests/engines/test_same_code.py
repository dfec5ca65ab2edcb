"""Other code in a worker or on a node than a run was planned with: nothing is stored under the plan's keys."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oodbench.benchmark.api import Prepared
from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.engines.local import run_jobs
from oodbench.benchmark.engines.ray_preflight import NodeInfo, check_node, inspect_node
from oodbench.benchmark.engines.relay import portable_config
from oodbench.benchmark.engines.same_code import planned_code, software_here
from oodbench.benchmark.engines.tasks import pack_tasks
from oodbench.benchmark.engines.worker import Worker
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan import job_builder
from oodbench.benchmark.plan.used_code import PlannedCode, plugins_of
from oodbench.benchmark.plugins.code_check import UsedPlugin
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.records.environment import ABSENT, COMPUTING
from tests.support import prepare_suite, run_suite, write_suite

MATRIX = '[[id]]\nset = "digits[0-1]"\nood = [{ set = "greek" }]'

PLUGIN = """
import numpy as np
from oodbench.benchmark import Backbone, Dataset, Detector, Form, ImageSet, backbone, dataset, detector, form, recipe
from oodbench.detectors.cross_entropy import CrossEntropy
from oodbench.benchmark.backbones.small_cnn import SmallCNN
from helper import sign

@detector("test_signed")
class Signed(Detector):
    def score(self, batch):
        return sign(batch.logits.amax(dim=1))

@detector("test_of_maps")
class OfMaps(Detector):
    needs = frozenset({"maps"})

    def reduce(self, maps, features, logits):
        return sign(logits[:, :1])

    def score(self, batch):
        return batch.maps[:, 0].double()

@recipe("test_signed")
class SignedRecipe(CrossEntropy):
    def step(self, *given):
        return sign(super().step(*given))

@backbone("test_signed")
class SignedBackbone(SmallCNN):
    hidden: int = 4
    width: int = 2

    def build(self, *given):
        assert sign(1)
        return super().build(*given)

@form("test_signed")
class SignedForm(Form):
    def apply(self, images):
        return sign(images)

@dataset("test_signed")
class SignedSet(Dataset):
    splits = ("test",)

    def load(self, split, data_dir):
        drawn = np.random.RandomState(0).randint(0, 256, (20, 3, 32, 32))
        return ImageSet(sign(drawn).astype(np.uint8))
"""
HELPER = "def sign(x):\n    return {body}\n"
ONE_RECIPE = "test_signed@test_signed"


class Project:
    """A plug-in file of every kind of plug-in, which all use a helper beside it, and a suite."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "mine.py"
        self.file.write_text(PLUGIN)
        self.edit("x")
        self.suite = write_suite(folder, MATRIX)

    def edit(self, body: str) -> None:
        (self.folder / "helper.py").write_text(HELPER.format(body=body))

    def prepared(self, detectors: str = "test_signed,msp", **options: Any) -> Prepared:
        return prepare_suite(self.suite, detectors, plugins=[self.file], device="cpu", **options)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def by_worker(run: Prepared, part: int = 10_240) -> dict[str, str]:
    """What becomes of a run's jobs in a worker that starts now, as in another process."""
    registry.load_file(Path(run.asked["commands"][0]["plugins"][0]))
    worker = Worker(portable_config(run.context, run.work.jobs), lambda event: None)
    failed: dict[str, str] = {}
    outcomes: dict[str, str] = {}
    titles = {job.id: job.title for job in run.work.jobs}
    for task in pack_tasks(run.work.jobs, part):
        report = worker.run(task, failed, False)
        failed.update(report.failed)
        outcomes |= {titles.get(id_, "a part"): reason for id_, reason, _ in report.outcomes}
    return outcomes


def stored(run: Prepared) -> set[str]:
    """Titles of the jobs whose artifacts are stored."""
    return {job.title for job in run.work.jobs if all(run.context.store.has(key) for key in job.makes)}


# What is compared


def test_the_code_of_a_plan_is_that_of_its_plugins_outside_oodbench(project: Project) -> None:
    run = project.prepared(
        f"{ONE_RECIPE},msp,test_of_maps", backbone="test_signed", ood_sets="test_signed,greek+test_signed"
    )
    code = planned_code(run.work.jobs)
    kinds = ("backbone", "dataset", "detector", "detector", "form", "recipe")
    assert [(one.kind, one.name) for one in code.plugins] == [
        *((kind, "test_signed") for kind in kinds[:2]),
        ("detector", "test_of_maps"),
        ("detector", "test_signed"),
        *((kind, "test_signed") for kind in kinds[4:]),
    ]
    assert all(one.version.startswith("source:") for one in code.plugins)
    assert [name for name, _ in code.software][: 2 + len(COMPUTING)] == ["Python", "oodbench", *COMPUTING]
    project.edit("x + 0")
    registry.load_file(project.file)
    assert planned_code(run.work.jobs).plugins[2:4] == code.plugins[2:4], "the plan's, not those of the file as it is"


def test_built_in_plugins_are_covered_by_the_source_of_oodbench(project: Project) -> None:
    jobs = project.prepared("msp,knn").work.jobs
    assert planned_code(jobs).plugins == ()
    names = {(one.kind, one.name) for job in jobs for one in plugins_of(job)}
    expected = {("detector", "msp"), ("detector", "knn"), ("recipe", "cross_entropy"), ("backbone", "small_cnn")}
    assert names == expected, "but jobs are compared with their keys as well"


# Nodes of a cluster


@pytest.mark.parametrize("kind", ["detector", "recipe", "backbone", "dataset", "form"])
def test_a_node_with_another_plugin_is_refused_with_both_versions(kind: str) -> None:
    used = UsedPlugin(kind, "mine", "source:1")
    planned = PlannedCode(tuple(software_here().items()), (used,))
    check_node("b", planned, NodeInfo(software_here(), plugins=(used,)))
    title = "data set" if kind == "dataset" else kind
    message = f"The code of {title} 'mine' has version source:1 here and source:2 on node b. Copy its file, and those"
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        check_node("b", planned, NodeInfo(software_here(), plugins=(used._replace(version="source:2"),)))


def test_a_package_that_one_side_lacks_computes_nothing_there() -> None:
    software = {**software_here(), "timm": "1.0", "a-plugin": "2.0"}
    planned = PlannedCode(tuple(software.items()))
    check_node("b", planned, NodeInfo({**software, "timm": ABSENT}))
    for name in ("timm", "a-plugin"):
        message = f"{name} is {software[name]} here and 0.9 on node b. Install the same version on all machines"
        with pytest.raises(UserError, match=f"^{re.escape(message)}"):
            check_node("b", planned, NodeInfo({**software, name: "0.9"}))


@pytest.mark.parametrize("body, same", [("-x", False), ("x  # as it was", True)], ids=["code", "comment"])
def test_a_node_inspects_the_helpers_of_its_plugin_files(project: Project, body: str, same: bool) -> None:
    run = project.prepared()
    config = portable_config(run.context, run.work.jobs)
    (config.cache / "mark").parent.mkdir(parents=True, exist_ok=True)
    (config.cache / "mark").touch()
    project.edit(body)
    info = inspect_node(config, "mark")
    if same:
        check_node("b", config.code, info)
        return
    with pytest.raises(UserError, match=r"^The code of detector 'test_signed' has version source:\w+ here and source:"):
        check_node("b", config.code, info)


# Workers


@pytest.mark.parametrize(
    "detectors, options, failing",
    [
        ("test_signed,msp", {}, "score .* with test_signed"),
        (f"{ONE_RECIPE},msp", {}, ".*test_signed.*"),
        ("msp", {"backbone": "test_signed"}, ".*"),
        ("test_of_maps,msp", {}, "look at the maps .*|score .* with test_of_maps .*"),
    ],
    ids=["detector", "recipe", "backbone", "detector of maps"],
)
def test_a_file_edited_after_planning_fails_what_needs_it_and_stores_nothing(
    project: Project, detectors: str, options: dict[str, Any], failing: str
) -> None:
    run = project.prepared(detectors, **options)
    project.edit("-x")
    outcomes = by_worker(run)
    expected = {title for title in outcomes if re.match(failing, title)}
    assert expected
    assert {title for title, reason in outcomes.items() if reason} == expected
    assert any("has another source version, source:" in reason for reason in outcomes.values())
    assert stored(run) == set(outcomes) - expected


def test_parts_of_a_pass_are_compared_too(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_builder, "block_of", lambda *_: 16)
    run = project.prepared("test_of_maps,msp")
    assert any(task.kind == "part" for task in pack_tasks(run.work.jobs, 32))
    project.edit("-x")
    by_worker(run, part=32)
    assert not list((run.context.store.root / "parts").rglob("*maps*"))
    assert {title for title in stored(run) if "test_of_maps" in title} == set()
    assert {title for title in stored(run) if "with msp" in title}


def test_an_edited_comment_changes_nothing(project: Project) -> None:
    run = project.prepared()
    project.edit("x  # the same")
    assert set(by_worker(run).values()) == {""}


def test_a_worker_with_other_software_refuses_to_start(project: Project) -> None:
    run = project.prepared("msp")
    config = portable_config(run.context, run.work.jobs)
    software = {**dict(config.code.software), "torch": "0.0.1"}
    worker = Worker(replace(config, code=config.code._replace(software=tuple(software.items()))), lambda event: None)
    with pytest.raises(UserError, match=r"^torch is 0\.0\.1 here and .* on .*, in a worker process that has just "):
        worker.run(pack_tasks(run.work.jobs)[0], {}, False)
    assert stored(run) == set()


# One process


def test_a_plan_made_before_an_edit_stores_nothing_after_it(project: Project) -> None:
    earlier = project.prepared()
    project.edit("-x")
    later = project.prepared()
    outcomes = {o.job.title: o.reason for o in run_jobs(earlier.work.jobs, earlier.context, Quiet())}
    failed = {title for title, reason in outcomes.items() if "has another source version" in reason}
    assert failed
    assert all("with test_signed" in title for title in failed)
    assert stored(earlier).isdisjoint(failed)
    assert {record.status for record in later.start().records} == {"ok"}


def test_a_file_edited_while_it_is_used_changes_nothing_in_the_process_that_has_imported_it(project: Project) -> None:
    run = project.prepared()
    project.edit("-x")
    assert {o.reason for o in run_jobs(run.work.jobs, run.context, Quiet())} == {""}


def test_a_helper_that_a_function_imports_is_imported_again_after_an_edit(tmp_path: Path) -> None:
    project = Project(tmp_path)
    text = PLUGIN.replace("from helper import sign\n", "def sign(x):\n    import helper\n    return helper.sign(x)\n")
    project.file.write_text(text)
    aurocs = []
    for body in ("-x", "x", "-x"):
        project.edit(body)
        [record] = run_suite(project.suite, "test_signed", plugins=[project.file]).records
        aurocs.append(record.metrics["auroc"])
    assert aurocs[0] == aurocs[2] == pytest.approx(1 - aurocs[1])
    assert aurocs[0] != aurocs[1]


DECLARING = """
from pathlib import Path
from oodbench.benchmark import Detector, detector

CONFIG = Path(__file__).with_name("config.txt")

@detector("test_declaring")
class Declaring(Detector):
    depends_on = ("config.txt",)

    def score(self, batch):
        factor = float(CONFIG.read_text())
        if CONFIG.with_name("edit").exists() and len(batch.logits) < 20:  # when it is asked for a few images again
            CONFIG.write_text("-1")
        return factor * batch.logits.amax(dim=1)
"""


@pytest.mark.parametrize("edited", ["before the job", "during the job"])
def test_a_declared_file_that_changes_during_the_run_fails_its_jobs(tmp_path: Path, edited: str) -> None:
    suite, plugin = write_suite(tmp_path, MATRIX), tmp_path / "mine.py"
    plugin.write_text(DECLARING)
    (tmp_path / "config.txt").write_text("1")
    run = prepare_suite(suite, "test_declaring,msp", plugins=[plugin])
    if edited == "before the job":
        (tmp_path / "config.txt").write_text("-1")
    else:
        (tmp_path / "edit").touch()
    outcomes = {o.job.title: o.reason for o in run_jobs(run.work.jobs, run.context, Quiet())}
    for title, reason in outcomes.items():
        expected = "a file that detector 'test_declaring' declares in depends_on has been changed since"
        assert (expected in reason) == ("with test_declaring" in title), title
        assert (title in stored(run)) == (not reason)


# Real processes


@pytest.mark.slow
def test_processes_that_start_after_an_edit_fail_what_needs_it(project: Project) -> None:
    run = project.prepared(jobs=2)
    project.edit("-x")
    status = {record.detector: (record.status, record.reason) for record in run.start().records}
    assert status["msp"] == ("ok", "")
    assert status["test_signed"][0] == "failed"
    assert "detector 'test_signed' has another source version" in status["test_signed"][1]
    again = project.prepared(rerun="failed").start()
    assert {record.status for record in again.records} == {"ok"}


SCRIPT = """
import sys
from oodbench.benchmark import Detector, detector, run

@detector("test_of_script")
class OfScript(Detector):
    def score(self, batch):
        return -batch.logits.amax(dim=1)

if __name__ == "__main__":
    done = run("test_of_script", suite=sys.argv[1], results=sys.argv[2], jobs=2, threads=1)
    print([(record.status, record.reason) for record in done.records])
"""


@pytest.mark.slow
def test_workers_have_the_plugins_of_a_script(tmp_path: Path) -> None:
    suite, script = write_suite(tmp_path, MATRIX), tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(suite), str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "[('ok', '')]\n", done.stderr


@pytest.mark.slow
def test_a_ray_node_is_refused_before_any_work(project: Project) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'oodbench[ray]'")
    run = project.prepared(engine="ray", ray_address="local")
    project.edit("-x")
    with pytest.raises(UserError, match=r"^The code of detector 'test_signed' has version source:\w+ here and source:"):
        run.start()
    assert stored(run) == set()
