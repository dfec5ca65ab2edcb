"""A long run with a detector that fails, killed twice, ends with a complete table and without growing memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import csv_rows

if TYPE_CHECKING:
    from tests.chaos.conftest import ForkServer

KILLED = -9
CELLS = 500
GROWTH = 48e6
"""Bytes of resident memory that 400 cells may add; the arrays of one cell take a few kilobytes."""
FAILS = """
from oodbench.benchmark import Detector, detector

@detector("test_fails", title="Fails")
class Fails(Detector):
    def score(self, batch):
        raise RuntimeError("no luck today")
"""


@pytest.mark.slow
def test_five_hundred_cells(fork_server: ForkServer) -> None:
    plugin = fork_server.folder / "fails.py"
    plugin.write_text(FAILS)
    energies = [f"energy[temperature={1 + number / 100}]" for number in range(1, CELLS // 2 - 1)]
    detectors = ",".join(["msp", "test_fails", *energies])
    more = ["--plugin", str(plugin)]
    for kill in (1500, 3000):
        assert fork_server.run("soak", detectors, more=more, kill=kill) == KILLED, fork_server.output("soak")[-2000:]
    assert fork_server.run("soak", detectors, more=more, memory="memory.txt") == 1, fork_server.output("soak")[-2000:]
    rows = csv_rows((fork_server.folder / "soak/runs/tiny/records.csv").read_text())
    assert len(rows) == CELLS
    failed = [row for row in rows if row["status"] != "ok"]
    assert {(row["detector"], row["ood_set"]) for row in failed} == {("test_fails", ood) for ood in ("glyphs", "greek")}
    assert all("no luck today" in row["reason"] for row in failed)
    assert fork_server.left_over("soak") == []
    resident = [int(line) for line in (fork_server.folder / "memory.txt").read_text().split()]
    assert len(resident) > 150, "the last process has enough cells left"
    growth = max(resident[-20:]) - max(resident[:50])
    print(f"{len(resident)} cells: {resident[0] / 1e6:.1f} MB at the first, {resident[-1] / 1e6:.1f} MB at the last")
    assert growth < GROWTH
