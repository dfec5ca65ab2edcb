"""Every plug-in keeps its contract, and every check catches a plug-in that does not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import (
    Backbone,
    Batch,
    Classifier,
    DataError,
    Dataset,
    Detector,
    FitData,
    Form,
    ImageSet,
    Recipe,
    Task,
    TrainBatch,
    Training,
)
from oodbench.benchmark.errors import OodbenchError, PluginError, UserError
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.registry import PluginEntry, registry
from oodbench.benchmark.verify import plugin_checks
from oodbench.benchmark.verify.plugin_checks import CHECKS, CheckError, Result, check_detector, fitted, run_checks
from oodbench.benchmark.verify.toy_world import planted_network, toy_batch, toy_world

pytestmark = pytest.mark.usefixtures("one_thread")

Register = Callable[[str, type[Plugin]], None]

SLOW: set[tuple[str, str]] = {("check_backbone", "wrn")}
"""(check, name) of what takes more than three seconds on one thread."""

KNOWN_FAILURES: dict[tuple[str, str], str] = {}
"""(check, name) -> why a plug-in of ours does not keep the contract."""


def cases() -> list[Any]:
    """Every check on everything registered, other distributions' plug-ins included."""
    found = []
    for kind in CHECKS:
        for check, name in itertools.product(CHECKS[kind], registry.entries(kind)):
            case = (check.__name__, name)
            marks = [pytest.mark.slow] if case in SLOW else []
            if case in KNOWN_FAILURES:
                marks.append(pytest.mark.xfail(reason=KNOWN_FAILURES[case], strict=True))
            found.append(pytest.param(check, name, id=f"{check.__name__}-{name}", marks=marks))
    return found


@pytest.mark.parametrize("check, name", cases())
def test_contract(check: Callable[[str], None], name: str, tmp_path: Path) -> None:
    kind = next(kind for kind in CHECKS if check in CHECKS[kind])
    if kind == "backbone" and (reason := registry.get(kind, name)().refuses((3, 32, 32))):
        pytest.skip(reason)
    if kind != "dataset":
        check(name)
    elif registry.get(kind, name)().missing(tmp_path) is None:
        plugin_checks.check_dataset(name, tmp_path)
    else:
        pytest.skip(registry.get(kind, name)().missing(tmp_path))


def test_lists_of_exceptions_are_not_stale() -> None:
    known = {case.id for case in cases()}
    assert {f"{check}-{name}" for check, name in SLOW | set(KNOWN_FAILURES)} <= known


# detectors that do not keep the contract


class Good(Detector):
    """Maximum logit, for the others to be wrong in one respect."""

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

    def __new__(cls, **settings: Any) -> ChangesItsSettings:
        made = super().__new__(cls)
        made.__dict__["power"] = 2.0
        return made

    def __init__(self, **settings: Any) -> None: ...


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
    """NumPy's generator is not the harness's."""

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
    """Seeded, but an image's noise is that of its place in the batch."""

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
    """Order matters, size does not."""

    def score(self, batch: Batch) -> Tensor:
        place = torch.arange(len(batch))
        return super().score(batch) * torch.where(place == 0, 1.5, 1.0)


class FailsOnOneImage(Good):
    """A squeeze too many: a set of 1,025 images ends in a batch of one."""

    def score(self, batch: Batch) -> Tensor:
        return -batch.logits.topk(1).values.squeeze()


