"""Run outside the checkout, in an environment that has the wheel and Hugging Face `datasets`: .ci/run does."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import import_module, metadata
from pathlib import Path

import oodbench.benchmark as oodbench

SUITE = """
schema = 1
[protocol]
backbone = "small_cnn"
recipe = "cross_entropy"
[training]
epochs = 1
[[id]]
set = "digits[0-4]"
ood = [{ set = "greek", group = "near" }]
"""


def bench(*arguments: str) -> str:
    command = [sys.executable, "-m", "oodbench.benchmark", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    assert "site-packages" in (oodbench.__file__ or ""), f"not the wheel: {oodbench.__file__}"
    assert hasattr(import_module("datasets"), "load_dataset"), "Hugging Face datasets was overwritten"
    assert "lee2018" in bench("list", "references")
    assert metadata.version("oodbench") == oodbench.__version__
    for kind in ("detectors", "recipes", "datasets", "forms", "backbones", "figures", "suites"):
        assert bench("list", kind).strip(), f"the wheel lists no {kind}"
    with tempfile.TemporaryDirectory() as folder:
        suite = Path(folder, "tiny.toml")
        suite.write_text(SUITE)
        bench("run", "--suite", str(suite), "--detectors", "msp,energy", "--results", folder, "--quiet")
        assert (Path(folder) / "runs/tiny/table.csv").read_text().count("\n") == 3
        page = Path(bench("report", "tiny", "--results", folder).strip())
        assert "DataTables" in page.read_text(encoding="utf-8"), "the report lacks its scripts"
    print("wheel smoke test: 1 passed, 0 failed")


if __name__ == "__main__":
    main()
