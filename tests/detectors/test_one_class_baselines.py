"""One-class SVM, Isolation Forest and kernel density: their formulas against scikit-learn, which fits them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn import decomposition, ensemble, neighbors, svm

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.exact import auroc
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.stages.detector_state import stored_and_loaded
from oodbench.detectors._one_class import principal, seeded, squared_distances
from oodbench.detectors.kde import BANDWIDTHS, SCALES, log_density

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("ocsvm", "isolation_forest", "kde")
RANDOM = np.random.RandomState(0)
TRAIN = (RANDOM.randn(160, 6) * [3, 2, 1, 1, 0.5, 0.2] + 1).astype(np.float32)
TEST = (RANDOM.randn(40, 6) * 2).astype(np.float32)
PIXELS = RANDOM.randint(0, 256, size=(60, 1, 6, 5)) // np.arange(1, 7)[:, None]


def batch(vectors: np.ndarray, name: str) -> Batch:
    kind = "images" if vectors.ndim == 4 else "features"
    return Batch(len(vectors), {kind: torch.from_numpy(vectors).__getitem__}, name)


def fitted(name: str, vectors: np.ndarray = TRAIN, **settings: Any) -> Detector:
    """A detector as in a run: fitted with a seed, stored, and loaded."""
    detector: Detector = registry.get("detector", name)(**settings)
    torch.manual_seed(3)
    nothing: Any = None
    classifier: Classifier = nothing  # none of them looks at it
    detector.fit(classifier, FitData(batch(vectors, name), batch(vectors[:2], name)))
    return stored_and_loaded(detector)


def scores(detector: Detector, vectors: np.ndarray = TEST) -> np.ndarray:
    found: np.ndarray = detector.score(batch(vectors, detector.name)).numpy()
    assert found.dtype == np.float64
    return found


def centred(vectors: np.ndarray) -> np.ndarray:
    difference: np.ndarray = vectors.astype(np.float64) - TRAIN.astype(np.float64).mean(axis=0)
    return difference


@pytest.mark.parametrize("settings", [{}, {"nu": 0.3}, {"gamma": 0.05}])
def test_the_decision_function_is_that_of_scikit_learn(settings: dict[str, Any]) -> None:
    model = svm.OneClassSVM(**{"nu": 0.1, "gamma": "scale", **settings}).fit(centred(TRAIN))
    assert scores(fitted("ocsvm", **settings)) == pytest.approx(-model.decision_function(centred(TEST)), rel=1e-9)


def test_the_share_of_training_images_outside_is_nu() -> None:
    outside = scores(fitted("ocsvm", nu=0.2), TRAIN) > 1e-9
    assert 0.15 < outside.mean() <= 0.2


@pytest.mark.parametrize("settings", [{}, {"trees": 7}, {"samples": 2}, {"samples": 3}, {"samples": 1000}])
def test_depths_are_those_of_scikit_learn(settings: dict[str, Any]) -> None:
    torch.manual_seed(3)
    trees, samples = settings.get("trees", 100), min(settings.get("samples", 256), len(TRAIN))
    model = ensemble.IsolationForest(n_estimators=trees, max_samples=samples, random_state=seeded())
    expected = -model.fit(centred(TRAIN).astype(np.float32)).score_samples(centred(TEST).astype(np.float32))
    assert scores(fitted("isolation_forest", **settings)) == pytest.approx(expected, rel=1e-12)


def test_a_forest_depends_on_the_seed_alone() -> None:
    one, other = (scores(fitted("isolation_forest")) for _ in range(2))
    assert np.array_equal(one, other)
    detector = create("detector", parse_spec("isolation_forest"))
    torch.manual_seed(4)
    detector.fit(None, FitData(batch(TRAIN, "isolation_forest"), batch(TRAIN, "isolation_forest")))
    assert not np.array_equal(one, scores(detector))


@pytest.mark.parametrize("bandwidth", [0.3, 1.0, 8.0])
def test_the_density_is_that_of_scikit_learn(bandwidth: float) -> None:
    """In two dimensions, where the errors of its trees are small; in more, they reach 1e-2."""
    model = neighbors.KernelDensity(bandwidth=bandwidth).fit(centred(TRAIN)[:, :2])
    distances = squared_distances(*(torch.from_numpy(centred(part)[:, :2]) for part in (TEST, TRAIN)))
    expected = model.score_samples(centred(TEST)[:, :2])
    assert log_density(distances, bandwidth, 2).numpy() == pytest.approx(expected, rel=1e-9)


def density(x: np.ndarray, centres: np.ndarray, bandwidth: float) -> np.ndarray:
    distances = ((x[:, None] - centres[None]) ** 2).sum(axis=2)
    logs = -distances / 2 / bandwidth**2 - np.log(bandwidth * np.sqrt(2 * np.pi)) * x.shape[1]
    mean: np.ndarray = logsumexp(logs, axis=1) - np.log(len(centres))
    return mean


def test_the_score_is_the_negative_log_density_of_the_features() -> None:
    expected = -density(centred(TEST), centred(TRAIN), 0.7)
    assert scores(fitted("kde", bandwidth=0.7)) == pytest.approx(expected, rel=1e-9)


def test_the_bandwidth_has_the_largest_likelihood_of_held_out_images() -> None:
    x = centred(TRAIN)
    spread = float(np.sqrt(x.var(axis=0).mean()))
    likelihood = {}
    for scale in SCALES:
        folds = np.array_split(np.arange(len(x)), 5)
        parts = [density(x[fold], np.delete(x, fold, axis=0), scale * spread).sum() for fold in folds]
        likelihood[scale * spread] = sum(parts)
    best = max(likelihood, key=lambda bandwidth: likelihood[bandwidth])
    detector = fitted("kde")
    assert detector.state()["bandwidth_"] == pytest.approx(best)
    assert detector.chosen_ == {"bandwidth": detector.state()["bandwidth_"]}
    assert best not in (min(likelihood), max(likelihood))


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_reduced_to_95_percent_of_their_variance(name: str) -> None:
    images = (PIXELS / 255).astype(np.float32)
    detector = fitted(name, images, on="pixels")
    assert detector.needs == {"images"}
    flat = images.reshape(len(images), -1).astype(np.float64)
    model = decomposition.PCA(0.95, svd_solver="full").fit(flat)
    components = detector.state()["components_"].numpy()
    assert components.shape[1] == model.n_components_ < flat.shape[1]
    assert np.abs((components * model.components_.T).sum(axis=0)) == pytest.approx(1)
    assert (components[np.abs(components).argmax(axis=0), np.arange(components.shape[1])] > 0).all()
    plain = fitted(name, (flat @ components).astype(np.float32))
    if name != "kde":  # whose candidates differ
        assert scores(detector, images) == pytest.approx(
            scores(plain, (flat @ components).astype(np.float32)), rel=1e-3, abs=1e-6
        )
    else:
        assert detector.state()["bandwidth_"] in BANDWIDTHS


def test_a_share_of_one_keeps_everything_and_turns_nothing() -> None:
    matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    assert torch.equal(principal(matrix, 0.84), torch.eye(3, dtype=torch.float64)[:, :3])
    assert torch.equal(principal(matrix, 0.83), torch.eye(3, dtype=torch.float64)[:, :2])
    assert fitted("kde", variance=1.0).state()["components_"].shape == (6, 0)


@pytest.mark.parametrize("name", NAMES)
def test_at_most_so_many_images_are_used(name: str) -> None:
    rows = np.arange(40) * len(TRAIN) // 40
    moved = TRAIN[rows].astype(np.float64).mean(axis=0) - TRAIN.astype(np.float64).mean(axis=0)
    few, same = fitted(name, images=40), fitted(name, TRAIN[rows])
    assert moved.any()
    assert scores(few) == pytest.approx(scores(same), rel=0.05, abs=0.01)
    assert scores(few) != pytest.approx(scores(fitted(name)), rel=0.05, abs=0.01)
    if name == "kde":
        assert len(few.state()["vectors_"]) == 40


@pytest.mark.parametrize("name", NAMES)
def test_far_images_score_higher(name: str) -> None:
    detector = fitted(name)
    assert auroc(scores(detector, TRAIN), scores(detector, TRAIN * [[2, -4, 5, 5, 8, 9]])) > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_images_that_are_all_alike_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=f"{name} needs training images that differ, in features; all 9 are alike"):
        fitted(name, np.ones((9, 4), dtype=np.float32))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("on=maps", "on must be pixels or features, got 'maps'"),
        ("variance=0", "variance is a share and must lie above 0 and at most at 1, got 0.0"),
        ("variance=1.5", "variance is a share and must lie above 0 and at most at 1, got 1.5"),
        ("images=1", "images must be 2 or more, got 1"),
    ],
)
def test_settings_are_checked(name: str, setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create("detector", parse_spec(f"{name}[{setting}]"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ocsvm[nu=0]", "nu must lie above 0 and at most at 1, got 0.0"),
        ("ocsvm[gamma=-1]", "gamma must be positive and finite, got -1"),
        ("kde[bandwidth=0]", "bandwidth must be positive and finite, got 0"),
        ("isolation_forest[trees=0]", "trees must be 1 or more and samples 2 or more, got 0 and 256"),
        ("isolation_forest[samples=1]", "trees must be 1 or more and samples 2 or more, got 100 and 1"),
    ],
)
def test_own_settings_are_checked(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create("detector", parse_spec(spec))