class ClipsWeights(Good):
    """The same however often it is done, so that only the first time shows."""

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
    """What it learned has no name that ends in an underscore, so that it is not stored."""

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
    """How far the last block's strengths are below those of training."""

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
    """Chooses a bank of training images that it never compares with."""

    def bank_rows(self, train: Batch) -> Tensor | None:
        """The first ten."""
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
        "it cannot be made without settings: .*'power'; give every setting a default",
    ),
    (ChangesItsSettings, "check_declarations", r"the settings \{'power': 2.0\} differ from their defaults"),
    (ComparesUndeclared, "check_declarations", r"it has bank_rows\(\), but 'similarities' is not among its needs"),
    (ReducesUndeclared, "check_declarations", r"it has observe\(\), but 'maps' is not among its needs"),
    (NoSuchMapSetting, "check_declarations", r"map_settings \['power'\] are no settings"),
    (UnknownRecipe, "check_declarations", "Unknown recipe 'cross_entrpy'. Did you mean 'cross_entropy'?"),
    (ConfidentTheOtherWay, "check_confidence", "ranks images otherwise than score"),
    (OneConfidence, "check_confidence", r"one finite float a score, got shape \(1,\)"),
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
    (CentresTheBatch, "check_own_image_only", "the score depends on the size of the batch: image"),
    (LooksAtItsNeighbour, "check_own_image_only", "the score depends on the size of the batch: image"),
    (CountsImages, "check_own_image_only", "the score depends on the (size of|order in) the batch: image"),
    (FailsOnOneImage, "check_own_image_only", r"of shape \(\) for 1 images"),
    (ReducesTheBatch, "check_own_image_only", "the score depends on the size of the batch: image"),
    (ReducesToOneColumn, "check_scores", r"reduces the maps of 160 images to \(160,\); reduce\(\) must return"),
    (LooksAtTrainingMaps, "check_scores", "asked for 'maps', .* a training split that observe"),
    (LooksAtBlocks, "check_scores", "The classifier shows no blocks: a detector that looks at them declares"),
    (KeepsTheLastPieceOnly, "check_observes_in_pieces", "depends on how many training images it is shown at a time"),
    (ClipsWeights, "check_classifier_untouched", r"it changes the classifier: head\.weight$"),
    (NormalisesWeightsInScore, "check_classifier_untouched", r"it changes the classifier: head\.weight$"),
    (LeavesTrainingMode, "check_classifier_untouched", "it changes the classifier: network or mode$"),
    (WantsGradients, "check_classifier_untouched", "it changes the classifier: gradients$"),
    (LeavesGradients, "check_classifier_untouched", "it changes the classifier: gradients$"),
    (LeavesAHook, "check_classifier_untouched", "it changes the classifier: hooks left on it$"),
    (AsksForMore, "check_only_declared", "asked for 'features', which it does not declare"),
    (NeedsNoFeatures, "check_only_declared", "it declares 'features' and never looks at it; leave it out of needs"),
    (NeedsNoImages, "check_only_declared", "it declares 'images' and never looks at it"),
    (NeedsNoOutliers, "check_only_declared", "it declares 'outliers' and never looks at it"),
    (NeedsNoNetwork, "check_only_declared", "it declares 'network' and never looks at it"),
    (
        UpsideDown,
        "check_oriented",
        r"AUROC on planted features is 0\.\d+, expected above 0.8; a score is higher for OOD",
    ),
    (Blind, "check_oriented", r"AUROC on planted features is 0\.\d+, expected above 0.8"),
    (LearnsAnObject, "check_state", "learned cannot be stored: Object of type Linear is not JSON serializable"),
    (LearnsInSecret, "check_state", "scores change when what it learned is stored and read back"),
]


def wrong_id(value: object) -> str:
    """A class's or a check's name; sentences are too long for an id."""
    if isinstance(value, type):
        return value.__name__
    return str(value) if str(value).startswith("check_") else ""


@pytest.mark.parametrize("plugin, check, told", WRONG_DETECTORS, ids=wrong_id)
def test_a_wrong_detector_is_caught(register: Register, plugin: type[Detector], check: str, told: str) -> None:
    register("checks_wrong", plugin)
    with pytest.raises((CheckError, OodbenchError), match=told):
        getattr(plugin_checks, check)("checks_wrong")
    plugin_checks.check_oriented("max_logit")  # it has spoilt nothing for the others


@pytest.mark.parametrize("plugin", [ClipsWeights, NormalisesWeightsInScore, LeavesAHook, UpsideDown], ids=wrong_id)
def test_earlier_checks_do_not_hide_what_is_wrong(register: Register, plugin: type[Detector]) -> None:
    """Weights that are clipped already do not change when they are clipped again."""
    register("checks_wrong", plugin)
    expected = {check for wrong, check, _ in WRONG_DETECTORS if wrong is plugin}
    assert expected <= {result.check for result in run_checks(["checks_wrong"], Path()) if result.status == "failed"}


def test_one_function_raises_at_the_first_check_that_fails(register: Register) -> None:
    register("checks_wrong", UpsideDown)
    with pytest.raises(CheckError, match="AUROC on planted features"):
        check_detector("checks_wrong")


def test_a_right_detector_passes(register: Register) -> None:
    for right in (Good, KeepsMaps):
        register("checks_right", right)
        check_detector("checks_right")
    assert {result.status for result in run_checks(["checks_right"], Path())} == {"ok"}


def test_every_detector_check_has_a_detector_that_it_catches() -> None:
    assert {check for _, check, _ in WRONG_DETECTORS} == {check.__name__ for check in CHECKS["detector"]}


