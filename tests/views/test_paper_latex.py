"""Every style compiles, as a document and in a two-column paper, with nothing overfull and nothing too large.

They need pdflatex with booktabs and graphicx (Debian: texlive-latex-base, texlive-latex-recommended).
"""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from oodbench.benchmark.records.record import Record
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.tables.paper.spec import style_names
from oodbench.benchmark.views.tables.paper.write import references, written
from tests.support import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex"),
]

PAPER = r"""\documentclass[twocolumn]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\usepackage{booktabs,graphicx}
\begin{document}
Text. \input{table}
\clearpage
END
\end{document}
"""

OVERFULL = re.compile(
    r"(?m)^(Overfull .*|! .*|LaTeX Warning: (?:Float too large|Reference|Citation).*|.*multiply defined.*)$"
)

SETS = {"svhn": "far", "cifar100": "near", "textures": "far", "tinyimagenet": "near", "isun": "far", "places365": "far"}

STYLES = sorted(style_names())


def run_of(
    names: Sequence[str], sets: dict[str, str], seeds: int = 1, id_sets: Sequence[str] = ("cifar10",)
) -> StoredRun:
    """A run with a number in every cell, some of them seen, tuned or missing."""

    def cell(id_set: str, row: int, place: int, seed: int) -> Record:
        ood, name = list(sets)[place], names[row]
        number, fails = 0.5 + (row * 37 + place * 11 + seed) % 50 / 100, (row, place) == (2, 1)
        metrics = ("auroc", "tnr_at_tpr95", "fpr_at_tpr95", "openood_fpr95", "detection_accuracy")
        values = {**dict.fromkeys(metrics, number), "aupr_in": 1.0, "aupr_out": 0.9999}
        return Record(
            id_set=id_set, ood_set=ood, group=sets[ood], outlier_source=place == 0, seen=place == 0 and row == 1,
            detector=name, settings={}, recipe="plain", recipe_settings={}, backbone="wrn", seed=seed, label=name,
            status="failed" if fails else "ok", reason="no 100% & $" if fails else "",
            metrics={} if fails else values, id_accuracy=0.95,
        )  # fmt: skip

    places = itertools.product(id_sets, range(len(names)), range(len(sets)), range(seeds))
    cells = [cell(*place) for place in places]
    costs = {
        name: {"kind": ("posthoc", "trained")[i % 2], "passes": [i % 3] * 2, "networks": 1}
        for i, name in enumerate(names)
    }
    return StoredRun(Path("x"), {"name": "made", "seeds": list(range(seeds)), "costs": costs}, cells)


def small() -> StoredRun:
    return run_of(["msp", "odin", "vim", "knn"], SETS, id_sets=("cifar10", "svhn"))


def large() -> StoredRun:
    """60 detectors and six sets, with names of 40 characters, three seeds."""
    names = [f"{number:02d} {'a detector with a name that is long'[:37]:x<37}"[:40] for number in range(60)]
    sets = {f"{key} with a name of forty characters in all"[:40]: group for key, group in SETS.items()}
    assert {len(name) for name in [*names, *sets]} == {40}
    return run_of(names, sets, seeds=3)


def hostile() -> StoredRun:
    names = [
        r"\input{/etc/passwd}",
        "a}b{c%$&#_^~",
        "[x] *y* <>",
        "`'\"",
        "\N{GREEK SMALL LETTER ALPHA}=\N{CJK UNIFIED IDEOGRAPH-4E00}",
        "x" * 70,
    ]
    return run_of(names, {"50% & more": "far", "[b]": "near", "$x_1$": ""})


RUNS = {"small": small, "large": large, "hostile": hostile}


def compiled(folder: Path, text: str, bibtex: bool = False) -> tuple[str, Path]:
    """Compile a document twice, for its references; its log, and the PDF file."""
    (folder / "paper.tex").write_text(text, encoding="utf-8")
    for step in ("pdflatex", "bibtex", "pdflatex", "pdflatex") if bibtex else ("pdflatex", "pdflatex"):
        arguments = ["paper"] if step == "bibtex" else ["-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        done = subprocess.run([step, *arguments], cwd=folder, capture_output=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    return (folder / "paper.log").read_text(encoding="utf-8", errors="replace"), folder / "paper.pdf"


@pytest.mark.parametrize("size", RUNS)
@pytest.mark.parametrize("style", [*STYLES, "plain"])
@pytest.mark.parametrize("where", ["standalone", "two columns"])
def test_every_style_compiles_without_overfull_boxes(tmp_path: Path, size: str, style: str, where: str) -> None:
    options: dict[str, Any] = {"style": "" if style == "plain" else style}
    if style == "plain":
        options |= {"columns": "data,passes,networks,auroc,fpr95", "group_rows": "trained,posthoc", "marks": "all"}
    text = written(RUNS[size](), "tex", {**options, "standalone": where == "standalone"})
    if where != "standalone":
        (tmp_path / "table.tex").write_text(text, encoding="utf-8")
        text = PAPER
    log, pdf = compiled(tmp_path, text)
    assert OVERFULL.findall(log) == []
    assert pdf.stat().st_size > 10_000


@pytest.mark.parametrize("options", [{"transpose": True}, {"layout": "stacked"}, {"by": "metric"}], ids=str)
@pytest.mark.parametrize("size", ["small", "large"])
def test_other_layouts_compile(tmp_path: Path, size: str, options: dict[str, Any]) -> None:
    text = written(RUNS[size](), "tex", {"columns": "auroc,fpr95", "underline": "second", **options})
    (tmp_path / "table.tex").write_text(text, encoding="utf-8")
    log, _ = compiled(tmp_path, PAPER)
    assert OVERFULL.findall(log) == []


@pytest.mark.skipif(shutil.which("bibtex") is None, reason="there is no bibtex")
def test_citations_are_found_in_the_references(tmp_path: Path) -> None:
    options: dict[str, Any] = {"style": "openood", "cite": True, "standalone": True}
    run = small()
    (tmp_path / "refs.bib").write_text(references(run, options), encoding="utf-8")
    log, _ = compiled(tmp_path, written(run, "tex", options, bibliography="refs"), bibtex=True)
    assert OVERFULL.findall(log) == []
    assert "Warning" not in (tmp_path / "paper.blg").read_text().replace("Warning--empty", "")
    assert r"\bibitem{wang2022vim}" in (tmp_path / "paper.bbl").read_text()


ALL = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\begin{document}
\nocite{*}
\bibliographystyle{plain}
\bibliography{refs}
\end{document}
"""


@pytest.mark.skipif(shutil.which("bibtex") is None, reason="there is no bibtex")
@pytest.mark.parametrize("folder", ["detectors", "datasets", "benchmark/backbones"])
def test_all_references_compile(tmp_path: Path, folder: str) -> None:
    shutil.copy(ROOT / folder / "references.bib", tmp_path / "refs.bib")
    log, _ = compiled(tmp_path, ALL, bibtex=True)
    assert not re.findall(r"(?m)^! .*", log)
    assert re.findall(r"(?m)^(?:Warning|.*error).*", (tmp_path / "paper.blg").read_text()) == []
