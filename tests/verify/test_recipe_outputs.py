"""Contract checks of named outputs: of recipes that declare them, and of detectors that read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Task, WithOutputs
from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.verify.check_error import CheckError
from oodbench.benchmark.verify.plugin_checks import check_detector, run_checks
from oodbench.benchmark.verify.recipe_outputs import check_recipe_outputs
from tests.named_recipes import Measured, OwnShort, Short

Register = Callable[[str, type[Plugin]], None]


def statuses(name: str) -> dict[str, tuple[str, str]]:
    """Status and reason of every check of a plug-in."""
    return {result.check: (result.status, result.reason) for result in run_checks([name], Path("data"))}


def changed(base: type[Plugin], **members: Any) -> Any:
    """A class with some members changed."""
    return type(f"Other{base.__name__}", (base,), {**members, "__module__": __name__})


@pytest.mark.slow
def test_a_recipe_with_outputs_and_its_detectors_pass(register: Register) -> None:
    for name, plugin in (("measured", Measured), ("short", Short), ("own_short", OwnShort)):
        register(name, plugin)
        found = statuses(name)
        assert {status for status, _ in found.values()} <= {"ok", "skipped"}, found
        skipped = {check: reason for check, (status, reason) in found.items() if status == "skipped"}
        oriented = {"check_oriented": "it reads outputs of its recipe's network, which is not trained here"}
        assert skipped == ({} if name == "measured" else oriented)


class BatchMean(nn.Module):
    """A statistic of the batch."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean().expand(len(features), 1)


def build_with(**branches: nn.Module) -> Callable[[Measured, Task], dict[str, nn.Module]]:
    return lambda self, task: {"classifier": WithOutputs(task.build_classifier(), **branches)}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"networks": lambda self, task: {"classifier": task.build_classifier()}}, "has no named outputs"),
        ({"networks": build_with(length=nn.Linear(16, 1))}, r"returned \['length'\], and its recipe declares"),
        ({"networks": build_with(length=nn.Linear(16, 2), turned=nn.Linear(16, 3))}, r"returned \(16, 2\) as 'length'"),
        ({"networks": build_with(length=BatchMean(), turned=nn.Linear(16, 3))}, "depend on the other images"),
        ({"outputs": {"length": "one"}}, "the width of 'length' must be a positive integer, got 'one'"),
        ({"trains_classifier": False}, "says trains_classifier = False"),
        ({"fit_head": lambda self, data: None}, "trains no network that could have named outputs"),
    ],
    ids=["no outputs", "one missing", "width", "batch", "declaration", "no classifier", "head"],
)
def test_recipes_that_break_their_declaration_fail(register: Register, members: dict[str, Any], message: str) -> None:
    register("broken", changed(Measured, **members))
    with pytest.raises((CheckError, PluginError), match=message):
        check_recipe_outputs("broken")


def score_nothing(self: Short, batch: Batch) -> Tensor:
    return torch.arange(len(batch)).double() * 0


def score_undeclared(self: Short, batch: Batch) -> Tensor:
    return -batch.outputs["turned"][:, 0]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"reads": "length"}, "reads is 'length'; write a set of names"),
        ({"reads": frozenset({"length", "turned"})}, "it declares output 'turned' but never reads it"),
        ({"reads": frozenset({"volume"})}, "it reads output 'volume', which no registered recipe declares"),
        ({"recipe": "cross_entropy"}, "it reads output 'length', which its recipe 'cross_entropy' does not declare"),
        ({"score": score_undeclared}, "asked for output 'turned', which it does not declare"),
        ({"score": score_nothing, "fit": lambda self, classifier, data: None}, "'length' but never reads it"),
    ],
    ids=["no set", "unused", "nobody's", "not its recipe's", "undeclared", "ignored"],
)
def test_detectors_that_read_other_outputs_than_they_declare_fail(
    register: Register, members: dict[str, Any], message: str
) -> None:
    register("measured", Measured)
    register("broken", changed(Short, **members))
    with pytest.raises((CheckError, PluginError), match=message):
        check_detector("broken")
