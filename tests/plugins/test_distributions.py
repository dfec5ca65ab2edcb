"""Plug-ins of other distributions, found by entry points; broken ones, and names that collide."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from oodbench.benchmark.engines.ray_preflight import NodeInfo, check_node
from oodbench.benchmark.engines.same_code import planned_code
from oodbench.benchmark.errors import PluginError, UserError
from oodbench.benchmark.plugins.registry import registry
from tests.plugins.distributions import DETECTOR, Install, file_with
from tests.support import prepare_suite, write_suite

pytestmark = pytest.mark.usefixtures("registry_as_before")


def test_a_distribution_is_found_by_its_entry_points(install: Install) -> None:
    modules = {"strange_good.py": DETECTOR.format(name="other_good"), "strange_suites/__init__.py": ""}
    modules["strange_suites/tiny.toml"] = "schema = 1"
    points = {"detectors": {"other_good": "strange_good:Other"}, "suites": {"tiny": "strange_suites:tiny.toml"}}
    install("strange-good", points, modules)
    entry = registry.entries("detector")["other_good"]
    assert "strange_good" not in sys.modules, "listing a name imported its module"
    assert (entry.origin, entry.reason()) == ("package strange-good 1.0", "")
    assert registry.get("detector", "other_good").title == "Of another package"
    assert Path(registry.get("suite", "tiny")).read_text() == "schema = 1"
    assert list(registry.entries("detector"))[-1] == "other_good", "built-ins come first"


@pytest.mark.parametrize(
    "text, reason",
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("raise RuntimeError('one\\ntwo')", "RuntimeError: one"),
        ("raise SystemExit(1)", "SystemExit: 1"),
        ("class Broken(:", "SyntaxError: "),
        ("x = 1", "AttributeError: module 'strange_broken' has no attribute 'Other'"),
    ],
)
def test_a_broken_entry_point_is_listed_with_its_reason(install: Install, text: str, reason: str) -> None:
    points = {"detectors": {"broken": "strange_broken:Other"}}
    install("strange-broken", points, {"strange_broken.py": text})
    entry = registry.entries("detector")["broken"]
    assert entry.reason().startswith(reason)
    assert entry.reason().endswith("(entry point strange_broken:Other)")
    assert "\n" not in entry.reason()
    with pytest.raises(PluginError, match=r"\(entry point strange_broken:Other\)"):
        registry.get("detector", "broken")
    assert registry.get("detector", "msp").name == "msp"


def test_entries_survives_an_entry_point_without_a_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def points(group: str) -> list[metadata.EntryPoint]:
        return [metadata.EntryPoint("lonely", "no_such_module_at_all:X", group)]

    monkeypatch.setattr(metadata, "entry_points", points)
    entry = registry.entries("detector")["lonely"]
    assert entry.origin == "no_such_module_at_all:X"
    assert entry.reason().startswith("ModuleNotFoundError")


def test_a_builtin_wins_over_a_second(install: Install) -> None:
    points = {"detectors": {"msp": "strange_rival:Other"}}
    install("strange-rival", points, {"strange_rival.py": DETECTOR.format(name="msp")})
    entries = registry.entries("detector")
    assert entries["msp"].origin == "oodbench.detectors.msp"
    second = entries["msp (package strange-rival 1.0)"]
    assert second.reason() == "The detector name 'msp' is taken by oodbench.detectors.msp."
    assert registry.get("detector", "msp").__module__ == "oodbench.detectors.msp"


def test_of_two_seconds_the_second_says_who_was_first(install: Install) -> None:
    for project in ("strange-a", "strange-b"):
        module = project.replace("-", "_")
        points = {"detectors": {"contested": f"{module}:Other"}}
        install(project, points, {f"{module}.py": DETECTOR.format(name="contested")})
    entries = registry.entries("detector")
    assert entries["contested"].reason() == ""
    second = entries["contested (package strange-b 1.0)"]
    assert second.reason() == "The detector name 'contested' is taken by package strange-a 1.0."


@pytest.mark.parametrize(
    "text",
    [
        DETECTOR.format(name="other_name"),
        DETECTOR.replace('@detector({name!r}, title="Of another package")', ""),
        DETECTOR.format(name="promised") + "\nclass Heir(Other):\n    pass\n\nOther = Heir\n",
        DETECTOR.format(name="promised") + "\nOther = Other()\n",
        """
from oodbench.benchmark import Recipe, recipe

@recipe("promised")
class Other(Recipe):
    def step(self, training, batch):
        return {}
""",
    ],
    ids=["other name", "undecorated", "undecorated heir", "instance", "other kind"],
)
def test_an_entry_point_must_lead_to_what_is_registered_under_its_name(install: Install, text: str) -> None:
    install("strange-promise", {"detectors": {"promised": "strange_promise:Other"}}, {"strange_promise.py": text})
    assert registry.entries("detector")["promised"].reason() == (
        "strange_promise:Other is not registered as the detector 'promised'; add the decorator."
    )


def test_a_suite_file_that_is_missing_is_told(install: Install) -> None:
    points = {"suites": {"gone": "strange_suites:gone.toml", "nowhere": "no_such_module_at_all:gone.toml"}}
    install("strange-suites", points, {"strange_suites/__init__.py": ""})
    for name, value in points["suites"].items():
        assert registry.entries("suite")[name].reason() == (
            f"The suite file of entry point '{name} = {value}' does not exist."
        )


def test_what_is_installed_later_is_seen_after_refresh(install: Install) -> None:
    assert "other_late" not in registry.entries("detector")
    install("strange-late", {"detectors": {"other_late": "strange_late:Other"}}, {"strange_late.py": DETECTOR})
    assert "other_late" in registry.entries("detector")


def test_nodes_must_have_the_version_of_a_plugins_distribution(install: Install, tmp_path: Path) -> None:
    points = {"detectors": {"other_good": "strange_owned:Other"}}
    install("strange-owned", points, {"strange_owned.py": DETECTOR.format(name="other_good")})
    install("strange-helping", {}, {"strange_helping.py": "def sign(x):\n    return x\n"})
    mine = "from strange_helping import sign\n" + DETECTOR.format(name="other_mine").replace("-batch", "sign(-batch")
    plugin = file_with(tmp_path, mine.replace("[:, 0]", "[:, 0])"))
    suite = write_suite(tmp_path, '[[id]]\nset = "digits[0-1]"\nood = [{ set = "greek" }]')
    code = planned_code(prepare_suite(suite, "other_good,other_mine", plugins=[plugin]).work.jobs)
    versions = dict(code.software)
    assert {name: versions[name] for name in ("strange-owned", "strange-helping")} == dict.fromkeys(
        ("strange-owned", "strange-helping"), "1.0"
    )
    assert [one.name for one in code.plugins] == ["other_good", "other_mine"]
    for name in ("strange-owned", "strange-helping"):
        there = NodeInfo({**versions, name: "1.1"}, plugins=code.plugins)
        with pytest.raises(UserError, match=rf"^{name} is 1\.0 here and 1\.1 on node b\. Install the same version"):
            check_node("b", code, there)