def test_a_detector_that_raises_is_told_and_the_rest_goes_on(register: Register) -> None:
    register("checks_raises", LearnsUnderAPlainName)
    results = {result.check: result for result in run_checks(["checks_raises"], Path())}
    assert len(results) == len(CHECKS["detector"])
    assert results["check_declarations"].status == "ok"
    assert results["check_scores"].status == "failed"
    assert results["check_scores"].reason.startswith("AttributeError: LearnsUnderAPlainName.mean: what is learned must")


class NeedsAllOfIt(Good):
    """Each need is of use in its own way: some in fit only, one in pieces."""

    needs = frozenset({"logits", "features", "images", "network", "outliers"})
    passes = 1

    def fit(self, classifier: Classifier, data: FitData) -> None:
        assert data.outliers is not None
        self.mean_ = data.train.features.mean(dim=0)
        self.shift_ = float(data.outliers.images.mean() + data.validation.labels.float().mean())

    def score(self, batch: Batch) -> Tensor:
        again = torch.cat([piece.classifier(piece.images) for piece in batch.batches(7)]).double()
        return -batch.logits.amax(dim=1) - 1e-3 * again.amax(dim=1) + 1e-6 * self.shift_


def test_needs_that_are_of_use_somewhere_are_left_alone(register: Register) -> None:
    register("checks_all", NeedsAllOfIt)
    check_detector("checks_all")


class Gradients(Good):
    """Gradients flow through what the toy world supplies, as through what a run supplies."""

    needs = frozenset({"features", "network"})
    passes = 1

    def score(self, batch: Batch) -> Tensor:
        features = batch.features.requires_grad_(True)
        logits = batch.classifier.head(features)
        (gradient,) = torch.autograd.grad(logits.logsumexp(dim=1).sum(), features)
        scores: Tensor = gradient.norm(dim=1).double() - logits.detach().amax(dim=1).double()
        return scores


def test_the_toy_world_lets_gradients_flow(register: Register) -> None:
    register("checks_gradients", Gradients)
    check_detector("checks_gradients")


class NotOriented(Good):
    is_sanity_baseline = True
    needs = frozenset({"logits"})

    def score(self, batch: Batch) -> Tensor:
        return torch.zeros(len(batch))


def test_a_sanity_row_need_not_find_anything(register: Register) -> None:
    register("checks_constant", NotOriented)
    check_detector("checks_constant")


# the toy world


def test_the_toy_world_is_the_same_twice() -> None:
    first = toy_world()
    toy_world.cache_clear()
    second = toy_world()
    assert [part.checksum for part in first[1:]] == [part.checksum for part in second[1:]]
    for one, other in ((first.classifier.network, second.classifier.network), (planted_network(), planted_network())):
        assert all(
            torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        )


def test_the_toy_classifier_classifies(register: Register) -> None:
    register("checks_right", Good)
    batch = toy_batch(fitted("checks_right"), toy_world().test, labelled=True)
    assert (batch.logits.argmax(dim=1) == batch.labels).all()
    assert batch.logits.dtype == torch.float64


# recipes that do not keep the contract


class Plain(Recipe):
    """Cross-entropy by hand, for the others to be wrong in one respect."""

    def networks(self, task: Task) -> dict[str, nn.Module]:
        return {"classifier": task.build_classifier()}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        return {name: torch.optim.SGD(network.parameters(), lr=0.1) for name, network in networks.items()}

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        loss = F.cross_entropy(training.networks["classifier"](batch.images), batch.labels)
        for optimizer in training.optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        training.optimizers["classifier"].step()
        return {"loss": loss.detach()}


class LearnsNothing(Plain):
    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        return {name: torch.optim.SGD(network.parameters(), lr=0.0) for name, network in networks.items()}


class ForgetsANetwork(Plain):
    def networks(self, task: Task) -> dict[str, nn.Module]:
        return {**super().networks(task), "critic": nn.Linear(2, 2)}


class Diverges(Plain):
    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        return {"loss": super().step(training, batch)["loss"] * torch.nan}


class DivergesAtFirst(Plain):
    seen: ClassVar[list[int]] = []

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        self.seen.append(1)
        return {"loss": super().step(training, batch)["loss"] / (0 if len(self.seen) % 3 == 1 else 1)}


class ReturnsAFloat(Plain):
    def step(self, training: Training, batch: TrainBatch) -> dict[str, Any]:
        return {"loss": float(super().step(training, batch)["loss"])}


