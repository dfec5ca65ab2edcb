"""Contract checks of detectors, on a toy world of 3-channel 32 x 32 images with planted classes and OOD images.

Each check takes a detector's name and returns nothing, or raises `CheckError` with one sentence. All of them together
take seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Set

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.metrics.exact import auroc
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.detector import Detector, compares, observes
from oodbench.benchmark.plugins.inputs import NEEDS, FitData, UndeclaredInputError
from oodbench.benchmark.plugins.recipe import Recipe
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.stages.detecting.score_checks import checked_scores
from oodbench.benchmark.stages.detector_state import stored_and_loaded
from oodbench.benchmark.stats.seeds import restored_rng
from oodbench.benchmark.verify.check_error import CheckError, SkippedCheck
from oodbench.benchmark.verify.engine_check import check_run
from oodbench.benchmark.verify.toy_world import (
    as_declared,
    fresh_classifier,
    planted_network,
    reader_of,
    toy_bank_batch,
    toy_batch,
    toy_observe,
    toy_world,
)

TOLERANCE = 1e-5
"""Relative difference allowed between scores: logits change in the last bits with the number of images in a batch."""


def fitted(name: str, supplied: Collection[str] = tuple(NEEDS), piece: int = 100) -> Detector:
    """A detector fitted on the toy world, with a fixed seed, then stored and loaded as in a run.

    The arguments are those of `fitted_in_memory`.
    """
    return stored_and_loaded(fitted_in_memory(create("detector", parse_spec(name)), supplied, piece))


def fitted_in_memory(detector: Detector, supplied: Collection[str] = tuple(NEEDS), piece: int = 100) -> Detector:
    """Fit a detector on the toy world, with a fixed seed.

    Args:
        detector: A new detector.
        supplied: The inputs that are available; others raise an error on access even if the detector declares them.
        piece: Number of training images per call of `observe`.
    """
    world, classifier = toy_world(), fresh_classifier()
    if reason := detector.refuses(classifier.network):
        raise SkippedCheck(f"it cannot score with the network of the checks: {reason}")
    supplied_in_train = supplied
    if observes(detector):
        supplied_in_train = set(supplied) - {"maps"}
        if "maps" in supplied:
            toy_observe(detector, world.train, piece)
    train = toy_batch(detector, world.train, True, supplied_in_train)
    validation = toy_batch(detector, world.validation, True, supplied)
    outliers = None
    if "outliers" in detector.needs:
        outliers = toy_batch(detector, world.ood, supplied=supplied if "outliers" in supplied else ())
    with restored_rng(torch.device("cpu")):
        torch.manual_seed(0)
        passed = as_declared(reader_of(detector) or classifier, detector, supplied)
        rows = detector.bank_rows(toy_bank_batch(detector)) if compares(detector) else None
        detector.fit(passed, FitData(train, validation, outliers, rows))
    return detector


def _scores(detector: Detector, images: ImageSet, rows: np.ndarray | None = None) -> np.ndarray:
    """Scores of images, or of some of their rows in a separate batch, with a fixed seed."""
    with restored_rng(torch.device("cpu")):
        torch.manual_seed(1)
        return checked_scores(detector, toy_batch(detector, images, rows=rows))


def check_declarations(name: str) -> None:
    """The inputs in `needs` exist, settings have defaults and are stored unchanged, and the recipe exists."""
    cls: type[Detector] = registry.get("detector", name)
    if reason := cls.own_init():
        raise CheckError(reason)
    for attribute, value in cls.unannotated().items():
        typed = f"{type(value).__name__} = {value!r}"
        raise CheckError(
            f"its class attribute '{attribute}' has no annotation: a setting is written `{attribute}: {typed}`, a "
            f"constant `{attribute}: ClassVar[{typed.replace(' =', '] =', 1)}`"
        )
    if unknown := set(cls.needs) - set(NEEDS):
        raise CheckError(f"needs {sorted(unknown)} are unknown; known are {', '.join(NEEDS)}")
    if not isinstance(cls.reads, Set) or not all(isinstance(name, str) for name in cls.reads):
        raise CheckError(f"reads is {cls.reads!r}; write a set of names, such as reads = frozenset({{'confidence'}})")
    if cls.passes and "network" not in cls.needs:
        raise CheckError(f"passes is {cls.passes}, but 'network' is not among its needs")
    for method in ("observe", "reduce"):
        if "maps" not in cls.needs and getattr(cls, method) is not getattr(Detector, method):
            raise CheckError(f"it has {method}(), but 'maps' is not among its needs")
    if "similarities" not in cls.needs and cls.bank_rows is not Detector.bank_rows:
        raise CheckError("it has bank_rows(), but 'similarities' is not among its needs")
    if unknown := set(cls.map_settings or ()) - {field.name for field in dataclasses.fields(cls)}:
        raise CheckError(f"map_settings names {sorted(unknown)}, which it does not have as settings")
    try:
        detector = cls()
    except TypeError as error:
        raise CheckError(f"it cannot be created without settings: {error}; give every setting a default") from error
    if detector.changed_settings():
        raise CheckError(f"the settings {detector.changed_settings()} differ from their defaults after construction")
    if cls.recipe is not None:
        registry.get("recipe", cls.recipe)
    if undeclared := _undeclared(cls):
        needs = ", ".join(f'"{need}"' for need in sorted({*cls.needs, *undeclared}))
        inputs = " and ".join(undeclared)
        raise CheckError(f"it reads {inputs} without declaring it; write needs = frozenset({{{needs}}})")


def _with(cls: type[Detector], **declared: Set[str]) -> type[Detector]:
    """The same detector with other `needs` or `reads`."""
    changed: type[Detector] = type(cls.__name__, (cls,), {**declared, "__module__": cls.__module__})
    return changed


def _undeclared(cls: type[Detector]) -> list[str]:
    """All inputs that a detector reads and does not declare: each is added to its needs in turn, until none is left."""
    needs = set(cls.needs)
    while True:
        generous = _with(cls, needs=frozenset(needs))
        try:
            fitted_in_memory(generous()).score(toy_batch(generous(), toy_world().test))
        except UndeclaredInputError as error:
            if error.name in needs or error.name not in NEEDS:
                break
            needs.add(error.name)
        except Exception:  # the checks of scores report it
            break
        else:
            break
    return [need for need in NEEDS if need in needs - cls.needs]


def check_scores(name: str) -> None:
    """`score` returns one finite number per image, and the same numbers again with the same seed."""
    detector, images = fitted(name), toy_world().test
    first, second = _scores(detector, images), _scores(detector, images)
    if not np.array_equal(first, second):
        raise CheckError(f"{int((first != second).sum())} of {len(first)} scores change when scored again")
    if not np.array_equal(first, _scores(fitted(name), images)):
        raise CheckError("scores change when it is fitted again with the same seed")


def check_own_image_only(name: str) -> None:
    """The score of an image depends neither on the size of its batch nor on its position there."""
    detector, images = fitted(name), toy_world().test
    together = _scores(detector, images)
    rows = np.arange(len(images))
    pieces = [rows[:1], *np.array_split(rows[1:], 22)]
    in_pieces = np.concatenate([_scores(detector, images, piece) for piece in pieces])
    reversed_ = _scores(detector, images, rows[::-1].copy())[::-1]
    for cause, other in (("the size of the batch", in_pieces), ("the order in the batch", reversed_)):
        if not np.allclose(together, other, rtol=TOLERANCE, atol=TOLERANCE * np.abs(together).max()):
            worst = int(np.abs(together - other).argmax())
            raise CheckError(
                f"the score depends on {cause}: image {worst} has {together[worst]} and {other[worst]}. If it uses a "
                "statistic of the batch, such as a mean, rank or normalisation, compute that in fit() and keep it in "
                "an attribute whose name ends in '_'"
            )


def check_observes_in_pieces(name: str) -> None:
    """What `observe` learns does not depend on the number of images per call."""
    if not observes(create("detector", parse_spec(name))):
        return
    images = toy_world().test
    in_pieces, at_once = (_scores(fitted(name, piece=piece), images) for piece in (100, len(toy_world().train)))
    if not np.allclose(in_pieces, at_once, rtol=TOLERANCE, atol=TOLERANCE * np.abs(in_pieces).max()):
        raise CheckError("what observe() learns depends on the number of training images per call")


def check_classifier_untouched(name: str) -> None:
    """Fitting and scoring leave the network's weights, mode, gradients and hooks unchanged."""
    detector = fitted(name)
    classifier = toy_world().classifier
    network, before = classifier.network, planted_network().state_dict()
    _scores(detector, toy_world().test)
    after = network.state_dict()
    changed = [key for key in before if key not in after or not torch.equal(after[key], before[key])]
    if classifier.network is not network or network.training:
        changed.append("network or mode")
    if any(p.grad is not None or p.requires_grad for p in network.parameters()):
        changed.append("gradients")
    if any(module._forward_hooks or module._forward_pre_hooks for module in network.modules()):
        changed.append("hooks left on it")
    if changed:
        raise CheckError(f"it changes the classifier: {', '.join(changed)}")


