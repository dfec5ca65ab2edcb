"""What run.json says for papers: names and citations of the plug-ins of a plan, and the costs of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from oodbench.benchmark import Detector, detector
from oodbench.benchmark.runner.described import described, with_earlier
from tests.support import prepare_suite, write_suite

MATRIX = """
[[id]]
set = "digits[0-4]"
ood = [{set = "digits[5-9]", group = "near"}, {set = "digits[0-4]+inverted", group = "far"}]
outliers = "glyphs"
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    suite = write_suite(tmp_path_factory.mktemp("described"), MATRIX)
    names = ["msp", "odin", "vim", "confidence", "joint", "gan_confidence", "msp@joint"]
    return described(prepare_suite(suite, names).plan)


def test_plug_ins_are_named_and_cited(found: Mapping[str, Any]) -> None:
    known = found["described"]
    assert known["detector"]["vim"]["display_name"] == "ViM"
    assert known["detector"]["vim"]["cite"] == "wang2022vim"
    assert known["detector"]["vim"]["paper"].startswith("Wang, Li, Feng & Zhang")
    assert set(known["recipe"]) == {"cross_entropy", "confidence", "joint", "gan_confidence"}
    assert known["dataset"].keys() == {"digits"}
    assert known["form"]["inverted"]["display_name"] == "inverted"
    assert known["backbone"].keys() == {"small_cnn"}
    keys = {key for kind in known.values() for facts in kind.values() for key in facts["cite"].split(",") if key}
    assert keys == found["references"].keys()
    assert found["references"]["wang2022vim"].startswith("@inproceedings{wang2022vim,")


def test_costs_are_those_of_the_plan(found: Mapping[str, Any]) -> None:
    assert found["costs"] == {
        "msp": {"kind": "posthoc", "passes": [0, 0], "networks": 1},
        "odin": {"kind": "posthoc", "passes": [2, 2], "networks": 1},
        "vim": {"kind": "posthoc", "passes": [0, 0], "networks": 1},
        "confidence": {"kind": "trained", "passes": [0, 0], "networks": 1},
        "joint": {"kind": "trained", "passes": [0, 0], "networks": 3},  # classifier, generator, discriminator
        "gan_confidence": {"kind": "trained", "passes": [0, 0], "networks": 3},  # the GAN is a recipe that comes first
        "msp@joint": {"kind": "trained", "passes": [0, 0], "networks": 3},
    }


def test_a_citation_that_is_not_sound_is_left_out_with_a_message(tmp_path: Path, logged: Sequence[str]) -> None:
    @detector("uncited", title="Mine", display_name="MINE", cite="nobody2020")
    class Uncited(Detector):
        def score(self, batch: Any) -> Any:
            return -batch.logits.amax(dim=1)

    suite = write_suite(tmp_path, MATRIX)
    known = described(prepare_suite(suite, "uncited").plan)
    assert known["described"]["detector"]["uncited"] == {
        "display_name": "MINE",
        "title": "Mine",
        "paper": "",
        "cite": "",
    }
    assert any("'uncited' is not cited in tables for papers: cite names 'nobody2020'" in line for line in logged)


def test_what_earlier_commands_said_stays(found: Mapping[str, Any]) -> None:
    earlier = {"described": {"detector": {"knn": {"cite": "a"}}}, "references": {"a": "x"}, "costs": {"knn": {}}}
    joined = with_earlier(earlier, found)
    assert {"knn", "vim"} <= joined["described"]["detector"].keys()
    assert {"a", "wang2022vim"} <= joined["references"].keys()
    assert {"knn", "msp"} <= joined["costs"].keys()
    assert with_earlier({}, found) == found