class ReturnsAttached(Plain):
    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        super().step(training, batch)
        return {"loss": F.cross_entropy(training.networks["classifier"](batch.images), batch.labels)}


class ReturnsAVector(Plain):
    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        return {"loss": super().step(training, batch)["loss"].repeat(2)}


class ReturnsNothing(Plain):
    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        super().step(training, batch)
        return {}


class RenamesItsLosses(Plain):
    names: ClassVar[Any] = itertools.count()

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        return {f"loss{next(self.names)}": super().step(training, batch)["loss"]}


class SaysItTrainsNoClassifier(Plain):
    trains_classifier = False


class TrainsNoClassifier(Plain):
    def networks(self, task: Task) -> dict[str, nn.Module]:
        return {"other": task.build_classifier()}


class DrawsUnseeded(Plain):
    random: ClassVar[np.random.RandomState] = np.random.RandomState()

    def networks(self, task: Task) -> dict[str, nn.Module]:
        networks = super().networks(task)
        with torch.no_grad():
            next(networks["classifier"].parameters()).mul_(self.random.rand())
        return networks


WRONG_RECIPES: list[tuple[type[Recipe], str, str]] = [
    (LearnsNothing, "check_recipe_learns", "network 'classifier' does not change in three steps"),
    (ForgetsANetwork, "check_recipe_learns", "network 'critic' does not change in three steps"),
    (Diverges, "check_recipe_learns", r"loss 'loss' must be a finite, detached scalar tensor, got tensor\(nan\)"),
    (
        DivergesAtFirst,
        "check_recipe_learns",
        r"loss 'loss' must be a finite, detached scalar tensor, got tensor\(inf\)",
    ),
    (ReturnsAFloat, "check_recipe_learns", r"loss 'loss' must be a finite, detached scalar tensor, got \d\.\d+"),
    (
        ReturnsAttached,
        "check_recipe_learns",
        "loss 'loss' must be a finite, detached scalar tensor, got tensor.*grad_fn",
    ),
    (ReturnsAVector, "check_recipe_learns", "loss 'loss' must be a finite, detached scalar tensor"),
    (ReturnsNothing, "check_recipe_learns", "returns no losses, or other names from step to step"),
    (RenamesItsLosses, "check_recipe_learns", "returns no losses, or other names from step to step"),
    (
        SaysItTrainsNoClassifier,
        "check_recipe_learns",
        "trains_classifier does not fit its networks, which are classifier",
    ),
    (TrainsNoClassifier, "check_recipe_learns", "KeyError|trains_classifier does not fit its networks"),
    (DrawsUnseeded, "check_recipe_repeats", "network 'classifier' differs between two trainings with the same seed"),
]


@pytest.mark.parametrize("plugin, check, told", WRONG_RECIPES, ids=wrong_id)
def test_a_wrong_recipe_is_caught(register: Register, plugin: type[Recipe], check: str, told: str) -> None:
    register("checks_wrong", plugin)
    results = {result.check: result for result in run_checks(["checks_wrong"], Path())}
    assert results[check].status == "failed"
    assert re.search(told, results[check].reason)


def test_a_right_recipe_passes(register: Register) -> None:
    register("checks_right", Plain)
    assert {result.status for result in run_checks(["checks_right"], Path())} == {"ok"}


# backbones that do not keep the contract


class Net(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Linear(3 * 32 * 32, 6)
        self.head: nn.Module = nn.Linear(6, num_classes)

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.body(images.flatten(1))
        return features

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


class ForwardGoesItsOwnWay(Net):
    def forward(self, images: Tensor) -> Tensor:
        return 2 * super().forward(images)


class BatchDependent(Net):
    def features(self, images: Tensor) -> Tensor:
        features = super().features(images)
        return features - features.mean(dim=0)


class FeatureMaps(Net):
    def features(self, images: Tensor) -> Tensor:
        return super().features(images)[:, None]


class TooManyLogits(Net):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes + 1)


class NotFinite(Net):
    def features(self, images: Tensor) -> Tensor:
        return super().features(images) / 0


class HeadOfTwoLayers(Net):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.head = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, num_classes))


class HeadWithoutBias(Net):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.head = nn.Linear(6, num_classes, bias=False)


