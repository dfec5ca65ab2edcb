"""What a plug-in's version covers: files beside it, values, installed packages, and declared files."""

from __future__ import annotations

import json
import linecache
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plugins import code_origin
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.source_version import examine, identity, source_version, start_command
from tests.plugins.distributions import Install

pytestmark = pytest.mark.usefixtures("registry_as_before")


# Files beside a plug-in file


def _plugin(folder: Path, name: str, helper: str, head: str = "from helper import VALUE", value: str = "VALUE") -> Any:
    """The value that a detector of this name reads from a helper in its folder."""
    folder.mkdir(exist_ok=True)
    (folder / "helper.py").write_text(helper)
    (folder / "mine.py").write_text(
        f"from oodbench.benchmark import Detector, detector\n{head}\n@detector({name!r})\nclass One(Detector):\n"
        f"    def score(self, batch):\n        return {value}\n"
    )
    registry.load_file(folder / "mine.py")
    return registry.get("detector", name)


@pytest.mark.parametrize(
    "head, value",
    [
        ("from helper import VALUE", "VALUE"),
        ("import helper", "helper.VALUE"),
        ("import helper as h", "h.VALUE"),
        ("from helper import *", "VALUE"),
        ("def late():\n    import helper\n    return helper.VALUE\n", "late()"),
    ],
)
def test_two_files_each_have_a_helper(tmp_path: Path, head: str, value: str) -> None:
    one, two = (_plugin(tmp_path / str(n), f"beside_{n}", f"VALUE = {n}\n", head, value) for n in (1, 2))
    assert (one().score(None), two().score(None)) == (1, 2)
    assert source_version(one) != source_version(two)


def test_packages_and_helpers_of_helpers_lie_beside_too(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "__init__.py").write_text("")
    (tmp_path / "lib" / "inner.py").write_text("from . import more\nimport other\nVALUE = more.X + other.Y\n")
    (tmp_path / "lib" / "more.py").write_text("X = 1\n")
    (tmp_path / "other.py").write_text("Y = 10\n")
    cls = _plugin(tmp_path, "beside_deep", "import lib.inner\nVALUE = lib.inner.VALUE\n")
    before = source_version(cls)
    assert cls().score(None) == 11
    (tmp_path / "lib" / "more.py").write_text("X = 2\n")
    cls = _plugin(tmp_path, "beside_deep", "import lib.inner\nVALUE = lib.inner.VALUE\n")
    assert cls().score(None) == 12
    assert source_version(cls) != before


def test_files_beside_hide_no_installed_package(tmp_path: Path, install: Install) -> None:
    install("strange-lib", {}, {"strange_lib.py": "VALUE = 'installed'\n"})
    for name in ("strange_lib", "math", "torch"):
        (tmp_path / f"{name}.py").write_text("VALUE = pi = tensor = 'beside'\n")
    head = "import math, strange_lib, torch"
    cls = _plugin(tmp_path, "beside_hidden", "", head, "(strange_lib.VALUE, math.pi, torch.tensor)")
    assert cls().score(None)[0] == "installed"
    assert "beside" not in cls().score(None)


def test_an_installed_package_counts_by_its_version(tmp_path: Path, install: Install) -> None:
    install("strange-lib", {}, {"strange_lib.py": "VALUE = 1\n"})
    one = source_version(_plugin(tmp_path, "of_installed", "", "from strange_lib import VALUE"))
    [metadata] = tmp_path.glob("site-*/*.dist-info/METADATA")
    metadata.write_text(metadata.read_text().replace("1.0", "1.1"))
    assert source_version(registry.get("detector", "of_installed")) == one, "known for the whole process"
    for cached in (code_origin._installed, code_origin.owners):
        cached.cache_clear()
    assert source_version(registry.get("detector", "of_installed")) != one


# Values


FACTORY = """
import functools, re
import numpy as np
from oodbench.benchmark import Detector, detector

def plus(x): return x + 1
def minus(x): return x - 1
class Table:
    def __init__(self, v): self.v = v

def make(value, default=0):
    @detector("of_factory")
    class Made(Detector):
        attribute = value
        def score(self, batch, given=value):
            return value
    return Made
"""


