"""Names -> plug-ins: built-ins, files, other distributions; what collides, what is broken, and source versions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
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

Install = Callable[..., None]

DETECTOR = """
from oodbench.benchmark import Detector, detector

@detector({name!r}, title="Of another package")
class Other(Detector):
    def score(self, batch):
        return -batch.logits[:, 0]
"""

DECORATORS: dict[str, Callable[[str], Callable[[type[Any]], type[Any]]]] = {
    "detector": detector,
    "recipe": recipe,
    "dataset": dataset,
    "form": form,
    "backbone": backbone,
    "figure": figure,
}


@pytest.fixture(autouse=True)
def registry_as_before() -> Iterator[None]:
    """Forget what a test registered and imported; built-ins that it was the first to import stay."""
    objects, files, modules = dict(registry._objects), dict(registry._from_files), set(sys.modules)
    registry.refresh()
    yield
    ours = {key: plugin for key, plugin in registry._objects.items() if plugin.__module__.startswith("oodbench.")}
    registry._objects = {**ours, **objects}
    registry._from_files = files
    registry.refresh()
    for name in set(sys.modules) - modules:
        if name.startswith(("oodbench_plugin_", "strange_")):
            del sys.modules[name]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Lay a distribution out as pip does: its modules, and a .dist-info folder with its entry points."""

    def lay_out(project: str, points: dict[str, dict[str, str]], modules: dict[str, str]) -> None:
        site = tmp_path / f"site-{project}"
        info = site / f"{project.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n")
        lines = [
            f"[oodbench.{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points[group].items()) for group in points
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
        for file, text in modules.items():
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            (site / file).write_text(text)
        monkeypatch.syspath_prepend(str(site))
        registry.refresh()

    return lay_out


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def file_with(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


# built-ins


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
    with pytest.raises(UserError) as told:
        registry.get(kind, name)
    what = "data set" if kind == "dataset" else kind
    count = len(registry.entries(kind))
    assert str(told.value) == (
        f"Unknown {what} '{name}'. Did you mean '{near}'? 'bench list {kind}s' shows all {count}."
    )


def test_a_name_like_no_other_gets_no_guess() -> None:
    with pytest.raises(UserError, match=r"^Unknown detector 'zzzzzzzz'\. 'bench list detectors' shows all \d+\.$"):
        registry.get("detector", "zzzzzzzz")


# registering


class Scores(Detector):
    def score(self, batch: Any) -> Any:
        return batch.logits[:, 0]


class Elsewhere(Scores):
    def score(self, batch: Any) -> Any:
        return batch.logits[:, 1]


def test_a_builtin_name_is_refused_with_both_sides() -> None:
    with pytest.raises(PluginError) as told:
        detector("msp")(Scores)
    assert str(told.value) == (
        f"The detector name 'msp' is taken by the built-in oodbench.detectors.msp; "
        f"choose another for {__name__}.Scores."
    )
    assert registry.get("detector", "msp").__module__ == "oodbench.detectors.msp"
    assert Scores.name == ""


def test_a_name_of_another_class_is_refused_with_both_sides() -> None:
    detector("registry_taken")(Scores)
    with pytest.raises(PluginError) as told:
        detector("registry_taken")(Elsewhere)
    assert str(told.value) == (
        f"The detector name 'registry_taken' is taken by {__name__}.Scores; choose another for {__name__}.Elsewhere."
    )
    assert registry._objects["detector", "registry_taken"] is Scores


def test_a_class_may_be_registered_again() -> None:
    """As happens when a module is reloaded."""
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
    strange: dict[str, Any] = {
        "another kind": other,
        "no plug-in": type("Plain", (), {}),
        "function": lambda: None,
        "instance": Scores(),
    }
    base = KINDS[kind].base.__name__
    sentence = rf"^The {kind} 'registry_wrong' must be a class derived from oodbench\.benchmark\.{base}\.$"
    with pytest.raises(PluginError, match=sentence):
        DECORATORS[kind]("registry_wrong")(strange[what])
    assert (kind, "registry_wrong") not in registry._objects


@pytest.mark.parametrize("needs", ["logits", ("logits",), ["logits"]])
def test_needs_that_are_no_set_are_told(needs: Any) -> None:
    plugin = type("Wants", (Scores,), {"needs": needs})
    with pytest.raises(PluginError, match=r"^The detector 'registry_wants' declares needs = .*; write a set, such as"):
        DECORATORS["detector"]("registry_wants")(plugin)


@pytest.mark.parametrize(
    "name", ["", "two words", "Upper", "../x", "a/b", "a\\b", "..", ".hidden", "-x", "a@b", "a[b]", "a+b", "a,b", "é",
             "x\n", "all"],
)  # fmt: skip
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(PluginError, match="cannot name a detector: use lower-case letters, digits") as told:
        detector(name)(Scores)
    assert repr(name)[1:-1] in repr(told.value.args[0])
    assert ("detector", name) not in registry._objects


@pytest.mark.parametrize("name", ["a", "0", "ash-s", "resnet18.v2", "a_b"])
def test_a_plain_name_is_taken(name: str) -> None:
    assert detector(name)(Scores) is Scores
    assert registry._objects["detector", name] is Scores


# files


def test_a_file_registers_its_plugins_and_may_be_loaded_again(tmp_path: Path) -> None:
    path = file_with(tmp_path, DETECTOR.format(name="file_mine"))
    for _ in range(2):
        assert registry.load_file(path) == [("detector", "file_mine")]
    entry = registry.entries("detector")["file_mine"]
    assert (entry.title, entry.origin, entry.reason()) == ("Of another package", f"file {path}", "")
    assert registry.get("detector", "file_mine").name == "file_mine"


def test_a_file_may_hold_several_kinds(tmp_path: Path) -> None:
    form_ = """
from oodbench.benchmark import Form, form

@form("file_upside_down")
class UpsideDown(Form):
    def apply(self, images):
        return images[:, :, ::-1].copy()
"""
    path = file_with(tmp_path, DETECTOR.format(name="file_two") + form_)
    assert set(registry.load_file(path)) == {("detector", "file_two"), ("form", "file_upside_down")}
    assert "file_upside_down" in registry.entries("form")


@pytest.mark.parametrize(
    "name, text, sentence",
    [
        ("absent.py", None, "does not exist. Give the path of a Python file."),
        ("mine.txt", DETECTOR, "is not a Python file. Its name must end in .py."),
        ("mine.py", "def broken(:\n", "cannot be imported: SyntaxError: "),
        ("mine.py", "import no_such_module_at_all", "cannot be imported: ModuleNotFoundError: No module named"),
        ("mine.py", "raise RuntimeError('one\\ntwo')", "cannot be imported: RuntimeError: one"),
        ("mine.py", "import sys; sys.exit(3)", "cannot be imported: SystemExit: 3"),
        ("mine.py", "x = 1", "registers nothing. Decorate a class, for example with @detector('name')."),
        (
            "mine.py",
            DETECTOR.format(name="energy"),
            "cannot be imported: The detector name 'energy' is taken by the built-in oodbench.detectors.energy; choose "
            "another for oodbench_plugin_",
        ),
    ],
)
def test_a_file_that_cannot_serve_is_told_in_a_sentence(
    tmp_path: Path, name: str, text: str | None, sentence: str
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    for _ in range(2):
        with pytest.raises(UserError) as told:
            registry.load_file(path)
        assert str(told.value).startswith(f"The plug-in file '{path}' {sentence}")
        assert "\n" not in str(told.value)
    assert not registry._from_files
    assert not [name for name in sys.modules if name.startswith("oodbench_plugin_")]


def test_a_file_that_takes_an_installed_name_is_refused_naming_both(tmp_path: Path, install: Install) -> None:
    install(
        "strange-owner",
        {"detectors": {"owned": "strange_owner:Other"}},
        {"strange_owner.py": DETECTOR.format(name="owned")},
    )
    path = file_with(tmp_path, DETECTOR.format(name="owned"))
    for _ in range(2):
        with pytest.raises(UserError) as told:
            registry.load_file(path)
        assert str(told.value) == (
            "The detector name 'owned' is taken by package strange-owner 1.0; choose another in the plug-in file "
            f"'{path}'."
        )
    assert registry.get("detector", "owned").__module__ == "strange_owner"
    with pytest.raises(UserError, match=r"taken by (package strange-owner 1.0|strange_owner\.Other); choose another"):
        registry.load_file(path)


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


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        registry.load_file(tmp_path)


def test_names_that_another_file_has_taken_are_refused(tmp_path: Path) -> None:
    registry.load_file(file_with(tmp_path, DETECTOR.format(name="file_first"), "one.py"))
    with pytest.raises(UserError, match=r"two\.py' cannot be imported: The detector name 'file_first' is taken by "):
        registry.load_file(file_with(tmp_path, DETECTOR.format(name="file_first"), "two.py"))


def test_a_file_that_fails_half_way_holds_no_name(tmp_path: Path) -> None:
    text = DETECTOR.format(name="file_half")
    with pytest.raises(UserError, match="ZeroDivisionError"):
        registry.load_file(file_with(tmp_path, f"{text}\n1 / 0\n", "one.py"))
    assert ("detector", "file_half") not in registry._objects
    assert registry.load_file(file_with(tmp_path, text, "two.py")) == [("detector", "file_half")]


def test_a_file_put_right_loads_in_the_same_process(tmp_path: Path) -> None:
    path = file_with(tmp_path, "x = 1")
    with pytest.raises(UserError, match="registers nothing"):
        registry.load_file(path)
    path.write_text(DETECTOR.format(name="file_put_right"))
    assert registry.load_file(path) == [("detector", "file_put_right")]


# other distributions


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


def test_a_builtin_wins_over_a_newcomer(install: Install) -> None:
    points = {"detectors": {"msp": "strange_rival:Other"}}
    install("strange-rival", points, {"strange_rival.py": DETECTOR.format(name="msp")})
    entries = registry.entries("detector")
    assert entries["msp"].origin == "oodbench.detectors.msp"
    newcomer = entries["msp (package strange-rival 1.0)"]
    assert newcomer.reason() == "The detector name 'msp' is taken by oodbench.detectors.msp."
    assert registry.get("detector", "msp").__module__ == "oodbench.detectors.msp"


def test_of_two_newcomers_the_second_says_who_was_first(install: Install) -> None:
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