@pytest.mark.parametrize(
    "net, told",
    [
        (Net, ""),
        (ForwardGoesItsOwnWay, r"forward\(images\) differs from head\(features\(images\)\)"),
        (BatchDependent, r"forward\(images\) differs from images one by one"),
        (FeatureMaps, r"features \(12, 1, 6\) or logits \(12, 1, 4\) are not finite and of shape \(N, D\) and"),
        (TooManyLogits, r"features \(12, 6\) or logits \(12, 5\) are not"),
        (NotFinite, r"features \(12, 6\) or logits \(12, 4\) are not finite and of shape"),
        (HeadOfTwoLayers, r"head must be a linear layer with weight \(K, D\) and bias \(K,\), got Sequential"),
        (HeadWithoutBias, r"head must be a linear layer with weight \(K, D\) and bias \(K,\), got Linear"),
    ],
    ids=wrong_id,
)
def test_a_wrong_backbone_is_caught(register: Register, net: type[Net], told: str) -> None:
    class Mine(Backbone):
        def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
            return net(num_classes)

    register("checks_net", Mine)
    if not told:
        plugin_checks.check_backbone("checks_net")
        return
    with pytest.raises(CheckError, match=told):
        plugin_checks.check_backbone("checks_net")


# data sets and forms that do not keep the contract


def drawn(seed: int, count: int = 6, labelled: bool = True) -> ImageSet:
    images = np.random.RandomState(seed).randint(0, 256, (count, 3, 4, 4)).astype(np.uint8)
    return ImageSet(images, np.arange(count) % 2, ("a", "b")) if labelled else ImageSet(images)


class Embedded(Dataset):
    classes = ("a", "b")

    def load(self, split: str, data_dir: Path) -> ImageSet:
        return drawn(len(split))


class Overlapping(Embedded):
    def load(self, split: str, data_dir: Path) -> ImageSet:
        if split == "train":
            return drawn(5)
        images = drawn(4).images.copy()
        images[2] = drawn(5).images[3]
        return ImageSet(images, np.arange(6) % 2, ("a", "b"))


class WrongChecksum(Embedded):
    checksums: ClassVar[Mapping[str, str]] = {"test": "0" * 64}


class RightChecksum(Embedded):
    checksums: ClassVar[Mapping[str, str]] = {"test": drawn(4).checksum, "train": drawn(5).checksum}


class DrawnAnew(Embedded):
    seeds: ClassVar[Any] = itertools.count(100)

    def load(self, split: str, data_dir: Path) -> ImageSet:
        return drawn(next(self.seeds))


class Unlabelled(Embedded):
    def load(self, split: str, data_dir: Path) -> ImageSet:
        return drawn(len(split), labelled=False)


class OtherClasses(Embedded):
    classes = ("b", "a")


class Unreadable(Embedded):
    def load(self, split: str, data_dir: Path) -> ImageSet:
        raise OSError("cannot be read")


@pytest.mark.parametrize(
    "plugin, told",
    [
        (Embedded, ""),
        (RightChecksum, ""),
        (Overlapping, "the test split holds an image of the train split"),
        (WrongChecksum, rf"the test split has checksum {drawn(4).checksum}, the card says 0000"),
        (DrawnAnew, "the train split has checksum [0-9a-f]{64}, it had another when loaded again: [0-9a-f]{64}"),
        (Unlabelled, "the train split and the card differ in classes"),
        (OtherClasses, "the train split and the card differ in classes"),
    ],
    ids=wrong_id,
)
def test_a_wrong_data_set_is_caught(register: Register, tmp_path: Path, plugin: type[Dataset], told: str) -> None:
    register("checks_data", plugin)
    if not told:
        plugin_checks.check_dataset("checks_data", tmp_path)
        return
    with pytest.raises(CheckError, match=told):
        plugin_checks.check_dataset("checks_data", tmp_path)


def test_a_data_set_that_cannot_be_read_is_told(register: Register, tmp_path: Path) -> None:
    register("checks_data", Unreadable)
    with pytest.raises(DataError, match="OSError: cannot be read"):
        plugin_checks.check_dataset("checks_data", tmp_path)


class Absent(Embedded):
    def missing(self, data_dir: Path) -> str | None:
        return "Put x.npy there."


def test_a_data_set_that_is_absent_is_skipped_in_a_list_and_refused_alone(register: Register, tmp_path: Path) -> None:
    register("checks_data", Absent)
    assert list(run_checks(["checks_data"], tmp_path)) == [
        Result("dataset", "checks_data", "check_dataset", "skipped", "Put x.npy there.")
    ]
    with pytest.raises(UserError, match=r"^Put x\.npy there\.$"):
        plugin_checks.check_dataset("checks_data", tmp_path)


class CannotSay(Embedded):
    def missing(self, data_dir: Path) -> str | None:
        raise KeyError("x")


