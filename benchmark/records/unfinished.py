"""Which cells of a run have no record yet, and which command computes them.

`run.json` lists the cells that the run shows (`cells`) and the commands that made it (`commands`). `parts` goes with
`commands`: the command as it is typed (`line`) and the cells that it was the last to plan (`cells`). The last part
lists none, since all others are its own; a part that is not the last and lists none is of an older version.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any


def listed_cells(info: Mapping[str, Any]) -> list[str]:
    """The names of the record files that a run shows, in order, each once."""
    return list(dict.fromkeys(Path(name).name for name in info.get("cells", ())))


def part_of(info: Mapping[str, Any]) -> dict[str, int]:
    """Name of a record file -> the number of the part that lists it; those of the last part are left out."""
    parts = info.get("parts", ())
    return {Path(name).name: number for number, part in enumerate(parts) for name in part.get("cells", ())}


def missing_cells(info: Mapping[str, Any], present: Collection[str]) -> dict[str, int]:
    """The command that computes missing cells -> their number; the command is '' where it was not recorded.

    `present` has the names of the record files that exist.
    """
    lines = [str(part.get("line", "")) for part in info.get("parts", ())] or [""]
    numbers = part_of(info)
    found: dict[str, int] = {}
    for name in listed_cells(info):
        if name not in present:
            line = lines[numbers.get(name, -1)]
            found[line] = found.get(line, 0) + 1
    return found


def unfinished_sentences(missing: Mapping[str, int], listed: int, run: str = "") -> list[str]:
    """What tables say of an unfinished run; nothing if it is complete.

    Args:
        missing: As `missing_cells` gives it.
        listed: Number of all cells of the run.
        run: The run's name, where several are shown.
    """
    count = sum(missing.values())
    if not count:
        return []
    of = f"Run '{run}' is unfinished" if run else "Unfinished"
    are = "is" if count == 1 else "are"
    lines = [f"'{line}'" if line else "the command that made it" for line in missing]
    return [f"{of}: {count:,} of {listed:,} cells {are} missing. Continue with {', then '.join(lines)}."]
