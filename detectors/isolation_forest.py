"""Isolation Forest: images that random splits separate from all others early are anomalies."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, FitData, detector
from oodbench.detectors._one_class import OneClassBaseline, seeded


@detector(
    "isolation_forest",
    title="Isolation Forest",
    paper="Liu, Ting & Zhou, Isolation Forest, ICDM 2008",
    display_name="IF",
    cite="liu2008isolation",
)
class IsolationForest(OneClassBaseline):
    """2^(-E h(x) / c(m)): h is the depth at which a random tree on m training images isolates x, E the mean over trees.

    A leaf with s images counts as deeper by c(s), the mean depth of an unsuccessful search in a binary tree of s
    images: c(s) = 2 (ln(s - 1) + 0.577) - 2 (s - 1) / s. Settings are the authors': 100 trees on 256 images each.

    Differs: none; scikit-learn grows the trees. Ruff et al. (2018, 2020) use it so too, in their code of 2020 on all
    pixels without principal components (`variance=1`).
    """

    trees: int = 100
    samples: int = 256
    children_: Tensor
    """Left and right child of every node of all trees, int64 (2, M); a leaf is its own child."""
    splits_: Tensor
    """Component that decides at a node, int64 (M,)."""
    thresholds_: Tensor
    """At most this goes left, float64 (M,)."""
    depths_: Tensor
    """Depth of a leaf, with c(s), float64 (M,)."""
    roots_: Tensor
    """Root of every tree, int64 (T,)."""
    steps_: int
    """Largest depth."""
    scale_: float
    """c(m)."""

    def __post_init__(self) -> None:
        """Check both settings."""
        super().__post_init__()
        if self.trees < 1 or self.samples < 2:
            raise ValueError(f"trees must be 1 or more and samples 2 or more, got {self.trees} and {self.samples}")

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Grow the trees."""
        from sklearn import ensemble

        vectors = self.fit_vectors(data).float().numpy()
        samples = min(self.samples, len(vectors))
        forest = ensemble.IsolationForest(n_estimators=self.trees, max_samples=samples, random_state=seeded())
        children, splits, thresholds, depths, roots, count = [], [], [], [], [], 0
        for one in forest.fit(vectors).estimators_:
            tree = one.tree_
            own = np.arange(tree.node_count)
            both = np.stack([tree.children_left, tree.children_right])
            roots.append(count)
            children.append(np.where(both < 0, own, both) + count)
            splits.append(np.maximum(tree.feature, 0))
            thresholds.append(tree.threshold)
            depths.append(depth_of(both) + search_depth(tree.n_node_samples))
            count += len(own)
        self.children_ = torch.from_numpy(np.concatenate(children, axis=1))
        self.splits_, self.thresholds_, self.depths_ = (
            torch.from_numpy(np.concatenate(parts)) for parts in (splits, thresholds, depths)
        )
        self.roots_, self.scale_ = torch.tensor(roots), float(search_depth(np.array([samples]))[0])
        self.steps_ = max(one.tree_.max_depth for one in forest.estimators_)

    def score(self, batch: Batch) -> Tensor:
        """The authors' anomaly score, from 0 to 1."""
        vectors = self.reduced(batch).float().double()  # scikit-learn splits float32 numbers at float64 thresholds
        nodes = self.roots_.expand(len(vectors), -1)
        for _ in range(self.steps_):
            right = vectors.gather(1, self.splits_[nodes]) > self.thresholds_[nodes]
            nodes = torch.where(right, self.children_[1][nodes], self.children_[0][nodes])
        return torch.exp2(-self.depths_[nodes].mean(dim=1) / self.scale_)


def depth_of(children: np.ndarray) -> np.ndarray:
    """Depth of every node of a tree, float64 (M,), from its children (2, M), which come after it; -1 for none."""
    depths = np.zeros(children.shape[1])
    for node in range(children.shape[1]):
        below = children[:, node]
        depths[below[below >= 0]] = depths[node] + 1
    return depths


def search_depth(images: np.ndarray) -> np.ndarray:
    """c(s): mean depth of an unsuccessful search in a binary tree of s images, float64 (M,); 0 for one, 1 for two."""
    counts = np.maximum(images.astype(np.float64), 3)
    depths: np.ndarray = 2 * (np.log(counts - 1) + np.euler_gamma) - 2 * (counts - 1) / counts
    return np.where(images <= 1, 0.0, np.where(images == 2, 1.0, depths))
