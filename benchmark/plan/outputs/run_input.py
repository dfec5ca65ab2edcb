"""What a run starts from: a suite of images, or outputs and scores that the user gives; `read_input` decides."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.outputs.data_sets import GivenSets, GivenSource, register_given
from oodbench.benchmark.data.pictures.view import PictureView
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.cells.tuning_sources import NO_PIXELS
from oodbench.benchmark.plan.outputs.attached import AttachedPlanner
from oodbench.benchmark.plan.outputs.planner import OutputsPlanner
from oodbench.benchmark.plan.picture_view import picture_view
from oodbench.benchmark.plan.plan import Plan, Request
from oodbench.benchmark.plan.planner import make_plan, new_plan, refuse_empty
from oodbench.benchmark.plan.precision import FLOAT32
from oodbench.benchmark.plan.suite import IDEntry, OODEntry, Suite
from oodbench.benchmark.plan.suite_file import default_suite, read_suite
from oodbench.benchmark.plan.tuning_protocols import LEAVE_ONE_OUT, VAL_ID, VAL_OOD
from oodbench.benchmark.plan.weights.file import OUTPUTS

OF_NETWORKS = (
    *("backbone", "checkpoint", "recipe", "epochs", "limit_train", "head", "precision", "store_features", "block"),
    *("classes", "resize", "crop", "interpolation", "mean", "std", "exif", "pollution"),
)
"""Fields of a request about networks and images, which are not there."""

OF_ARRAYS = ("fit_from", "fit_per_class", "protocol")
"""Fields about what detectors learn from, which scores alone do not have."""


class RunInput(NamedTuple):
    """A suite, with the given sets if there are some."""

    request: Request
    suite: Suite
    sets: GivenSets | None = None

    def view(self, pixel_cache: float) -> PictureView:
        """How the run reads pictures."""
        has_images = self.sets is None or self.is_attached
        return picture_view(self.request, self.suite, pixel_cache) if has_images else PictureView()

    @property
    def is_attached(self) -> bool:
        """Whether scores are given of the images of a suite."""
        return bool(self.sets and self.request.suite)

    def plan(self, library: Library, device: torch.device) -> Plan:
        """Lay out the work."""
        if self.sets is None:
            return make_plan(self.request, library, device)
        plan = new_plan(self.request, self.suite, device)
        if self.is_attached:
            AttachedPlanner(self.request, library, plan, self.sets).fill()
            return plan
        OutputsPlanner(self.request, library, plan, self.sets).fill()
        refuse_empty(plan)
        return plan


def read_input(request: Request) -> RunInput:
    """Read a run's suite or open the arrays that it is given. Raises `UserError` for options that do not fit these."""
    if not (request.outputs or request.scores):
        if request.higher:
            raise UserError("--higher says what higher scores mean, so it needs --scores or --outputs. Leave it out.")
        return RunInput(request, read_suite(request.suite or default_suite()))
    if request.scores and request.suite and not request.outputs:
        suite = read_suite(request.suite)
        return RunInput(request, suite, register_given(GivenSource((), request.scores, request.higher)))
    _refuse_unused(request)
    sets = register_given(GivenSource(request.outputs, request.scores, request.higher))
    return RunInput(request, given_suite(sets), sets)


def given_suite(sets: GivenSets) -> Suite:
    """The matrix of a run on given sets."""
    given = sets.first
    ood = tuple(OODEntry(spec, given.groups.get(name, "")) for name, spec in sets.ood_sets.items())
    what = "outputs" if sets.source.outputs else "scores"
    notes = [*given.notes]
    if given.preprocessing:
        notes.insert(0, f"Images became the network's input outside of oodbench, as stated: {given.preprocessing}.")
    return Suite(
        name=given.title,
        title=f"{what} given in '{Path(given.source).name}'",
        backbone="",
        recipe=OUTPUTS,
        entries=(IDEntry(sets.id_set, ood),),
        notes=tuple(notes),
        precision=FLOAT32,
        stability=False,
    )


def _refuse_unused(request: Request) -> None:
    """Raise `UserError` for options that given arrays leave no use for."""
    what = "--outputs" if request.outputs else "--scores"
    unused = [*OF_NETWORKS, "suite", *(() if request.outputs else OF_ARRAYS)]
    options = [f"--{name.replace('_', '-')}" for name in unused if getattr(request, name)]
    if options:
        raise UserError(
            f"{what} gives {'outputs of a network' if request.outputs else 'scores'}, and no images or weights, so "
            f"leave out {' and '.join(options)}."
        )
    if request.protocol == VAL_ID:
        raise UserError(NO_PIXELS)
    if request.protocol == VAL_OOD:
        raise UserError(
            f"--protocol {VAL_OOD} chooses settings on images of a further OOD set, of which no outputs are given. Use "
            f"{LEAVE_ONE_OUT}, or leave it out."
        )
    if len(request.outputs) > 1 and len(request.outputs) != len(request.seeds):
        raise UserError(
            f"--outputs gives {len(request.outputs)} folders, one for each seed, so leave out --seeds or give "
            f"{len(request.outputs)} in place of {len(request.seeds)}."
        )
    if len(request.outputs) == 1 and len(request.seeds) > 1:
        raise UserError(
            f"--outputs gives one network, so give one seed in place of {len(request.seeds)}, or a folder for each."
        )
    if len(set(request.outputs)) < len(request.outputs):
        raise UserError("--outputs gives a folder twice, and every folder counts as a network of its own.")
