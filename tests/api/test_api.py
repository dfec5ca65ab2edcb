"""The public API: the signature of `run`, and a run as data frames, text and HTML."""

from __future__ import annotations

import inspect
import io
import json
import logging
import re
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import oodbench.benchmark
from oodbench.benchmark import Run, read_run, run
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.options import Options
from oodbench.benchmark.plan.suite_file import default_suite, suite_path
from oodbench.benchmark.plugins.renamed import PARAMETERS
from oodbench.benchmark.stages.models.for_run import IN_MEMORY
from oodbench.benchmark.views.run import FORMATS
from oodbench.benchmark.views.tables import files as tables

TINY = {"id_sets": "digits[0-1]", "ood_sets": "greek,uniform", "backbone": "small_cnn[hidden=4,width=2]", "epochs": 1}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two detectors on two seeds, one of which fails nowhere."""
    return run("msp,random", seeds=2, results=tmp_path_factory.mktemp("results"), name="tiny", **TINY)  # type: ignore[arg-type]


def test_run_has_the_parameters_of_its_options() -> None:
    ours, theirs = (dict(inspect.signature(function).parameters) for function in (run, Options))
    assert ours.pop("progress").default is None
    assert theirs.pop("own_cache").default is False
    assert [ours.pop(name).default for name in IN_MEMORY] == [None] * 6 + [""] * 2
    assert list(ours) == list(theirs)
    assert [parameter.default for parameter in ours.values()] == [parameter.default for parameter in theirs.values()]
    assert all(parameter.annotation is not parameter.empty for parameter in ours.values())
    assert not any(parameter.kind == parameter.VAR_KEYWORD for parameter in ours.values())


def test_the_docstring_of_run_names_every_parameter() -> None:
    arguments = (inspect.getdoc(run) or "").partition("\nArgs:\n")[2].partition("\nReturns:\n")[0]
    documented = re.findall(r"^    (\w+): ", arguments, re.MULTILINE)
    assert documented == list(inspect.signature(run).parameters)


def test_a_typo_names_run() -> None:
    wrong: dict[str, Any] = {"sede": 3}
    with pytest.raises(TypeError, match=r"^run\(\) got an unexpected keyword argument 'sede'"):
        run("msp", **wrong)


@pytest.mark.parametrize("old", PARAMETERS)
def test_an_old_parameter_is_refused_with_what_replaces_it(old: str) -> None:
    wrong: dict[str, Any] = {old: print}
    with pytest.raises(TypeError, match=rf"^run\(\) has no parameter '{old}': {PARAMETERS[old]}"):
        run("msp", **wrong)


def test_what_run_returns_is_what_read_run_reads(tiny: Run) -> None:
    assert type(tiny) is Run
    for again in (read_run(tiny.path), read_run(str(tiny.path)), read_run("tiny", tiny.path.parent.parent)):
        assert (again.path, again.info, again.records) == (tiny.path, tiny.info, tiny.records)
    with pytest.raises(UserError, match=r"Unknown run 'tinny'. Did you mean 'tiny'\?"):
        read_run("tinny", tiny.path.parent.parent)


def test_the_frame_of_records_holds_every_record(tiny: Run) -> None:
    frame = tiny.to_frame()
    assert len(frame) == len(tiny.records) == 2 * 2 * 2
    for (_, row), record in zip(frame.iterrows(), tiny.records, strict=True):
        assert (row.id_set, row.ood_set, row.detector, row.seed) == (
            record.id_set, record.ood_set, record.detector, record.seed,
        )  # fmt: skip
        assert row.auroc == record.metrics["auroc"], "to the last bit"
        assert [row.auroc_low, row.auroc_high] == list(record.intervals["auroc"])
        assert row.settings == dict(record.settings)
    assert frame.seen.dtype == bool
    assert frame.status.tolist() == ["ok"] * len(frame)
    assert list(frame.columns) == (tiny.path / "records.csv").read_text().partition("\n")[0].split(",")


def test_a_record_without_numbers_is_a_row_of_missing_values(tiny: Run) -> None:
    failed = tiny.records[0].__class__(**{
        **{field: getattr(tiny.records[0], field) for field in tiny.records[0].__dataclass_fields__},
        "status": "failed", "reason": "NA", "metrics": {}, "intervals": {}, "id_accuracy": None,
    })  # fmt: skip
    frame = Run(tiny.path, tiny.info, [failed, *tiny.records[1:]]).to_frame()
    assert frame.loc[0, ["auroc", "id_accuracy", "auroc_low"]].isna().all()
    assert frame.loc[0, "reason"] == "NA", "text is not a missing value"
    assert frame["auroc"].dtype == float


def test_the_table_is_in_percent_with_means_over_seeds(tiny: Run) -> None:
    table, frame = tiny.table(), tiny.to_frame()
    assert table.index.names == ["id_set", "detector"]
    assert list(table.columns[:2]) == [("", "id_accuracy"), ("greek", "tnr_at_tpr95")]
    sets = list(dict.fromkeys(name for name, _ in table.columns))
    assert sets == ["", "greek", "uniform", *[name for name in sets if name.endswith(" mean")]]
    for (_id_set, _detector), row in table.iterrows():
        for ood_set in ("greek", "uniform"):
            cells = frame.query("id_set == @_id_set and detector == @_detector and ood_set == @ood_set")
            assert row[ood_set, "auroc"] == pytest.approx(100 * cells["auroc"].mean())
        if ("near mean", "auroc") in table.columns and not np.isnan(row["near mean", "auroc"]):
            assert row["near mean", "auroc"] == pytest.approx(row["greek", "auroc"])


@pytest.mark.parametrize("name", FORMATS)
def test_the_table_as_text(tiny: Run, name: str) -> None:
    text = tiny.table(format=name)  # type: ignore[call-overload]
    assert isinstance(text, str)
    files = {"md": "table.md", "csv": "table.csv", "tex": "table.tex"}
    if name in files:
        assert text == (tiny.path / files[name]).read_text(encoding="utf-8")
    for label in ("msp", "random"):
        assert label in text


def test_an_unknown_format_is_refused(tiny: Run) -> None:
    with pytest.raises(UserError, match=r"Unknown format 'xlsx'. Choose text, md, csv, tex, html, or None"):
        tiny.table(format="xlsx")  # type: ignore[call-overload]


def test_a_notebook_shows_the_table_with_the_best_in_bold(tiny: Run) -> None:
    html = tiny._repr_html_()
    assert html.count("<table>") == html.count("</table>") == 1
    rows = re.findall(r"<tr>.*?</tr>", html)
    assert len(rows) >= 4
    shown = pd.read_html(io.StringIO(html))[0] if _has_lxml() else None
    assert shown is None or len(shown) >= 2
    best = tables.summarise(tiny).query("metric == 'auroc' and ood_set == 'uniform' and scope == 'set'")["mean"].max()
    assert f"<b>{100 * best:.1f} ± " in html
    assert repr(tiny) == f"<Run 'tiny': 8 ok; {tiny.path}>"


def _has_lxml() -> bool:
    import importlib.util

    return importlib.util.find_spec("lxml") is not None


def test_names_in_html_are_escaped(tiny: Run) -> None:
    hostile = Run(tiny.path, {**tiny.info, "name": "<script>alert(1)</script>"}, tiny.records)
    assert "<script>" not in hostile._repr_html_()
    assert "&lt;script&gt;" in hostile._repr_html_()


def test_a_run_is_read_and_shown_without_torch(tiny: Run) -> None:
    code = (
        "import sys; from oodbench.benchmark import read_run\n"
        f"run = read_run({str(tiny.path)!r}); run.table(); run.to_frame(); run._repr_html_()\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_messages_go_to_the_logger(tiny: Run, logged: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    scores = tiny.path.parent.parent / "cache" / tiny.records[0].artifacts["ood_scores"]
    content = bytearray(scores.read_bytes())
    content[-1] ^= 1
    scores.write_bytes(content)
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    monkeypatch.setattr(handler, "emit", records.append)
    monkeypatch.setattr(logging.getLogger("oodbench"), "handlers", [*logging.getLogger("oodbench").handlers, handler])
    again = run("msp,random", seeds=2, results=tiny.path.parent.parent, name="tiny", **TINY)  # type: ignore[arg-type]
    assert [text for text in logged if "does not match its checksum" in text]
    assert {record.name for record in records} == {"oodbench.benchmark.store.store"}
    assert [r.metrics for r in again.records] == [r.metrics for r in tiny.records]


def test_the_types_of_the_api_can_be_resolved() -> None:
    for name in ("run", "read_run"):
        function: Callable[..., Any] = getattr(oodbench.benchmark, name)
        assert function.__doc__
        assert "return" in typing.get_type_hints(inspect.unwrap(function))


def test_the_default_suite_is_what_run_uses(tiny: Run) -> None:
    assert tiny.info["suite"]["name"] == default_suite()
    assert suite_path(default_suite()).is_file()
    assert json.loads((tiny.path / "run.json").read_text())["name"] == "tiny"
    assert isinstance(tiny.path, Path)
