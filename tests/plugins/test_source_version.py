"""Source versions: what changes them, what does not, and plug-ins defined in notebooks."""

from __future__ import annotations

import hashlib
import linecache
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import Tensor

from oodbench.benchmark import Batch, Detector
from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.source_version import _source_files, code_of, source_version
from tests.support import run_suite, write_suite

DETECTOR = """
from oodbench.benchmark import Detector, detector

@detector({name!r}, title="Of another package")
class Other(Detector):
    def score(self, batch):
        return -batch.logits[:, 0]
"""


class Plain(Detector):
    """A detector that may be registered."""

    def score(self, batch: Batch) -> Tensor:
        return batch.logits[:, 0]


@pytest.fixture(autouse=True)
def modules_as_before() -> Iterator[None]:
    """Remove what a test imported."""
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        if name.startswith("strange_"):
            del sys.modules[name]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The source version of class Other in strange_pkg.plugin, for a package with the given files."""
    count = iter(range(1000))

    def version(**files: str | bytes) -> str:
        folder = tmp_path / str(next(count))
        for file, content in files.items():
            path = folder / "strange_pkg" / (file.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            (path.parent / "__init__.py").touch()
        for name in [name for name in sys.modules if name.partition(".")[0] == "strange_pkg"]:
            del sys.modules[name]
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(folder))
            module = import_module("strange_pkg.plugin")
            return source_version(module.Other)

    return version


BODY = DETECTOR.format(name="other_versioned")


def test_a_pinned_version_wins() -> None:
    class Pinned(Plain):
        version = "3"

    assert source_version(Pinned) == "3"


def test_a_version_follows_the_source_and_not_its_place(package: Callable[..., str]) -> None:
    one = package(plugin=BODY)
    assert one.startswith("source:")
    assert package(plugin=BODY) == one
    assert package(plugin=BODY + "MORE = 1\n") != one
    assert package(plugin=BODY, unused="x = 1\n") == one


CODE = """
import math

def area(r, factor=1):
    return factor * math.pi * r**2

class Disc:
    radius: float = 1.0
    names = ("disc", "round")
"""
PROSE = """
'''A module about discs.'''
import math  # for pi


def area(r,
         factor=1):
    '''Of a disc.'''
    return (factor * math.pi * r ** 2)  # pi r^2


class Disc:
    '''A disc.'''

    radius: float = 1.0
    '''In metres.'''
    names = ('disc', "round",)
"""


def test_comments_docstrings_and_layout_do_not_change_a_version(package: Callable[..., str]) -> None:
    assert code_of(CODE) == code_of(PROSE)
    assert package(plugin=BODY, helper=CODE) == package(plugin=f"# prose\n{BODY}", helper=PROSE)


@pytest.mark.parametrize(
    "old, new",
    [
        ("r**2", "r**3"),
        ("factor=1", "factor=2"),
        ("1.0", "1"),
        ("float", "int"),
        ('"disc", "round"', '"disc" "round"'),
        ("import math", "import math as maths"),
        ("    radius: float = 1.0\n", ""),
    ],
)
def test_code_changes_a_version(old: str, new: str) -> None:
    assert old in CODE
    assert code_of(CODE.replace(old, new)) != code_of(CODE)


def test_the_version_of_code_is_the_same_in_every_python() -> None:
    digest = hashlib.sha256(code_of("def f(x: int = 1, *rest, **more) -> str:\n    return f'{x!r:>4} {rest}' + u'a'\n"))
    assert digest.hexdigest()[:16] == "c2210cbd7eebc09c"


def test_a_cell_that_does_not_parse_is_taken_as_it_is() -> None:
    assert code_of("%matplotlib inline\r\nx = 1") == b"%matplotlib inline\nx = 1"


def test_line_endings_do_not_change_a_version(package: Callable[..., str]) -> None:
    helper = "def help():\n    return 1\n"
    one = package(plugin="from strange_pkg.helper import help\n" + BODY, helper=helper)
    two = package(
        plugin=("from strange_pkg.helper import help\n" + BODY).replace("\n", "\r\n").encode(),
        helper=helper.replace("\n", "\r\n").encode(),
    )
    assert one == two


IMPORTS = [
    "from strange_pkg.helper import x",
    "from strange_pkg import helper",
    "import strange_pkg.helper",
    "import strange_pkg.helper as h",
    "from .helper import x",
    "from . import helper",
    "from . import helper as h",
]


@pytest.mark.parametrize("line", IMPORTS)
def test_a_version_follows_its_helpers(package: Callable[..., str], line: str) -> None:
    one, same, other = (package(plugin=f"{line}\n{BODY}", helper=f"x = {x}\n") for x in (1, 1, 2))
    assert one == same != other


def test_a_version_follows_helpers_of_helpers_and_circles(package: Callable[..., str]) -> None:
    plugin, helper = "from .helper import x\n" + BODY, "from . import deep\nx = 1\n"
    versions = [package(plugin=plugin, helper=helper, deep=f"from . import plugin\nx = {x}\n") for x in (1, 1, 2)]
    assert versions[0] == versions[1] != versions[2]


def test_a_version_follows_other_folders_of_the_same_distribution(package: Callable[..., str]) -> None:
    for line in ("from strange_pkg.inner.helper import x", "from .inner.helper import x", "from .inner import helper"):
        versions = [package(plugin=f"{line}\n{BODY}", inner__helper=f"x = {x}\n") for x in (1, 1, 2)]
        assert versions[0] == versions[1] != versions[2], line


def test_an_import_that_cannot_be_followed_is_no_error(package: Callable[..., str]) -> None:
    text = "import sys, math\ntry:\n    from strange_pkg import absent\nexcept ImportError:\n    pass\n"
    assert package(plugin=text + BODY).startswith("source:")


def test_builtins_share_no_version_with_the_harness() -> None:
    """Changes of the harness are covered by separate versions in every key: training, extraction, scoring."""
    joint = registry.get("recipe", "joint")
    names = {Path(file).name for file in _source_files(joint.__module__, sys.modules[joint.__module__].__file__)}
    assert names >= {"joint.py", "gan_confidence.py", "_dcgan.py", "_confidence_loss.py"}
    assert not names & {"contract.py", "registry.py", "__init__.py"}


# In no file


class Notebook:
    """A module defined in cells, whose text is stored as notebooks do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module = ModuleType("strange_notebook")
        self.patch = monkeypatch
        monkeypatch.setitem(sys.modules, "strange_notebook", self.module)

    def type(self, cell: str, text: bool = True) -> Any:
        """Run a cell and return the class `Typed` that is then defined."""
        name = f"<cell {len(linecache.cache)}>"
        if text:
            self.patch.setitem(linecache.cache, name, (len(cell), None, cell.splitlines(keepends=True), name))
        exec(compile(cell, name, "exec"), self.module.__dict__)
        return getattr(self.module, "Typed", None)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    return Notebook(monkeypatch)


