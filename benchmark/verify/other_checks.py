"""Contract checks of recipes, backbones, data sets, forms, figures and suites.

Each check takes a plug-in's name and returns nothing, or raises `CheckError` with one sentence. Networks are tried on
the toy world's 3-channel 32 x 32 images, and on the same images in grey.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.data.channels import in_channels
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import UserError, first_line
from oodbench.benchmark.plan.suite_file import read_suite
from oodbench.benchmark.plugins.backbone import Backbone
from oodbench.benchmark.plugins.dataset import COLOUR, GREY, ImageSet
from oodbench.benchmark.plugins.figures import Figures
from oodbench.benchmark.plugins.recipe import Task, TrainBatch, Training, fits_head
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_set, parse_spec
from oodbench.benchmark.stats.seeds import restored_rng
from oodbench.benchmark.verify.check_error import CheckError
from oodbench.benchmark.verify.head_checks import check_head_learns, check_head_repeats
from oodbench.benchmark.verify.toy_world import CLASSES, SIDE, TrainableNetwork, toy_world


def _train(
    name: str, steps: int = 3, seed: int = 0, channels: int = COLOUR
) -> tuple[Training, list[dict[str, Tensor]], dict[str, Tensor]]:
    """Train a recipe on the toy world for a few steps; returns the training, its losses and the initial weights."""
    recipe, world = create("recipe", parse_spec(name)), toy_world()
    with restored_rng(torch.device("cpu")):
        torch.manual_seed(seed)
        given = _train(recipe.builds_on, 1, channels=channels)[0].networks if recipe.builds_on else {}
        for network in given.values():
            network.eval().requires_grad_(False)
        torch.manual_seed(seed)
        networks = recipe.networks(Task(CLASSES, (channels, SIDE, SIDE), lambda: TrainableNetwork(channels)))
        training = Training(networks, recipe.optimizers(networks), given, torch.Generator().manual_seed(seed))
        initial = {f"{n}.{k}": v.clone() for n, net in networks.items() for k, v in net.state_dict().items()}
        images, labels = _floats(world.train.images, channels), torch.from_numpy(world.train.labels)
        outliers = _floats(world.ood.images, channels) if "outliers" in recipe.needs else None
        losses = []
        for step in range(steps):
            rows = slice(8 * step, 8 * step + 8)
            outlier_batch = None if outliers is None else outliers[rows]
            losses.append(recipe.step(training, TrainBatch(images[rows], labels[rows], outlier_batch)))
    return training, losses, initial


def _floats(images: np.ndarray, channels: int) -> Tensor:
    """uint8 (N, 3, H, W) -> float32 in [0, 1] in a number of channels."""
    return torch.from_numpy(np.array(in_channels(images, channels), order="C")).float() / 255


def check_recipe_learns(name: str) -> None:
    """A step changes every network and returns finite, detached scalars, under the same names each time.

    Of a recipe that fits a head: the head is finite and classifies the toy world's images.
    """
    if fits_head(create("recipe", parse_spec(name))):
        check_head_learns(name)
        return
    training, losses, initial = _train(name)
    if ("classifier" in training.networks) != registry.get("recipe", name).trains_classifier:
        raise CheckError(f"trains_classifier does not match its networks, which are {', '.join(training.networks)}")
    if any(set(row) != set(losses[0]) or not row for row in losses):
        names = [sorted(row) for row in losses]
        raise CheckError(f"step() must return losses under the same names in every step, got {names}")
    for key, value in (item for row in losses for item in row.items()):
        if not isinstance(value, Tensor) or value.shape or value.requires_grad or not torch.isfinite(value):
            raise CheckError(f"loss '{key}' must be a finite, detached scalar tensor, got {value!r}")
    for network_name, network in training.networks.items():
        if all(torch.equal(value, initial[f"{network_name}.{key}"]) for key, value in network.state_dict().items()):
            raise CheckError(f"network '{network_name}' does not change in three steps")


def check_recipe_repeats(name: str) -> None:
    """Two trainings with the same seed give the same weights."""
    if fits_head(create("recipe", parse_spec(name))):
        check_head_repeats(name)
        return
    first, second = (_train(name, steps=1)[0].networks for _ in range(2))
    for network in first:
        pairs = zip(first[network].state_dict().values(), second[network].state_dict().values(), strict=True)
        if not all(torch.equal(a, b) for a, b in pairs):
            raise CheckError(f"network '{network}' differs between two trainings with the same seed")


def check_recipe_takes_grey(name: str) -> None:
    """A step works on images of one channel, as those of a grey ID set; a head's features do not depend on them."""
    if fits_head(create("recipe", parse_spec(name))):
        return
    try:
        _train(name, steps=1, channels=GREY)
    except Exception as error:  # a plug-in may raise anything
        raise CheckError(
            "it fails on images of 1 channel, as those of a grey ID set "
            f"({type(error).__name__}: {first_line(error)}); build every network for task.image_shape"
        ) from error


