"""Which plots of a comparison are there already: the same ones are not drawn again, as drawing takes a second.

compare/drawn.json   a hash of what the plots show and of the code that draws them, and the SHA-256 of every file
"""

from __future__ import annotations

import hashlib
from importlib import metadata, resources
from pathlib import Path

from oodbench.benchmark.comparisons.compare import Comparison
from oodbench.benchmark.store.atomic import to_json, write_atomically
from oodbench.benchmark.store.safe_read import escapes_root, read_json
from oodbench.benchmark.store.store import digest

NAME = "drawn.json"


def drawn_already(found: Comparison, folder: Path) -> list[Path] | None:
    """The plots in `folder`, if they are this comparison's and intact; None if they have to be drawn."""
    try:
        last = read_json(folder / NAME)
        files = dict(last["files"])
        if last["inputs"] != _inputs(found) or any(map(escapes_root, files)):
            return None
        return [folder / name for name in files] if files == _hashes(folder, list(files)) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # missing, damaged, or of another version


def note_drawn(found: Comparison, folder: Path, files: list[Path]) -> None:
    """Note that these files in `folder` are the comparison's plots."""
    names = [file.name for file in files]
    write_atomically(folder / NAME, to_json({"inputs": _inputs(found), "files": _hashes(folder, names)}))


def _hashes(folder: Path, names: list[str]) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def _inputs(found: Comparison) -> str:
    """A hash of everything that the plots depend on: what they show, the source of the views, and matplotlib."""
    source = hashlib.sha256()
    for file in sorted(Path(str(resources.files("oodbench.benchmark.views"))).rglob("*.py")):
        source.update(file.read_bytes())
    tests = found.matrix.tests if found.matrix else None
    ranks = None
    if tests is not None:
        numbers = [tests.ranks.tolist(), tests.sets, tests.critical_difference, tests.enough]
        ranks = [*numbers, [list(group) for group in tests.groups], [list(clique) for clique in tests.cliques]]
    shown = [found.metric, list(found.labels), len(found.columns), ranks]
    counts = [[list(found.counts(a, b)) for b in found.labels] for a in found.labels]
    return digest([shown, counts, source.hexdigest(), metadata.version("matplotlib")])
