"""A bundle's network and score as one graph: torch.export, and from that ONNX.

The graph holds what `Scorer` does with images of the network's size: the network in float32, logits taken to float64,
the detector's own `score`, and the comparison with the threshold. Detectors whose score is made of tensor operations
can be written so; others are refused with the reason.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.benchmark.errors import PluginError, UserError
from oodbench.benchmark.plugins.detector import Detector, reduces
from oodbench.benchmark.plugins.inputs import NAMED, Batch, Classifier
from oodbench.benchmark.plugins.training_bank import TrainingBank, unit
from oodbench.benchmark.records.record import NO_CLASSIFIER
from oodbench.benchmark.standalone.bundle import file
from oodbench.benchmark.standalone.bundle.contents import Bundle
from oodbench.benchmark.standalone.bundle.scoring import Scorer, probe_images
from oodbench.benchmark.store import atomic

logger = logging.getLogger(__name__)

FLOAT32, UINT8 = INPUTS = ("float32", "uint8")
"""What a graph takes: float32 in [0, 1], or uint8 from 0 to 255."""

OUTPUTS = ("score", "accepted", "predicted", "logits")

OPSET = 18

USUAL, MOST = 1e-5, 1e-3
"""By how much scores of the graph usually differ at most from the monitor's, and by how much they may, relative to the
spread of the validation scores, or to the score itself if that is larger: the network's own rounding, amplified by the
detector. More than `USUAL` is said."""

MOST_IMAGES = 1 << 16
"""Images that a graph takes in one call."""


class InService(Protocol):
    """What is written: a `Monitor`, of which this module reads no more."""

    bundle: Bundle
    scorer: Scorer
    threshold: float
    tpr: float

    @property
    def name(self) -> str:
        """The detector with its settings."""
        ...

    @property
    def spread(self) -> float:
        """The spread of the validation scores."""
        ...


class ScoreGraph(nn.Module):
    """Images (N, C, H, W) -> score float64 (N,), accepted bool (N,), predicted int64 (N,), logits float32 (N, K)."""

    def __init__(self, monitor: InService, takes: str) -> None:
        super().__init__()
        scorer = monitor.scorer
        self.network, self.takes = scorer.classifier.network, takes
        self.classifier: Classifier = scorer.classifier
        self.detector: Detector = scorer.detector
        self.stored = scorer.arithmetic.features
        self.bank = None if scorer.bank is None else _directions(scorer.bank)
        self.threshold = monitor.threshold

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Score images."""
        pixels = images.float() / 255 if self.takes == UINT8 else images
        parts: dict[str, Callable[[slice], Tensor]] = {}
        if reduces(self.detector):
            passed = self.classifier.forward_with_maps(pixels)
            features, logits = passed.features, passed.logits
            maps = self.detector.reduce(passed.maps, features, logits).float()
            parts["maps"] = lambda rows: maps
        else:
            features = self.classifier.features(pixels)
            logits = self.classifier.head(features)
        if reads := self.detector.reads:
            outputs = self.classifier.outputs(features)
            parts |= {NAMED + name: _given(outputs[name].double()) for name in sorted(reads)}
        kept = features if self.stored == FLOAT32 else features.half().float()
        inputs = {"logits": logits.double(), "features": kept}
        if self.bank is not None:
            inputs["similarities"] = unit(kept).float() @ self.bank.T
        parts |= {name: _given(value) for name, value in inputs.items() if name in self.detector.needs}
        score = self.detector.score(Batch(images.shape[0], parts, self.detector.name))
        return score, score <= self.threshold, logits.argmax(dim=1), logits


def _given(value: Tensor) -> Callable[[slice], Tensor]:
    return lambda rows: value


def _directions(bank: TrainingBank) -> Tensor:
    """Unit vectors of the bank's features, float32 (B, D)."""
    return unit(bank.features(torch.arange(len(bank)))).float()


def exported(monitor: InService, takes: str = FLOAT32) -> torch.export.ExportedProgram:
    """The graph of a monitor, as torch.export makes it, for any number of images.

    Raises `UserError` if the detector's score is not made of tensor operations alone.
    """
    _refuse_inputs(monitor)
    shape = monitor.bundle.input.shape
    example = torch.zeros(3, *shape) if takes == FLOAT32 else torch.zeros(3, *shape, dtype=torch.uint8)
    count = torch.export.Dim("N", min=1, max=MOST_IMAGES)
    try:
        with _quiet():
            return torch.export.export(ScoreGraph(monitor, takes).eval(), (example,), dynamic_shapes=({0: count},))
    except Exception as error:  # torch.export and plug-ins raise anything
        raise UserError(
            f"'{monitor.name}' cannot be written as a graph, because its score is not made of tensor operations alone "
            f"({_why(error)}). 'bench score' and load_monitor() score with it."
        ) from error


