"""Settings chosen on held-out data: on which images, which settings, and never on a test image of the same cell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from oodbench.benchmark import ImageSet, auroc
from oodbench.benchmark.api import Prepared
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.splits import first_half
from oodbench.benchmark.data.transformed import TRANSFORMED
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.jobs import ExtractJob, FitJob, ScoreJob
from oodbench.benchmark.plan.tuning.jobs import TuneJob
from oodbench.benchmark.plan.tuning_protocols import candidates
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.stages.evaluate import evaluate_cell
from oodbench.benchmark.views.costs import costs_of
from oodbench.benchmark.views.tables import text as table_text
from tests.stages.chooser import MATRIX, Chooser
from tests.support import prepare_suite, write_suite

Prepare = Callable[..., Prepared]


@pytest.fixture
def prepare_tiny(tmp_path: Path, register: Callable[[str, type[Plugin]], None], undrawn: None) -> Prepare:
    register("chooser", Chooser)
    suite = write_suite(tmp_path, MATRIX)
    return lambda detectors="chooser", **options: prepare_suite(suite, detectors, **options)


def test_defaults_come_first_and_settings_of_the_user_are_fixed() -> None:
    first, *others = candidates(Chooser())
    assert first.changed_settings() == {}
    assert len(others) == 5
    assert [candidate.settings for candidate in candidates(Chooser(sign=-1.0))] == [
        {"sign": -1.0, "power": 1},
        {"sign": -1.0, "power": 2},
    ]


def test_without_a_protocol_nothing_is_chosen(prepare_tiny: Prepare) -> None:
    plan = prepare_tiny().plan
    assert not any(isinstance(job, TuneJob) for job in plan.jobs.values())
    assert all(cell.tuned is None for cell in plan.cells)


def test_no_image_of_a_cell_s_own_set_or_kin_tunes_it_and_what_tunes_is_scored_nowhere(prepare_tiny: Prepare) -> None:
    prepared = prepare_tiny(protocol="leave_one_out")
    plan, library = prepared.plan, prepared.context.library
    jobs = plan.jobs
    scored = {cell.record.ood_set: cell for cell in plan.cells}
    assert set(scored) == {"greek", "uniform", "gaussian", "digits[4-9]"}
    tested = set()
    for name, cell in scored.items():
        assert cell.tuned is not None
        assert cell.ood_scores is not None
        tune, score = jobs[cell.tuned.digest], jobs[cell.ood_scores.digest]
        assert isinstance(tune, TuneJob)
        assert isinstance(score, ScoreJob)
        on = {outputs.data.set for outputs in tune.ood}
        noise = {"uniform", "gaussian"}
        assert on == set(scored) - {name} - (noise if name in noise else set())
        assert {outputs.data.part for outputs in tune.ood} == {"tuning"}
        assert score.outputs.data.part == "scored"
        assert {tune.train.data.part, tune.validation.data.part} == {"train", "validation"}
        tuned_on = {image.tobytes() for o in tune.ood for image in prepared.context.images(o.data).images}
        test = {image.tobytes() for image in library.part(parse_set(name), "test").images}
        assert not tuned_on & test
        tested |= {image.tobytes() for image in prepared.context.images(score.outputs.data).images}
    every = {image.tobytes() for name in scored for image in library.part(parse_set(name), "tuning").images}
    assert not every & tested


def test_the_choice_is_the_best_on_what_it_is_made_on(prepare_tiny: Prepare) -> None:
    prepared = prepare_tiny(protocol="val_ood", ood_sets="greek")
    run: StoredRun = prepared.start()
    (record,) = run.records
    context = prepared.context
    (tune,) = (job for job in prepared.plan.jobs.values() if isinstance(job, TuneJob))
    choice = context.store.load_json(tune.makes[0])
    top = [context.store.load_array(o.logits).astype(float).max(axis=1) for o in (tune.validation, *tune.ood)]
    by_hand = {}
    for sign in (1.0, -1.0):
        for power in (1, 2):
            scores = [-np.sign(sign) * values**power for values in top]
            by_hand[sign, power] = auroc(scores[0], scores[1])
    best = max(by_hand.values())
    assert choice["auroc"] == pytest.approx(best, abs=1e-12)
    assert record.tuned["auroc"] == choice["auroc"]
    settings = {"sign": 1.0, "power": 1, **record.tuned["settings"]}
    assert by_hand[settings["sign"], settings["power"]] == pytest.approx(best, abs=1e-12)
    assert record.tuned["on"] == ["glyphs (outliers)"]
    assert record.tuned["own_source"] is False
    failed = [trial for trial in choice["tried"] if trial["auroc"] is None]
    assert len(failed) == 2
    assert all("every score must be finite" in trial["reason"] for trial in failed)
    (cell,) = prepared.plan.cells
    assert cell.ood_scores is not None
    score = prepared.plan.jobs[cell.ood_scores.digest]
    assert isinstance(score, ScoreJob)
    assert score.tuned == tune.makes[0]
    tried = {job.detector: job.makes[0] for job in prepared.plan.jobs.values() if isinstance(job, FitJob)}
    assert score.state_of(choice["detector"]) == tried[choice["detector"]]
    note = "chosen on glyphs (outliers) (digits[0-3], chooser, greek)"
    assert note in " ".join(table_text.text_table(run).split())


def test_settings_chosen_on_the_ood_sets_own_source_are_noted(prepare_tiny: Prepare, tmp_path: Path) -> None:
    (record,) = prepare_tiny(protocol="val_ood", ood_sets="glyphs").start().records
    assert record.tuned["own_source"] is True
    assert any("among them images of the OOD set's own source" in note for note in record.notes)


def test_passes_of_every_candidate_are_counted(prepare_tiny: Prepare) -> None:
    plan = prepare_tiny("odin", protocol="val_ood", ood_sets="greek").plan
    (tune,) = (job for job in plan.jobs.values() if isinstance(job, TuneJob))
    images = tune.validation.data.images + tune.ood[0].data.images
    trials = [plan.jobs[key.digest] for candidate in tune.candidates for key in candidate.scores]
    passes = sum(job.passes for job in trials if isinstance(job, ScoreJob))
    assert passes == 2 * images * len(tune.candidates)
    assert len(tune.candidates) == 20
    (cell,) = plan.cells
    scored = 2 * (cell.record.n_id or 0) + 2 * (cell.record.n_ood or 0)
    extracted = sum(job.size for job in plan.jobs.values() if job.kind == "extract")
    assert cell.record.forward_images == passes + scored + extracted


class Stepping(Chooser):
    """Its score takes as many passes as its power, and its fit one where the power is 2."""

    def passes_for(self, blocks: int) -> int:
        """As many as the power."""
        return self.power

    def passes_in_fit(self, blocks: int, validation: int, outliers: int) -> int:
        """One per validation image for the power 2."""
        return validation * (self.power - 1)


def test_a_record_is_charged_the_passes_of_what_was_chosen(
    prepare_tiny: Prepare, register: Callable[[str, type[Plugin]], None]
) -> None:
    register("stepping", Stepping)
    prepared = prepare_tiny("stepping[sign=-1.0]", protocol="val_ood", ood_sets="greek")
    (planned,) = prepared.plan.cells
    (record,) = prepared.start().records
    images = {1: planned.record.forward_images}
    images[2] = images[1] + (planned.record.n_id or 0) + (planned.record.n_ood or 0)
    assert list(planned.forwarded_if.values()) == [images[1], images[2]]
    passed = sum(job.size for job in prepared.plan.jobs.values() if isinstance(job, ExtractJob))
    added = f"{images[1] - passed:,} to {images[2] - passed:,}, by the settings chosen"
    assert str(prepared.start().info["passes"]).endswith(f"; stepping[sign=-1.0] +{added}.")
    chosen = {"power": 1, **record.tuned["settings"]}["power"]
    assert record.forward_images == images[chosen]
    (tune,) = (job for job in prepared.plan.jobs.values() if isinstance(job, TuneJob))
    for power in (1, 2):  # whichever was chosen above
        choice = {**prepared.context.store.load_json(tune.makes[0]), "detector": tune.candidates[power - 1].detector}
        prepared.context.store.save_json(tune.makes[0], choice, {})
        assert evaluate_cell(planned, {}, prepared.context).forward_images == images[power]


def test_a_detector_without_a_choice_is_scored_on_the_same_images(prepare_tiny: Prepare) -> None:
    plan = prepare_tiny("msp,chooser", protocol="leave_one_out").plan
    sizes = {(cell.record.label, cell.record.ood_set): cell.record.n_ood for cell in plan.cells}
    for ood in ("greek", "uniform"):
        assert sizes["msp", ood] == sizes["chooser", ood]
    assert sizes["msp", "uniform"] == 500


def edit(suite: Path, old: str, new: str) -> None:
    text = suite.read_text()
    assert old in text
    suite.write_text(text.replace(old, new))


def test_having_nothing_to_tune_on_is_an_error(prepare_tiny: Prepare, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no other OOD set to tune on than 'uniform' and its kin"):
        prepare_tiny(protocol="leave_one_out", ood_sets="uniform,gaussian")
    edit(tmp_path / "tiny.toml", 'tuning = "glyphs"\n', "")
    with pytest.raises(UserError, match=r"needs an OOD set to tune on, and suite 'tiny' names none for 'digits.0-3.'"):
        prepare_tiny(protocol="val_ood")
    with pytest.raises(UserError, match=r"Unknown protocol 'best'\. Choose defaults, val_id, val_ood, leave_one_out"):
        prepare_tiny(protocol="best")


def test_a_suite_can_choose_the_protocol(prepare_tiny: Prepare, tmp_path: Path) -> None:
    edit(tmp_path / "tiny.toml", "[protocol]", '[protocol]\ntuning = "leave_one_out"')
    assert all(cell.tuned for cell in prepare_tiny().plan.cells)
    assert not any(cell.tuned for cell in prepare_tiny(protocol="defaults").plan.cells)
    edit(tmp_path / "tiny.toml", '"leave_one_out"', '"best"')
    with pytest.raises(UserError, match=r"tuning in .protocol. is 'best'; it must be one of defaults, val_id, val_ood"):
        prepare_tiny()


def test_val_id_chooses_on_transformed_validation_images_alone(prepare_tiny: Prepare) -> None:
    prepared = prepare_tiny("chooser,msp", protocol="val_id", ood_sets="digits[4-9],uniform")
    plan, library = prepared.plan, prepared.context.library
    (tune,) = (job for job in plan.jobs.values() if isinstance(job, TuneJob) and len(job.ood) > 1)  # for all OOD sets
    assert [outputs.data.part for outputs in tune.ood] == list(TRANSFORMED)
    assert {outputs.data.set for outputs in (*tune.ood, tune.validation)} == {"digits[0-3]"}
    seen = {job.outputs.data for job in plan.jobs.values() if isinstance(job, ExtractJob)}
    assert {data.set for data in seen if data.part not in ("test", "scored")} == {"digits[0-3]"}
    run = prepared.start()
    record = next(r for r in run.records if (r.label, r.ood_set) == ("chooser", "digits[4-9]"))
    assert record.n_ood == len(library.part(parse_set("digits[4-9]"), "test"))  # nothing is held out for tuning
    assert record.tuned["own_source"] is False
    choice = prepared.context.store.load_json(tune.makes[0])
    top = [prepared.context.store.load_array(o.logits).astype(float).max(axis=1) for o in (tune.validation, *tune.ood)]
    by_hand = {power: np.mean([auroc(-(top[0] ** power), -(ood**power)) for ood in top[1:]]) for power in (1, 2)}
    assert choice["auroc"] == pytest.approx(
        max(*by_hand.values(), *(1 - value for value in by_hand.values())), abs=1e-12
    )
    note = "chosen on digits[0-3] (shuffled, jigsaw, noisy, blurred, mixed validation)"
    assert any(note in one for one in record.notes)
    assert costs_of(run)["chooser"].data == ("ID", "tuned on ID")
    uses = {(one["use"], one["part"]) for one in record.provenance["data"]}
    assert {("tune", role) for role in TRANSFORMED} <= uses
    assert "tune on OOD" not in {use for use, _ in uses}


def test_val_id_mixes_no_images_of_one_class(prepare_tiny: Prepare) -> None:
    prepared = prepare_tiny(
        "ocsvm[gamma=0.5]", protocol="val_id", id_sets="digits[3]", ood_sets="uniform", recipe="svdd_autoencoder"
    )
    (tune,) = (job for job in prepared.plan.jobs.values() if isinstance(job, TuneJob) and len(job.ood) > 1)
    assert [outputs.data.part for outputs in tune.ood] == list(TRANSFORMED[:-1])
    said = "No settings are chosen on 'digits[3]' (mixed validation): Images of one class cannot be mixed"
    assert any(note.startswith(said) for note in prepared.context.library.notes)


def test_halves_split_no_group_and_contain_every_class(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(3), [4, 6, 2])
    images = np.zeros((12, 1, 2, 2), dtype=np.uint8)
    half = first_half(ImageSet(images, labels, tuple("abc")))
    assert half.tolist() == [True] * 2 + [False] * 2 + [True] * 3 + [False] * 3 + [True, False]
    grouped = first_half(ImageSet(images, labels, tuple("abc"), np.repeat([5, 1, 9, 7], 3)))
    assert grouped.tolist() == [True] * 6 + [False] * 6
    assert first_half(ImageSet(images)).sum() == 6
    library, spec = Library(tmp_path), parse_set("greek")
    whole = library.part(spec, "test")
    parts = [library.part(spec, part) for part in ("tuning", "scored")]
    assert sum(map(len, parts)) == len(whole)
    assert sorted(i.tobytes() for p in parts for i in p.images) == sorted(i.tobytes() for i in whole.images)