@pytest.mark.parametrize(
    "one, other",
    [
        ("1", "2"),
        ("1", "1.0"),
        ("(1, 2)", "(2, 1)"),
        ("[1]", "(1,)"),
        ("{'a': 1}", "{'a': 2}"),
        ("frozenset({1, 2})", "frozenset({1, 3})"),
        ("np.arange(3)", "np.arange(3) + 1"),
        ("np.float32(1)", "np.float64(1)"),
        ("__import__('torch').ones(2)", "__import__('torch').zeros(2)"),
        ("plus", "minus"),
        ("lambda x: x", "lambda x: -x"),
        ("functools.partial(plus, 1)", "functools.partial(plus, 2)"),
        ("functools.lru_cache(plus)", "functools.lru_cache(minus)"),
        ("{'f': [plus]}", "{'f': [minus]}"),
        ("Table(1)", "Table(2)"),
        ("Table(plus)", "Table(minus)"),
        ("Table", "Detector"),
        ("re.compile('a')", "re.compile('b')"),
        ("np.sin", "np.cos"),
    ],
)
def test_detectors_of_one_factory_share_no_version(one: str, other: str) -> None:
    scope: dict[str, Any] = {"__name__": "strange_factory"}
    text = f"{FACTORY}\nmade = [make({one}), make({one}), make({other})]\n"
    exec(compile(_in_a_cell(text), "<a cell of a factory>", "exec"), scope)
    first, same, different = map(source_version, scope["made"])
    assert first == same != different


def _in_a_cell(text: str) -> str:
    linecache.cache["<a cell of a factory>"] = (len(text), None, text.splitlines(keepends=True), "<a cell>")
    return text


READERS = [
    "json.load(FILE)",
    "np.load('a.npy')",
    "Path('a').read_text()",
    "Path('a').open()",
    "open('a')",
    "eval('1')",
    "exec('1')",
    "__import__('a')",
    "importlib.import_module('a' + 'b')",
    "pandas.read_csv('a')",
    "torch.load('a')",
    "os.environ['A']",
    "list(map(open, 'a'))",
    "load('a')",
]


@pytest.mark.parametrize("call", READERS)
def test_code_that_reads_is_not_covered(tmp_path: Path, call: str) -> None:
    head = "import importlib, json, os, pandas, torch, numpy as np\nfrom json import load\nfrom pathlib import Path\n"
    cls = _plugin(tmp_path, "reader", "", f"{head}def used():\n    return {call}\nFILE = None", "used()")
    version, reason, _ = examine(cls)
    assert "'mine.py' uses " in reason
    versions = set()
    for _ in range(2):
        start_command()
        versions |= {identity(cls())["version"], identity(cls())["version"]}
    assert len(versions) == 2
    assert all(found.startswith(version) for found in versions)


@pytest.mark.parametrize("call", ["batch.eval()", "json.loads('1')", "batch.load_state_dict({})", "np.linalg.norm(1)"])
def test_code_that_reads_nothing_is_covered(tmp_path: Path, call: str) -> None:
    cls = _plugin(tmp_path, "no_reader", "", "import json, numpy as np", call)
    assert examine(cls).uncovered == ""


def test_files_that_a_data_set_reads_do_not_concern_a_detector(tmp_path: Path) -> None:
    head = (
        "from oodbench.benchmark import Dataset, dataset\n@dataset('strange_set')\nclass Set(Dataset):\n"
        "    def load(self, split, data_dir):\n        return open('a')\n"
    )
    assert examine(_plugin(tmp_path, "beside_set", "", head, "1")).uncovered == ""


@pytest.mark.parametrize("helper", ["with open(__file__) as file: VALUE = 1\n", "VALUE = eval('1')\n"])
def test_files_read_at_import_are_not_covered(tmp_path: Path, helper: str) -> None:
    assert examine(_plugin(tmp_path, "at_import", helper)).uncovered.startswith("'helper.py' uses ")