TYPED = """
from oodbench.benchmark import Detector, detector

@detector("typed")
class Typed(Detector):
    scale: float = 1.0

    @property
    def factor(self):
        return self.scale * SHARE

    def score(self, batch):
        return helped(batch.logits[:, 0]) * self.factor
"""
HELPER = "SHARE = 2.0\ndef helped(x):\n    return deeper(x)\n"
DEEPER = "def deeper(x):\n    return -x\n"


def test_a_typed_class_has_the_version_of_its_cells(notebook: Notebook) -> None:
    for cell in (DEEPER, HELPER):
        notebook.type(cell)
    one = source_version(notebook.type(TYPED))
    assert one.startswith("source:")
    assert source_version(notebook.type(TYPED + "\n# and a word\n")) == one
    notebook.type("unrelated = 3\n")
    assert source_version(notebook.type(TYPED)) == one
    versions = {one}
    for cell in (
        TYPED.replace("1.0", "3.0"),
        TYPED.replace("* self", "/ self"),
        TYPED + "\nmore = 1\n",
    ):
        versions.add(source_version(notebook.type(cell)))
    for cell in (HELPER.replace("2.0", "4.0"), DEEPER.replace("-x", "x")):
        notebook.type(cell)
        versions.add(source_version(notebook.type(TYPED)))
    assert len(versions) == 6


def test_a_typed_class_without_methods_has_the_version_of_its_settings(notebook: Notebook) -> None:
    cell = "from oodbench.detectors.energy import Energy\nclass Typed(Energy):\n    temperature: float = {}\n"
    one, same, other = (source_version(notebook.type(cell.format(t), text=False)) for t in (2.0, 2.0, 3.0))
    assert one == same != other


def test_a_class_whose_source_is_nowhere_must_pin_its_version(notebook: Notebook) -> None:
    typed = notebook.type(DEEPER + HELPER + TYPED, text=False)
    with pytest.raises(PluginError, match=r"'typed' \(strange_notebook\) is not available: .* Pin its `version`"):
        source_version(typed)
    typed.version = "1"
    assert source_version(typed) == "1"


MATRIX = """
[[id]]
set = "digits[0-1]"
ood = [{ set = "greek" }]
"""


def test_what_is_registered_in_this_process_is_run_by_name(notebook: Notebook, tmp_path: Path) -> None:
    for cell in (DEEPER, HELPER, TYPED):
        notebook.type(cell)
    assert registry.entries("detector")["typed"].origin == "this process, strange_notebook"
    suite = write_suite(tmp_path, MATRIX)
    [record] = run_suite(suite, "typed").records
    assert record.status == "ok"
    notebook.type(TYPED.replace("* self", "* 0 * self"))
    [changed] = run_suite(suite, "typed").records
    assert (changed.status, changed.metrics["auroc"]) == ("ok", 0.5), "the class as it was typed last"
    assert changed.artifacts["checkpoint"] == record.artifacts["checkpoint"]


@pytest.mark.parametrize("how", ["script", "command"])
def test_a_script_finds_what_it_decorates(tmp_path: Path, how: str) -> None:
    text = DETECTOR.format(name="of_a_script") + (
        "from oodbench.benchmark.plugins.source_version import source_version\n"
        "from oodbench.benchmark.plugins.registry import registry\n"
        "print(source_version(registry.get('detector', 'of_a_script')))\n"
    )
    (tmp_path / "script.py").write_text(text)
    command = [str(tmp_path / "script.py")] if how == "script" else ["-c", text]
    done = subprocess.run([sys.executable, *command], check=False, capture_output=True, text=True)
    if how == "script":
        assert done.stdout.startswith("source:"), done.stderr
    elif sys.version_info < (3, 13):  # later versions of Python keep the text of a command
        assert "Pin its `version`" in done.stderr
