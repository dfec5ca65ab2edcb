"""Which parts of an ID set a run uses: what is scored, and what networks and detectors learn from.

With networks to train, an ID set needs a training split. With weights that are given, it may do without: detectors then
learn from the validation split, or a part of the test split that is not scored, if that is declared; else those that
learn are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oodbench.benchmark.data.fit_images import ALL_TRAINING, FitImages
from oodbench.benchmark.data.library import VALIDATION, Library
from oodbench.benchmark.errors import OodbenchError, UserError
from oodbench.benchmark.plugins.specs import SetSpec


@dataclass(frozen=True)
class IDParts:
    """The parts of one ID set, by the names that `Library.part` takes."""

    set: SetSpec
    fit: FitImages = ALL_TRAINING
    missing: str = ""
    """Why the training split cannot be used; empty if it can, or need not be."""
    trains: bool = True
    """Whether the training split is used."""
    whole: bool = True
    """Whether all of it is, and not only those of its images that detectors are fitted on: reading the 1.28 million of
    ImageNet takes hours."""
    validates: bool = False
    """Whether there is a validation split that is not carved out of the training split."""

    @property
    def can_fit(self) -> bool:
        """Whether there are images that detectors can learn from."""
        return self.trains or self.fit.val or bool(self.fit.held_out)

    @property
    def scored(self) -> str:
        """The ID test images that are scored."""
        return self.fit.part("scored") if self.fit.held_out else "test"

    @property
    def changed(self) -> str:
        """The same images, slightly changed."""
        return self.fit.part("changed")

    @property
    def train(self) -> str:
        """What detectors are fitted on; empty if there is nothing."""
        return self.fit.part("train") if self.can_fit else ""

    @property
    def training(self) -> str:
        """What networks are trained on."""
        return FitImages(pollution=self.fit.pollution).part("train")

    @property
    def validation(self) -> str:
        """What detectors calibrate on, and what settings are chosen on; empty if there is nothing."""
        return self.fit.part("validation") if self.can_fit else "validation" if self.validates else ""

    @property
    def seen(self) -> tuple[tuple[str, str], ...]:
        """What networks or detectors learn from, as a part and in words; no scored image should be among it."""
        training = "outliers" if self.whole else self.fit.part("fitted")
        found = [(training, f"training images of '{self.set}'")] if self.trains else []
        if self.fit.pollution:
            found.append((self.training, f"images of other classes in the training images of '{self.set}'"))
        if self.fit.held_out or self.fit.val:
            found.append((self.fit.part("fitted"), f"images of '{self.set}' that detectors are fitted on"))
        return tuple(found)

    @property
    def shown(self) -> str:
        """The part that says what the set's images look like: the training split if it is used."""
        if not self.trains:
            return self.scored
        return "train" if self.whole else self.train

    @property
    def unused(self) -> str:
        """The split that is not used; empty if all are."""
        return "" if self.trains else "train"

    def shifted(self, form: SetSpec) -> str:
        """The part of a shifted set that is scored: of a form of the ID set, that of the set itself."""
        return self.scored if form.name == self.set.name else "test"

    @property
    def hint(self) -> str:
        """What to declare so that detectors have something to learn from, as a phrase."""
        if self.validates:
            return 'its validation split serves with --fit-from val, or fit = "val" in the suite'
        return "--fit-from 0.2, or fit = 0.2 in the suite, holds out test images for that"

    def cannot_learn(self) -> str:
        """Why no detector can learn from the set's images, as a phrase; empty if detectors can."""
        return "" if self.can_fit else f"it learns from training images, and '{self.set}' has none: {self.hint}"

    def cannot_validate(self) -> str:
        """Why no settings can be chosen on the set's images, as a phrase; empty if they can."""
        if self.can_fit:
            return ""
        if self.validates:
            return (
                f"its settings are chosen on validation images of what detectors learn from, and '{self.set}' has no "
                f"training images; {self.hint}"
            )
        return f"its settings are chosen on validation images, and '{self.set}' has none: {self.hint}"

    def cannot_train(self, recipe: str) -> str:
        """Why a recipe cannot train on the set, as a phrase; empty if it can."""
        if self.trains:
            return ""
        why = f": {self.missing}" if self.missing else ", as its training split is not used with given weights"
        return f"recipe '{recipe}' trains on '{self.set}', which has no training images{why}"


def parts_of(spec: SetSpec, fit: FitImages, library: Library, is_given: bool) -> IDParts:
    """The parts of an ID set that a run uses.

    Args:
        spec: The ID set.
        fit: What its suite or the command line declares.
        library: Loads the sets.
        is_given: Whether the weights are given, so that no network needs training images.

    Raises:
        UserError: The set cannot be an ID set.
    """
    validates = library.has(spec, VALIDATION)
    if fit.pollution and (is_given or fit.held_out or fit.val):
        raise UserError(
            f"'{spec}' cannot be polluted where detectors learn from other images than the training split, or weights "
            "are given. Leave out --pollution and the suite's pollution."
        )
    if is_given and (fit.held_out or fit.val):
        return IDParts(spec, fit, trains=False, validates=validates)
    try:
        library.part(spec, "train")
    except UserError:
        raise
    except OodbenchError as error:
        if is_given and library.part(spec, "test").labels is None:
            problem = f"'{spec}' has no labels, so it cannot be an ID set. Choose a labelled set for --id."
            raise UserError(problem) from None
        return IDParts(spec, fit, missing=str(error), trains=False, validates=validates)
    return IDParts(spec, fit, whole=not (is_given and fit.per_class), validates=validates)


def recorded(parts: IDParts, library: Library) -> dict[str, Any]:
    """What a record says of the images that detectors learn from; empty for all of the training split."""
    fit = parts.fit
    if not parts.can_fit or fit == ALL_TRAINING:
        return {}
    images, validation = (len(library.part(parts.set, part)) for part in (parts.train, parts.validation))
    share = {"share": fit.held_out} if fit.held_out else {}
    capped = {"per_class": fit.per_class} if fit.per_class else {}
    others = {"pollution": fit.pollution} if fit.pollution else {}
    split = "test" if fit.held_out else "val" if fit.val else "train"
    return {"split": split, **share, **capped, **others, "images": images, "validation": validation}


def fit_notes(parts: IDParts, library: Library) -> list[str]:
    """Notes under the tables on what detectors learn from; none for all of the training split."""
    name, fit = parts.set, parts.fit
    if not parts.can_fit:
        return [f"'{name}' has no training images, so that detectors that learn from them are left out: {parts.hint}."]
    if not (facts := recorded(parts, library)):
        return []
    capped = f", at most {fit.per_class:,} of each class" if fit.per_class else ""
    split = {"train": "training", "val": "validation", "test": "test"}[facts["split"]]
    learnt = f"{facts['images']:,} and, for validation, {facts['validation']:,} images{capped}"
    text = f"Detectors are fitted on {learnt}, of the {split} split of '{name}'"
    if fit.pollution:
        others = round(fit.pollution * facts["images"])
        text = (
            f"{text}; {others:,} of the former are of its other classes (pollution {fit.pollution:g}), for networks too"
        )
    if not fit.held_out:
        return [f"{text}."]
    scored, test = len(library.part(name, parts.scored)), len(library.part(name, "test"))
    return [f"{text}, which are not scored: tables are about the other {scored:,} of {test:,} test images."]
