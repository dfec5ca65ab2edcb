"""The core names no plug-in, and no code of the project unpickles or evaluates what it reads."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from oodbench.benchmark.plugins.registry import KINDS, registry
from tests.support import ROOT, folders, in_repository, syntax

PLUGIN_FOLDERS = ("backbones", "suites")
CORE = sorted(
    path
    for path in (ROOT / "benchmark").rglob("*.py")
    if path.relative_to(ROOT / "benchmark").parts[0] not in PLUGIN_FOLDERS
)
SOURCES = sorted(
    path for folder in ("benchmark", "detectors", "datasets", "figures") for path in (ROOT / folder).rglob("*.py")
)
PLUGIN_PACKAGES = tuple({kind.package for kind in KINDS.values()})

FALSE_POSITIVES: dict[tuple[str, str], str] = {
    (
        "metrics/released_scripts.py",
        "lee2018",
    ): "the metric rules of the paper's released script, named after the paper as its figures are",
    (
        "records/environment.py",
        "torchvision",
    ): "a distribution whose version is recorded, not the backbone of its networks",
    ("records/environment.py", "timm"): "a distribution whose version is recorded, not the backbone of its networks",
    ("data/transformed.py", "blurred"): "a transformation of validation images, not the form of that name",
}
"""(file in benchmark/, word) -> why the word does not mean the plug-in of that name."""


def builtin_names() -> set[str]:
    return {name for kind in KINDS for name, entry in registry.entries(kind).items() if "." in entry.origin}


def docstrings(tree: ast.AST) -> set[int]:
    """Ids of the string nodes that are statements: docstrings, including those of attributes."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every other string literal, with its line."""
    documentation = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


def plugin_named(text: str, names: set[str]) -> str | None:
    """The plug-in that a literal names: 'odin', 'odin[temperature=2]', 'odin@joint', 'digits+inverted'."""
    name = text.partition("[")[0].partition("@")[0].partition("+")[0].strip()
    return name if name in names and "\n" not in text else None


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def named_plugins(tree: ast.AST, names: set[str]) -> list[tuple[int, str]]:
    """Literals that are a plug-in's name, and imports of plug-in modules, by line."""
    literals = [(line, name) for line, text in strings(tree) if (name := plugin_named(text, names))]
    modules = [
        (line, module)
        for line, module in imports(tree)
        if module.startswith(tuple(f"{package}." for package in PLUGIN_PACKAGES)) or module in PLUGIN_PACKAGES
    ]
    return literals + modules


@pytest.mark.parametrize("folder", folders(CORE), ids=in_repository)
def test_core_names_no_plugin(folder: Path) -> None:
    names = builtin_names()
    found = [
        f"{in_repository(path)}:{line} names '{name}'"
        for path in CORE
        if path.parent == folder
        for line, name in named_plugins(syntax(path), names)
        if (path.relative_to(ROOT / "benchmark").as_posix(), name) not in FALSE_POSITIVES
    ]
    assert not found, "; ".join(found)


def test_false_positives_still_occur() -> None:
    for file, name in FALSE_POSITIVES:
        tree = syntax(ROOT / "benchmark" / file)
        assert name in {found for _, found in named_plugins(tree, builtin_names())}, (file, name)


def test_there_is_a_core_and_there_are_plugins() -> None:
    assert len(CORE) > 20
    assert {"msp", "joint", "digits", "inverted", "small_cnn", "cross_entropy"} <= builtin_names()


@pytest.mark.parametrize(
    "source, caught",
    [
        ('if name == "msp": pass', ["msp"]),
        ('x = {"joint": 1}', ["joint"]),
        ('run("energy[temperature=2]")', ["energy"]),
        ('run("energy@joint")', ["energy"]),
        ('parse_set("digits[0-6]+inverted")', ["digits"]),
        ('x = f"{y}msp" + "msp"', ["msp", "msp"]),
        ("from oodbench.detectors.msp import MSP", ["oodbench.detectors.msp", "oodbench.detectors.msp.MSP"]),
        ("from oodbench.detectors import msp", ["oodbench.detectors", "oodbench.detectors.msp"]),
        ("import oodbench.datasets.digits as d", ["oodbench.datasets.digits"]),
        ("from oodbench.benchmark.backbones import small_cnn", None),
        ('"""msp"""', []),
        ('class A:\n    x = 1\n    """digits"""', []),
        ("msp.joint(digits=1)", []),
        ('x = "some msp text"', []),
        ("from oodbench.benchmark import registry", []),
    ],
)
def test_the_rule_itself(source: str, caught: list[str] | None) -> None:
    found = [name for _, name in named_plugins(ast.parse(source), {"msp", "joint", "energy", "digits", "inverted"})]
    assert found if caught is None else found == caught


def dotted(node: ast.expr) -> str:
    """A name such as `torch.load`; empty for other expressions, such as the result of a call."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def unsafe(tree: ast.AST) -> list[str]:
    """Ways to execute the content of a file: every form of pickle, and evaluation."""
    found = []
    for line, module in imports(tree):
        if module.split(".")[0] in (
            "pickle",
            "cPickle",
            "_pickle",
            "dill",
            "joblib",
            "cloudpickle",
            "marshal",
            "shelve",
        ):
            found.append(f"{line}: import {module}")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        given = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg in ("weights_only", "allow_pickle")}
        if name in ("eval", "exec", "torch.save", "__import__"):
            found.append(f"{node.lineno}: {name}")
        if name == "torch.load" and given.get("weights_only") != "True":
            found.append(f"{node.lineno}: torch.load without weights_only=True")
        if name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
            found.append(f"{node.lineno}: {name} without allow_pickle=False")
        if given.get("allow_pickle", "False") != "False":
            found.append(f"{node.lineno}: allow_pickle")
    return found


@pytest.mark.parametrize("folder", folders(SOURCES), ids=in_repository)
def test_nothing_is_unpickled_or_evaluated(folder: Path) -> None:
    found = {in_repository(path): unsafe(syntax(path)) for path in SOURCES if path.parent == folder}
    assert {path: ways for path, ways in found.items() if ways} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "torch.save(x, f)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "np.save(f, x, allow_pickle=True)",
        "eval('1')",
        "exec(code)",
    ],
)
def test_the_guard_itself(source: str) -> None:
    assert len(unsafe(ast.parse(source))) >= 1
    right = "np.load(f, allow_pickle=False); torch.load(f, weights_only=True); network.eval(); ast.literal_eval(x)"
    assert unsafe(ast.parse(right)) == []
