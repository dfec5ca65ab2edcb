"""Cards: the text of `bench show` for a plug-in, a suite or a run, and the documentation page of all detectors."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from oodbench.benchmark.data.files.file_dataset import FileDataset
from oodbench.benchmark.data.imagenet_classes import named_class
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.lists import ListedDataset, ListSource
from oodbench.benchmark.data.own_sets import adopt, is_own
from oodbench.benchmark.errors import OodbenchError, unknown, visible
from oodbench.benchmark.plan.suite import Suite
from oodbench.benchmark.plan.suite_file import read_suite
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.dataset import COLOUR, GREY, Dataset, ImageSet
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.figures import Figures
from oodbench.benchmark.plugins.inputs import NEEDS
from oodbench.benchmark.plugins.recipe import Recipe
from oodbench.benchmark.plugins.registry import KINDS, registry
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.record import FAILED, OK, SKIPPED
from oodbench.benchmark.records.run import read_stored_run
from oodbench.benchmark.store.atomic import unique_slug


def cards(name: str, data_dir: Path, results: Path) -> list[str]:
    """The cards of everything called `name`."""
    name = adopt(parse_set(name)).name if is_own(name) else name
    found = [_plugin_card(kind, name, data_dir, results) for kind in KINDS if name in registry.entries(kind)]
    if name in registry.entries("suite") or name.endswith(".toml"):
        found.append(_suite_card(read_suite(name)))
    run_dir = results / "runs" / unique_slug(name)
    if (run_dir / "run.json").is_file():
        found.append(_run_card(run_dir))
    if not found:
        known = [n for kind in (*KINDS, "suite") for n in registry.entries(kind)]
        raise unknown("name", name, known, "bench list")
    return found


def _card(heading: str, facts: dict[str, Any], text: str = "") -> str:
    lines = [visible(heading)]
    for fact, value in facts.items():
        if value:
            content, start = visible(" ".join(str(value).split())), f"  {visible(fact) + ':':12} "
            lines += textwrap.wrap(content, 110, initial_indent=start, subsequent_indent=" " * 15)
    return "\n".join([*lines, *(map(visible, textwrap.indent(text, "  ").splitlines()) if text else [])])


def _plugin_card(kind: str, name: str, data_dir: Path, results: Path) -> str:
    entry = registry.entries(kind)[name]
    if reason := entry.reason():
        return _card(f"{kind} {name}", {"unavailable": reason, "from": entry.origin})
    plugin: type[Plugin] = entry.load()
    facts: dict[str, Any] = {"paper": plugin.paper, "from": entry.origin}
    if issubclass(plugin, Detector):
        facts["recipe"] = plugin.recipe or "the suite's"
        passes = plugin().passes
        facts["passes"] = f"{passes} more per image" if passes else "only the shared one"
        facts["candidates for tuning"] = _grid(plugin)
    if issubclass(plugin, Detector | Recipe):
        facts["needs"] = "; ".join(f"{need} ({NEEDS[need]})" for need in sorted(plugin.needs))
    if issubclass(plugin, Detector):
        facts["reads"] = ", ".join(f"output '{name}'" for name in sorted(plugin.reads))
    if issubclass(plugin, Recipe):
        facts["builds on"] = plugin.builds_on
        facts["outputs"] = ", ".join(f"'{name}' of {width} per image" for name, width in plugin.outputs.items())
        facts["classifier"] = "" if plugin.classifies else "none: it has no logits, and cells have no accuracy"
    if issubclass(plugin, Figures):
        facts["figures"] = "; ".join(f"{panel}: {title}" for panel, title in plugin.panels.items())
        facts["runs"] = (
            f"figures {', '.join(sorted(plugin.from_run))} need a run, by default of {', '.join(plugin.suites)}"
        )
    if issubclass(plugin, Dataset):
        facts.update(_data_facts(plugin, name, data_dir, results))
    defaults = {f.name: f.default for f in dataclasses.fields(plugin)}  # type: ignore[arg-type]
    facts["settings"] = ", ".join(f"{key}={_written(value)}" for key, value in defaults.items())
    return _card(f"{kind} {name}: {plugin.title}", facts, inspect.getdoc(plugin) or "")


PAGE = """\
# Detectors

