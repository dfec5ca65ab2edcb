"""What every plug-in must keep, as functions anyone can run: `bench check NAME`, or `check_detector` in a test.

Each check takes a plug-in's name and returns nothing, or raises `CheckError` with one sentence. They run on a toy
world of 3-channel 32 x 32 images whose classes and outliers are planted, so that they take seconds.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import OodbenchError, UserError, unknown
from oodbench.benchmark.metrics.exact import auroc
from oodbench.benchmark.plan.suite import read_suite
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.detector import Detector, compares, observes
from oodbench.benchmark.plugins.figures import Figures
from oodbench.benchmark.plugins.inputs import NEEDS, FitData
from oodbench.benchmark.plugins.recipe import Task, TrainBatch, Training
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_set, parse_spec
from oodbench.benchmark.stages.detector_inputs import checked_scores
from oodbench.benchmark.stages.detector_state import load_state, save_state
from oodbench.benchmark.verify.toy_world import (
    CLASSES,
    SIDE,
    Trainee,
    fresh_classifier,
    planted_network,
    toy_bank_batch,
    toy_batch,
    toy_observe,
    toy_world,
)

TOLERANCE = 1e-5
"""Relative: logits move in the last bits with the number of images in a batch."""


class CheckError(AssertionError):
    """A plug-in does not keep its contract."""


class Result(NamedTuple):
    """One check's outcome: 'ok', 'failed' or 'skipped', with the reason."""

    kind: str
    name: str
    check: str
    status: str
    reason: str = ""


def fitted(name: str, supplied: Collection[str] = tuple(NEEDS), piece: int = 100) -> Detector:
    """A detector fitted on the toy world, seeded; of what it declares, only what is `supplied` is there.

    One that observes is shown `piece` training images at a time.
    """
    detector: Detector = create("detector", parse_spec(name))
    world, classifier = toy_world(), fresh_classifier()
    of_train = supplied
    if observes(detector):
        of_train = set(supplied) - {"maps"}
        if "maps" in supplied:
            toy_observe(detector, world.train, piece)
    train = toy_batch(detector, world.train, True, of_train)
    validation = toy_batch(detector, world.validation, True, supplied)
    outliers = None
    if "outliers" in detector.needs:
        outliers = toy_batch(detector, world.ood, supplied=supplied if "outliers" in supplied else ())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shown = classifier if "maps" in detector.needs & set(supplied) else classifier.without_blocks()
        rows = detector.bank_rows(toy_bank_batch(detector)) if compares(detector) else None
        detector.fit(shown, FitData(train, validation, outliers, rows))
    return detector


def _scores(detector: Detector, images: ImageSet, rows: np.ndarray | None = None) -> np.ndarray:
    """Seeded scores of images, or of some of their rows in a batch of their own."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return checked_scores(detector, toy_batch(detector, images, rows=rows))


def check_declarations(name: str) -> None:
    """Needs are known ones, settings have defaults and are stored unchanged, the recipe exists."""
    cls: type[Detector] = registry.get("detector", name)
    if strange := set(cls.needs) - set(NEEDS):
        raise CheckError(f"needs {sorted(strange)} are unknown; known are {', '.join(NEEDS)}")
    if cls.passes and "network" not in cls.needs:
        raise CheckError(f"passes is {cls.passes}, but 'network' is not among its needs")
    for method in ("observe", "reduce"):
        if "maps" not in cls.needs and getattr(cls, method) is not getattr(Detector, method):
            raise CheckError(f"it has {method}(), but 'maps' is not among its needs")
    if "similarities" not in cls.needs and cls.bank_rows is not Detector.bank_rows:
        raise CheckError("it has bank_rows(), but 'similarities' is not among its needs")
    if strange := set(cls.map_settings or ()) - {field.name for field in dataclasses.fields(cls)}:
        raise CheckError(f"map_settings {sorted(strange)} are no settings")
    try:
        detector = cls()
    except TypeError as error:
        raise CheckError(f"it cannot be made without settings: {error}; give every setting a default") from error
    if detector.changed_settings():
        raise CheckError(f"the settings {detector.changed_settings()} differ from their defaults after construction")
    if cls.recipe is not None:
        registry.get("recipe", cls.recipe)


def check_scores(name: str) -> None:
    """One finite float an image, and the same again with the same seed."""
    detector, images = fitted(name), toy_world().test
    once, again = _scores(detector, images), _scores(detector, images)
    if not np.array_equal(once, again):
        raise CheckError(f"{int((once != again).sum())} of {len(once)} scores change when scored again")
    if not np.array_equal(once, _scores(fitted(name), images)):
        raise CheckError("scores change when it is fitted again with the same seed")


def check_own_image_only(name: str) -> None:
    """An image's score does not depend on the batch that it comes in, nor on its place there."""
    detector, images = fitted(name), toy_world().test
    together = _scores(detector, images)
    rows = np.arange(len(images))
    pieces = [rows[:1], *np.array_split(rows[1:], 22)]
    alone = np.concatenate([_scores(detector, images, piece) for piece in pieces])
    backwards = _scores(detector, images, rows[::-1].copy())[::-1]
    for what, other in (("the size of the batch", alone), ("the order in the batch", backwards)):
        if not np.allclose(together, other, rtol=TOLERANCE, atol=TOLERANCE * np.abs(together).max()):
            worst = int(np.abs(together - other).argmax())
            raise CheckError(f"the score depends on {what}: image {worst} has {together[worst]} and {other[worst]}")


