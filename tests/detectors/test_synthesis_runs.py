"""VOS, PixMix, G-ODIN and RotPred in runs: under their own names, and under other detectors."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodbench.benchmark.errors import UserError
from tests.support import prepare_suite, run_suite, write_suite

pytestmark = pytest.mark.usefixtures("one_thread")

MATRIX = """
[[id]]
set = "digits[0-2]"
ood = [{ set = "digits[5-9]", group = "near" }]
"""
SETTINGS = {"vos": "[queue=20,start=0.3]", "pixmix": "[pictures=6]", "godin": "[similarity=inner]", "rotpred": ""}
"""Recipe -> settings under which others score."""


@pytest.mark.slow
def test_each_runs_under_its_name_and_under_others(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, MATRIX)
    others = [f"{other}@{name}{text}" for name, text in SETTINGS.items() for other in ("vim", "knn", "gram", "msp")]
    detectors = [*SETTINGS, *others, "energy@vos", "msp@pixmix", "godin[epsilon=0.0]"]
    done = run_suite(suite, detectors, epochs=2, backbone="small_cnn[hidden=16,width=4]")
    assert {record.status for record in done.records} == {"ok"}
    found = {record.label: record for record in done.records}
    assert found["vos"].metrics == found["energy@vos"].metrics
    assert found["pixmix"].metrics == found["msp@pixmix"].metrics
    assert found["vim@vos[queue=20,start=0.3]"].metrics != found["vim@pixmix[pictures=6]"].metrics
    costs = done.info["costs"]
    assert [costs[name]["networks"] for name in SETTINGS] == [1] * 4
    assert [costs[name]["passes"] for name in SETTINGS] == [[0, 0], [0, 0], [2, 2], [3, 3]]


@pytest.mark.parametrize(("detector", "output"), [("godin", "h"), ("rotpred", "rotation")])
def test_their_outputs_are_needed(tmp_path: Path, detector: str, output: str) -> None:
    reason = f"it reads output '{output}', which recipe 'vos' does not give"
    with pytest.raises(UserError, match=f"Detector '{detector}@vos' cannot run: .*{reason}"):
        prepare_suite(write_suite(tmp_path, MATRIX), f"{detector}@vos")
