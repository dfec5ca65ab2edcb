"""The page of a report: one HTML file with its data, scripts and styles, which asks the network for nothing.

The table is DataTables', from the bundle that the package itables ships; its file is read, the package is not imported.
Everything else is in `assets/`: a Jinja2 template, a style sheet and a few short scripts, which make elements and text,
never HTML, from the data. The page's security policy allows exactly these scripts, by their SHA-256, and no address
outside of the file; a name that contains a script stays text even if something failed to escape it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.store.atomic import write_atomically
from oodbench.benchmark.views.report.data import ReportData, to_json

SCRIPTS = ("dom", "state", "table", "charts", "classes", "cell", "compare", "mistakes", "about", "copy", "main")
"""Names of the scripts in `assets/`, in the order in which they are joined to one."""

BUNDLE = "html/dt_bundle.js"
"""Where itables keeps jQuery and DataTables with its extensions, as one ES module."""

_POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)


def report_page(data: ReportData) -> str:
    """The page that shows `data`, as the text of one HTML file; equal data give equal bytes.

    Raises `OodbenchError` if itables is missing, or has a bundle that is not understood.
    """
    library, script = _library(), _joined_scripts()
    hashes = " ".join(f"'sha256-{_sha256(text)}'" for text in (library, script))
    return _template().render(
        title=data.title,
        version=data.made.version,
        policy=_POLICY.format(scripts=hashes),
        style=Markup(_asset("style.css")),
        data=Markup(to_json(data).decode()),
        library=Markup(library),
        script=Markup(script),
    )


def write_report(data: ReportData, path: Path, option: str = "--out") -> Path:
    """Write the page to a file, and return its path; a file that would not change is left alone.

    `option` is what chose the file, for the error if it cannot be written.
    """
    page = report_page(data).encode()
    if not path.is_file() or path.read_bytes() != page:
        write_atomically(path, page, option)
    return path


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(_asset("page.html"))


@cache
def _joined_scripts() -> str:
    return _embeddable("\n".join(_asset(f"{name}.js") for name in SCRIPTS))


@cache
def _library() -> str:
    """DataTables as a script that leaves jQuery, of which it is a part, under its usual name."""
    found = find_spec("itables")
    file = Path(str(found.origin)).parent / BUNDLE if found else None
    if file is None or not file.is_file():
        raise OodbenchError("A report needs the package itables, whose tables it shows: pip install itables.")
    text = file.read_text(encoding="utf-8")
    exported = re.search(r"export\s*\{([^{}]*)\}\s*;?", text)
    name = re.search(r"([\w$]+) as jQuery\b", exported.group(1)) if exported else None
    if exported is None or name is None:
        raise OodbenchError(f"'{file}' does not export jQuery, as itables 2.4 to 2.9 do: pip install 'itables<3'.")
    return _embeddable(f"{text[: exported.start()]}globalThis.jQuery = {name.group(1)};{text[exported.end() :]}")


def _embeddable(script: str) -> str:
    """A script that cannot end its element: what HTML would read as a mark there is written with an escape instead.

    All of these are in string and regular expression literals, where the escape means the same.
    """
    return re.sub(r"<(?=!--|/?script)", r"\\x3C", script, flags=re.IGNORECASE)


def _asset(name: str) -> str:
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
