"""Detectors that break the contract in one respect each, with the check that must find it and its message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, Detector, FitData


class Good(Detector):
    """The maximum logit, a correct detector; subclasses are wrong in one respect."""

    def score(self, batch: Batch) -> Tensor:
        return -batch.logits.amax(dim=1)


class UnknownNeed(Good):
    needs = frozenset({"logits", "feature"})


class PassesWithoutNetwork(Good):
    passes = 2


class WithoutDefault(Good):
    power: float


class ChangesItsSettings(Good):
    power: float = 1.0

    def __post_init__(self) -> None:
        self.__dict__["power"] = 2.0


class HasInit(Good):
    def __init__(self, power: float) -> None:
        self.power = power


class HasInitWithoutSettings(Good):
    def __init__(self) -> None:
        super().__init__()
        self.learned_ = 1.0


class Unannotated(Good):
    power = 2.0

    def score(self, batch: Batch) -> Tensor:
        return super().score(batch) * self.power


class AsksForMuchMore(Good):
    """Reads three inputs that it does not declare, one of them in fit."""

    def fit(self, classifier: Classifier, data: FitData) -> None:
        self.mean_ = data.train.features.mean(dim=0)

    def score(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            brightness = batch.images.mean(dim=(1, 2, 3)) + batch.classifier(batch.images).mean(dim=1)
        return super().score(batch) + brightness


class FitsOneWidthOnly(Good):
    """Works with the network of the toy world, which has 8 features, and with no other."""

    needs = frozenset({"logits", "head"})

    def fit(self, classifier: Classifier, data: FitData) -> None:
        self.shift_ = (classifier.weight.mean(dim=0) - torch.ones(8)).sum()


class UnknownRecipe(Good):
    recipe = "cross_entrpy"


class NaN(Good):
    def score(self, batch: Batch) -> Tensor:
        scores = super().score(batch)
        scores[3 % len(scores)] = torch.nan
        return scores


class Infinite(Good):
    def score(self, batch: Batch) -> Tensor:
        return super().score(batch) / 0


class WrongShape(Good):
    def score(self, batch: Batch) -> Tensor:
        return super().score(batch)[:, None]


class OneNumber(Good):
    def score(self, batch: Batch) -> Tensor:
        return super().score(batch).mean()


class Words(Good):
    def score(self, batch: Batch) -> Any:
        return ["high"] * len(batch)


class Unseeded(Good):
    """Draws from an unseeded NumPy generator."""

    random: ClassVar[np.random.RandomState] = np.random.RandomState()

    def score(self, batch: Batch) -> Tensor:
        return super().score(batch) + 1e-9 * torch.from_numpy(self.random.rand(len(batch)))


class UnseededFit(Good):
    random: ClassVar[np.random.RandomState] = np.random.RandomState()

    def fit(self, classifier: Classifier, data: FitData) -> None:
        self.shift_ = float(self.random.rand())

    def score(self, batch: Batch) -> Tensor:
        return super().score(batch) + self.shift_


class Noisy(Good):
    """Seeded, but an image's noise depends on its position in the batch."""

    def score(self, batch: Batch) -> Tensor:
        return super().score(batch) + torch.rand(len(batch), dtype=torch.float64)


class CentresTheBatch(Good):
    def score(self, batch: Batch) -> Tensor:
        scores = super().score(batch)
        return scores - scores.mean()


class LooksAtItsNeighbour(Good):
    def score(self, batch: Batch) -> Tensor:
        scores = super().score(batch)
        return scores - 0.1 * scores.roll(1)


class CountsImages(Good):
    """The order in the batch matters, the size does not."""

    def score(self, batch: Batch) -> Tensor:
        place = torch.arange(len(batch))
        return super().score(batch) * torch.where(place == 0, 1.5, 1.0)


class FailsOnOneImage(Good):
    """Squeezes too much for a batch of one image, the last batch of a set of 1,025."""

    def score(self, batch: Batch) -> Tensor:
        return -batch.logits.topk(1).values.squeeze()


class ClipsWeights(Good):
    """Idempotent, so that only the first call changes anything."""

    needs = frozenset({"logits", "head"})

    def fit(self, classifier: Classifier, data: FitData) -> None:
        classifier.weight.clamp_(max=1)


class NormalisesWeightsInScore(Good):
    needs = frozenset({"logits", "network"})
    passes = 1

    def score(self, batch: Batch) -> Tensor:
        batch.classifier.weight.div_(batch.classifier.weight.norm())
        return super().score(batch)


class LeavesTrainingMode(Good):
    def fit(self, classifier: Classifier, data: FitData) -> None:
        classifier.network.train()


class WantsGradients(Good):
    def fit(self, classifier: Classifier, data: FitData) -> None:
        classifier.network.requires_grad_(True)


class LeavesGradients(Good):
    def fit(self, classifier: Classifier, data: FitData) -> None:
        classifier.network.requires_grad_(True)
        classifier(torch.zeros(1, 3, 32, 32)).sum().backward()
        classifier.network.requires_grad_(False)


