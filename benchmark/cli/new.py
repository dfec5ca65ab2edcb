"""`bench new`: a plug-in to start from, as one file or as a distribution that pip can install."""

from __future__ import annotations

import keyword
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from string import Template
from typing import NamedTuple

import click

from oodbench.benchmark.cli.base import Command
from oodbench.benchmark.errors import UserError, first_line

RUN = {
    "detector": "--detectors {name},msp",
    "recipe": "--detectors msp@{name}",
    "dataset": "--ood {name} --detectors msp",
    "backbone": "--backbone {name} --detectors msp",
}
"""What `bench run` is to be told to use a plug-in of each kind."""

RESERVED_MODULES = frozenset(sys.stdlib_module_names) | frozenset(keyword.kwlist) | {"numpy", "oodbench", "torch"}
"""Names that no file beside other scripts should have: Python's own, and what plug-ins import."""


@click.command(
    cls=Command,
    examples="""
    bench new detector my_detector
    bench new recipe my_recipe --folder plugins
    bench new dataset my_dataset --package
    """,
)
@click.argument("kind", type=click.Choice(list(RUN)))
@click.argument("name")
@click.option("--package", is_flag=True, help="Write a folder NAME that pip can install, with a test and a README.")
@click.option(
    "--folder", default=".", show_default=True, type=click.Path(path_type=Path), help="Where to write; made if absent."
)
def new(kind: str, name: str, package: bool, folder: Path) -> None:
    """Write a plug-in to start from: a detector, recipe, dataset or backbone.

    It passes 'bench check' and serves in 'bench run' as it is; its comments say what each part is for. What exists
    already is never overwritten.
    """
    _refuse_name(kind, name)
    names = Names.of(kind, name)
    target = folder / (name if package else f"{names.module}.py")
    plugin = None if package else target
    write(target, _package(names, target) if package else {target: _filled(f"{kind}.py", names, target.name)})
    click.echo(f"Wrote {target}. What to do next:")
    if package:
        click.echo(f"  pip install -e {shlex.quote(str(target))}")
    for command in (check_command(names, plugin), run_command(names, plugin)):
        click.echo(f"  {command}")


class Names(NamedTuple):
    """What a plug-in is called in the places that have rules of their own for names."""

    kind: str
    name: str
    module: str
    """Of its file: a Python identifier that hides no module."""
    cls: str
    title: str
    distribution: str
    package: str
    """What the distribution's modules are imported from."""

    @classmethod
    def of(cls, kind: str, name: str) -> Names:
        """Derive them all from a valid plug-in name."""
        words = [word for word in re.split(r"[-._]+", name) if word]
        module = re.sub(r"[-.]", "_", name)
        if not module.isidentifier() or module in RESERVED_MODULES:
            module = f"plugin_{module}"
        stem, suffix = "".join(word.capitalize() for word in module.split("_")), kind.capitalize()
        if stem == suffix or not stem.endswith(suffix):  # never the name of a class that the file imports
            stem += suffix
        distribution = "-".join(["oodbench", *words])
        title = " ".join(words).capitalize()
        return cls(kind, name, module, stem, title, distribution, distribution.replace("-", "_"))


def check_command(names: Names, plugin: Path | str | None) -> str:
    """The command that checks a plug-in, from a file or, for None, as installed."""
    return f"bench check {names.name}" + (f" --plugin {shlex.quote(str(plugin))}" if plugin else "")


def run_command(names: Names, plugin: Path | str | None) -> str:
    """The command that uses a plug-in, from a file or, for None, as installed."""
    given = f" --plugin {shlex.quote(str(plugin))}" if plugin else ""
    return f"bench run{given} {RUN[names.kind].format(name=names.name)}"


def _refuse_name(kind: str, name: str) -> None:
    """Raise `UserError` for what the registry would not take as the name of a new plug-in."""
    from oodbench.benchmark.plugins.registry import NAME, RESERVED, registry

    if not NAME.fullmatch(name) or name in RESERVED:
        raise UserError(
            f"'{name}' cannot name a {kind}: use lower-case letters, digits, '_', '.' and '-', a letter or digit "
            f"first, and not '{RESERVED[0]}'. Write my_{kind}, say."
        )
    owner = registry.entries(kind).get(name)
    if owner is not None:
        raise UserError(
            f"The {kind} name '{name}' is taken by {owner.origin}. Choose another; 'bench list {kind}s' shows all "
            "that are taken."
        )


def _package(names: Names, folder: Path) -> dict[Path, str]:
    """The files of a distribution, with their text."""
    source = folder / "src" / names.package
    return {
        folder / "pyproject.toml": _filled("pyproject.toml", names),
        folder / "README.md": _filled("README.md", names),
        source / "__init__.py": _filled("init.py", names),
        source / f"{names.kind}.py": _filled(f"{names.kind}.py", names),
        folder / "tests" / f"test_{names.module}.py": _filled(f"test_{names.kind}.py", names),
    }


def _filled(template: str, names: Names, plugin: str | None = None) -> str:
    """A template's text with the names and commands in place."""
    file = resources.files("oodbench.benchmark.cli") / "templates" / f"{template}.txt"
    commands = {"check": check_command(names, plugin), "run": run_command(names, plugin)}
    return Template(file.read_text(encoding="utf-8")).substitute(names._asdict(), **commands)


def write(target: Path, texts: Mapping[Path, str]) -> None:
    """Write a new file, or a new folder of files: all of it or nothing. Raises `UserError` if `target` exists."""
    _make_folder(target.parent)
    try:
        with ExitStack() as undo:
            if target not in texts:
                target.mkdir()
                undo.callback(shutil.rmtree, target, ignore_errors=True)
            for path, text in texts.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("x", encoding="utf-8") as file:
                    undo.callback(path.unlink, missing_ok=True)
                    file.write(text)
            undo.pop_all()
    except FileExistsError as error:
        raise UserError(
            f"'{target}' exists already and was left as it is. Choose another name or another --folder."
        ) from error
    except OSError as error:
        raise UserError(f"'{target}' cannot be written: {_told(error)}. Choose another name or --folder.") from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # a file of that name, or above it; no permission
        raise UserError(f"The folder '{folder}' cannot be used: {_told(error)}. Choose another --folder.") from error


def _told(error: OSError) -> str:
    return error.strerror or first_line(error)
