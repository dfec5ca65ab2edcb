"""Writes a leaderboard: `index.html` with the boards, a page and a copy of every bundle, and all numbers as CSV.

The pages open from disk and need no network. Their security policy allows one script by its SHA-256; every name passes
through the autoescape of Jinja2. Equal bundles give equal bytes.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from oodbench.benchmark.errors import StoreError, UserError, typed_first_line, visible
from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.records.environment import made_now
from oodbench.benchmark.runner.write_report import report
from oodbench.benchmark.verify.board.boards import Board, Row, boards_of
from oodbench.benchmark.verify.board.entries import Entry, Refused, bundle_files, read_entries
from oodbench.benchmark.views.marks import DASH, MAYBE, SEEN, percent
from oodbench.benchmark.views.metric_titles import metric_of
from oodbench.benchmark.views.summary import EVERY, GROUPS, Stat
from oodbench.benchmark.views.tables.html import table_html

MARKER = "leaderboard.csv"
"""The file by which a folder is known to be a leaderboard, which may be replaced."""

SHOWN = ("auroc", "fpr_at_tpr95", "openood_fpr95", "tnr_at_tpr95", "detection_accuracy", "aupr_in", "aupr_out")
"""Metrics that the page offers, the first of which it shows at first."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What begins a cell that a spreadsheet takes for a formula."""

EMPTY_HEAD = re.compile(r"<th( colspan=\"\d+\")?></th>")
"""A heading without text, which screen readers announce all the same."""