def check_observes_in_pieces(name: str) -> None:
    """What it learns from the training images' maps does not depend on how many it is shown at a time."""
    if not observes(create("detector", parse_spec(name))):
        return
    images = toy_world().test
    once, again = (_scores(fitted(name, piece=piece), images) for piece in (100, len(toy_world().train)))
    if not np.allclose(once, again, rtol=TOLERANCE, atol=TOLERANCE * np.abs(once).max()):
        raise CheckError("what it observes depends on how many training images it is shown at a time")


def check_classifier_untouched(name: str) -> None:
    """Fitting and scoring leave the network's weights, mode and gradients as they were."""
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
    """It works with what it declares (anything else raises on access), and each thing it declares is of use."""
    detector = fitted(name)
    _scores(detector, toy_world().test)
    for need in sorted(detector.needs) if not detector.is_sanity_baseline else ():
        supplied = set(NEEDS) - {need}
        try:
            fitted(name, supplied).score(toy_batch(detector, toy_world().test, supplied=supplied))
        except OodbenchError:
            continue
        raise CheckError(f"it declares '{need}' and never looks at it; leave it out of needs")


def check_oriented(name: str) -> None:
    """Planted OOD images score higher than ID images: AUROC above 0.8."""
    detector, world = fitted(name), toy_world()
    if detector.is_sanity_baseline:
        return
    value = auroc(_scores(detector, world.test), _scores(detector, world.ood))
    if value <= 0.8:
        raise CheckError(f"AUROC on planted features is {value:.3f}, expected above 0.8; a score is higher for OOD")


def check_confidence(name: str) -> None:
    """Where it has a confidence on its paper's own scale, that falls as the score rises."""
    detector = fitted(name)
    scores = np.sort(_scores(detector, toy_world().test))
    confidence = detector.confidence_of(scores)
    if confidence is None:
        return
    if np.shape(confidence) != scores.shape or not np.isfinite(confidence).all():
        raise CheckError(f"confidence_of() must return one finite float a score, got shape {np.shape(confidence)}")
    if (np.diff(confidence) > 0).any():
        raise CheckError("confidence_of() ranks images otherwise than score(): it must fall where the score rises")


def check_state(name: str) -> None:
    """What it learned can be stored and read back, with the same scores."""
    detector, images = fitted(name), toy_world().test
    fresh: Detector = create("detector", parse_spec(name))
    with tempfile.TemporaryDirectory() as folder:
        save_state(detector, Path(folder) / "state.safetensors")
        load_state(fresh, Path(folder) / "state.safetensors")
        if not np.array_equal(_scores(detector, images), _scores(fresh, images)):
            raise CheckError("scores change when what it learned is stored and read back")


