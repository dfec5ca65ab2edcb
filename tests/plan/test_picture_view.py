"""Which preprocessing a run has: options before the suite, the suite before the backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oodbench.benchmark import Backbone, Preprocessing
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.options import Options
from oodbench.benchmark.plan.picture_view import preprocessing, run_backbone
from oodbench.benchmark.plan.suite import Suite
from oodbench.benchmark.plan.suite_file import default_suite, read_suite
from oodbench.benchmark.plugins.registry import registry

OWN = Preprocessing(256, (224, 224), "bicubic")


class Fixed(Backbone):
    """A backbone whose weights were trained on pictures of 224 pixels."""

    name = "test_fixed"
    weights: bool = False

    def preprocessing(self) -> Preprocessing | None:
        return OWN

    @property
    def is_pretrained(self) -> bool:
        return self.weights


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> Suite:
    get = registry.get

    def get_also(kind: str, name: str) -> Any:
        return Fixed if name == "test_fixed" else get(kind, name)

    monkeypatch.setattr(registry, "get", get_also)
    return replace(read_suite(default_suite()), backbone="test_fixed")


def of(suite: Suite, **options: object) -> Preprocessing | None:
    return preprocessing(Options(**options).request(), suite)  # type: ignore[arg-type]


def test_sets_of_one_size_reach_networks_without_pretrained_weights_as_they_are(suite: Suite) -> None:
    assert of(suite) is None


def test_pretrained_weights_bring_their_own(suite: Suite) -> None:
    assert of(suite, backbone="test_fixed[weights=true]") == OWN


def test_so_do_pictures_of_their_own_sizes(suite: Suite, tmp_path: Path) -> None:
    assert of(suite, id_sets=f"folder:{tmp_path}") == OWN
    assert of(suite, id_sets=f"folder:{tmp_path}", backbone="small_cnn") is None


def test_the_suite_comes_before_the_backbone_and_options_before_the_suite(suite: Suite) -> None:
    stated = replace(suite, backbone="test_fixed[weights=true]", resize="232", interpolation="bilinear")
    assert of(stated) == Preprocessing(232, (224, 224), "bilinear")
    assert of(stated, resize="300x200") == Preprocessing((300, 200), None, "bilinear")
    assert of(stated, crop="192x160") == Preprocessing(232, (192, 160), "bilinear")


def test_a_size_makes_one_for_any_backbone(suite: Suite) -> None:
    assert of(suite, backbone="small_cnn", resize="64") == Preprocessing(64, (64, 64))
    assert of(suite, backbone="small_cnn", crop="48") == Preprocessing(None, (48, 48))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": "large"}, "--resize large is no size; write 224 or 224x224"),
        ({"crop": "0"}, "whole numbers from 1 to"),
        ({"resize": "64", "interpolation": "cubic"}, "Unknown interpolation 'cubic'"),
        ({"mean": "0.5"}, "--mean and --std belong together"),
        ({"mean": "0.5,0.5", "std": "1", "backbone": "resnet18"}, "--mean 0.5,0.5 must be one number, or three"),
        ({"mean": "0.5", "std": "0", "backbone": "resnet18"}, "--std 0 must be one number, or three"),
        ({"mean": "0.5", "std": "1", "backbone": "small_cnn"}, "'small_cnn' does not normalise pixels"),
    ],
)
def test_wrong_values_are_one_sentence(suite: Suite, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        of(suite, **options)


def test_no_mean_leaves_the_backbone_as_it_is(suite: Suite) -> None:
    request = Options(backbone="resnet18[normalisation=raw]").request()
    assert run_backbone(request, suite).settings["normalisation"] == "raw"
