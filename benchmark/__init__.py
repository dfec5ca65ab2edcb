"""oodbench, a benchmark harness for out-of-distribution (OOD) detection in image classifiers.

This module is the public API. Names are imported on first use, so that the command line starts without torch.
"""

from __future__ import annotations

import os
import platform
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import warn

from oodbench.benchmark.plugins import renamed

if TYPE_CHECKING:
    from oodbench.benchmark.api import run as run
    from oodbench.benchmark.errors import DataError as DataError
    from oodbench.benchmark.errors import OodbenchError as OodbenchError
    from oodbench.benchmark.metrics.exact import aupr_in as aupr_in
    from oodbench.benchmark.metrics.exact import aupr_out as aupr_out
    from oodbench.benchmark.metrics.exact import auroc as auroc
    from oodbench.benchmark.metrics.exact import detection_accuracy as detection_accuracy
    from oodbench.benchmark.metrics.exact import evaluate as evaluate
    from oodbench.benchmark.metrics.exact import tnr_at_tpr95 as tnr_at_tpr95
    from oodbench.benchmark.plugins.backbone import Backbone as Backbone
    from oodbench.benchmark.plugins.backbone import Pretrained as Pretrained
    from oodbench.benchmark.plugins.dataset import Dataset as Dataset
    from oodbench.benchmark.plugins.dataset import Form as Form
    from oodbench.benchmark.plugins.dataset import ImageSet as ImageSet
    from oodbench.benchmark.plugins.detector import Detector as Detector
    from oodbench.benchmark.plugins.figures import FigureInputs as FigureInputs
    from oodbench.benchmark.plugins.figures import Figures as Figures
    from oodbench.benchmark.plugins.figures import Picture as Picture
    from oodbench.benchmark.plugins.inputs import Batch as Batch
    from oodbench.benchmark.plugins.inputs import Classifier as Classifier
    from oodbench.benchmark.plugins.inputs import FitData as FitData
    from oodbench.benchmark.plugins.neighbours.largest import largest as largest
    from oodbench.benchmark.plugins.networks.calls import ModuleCall as ModuleCall
    from oodbench.benchmark.plugins.networks.calls import blocks_of as blocks_of
    from oodbench.benchmark.plugins.networks.calls import head_of as head_of
    from oodbench.benchmark.plugins.networks.calls import watched as watched
    from oodbench.benchmark.plugins.networks.found import FoundNetwork as FoundNetwork
    from oodbench.benchmark.plugins.networks.with_outputs import WithOutputs as WithOutputs
    from oodbench.benchmark.plugins.pictures import Preprocessing as Preprocessing
    from oodbench.benchmark.plugins.recipe import Head as Head
    from oodbench.benchmark.plugins.recipe import HeadData as HeadData
    from oodbench.benchmark.plugins.recipe import Recipe as Recipe
    from oodbench.benchmark.plugins.recipe import Task as Task
    from oodbench.benchmark.plugins.recipe import TrainBatch as TrainBatch
    from oodbench.benchmark.plugins.recipe import Training as Training
    from oodbench.benchmark.plugins.registry import backbone as backbone
    from oodbench.benchmark.plugins.registry import dataset as dataset
    from oodbench.benchmark.plugins.registry import detector as detector
    from oodbench.benchmark.plugins.registry import figure as figure
    from oodbench.benchmark.plugins.registry import form as form
    from oodbench.benchmark.plugins.registry import recipe as recipe
    from oodbench.benchmark.plugins.training_bank import unit as unit
    from oodbench.benchmark.records.record import Record as Record
    from oodbench.benchmark.runner.write_report import report as report
    from oodbench.benchmark.stages.models.outputs import Outputs as Outputs
    from oodbench.benchmark.stages.models.set_outputs import SetOutputs as SetOutputs
    from oodbench.benchmark.standalone.bundle.load import load_monitor as load_monitor
    from oodbench.benchmark.standalone.bundle.monitor import Monitor as Monitor
    from oodbench.benchmark.standalone.evaluation import Evaluation as Evaluation
    from oodbench.benchmark.standalone.fit import fit as fit
    from oodbench.benchmark.standalone.fitted import FittedDetector as FittedDetector
    from oodbench.benchmark.standalone.paired import PairedComparison as PairedComparison
    from oodbench.benchmark.standalone.paired import compare as compare
    from oodbench.benchmark.stats.intervals import confidence_intervals as confidence_intervals
    from oodbench.benchmark.verify.bundles.pack import bundle as bundle
    from oodbench.benchmark.verify.bundles.read import BundledRun as BundledRun
    from oodbench.benchmark.verify.bundles.read import read_bundle as read_bundle
    from oodbench.benchmark.verify.plugin_checks import check_detector as check_detector
    from oodbench.benchmark.verify.plugin_checks import run_checks as run_checks
    from oodbench.benchmark.views.plots.frames.functions import plot_bars as plot_bars
    from oodbench.benchmark.views.plots.frames.functions import plot_dots as plot_dots
    from oodbench.benchmark.views.plots.frames.functions import plot_heatmap as plot_heatmap
    from oodbench.benchmark.views.plots.frames.functions import plot_histograms as plot_histograms
    from oodbench.benchmark.views.plots.frames.functions import plot_multiples as plot_multiples
    from oodbench.benchmark.views.plots.frames.functions import plot_roc as plot_roc
    from oodbench.benchmark.views.run import Run as Run
    from oodbench.benchmark.views.run import read_run as read_run