def check_only_declared(name: str) -> None:
    """The detector works with the inputs that it declares (others raise on access), and reads each of them."""
    detector = fitted(name)
    _scores(detector, toy_world().test)
    for need in sorted(detector.needs) if not detector.is_sanity_baseline else ():
        supplied = set(NEEDS) - {need}
        try:
            fitted(name, supplied).score(toy_batch(detector, toy_world().test, supplied=supplied))
        except OodbenchError:
            continue
        raise CheckError(f"it declares '{need}' but never reads it; leave it out of needs")
    for name in sorted(detector.reads):
        fewer = _with(type(detector), reads=detector.reads - {name})
        try:
            fitted_in_memory(fewer()).score(toy_batch(fewer(), toy_world().test))
        except OodbenchError:
            continue
        raise CheckError(f"it declares output '{name}' but never reads it; leave it out of reads")


def check_oriented(name: str) -> None:
    """Planted OOD images, blends of classes or a strange pattern, score higher than ID images: AUROC above 0.8."""
    detector, world = fitted(name), toy_world()
    if detector.is_sanity_baseline:
        return
    own: Recipe | None = create("recipe", parse_spec(detector.recipe)) if detector.recipe else None
    if detector.reads or (own is not None and not own.gives_logits()):
        raise SkippedCheck("it reads outputs of its recipe's network, which is not trained here")
    known = _scores(detector, world.test)
    value = auroc(known, _scores(detector, world.ood))
    if value <= 0.8 and auroc(known, _scores(detector, world.strange)) <= 0.8:
        raise CheckError(f"AUROC on planted features is {value:.3f}, expected above 0.8; a score is higher for OOD")


