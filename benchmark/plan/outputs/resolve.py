"""Resolves the names of a run on given outputs: sets by what the user calls them, detectors without recipes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from oodbench.benchmark.data.fit_images import ALL_TRAINING, parse_fit
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.outputs.data_sets import GivenSets
from oodbench.benchmark.data.outputs.given import TRAIN, VAL
from oodbench.benchmark.errors import UserError, unknown
from oodbench.benchmark.plan.id_sets.parts import IDParts
from oodbench.benchmark.plan.outputs.network import GivenOutputsRecipe
from oodbench.benchmark.plan.plan import ALL, Plan, Request, Row
from oodbench.benchmark.plan.resolve import Resolver
from oodbench.benchmark.plan.suite import IDEntry, OODEntry
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.specs import DetectorSpec, SetSpec, canonical, create

HINT = "bench outputs check DIR"


class OutputsResolver(Resolver):
    """Resolves one request on given outputs."""

    def __init__(self, request: Request, library: Library, plan: Plan, sets: GivenSets) -> None:
        super().__init__(request, library, plan, None)
        self.sets = sets

    @property
    def is_given(self) -> bool:
        """True, as no network is trained."""
        return True

    def detectors(self) -> Iterator[DetectorSpec]:
        """The requested detectors; none by default where only scores are given."""
        if self.sets.source.outputs or self.request.detectors != (ALL,):
            yield from super().detectors()

    def row(self, spec: DetectorSpec, entry: IDEntry) -> Row:
        """A detector with checked settings; the recipe says whose outputs it scores."""
        detector: Detector = create("detector", spec.detector)
        if spec.recipe:
            raise UserError(f"Given outputs come from a trained network, so leave out '@{spec.recipe}' of '{spec}'.")
        return Row(str(canonical(detector)), detector, GivenOutputsRecipe())

    def parts(self, spec: SetSpec) -> IDParts:
        """The parts of the ID set: those that the user gives, or holds out of the test images."""
        known = self.plan.id_parts
        if str(spec) not in known:
            known[str(spec)] = self._parts(spec)
        return known[str(spec)]

    def _parts(self, spec: SetSpec) -> IDParts:
        given, request = self.sets.first, self.request
        fit = parse_fit(request.fit_from, request.fit_per_class) if request.fit_from else ALL_TRAINING
        fit = parse_fit("train", request.fit_per_class) if fit == ALL_TRAINING and request.fit_per_class else fit
        if fit.val and VAL not in given.id:
            raise UserError(f"--fit-from val needs id_val, which '{given.source}' does not have. Leave it out.")
        source = given.id["test" if fit.held_out else VAL if fit.val else TRAIN] if fit.val or fit.held_out else None
        source = source or given.id.get(TRAIN)
        if (fit.held_out or fit.per_class) and source is not None and source.labels is None:
            option = "--fit-from" if fit.held_out else "--fit-per-class"
            raise UserError(
                f"{option} chooses images of each class, and '{given.source}' has no labels of them. Leave it out, or "
                "add labels."
            )
        validates = VAL in given.id or TRAIN in given.id
        if fit.held_out or fit.val:
            return IDParts(spec, fit, trains=False, validates=validates)
        if TRAIN not in given.id:
            return IDParts(spec, fit, missing="there is no id_train", trains=False, validates=validates)
        return IDParts(spec, fit, whole=not fit.per_class, validates=validates)

    def id_entries(self) -> list[IDEntry]:
        """The ID set, whose name `--id` may repeat."""
        own = self.sets.first.id_set
        for name in self.request.id_sets:
            if name not in (ALL, own):
                raise unknown("ID set of the given arrays:", name, [own], HINT)
        return [self.plan.suite.entry(self.sets.id_set)]

    def ood_entries(self, entry: IDEntry) -> list[OODEntry]:
        """The requested OOD sets among the given ones."""
        groups = self.sets.first.groups
        names = [own for name in self.request.ood_sets for own in (self.sets.ood_sets if name == ALL else [name])]
        found = {own: OODEntry(self._known(own), groups.get(own, "")) for own in names}
        for name in self.request.near:
            if name in self.request.far:
                raise UserError(f"'{name}' is in both --near and --far. Leave it in one of them.")
        for group, wanted in (("near", self.request.near), ("far", self.request.far)):
            found |= {name: OODEntry(self._known(name), group) for name in wanted}
        return [found[name] for name in _in_order(found, self.sets.ood_sets)]

    def _known(self, name: str) -> SetSpec:
        if name not in self.sets.ood_sets:
            raise unknown("OOD set of the given arrays:", name, self.sets.ood_sets, HINT)
        return self.sets.ood_sets[name]


def _in_order(names: Iterable[str], order: Iterable[str]) -> list[str]:
    wanted = set(names)
    return [name for name in order if name in wanted]