def _declaring(folder: Path, name: str, declared: str) -> Any:
    return _plugin(folder, name, "", "", f"1\n    depends_on = {declared}")


def test_what_is_declared_is_hashed_and_must_exist(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("1")
    cls = _declaring(tmp_path, "declares", "('c.json',)")
    one = source_version(cls)
    (tmp_path / "c.json").write_text("2")
    assert source_version(cls) != one
    (tmp_path / "c.json").unlink()
    with pytest.raises(PluginError, match=r"declares in depends_on the file 'c\.json', and '.*' is not a file\."):
        source_version(cls)
    with pytest.raises(PluginError, match=r"depends_on = 'c\.json'; write a tuple"):
        source_version(_declaring(tmp_path / "text", "declares_text", "'c.json'"))


# Installed plug-ins, scripts and notebooks


def test_an_installed_plugin_has_the_version_of_its_distribution(install: Install) -> None:
    text = FACTORY.replace("of_factory", "of_strange") + "\none, two = make(1), make(2)\nmake(open)\n"
    install("strange-plugin", {}, {"strange_plugin.py": text})
    module = import_module("strange_plugin")
    one = source_version(module.one)
    assert source_version(module.two) != one, "closures count in installed packages, too"
    assert examine(registry.get("detector", "of_strange")).uncovered == "", "what it reads is part of the distribution"
    assert code_origin.installed("strange_plugin") == ("strange-plugin", "1.0")


SCRIPT = """
import json, sys
from pathlib import Path
from oodbench.benchmark import detector
from oodbench.benchmark.plugins.source_version import examine
from bases import Base

CONFIG = json.loads(Path(__file__).with_name("config.json").read_text())

@detector("of_script")
class OfScript(Base):
    def score(self, batch):
        return batch.logits[:, CONFIG["column"]]

version = examine(OfScript)
print(json.dumps(version))
Path(__file__).with_name("out.json").write_text("done")
"""


@pytest.mark.slow
def test_a_script_follows_its_base_class_and_what_it_read_at_import(tmp_path: Path) -> None:
    def version(base: str, config: str) -> list[str]:
        (tmp_path / "script.py").write_text(SCRIPT)
        (tmp_path / "bases.py").write_text(
            f"from oodbench.benchmark import Detector\nclass Base(Detector):\n    {base}\n"
        )
        (tmp_path / "config.json").write_text(config)
        command = [sys.executable, "-B", str(tmp_path / "script.py")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found: list[str] = json.loads(done.stdout)
        return found

    first = version("a = 1", '{"column": 0}')
    assert first == version("a = 1  # a word", '{"column": 0}')
    others = [version("a = 2", '{"column": 0}'), version("a = 1", '{"column": 1}')]
    assert len({first[0], *(other[0] for other in others)}) == 3
    assert first[1] == "", "the value that was read is known, and the script's output concerns no detector"


def test_a_module_edited_after_its_import_has_the_version_of_neither_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    head = "from oodbench.benchmark import Detector\nclass Made(Detector):\n"
    text = head + "    def score(self, batch):\n        return {}\n"
    versions = []
    for name, body in (("strange_one", "1"), ("strange_two", "2")):
        (tmp_path / f"{name}.py").write_text(text.format(body))
        versions.append(source_version(import_module(name).Made))
    (tmp_path / "strange_one.py").write_text(text.format("2"))
    assert source_version(sys.modules["strange_one"].Made) not in versions, "it would serve what the old code computes"


def test_a_cell_with_an_object_of_unknown_content_is_not_covered() -> None:
    head = "import numpy as np\nRANDOM = np.random.RandomState(0)\nDEVICE = __import__('torch').device('cpu')\n"
    for name, is_covered in (("RANDOM", False), ("DEVICE", True)):
        text = f"{head}{FACTORY.replace('of_factory', 'of_cell')}\nmade = make(lambda: {name})\n"
        scope: dict[str, Any] = {"__name__": "strange_cell"}
        exec(compile(_in_a_cell(text), "<a cell of a factory>", "exec"), scope)
        assert (examine(scope["made"]).uncovered == "") == is_covered
