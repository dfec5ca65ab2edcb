"""Runs that start from given weights: heads on stored features, fine-tuning, and files of weights as seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from oodbench.benchmark.api import Prepared, prepare
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.jobs import ExtractJob, HeadJob, ImportJob, TrainJob
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.recipe import Head, HeadData, Recipe
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.stages.training import train_head
from oodbench.benchmark.verify.repeat import prepare_repetition
from oodbench.benchmark.verify.run import verify
from tests.support import TINY_BACKBONE, bench, tables_of

pytestmark = pytest.mark.usefixtures("one_thread", "undrawn")

SHAPE = (1, 32, 32)


def saved(path: Path, seed: int, classes: int = 5, head: bool = True) -> Path:
    """A file of random weights of the tiny network for grey images."""
    torch.manual_seed(seed)
    state = create("backbone", parse_spec(TINY_BACKBONE)).build(classes, SHAPE).state_dict()
    torch.save({name: value for name, value in state.items() if head or not name.startswith("head.")}, path)
    return path


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """Weights of a classifier of five digits."""
    return saved(tmp_path / "start.pt", 0)


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., Prepared]:
    """Prepare a run whose ID set is the other five digits."""

    def prepared(detectors: str = "msp", results: str = "results", **options: Any) -> Prepared:
        defaults = {"id_sets": "digits[5-9]", "ood_sets": "greek", "backbone": TINY_BACKBONE, "stability": False}
        where = {"results": tmp_path / results, "data_dir": tmp_path, "threads": 1, "device": "cpu"}
        return prepare(detectors, **{**defaults, **where, **options})

    return prepared


@pytest.fixture
def run(plan: Callable[..., Prepared]) -> Callable[..., StoredRun]:
    """Run what `plan` prepares."""
    return lambda *args, **options: plan(*args, **options).start()


def jobs_of(prepared: Prepared, kind: type) -> list[Any]:
    return [job for job in prepared.plan.jobs.values() if isinstance(job, kind)]


def trained(prepared: Prepared, job: HeadJob | TrainJob) -> dict[str, Tensor]:
    """The classifier that a job stored."""
    stored = load_file(prepared.context.store.require(job.checkpoint.key))
    return {name.removeprefix("classifier."): value for name, value in stored.items()}


def problems_of(done: StoredRun) -> tuple[str, ...]:
    """What `bench verify` finds wrong with a run."""
    results = done.path.parent.parent
    return tuple(verify(done.path, results, results.parent).problems)


def own_weights(path: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(path, weights_only=True)
    return weights


# Heads


def test_a_probe_is_fitted_to_features_of_one_pass(plan: Callable[..., Prepared], start: Path) -> None:
    prepared = plan("msp,knn", checkpoint=start, recipe="linear_probe[l2=0.1]", seeds=2)
    passes = [job for job in jobs_of(prepared, ExtractJob) if not job.features_stored]
    # The validation split is read by fits of detectors. No set passes through the network twice.
    assert sorted(f"{job.outputs.data}" for job in passes) == [
        "digits[5-9] (test)", "digits[5-9] (train)", "digits[5-9] (validation)", "greek (test)",
    ]  # fmt: skip
    done = prepared.start()
    assert {(record.label, record.status) for record in done.records} == {
        ("msp@linear_probe[l2=0.1]", "ok"), ("knn@linear_probe[l2=0.1]", "ok"),
    }  # fmt: skip
    store, context = prepared.context.store, prepared.context
    (job, other) = jobs_of(prepared, HeadJob)
    x, labels = np.array(store.load_array(job.train.features), dtype=np.float64), context.labels(job.train.data)
    spread = x.std(axis=0)
    scale = np.where(spread > 1e-12, spread, 1)
    fitted = LogisticRegression(C=1 / (len(x) * 0.1), tol=1e-10, max_iter=10_000).fit(
        (x - x.mean(axis=0)) / scale, labels
    )
    weights = trained(prepared, job)
    for name, value in own_weights(start).items():
        assert torch.equal(weights[name], value) != name.startswith("head."), name
    assert np.allclose(weights["head.weight"].numpy() * scale, fitted.coef_, atol=1e-4)
    assert all(torch.equal(value, trained(prepared, other)[name]) for name, value in weights.items())
    (tested,) = [j for j in jobs_of(prepared, ExtractJob) if j.checkpoint == job.checkpoint and "test" in j.title][:1]
    features, logits = (np.array(store.load_array(key)) for key in (tested.outputs.features, tested.outputs.logits))
    assert np.array_equal(logits.argmax(1), fitted.predict((features - x.mean(axis=0)) / scale))
    accuracy = float((logits.argmax(1) == context.labels(tested.outputs.data)).mean())
    assert {record.id_accuracy for record in done.records} == {accuracy}
    images = torch.from_numpy(np.array(context.images(tested.outputs.data).images)).float() / 255
    with torch.no_grad():
        whole = context.classifier(job.checkpoint).network(images).numpy()
    assert np.allclose(logits, whole, rtol=1e-4, atol=1e-5)


def test_records_say_where_the_training_started(run: Callable[..., StoredRun], start: Path) -> None:
    done = run(checkpoint=start, recipe="linear_probe", seeds=2)
    sha256 = hashlib.sha256(start.read_bytes()).hexdigest()
    for record in done.records:
        assert (record.recipe, record.recipe_settings) == ("linear_probe", {})
        assert {n: record.training[n] for n in ("start_file", "start_sha256")} == {
            "start_file": "start.pt", "start_sha256": sha256,
        }  # fmt: skip
        uses = [(used["use"], used["set"], used["part"]) for used in record.provenance["data"]]
        assert uses[0] == ("train", "digits[5-9]", "train")
    assert (
        "Recipe 'linear_probe' gives the same classifier for every seed: the spread over seeds is not that of training."
        in done.info["notes"]
    )
    assert "1 classifier: " in done.info["passes"]
    assert not problems_of(done)


@pytest.mark.slow
def test_network_detectors_and_maps_work_on_a_probe(run: Callable[..., StoredRun], start: Path) -> None:
    """Gradients flow through the network with the new head; its maps cost one more pass over each set."""
    done = run("msp,odin,gram,mahalanobis_ensemble", checkpoint=start, recipe="linear_probe")
    assert [record.status for record in done.records] == ["ok"] * 4, [record.reason for record in done.records]
    by_name = {record.detector: record for record in done.records}
    scored = done.records[0].n_id + done.records[0].n_ood  # type: ignore[operator]
    assert by_name["msp"].forward_images == scored  # features of the test sets; training is not charged
    assert by_name["gram"].forward_images >= scored
    assert "2 classifiers: " in done.info["passes"]


def artifacts(folder: Path) -> dict[str, bytes]:
    """The content of every artifact, without how long it took."""
    kinds = ("*.safetensors", "*.npy")
    return {path.name: path.read_bytes() for kind in kinds for path in sorted((folder / "cache").rglob(kind))}


@pytest.mark.slow
def test_repeating_processes_and_an_interruption_give_the_same_bytes(
    plan: Callable[..., Prepared], start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"checkpoint": start, "recipe": "confidence_head", "id_sets": "digits", "seeds": 2}
    expected = plan("msp,knn", **options).start()
    with monkeypatch.context() as patch:

        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(train_head, "train_head", stop)
        with pytest.raises(KeyboardInterrupt):
            plan("msp,knn", "cut", **options).start()
    assert 0 < len(artifacts(tmp_path / "cut")) < len(artifacts(tmp_path / "results"))
    for results in ("cut", "again"):
        done = plan("msp,knn", results, **options).start()
        assert tables_of(done.path) == tables_of(expected.path)
        assert artifacts(tmp_path / results) == artifacts(tmp_path / "results")


@pytest.mark.slow
def test_two_processes_give_the_same_bytes(plan: Callable[..., Prepared], start: Path, tmp_path: Path) -> None:
    options = {"checkpoint": start, "recipe": "linear_probe", "seeds": 2}
    one = plan("msp,knn,gram", **options).start()
    two = plan("msp,knn,gram", "two", jobs=2, **options).start()
    assert tables_of(one.path) == tables_of(two.path)
    assert artifacts(tmp_path / "results") == artifacts(tmp_path / "two")


def test_the_confidence_loss_on_a_head_learns_from_outliers(plan: Callable[..., Prepared], start: Path) -> None:
    prepared = plan("msp,msp@linear_probe", checkpoint=start, recipe="confidence_head[beta=5]", id_sets="digits")
    done = prepared.start()
    heads = {job.checkpoint.recipe.partition("[")[0]: job for job in jobs_of(prepared, HeadJob)}
    confident = heads["confidence_head"]
    assert confident.outliers.data.set == "glyphs"
    store = prepared.context.store
    features = torch.from_numpy(np.array(store.load_array(confident.outliers.features)))
    missing = []  # nats that the mean entropy of predictions on outliers is short of uniform ones
    for job in (heads["linear_probe"], confident):
        weights = trained(prepared, job)
        log_p = (features @ weights["head.weight"].T + weights["head.bias"]).log_softmax(dim=1)
        missing.append(float(np.log(10) + (log_p.exp() * log_p).sum(dim=1).mean()))
    assert 0 <= missing[1] < 0.2 * missing[0]
    assert {record.recipe: record.seen for record in done.records} == {"confidence_head": False, "linear_probe": False}
    uses = {used["use"] for record in done.records for used in record.provenance["data"]}
    assert "train on outliers" in uses


class Two(Recipe):
    """A head of two classes, whatever there are."""

    def fit_head(self, data: HeadData) -> Head:
        return Head(torch.zeros(2, data.features.shape[1]), torch.zeros(2))


class NoNumber(Recipe):
    def fit_head(self, data: HeadData) -> Head:
        return Head(torch.full((data.num_classes, data.features.shape[1]), torch.nan), torch.zeros(data.num_classes))


@pytest.mark.parametrize(
    "plugin, message",
    [
        (Two, r"fit_head\(\) of recipe 'mine' returned a weight of \(2, 4\), expected \(5, 4\)\."),
        (NoNumber, r"fit_head\(\) of recipe 'mine' returned numbers that are not finite\."),
    ],
)
def test_a_head_that_does_not_fit_fails_its_cells(
    run: Callable[..., StoredRun],
    register: Callable[[str, type[Plugin]], None],
    start: Path,
    plugin: type[Recipe],
    message: str,
) -> None:
    register("mine", plugin)
    (record,) = run(checkpoint=start, recipe="mine").records
    assert record.status == "failed"
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(record.reason)


# Fine-tuning


@pytest.mark.parametrize("classes", [5, 10])
def test_fine_tuning_starts_from_the_file(plan: Callable[..., Prepared], tmp_path: Path, classes: int) -> None:
    """With a rate of almost 0 it ends there, but for the head where classes differ."""
    file = saved(tmp_path / "start.pt", 3, classes)
    recipe = "fine_tune[learning_rate=1e-30]"
    prepared = plan(checkpoint=file, recipe=recipe, epochs=1, limit_train=100)
    done = prepared.start()
    (job,) = jobs_of(prepared, TrainJob)
    weights = trained(prepared, job)
    for name, value in own_weights(file).items():
        if classes == 5 or not name.startswith("head."):
            assert torch.allclose(weights[name], value, atol=1e-12), name
    assert weights["head.weight"].shape == (5, 4)
    assert float(weights["head.weight"].abs().max()) > 0
    note = "'start.pt' has no head for the 5 classes of 'digits[5-9]': recipe 'fine_tune' trains a new one."
    assert (note in done.info["notes"]) == (classes == 10)
    assert done.records[0].training["epochs"] == 1


def test_fine_tuning_learns_and_seeds_differ(plan: Callable[..., Prepared], start: Path) -> None:
    prepared = plan(checkpoint=start, recipe="fine_tune", epochs=1, seeds=2)
    prepared.start()
    one, two = (trained(prepared, job) for job in jobs_of(prepared, TrainJob))
    assert not torch.equal(one["body.0.weight"], two["body.0.weight"])
    assert not torch.equal(one["body.0.weight"], own_weights(start)["body.0.weight"])
    assert len(jobs_of(prepared, ImportJob)) == 1


def test_weights_without_a_head_are_a_start(plan: Callable[..., Prepared], tmp_path: Path) -> None:
    """As self-supervised training leaves them."""
    file = saved(tmp_path / "body.pt", 1, head=False)
    prepared = plan(checkpoint=file, recipe="linear_probe")
    prepared.start()
    assert torch.equal(
        trained(prepared, *jobs_of(prepared, HeadJob))["body.0.weight"], own_weights(file)["body.0.weight"]
    )


def test_the_file_as_it_is_and_as_a_start_share_a_pass(plan: Callable[..., Prepared], start: Path) -> None:
    prepared = plan("msp,msp@linear_probe", checkpoint=start)
    passes = [job for job in jobs_of(prepared, ExtractJob) if not job.features_stored]
    assert len({job.checkpoint.key.digest for job in passes}) == 1
    assert len(passes) == 3  # training images for the probe, and both scored sets
    labels = [cell.record.label for cell in prepared.plan.cells]
    assert labels == ["msp@checkpoint[file=start.pt]", "msp@linear_probe"]


# Requests that make no sense


@pytest.mark.parametrize(
    "detectors, options, message",
    [
        ("msp", {"recipe": "linear_probe"}, r"recipe 'linear_probe' starts from given weights, and there are none"),
        ("msp", {"recipe": "fine_tune"}, r"recipe 'fine_tune' starts from given weights, and there are none"),
        ("msp", {"recipe": "linear_prob"}, r"Unknown recipe 'linear_prob'\. Did you mean 'linear_probe'\?"),
        ("msp", {"recipe": "linear_probe[l=1]"}, "linear_probe.*'l'"),
        ("msp", {"recipe": "gan"}, r"Recipe 'gan' does not train a classifier\. Choose another one for --recipe\."),
        ("msp", {"recipe": "one_cycle", "given": True}, "recipe 'one_cycle', which does not start from given weights"),
        ("joint", {"recipe": "linear_probe", "given": True}, "'joint', which does not start from given weights"),
        ("msp", {"recipe": "linear_probe", "given": True, "epochs": 3}, r"--epochs is of no use to recipe 'linear_pr"),
        (
            "msp",
            {"id_sets": "digits", "given": True},
            r"is a classifier of 5 classes, and the ID set has 10\. To fit a new head to its features, add --recipe "
            r"linear_probe\.",
        ),
        (
            "msp,msp@linear_probe",
            {"given": True, "seeds": 2},
            "--checkpoint gives one classifier, so give one seed in place of 2",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(
    plan: Callable[..., Prepared], start: Path, detectors: str, options: dict[str, Any], message: str
) -> None:
    given = {"checkpoint": start} if options.pop("given", False) else {}
    with pytest.raises(UserError, match=message):
        plan(detectors, **given, **options)


def test_detectors_with_recipes_of_their_own_are_skipped(plan: Callable[..., Prepared], start: Path) -> None:
    prepared = plan("all", checkpoint=start, recipe="linear_probe")
    reasons = {cell.record.detector: cell.record.reason for cell in prepared.plan.cells if cell.record.reason}
    assert (
        reasons["joint"] == "its classifier is to be trained by recipe 'joint', which does not start from given weights"
    )
    assert not jobs_of(prepared, TrainJob)


def test_a_recipe_replaces_the_suite_s(plan: Callable[..., Prepared]) -> None:
    """It counts for detectors that name none and have none of their own, and is typed like any."""
    prepared = plan("msp,energy@cross_entropy,knn@one_cycle[warm_up=0.5],joint", recipe="one_cycle")
    assert [cell.record.label for cell in prepared.plan.cells] == [
        "msp@one_cycle", "energy", "knn@one_cycle[warm_up=0.5]", "joint",
    ]  # fmt: skip
    assert "commands" in prepared.asked
    assert prepared.asked["commands"][0]["recipe"] == "one_cycle"


# Files as seeds


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three trainings of one network, two of which have the same name."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    names = ("one/best.pt", "two/best.pt", "third.pt")
    return [saved(tmp_path / name, seed) for seed, name in enumerate(names)]


def test_files_are_the_seeds_of_one_row(run: Callable[..., StoredRun], files: list[Path]) -> None:
    done = run("msp,energy", checkpoint=",".join(map(str, files)), name="all")
    assert {record.label for record in done.records} == {
        "msp@checkpoint[file=best.pt+2]", "energy@checkpoint[file=best.pt+2]",
    }  # fmt: skip
    for record in done.records:
        file = files[record.seed]
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        assert record.training == {"file": file.name, "sha256": sha256} == record.recipe_settings
    assert len({record.origin["row"] for record in done.records if record.detector == "msp"}) == 1
    for number, file in enumerate(files):
        (alone,) = run(checkpoint=file, name=f"alone{number}").records
        (among,) = (r for r in done.records if (r.seed, r.detector) == (number, "msp"))
        assert alone.metrics == among.metrics
        assert alone.origin["row"] != among.origin["row"]
    table = (done.path / "table.md").read_text(encoding="utf-8")
    values = [r.metrics["auroc"] for r in done.records if r.detector == "msp"]
    assert f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}" in table
    assert not problems_of(done)


def test_other_files_are_another_row(run: Callable[..., StoredRun], files: list[Path]) -> None:
    run(checkpoint=files[:2], name="both")
    run(checkpoint=files[0], name="both", add=True)
    run(checkpoint=files[1:], name="both", add=True)
    done = run(checkpoint=files[:2], name="both", add=True)
    rows: dict[str, list[int]] = {}
    for record in done.records:
        rows.setdefault(record.label, []).append(record.seed)
    assert sorted(rows.values()) == [[0], [0, 1], [0, 1]]
    assert not problems_of(done)


@pytest.mark.slow
def test_a_run_of_several_files_is_repeated(run: Callable[..., StoredRun], files: list[Path]) -> None:
    done = run("msp", checkpoint=files, recipe="linear_probe", name="given")
    assert json.loads((done.path / "run.json").read_text())["commands"][0]["checkpoint"] == list(map(str, files))
    repetition = prepare_repetition(done.path)
    for command in repetition.commands():
        command.start()
    assert {cell.verdict for cell in repetition.compare().cells} == {"exactly"}
    assert [record.training["start_file"] for record in done.records] == ["best.pt", "best.pt", "third.pt"]
    assert len({record.origin["row"] for record in done.records}) == 1
    assert not any("same classifier for every seed" in note for note in done.info["notes"])


@pytest.mark.parametrize(
    "chosen, seeds, message",
    [
        ((0, 1, 2), 2, "--checkpoint gives 3 files, one for each seed, so leave out --seeds or give 3 in place of 2"),
        ((0, 0), 1, "hold the same bytes, and every file counts as a training of its own"),
        ((0, None), 1, "nothing.pt' cannot be read: No such file"),
    ],
)
def test_files_that_cannot_be_seeds(
    plan: Callable[..., Prepared], files: list[Path], chosen: tuple[int | None, ...], seeds: int, message: str
) -> None:
    given = [files[number] if number is not None else files[0].with_name("nothing.pt") for number in chosen]
    with pytest.raises(UserError, match=message):
        plan(checkpoint=given, seeds=seeds)


def test_chosen_seeds_are_those_of_the_files(plan: Callable[..., Prepared], files: list[Path]) -> None:
    prepared = plan(checkpoint=files[:2], seeds=[7, 3])
    found = {cell.record.seed: cell.record.training["file"] for cell in prepared.plan.cells}
    by_seed = {7: files[0], 3: files[1]}
    assert found == {seed: file.name for seed, file in by_seed.items()}
    sha256 = {cell.record.seed: cell.record.training["sha256"] for cell in prepared.plan.cells}
    assert sha256 == {seed: hashlib.sha256(file.read_bytes()).hexdigest() for seed, file in by_seed.items()}


def test_one_of_several_files_that_does_not_fit_is_named(
    plan: Callable[..., Prepared], files: list[Path], tmp_path: Path
) -> None:
    other = saved(tmp_path / "ten.pt", 9, classes=10)
    with pytest.raises(UserError, match=r"ten\.pt' is a classifier of 10 classes, and the ID set has 5"):
        plan(checkpoint=[files[0], other])


def test_commas_separate_files_unless_one_has_them_in_its_name(tmp_path: Path) -> None:
    file = saved(tmp_path / "a,b.pt", 0)
    given = ["run", "--detectors", "msp", "--id", "digits[5-9]", "--ood", "greek", "--backbone", TINY_BACKBONE]
    given += ["--results", str(tmp_path / "results"), "--dry-run", "--checkpoint"]
    assert "import a,b.pt" in bench(*given, file).output
    two = f"{saved(tmp_path / 'c.pt', 1)}, {saved(tmp_path / 'd.pt', 2)}"
    listed = bench(*given, two)
    assert listed.exit_code == 0, listed.output
    assert "import c.pt" in listed.output
    assert "import d.pt" in listed.output
    empty = bench(*given, f"{tmp_path / 'c.pt'},,{tmp_path / 'd.pt'}")
    assert empty.exit_code == 2
    assert "--checkpoint names no file between two commas" in empty.output