_MODULES = {
    "api": ("run",),
    "errors": ("DataError", "OodbenchError"),
    "metrics.exact": ("aupr_in", "aupr_out", "auroc", "detection_accuracy", "evaluate", "tnr_at_tpr95"),
    "plugins.backbone": ("Backbone", "Pretrained"),
    "plugins.dataset": ("Dataset", "Form", "ImageSet"),
    "plugins.detector": ("Detector",),
    "plugins.figures": ("FigureInputs", "Figures", "Picture"),
    "plugins.inputs": ("Batch", "Classifier", "FitData"),
    "plugins.neighbours.largest": ("largest",),
    "plugins.networks.calls": ("ModuleCall", "blocks_of", "head_of", "watched"),
    "plugins.networks.found": ("FoundNetwork",),
    "plugins.networks.with_outputs": ("WithOutputs",),
    "plugins.pictures": ("Preprocessing",),
    "plugins.recipe": ("Head", "HeadData", "Recipe", "Task", "TrainBatch", "Training"),
    "plugins.registry": ("backbone", "dataset", "detector", "figure", "form", "recipe"),
    "plugins.training_bank": ("unit",),
    "records.record": ("Record",),
    "runner.write_report": ("report",),
    "stages.models.outputs": ("Outputs",),
    "stages.models.set_outputs": ("SetOutputs",),
    "standalone.evaluation": ("Evaluation",),
    "standalone.fit": ("fit",),
    "standalone.fitted": ("FittedDetector",),
    "standalone.bundle.load": ("load_monitor",),
    "standalone.bundle.monitor": ("Monitor",),
    "standalone.paired": ("PairedComparison", "compare"),
    "stats.intervals": ("confidence_intervals",),
    "views.plots.frames.functions": (
        "plot_bars",
        "plot_dots",
        "plot_heatmap",
        "plot_histograms",
        "plot_multiples",
        "plot_roc",
    ),
    "views.run": ("Run", "read_run"),
    "verify.bundles.pack": ("bundle",),
    "verify.bundles.read": ("BundledRun", "read_bundle"),
    "verify.plugin_checks": ("check_detector", "run_checks"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)

renamed.install()


def _same_rows_everywhere() -> None:
    """Let a row of a matrix product have the same bits wherever it stands in the matrix.

    On AMD processors it does not by default, in matrices of odd width, so that a score would depend on which images it
    is computed with. MKL's reproducible mode, which it reads before its first product, mends that at no cost
    (docs/performance.md). Intel processors, where no such row was noticed, keep their mode.
    """
    try:
        with Path("/proc/cpuinfo").open("rb") as file:
            processor = file.read(4096)
    except OSError:  # not Linux
        processor = platform.processor().encode()
    if b"AuthenticAMD" in processor:
        os.environ.setdefault("MKL_CBWR", "AUTO")


_same_rows_everywhere()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("oodbench")
    if name in renamed.NAMES:
        warn(f"oodbench.benchmark.{name} is now {renamed.NAMES[name]}", DeprecationWarning, stacklevel=2)
        name = renamed.NAMES[name]
    if name not in _HOME:
        raise AttributeError(f"module 'oodbench.benchmark' has no attribute '{name}'; it exports {', '.join(__all__)}")
    return getattr(import_module(f"oodbench.benchmark.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