def _train(name: str, steps: int = 3, seed: int = 0) -> tuple[Training, list[dict[str, Tensor]], dict[str, Tensor]]:
    """A few steps of a recipe on the toy world; returns the training, the losses and the first weights."""
    recipe, world = create("recipe", parse_spec(name)), toy_world()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        given = _train(recipe.builds_on, 1)[0].networks if recipe.builds_on else {}
        for network in given.values():
            network.eval().requires_grad_(False)
        torch.manual_seed(seed)
        networks = recipe.networks(Task(CLASSES, (3, SIDE, SIDE), Trainee))
        training = Training(networks, recipe.optimizers(networks), given, torch.Generator().manual_seed(seed))
        first = {f"{n}.{k}": v.clone() for n, net in networks.items() for k, v in net.state_dict().items()}
        images, labels = torch.from_numpy(world.train.images).float() / 255, torch.from_numpy(world.train.labels)
        outliers = torch.from_numpy(world.ood.images).float() / 255 if "outliers" in recipe.needs else None
        losses = []
        for step in range(steps):
            rows = slice(8 * step, 8 * step + 8)
            drawn = None if outliers is None else outliers[rows]
            losses.append(recipe.step(training, TrainBatch(images[rows], labels[rows], drawn)))
    return training, losses, first


def check_recipe_learns(name: str) -> None:
    """A step changes every network, and returns named, finite, detached scalars, the same names each time."""
    training, losses, first = _train(name)
    if ("classifier" in training.networks) != registry.get("recipe", name).trains_classifier:
        raise CheckError(f"trains_classifier does not fit its networks, which are {', '.join(training.networks)}")
    if any(set(row) != set(losses[0]) or not row for row in losses):
        raise CheckError(f"step() returns no losses, or other names from step to step: {[sorted(r) for r in losses]}")
    for key, value in (item for row in losses for item in row.items()):
        if not isinstance(value, Tensor) or value.shape or value.requires_grad or not torch.isfinite(value):
            raise CheckError(f"loss '{key}' must be a finite, detached scalar tensor, got {value!r}")
    for name_, network in training.networks.items():
        if all(torch.equal(value, first[f"{name_}.{key}"]) for key, value in network.state_dict().items()):
            raise CheckError(f"network '{name_}' does not change in three steps")


def check_recipe_repeats(name: str) -> None:
    """The same seed gives the same weights."""
    one, two = (_train(name, steps=1)[0].networks for _ in range(2))
    for network in one:
        pairs = zip(one[network].state_dict().values(), two[network].state_dict().values(), strict=True)
        if not all(torch.equal(a, b) for a, b in pairs):
            raise CheckError(f"network '{network}' differs between two trainings with the same seed")


def check_backbone(name: str) -> None:
    """features -> head = forward, finite, right shapes, and in evaluation mode the same for any batch size."""
    backbone = create("backbone", parse_spec(name))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = backbone.build(CLASSES, (3, SIDE, SIDE)).eval()
    images = torch.from_numpy(toy_world().test.images[:12]).float() / 255
    with torch.inference_mode():
        features, logits = network.features(images), network(images)
        alone = torch.cat([network(images[k : k + 1]) for k in range(len(images))])
        headed = network.head(features)
    if features.ndim != 2 or logits.shape != (len(images), CLASSES) or not torch.isfinite(logits).all():
        shapes = f"features {tuple(features.shape)} or logits {tuple(logits.shape)}"
        raise CheckError(f"{shapes} are not finite and of shape (N, D) and (N, K)")
    head = [tuple(getattr(getattr(network.head, part, None), "shape", ())) for part in ("weight", "bias")]
    if head != [(CLASSES, features.shape[1]), (CLASSES,)]:
        raise CheckError(f"head must be a linear layer with weight (K, D) and bias (K,), got {network.head}")
    for what, other in (("head(features(images))", headed), ("images one by one", alone)):
        if not torch.allclose(logits, other, rtol=1e-4, atol=1e-5):
            raise CheckError(f"forward(images) differs from {what}")


def check_dataset(name: str, data_dir: Path = Path("data")) -> None:
    """Splits load, are labelled as the card says, share no image, and have the card's checksums."""
    library, spec = Library(data_dir), parse_set(name)
    card = library.card(spec)
    if reason := card.missing(data_dir):
        raise UserError(reason)
    splits = {split: library.split(spec, split) for split in card.splits}
    seen: dict[bytes, str] = {}
    for split, images in splits.items():
        if bool(card.classes) != (images.labels is not None) or images.classes != card.classes:
            raise CheckError(f"the {split} split and the card differ in classes")
        if split not in card.checksums:
            expected, source = Library(data_dir).split(spec, split).checksum, "it had another when loaded again:"
        else:
            expected, source = card.checksums[split], "the card says"
        if images.checksum != expected:
            raise CheckError(f"the {split} split has checksum {images.checksum}, {source} {expected}")
        for image in images.images:
            if seen.setdefault(image.tobytes(), split) != split:
                raise CheckError(f"the {split} split holds an image of the {seen[image.tobytes()]} split")


