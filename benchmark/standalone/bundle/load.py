"""`load_monitor`: makes a monitor from a bundle's file, and refuses what would not score as the run did."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oodbench.benchmark.errors import UserError, first_line
from oodbench.benchmark.plan.jobs import Checkpoint
from oodbench.benchmark.plan.recipes.declared import of_recipe
from oodbench.benchmark.plan.weights.file import read_weights
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.inputs import Classifier
from oodbench.benchmark.plugins.networks.places import is_place, load_plugin
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.source_version import ONLY_IN, identity
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.plugins.training_bank import TrainingBank
from oodbench.benchmark.stages.networks import CLASSIFIER, as_classifier, build_networks
from oodbench.benchmark.stages.open_worker import choose_device
from oodbench.benchmark.standalone.bundle.contents import BANK, Bundle, PluginUsed, read_bundle, weights_of
from oodbench.benchmark.standalone.bundle.monitor import Monitor
from oodbench.benchmark.standalone.bundle.scoring import Scorer
from oodbench.benchmark.standalone.bundle.weights import hash_of
from oodbench.benchmark.stats.seeds import restored_rng
from oodbench.benchmark.store.store import Key
from oodbench.benchmark.store.user_path import user_path

SAME = 1e-3
"""How far scores of the probe images may be from those where the bundle was written, relative to the spread of the
validation scores, if the code of a plug-in has changed since."""


def load_monitor(
    path: str | Path,
    *,
    device: str = "cpu",
    tpr: float | None = None,
    block: int = 0,
    threads: int = 0,
    weights: str | Path = "",
    plugins: Iterable[str | Path] = (),
) -> Monitor:
    """Read a bundle that `bench export` wrote, and return its monitor.

    Args:
        path: The bundle's file.
        device: Where the network computes: "cpu", "auto", "cuda" or "mps".
        tpr: Share of ID validation images to accept; the bundle's if None.
        block: Images per piece; 0 for the run's, whose scores a monitor then reproduces. With 1, a single image costs
            one pass without padding, and last bits differ.
        threads: CPU threads; 0 for the run's.
        weights: A file with the network's weights, for a bundle that has only their hash; by default the place where
            they were when it was written.
        plugins: Python files with plug-ins that the bundle needs, and functions that build networks (`net.py:make`).

    Raises:
        OodbenchError: In one sentence, if the file is not a bundle, is damaged, is of a newer version, or a plug-in
            that it needs is missing or has changed its scores.

    Example:
        >>> from oodbench.benchmark import load_monitor
        >>> monitor = load_monitor("vim.safetensors")  # doctest: +SKIP
        >>> monitor("photo.png").accepted  # doctest: +SKIP
    """
    for plugin in plugins:
        load_plugin(plugin)
    file = user_path(path)
    bundle = read_bundle(file)
    if block < 0 or threads < 0:
        raise UserError(f"block and threads must be whole numbers from 1, or 0 for the run's; got {block}, {threads}.")
    detector: Detector = _created("detector", bundle.detector, file)
    detector.load_state(bundle.state)
    _created("backbone", bundle.backbone, file)
    where = choose_device(device)
    classifier, named = _classifier(bundle, file, user_path(weights) if weights else None, where)
    bank = TrainingBank(bundle.tensors[BANK].numpy()) if BANK in bundle.tensors else None
    arithmetic = bundle.arithmetic if not threads else bundle.arithmetic.on(threads)
    monitor = Monitor(bundle, Scorer(classifier, detector, bank, arithmetic, where, block, named), tpr)
    _refuse_other_scores(monitor, file)
    return monitor


def _created(kind: str, used: PluginUsed, file: Path) -> Any:
    """A bundle's plug-in. Raises `UserError` if it is not installed here."""
    spec = parse_spec(used.spec)
    if spec.name not in registry.entries(kind):
        raise UserError(
            f"'{file}' needs the {kind} '{spec.name}', a plug-in that is not here: it came from {used.origin}. Install "
            f"it, or give {'its place, FILE.py:FUNCTION,' if is_place(spec.name) else 'its file'} with --plugin."
        )
    return create(kind, spec)


def _refuse_other_scores(monitor: Monitor, file: Path) -> None:
    """Raise `UserError` if a plug-in's code is not that of the bundle, and noise gets other scores."""
    bundle = monitor.bundle
    changed = [
        f"'{used.spec}' ({used.version or 'unknown'} then, {version} now)"
        for kind, used in (("detector", bundle.detector), ("backbone", bundle.backbone))
        if (version := version_of(kind, used.spec)) != used.version
    ]
    if changed and (difference := monitor.check()) > SAME:
        raise UserError(
            f"'{file}' was written with other code of {' and '.join(changed)}, and this code gives images other scores "
            f"(by {difference:.2g} of their spread), so that the threshold does not hold. Install the version of then, "
            "or export again."
        )


def version_of(kind: str, spec: str) -> str:
    """The version of the plug-in that a spec names, as in keys."""
    plugin = create(kind, parse_spec(spec))
    return str(identity(plugin)["version"]).partition(ONLY_IN)[0]


def _classifier(
    bundle: Bundle, file: Path, given: Path | None, device: torch.device
) -> tuple[Classifier, tuple[tuple[str, int], ...]]:
    """The bundle's network with its weights, and names and widths of its named outputs."""
    key = Key("checkpoint", ".safetensors", "bundle", {"sha256": bundle.weights.sha256})
    checkpoint = Checkpoint(key, bundle.recipe, bundle.backbone.spec, bundle.outputs, bundle.input.shape)
    with restored_rng(device):
        try:
            recipe, networks = build_networks(checkpoint, device)
        except UserError as error:
            raise UserError(f"'{file}' needs a recipe that is not here: {error}") from error
    network = networks[CLASSIFIER]
    try:
        network.load_state_dict(_weights(bundle, file, given, network.state_dict()))
    except RuntimeError as error:
        raise UserError(
            f"The weights of '{file}' do not fit the network that '{bundle.backbone.spec}' builds here: "
            f"{first_line(error)}"
        ) from error
    checkpoint = of_recipe(checkpoint, recipe)
    return as_classifier(network, checkpoint), checkpoint.named


def _weights(bundle: Bundle, file: Path, given: Path | None, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's weights: the bundle's, or those in a file whose hash is the bundle's."""
    if bundle.weights.included:
        return weights_of(bundle)
    path = given or Path(bundle.weights.path)
    if not path.is_file():
        raise UserError(
            f"'{file}' has only the hash of its network's weights ({bundle.weights.source}), and '{path}' is not "
            "there. Give the file of weights with --weights-file."
        )
    for tensors in read_weights(path).state_dicts.values():
        prefixed = {name.removeprefix(f"{CLASSIFIER}."): t for name, t in tensors.items()}
        for named in (prefixed, tensors):
            chosen = {name: tensor for name, tensor in named.items() if name in own}
            if chosen.keys() == own.keys() and hash_of(chosen) == bundle.weights.sha256:
                return chosen
    raise UserError(f"'{path}' does not hold the weights of '{file}': their SHA-256 is another.")
