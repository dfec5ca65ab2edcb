"""A detector that learns: distance to the nearest class mean."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, Detector, FitData, detector


@detector("class_means", title="Distance to the nearest class mean")
class ClassMeans(Detector):
    """Far from the mean feature of every class, more OOD."""

    needs = frozenset({"features"})
    normalise: bool = False
    """Whether features are put on the unit sphere first."""

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """One mean a class, from the training images."""
        features, labels = self._prepared(data.train), data.train.labels
        self.means_ = torch.stack([features[labels == k].mean(dim=0) for k in range(classifier.num_classes)])

    def score(self, batch: Batch) -> Tensor:
        """Euclidean distance to the nearest mean."""
        return torch.cdist(self._prepared(batch), self.means_).amin(dim=1)

    def _prepared(self, batch: Batch) -> Tensor:
        features = batch.features.double()
        return torch.nn.functional.normalize(features) if self.normalise else features
