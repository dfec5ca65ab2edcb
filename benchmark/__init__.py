"""oodbench: which OOD detector is better, on which data, by how much.

This is the whole public API. Names are resolved on first use, so that the command line starts without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oodbench.benchmark.api import run as run
    from oodbench.benchmark.checks import check_detector as check_detector
    from oodbench.benchmark.contract import Backbone as Backbone
    from oodbench.benchmark.contract import Batch as Batch
    from oodbench.benchmark.contract import Classifier as Classifier
    from oodbench.benchmark.contract import Dataset as Dataset
    from oodbench.benchmark.contract import Detector as Detector
    from oodbench.benchmark.contract import Figures as Figures
    from oodbench.benchmark.contract import FitData as FitData
    from oodbench.benchmark.contract import Form as Form
    from oodbench.benchmark.contract import ImageSet as ImageSet
    from oodbench.benchmark.contract import Picture as Picture
    from oodbench.benchmark.contract import Recipe as Recipe
    from oodbench.benchmark.contract import Task as Task
    from oodbench.benchmark.contract import TrainBatch as TrainBatch
    from oodbench.benchmark.contract import Training as Training
    from oodbench.benchmark.errors import DataError as DataError
    from oodbench.benchmark.errors import OodbenchError as OodbenchError
    from oodbench.benchmark.intervals import confidence_intervals as confidence_intervals
    from oodbench.benchmark.metrics import aupr_in as aupr_in
    from oodbench.benchmark.metrics import aupr_out as aupr_out
    from oodbench.benchmark.metrics import auroc as auroc
    from oodbench.benchmark.metrics import detection_accuracy as detection_accuracy
    from oodbench.benchmark.metrics import evaluate as evaluate
    from oodbench.benchmark.metrics import tnr_at_tpr95 as tnr_at_tpr95
    from oodbench.benchmark.records import Record as Record
    from oodbench.benchmark.records import Run as Run
    from oodbench.benchmark.records import read_run as read_run
    from oodbench.benchmark.registry import backbone as backbone
    from oodbench.benchmark.registry import dataset as dataset
    from oodbench.benchmark.registry import detector as detector
    from oodbench.benchmark.registry import figure as figure
    from oodbench.benchmark.registry import form as form
    from oodbench.benchmark.registry import recipe as recipe
    from oodbench.benchmark.studio import Studio as Studio

_MODULES = {
    "api": ("run",),
    "checks": ("check_detector",),
    "contract": (
        "Backbone", "Batch", "Classifier", "Dataset", "Detector", "Figures", "FitData", "Form", "ImageSet", "Picture",
        "Recipe", "Task", "TrainBatch", "Training",
    ),
    "errors": ("DataError", "OodbenchError"),
    "intervals": ("confidence_intervals",),
    "metrics": ("aupr_in", "aupr_out", "auroc", "detection_accuracy", "evaluate", "tnr_at_tpr95"),
    "records": ("Record", "Run", "read_run"),
    "registry": ("backbone", "dataset", "detector", "figure", "form", "recipe"),
    "studio": ("Studio",),
}  # fmt: skip
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("oodbench")
    if name not in _HOME:
        raise AttributeError(f"module 'oodbench.benchmark' has no attribute '{name}'; it exports {', '.join(__all__)}")
    return getattr(import_module(f"oodbench.benchmark.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