def write_onnx(monitor: InService, path: Path, takes: str = FLOAT32, overwrite: bool = False) -> float | None:
    """Write a monitor's network, score and threshold as one ONNX graph.

    Args:
        monitor: The monitor, whose network is on the CPU.
        path: The file.
        takes: One of `INPUTS`.
        overwrite: Whether an existing file is replaced.

    Returns:
        The largest difference between scores of the graph in onnxruntime and the monitor's (`largest_difference`); None
        if onnxruntime is not installed.

    Raises:
        UserError: The detector cannot be written, packages are missing, or the file exists.
    """
    if takes not in INPUTS:
        raise UserError(f"A graph takes images as {' or '.join(INPUTS)}, not as '{takes}'.")
    file.refuse_existing(path, overwrite)
    for package in ("onnx", "onnxscript"):
        _require(package)
    program = exported(monitor, takes)
    try:
        with _quiet():
            converted: Any = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=list(OUTPUTS),
            )
            model = converted.model_proto
    except Exception as error:  # the exporter raises anything
        raise UserError(f"'{monitor.name}' cannot be converted to ONNX ({_why(error)}).") from error
    for name, text in _about(monitor, takes).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, text
    content: bytes = model.SerializeToString()
    difference = largest_difference(monitor, content, takes)
    if difference is not None and not difference <= MOST:
        raise PluginError(
            f"The ONNX graph of '{monitor.name}' scores images differently from the detector, by {difference:.2g} of "
            f"the scores' spread where {MOST:g} is allowed, so that it was not written."
        )
    if difference is not None and difference > USUAL:
        logger.warning(f"Scores of the ONNX graph differ from the detector's by {difference:.2g} of their spread.")
    atomic.write_atomically(path, content, "--onnx")
    return difference


def largest_difference(monitor: InService, content: bytes, takes: str) -> float | None:
    """The largest difference between scores of an ONNX graph and a monitor's, on the bundle's images of noise.

    Relative to the spread of the validation scores, or to the score if that is larger. None without onnxruntime.
    """
    try:
        runtime: Any = importlib.import_module("onnxruntime")
    except ImportError:
        return None
    images = probe_images(monitor.bundle.input.shape)
    given = images if takes == UINT8 else images.astype(np.float32) / np.float32(255)
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (scores,) = session.run(["score"], {"images": given})
    expected = monitor.scorer(images).scores
    return float((np.abs(scores - expected) / np.maximum(monitor.spread, np.abs(expected))).max())


def _refuse_inputs(monitor: InService) -> None:
    """Raise `UserError` for detectors whose score needs more than what one pass of the network gives."""
    needs = monitor.scorer.detector.needs
    reasons = {"network": "it runs the network itself", "images": "it reads pixels"}
    if found := [reason for name, reason in reasons.items() if name in needs]:
        raise UserError(
            f"'{monitor.name}' cannot be written as a graph: {found[0]}. 'bench score' and load_monitor() score with "
            "it."
        )
    if not monitor.scorer.gives_logits:
        raise UserError(
            f"'{monitor.name}' cannot be written as a graph: a graph gives predicted classes, and recipe "
            f"'{monitor.bundle.recipe}' {NO_CLASSIFIER}. 'bench score' and load_monitor() score with it."
        )
    if monitor.scorer.device.type != "cpu":
        raise UserError("A graph is made on the CPU; load the monitor with device='cpu'.")


def _about(monitor: InService, takes: str) -> dict[str, str]:
    """What an ONNX file says about itself."""
    bundle = monitor.bundle
    return {
        "oodbench_detector": monitor.name,
        "oodbench_id_set": bundle.id_set,
        "oodbench_threshold": repr(monitor.threshold),
        "oodbench_tpr": repr(monitor.tpr),
        "oodbench_images": f"{takes}, (N, {', '.join(map(str, bundle.input.shape))})",
        "oodbench_preprocessing": str(bundle.input.preprocessing or "none"),
        "oodbench_classes": json.dumps(bundle.class_names),
        "oodbench_run": str(bundle.provenance.get("run", "")),
    }


def _require(package: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"--onnx needs the package {package}: pip install 'oodbench[onnx]'.") from error


def _why(error: BaseException) -> str:
    """Why torch cannot export or convert a score, as a clause."""
    texts: list[str] = []
    while error is not None and len(texts) < 10:
        texts.append(str(error))
        error = error.__cause__  # type: ignore[assignment]
    whole = "\n".join(texts)
    if found := re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", whole):
        return f"ONNX has no operator for {found[1]}"
    if "Constraints violated" in whole:
        return "its code takes the number of images as a number, as len(tensor) does, and shape[0] would not"
    if ".numpy()" in whole:
        return "it computes with NumPy"
    if "data-dependent" in whole or "DataDependent" in whole:
        return "it branches on values"
    if "asked for the bank" in whole:
        return "it reads the bank of training images"
    first = re.sub(r"\x1b\[[0-9;]*m", "", texts[0]).strip().partition("\n")[0]
    return first.rstrip(".: ")[:200] or "the exporter gives no reason"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which prints and warns about itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
