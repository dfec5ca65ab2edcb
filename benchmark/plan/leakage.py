"""Searches the images of a plan for exact copies between splits, before any work.

Test images, ID or OOD, that training, outliers or tuning also use are refused; so are ID test images in an OOD set of
another name. Up to a share of `ACCIDENTAL` is noted under the tables instead. What spoils no test image, such as
training images among the validation images, is noted whatever its share. Near-duplicates are counted when the run
starts (`runner.near_duplicates`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import OodbenchError, UserError, counted
from oodbench.benchmark.plan.id_sets.parts import IDParts
from oodbench.benchmark.plan.plan import Absence, Plan
from oodbench.benchmark.plan.suite import IDEntry
from oodbench.benchmark.plan.tuning_protocols import VAL_OOD
from oodbench.benchmark.plugins.specs import SetSpec
from oodbench.benchmark.records.record import WARNING

logger = logging.getLogger(__name__)

ACCIDENTAL = 0.01
"""Largest share of a set's test images that may be copies of others.

Published sets share single images by accident: one test image of CIFAR-100 is a training image of CIFAR-10.
"""

ACCIDENT, REPEATED = "by accident: the sets share them.", "they are repeated in the set."
"""Ends of the notes on few copies: between two sets, and within one."""


@dataclass(frozen=True)
class Copies:
    """Images of a part that are also in another part, equal in every pixel."""

    count: int
    images: int
    """Size of the part."""

    def exceed(self, share: float) -> bool:
        """Whether there are more than this share of the part."""
        return self.count > share * self.images


class Leakage:
    """The search for one plan; notes and what is left out are added to the plan and its library."""

    def __init__(self, library: Library, plan: Plan, parts: Callable[[SetSpec], IDParts]) -> None:
        self.library, self.plan = library, plan
        self.parts = parts
        """Returns the parts of an ID set that the run uses."""

    def copies(self, seen: SetSpec, tested: SetSpec, seen_as: str = "outliers", tested_as: str = "test") -> Copies:
        """The images of a part of `tested` that are in a part of `seen`; by default, of test in the training split."""
        shared = self.library.shared_images(seen, tested, seen_as, tested_as)
        return Copies(shared, len(self.library.part(tested, tested_as)))

    def spoils_id(self, id_set: SetSpec, named: bool) -> bool:
        """Whether an ID set's test images are its training images; if so, an error if the user named it, else a note.

        Validation images that are training images are noted.
        """
        parts = self.parts(id_set)
        for part, what in parts.seen:
            found = self.copies(id_set, id_set, part, parts.scored)
            finding = f"{found.count:,} of {found.images:,} test images of '{id_set}' are {what}"
            if found.exceed(ACCIDENTAL):
                return self.leave_out(id_set, finding, "Remove them from one split, or choose another --id", named)
            self.note(f"{finding}: {REPEATED}", found.count)
        if not parts.can_fit:
            return False
        held_out = self.copies(id_set, id_set, parts.train, parts.validation)
        self.note(
            f"{held_out.count:,} of {held_out.images:,} validation images of '{id_set}' are training images of "
            f"'{id_set}': what is chosen or measured on them looks better than it is.",
            held_out.count,
        )
        return False

    def spoils_ood(self, id_set: SetSpec, ood: SetSpec, named: bool) -> bool:
        """Whether an OOD set's test images are ID images; if so, an error if the user named it, else a note.

        ID test images in a form, or in other classes, of the ID set itself are a warning under the tables.
        """
        advice = f"Choose another --ood for '{id_set}'"
        own, parts = ood.name == id_set.name, self.parts(id_set)
        compared = [(part, what, ACCIDENTAL) for part, what in parts.seen]
        for part, what, allowed in [
            *compared,
            (parts.scored, f"test images of '{id_set}'", 1.0 if own else ACCIDENTAL),
        ]:
            found = self.copies(id_set, ood, part)
            finding = f"{found.count:,} of {found.images:,} test images of '{ood}' are {what}"
            if found.exceed(allowed):
                return self.leave_out(ood, finding, advice, named)
            if found.exceed(ACCIDENTAL):
                self.warn(f"{finding}: they are scored as ID and as OOD, and no detector can tell them apart.")
            else:
                self.note(f"{finding}, {ACCIDENT}", found.count)
        return False

    def leave_out(self, spec: SetSpec, finding: str, advice: str, named: bool) -> bool:
        """Raise `UserError` for a set that the user named; else note its absence and return True."""
        if named:
            raise UserError(f"{finding}. {advice}.")
        absence = Absence(str(spec), finding)
        self.plan.skipped += [absence] if absence not in self.plan.skipped else []
        return True

    def refuse_outliers(self, entry: IDEntry, tested: SetSpec, advice: str) -> None:
        """Raise `UserError` if test images are among an ID set's outliers.

        None at all may be if both sets sample one distribution under two names.
        """
        if entry.outliers is None:
            return
        try:
            found = self.copies(entry.outliers, tested)
        except OodbenchError:
            return  # unavailable outliers are reported for the detectors that need them
        what = f"{_are(found.count, tested)} among the outliers '{entry.outliers}' that training may see"
        own = tested.name == entry.outliers.name
        strict = not own and self.library.same_distribution(entry.outliers, tested)
        if found.exceed(0.0 if strict else ACCIDENTAL):
            raise UserError(f"{what}. {advice}.")
        self.note(f"{what}: {REPEATED}" if own else f"{what}, {ACCIDENT}", found.count)

    def refuse_tuning(self, entry: IDEntry, tuning: SetSpec, scored: Iterable[SetSpec]) -> None:
        """Raise `UserError` if test images of the scored sets are among those that `val_ood` tunes on.

        Of an OOD set of another name than theirs, none at all may be.
        """
        for tested in scored:
            found = self.copies(tuning, tested)
            own = tested.name == tuning.name
            is_id = tested.name == entry.set.name
            what = f"{_are(found.count, tested)} in '{tuning}', which protocol '{VAL_OOD}' tunes on"
            if found.exceed(ACCIDENTAL if own or is_id else 0.0):
                advice = "another tuning set in the suite" if is_id else f"another --ood for '{entry.set}'"
                raise UserError(f"{what}. Choose {advice}.")
            self.note(f"{what}: {REPEATED}" if own else f"{what}, {ACCIDENT}", found.count)
        self.note_in_training(entry, tuning, f"images of '{tuning}', which protocol '{VAL_OOD}' tunes on,")

    def refuse_shifted(self, entry: IDEntry, shifted: Iterable[SetSpec]) -> None:
        """Raise `UserError` if shifted forms of an ID set, scored for the extended metrics, hold training images."""
        advice = f"Remove '{{}}' from 'shifted' of '{entry.set}', or leave out the extended metrics"
        parts = self.parts(entry.set)
        for form in shifted:
            for part, what in parts.seen:
                found = self.copies(entry.set, form, part, parts.shifted(form))
                finding = f"{found.count:,} of {found.images:,} test images of '{form}' are {what}"
                if found.exceed(ACCIDENTAL):
                    raise UserError(f"{finding}. {advice.format(form)}.")
                self.note(f"{finding}, {ACCIDENT}", found.count)
            self.refuse_outliers(entry, form, advice.format(form))

    def note_outliers(self, entry: IDEntry) -> None:
        """Note the outliers that are ID training images."""
        if entry.outliers is not None:
            self.note_in_training(entry, entry.outliers, f"outliers '{entry.outliers}'")

    def note_in_training(self, entry: IDEntry, other: SetSpec, what: str) -> None:
        """Note the images of another set's training split that are in the ID set's."""
        for part, learnt in self.parts(entry.set).seen:
            try:
                found = self.copies(entry.set, other, part, "outliers")
            except OodbenchError:
                return  # unavailable outliers are reported for the detectors that need them
            self.note(f"{found.count:,} of {found.images:,} {what} are {learnt}.", found.count)

    def note_repeated(self, ood_sets: Iterable[SetSpec]) -> None:
        """Note the images that two OOD sets of one ID set share: a mean over the sets counts them twice."""
        earlier: list[SetSpec] = []
        for ood in ood_sets:
            for other in earlier:
                found = self.copies(other, ood, "test")
                text = f"{found.count:,} of {found.images:,} test images of '{ood}' are test images of '{other}'"
                self.note(f"{text}: a mean over both counts them twice.", found.count)
            earlier.append(ood)

    def warn(self, text: str) -> None:
        """Add a warning under the tables, once, and log it."""
        if WARNING + text not in self.library.notes:
            logger.warning(text)
            self.library.notes.append(WARNING + text)

    def note(self, text: str, count: int) -> None:
        """Add a note about a number of images under the tables, once; none for 0 images."""
        if count and text not in self.library.notes:
            self.library.notes.append(text)


def _are(count: int, tested: SetSpec) -> str:
    """'3 test images of 'NAME' are', or what one is."""
    return counted(count, f"test image of '{tested}' is", f"test images of '{tested}' are")
