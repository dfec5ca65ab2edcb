"""What 'all' leaves out, and suites that extend others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from oodbench.benchmark import Detector, Recipe
from oodbench.benchmark.api import Prepared, prepare
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.suite import Schedule, Suite
from oodbench.benchmark.plan.suite_file import read_suite, suite_that_runs_all
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.detectors._fine_tuning import FineTuned

LEFT_OUT = {name for name, entry in registry.entries("detector").items() if not entry.load().in_all}
POST_HOC = {"adascale", "ocsvm", "isolation_forest", "kde"}
"""Of these, the ones that train no network: passes with gradients, and baselines for ID sets of one class."""
OF_JOINT = {"gan_entropy"}
"""Of these, the ones that are trained as `joint` is, with another loss."""
OWN_NETWORK = {"deep_svdd", "deep_sad"}
"""Of these, the ones whose network and training are the paper's, whatever the suite's base recipe does."""
OF_TEXTS = {"mcm", "gl_mcm", "neglabel"}
"""Of these, the ones that compare images with texts, which the networks that suites train do not know."""
VARIANTS = {"learned_confidence_perturbed": "learned_confidence"}
"""Detectors that score otherwise with the recipe of another one -> that one."""

Plan = Callable[..., Prepared]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    def planner(detectors: str, **options: object) -> Prepared:
        return prepare(detectors, results=tmp_path, id_sets="digits", ood_sets="greek", **options)

    return planner


@pytest.fixture
def costly() -> str:
    """A detector that 'all' leaves out."""

    class Costly(Detector):
        in_all = False

    Costly.name = "costly"
    registry.adopt("detector", "costly", Costly, "this test")
    return "costly"


def planned(prepared: Prepared) -> set[str]:
    return {cell.record.detector for cell in prepared.plan.cells}


def notes(prepared: Prepared) -> list[str]:
    return [note for note in prepared.context.library.notes if note.startswith("Not part of 'all'")]


def test_all_leaves_out_what_says_so_and_names_it_once(plan: Plan, costly: str) -> None:
    prepared = plan("all")
    assert not planned(prepared) & {costly, *LEFT_OUT}
    (note,) = notes(prepared)
    assert costly in note.partition(". ")[0].partition(": ")[2].split(", ")
    assert note.endswith("Add them to --detectors by name, or choose --suite digits-full.")


def test_a_detector_that_is_named_beside_all_is_in(plan: Plan, costly: str) -> None:
    prepared = plan(f"all,{costly}")
    assert costly in planned(prepared)
    assert not any(costly in note for note in notes(prepared))


def test_nothing_is_said_where_the_request_has_no_all(plan: Plan, costly: str) -> None:
    assert planned(plan("msp")) == {"msp"}
    assert not notes(plan("msp"))


def test_a_suite_may_include_every_detector(plan: Plan, costly: str) -> None:
    prepared = plan("all", suite="digits-full")
    assert costly in planned(prepared) >= LEFT_OUT - OF_TEXTS
    assert {absence.what for absence in prepared.plan.skipped} >= OF_TEXTS
    assert not notes(prepared)


@pytest.mark.parametrize("name", registry.entries("suite"))
def test_all_of_the_shipped_suites_is_without_them_unless_it_extends_one_or_is_of_one_class(name: str) -> None:
    suite = read_suite(name)
    assert suite.every_detector == bool(suite.extends or not registry.get("recipe", suite.recipe).classifies)


def test_the_full_suite_differs_in_its_name_and_in_what_all_means() -> None:
    full, base = read_suite("digits-full"), read_suite("digits")
    assert (full.entries, full.training, full.recipes, full.notes) == (
        base.entries,
        base.training,
        base.recipes,
        base.notes,
    )
    assert (full.backbone, full.recipe, full.precision, full.threads) == (
        base.backbone,
        base.recipe,
        base.precision,
        base.threads,
    )
    assert full.extends == "digits"
    assert not full.default
    assert suite_that_runs_all("digits") == "digits-full"
    assert not suite_that_runs_all("lee2018")


# a suite that extends another


def read(tmp_path: Path, text: str) -> Suite:
    path = tmp_path / "mine.toml"
    path.write_text(f"schema = 1\n{text}", encoding="utf-8")
    return read_suite(str(path))


def test_tables_are_merged_and_lists_replaced(tmp_path: Path) -> None:
    text = """extends = "digits"