def check_backbone(name: str) -> None:
    """The network has features and a linear head, and its finite logits do not depend on the batch size.

    It is built for images in colour and in grey, or for the channels that the class fixes.
    """
    backbone = create("backbone", parse_spec(name))
    if backbone.channels not in (None, GREY, COLOUR):
        raise CheckError(
            f"channels must be 1 (grey), 3 (colour) or None (those of the ID set), got {backbone.channels}"
        )
    if backbone.channels is not None:
        _check_network(backbone, backbone.channels)
        return
    _check_network(backbone, COLOUR)
    if backbone.refuses((GREY, SIDE, SIDE)):
        return
    try:
        _check_network(backbone, GREY)
    except CheckError:
        raise
    except Exception as error:  # a plug-in may raise anything
        raise CheckError(
            "it fails on images of 1 channel, as those of a grey ID set "
            f"({type(error).__name__}: {first_line(error)}); build the first layer for image_shape[0] channels, or "
            "declare channels = 3"
        ) from error


def _check_network(backbone: Backbone, channels: int) -> None:
    """Check the network that a backbone builds for images with a number of channels."""
    with restored_rng(torch.device("cpu")):
        torch.manual_seed(0)
        network: Any = backbone.build(CLASSES, (channels, SIDE, SIDE)).eval()
    images = _floats(toy_world().test.images[:12], channels)
    with torch.inference_mode():
        features, logits = network.features(images), network(images)
        one_by_one = torch.cat([network(images[k : k + 1]) for k in range(len(images))])
        from_features = network.head(features)
    if features.ndim != 2 or logits.shape != (len(images), CLASSES) or not torch.isfinite(logits).all():
        shapes = f"features {tuple(features.shape)} or logits {tuple(logits.shape)}"
        raise CheckError(f"{shapes} are not finite and of shape (N, D) and (N, K)")
    head = [tuple(getattr(getattr(network.head, part, None), "shape", ())) for part in ("weight", "bias")]
    if head != [(CLASSES, features.shape[1]), (CLASSES,)]:
        raise CheckError(f"head must be a linear layer with weight (K, D) and bias (K,), got {network.head}")
    for source, other in (("head(features(images))", from_features), ("images one by one", one_by_one)):
        if not torch.allclose(logits, other, rtol=1e-4, atol=1e-5):
            raise CheckError(f"forward(images) differs from {source}")


def check_dataset(name: str, data_dir: Path = Path("data")) -> None:
    """Splits have the card's classes and checksums, are the same when loaded again, and share no image.

    Raises `UserError` if the data is not available.
    """
    library, spec = Library(data_dir), parse_set(name)
    card = library.card(spec)
    if reason := card.missing(data_dir):
        raise UserError(reason)
    splits = {split: library.split(spec, split) for split in card.splits}
    for split, images in splits.items():
        if bool(card.classes) != (images.labels is not None) or images.classes != card.classes:
            raise CheckError(f"the {split} split and the card differ in classes")
        if split not in card.checksums:
            expected, source = Library(data_dir).split(spec, split).checksum, "it had another when loaded again:"
        else:
            expected, source = card.checksums[split], "the card says"
        if images.checksum != expected:
            raise CheckError(f"the {split} split has checksum {images.checksum}, {source} {expected}")
    _check_disjoint(splits)


def _check_disjoint(splits: Mapping[str, ImageSet]) -> None:
    """No image is in two splits."""
    split_of: dict[bytes, str] = {}
    for split, images in splits.items():
        for image in images.images:
            if split_of.setdefault(image.tobytes(), split) != split:
                raise CheckError(f"the {split} split contains an image of the {split_of[image.tobytes()]} split")


def check_form(name: str) -> None:
    """The form returns images of the same shape and type, leaves its input unchanged, and treats images separately."""
    form = registry.get("form", name)()
    for channels in (COLOUR, GREY) if form.channels is None else (form.channels,):
        before = np.array(in_channels(toy_world().test.images, channels), order="C")
        images = before.copy()
        changed = form.apply(images)
        if changed.shape != images.shape or changed.dtype != np.uint8 or not np.array_equal(images, before):
            raise CheckError(
                "apply() must return new uint8 images of the same shape and leave its input unchanged"
                + (", for grey images of 1 channel too; or declare channels = 3" if channels == GREY else "")
            )
        if not np.array_equal(changed[5:6], form.apply(images[5:6])):
            raise CheckError("an image's changed form depends on the other images")


def check_figure(name: str) -> None:
    """Panels are numbered and have titles, and `from_run` names only panels."""
    figures: type[Figures] = registry.get("figure", name)
    bad = [panel for panel, title in figures.panels.items() if not re.fullmatch(r"[A-Z]?\d+[a-z]*", panel) or not title]
    if not figures.panels or bad:
        raise CheckError(f"panels must be figure numbers, such as '3' or '3ab', with titles; got {bad or 'none'}")
    if unknown := figures.from_run - set(figures.panels):
        raise CheckError(f"from_run names {sorted(unknown)}, which are not among the panels {list(figures.panels)}")


def check_suite(name: str) -> None:
    """Every key and every name in the suite is known."""
    suite = read_suite(name)
    for entry in suite.entries:
        for recipe in {suite.recipe, *suite.recipes, *entry.recipes}:
            create("recipe", parse_spec(recipe), suite.recipe_settings(recipe, entry.set))
