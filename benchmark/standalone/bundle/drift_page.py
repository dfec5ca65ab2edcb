"""Writes a drift report as a web page, as Markdown with a picture, or as JSON."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.errors import UserError, visible
from oodbench.benchmark.standalone.bundle.drift import Drift
from oodbench.benchmark.store.atomic import to_json, write_atomically

KINDS = (".html", ".md", ".json")

OPTION = "--report"
"""What chooses the file, for the error if it cannot be written."""

MOST_CLASSES = 12
"""Predicted classes that a report lists."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
h1 {{ font-size: 1.4rem; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ padding: 0.2rem 0.8rem 0.2rem 0; text-align: right; border-bottom: 1px solid #ddd; }}
th:first-child, td:first-child {{ text-align: left; }}
img {{ max-width: 100%; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def check_kind(path: Path) -> None:
    """Raise `UserError` for a file name that says no known kind of report, before anything is scored."""
    if path.suffix.lower() not in KINDS:
        raise UserError(f"The report '{path}' must end in one of {', '.join(KINDS)}.")


def write_report(drift: Drift, path: Path) -> list[Path]:
    """Write a report; its kind follows from the file's name. Returns the files that were written."""
    check_kind(path)
    kind = path.suffix.lower()
    if kind == ".json":
        write_atomically(path, to_json(drift.numbers()), OPTION)
        return [path]
    if kind == ".html":
        write_atomically(path, html(drift, picture(drift)), OPTION)
        return [path]
    image = path.with_suffix(".png")
    write_atomically(image, picture(drift), OPTION)
    write_atomically(path, markdown(drift, image.name), OPTION)
    return [path, image]


def rows(drift: Drift) -> list[tuple[str, str, str]]:
    """The report's table: what, for ID validation images, for these images."""
    known, here = drift.shares
    low, high = drift.interval
    return [
        ("Images", f"{drift.bundle.validation.images:,}", f"{len(drift.scores):,}"),
        (f"Accepted (score <= {drift.monitor.threshold:.6g})", f"{100 * known:.1f}%", f"{100 * here:.1f}%"),
        ("95% interval of that share", "", f"{100 * low:.1f} to {100 * high:.1f}%"),
        ("Median score", _number(drift.validation, 0.5), _number(drift.scores, 0.5)),
        ("5% quantile", _number(drift.validation, 0.05), _number(drift.scores, 0.05)),
        ("95% quantile", _number(drift.validation, 0.95), _number(drift.scores, 0.95)),
    ]


def classes(drift: Drift) -> list[tuple[str, str]]:
    """The most frequent predicted classes with their shares."""
    ordered = sorted(drift.predicted.items(), key=lambda item: (-item[1], item[0]))
    return [(name, f"{100 * count / len(drift.scores):.1f}%") for name, count in ordered[:MOST_CLASSES]]


def title(drift: Drift) -> str:
    """The report's heading."""
    return f"Drift report: {drift.monitor.name} on {drift.bundle.id_set}"


def html(drift: Drift, png: bytes) -> str:
    """The report as one page without other files."""
    cells = (f"<tr><td>{_text(a)}</td><td>{_text(b)}</td><td>{_text(c)}</td></tr>" for a, b, c in rows(drift))
    named = (f"<tr><td>{_text(name)}</td><td>{share}</td></tr>" for name, share in classes(drift))
    encoded = base64.b64encode(png).decode()
    body = [
        *(f"<p>{_text(sentence)}</p>" for sentence in drift.sentences()),
        f'<p><img alt="Histogram of scores" src="data:image/png;base64,{encoded}"></p>',
        "<table><tr><th></th><th>ID validation</th><th>these images</th></tr>",
        *cells,
        "</table>",
        *(
            ["<table><tr><th>Predicted class</th><th>share of these images</th></tr>", *named, "</table>"]
            if drift.predicted
            else []
        ),
        f"<p>{_text(origin(drift))}</p>",
    ]
    return PAGE.format(title=_text(title(drift)), body="\n".join(body))


def markdown(drift: Drift, image: str) -> str:
    """The report as Markdown, with the picture in a file beside it."""
    lines = [f"# {title(drift)}", "", *(f"- {sentence}" for sentence in drift.sentences()), ""]
    lines += [f"![Histogram of scores]({image})", "", "| | ID validation | these images |", "| --- | ---: | ---: |"]
    lines += [f"| {a} | {b} | {c} |" for a, b, c in rows(drift)]
    if drift.predicted:
        lines += ["", "| predicted class | share of these images |", "| --- | ---: |"]
        lines += [f"| {name} | {share} |" for name, share in classes(drift)]
    return "\n".join([*map(visible, lines), "", visible(origin(drift)), ""])


def origin(drift: Drift) -> str:
    """Where the detector and its threshold come from."""
    bundle = drift.bundle
    return (
        f"Detector {drift.monitor.name} with {bundle.backbone.spec}, from run '{bundle.provenance.get('run')}', seed "
        f"{bundle.provenance.get('seed')}. The threshold accepts {100 * drift.monitor.tpr:g}% of "
        f"{bundle.validation.images:,} images of {bundle.validation.set} ({bundle.validation.part.partition(' ')[0]})."
    )


def picture(drift: Drift) -> bytes:
    """The histograms of both sides, and the threshold, as PNG."""
    from oodbench.benchmark.views.plots import style as canvas

    edges, known, here = drift.histograms()
    with canvas.styled():
        margins = canvas.FigureMargins(left=0.55, right=0.15, top=0.5, bottom=0.45)
        figure, axes = canvas.grid(1, 1, (5.6, 2.6), margins)
        axis = axes[0][0]
        axis.stairs(100 * known, edges, fill=True, color="#C4C4C4", label=f"ID validation, {len(drift.validation):,}")
        label = f"these images, {len(drift.scores):,}"
        axis.stairs(100 * here, edges, color="#0072B2", linewidth=1.4, label=label)
        threshold = drift.monitor.threshold
        axis.axvline(threshold, color="black", linestyle="--", linewidth=0.8, label=f"threshold, {threshold:.4g}")
        axis.set_xlim(edges[0], edges[-1])
        axis.set_ylim(bottom=0)
        axis.set_xlabel("score (higher = more OOD)")
        axis.set_ylabel("% of images")
        axis.legend(loc="upper right")
        accepted = ", ".join(f"{100 * share:.1f}%" for share in drift.shares)
        canvas.title(
            figure,
            f"{drift.monitor.name} on {drift.bundle.id_set}",
            f"accepted of ID validation and these images: {accepted}",
        )
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=160, metadata={"Software": None})
    return out.getvalue()


def _number(scores: NDArray[np.float64], share: float) -> str:
    return f"{np.quantile(scores, share):.4g}"


def _text(text: str) -> str:
    return escape(visible(text))