Generated from the classes in `detectors/` with `python -m oodbench.benchmark.cli.cards > docs/detectors.md`; a test
keeps it in step. A score is higher for images that look more out-of-distribution, everywhere. *Passes* are network
passes per image beyond the one that all detectors share. Settings are written `NAME[setting=value]`; a recipe is how
the classifier is trained, and a detector without one uses the suite's.
"""


def detectors_page() -> str:
    """docs/detectors.md: every built-in detector with its paper, needs, settings, formula and where it differs."""
    found: list[type[Detector]] = [
        entry.load() for entry in registry.entries("detector").values() if entry.origin.startswith("oodbench.")
    ]
    found.sort(key=lambda plugin: plugin.name)
    lines = [PAGE, "| detector | | needs | passes | recipe |", "|---|---|---|---|---|"]
    for plugin in found:
        needs = ", ".join([*sorted(plugin.needs), *(f"output {name}" for name in sorted(plugin.reads))]) or "nothing"
        link = f"[`{plugin.name}`](#{plugin.name})"
        lines.append(
            f"| {link} | {plugin.title} | {needs} | {plugin().passes} | {plugin.recipe or ''} |".replace("  ", " ")
        )
    return "\n".join([*lines, *_rules(found), *(_section(plugin) for plugin in found)])


RULES = """
## Defaults that follow the network and the classes

The authors' numbers were chosen for wide networks and large classes. A setting whose default is `none` follows a rule,
which gives their number where they use it. The value that a fit has used is recorded with every cell (`bench show RUN
--cell CELL`), and an explicit value, `NAME[setting=value]`, overrides it. [Why, and what it
changes](appendix/default_rules.md).

| setting | default | authors | default suite |
|---|---|---|---|"""


def _rules(found: Iterable[type[Detector]]) -> Iterator[str]:
    """The table of the settings whose default is a rule, from the docstrings' paragraphs 'Default of'."""
    yield RULES
    for plugin in found:
        for part in filter(_is_rule, (inspect.getdoc(plugin) or "").split("\n\n")):
            setting, _, text = " ".join(part.split()).removeprefix("Default of ").partition(": ")
            rule, _, rest = text.partition(" Authors: ")
            authors, _, here = rest.partition(" Default suite: ")
            cells = [
                f"[`{plugin.name}`](#{plugin.name}) {setting}",
                *(c.removesuffix(".") for c in (rule, authors, here)),
            ]
            yield f"| {' | '.join(cells)} |"


def _is_rule(paragraph: str) -> bool:
    return paragraph.startswith("Default of ")


def _section(plugin: type[Detector]) -> str:
    """A detector's section of the page. The docstring's paragraph 'Differs:' says where it deviates, and why, and
    'Default of `NAME`:' which rule the default of a setting follows."""
    paragraphs = (inspect.getdoc(plugin) or "").split("\n\n")
    formula = [part for part in paragraphs if not (part.startswith("Differs:") or _is_rule(part))]
    differs = [f"**{part.partition(':')[0]}:**{part.partition(':')[2]}" for part in paragraphs if part not in formula]
    defaults = {f.name: f.default for f in dataclasses.fields(plugin)}
    settings = ", ".join(f"`{key}={_written(value)}`" for key, value in defaults.items())
    named = ". ".join(filter(None, (plugin.title, plugin.paper)))
    facts = [f"{named}.", *([f"Settings: {settings}."] if settings else [])]
    facts += [f"Candidates for tuning: {_grid(plugin)}."] if plugin.grid else []
    text = "\n\n".join(formula)
    return "\n".join([f"\n## {plugin.name}\n", *facts, f"\n```text\n{text}\n```", *(f"\n{part}" for part in differs)])