def check_form(name: str) -> None:
    """Same shape and type, the same result twice, the input left alone, each image on its own."""
    form, before = registry.get("form", name)(), toy_world().test.images
    images = before.copy()
    changed = form.apply(images)
    if changed.shape != images.shape or changed.dtype != np.uint8 or not np.array_equal(images, before):
        raise CheckError("apply() must return new uint8 images of the same shape and leave its input alone")
    if not np.array_equal(changed[5:6], form.apply(images[5:6])):
        raise CheckError("an image's changed form depends on the other images")


def check_figure(name: str) -> None:
    """Plates are numbered, each with a title, and those that need a run are among them."""
    figures: type[Figures] = registry.get("figure", name)
    odd = [panel for panel, title in figures.panels.items() if not re.fullmatch(r"[A-Z]?\d+[a-z]*", panel) or not title]
    if not figures.panels or odd:
        raise CheckError(f"panels must be figures' numbers, such as '3' or '3ab', with titles; got {odd or 'none'}")
    if strange := figures.from_run - set(figures.panels):
        raise CheckError(f"from_run names {sorted(strange)}, which are not among the panels {list(figures.panels)}")


def check_suite(name: str) -> None:
    """Every key and every name in it is known."""
    suite = read_suite(name)
    for entry in suite.entries:
        for recipe in {suite.recipe, *suite.recipes, *entry.recipes}:
            create("recipe", parse_spec(recipe), suite.recipe_settings(recipe, entry.set))


CHECKS: dict[str, tuple[Callable[[str], None], ...]] = {
    "detector": (
        check_declarations,
        check_scores,
        check_own_image_only,
        check_observes_in_pieces,
        check_classifier_untouched,
        check_only_declared,
        check_oriented,
        check_confidence,
        check_state,
    ),
    "recipe": (check_recipe_learns, check_recipe_repeats),
    "backbone": (check_backbone,),
    "dataset": (check_dataset,),
    "form": (check_form,),
    "figure": (check_figure,),
    "suite": (check_suite,),
}


def check_detector(name: str) -> None:
    """Run every contract check on a registered detector; raise `CheckError` with a sentence at the first failure."""
    for check in CHECKS["detector"]:
        check(name)


def run_checks(names: Iterable[str], data_dir: Path) -> Iterator[Result]:
    """Run the checks of every plug-in so named, of whatever kind; 'all' stands for everything registered."""
    for name in names:
        kinds = [kind for kind in CHECKS if name == "all" or name in registry.entries(kind)]
        if not kinds:
            raise unknown("plug-in", name, [n for kind in CHECKS for n in registry.entries(kind)], "bench list")
        for kind in kinds:
            for one in registry.entries(kind) if name == "all" else [name]:
                yield from _run(kind, one, data_dir)


def _run(kind: str, name: str, data_dir: Path) -> Iterator[Result]:
    entry = registry.entries(kind)[name]
    if reason := entry.reason():
        yield Result(kind, name, "import", "failed", reason)
        return
    for check in CHECKS[kind]:
        arguments: tuple[Any, ...] = (name, data_dir) if kind == "dataset" else (name,)
        try:
            if kind == "dataset" and (missing := entry.load()().missing(data_dir)):
                yield Result(kind, name, check.__name__, "skipped", missing)
                continue
            if kind == "backbone" and (reason := create(kind, parse_spec(name)).refuses((3, SIDE, SIDE))):
                yield Result(kind, name, check.__name__, "skipped", reason)
                continue
            check(*arguments)
        except Exception as error:  # a stranger's plug-in may raise anything; each check stands for itself
            told = isinstance(error, CheckError | OodbenchError)
            yield Result(
                kind, name, check.__name__, "failed", str(error) if told else f"{type(error).__name__}: {error}"
            )
        else:
            yield Result(kind, name, check.__name__, "ok")