class LeavesAHook(Good):
    def fit(self, classifier: Classifier, data: FitData) -> None:
        head: nn.Module = classifier.network.head  # type: ignore[assignment]
        head.register_forward_pre_hook(lambda module, inputs: (inputs[0].clamp(max=1),))


class AsksForMore(Good):
    def score(self, batch: Batch) -> Tensor:
        return super().score(batch) + batch.features.sum(dim=1)


class AsksForLabels(Good):
    def score(self, batch: Batch) -> Tensor:
        return super().score(batch) + batch.labels


class NeedsNoFeatures(Good):
    needs = frozenset({"logits", "features"})


class NeedsNoImages(Good):
    needs = frozenset({"logits", "images"})

    def fit(self, classifier: Classifier, data: FitData) -> None:
        self.mean_ = data.train.logits.mean()


class NeedsNoOutliers(Good):
    needs = frozenset({"logits", "outliers"})


class NeedsNoHead(Good):
    needs = frozenset({"logits", "head"})


class ReadsTheHeadUndeclared(Good):
    def fit(self, classifier: Classifier, data: FitData) -> None:
        self.scale_ = classifier.bias.mean() + classifier.head(torch.zeros(1, 8)).mean()


class NeedsNoNetwork(Good):
    needs = frozenset({"logits", "network"})
    passes = 1


class UpsideDown(Good):
    def score(self, batch: Batch) -> Tensor:
        return batch.logits.amax(dim=1)


class Blind(Good):
    needs = frozenset({"images"})

    def score(self, batch: Batch) -> Tensor:
        return batch.images.mean(dim=(1, 2, 3))


class LearnsAnObject(Good):
    def fit(self, classifier: Classifier, data: FitData) -> None:
        self.model_ = nn.Linear(2, 2)


class LearnsInSecret(Good):
    """Stores what it learned under a name without a final underscore, so that it is not saved."""

    def fit(self, classifier: Classifier, data: FitData) -> None:
        object.__setattr__(self, "shift", float(data.train.logits.mean()))

    def score(self, batch: Batch) -> Tensor:
        return super().score(batch) + getattr(self, "shift", 0)


class LearnsUnderAPlainName(Good):
    def fit(self, classifier: Classifier, data: FitData) -> None:
        self.mean = 0.0


class ConfidentTheOtherWay(Good):
    def confidence_of(self, scores: np.ndarray) -> np.ndarray:
        return scores


class OneConfidence(Good):
    def confidence_of(self, scores: np.ndarray) -> np.ndarray:
        return scores[:1]


