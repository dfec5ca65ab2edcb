"""Names -> plug-ins and sets. What was named and is absent is an error; what 'all' meets and is absent is noted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from oodbench.benchmark.data.files.user_folder import adopt
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import OodbenchError, UserError, unknown
from oodbench.benchmark.plan.plan import ALL, Absence, Plan, Request, Row
from oodbench.benchmark.plan.suite import IDEntry, OODEntry
from oodbench.benchmark.plan.weights_file import IMPORTED, Imported
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.recipe import Recipe
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import DetectorSpec, SetSpec, Spec, canonical, create, parse_detector, parse_set
from oodbench.benchmark.store.atomic import slug

ACCIDENTAL = 0.01
"""Share of a set's test images that training may have seen, where two sets sample no common distribution: published
sets share single images (CIFAR-100 tests on one that CIFAR-10 trains on)."""


class Resolver:
    """Resolves one request; what is absent goes into the plan."""

    def __init__(self, request: Request, library: Library, plan: Plan, imported: Imported) -> None:
        self.request, self.library, self.plan, self.imported = request, library, plan, imported

    def detectors(self) -> Iterator[DetectorSpec]:
        """The detectors asked for; 'all' leaves out, and notes, what cannot be loaded."""
        for name in self.request.detectors:
            if name == ALL:
                yield from self.every_detector()
            else:
                yield parse_detector(name)

    def every_detector(self) -> list[DetectorSpec]:
        """All that can be loaded: post-hoc detectors first, then those that train their own classifier."""
        usable = []
        for entry in registry.entries("detector").values():
            if reason := entry.reason():
                self.plan.unavailable.append(Absence(entry.name, reason))
            else:
                usable.append((entry.load().recipe is not None, entry.name))
        return [DetectorSpec(Spec(name)) for _, name in sorted(usable)]

    def row(self, spec: DetectorSpec, entry: IDEntry) -> Row:
        """Settings checked, and the recipe: the one asked for, else the detector's, else the suite's."""
        detector: Detector = create("detector", spec.detector)
        if self.request.checkpoint and spec.recipe is None and detector.recipe is None:
            file = Spec(IMPORTED, (("file", slug(Path(self.request.checkpoint).name)),))
            return Row(str(DetectorSpec(canonical(detector), file)), detector, self.imported)
        default = Spec(detector.recipe or self.plan.suite.recipe)
        recipe = self.recipe(spec.recipe or default, entry)
        if not recipe.trains_classifier:
            raise UserError(f"Recipe '{recipe.name}' trains no classifier to score with. Choose another after the '@'.")
        shown = self.recipe_label(recipe, entry)
        return Row(str(DetectorSpec(canonical(detector), None if shown == default else shown)), detector, recipe)

    def recipe(self, spec: Spec, entry: IDEntry) -> Recipe:
        """A recipe with the suite's settings for an ID set beneath the given ones."""
        recipe: Recipe = create("recipe", spec, self.plan.suite.recipe_settings(spec.name, entry.set))
        return recipe

    def recipe_label(self, recipe: Recipe, entry: IDEntry) -> Spec:
        """A recipe as the user would type it under this suite: the settings that differ from the suite's."""
        usual = self.recipe(Spec(recipe.name), entry).settings
        return Spec(recipe.name, tuple(sorted((k, v) for k, v in recipe.settings.items() if v != usual[k])))

    def id_entries(self) -> list[IDEntry]:
        """The matrix rows asked for whose ID set is at hand."""
        found = {}
        for name in self.request.id_sets:
            for spec in [e.set for e in self.plan.suite.entries] if name == ALL else [adopt(parse_set(name))]:
                if all(self.is_available(spec, part, named=name != ALL) for part in ("train", "test")):
                    found[spec] = self.plan.suite.entry(spec)
        return list(found.values())

    def ood_entries(self, entry: IDEntry) -> list[OODEntry]:
        """The OOD sets asked for that are at hand, for one ID set."""
        known = {ood.set: ood for ood in entry.ood}
        found = {}
        for name in self.request.ood_sets:
            if name == ALL and not known:
                raise UserError(
                    f"Suite '{self.plan.suite.name}' has no OOD sets for '{entry.set}'. Name some with --ood."
                )
            for spec in known if name == ALL else [adopt(parse_set(name))]:
                refuse_overlap(entry.set, spec)
                self.refuse_family(entry.set, spec)
                if self.is_available(spec, "test", named=name != ALL) and self.alike(
                    entry.set, spec, named=name != ALL
                ):
                    if self.trained_on(entry.set, spec, named=name != ALL):
                        continue
                    self.refuse_seen(entry, spec)
                    found[spec] = known.get(spec, OODEntry(spec))
        return list(found.values())

    def is_available(self, spec: SetSpec, part: str, named: bool) -> bool:
        """Whether a set can be loaded; if not, an error for one that was named, a note for one met through 'all'."""
        for kind, name in [("dataset", spec.name), *(("form", form) for form in spec.forms)]:
            if name not in registry.entries(kind):
                what = "data set" if kind == "dataset" else kind
                raise unknown(what, name, registry.entries(kind), "bench list datasets")
        try:
            self.library.part(spec, part)
        except UserError:
            raise
        except OodbenchError as error:
            if named:
                raise UserError(str(error)) from error
            absence = Absence(str(spec), str(error))
            if absence not in self.plan.skipped:
                self.plan.skipped.append(absence)
            return False
        return True

    def alike(self, id_set: SetSpec, ood: SetSpec, named: bool) -> bool:
        """Whether one network takes the images of both; if not, an error for a set that was named, else a note."""
        shapes = self.library.part(id_set, "train").image_shape, self.library.part(ood, "test").image_shape
        reason = unlike(id_set, shapes[0], ood, shapes[1])
        if reason and named:
            raise UserError(f"One network cannot take both: {reason}. Choose another --ood for '{id_set}'.")
        if reason:
            self.plan.skipped.append(Absence(str(ood), reason))
        return not reason

    def refuse_family(self, id_set: SetSpec, ood: SetSpec) -> None:
        """A part of the ID set's own distribution under another name is no OOD set either."""
        known = all(spec.name in registry.entries("dataset") for spec in (id_set, ood))
        if known and id_set.name != ood.name and self.library.same_distribution(id_set, ood):
            raise UserError(
                f"'{ood}' cannot be an OOD set of '{id_set}': both sample one distribution. Choose another --ood."
            )

    def trained_on(self, id_set: SetSpec, ood: SetSpec, named: bool) -> bool:
        """Whether a set's test images are ID training images: an error for one that was named, else a note.

        Published sets share single images by accident; up to `ACCIDENTAL` of them is told under the tables.
        """
        shared = self.library.shared_images(id_set, ood)
        images = len(self.library.part(ood, "test"))
        told = f"{shared:,} of {images:,} test images of '{ood}' are training images of '{id_set}'"
        if shared <= ACCIDENTAL * images:
            self.note(f"{told}, by accident: the sets share them.", shared)
            return False
        if named:
            raise UserError(f"{told}. Choose another --ood for '{id_set}'.")
        self.plan.skipped.append(Absence(str(ood), told))
        return True

    def refuse_seen(self, entry: IDEntry, ood: SetSpec) -> None:
        """Test images that training may see are no test images: an error between two sets, a note within one."""
        if entry.outliers is None:
            return
        try:
            shared = self.library.shared_images(entry.outliers, ood)
        except OodbenchError:
            return  # outliers that are not at hand are told where they are needed
        told = f"{shared:,} test images of '{ood}' are among the outliers '{entry.outliers}' that training may see"
        if ood.name == entry.outliers.name:
            self.note(f"{told}: they are repeated in the set.", shared)
            return
        accidental = 0.0 if self.library.same_distribution(entry.outliers, ood) else ACCIDENTAL
        if shared > accidental * len(self.library.part(ood, "test")):
            raise UserError(f"{told}. Choose another --ood for '{entry.set}'.")
        self.note(f"{told}, by accident: the sets share them.", shared)

    def note(self, told: str, count: int) -> None:
        """Have a count said under the tables, once, unless it is 0."""
        if count and told not in self.library.notes:
            self.library.notes.append(told)


def refuse_overlap(id_set: SetSpec, ood: SetSpec) -> None:
    """An ID set cannot be its own OOD set, nor can a set that holds some of its classes."""
    both = id_set.classes is not None and ood.classes is not None
    shared = not both or bool(set(id_set.classes or ()) & set(ood.classes or ()))
    if id_set.name == ood.name and id_set.forms == ood.forms and shared:
        raise UserError(
            f"'{ood}' cannot be an OOD set of '{id_set}': they share images. Choose another --ood, or classes that "
            f"do not overlap, such as {id_set.name}[0-6] against {id_set.name}[7-9]."
        )


def unlike(id_set: SetSpec, shape: tuple[int, int, int], other: SetSpec, its: tuple[int, int, int]) -> str:
    """What a network for the one set's images, of `shape` (C, H, W), finds wrong with the other's; empty if nothing."""
    told = [f"{c} channel{'s' * (c != 1)} of {h} x {w} pixels" for c, h, w in (its, shape)]
    return "" if its == shape else f"the images of '{other}' have {told[0]}, those of '{id_set}' {told[1]}"