def check_confidence(name: str) -> None:
    """`confidence_of`, if it returns anything, falls as the score rises."""
    detector = fitted(name)
    scores = np.sort(_scores(detector, toy_world().test))
    confidence = detector.confidence_of(scores)
    if confidence is None:
        return
    if np.shape(confidence) != scores.shape or not np.isfinite(confidence).all():
        raise CheckError(f"confidence_of() must return one finite float per score, got shape {np.shape(confidence)}")
    if (np.diff(confidence) > 0).any():
        raise CheckError("confidence_of() ranks images differently from score(): it must fall as the score rises")


def check_state(name: str) -> None:
    """What the detector learned can be stored and loaded, and gives the same scores."""
    kept, images = fitted_in_memory(create("detector", parse_spec(name))), toy_world().test
    loaded = stored_and_loaded(kept)
    for attribute, value in kept.state().items():
        if isinstance(value, Tensor) and value.is_inference():  # no gradient can pass, which in a run it can
            setattr(kept, attribute, value.clone())
    if not np.array_equal(_scores(kept, images), _scores(loaded, images)):
        raise CheckError("scores change when what it learned is stored and loaded")


DETECTOR_CHECKS: tuple[Callable[[str], None], ...] = (
    check_declarations,
    check_scores,
    check_own_image_only,
    check_observes_in_pieces,
    check_classifier_untouched,
    check_only_declared,
    check_oriented,
    check_confidence,
    check_state,
    check_run,
)
"""In the order in which they run."""
