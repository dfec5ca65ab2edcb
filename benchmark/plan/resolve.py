"""Resolves names to plug-ins and data sets.

Something that the user named and that is unavailable is an error; the same met through 'all' is noted in the plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from oodbench.benchmark.data.channels import are_convertible, count_of
from oodbench.benchmark.data.fit_images import parse_fit
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.own_sets import adopt
from oodbench.benchmark.errors import OodbenchError, UserError, unknown
from oodbench.benchmark.plan.id_sets.parts import IDParts, parts_of
from oodbench.benchmark.plan.leakage import Leakage
from oodbench.benchmark.plan.plan import ALL, Absence, Plan, Request, Row
from oodbench.benchmark.plan.suite import IDEntry, OODEntry
from oodbench.benchmark.plan.suite_file import suite_that_runs_all
from oodbench.benchmark.plan.weights.given import Given
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.recipe import Recipe, fits_head
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import (
    DetectorSpec,
    SetSpec,
    Spec,
    canonical,
    create,
    parse_detector,
    parse_set,
    parse_spec,
)


class Resolver:
    """Resolves one request; what is unavailable is noted in the plan."""

    def __init__(self, request: Request, library: Library, plan: Plan, given: Given | None) -> None:
        self.request, self.library, self.plan, self.given = request, library, plan, given
        self.leakage = Leakage(library, plan, self.parts)

    @property
    def is_given(self) -> bool:
        """Whether weights are given and no recipe that was requested trains more than a head on what detectors see."""
        named = [parse_detector(name).recipe for name in self.request.detectors if name != ALL]
        named += [parse_spec(self.request.recipe)] if self.request.recipe else []
        return self.given is not None and all(fits_head(create("recipe", spec)) for spec in named if spec)

    def parts(self, spec: SetSpec) -> IDParts:
        """The parts of an ID set that the run uses."""
        known = self.plan.id_parts
        if str(spec) not in known:
            declared, request = self.plan.suite.entry(spec).fit, self.request
            fit = parse_fit(request.fit_from) if request.fit_from else declared
            pollution = self.plan.suite.pollution if request.pollution is None else request.pollution
            fit = replace(fit, per_class=request.fit_per_class or declared.per_class, pollution=pollution)
            known[str(spec)] = parts_of(spec, fit, self.library, self.is_given)
        return known[str(spec)]

    def detectors(self) -> Iterator[DetectorSpec]:
        """The requested detectors; 'all' leaves out, and notes, those that cannot be loaded."""
        for name in self.request.detectors:
            if name == ALL:
                yield from self.every_detector()
            else:
                yield parse_detector(name)

    def every_detector(self) -> list[DetectorSpec]:
        """All detectors that can be loaded: post-hoc ones first, then those that train their own classifier.

        Those that 'all' leaves out are named in a note, unless the request names them, or nothing is trained.
        """
        usable, left_out = [], []
        for entry in registry.entries("detector").values():
            if reason := entry.reason():
                self.plan.unavailable.append(Absence(entry.name, reason))
            elif not (entry.load().in_all or self.plan.suite.every_detector):
                left_out.append(entry.name)
            else:
                usable.append((entry.load().recipe is not None, entry.name))
        named = {parse_detector(name).detector.name for name in self.request.detectors if name != ALL}
        if (others := [name for name in left_out if name not in named]) and not self.is_given:
            full = suite_that_runs_all(self.plan.suite.name)
            suite = f", or choose --suite {full}" if full else ""
            self.note(f"Not part of 'all': {', '.join(others)}. Add them to --detectors by name{suite}.", len(others))
        return [DetectorSpec(Spec(name)) for _, name in sorted(usable)]

    def row(self, spec: DetectorSpec, entry: IDEntry) -> Row:
        """A detector with checked settings and its recipe.

        That is the one requested for it, else the detector's own, else the one requested for all, else the suite's.
        With given weights, and no recipe requested, they are evaluated as they are.
        """
        detector: Detector = create("detector", spec.detector)
        asked = parse_spec(self.request.recipe) if self.request.recipe and detector.recipe is None else None
        asked = spec.recipe or asked
        if self.given and asked is None and detector.recipe is None:
            first = self.given.imported(self.given.seeds[0])
            return Row(str(DetectorSpec(canonical(detector), self.given.label)), detector, first)
        default = Spec(detector.recipe or self.plan.suite.recipe)
        recipe = self.recipe(asked or default, entry)
        if not recipe.trains_classifier:
            where = "after the '@'" if spec.recipe else "for --recipe"
            raise UserError(f"Recipe '{recipe.name}' does not train a classifier. Choose another one {where}.")
        shown = self.recipe_label(recipe, entry)
        return Row(str(DetectorSpec(canonical(detector), None if shown == default else shown)), detector, recipe)

    def recipe(self, spec: Spec, entry: IDEntry) -> Recipe:
        """A recipe with the settings of its spec, and the suite's for an ID set where the spec gives none."""
        recipe: Recipe = create("recipe", spec, self.plan.suite.recipe_settings(spec.name, entry.set))
        return recipe

    def recipe_label(self, recipe: Recipe, entry: IDEntry) -> Spec:
        """A recipe as the user would type it under this suite: the settings that differ from the suite's."""
        suite_settings = self.recipe(Spec(recipe.name), entry).settings
        return Spec(recipe.name, tuple(sorted((k, v) for k, v in recipe.settings.items() if v != suite_settings[k])))

    def id_entries(self) -> list[IDEntry]:
        """The requested rows of the matrix whose ID set is available."""
        found = {}
        for name in self.request.id_sets:
            for spec in self.suite_id_sets() if name == ALL else [adopt(parse_set(name), role="id")]:
                if self.is_usable_id(spec, named=name != ALL):
                    found[spec] = self.plan.suite.entry(spec)
        return list(found.values())

    def suite_id_sets(self) -> list[SetSpec]:
        """The suite's ID sets: of one that replaces another, and that other one, the first that is available."""
        entries = self.plan.suite.entries
        replacing = {entry.set: entry.replaces for entry in entries if entry.replaces is not None}
        left_out = {spec if self.is_missing(spec) else replaced for spec, replaced in replacing.items()}
        return [entry.set for entry in entries if entry.set not in left_out]

    def is_missing(self, spec: SetSpec) -> bool:
        """Whether a set's files are not there; a set whose files cannot be read is reported when it is loaded."""
        try:
            return self.library.missing(spec) is not None
        except OodbenchError:
            return False

    def is_usable_id(self, spec: SetSpec, named: bool) -> bool:
        """Whether a set can be an ID set. Raises `UserError` where leaving it out would mislead."""
        if not all(self.is_available(spec, part, named) for part in self.required(spec)):
            return False
        if self.leakage.spoils_id(spec, named):
            return False
        entry = self.plan.suite.entry(spec)
        self.leakage.refuse_outliers(entry, spec, f"Choose other outliers for '{spec}', or another --id")
        self.leakage.note_outliers(entry)
        return True

    def required(self, spec: SetSpec) -> Iterator[str]:
        """The parts that an ID set cannot do without: with given weights, no training images."""
        if not self.is_given:
            yield "train"
        yield "test"
        yield from filter(None, (self.parts(spec).scored, self.parts(spec).train))

    def ood_entries(self, entry: IDEntry) -> list[OODEntry]:
        """The requested OOD sets that are available and suitable for one ID set."""
        known = {ood.set: ood for ood in entry.ood}
        found = {}
        for name in self.request.ood_sets:
            if name == ALL and not known:
                raise UserError(
                    f"Suite '{self.plan.suite.name}' has no OOD sets for '{entry.set}'. Name some with --ood, or with "
                    "--near and --far."
                )
            for spec in known if name == ALL else [adopt(parse_set(name))]:
                if self.is_usable(entry, spec, named=name != ALL):
                    found[spec] = known.get(spec, OODEntry(spec))
        for spec, group in self.grouped().items():
            if self.is_usable(entry, spec, named=True):
                found[spec] = OODEntry(spec, group)
        return list(found.values())

    def grouped(self) -> dict[SetSpec, str]:
        """The sets of --near and --far with their group. Raises `UserError` for one that is in both."""
        near, far = ([adopt(parse_set(name)) for name in names] for names in (self.request.near, self.request.far))
        for both in (spec for spec in near if spec in far):
            raise UserError(f"'{both}' is in both --near and --far. Leave it in one of them.")
        return {**dict.fromkeys(near, "near"), **dict.fromkeys(far, "far")}

    def is_usable(self, entry: IDEntry, ood: SetSpec, named: bool) -> bool:
        """Whether a set can be an OOD set of an ID set. Raises `UserError` where leaving it out would mislead."""
        refuse_overlap(entry.set, ood)
        self.refuse_same_distribution(entry.set, ood)
        if not self.is_available(ood, "test", named) or not self.has_same_shape(entry.set, ood, named):
            return False
        if self.leakage.spoils_ood(entry.set, ood, named):
            return False
        self.leakage.refuse_outliers(entry, ood, f"Choose another --ood for '{entry.set}'")
        return True

    def is_available(self, spec: SetSpec, part: str, named: bool) -> bool:
        """Whether a set can be loaded; if not, an error if the user named it, else a note."""
        for kind, name in [("dataset", spec.name), *(("form", form) for form in spec.forms)]:
            if name not in registry.entries(kind):
                what = "data set" if kind == "dataset" else kind
                raise unknown(what, name, registry.entries(kind), f"bench list {kind}s")
        try:
            self.library.part(spec, part)
        except UserError:
            raise
        except OodbenchError as error:
            if named:
                hint = " With given weights (--checkpoint), it needs none." if part == "train" else ""
                raise UserError(f"{error}{hint}") from error
            absence = Absence(str(spec), str(error))
            if absence not in self.plan.skipped:
                self.plan.skipped.append(absence)
            return False
        return True

    def has_same_shape(self, id_set: SetSpec, ood: SetSpec, named: bool) -> bool:
        """Whether the images of both sets have one shape; if not, an error if the user named `ood`, else a note."""
        shown = self.library.part(id_set, self.parts(id_set).shown)
        shapes = shown.image_shape, self.library.part(ood, "test").image_shape
        reason = shape_mismatch(id_set, shapes[0], ood, shapes[1])
        if reason and named:
            raise UserError(f"One network cannot process both sets: {reason}. Choose another --ood for '{id_set}'.")
        if reason:
            self.plan.skipped.append(Absence(str(ood), reason))
        return not reason

    def refuse_same_distribution(self, id_set: SetSpec, ood: SetSpec) -> None:
        """Raise `UserError` if an OOD set samples the ID set's distribution under another name."""
        known = all(spec.name in registry.entries("dataset") for spec in (id_set, ood))
        if known and id_set.name != ood.name and self.library.same_distribution(id_set, ood):
            raise UserError(
                f"'{ood}' cannot be an OOD set of '{id_set}': both sample one distribution. Choose another --ood."
            )

    def note(self, text: str, count: int) -> None:
        """Add a note about a number of things under the tables, once; none for 0."""
        self.leakage.note(text, count)


def refuse_overlap(id_set: SetSpec, ood: SetSpec) -> None:
    """Raise `UserError` if an OOD set is the ID set itself or has some of its classes."""
    both = id_set.classes is not None and ood.classes is not None
    shared = not both or bool(set(id_set.classes or ()) & set(ood.classes or ()))
    if id_set.name == ood.name and id_set.forms == ood.forms and shared:
        raise UserError(
            f"'{ood}' cannot be an OOD set of '{id_set}': they share images. Choose another --ood, or classes that "
            f"do not overlap, such as {id_set.name}[0-6] against {id_set.name}[7-9]."
        )


def shape_mismatch(
    id_set: SetSpec, id_shape: tuple[int, int, int], other: SetSpec, other_shape: tuple[int, int, int]
) -> str:
    """How the image shapes (C, H, W) of an ID set and another set differ; empty if one network can take both.

    Grey and colour images of one size can be converted into each other.
    """
    if id_shape[1:] == other_shape[1:] and are_convertible(other_shape[0], id_shape[0]):
        return ""
    texts = [f"{count_of(c)} of {h} x {w} pixels" for c, h, w in (other_shape, id_shape)]
    return f"the images of '{other}' have {texts[0]}, those of '{id_set}' {texts[1]}"