def _grid(plugin: type[Detector]) -> str:
    return "; ".join(f"{name} {', '.join(map(_written, values))}" for name, values in plugin.grid.items())


def _written(value: object) -> str:
    """A value as it is typed on the command line."""
    return str(value).lower() if isinstance(value, bool | None) else str(value)


CHANNELS = {None: "those of its images", GREY: "1 (grey)", COLOUR: "3 (colour)"}
"""Channels that a data set declares -> how its card says so."""


def _data_facts(plugin: type[Dataset], name: str, data_dir: Path, results: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "classes": _class_list(plugin.classes),
        "channels": CHANNELS.get(plugin.channels, plugin.channels),
        "licence": plugin.licence,
        "origin": plugin.origin,
        "caveats": plugin.caveats,
    }
    library = Library(data_dir, results / "cache" / "data")
    for split in plugin.splits:
        try:
            facts[split] = _listed(plugin(), split, data_dir) or _loaded(library.split(parse_set(name), split))
        except OodbenchError as error:
            facts[split] = f"unavailable: {error}"
    if library.notes and issubclass(plugin, FileDataset):
        facts["notes"] = " ".join(library.notes)
    return facts


MOST_CLASSES = 200
"""Classes of a set up to which its card names them all."""


def _class_list(classes: Sequence[str]) -> str:
    if len(classes) <= MOST_CLASSES:
        return ", ".join(map(named_class, classes))
    first = ", ".join(map(named_class, classes[:5]))
    return f"{first}, ..., {named_class(classes[-1])} ({len(classes):,} in all)"


def _loaded(images: ImageSet) -> str:
    return f"{len(images)} images {images.image_shape}, SHA-256 {images.checksum}"


def _listed(card: Dataset, split: str, data_dir: Path) -> str:
    """The size of a listed split of pictures, which may be a million: they are not read; empty for other splits."""
    found = card.source(split, data_dir) if isinstance(card, ListedDataset) and card.native else None
    source, paths = found or (None, ())
    if not isinstance(source, ListSource):
        return ""
    return f"{len(source.list_reader.content(paths).names):,} images, named in {' and '.join(map(str, paths))}"


def _suite_card(suite: Suite) -> str:
    facts: dict[str, Any] = {"backbone": suite.backbone, "recipe": suite.recipe, "training": dict(suite.training)}
    for entry in suite.entries:
        ood = ", ".join(f"{ood.set}{f' ({ood.group})' if ood.group else ''}" for ood in entry.ood)
        facts[f"ID {entry.set}"] = f"against {ood}; outliers: {entry.outliers or 'none'}" + (
            f"; in place of {entry.replaces} where its images are available" if entry.replaces else ""
        )
    for recipe, settings in suite.recipes.items():
        facts[recipe] = ", ".join(f"{k}={v}" for k, v in settings.items() if v != {})
    return _card(
        f"suite {suite.name}: {suite.title}", facts, "\n".join(suite.notes_on(str(e.set) for e in suite.entries))
    )


def _run_card(run_dir: Path) -> str:
    run = read_stored_run(run_dir)
    count = {status: sum(r.status == status for r in run.records) for status in (OK, SKIPPED, FAILED)}
    info = run.info
    commit = info.get("commit") or {}
    return _card(f"run {run_dir.name}", {
        "folder": run.path,
        "suite": (info.get("suite") or {}).get("name"),
        "cells": ", ".join(f"{n} {status}" for status, n in count.items()),
        "detectors": ", ".join(info.get("detectors", [])),
        "seeds": ", ".join(map(str, info.get("seeds", []))),
        "written": info.get("written"),
        "device": f"{info.get('device')} ({info.get('device_name')}), {info.get('threads')} threads",
        "software": ", ".join(f"{k} {v}" for k, v in info.get("packages", {}).items()),
        "commit": f"{commit.get('id')}{' (dirty)' if commit.get('dirty') else ''}" if commit else "",
    })  # fmt: skip


if __name__ == "__main__":
    print(detectors_page())