PAGE_POLICY = (
    "default-src 'none'; script-src '{script}'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)


@dataclass(frozen=True)
class Site:
    """A leaderboard that was written."""

    folder: Path
    boards: list[Board]
    entries: list[Entry]
    refused: list[Refused]


def write_leaderboard(
    folder: Path, out: Path, *, title: str = "", reports: bool = True, said: Callable[[str], None] = lambda _: None
) -> Site:
    """Make a leaderboard of the bundles in a folder.

    Args:
        folder: Has the bundles, files that end in `.zip`.
        out: The folder to write. An earlier leaderboard there is replaced.
        title: Of the page.
        reports: Whether every bundle gets a report, the page of `bench report`.
        said: Called with a line on each bundle.

    Raises:
        UserError: There are no bundles, or `out` has something else in it.
        StoreError: `out` cannot be written.
    """
    bundle_files(folder)  # what is read is checked before what is written
    if out.exists() and not (out / MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"'{out}' is not a leaderboard and is not empty. Choose another folder with -o.")
    with tempfile.TemporaryDirectory(prefix="oodbench-board-") as work:
        read, refused = read_entries(folder, Path(work), said)
        not_shown = {
            id(entry): Refused(visible(entry.file.name), why) for entry in read if (why := _cannot_show(entry))
        }
        for one in not_shown.values():
            said(f"{one.file}: refused: {one.why}")
        entries = [entry for entry in read if id(entry) not in not_shown]
        boards, others = boards_of(entries)
        for one in others:
            said(f"{one.file}: refused: {one.why}")
        refused = sorted([*refused, *not_shown.values(), *others], key=lambda one: (one.file, one.why))
        entries = [entry for entry in entries if visible(entry.file.name) not in {one.file for one in others}]
        site = Site(out, boards, entries, refused)
        try:
            _replace(out, site, title or "Leaderboard", reports, Path(work))
        except OSError as error:
            raise StoreError(f"Cannot write '{out}': {error.strerror or error}. Choose another folder.") from error
    return site


def _cannot_show(entry: Entry) -> str:
    """Why no page can be made of a bundle, whose author may have written anything into it; empty if one can."""
    try:
        boards, _ = boards_of([entry], judge=False)
        _page("bundle.html", title="", **_of_bundle(entry, boards, False))
        _page("index.html", title="", **_of_index(Site(Path(), boards, [entry], [])))
        leaderboard_csv(boards)
    except Exception as error:  # one bundle must not keep the others from being shown
        return f"It cannot be shown, because what it says of itself is damaged: {visible(typed_first_line(error))}."
    return ""


def _replace(out: Path, site: Site, title: str, reports: bool, work: Path) -> None:
    """Write the site to a temporary folder beside its place, and put it there."""
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
    try:
        new.chmod(0o755)
        (new / "bundles").mkdir()
        for entry in site.entries:
            shutil.copyfile(entry.file, new / "bundles" / f"{entry.page}.zip")
            has_report = reports and _report(entry, new / "bundles" / f"{entry.page}.report.html", work)
            text = _page("bundle.html", title=title, **_of_bundle(entry, site.boards, has_report))
            (new / "bundles" / f"{entry.page}.html").write_text(text, encoding="utf-8")
        (new / "index.html").write_text(_page("index.html", title=title, **_of_index(site)), encoding="utf-8")
        (new / MARKER).write_text(leaderboard_csv(site.boards), encoding="utf-8", newline="")
        if out.exists():
            shutil.rmtree(out)
        new.rename(out)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def _report(entry: Entry, file: Path, work: Path) -> bool:
    """Write the report of a bundle, without pictures; False if it could not be made.

    What the run says of files is left out, so that nothing on this machine is read for it.
    """
    info = {name: value for name, value in entry.run.info.items() if name not in ("commands", "asked", "data")}
    try:
        report(
            replace(entry.run, info=info),
            file,
            results=entry.bundle.results,
            data_dir=work / "no data",
            images=0,
            title=entry.name,
            command=f"bench leaderboard (bundle {entry.file.name})",
        )
    except Exception:  # as for `_cannot_show`; the board and the page of the bundle do without
        return False
    return True


# Pages


def _page(name: str, **shown: Any) -> str:
    script = _asset("board.js")
    policy = PAGE_POLICY.format(script="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode())
    made = made_now()
    style = Markup(_asset("style.css"))
    version = made["version"]
    text = _environment().get_template(name)
    return text.render(policy=policy, style=style, script=Markup(script), version=version, **shown)


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, loader=FunctionLoader(_asset), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["seen"] = visible
    return environment


def _asset(name: str) -> str:
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _of_index(site: Site) -> dict[str, Any]:
    return {
        "boards": [_of_board(board, number) for number, board in enumerate(site.boards)],
        "bundles": [{"name": entry.name, "page": entry.page, "cells": entry.verdict.cells} for entry in site.entries],
        "refused": site.refused,
        "metrics": [metric_of(name) for name in SHOWN],
    }


def _of_board(board: Board, number: int) -> dict[str, Any]:
    groups = [group for group in (*GROUPS, EVERY) if board.averaged(group)]
    near_and_far = {group for group in groups if group != EVERY}
    groups = [group for group in groups if group != EVERY or len(near_and_far) != 1]
    return {
        "id": f"board-{number}",
        "protocol": board.protocol,
        "id_images": board.images.get("", ("", 0))[:2],
        "columns": board.columns,
        "checksums": {name: images[:2] for name, images in board.images.items() if name},
        "groups": [{"name": group, "sets": board.averaged(group)} for group in groups],
        "rows": [_of_row(board, row, place, groups) for place, row in enumerate(board.rows)],
        "judged": bool(board.best),
        "seen": any(row.seen for row in board.rows),
        "marks": {"best": MAYBE, "seen": SEEN},
    }


def _of_row(board: Board, row: Row, place: int, groups: Sequence[str]) -> dict[str, Any]:
    means = [{name: board.mean(row, group, name) for name in SHOWN} for group in groups]
    return {
        "name": row.name,
        "label": row.label,
        "entries": [row.entry, *board.others.get(place, ())],
        "means": [_cell({name: value for name, value in mean.items() if value is not None}) for mean in means],
        "cells": [_set_cell(board, row, place, ood.name) for ood in board.columns],
        "accuracy": percent(row.accuracy.mean) if row.accuracy else DASH,
        "backbone": row.first.backbone or DASH,
        "training": _training(row),
        "costs": row.costs,
        "seeds": len(row.seeds),
    }


def _cell(values: dict[str, float]) -> dict[str, Any]:
    """What a cell shows: the first metric, and all of them for the script."""
    shown = {name: [percent(value), ""] for name, value in values.items()}
    text = shown.get(SHOWN[0], [DASH, ""])[0]
    return {"text": text, "values": json.dumps(shown), "marks": "", "about": "", "best": False}


def _set_cell(board: Board, row: Row, place: int, ood: str) -> dict[str, Any]:
    stats = row.cells.get(ood, {})
    found = _cell({name: stats[name].mean for name in SHOWN if name in stats})
    shown = {name: [percent(stats[name].mean), _ends(stats[name])] for name in SHOWN if name in stats}
    best, seen = place in board.best.get(ood, ()), ood in row.seen
    about = [_interval(stats[SHOWN[0]])] if SHOWN[0] in stats else [row.reasons.get(ood, "not run")]
    about += ["trained on outliers of this distribution: does not compete"] * seen
    about += ["may be the best of its column"] * best
    marks = MAYBE * best + SEEN * seen
    return {**found, "values": json.dumps(shown), "marks": marks, "about": "; ".join(about), "best": best}


def _ends(stat: Stat) -> str:
    return DASH.join(map(percent, stat.interval)) if stat.interval else ""


def _interval(stat: Stat) -> str:
    seeds = f", {stat.n} seeds" if stat.n > 1 else ""
    return f"AUROC {percent(stat.mean)}, 95% interval {_ends(stat) or 'unknown'}{seeds}"


def _training(row: Row) -> str:
    known = row.first.training
    parts = [row.first.recipe]
    parts += [f"{known['epochs']} epochs"] if known.get("epochs") else []
    parts += [f"{known['images']:,} images"] if isinstance(known.get("images"), int) else []
    return ", ".join(parts)


def _of_bundle(entry: Entry, boards: Sequence[Board], has_report: bool) -> dict[str, Any]:
    info, contents = entry.run.info, entry.bundle.contents
    commands = [command for command in info.get("commands", ()) if isinstance(command, dict)]
    options = [
        {
            name: _short(value)
            for name, value in command.items()
            if name != "suite_toml" and value not in ("", 0, False, [])
        }
        for command in commands
    ]
    machine = ("version", "processor", "device", "device_name", "python", "torch", "numpy", "threads")
    used = {
        (str(one.get("set")), str(one.get("part")), str(one.get("sha256"))): int(one.get("images", 0))
        for record in entry.run.records
        for one in record.provenance.get("data", ())
    }
    return {
        "entry": entry,
        "contents": contents,
        "size": f"{entry.file.stat().st_size:,} bytes",
        "summary": entry.verdict.summary(),
        "table": Markup(EMPTY_HEAD.sub(r"<td\1></td>", table_html(entry.run))),
        "boards": [number for number, board in enumerate(boards) if any(row.entry is entry for row in board.rows)],
        "commands": options,
        "suites": [str(command["suite_toml"]) for command in commands if command.get("suite_toml")],
        "machine": {name: str(info[name]) for name in machine if info.get(name)},
        "packages": {str(name): str(value) for name, value in (info.get("packages") or {}).items()},
        "commit": (info.get("commit") or {}).get("id", "not recorded"),
        "data": [(*names, count) for names, count in sorted(used.items())],
        "has_report": has_report,
    }


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# CSV


def leaderboard_csv(boards: Sequence[Board]) -> str:
    """All numbers of all boards, one row for each row and OOD set; fractions, empty where not available."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = ("low", "high")
    head = ("board", "suite", "id_set", "bundle", "sha256", "method", "backbone", "seeds", "id_accuracy", "ood_set")
    writer.writerow(
        [*head, "group", "seen", "may_be_best", *METRICS, *(f"{name}_{end}" for name in METRICS for end in ends)]
    )
    for number, board in enumerate(boards):
        for place, row in enumerate(board.rows):
            for cells in _csv_cells(board, row, place):
                about = [
                    number,
                    board.protocol.suite,
                    board.protocol.id_set,
                    row.entry.name,
                    row.entry.sha256,
                    row.label,
                ]
                about += [row.first.backbone, len(row.seeds), row.accuracy.mean if row.accuracy else "", *cells]
                writer.writerow([_plain(value) for value in about])
    return out.getvalue()


def _csv_cells(board: Board, row: Row, place: int) -> Iterator[list[Any]]:
    for ood in board.columns:
        stats = row.cells.get(ood.name, {})
        best = str(place in board.best[ood.name]).lower() if ood.name in board.best else ""
        values = [stats[name].mean if name in stats else "" for name in METRICS]
        ends = [end for name in METRICS for end in (stats[name].interval if name in stats else None) or ("", "")]
        yield [ood.name, ood.group, str(ood.name in row.seen).lower(), best, *values, *ends]


def _plain(value: Any) -> Any:
    """A value for CSV; a text that a spreadsheet would take for a formula begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