def test_a_data_set_that_cannot_say_whether_it_is_there_is_told(register: Register, tmp_path: Path) -> None:
    register("checks_data", CannotSay)
    (result,) = run_checks(["checks_data"], tmp_path)
    assert (result.status, result.reason) == ("failed", "KeyError: 'x'")


class Inverted(Form):
    def apply(self, images: np.ndarray) -> np.ndarray:
        return 255 - images


class InPlace(Form):
    def apply(self, images: np.ndarray) -> np.ndarray:
        images += 1
        return images


class Cropped(Form):
    def apply(self, images: np.ndarray) -> np.ndarray:
        cropped: np.ndarray = images[:, :, 1:].copy()
        return cropped


class Floats(Form):
    def apply(self, images: np.ndarray) -> np.ndarray:
        floats: np.ndarray = images / 255
        return floats


class MeanSubtracted(Form):
    def apply(self, images: np.ndarray) -> np.ndarray:
        changed: np.ndarray = (images - images.mean(axis=0)).astype(np.uint8)
        return changed


class Random(Form):
    random: ClassVar[np.random.RandomState] = np.random.RandomState()

    def apply(self, images: np.ndarray) -> np.ndarray:
        noise: np.ndarray = self.random.randint(0, 256, images.shape).astype(np.uint8)
        return noise


@pytest.mark.parametrize(
    "plugin, told",
    [
        (Inverted, ""),
        (InPlace, r"apply\(\) must return new uint8 images of the same shape and leave its input alone"),
        (Cropped, r"apply\(\) must return new uint8 images of the same shape"),
        (Floats, r"apply\(\) must return new uint8 images of the same shape"),
        (MeanSubtracted, "an image's changed form depends on the other images"),
        (Random, "an image's changed form depends on the other images"),
    ],
    ids=wrong_id,
)
def test_a_wrong_form_is_caught(register: Register, plugin: type[Form], told: str) -> None:
    before = toy_world().test.images.copy()
    register("checks_form", plugin)
    if not told:
        plugin_checks.check_form("checks_form")
        return
    with pytest.raises(CheckError, match=told):
        plugin_checks.check_form("checks_form")
    assert np.array_equal(toy_world().test.images, before), "it has spoilt nothing for the others"


# suites


@pytest.mark.parametrize("where", ["recipes", "id.recipes"])
def test_a_suite_with_a_mistyped_setting_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'schema = 1\nprotocol = { backbone = "small_cnn", recipe = "cross_entropy" }\n'
        f'[[id]]\nset = "digits"\nood = [{{ set = "greek" }}]\n[{where}.confidence]\nbetta = 1.0\n'
    )
    entry = PluginEntry("suite", "checks_suite", "", "a test", lambda: path)
    monkeypatch.setitem(registry._from_files, ("suite", "checks_suite"), entry)
    (result,) = run_checks(["checks_suite"], tmp_path)
    assert (result.kind, result.status) == ("suite", "failed")
    assert result.reason.startswith("Unknown setting of the recipe 'confidence': 'betta'. Did you mean 'beta'?")


# running them


def test_one_name_may_stand_for_several_kinds() -> None:
    kinds = {result.kind for result in run_checks(["confidence"], Path())}
    assert kinds == {"detector", "recipe"}


def test_an_unknown_name_gets_the_nearest_of_all_kinds() -> None:
    with pytest.raises(
        UserError, match=r"^Unknown plug-in 'permutd'\. Did you mean 'permuted'\? 'bench list' shows all"
    ):
        list(run_checks(["permutd"], Path()))


def test_all_stands_for_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {kind: dict(list(registry.entries(kind).items())[:1]) for kind in CHECKS}
    monkeypatch.setattr(registry, "entries", entries.__getitem__)
    asked: list[tuple[str, str]] = []

    def note(kind: str, name: str, data_dir: Path) -> list[Result]:
        asked.append((kind, name))
        return []

    monkeypatch.setattr(plugin_checks, "_run", note)
    list(run_checks(["all"], Path()))
    assert asked == [(kind, next(iter(entries[kind]))) for kind in CHECKS]


def test_what_does_not_import_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise PluginError("ImportError: no such thing")

    entry = PluginEntry("detector", "checks_broken", "", "a test", broken)
    monkeypatch.setitem(registry._from_files, ("detector", "checks_broken"), entry)
    (result,) = run_checks(["checks_broken"], Path())
    assert result == Result("detector", "checks_broken", "import", "failed", "ImportError: no such thing")
