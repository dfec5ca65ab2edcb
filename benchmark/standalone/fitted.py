"""`FittedDetector`: a detector that has learned from arrays, and scores others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from oodbench.benchmark.errors import UserError, counted
from oodbench.benchmark.plugins.detector import Detector, compares
from oodbench.benchmark.plugins.specs import canonical
from oodbench.benchmark.plugins.training_bank import TrainingBank
from oodbench.benchmark.stages.detecting.fit_score import score_batches
from oodbench.benchmark.stages.detecting.score_checks import PROBE
from oodbench.benchmark.stages.detecting.set_arrays import SetArrays, array_batch
from oodbench.benchmark.stages.detecting.similarities import score_with_bank
from oodbench.benchmark.stages.detector_state import chosen_settings
from oodbench.benchmark.standalone.arrays import Given, Kind
from oodbench.benchmark.standalone.html import html_table
from oodbench.benchmark.standalone.sets import checked_when_read, read_arrays


def shown_name(detector: Detector) -> str:
    """A detector's name with settings, or its class's name where it is not registered."""
    spec = canonical(detector)
    return str(spec._replace(name=spec.name or type(detector).__name__))


def arrays_read(detector: Detector) -> tuple[str, ...]:
    """What a detector reads of an image, among "features" and "logits"."""
    features = bool(detector.needs & {"features", "similarities"})
    return (*["features"] * features, *["logits"] * ("logits" in detector.needs))


class Width(NamedTuple):
    """Numbers of features and of logits that `score` expects; None where `fit` got none."""

    features: int | None
    logits: int | None

    @classmethod
    def of(cls, arrays: SetArrays) -> Width:
        """Those of a set's arrays."""
        return cls(*(None if array is None else array.shape[1] for array in (arrays.features, arrays.logits)))


class FittedDetector:
    """A detector that `fit` has fitted; `score` takes arrays.

    Attributes:
        detector: The detector itself, with what it has learned in attributes that end in an underscore.
        num_classes: Number of classes, K; 0 if no array said it.
        seed: The seed that it was fitted with.
        train_images: Number of images that it has learned from; 0 for a detector that learns nothing.
        validation_images: Number of ID validation images.
    """

    def __init__(
        self,
        detector: Detector,
        num_classes: int,
        seed: int = 0,
        train_images: int = 0,
        validation_images: int = 0,
        width: Width | None = None,
        bank: TrainingBank | None = None,
    ) -> None:
        """Hold a detector that is fitted. `bank`: for one that compares images with training images."""
        self.detector = detector
        self.num_classes = num_classes
        self.seed = seed
        self.train_images = train_images
        self.validation_images = validation_images
        self._width = width or Width(None, None)
        self._bank = bank
        self._probed = False

    @property
    def name(self) -> str:
        """Name and settings of the detector, as on the command line."""
        return shown_name(self.detector)

    @property
    def needs(self) -> tuple[str, ...]:
        """The arrays that `score` reads, among "features" and "logits"."""
        return arrays_read(self.detector)

    @property
    def chosen(self) -> Mapping[str, Any]:
        """The values that fitting chose for settings left to a rule, such as {"dim": 38}."""
        return chosen_settings(self.detector)

    def score(self, *, features: Given | None = None, logits: Given | None = None) -> Any:
        """Score images; higher = more OOD.

        Images are scored in the blocks of a run, so that equal blocks give the same bits as a run. An array that the
        detector does not read may be given all the same.

        Args:
            features: Penultimate features, (N, D), as `fit` got them.
            logits: Logits, (N, K).

        Returns:
            float64 (N,): a NumPy array, or a tensor on the same device if an argument is a tensor.

        Raises:
            UserError: A missing array, a wrong shape, or a value that is not finite.
            PluginError: The detector gives a score that is not finite, or depends on the batch, for which the first
                set of more than five images is looked at.
        """
        given = {"features": features, "logits": logits}
        if missing := [name for name in self.needs if given[name] is None]:
            raise UserError(
                f"'{self.name}' scores {' and '.join(self.needs)}, and {' and '.join(missing)} are missing: "
                f"score({', '.join(f'{name}=...' for name in self.needs)})."
            )
        images = checked_when_read(read_arrays(features, logits, reads=()))
        if not images.count:
            raise UserError(f"'{self.name}' got no images to score; give features=... or logits=....")
        self._refuse_other_width(images)
        return Kind.of(features, logits).returned(self._scores(images))

    def _scores(self, images: SetArrays) -> Any:
        # Once: dependence on the batch is a property of the code. Of fewer images the smaller batch would be the same.
        probe = images.count > PROBE and not self._probed
        scores = self._scored(images, probe)
        self._probed |= probe
        return scores

    def _scored(self, images: SetArrays, probe: bool) -> Any:
        if self._bank is None or not compares(self.detector):
            classes = self.num_classes or (1 if images.logits is None else images.logits.shape[1])
            return score_batches(self.detector, array_batch(self.detector, images), classes, self.seed, probe=probe)
        (outcome,) = score_with_bank(
            [self.detector],
            self._bank,
            images,
            lambda detector, bank, product: array_batch(detector, images, bank=bank, similarities=product),
            self.seed,
            probe=probe,
        )
        if isinstance(outcome, Exception):
            raise outcome
        return outcome.scores

    def _refuse_other_width(self, images: SetArrays) -> None:
        for name, expected, found in zip(Width._fields, self._width, Width.of(images), strict=True):
            if expected is not None and found is not None and expected != found:
                raise UserError(f"{name} has {counted(found, 'column')}, and fit() got {expected}; expected the same.")
        if images.logits is not None and self.num_classes not in (0, images.logits.shape[1]):
            raise UserError(
                f"logits has {counted(images.logits.shape[1], 'column')}, and the detector was fitted for "
                f"{self.num_classes} classes; expected a column per class."
            )

    def _facts(self) -> dict[str, str]:
        chosen = ", ".join(f"{name} = {value}" for name, value in self.chosen.items())
        learned = f"{counted(self.train_images, 'image')}, {self.validation_images:,} more for validation"
        return {
            "learned from": learned if self.train_images else "nothing",
            "chosen": chosen,
            "scores": " and ".join(self.needs) or "nothing",
            "classes": str(self.num_classes or ""),
        }

    def __repr__(self) -> str:
        facts = "; ".join(f"{what} {fact}" for what, fact in self._facts().items() if fact)
        return f"<FittedDetector '{self.name}': {facts}>"

    def _repr_html_(self) -> str:
        return html_table(f"{self.detector.title or self.name}", ("detector", self.name), list(self._facts().items()))
