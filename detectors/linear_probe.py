"""Linear heads on the features of given weights: the linear probe, and the confidence loss on a head alone."""

from __future__ import annotations

from oodbench.benchmark import Head, HeadData, Recipe, recipe
from oodbench.detectors._logistic import Target, fit
from oodbench.detectors.confidence import PAPER


@recipe(
    "linear_probe",
    title="Linear probe: a new head on the features of given weights",
    paper="as in Kornblith, Shlens & Le, Do Better ImageNet Models Transfer Better?, CVPR 2019, section 3",
    display_name="Linear probe",
    cite="kornblith2019better",
)
class LinearProbe(Recipe):
    """Multinomial logistic regression on the stored features: mean cross-entropy + l2 / 2 |W|^2.

    Features are standardised (mean 0, variance 1 in the training images), so that `l2` means the same for all networks;
    the head acts on them as they are. L-BFGS in float64 finds the one optimum: there are no learning rate, epochs and
    random numbers, and the head is the same for every seed. As scikit-learn's `LogisticRegression` with C = 1 / (N l2)
    on standardised features. The features are those of images without augmentation.
    """

    uses_seed = False
    l2: float = 0.001

    def __post_init__(self) -> None:
        """Check that l2 is positive: without a penalty, separable classes have no optimum."""
        if not 0 < self.l2 < float("inf"):
            raise ValueError(f"l2 must be above 0, got {self.l2}")

    def fit_head(self, data: HeadData) -> Head:
        """The optimum on the training features."""
        return fit([Target(data.features, data.labels)], data.num_classes, self.l2)


@recipe(
    "confidence_head",
    title="Confidence loss on real outliers, for a head on given weights",
    paper=f"{PAPER}, eq. 1",
    display_name="Confidence head",
    cite="lee2018confidence",
)
class ConfidenceHead(LinearProbe):
    """The linear probe's loss + beta KL(U || p), the KL as a mean over all outliers.

    The loss of recipe `confidence` where only the head is trained; it is convex, too, but nearly flat around its
    optimum. The fit ends when no entry of the gradient is larger than `tolerance`: scikit-learn's default.
    """

    needs = frozenset({"outliers"})
    beta: float = 1.0
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        """Check that beta is not negative: a negative penalty would reward confidence on outliers."""
        super().__post_init__()
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be above 0, got {self.tolerance}")
        if not self.beta >= 0:
            raise ValueError(f"beta must not be negative, got {self.beta}")

    def fit_head(self, data: HeadData) -> Head:
        """The optimum on the features of training images and outliers."""
        if data.outliers is None:
            raise ValueError("the confidence loss got no outliers")
        targets = [Target(data.features, data.labels), Target(data.outliers, None, self.beta)]
        return fit(targets, data.num_classes, self.l2, self.tolerance)
