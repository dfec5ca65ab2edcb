"""The registry: built-in plug-ins, and what the decorators register and refuse."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from oodbench.benchmark import (
    Backbone,
    Dataset,
    Detector,
    Form,
    Recipe,
    backbone,
    dataset,
    detector,
    figure,
    form,
    recipe,
)
from oodbench.benchmark.errors import PluginError, UserError
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.registry import KINDS, registry
from tests.plugins.distributions import DETECTOR, Install

pytestmark = pytest.mark.usefixtures("registry_as_before")

DECORATORS: dict[str, Callable[[str], Callable[[type[Any]], type[Any]]]] = {
    "detector": detector,
    "recipe": recipe,
    "dataset": dataset,
    "form": form,
    "backbone": backbone,
    "figure": figure,
}


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


# Built-ins


def test_listing_names_and_titles_imports_nothing_heavy() -> None:
    code = f"""
import sys
from oodbench.benchmark.plugins.registry import registry
for kind in {[*KINDS, "suite"]!r}:
    for entry in registry.entries(kind).values():
        print(kind, entry.name, bool(entry.title), sep="\\t")
heavy = [name for name in ("torch", "torchvision", "sklearn", "pandas", "matplotlib", "scipy") if name in sys.modules]
print("heavy", heavy)
print("imported", [name for name in sys.modules if name.startswith(("oodbench.detectors.", "oodbench.datasets."))])
"""
    *rows, heavy, imported = python(code).splitlines()
    listed = [tuple(row.split("\t")) for row in rows]
    assert (heavy, imported) == ("heavy []", "imported []")
    assert {("detector", "msp", "True"), ("recipe", "joint", "True"), ("dataset", "digits", "True")} <= set(listed)
    assert {("form", "inverted", "True"), ("backbone", "small_cnn", "True"), ("suite", "digits", "True")} <= set(listed)
    assert all(title == "True" for *_, title in listed)


@pytest.mark.parametrize("kind", KINDS)
def test_every_builtin_loads_as_what_it_was_listed_as(kind: str) -> None:
    entries = registry.entries(kind)
    assert entries
    for name, entry in entries.items():
        plugin = registry.get(kind, name)
        assert (plugin.name, plugin.title, plugin.__module__) == (name, entry.title, entry.origin)
        assert issubclass(plugin, KINDS[kind].base)
        assert entry.reason() == ""


@pytest.mark.parametrize(
    "kind, name, near",
    [
        ("detector", "enregy", "energy"),
        ("recipe", "join", "joint"),
        ("dataset", "digit", "digits"),
        ("form", "invert", "inverted"),
        ("backbone", "smal_cnn", "small_cnn"),
        ("figure", "lee2019", "lee2018"),
        ("suite", "digit", "digits"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one_and_the_count(kind: str, name: str, near: str) -> None:
    with pytest.raises(UserError) as error:
        registry.get(kind, name)
    what = "data set" if kind == "dataset" else kind
    count = len(registry.entries(kind))
    assert str(error.value) == (
        f"Unknown {what} '{name}'. Did you mean '{near}'? 'bench list {kind}s' shows all {count}."
    )


def test_a_name_like_no_other_gets_no_guess() -> None:
    with pytest.raises(UserError, match=r"^Unknown detector 'zzzzzzzz'\. 'bench list detectors' shows all \d+\.$"):
        registry.get("detector", "zzzzzzzz")


# Registering


class Scores(Detector):
    def score(self, batch: Any) -> Any:
        return batch.logits[:, 0]


class Elsewhere(Scores):
    def score(self, batch: Any) -> Any:
        return batch.logits[:, 1]


def test_a_builtin_name_is_refused_with_both_sides() -> None:
    with pytest.raises(PluginError) as error:
        detector("msp")(Scores)
    assert str(error.value) == (
        f"The detector name 'msp' is taken by the built-in oodbench.detectors.msp; "
        f"choose another for {__name__}.Scores."
    )
    assert registry.get("detector", "msp").__module__ == "oodbench.detectors.msp"
    assert Scores.name == ""


def test_a_name_of_another_class_is_refused_with_both_sides() -> None:
    detector("registry_taken")(Scores)
    with pytest.raises(PluginError) as error:
        detector("registry_taken")(Elsewhere)
    assert str(error.value) == (
        f"The detector name 'registry_taken' is taken by {__name__}.Scores; choose another for {__name__}.Elsewhere."
    )
    assert registry._objects["detector", "registry_taken"] is Scores


def test_a_class_may_be_registered_again() -> None:
    """This happens when a module is reloaded."""
    for _ in range(2):
        detector("registry_again", title="T", paper="P")(Scores)
    assert (Scores.name, Scores.title, Scores.paper) == ("registry_again", "T", "P")


def test_two_kinds_may_share_a_name() -> None:
    assert registry.get("detector", "joint") is not registry.get("recipe", "joint")


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_without_its_method_is_refused(kind: str) -> None:
    base, method, _ = KINDS[kind]
    bare: type[Plugin] = type("Bare", (base,), {})
    sentence = rf"^The {kind} 'registry_bare' has no {method}\(\); it must define one\.$"
    with pytest.raises(PluginError, match=sentence):
        DECORATORS[kind]("registry_bare")(bare)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["another kind", "no plug-in", "function", "instance"])
def test_a_wrong_base_is_refused(kind: str, what: str) -> None:
    bases: dict[str, Any] = {
        "detector": Recipe,
        "recipe": Detector,
        "dataset": Form,
        "form": Backbone,
        "backbone": Dataset,
        "figure": Dataset,
    }
    other = type("Other", (bases[kind],), {method: lambda self: None for _, method, _ in KINDS.values()})
    wrong: dict[str, Any] = {
        "another kind": other,
        "no plug-in": type("Plain", (), {}),
        "function": lambda: None,
        "instance": Scores(),
    }
    base = KINDS[kind].base.__name__
    sentence = rf"^The {kind} 'registry_wrong' must be a class derived from oodbench\.benchmark\.{base}\.$"
    with pytest.raises(PluginError, match=sentence):
        DECORATORS[kind]("registry_wrong")(wrong[what])
    assert (kind, "registry_wrong") not in registry._objects


@pytest.mark.parametrize("needs", ["logits", ("logits",), ["logits"]])
def test_needs_that_are_no_set_are_told(needs: Any) -> None:
    plugin = type("Wants", (Scores,), {"needs": needs})
    with pytest.raises(PluginError, match=r"^The detector 'registry_wants' declares needs = .*; write a set, such as"):
        DECORATORS["detector"]("registry_wants")(plugin)


def public_members(base: type[Plugin]) -> list[str]:
    """All but learned attributes, such as `chosen_`, and constants, neither of which can be settings."""
    return [name for name in dir(base) if name.islower() and not name.startswith("_") and not name.endswith("_")]


def with_setting(kind: str, setting: str, *more: type) -> type[Plugin]:
    """A valid class of a kind but for one setting; `more`: classes between it and its base."""
    base, method, _ = KINDS[kind]
    body = {name: lambda self, *inputs: None for name in method.split(" or ")[:1]}
    ready = type("Ready", (*more, base), body)
    return type("Shadows", (ready,), {"__annotations__": {setting: int}, setting: 5})


@pytest.mark.parametrize("kind", KINDS)
def test_a_setting_with_the_name_of_any_public_member_is_refused(kind: str) -> None:
    base = KINDS[kind].base
    allowed = {"builds_on"} if kind == "recipe" else set()
    for member in {*public_members(base)} - allowed:
        with pytest.raises(PluginError) as error:
            DECORATORS[kind]("registry_shadow")(with_setting(kind, member))
        sentence = str(error.value)
        assert sentence.startswith(f"The {kind} 'registry_shadow' has a setting '{member}', which "), sentence
        assert sentence.endswith("choose another name for the setting.")
        assert (kind, "registry_shadow") not in registry._objects
    for member in allowed:
        assert DECORATORS[kind]("registry_declares")(with_setting(kind, member))().settings == {member: 5}


def test_a_shadowed_method_and_a_shadowed_declaration_have_their_sentences() -> None:
    with pytest.raises(PluginError) as error:
        recipe("registry_shadow")(with_setting("recipe", "samples"))
    assert str(error.value) == (
        "The recipe 'registry_shadow' has a setting 'samples', which is a method of Recipe; choose another name for "
        "the setting."
    )
    with pytest.raises(PluginError) as error:
        detector("registry_shadow")(with_setting("detector", "in_all"))
    assert str(error.value) == (
        "The detector 'registry_shadow' has a setting 'in_all', which every Detector declares; leave out its "
        "annotation to declare it, or choose another name for the setting."
    )


class Helpful:
    """What a class between a plug-in and its kind may define."""

    limit = 3

    def helper(self) -> int:
        return 1

    @property
    def derived(self) -> int:
        return 2

    @staticmethod
    def plain() -> int:
        return 3


@pytest.mark.parametrize("member, what", [("helper", "method"), ("derived", "property"), ("plain", "method")])
def test_a_setting_that_shadows_an_inherited_helper_is_refused(member: str, what: str) -> None:
    with pytest.raises(PluginError, match=f"has a setting '{member}', which is a {what} of Helpful; choose another"):
        detector("registry_shadow")(with_setting("detector", member, Helpful))


def test_a_setting_may_replace_an_inherited_value_or_setting() -> None:
    assert detector("registry_limit")(with_setting("detector", "limit", Helpful))().settings == {"limit": 5}
    again: type[Any] = type("Again", (with_setting("detector", "k"),), {"__annotations__": {"k": int}, "k": 7})
    assert detector("registry_k")(again)().settings == {"k": 7}


def test_a_setting_and_a_method_of_one_name_in_one_class_are_refused() -> None:
    def samples(self: object) -> int:
        return 1

    both = type("Both", (Scores,), {"__annotations__": {"rows": int}, "rows": samples})
    with pytest.raises(PluginError, match="has a setting 'rows', which is a method of Both; choose another name"):
        detector("registry_both")(both)


@pytest.mark.parametrize(
    "name", ["", "two words", "Upper", "../x", "a/b", "a\\b", "..", ".hidden", "-x", "a@b", "a[b]", "a+b", "a,b", "é",
             "x\n", "all"],
)  # fmt: skip
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(PluginError, match="cannot name a detector: use lower-case letters, digits") as error:
        detector(name)(Scores)
    assert repr(name)[1:-1] in repr(error.value.args[0])
    assert ("detector", name) not in registry._objects


@pytest.mark.parametrize("name", ["a", "0", "ash-s", "resnet18.v2", "a_b"])
def test_a_plain_name_is_taken(name: str) -> None:
    assert detector(name)(Scores) is Scores
    assert registry._objects["detector", name] is Scores


def test_a_class_of_this_process_is_found_and_hides_no_installed_one(install: Install) -> None:
    mine = type("Mine", (Scores,), {"__module__": "strange_here"})
    detector("registry_here", title="Mine")(mine)
    entry = registry.entries("detector")["registry_here"]
    assert (entry.title, entry.origin, entry.load()) == ("Mine", "this process, strange_here", mine)
    install(
        "strange-late",
        {"detectors": {"registry_here": "strange_late:Other"}},
        {"strange_late.py": DETECTOR.format(name="registry_here")},
    )
    reason = registry.entries("detector")["registry_here"].reason()
    assert reason.startswith("The detector name 'registry_here' is taken by strange_here.Mine; choose another for")
    assert "strange_late.Other" in reason
