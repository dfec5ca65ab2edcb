"""A plug-in's version follows all that its scores depend on: after any edit, equal versions mean equal scores."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from oodbench.benchmark import Batch
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.source_version import identity, start_command
from tests.support import run_suite, write_suite

pytestmark = pytest.mark.usefixtures("registry_as_before")

LOGITS = torch.arange(12, dtype=torch.float64).reshape(4, 3).sin()

HELPER = '''
"""What plug-ins share."""
from lib.deep import DEPTH

SHARE = {share}

def helped(x):
    """{prose}"""
    return x * SHARE + DEPTH  # {prose}
'''
BASE = """
from oodbench.benchmark import Detector

class Shifted(Detector):
    amount = {amount}

    def score(self, batch):
        return self.inner(batch.logits) + self.amount * {body}
"""
DEEP = "DEPTH = {depth}\n"
PLUGIN = """
import functools
import json
from pathlib import Path

import numpy as np
from oodbench.benchmark import Detector, detector
import base
import helper as h

TABLE = np.zeros(3)
for index in range({loops}):
    TABLE[index % 3] += {step}

{settings}

def make(scale, combine, *, power={power}):
    @detector("made")
    class Made(base.Shifted):
        {declared}

        def inner(self, logits):
            weighted = combine(logits * scale, dim=1)
            return h.helped(weighted) ** power + float(TABLE @ logits.numpy().T[:, 0]){used}
    return Made

make({scale}, {combine})
"""
READ = 'CONFIG = json.loads((Path(__file__).parent / "config.json").read_text())'
CHOICES: dict[str, tuple[Any, ...]] = {
    "share": (1.0, 2.0, 3.0),
    "prose": ("Help.", "Help a lot.", "x"),
    "amount": (0.0, 1.0, (1 + 1)),
    "body": ("1", "batch.logits[:, 0]", "batch.logits[:, 1]"),
    "depth": (1, 2, 3),
    "loops": (1, 2, 3),
    "step": (0.5, 1.5),
    "power": (1, 3),
    "scale": (1.0, 1.5, -1.0),
    "combine": ("torch_sum", "torch_amax", "lambda x, dim: x[:, 0]", "lambda x, dim: x[:, 1]"),
    "config": (0.0, 1.0, 2.0),
}
COMBINERS = "import torch\ntorch_sum, torch_amax = torch.sum, torch.amax\n"


class Project:
    """A plug-in file with a helper, a base class, a package and a configuration beside it."""

    def __init__(self, folder: Path, declared: str, used: str) -> None:
        self.folder, self.declared, self.used = folder, declared, used
        self.values = {name: choices[0] for name, choices in CHOICES.items()}
        (folder / "lib").mkdir(parents=True)

    def write(self) -> None:
        settings = f"{COMBINERS}{READ}" if self.used else COMBINERS
        files = {
            "helper.py": HELPER,
            "base.py": BASE,
            "lib/deep.py": DEEP,
            "config.json": json.dumps({"a": self.values["config"]}).replace("{", "{{").replace("}", "}}"),
            "mine.py": PLUGIN,
        }
        for name, text in files.items():
            filled = text.format(**self.values, settings=settings, declared=self.declared, used=self.used)
            (self.folder / name).write_text(filled)

    def load(self) -> tuple[str, bytes]:
        """What a new command would find: the version in the keys, and the scores."""
        self.write()
        start_command()
        registry.load_file(self.folder / "mine.py")
        detector = registry.get("detector", "made")()
        scores = detector.score(Batch(len(LOGITS), {"logits": LOGITS.__getitem__}, "made"))
        return str(identity(detector)["version"]), scores.numpy().tobytes()


@pytest.mark.parametrize(
    "declared, used",
    [
        pytest.param("'none'", "", id="code alone"),
        pytest.param('depends_on = ("config.json",)', ' + CONFIG["a"]', id="a declared file", marks=pytest.mark.slow),
        pytest.param("'none'", ' + CONFIG["a"]', id="a file that is not declared", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_random_edits_never_show_a_stale_score(tmp_path: Path, declared: str, used: str) -> None:
    draw, project = random.Random(13), Project(tmp_path / "p", declared, used)
    is_covered = not used or "depends_on" in declared
    scores: dict[str, bytes] = {}
    states: dict[str, str] = {}
    for _ in range(200):
        name = draw.choice(list(CHOICES))
        project.values[name] = draw.choice(CHOICES[name])
        version, made = project.load()
        assert scores.setdefault(version, made) == made, f"a stale score after an edit of {name}: {project.values}"
        relevant = {k: v for k, v in project.values.items() if k != "prose" and (used or k != "config")}
        if is_covered:
            assert states.setdefault(repr(relevant), version) == version, "nothing but prose has changed since"
    assert len(set(scores.values())) > 50
    assert is_covered or len(scores) == 200


SUITE = '[[id]]\nset = "digits[0-1]"\nood = [{ set = "greek" }]'
TINY_PLUGIN = """
from oodbench.benchmark import Detector, detector
from helper import sign

@detector("signed")
class Signed(Detector):
    def score(self, batch):
        return sign(batch.logits.amax(dim=1))
"""


def _auroc(suite: Path, plugin: Path, **options: Any) -> float:
    [record] = run_suite(suite, "signed", plugins=[plugin], **options).records
    assert record.status == "ok", record.reason
    return float(record.metrics["auroc"])


def test_a_run_follows_a_helper_beside_the_plugin_file(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, SUITE)
    (tmp_path / "mine.py").write_text(TINY_PLUGIN)
    aurocs = []
    for body in ("-x", "x", "-x  # as before"):
        (tmp_path / "helper.py").write_text(f"def sign(x):\n    return {body}\n")
        aurocs.append(_auroc(suite, tmp_path / "mine.py"))
    assert aurocs[0] == aurocs[2] == pytest.approx(1 - aurocs[1])
    assert aurocs[0] != aurocs[1]


def test_a_run_computes_what_reads_a_file_again_and_says_so(tmp_path: Path, logged: list[str]) -> None:
    suite, config = write_suite(tmp_path, SUITE), tmp_path / "config.txt"
    read = f"def sign(x):\n    with open({str(config)!r}) as file:\n        return float(file.read()) * x\n"
    (tmp_path / "helper.py").write_text(read)
    (tmp_path / "mine.py").write_text(TINY_PLUGIN)
    aurocs = []
    for factor in ("1", "-1"):
        config.write_text(factor)
        aurocs.append(_auroc(suite, tmp_path / "mine.py"))
        [message] = [one for one in logged if "computed again" in one]
        assert message.startswith("'signed' is computed again by every command, because sign in 'helper.py' uses open")
        logged.clear()
    assert aurocs[0] == pytest.approx(1 - aurocs[1])
    (tmp_path / "mine.py").write_text(TINY_PLUGIN.replace("def score", 'depends_on = ("config.txt",)\n\n    def score'))
    assert _auroc(suite, tmp_path / "mine.py") == aurocs[1]
    assert not [one for one in logged if "computed again" in one]


@pytest.mark.slow
def test_workers_find_the_version_in_their_jobs(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, SUITE)
    (tmp_path / "helper.py").write_text("import os\ndef sign(x):\n    return x if os.environ else -x\n")
    (tmp_path / "mine.py").write_text(TINY_PLUGIN)
    assert _auroc(suite, tmp_path / "mine.py") == _auroc(suite, tmp_path / "mine.py", jobs=2)