notes = ["Mine."]
[protocol]
backbone = "vgg13"
[training]
epochs = 3
[recipes.joint]
width = 4
"""
    suite, base = read(tmp_path, text), read_suite("digits")
    digits = parse_set("digits")
    assert suite.backbone == "vgg13"
    assert suite.recipe == base.recipe
    assert suite.notes == ("Mine.",)
    assert suite.schedule("joint", digits) == Schedule(3, *base.schedule("joint", digits)[1:])
    assert suite.recipe_settings("joint", digits) == {**base.recipe_settings("joint", digits), "width": 4}
    assert suite.entries == base.entries
    other = read(tmp_path, 'extends = "digits"\n[[id]]\nset = "glyphs"\nood = [{ set = "greek" }]\n')
    assert [str(entry.set) for entry in other.entries] == ["glyphs"]


def test_a_suite_that_cannot_be_extended_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine.toml': Unknown suite 'digit'. Did you mean 'digits'\?"):
        read(tmp_path, 'extends = "digit"')
    with pytest.raises(UserError, match="'digits-full' itself extends 'digits'; extend that one"):
        read(tmp_path, 'extends = "digits-full"')
    with pytest.raises(UserError, match="a suite must be a name in quotes, got 3"):
        read(tmp_path, "extends = 3")
    with pytest.raises(UserError, match=r"every_detector in \[protocol\] is 'yes'; it must be true or false"):
        read(tmp_path, 'extends = "digits"\n[protocol]\nevery_detector = "yes"')


def test_every_recipe_that_is_left_out_has_a_detector_of_its_name() -> None:
    for name in POST_HOC | OF_TEXTS:
        assert registry.get("detector", name).recipe is None
    for name, other in VARIANTS.items():
        assert registry.get("detector", name).recipe == registry.get("detector", other).recipe == other
    for name in LEFT_OUT - POST_HOC - OF_TEXTS - VARIANTS.keys():
        detector: type[Detector] = registry.get("detector", name)
        recipe: type[Recipe] = registry.get("recipe", name)
        assert detector.recipe == recipe.name == name


@pytest.mark.parametrize("name", registry.entries("suite"))
def test_a_suite_trains_them_like_its_base_recipe(name: str) -> None:
    """Where a suite says how long networks train, only the loss differs from that of its base recipe."""
    suite = read_suite(name)
    rate = suite.recipes.get(suite.recipe, {}).get("learning_rate")
    if not registry.get("recipe", suite.recipe).classifies:
        return  # a suite of one class, whose base recipe is an autoencoder
    others = POST_HOC | OF_TEXTS | OF_JOINT | OWN_NETWORK | VARIANTS.keys()
    for recipe in (registry.get("recipe", name) for name in LEFT_OUT - others if suite.training):
        settings = recipe(**suite.recipe_settings(recipe.name, suite.entries[0].set)).settings
        assert settings["like"] == suite.recipe
        if issubclass(recipe, FineTuned):
            assert settings["builds_on"] == suite.recipe
        else:
            assert settings["learning_rate"] == rate


@pytest.mark.parametrize("name", registry.entries("suite"))
@pytest.mark.parametrize("recipe", OF_JOINT)
def test_a_suite_trains_them_like_the_joint_loss(name: str, recipe: str) -> None:
    suite = read_suite(name)
    for entry in suite.entries:
        joint, other = (suite.recipe_settings(of, entry.set) for of in ("joint", recipe))
        assert {key: value for key, value in other.items() if key != "generator_beta"} == joint
        assert other.get("generator_beta") == other.get("beta")
        assert suite.training is None or suite.schedule("joint", entry.set) == suite.schedule(recipe, entry.set)
