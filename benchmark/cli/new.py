"""`bench new`: write a plug-in to start from, as one file or as a package that pip can install."""

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

from oodbench.benchmark.cli.base import PATH, Command
from oodbench.benchmark.errors import UserError, first_line

RUN = {
    "detector": "--detectors {name},msp",
    "recipe": "--detectors msp@{name}",
    "dataset": "--ood {name} --detectors msp",
    "backbone": "--backbone {name} --detectors msp",
}
"""Options of `bench run` that use a plug-in, by kind."""

RESERVED_MODULES = frozenset(sys.stdlib_module_names) | frozenset(keyword.kwlist) | {"numpy", "oodbench", "torch"}
"""Module names that a plug-in file must not shadow: the standard library's, keywords, and what plug-ins import."""


@click.command(
    cls=Command,
    short_help="Write a detector, recipe, dataset or backbone to start from.",
    examples="""
    bench new detector my_detector
    bench new recipe my_recipe --folder plugins
    bench new dataset my_dataset --package
    """,
)
@click.argument("kind", type=click.Choice(list(RUN)))
@click.argument("name")
@click.option(
    "--package", is_flag=True, help="Write an installable package in a folder NAME, with a test and a README."
)
@click.option(
    "--folder",
    default=".",
    show_default=True,
    type=PATH,
    metavar="DIR",
    help="Folder to write to. It is created if missing.",
)
def new(kind: str, name: str, package: bool, folder: Path) -> None:
    """Write a plug-in to start from: a detector, recipe, dataset or backbone.

    It works as it is: it passes 'bench check' and can be used in 'bench run'. Its comments explain each part. Existing
    files are never overwritten.
    """
    _refuse_name(kind, name)
    names = Names.of(kind, name)
    target = folder / (name if package else f"{names.module}.py")
    plugin = None if package else target
    write(target, _package(names, target) if package else {target: _render(f"{kind}.py", names, target.name)})
    click.echo(f"Wrote {target}. Next steps:")
    if package:
        click.echo(f"  pip install -e {shlex.quote(str(target))}")
    for command in (check_command(names, plugin), run_command(names, plugin)):
        click.echo(f"  {command}")


class Names(NamedTuple):
    """The names of a plug-in: on the command line, of its module, class and package."""

    kind: str
    name: str
    module: str
    """Of its file: a Python identifier that shadows no module."""
    cls: str
    title: str
    distribution: str
    package: str
    """Import package of the distribution."""

    @classmethod
    def of(cls, kind: str, name: str) -> Names:
        """Derive all names from a valid plug-in name."""
        words = [word for word in re.split(r"[-._]+", name) if word]
        module = re.sub(r"[-.]", "_", name)
        if not module.isidentifier() or module in RESERVED_MODULES:
            module = f"plugin_{module}"
        stem, suffix = "".join(word.capitalize() for word in module.split("_")), kind.capitalize()
        if stem == suffix or not stem.endswith(suffix):  # so that it is not the name of a class that the file imports
            stem += suffix
        distribution = "-".join(["oodbench", *words])
        title = " ".join(words).capitalize()
        return cls(kind, name, module, stem, title, distribution, distribution.replace("-", "_"))


def check_command(names: Names, plugin: Path | str | None) -> str:
    """The command that checks a plug-in: one in a file, or an installed one if `plugin` is None."""
    return f"bench check {names.name}" + (f" --plugin {shlex.quote(str(plugin))}" if plugin else "")


def run_command(names: Names, plugin: Path | str | None) -> str:
    """The command that uses a plug-in: one in a file, or an installed one if `plugin` is None."""
    option = f" --plugin {shlex.quote(str(plugin))}" if plugin else ""
    return f"bench run{option} {RUN[names.kind].format(name=names.name)}"


def _refuse_name(kind: str, name: str) -> None:
    """Raise `UserError` for a name that the registry would not accept for a new plug-in."""
    from oodbench.benchmark.plugins.registry import NAME, RESERVED, registry

    if not NAME.fullmatch(name) or name in RESERVED:
        raise UserError(
            f"'{name}' cannot name a {kind}: use lower-case letters, digits, '_', '.' and '-', starting with a letter "
            f"or digit, and not '{RESERVED[0]}'. An example is my_{kind}."
        )
    owner = registry.entries(kind).get(name)
    if owner is not None:
        raise UserError(
            f"The {kind} name '{name}' is taken by {owner.origin}. Choose another; 'bench list {kind}s' shows all "
            "names in use."
        )


def _package(names: Names, folder: Path) -> dict[Path, str]:
    """The files of a package, with their text."""
    source = folder / "src" / names.package
    return {
        folder / "pyproject.toml": _render("pyproject.toml", names),
        folder / "README.md": _render("README.md", names),
        source / "__init__.py": _render("init.py", names),
        source / f"{names.kind}.py": _render(f"{names.kind}.py", names),
        folder / "tests" / f"test_{names.module}.py": _render(f"test_{names.kind}.py", names),
    }


def _render(template: str, names: Names, plugin: str | None = None) -> str:
    """A template's text with names and commands filled in."""
    file = resources.files("oodbench.benchmark.cli") / "templates" / f"{template}.txt"
    commands = {"check": check_command(names, plugin), "run": run_command(names, plugin)}
    return Template(file.read_text(encoding="utf-8")).substitute(names._asdict(), **commands)


def write(target: Path, texts: Mapping[Path, str]) -> None:
    """Write a new file, or a new folder with files, completely or not at all. Raises `UserError` if `target` exists."""
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
            f"'{target}' already exists and was not changed. Choose another name or another --folder."
        ) from error
    except OSError as error:
        raise UserError(f"'{target}' cannot be written: {_reason(error)}. Choose another name or --folder.") from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # such as a file of that name, or missing permission
        raise UserError(f"The folder '{folder}' cannot be used: {_reason(error)}. Choose another --folder.") from error


def _reason(error: OSError) -> str:
    return error.strerror or first_line(error)