class KeepsMaps(Detector):
    """Scores by how far the last block's maximum is below that of the training images."""

    needs = frozenset({"maps"})

    def observe(self, maps: Sequence[Tensor], features: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.most_ = max(getattr(self, "most_", 0.0), float(maps[-1].max()))

    def reduce(self, maps: Sequence[Tensor], features: Tensor, logits: Tensor) -> Tensor:
        return self.most_ - maps[-1].amax(dim=(1, 2, 3))[:, None]

    def score(self, batch: Batch) -> Tensor:
        return batch.maps[:, 0].double()


class KeepsTheLastPieceOnly(KeepsMaps):
    def observe(self, maps: Sequence[Tensor], features: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.most_ = float(maps[-1].max()) + len(labels)


class ReducesTheBatch(KeepsMaps):
    def reduce(self, maps: Sequence[Tensor], features: Tensor, logits: Tensor) -> Tensor:
        kept = super().reduce(maps, features, logits)
        return kept - kept.mean()


class ReducesToOneColumn(KeepsMaps):
    def reduce(self, maps: Sequence[Tensor], features: Tensor, logits: Tensor) -> Tensor:
        return super().reduce(maps, features, logits)[:, 0]


class ComparesUndeclared(Good):
    """Selects a bank without declaring similarities."""

    def bank_rows(self, train: Batch) -> Tensor | None:
        """The first ten training images."""
        return torch.arange(10)


class ReducesUndeclared(KeepsMaps):
    needs = frozenset({"logits"})


class NoSuchMapSetting(KeepsMaps):
    map_settings = ("power",)


class LooksAtTrainingMaps(KeepsMaps):
    def fit(self, classifier: Classifier, data: FitData) -> None:
        self.mean_ = data.train.maps.mean()


class LooksAtBlocks(Good):
    def fit(self, classifier: Classifier, data: FitData) -> None:
        self.blocks_ = len(classifier.blocks)


WRONG_DETECTORS: list[tuple[type[Detector], str, str]] = [
    (UnknownNeed, "check_declarations", r"needs \['feature'\] are unknown; known are logits, "),
    (PassesWithoutNetwork, "check_declarations", "passes is 2, but 'network' is not among its needs"),
    (
        WithoutDefault,
        "check_declarations",
        "it cannot be created without settings: .*'power'; give every setting a default",
    ),
    (ChangesItsSettings, "check_declarations", r"the settings \{'power': 2.0\} differ from their defaults"),
    (ComparesUndeclared, "check_declarations", r"it has bank_rows\(\), but 'similarities' is not among its needs"),
    (ReducesUndeclared, "check_declarations", r"it has observe\(\), but 'maps' is not among its needs"),
    (NoSuchMapSetting, "check_declarations", r"map_settings names \['power'\], which it does not have as settings"),
    (HasInit, "check_declarations", "HasInit defines __init__, which plug-ins do not: settings are annotated"),
    (HasInitWithoutSettings, "check_declarations", "defines __init__, which plug-ins do not"),
    (Unannotated, "check_declarations", r"'power' has no annotation: a setting is written `power: float = 2.0`, a con"),
    (AsksForMuchMore, "check_declarations", 'it reads features and images and network without .* "logits", "network"}'),
    (FitsOneWidthOnly, "check_run", r"a run of a tiny suite fails: fit .*: RuntimeError: The size of tensor a \(16\)"),
    (UnknownRecipe, "check_declarations", "Unknown recipe 'cross_entrpy'. Did you mean 'cross_entropy'?"),
    (ConfidentTheOtherWay, "check_confidence", "ranks images differently from score"),
    (OneConfidence, "check_confidence", r"one finite float per score, got shape \(1,\)"),
    (NaN, "check_scores", "returned 1 NaN or infinite scores of 160, the first for image 3 "),
    (Infinite, "check_scores", "returned 160 NaN or infinite scores"),
    (WrongShape, "check_scores", r"returned float64 of shape \(160, 1\) for 160 images"),
    (OneNumber, "check_scores", r"returned float64 of shape \(\) for 160 images"),
    (Words, "check_scores", r"returned <U4 of shape \(160,\)"),
    (Unseeded, "check_scores", "scores change when scored again"),
    (UnseededFit, "check_scores", "scores change when it is fitted again with the same seed"),
    (AsksForMore, "check_scores", "asked for 'features', which it does not declare"),
    (AsksForLabels, "check_scores", "labels are supplied in fit"),
    (Noisy, "check_own_image_only", "the score depends on the size of the batch: image"),
    (CentresTheBatch, "check_own_image_only", "If it uses a statistic of the batch, such as a mean"),
    (LooksAtItsNeighbour, "check_own_image_only", "the score depends on the size of the batch: image"),
    (CountsImages, "check_own_image_only", "the score depends on the (size of|order in) the batch: image"),
    (FailsOnOneImage, "check_own_image_only", r"of shape \(\) for 1 image;"),
    (ReducesTheBatch, "check_own_image_only", "the score depends on the size of the batch: image"),
    (ReducesToOneColumn, "check_scores", r"reduces the maps of 160 images to \(160,\); reduce\(\) must return"),
    (LooksAtTrainingMaps, "check_scores", "asked for 'maps', .* the training split has none if the detector defines"),
    (LooksAtBlocks, "check_scores", "The classifier has no blocks available: the detector must declare"),
    (KeepsTheLastPieceOnly, "check_observes_in_pieces", "depends on the number of training images per call"),
    (ClipsWeights, "check_classifier_untouched", r"it changes the classifier: head\.weight$"),
    (NormalisesWeightsInScore, "check_classifier_untouched", r"it changes the classifier: head\.weight$"),
    (LeavesTrainingMode, "check_classifier_untouched", "it changes the classifier: network or mode$"),
    (WantsGradients, "check_classifier_untouched", "it changes the classifier: gradients$"),
    (LeavesGradients, "check_classifier_untouched", "it changes the classifier: gradients$"),
    (LeavesAHook, "check_classifier_untouched", "it changes the classifier: hooks left on it$"),
    (AsksForMore, "check_only_declared", "asked for 'features', which it does not declare"),
    (NeedsNoFeatures, "check_only_declared", "it declares 'features' but never reads it; leave it out of needs"),
    (NeedsNoImages, "check_only_declared", "it declares 'images' but never reads it"),
    (NeedsNoOutliers, "check_only_declared", "it declares 'outliers' but never reads it"),
    (NeedsNoNetwork, "check_only_declared", "it declares 'network' but never reads it"),
    (NeedsNoHead, "check_only_declared", "it declares 'head' but never reads it; leave it out of needs"),
    (ReadsTheHeadUndeclared, "check_declarations", r'it reads head .*; write needs = .*"head", "logits"'),
    (
        UpsideDown,
        "check_oriented",
        r"AUROC on planted features is 0\.\d+, expected above 0.8; a score is higher for OOD",
    ),
    (Blind, "check_oriented", r"AUROC on planted features is 0\.\d+, expected above 0.8"),
    (LearnsAnObject, "check_state", "learned cannot be stored: Object of type Linear is not JSON serializable"),
    (LearnsInSecret, "check_state", "scores change when what it learned is stored and loaded"),
]
