"""Names of older versions: each works with a warning, or is refused with the new name."""

from __future__ import annotations

import importlib

import pytest
import torch

import oodbench.benchmark
from oodbench.benchmark import Classifier, Detector, Figures
from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plugins.renamed import MODULES, NAMES, PACKAGE


@pytest.mark.parametrize("old", MODULES)
def test_an_old_module_is_refused_with_the_new_name(old: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=rf"'{PACKAGE}.{old}' is now '{PACKAGE}.{MODULES[old]}'"):
        importlib.import_module(f"{PACKAGE}.{old}")
    assert importlib.import_module(f"{PACKAGE}.{MODULES[old]}")


def test_a_module_that_never_was_is_python_s_own_error() -> None:
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{PACKAGE}.nothing'"):
        importlib.import_module(f"{PACKAGE}.nothing")


@pytest.mark.parametrize("old", NAMES)
def test_an_old_public_name_works_with_a_warning(old: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{old} is now {NAMES[old]}"):
        assert getattr(oodbench.benchmark, old) is getattr(oodbench.benchmark, NAMES[old])


@pytest.mark.parametrize(
    "base, old, new",
    [(Detector, "oriented", "`is_sanity_baseline = True`"), (Figures, "plates", "`panels`")],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_an_old_name_in_a_plugin_s_body_is_refused(base: type, old: str, new: str) -> None:
    with pytest.raises(PluginError, match=f"Mine.{old}: .*{new}"):
        type("Mine", (base,), {old: False, "__module__": __name__})


def test_the_old_method_of_a_classifier_works_with_a_warning() -> None:
    network = torch.nn.Module()
    network.features = lambda images: images.mean(dim=(2, 3))  # type: ignore[assignment]
    network.head = torch.nn.Linear(3, 2)
    network.block = torch.nn.Identity()
    classifier = Classifier(network, 2, lambda net: [])
    with pytest.warns(DeprecationWarning, match="forward_with_maps"), pytest.raises(PluginError, match="no blocks"):
        classifier.look(torch.zeros(1, 3, 4, 4))
