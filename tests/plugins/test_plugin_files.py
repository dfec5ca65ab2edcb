"""Plug-ins in single files: what they register, and which files are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.registry import registry
from tests.plugins.distributions import DETECTOR, Install, file_with

pytestmark = pytest.mark.usefixtures("registry_as_before")


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
        with pytest.raises(UserError) as error:
            registry.load_file(path)
        assert str(error.value).startswith(f"The plug-in file '{path}' {sentence}")
        assert "\n" not in str(error.value)
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
        with pytest.raises(UserError) as error:
            registry.load_file(path)
        assert str(error.value) == (
            "The detector name 'owned' is taken by package strange-owner 1.0; choose another in the plug-in file "
            f"'{path}'."
        )
    assert registry.get("detector", "owned").__module__ == "strange_owner"
    with pytest.raises(UserError, match=r"taken by (package strange-owner 1.0|strange_owner\.Other); choose another"):
        registry.load_file(path)


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
