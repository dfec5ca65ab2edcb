"""What takes the place of the recipe and of the network where only outputs, or scores, are given. Not registered."""

from __future__ import annotations

from torch import nn

from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plan.weights.file import OUTPUTS, SCORES
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.recipe import Recipe, Task


class GivenOutputsRecipe(Recipe):
    """Takes the place of the recipe of a network of which the user gives the outputs."""

    folder: str = ""
    sha256: str = ""
    """Of all of its arrays."""

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """There are none."""
        raise PluginError("Of a network whose outputs are given, there is nothing to build.")


class GivenScoresRecipe(Recipe):
    """Takes the place of the recipe for scores that the user gives."""

    source: str = ""
    sha256: str = ""
    """Of all of the method's scores under one seed."""
    higher: str = ""
    """What higher scores mean, as the user stated it; empty where the files say."""

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """There are none."""
        raise PluginError("Of scores that are given, there is nothing to build.")


class GivenMethod(Detector):
    """Takes the place of the detector that scores come from. Each method has a class of its own, for its name."""


GivenOutputsRecipe.name, GivenOutputsRecipe.title = OUTPUTS, "Outputs that the user gives"
GivenScoresRecipe.name, GivenScoresRecipe.title = SCORES, "Scores that the user gives"


def given_method(name: str) -> GivenMethod:
    """The detector in whose name a user's scores stand in tables."""
    cls = type("GivenMethodOf", (GivenMethod,), {"__module__": __name__, "needs": frozenset()})
    cls.name, cls.title = name, f"Scores of '{name}'"  # type: ignore[attr-defined]
    method: GivenMethod = cls()
    return method
