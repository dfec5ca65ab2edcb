"""The images on which settings are chosen, by protocol; the run scores none of them.

val_id          transformed ID validation images (`data.transformed`)
val_ood         the training split of the OOD set that the suite declares for the ID set
leave_one_out   for each OOD set, one half of the test split of the others, except related ones
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from oodbench.benchmark.data.fit_images import parse_part
from oodbench.benchmark.data.transformed import TRANSFORMED
from oodbench.benchmark.errors import DataError, OodbenchError, UserError
from oodbench.benchmark.plan.job_builder import JobBuilder
from oodbench.benchmark.plan.jobs import SetRef
from oodbench.benchmark.plan.leakage import ACCIDENTAL
from oodbench.benchmark.plan.plan import Pair
from oodbench.benchmark.plan.resolve import shape_mismatch
from oodbench.benchmark.plan.suite import IDEntry
from oodbench.benchmark.plan.tuning_protocols import DEFAULTS, LEAVE_ONE_OUT, VAL_ID, VAL_OOD, candidates
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.specs import SetSpec, parse_set

NO_PIXELS = (
    f"--protocol {VAL_ID} chooses settings on transformed ID validation images, of which no outputs are given. Use "
    f"{LEAVE_ONE_OUT}, or leave it out."
)


class TuningSources:
    """Finds them for one plan and protocol."""

    def __init__(self, protocol: str, builder: JobBuilder) -> None:
        self.protocol, self.builder = protocol, builder
        self.library, self.resolver = builder.library, builder.resolver

    def of_entry(self, entry: IDEntry, scored: Iterable[SetSpec]) -> list[SetRef]:
        """The images that serve for all cells of an ID set; none under the other protocols.

        `scored`: the sets whose test images are scored. Raises `UserError` if there are no images to choose on.
        """
        if self.protocol == VAL_OOD:
            return [self._declared(entry, scored)]
        return self._transformed(entry) if self.protocol == VAL_ID else []

    def of_pair(self, pairs: Sequence[Pair], pair: Pair) -> list[SetRef]:
        """The OOD images on which `leave_one_out` chooses a cell's settings."""
        if self.protocol != LEAVE_ONE_OUT:
            return []
        kin = self.library.kin(parse_set(pair.ood.set))
        others = [parse_set(other.ood.set) for other in pairs]
        return [self.builder.ref(other, "tuning") for other in others if self.library.kin(other) != kin]

    def obstacle(self, detector: Detector, pair: Pair, sources: Sequence[SetRef]) -> str:
        """Why a detector's settings cannot be chosen for a pair; empty if they can, or need not be."""
        if self.protocol == DEFAULTS or len(candidates(detector)) == 1:
            return ""
        if reason := self.resolver.parts(parse_set(pair.id.set)).cannot_validate():
            return reason
        if self.protocol != LEAVE_ONE_OUT:
            return ""
        if not sources:
            return f"there is no other OOD set to tune on than '{pair.ood.set}' and its kin"
        copies = self.resolver.leakage.copies
        for source in sources:
            chosen_on = f"are among those of '{source.set}' that settings are chosen on"
            found = copies(parse_set(source.set), parse_set(pair.ood.set), "tuning", "scored")
            if found.count:
                return f"{found.count:,} of its scored images {chosen_on}"
            found = copies(parse_set(source.set), parse_set(pair.id.set), "tuning", pair.id.part)
            if found.exceed(ACCIDENTAL):
                return f"{found.count:,} of {found.images:,} test images of '{pair.id.set}' {chosen_on}"
        return ""

    def _transformed(self, entry: IDEntry) -> list[SetRef]:
        """The ID validation images under every transformation that they allow; none if there are no such images."""
        parts = self.resolver.parts(entry.set)
        if parts.cannot_validate():
            return []
        if not self.library.part(entry.set, parts.validation).has_pixels:
            raise UserError(NO_PIXELS)
        found = []
        for role in TRANSFORMED:
            try:
                found.append(self.builder.ref(entry.set, parse_part(parts.validation)[1].part(role)))
            except DataError as error:  # images of one class cannot be mixed
                self.resolver.leakage.note(f"No settings are chosen on '{entry.set}' ({role}): {error}", 1)
        return found

    def _declared(self, entry: IDEntry, scored: Iterable[SetSpec]) -> SetRef:
        """The OOD images on which `val_ood` chooses all settings."""
        if entry.tuning is None:
            raise UserError(
                f"Protocol '{VAL_OOD}' needs an OOD set to tune on, and suite '{self.builder.plan.suite.name}' names "
                f"none for '{entry.set}'. Add a line such as tuning = \"SET\" to its [[id]] table, or choose another "
                "--protocol."
            )
        try:
            shape = self.library.part(entry.tuning, "outliers").image_shape
        except OodbenchError as error:
            raise UserError(f"Protocol '{VAL_OOD}' cannot tune '{entry.set}' on '{entry.tuning}': {error}") from error
        if reason := shape_mismatch(entry.set, self.builder.id_shape(entry), entry.tuning, shape):
            raise UserError(f"Protocol '{VAL_OOD}' cannot tune on '{entry.tuning}': {reason}.")
        self.resolver.leakage.refuse_tuning(entry, entry.tuning, scored)
        return self.builder.ref(entry.tuning, "outliers")
