"""The detectors of pytorch-ood that ours are compared with, and a clock, for perf/detectors.py and perf/arrays.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from _world import Outputs, World
from torch import nn

LOADED = 256
"""Batch size of a loader."""


class Differentiable(nn.Module):
    """A frozen network that NACUE can differentiate, with respect to the images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, (N, K)."""
        logits: torch.Tensor = self.network(images.detach().requires_grad_())
        return logits


def theirs(world: World) -> dict[str, tuple[Any, str]]:
    """Our name -> pytorch-ood's detector and the kind of its input: logits, features, maps or images."""
    from pytorch_ood import detector as peer

    network, weight, bias = world.network, world.network.head.weight, world.network.head.bias

    def encoder(images: torch.Tensor) -> torch.Tensor:
        return network.features(images)

    def as_map(images: torch.Tensor) -> torch.Tensor:
        return network.features(images)[:, :, None, None]

    def head(maps: torch.Tensor) -> torch.Tensor:
        return network.head(maps.flatten(1))

    return {
        "msp": (peer.MaxSoftmax(network), "logits"),
        "max_logit": (peer.MaxLogit(network), "logits"),
        "energy": (peer.EnergyBased(network), "logits"),
        "entropy": (peer.Entropy(network), "logits"),
        "gen": (peer.GEN(network), "logits"),
        "kl_matching": (peer.KLMatching(network), "logits"),
        "openmax": (peer.OpenMax(network, tailsize=20), "logits"),
        "mahalanobis": (peer.Mahalanobis(encoder), "features"),
        "relative_mahalanobis": (peer.RMD(encoder), "features"),
        "gmm": (peer.GMM(encoder), "features"),
        "knn": (peer.KNN(encoder), "features"),
        "nnguide": (peer.NNGuide(encoder, network.head), "features"),
        "vim": (peer.ViM(encoder, d=weight.shape[1] // 2, w=weight, b=bias), "features"),
        "she": (peer.SHE(encoder, network.head), "features"),
        "fdbd": (peer.fDBD(encoder, network.head), "features"),
        "pnml": (peer.PNML(encoder, network.head), "features"),
        "nci": (peer.NCI(encoder, network.head, alpha=1e-4), "features"),
        "react": (peer.ReAct(as_map, head), "maps"),
        "dice": (peer.DICE(encoder, weight, bias, p=0.9), "features"),
        "ash": (peer.ASH(as_map, head, percentile=0.9), "maps"),
        "scale": (peer.SCALE(as_map, head, percentile=0.85), "maps"),
        "vra": (peer.VRA(as_map, head), "maps"),
        "lts": (peer.LTS(encoder, network.head, p=0.05), "features"),
        "odin": (peer.ODIN(network), "images"),
        "nac": (peer.NACUE(Differentiable(network), [network.rectify]), "images"),
    }


def read_by(kind: str, outputs: Outputs) -> torch.Tensor:
    """The input of a pytorch-ood detector for a set."""
    shown = {"logits": outputs.logits, "features": outputs.features, "images": outputs.images}
    return outputs.features[:, :, None, None] if kind == "maps" else shown[kind]


def fit_theirs(name: str, one: Any, kind: str, world: World) -> None:
    """Fit a pytorch-ood detector on the same data as ours, if it needs fitting."""
    if name == "nac":  # from images, as many as ours uses
        used = slice(None, None, -(-len(world.fit.images) // 1000))
        one.fit(list(zip(world.fit.images[used].split(LOADED), world.fit.labels[used].split(LOADED), strict=True)))
        return
    method = {"logits": "fit_logits", "features": "fit_features", "maps": "fit_feature_maps"}.get(kind, "")
    if hasattr(one, method) and getattr(one, "requires_fit", True):
        source = world.validation if name == "kl_matching" else world.fit
        getattr(one, method)(read_by(kind, source), source.labels)


def score_theirs(one: Any, kind: str, outputs: Outputs) -> torch.Tensor:
    """Score a set with a pytorch-ood detector, from outputs."""
    if kind == "images":
        return torch.cat([one.predict(part) for part in outputs.images.split(LOADED)])
    method = {"logits": "predict_logits", "features": "predict_features", "maps": "predict_feature_maps"}[kind]
    found: torch.Tensor = getattr(one, method)(read_by(kind, outputs))
    return found


def seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """CPU seconds of a call, the best of its repeats; one that takes a second is not repeated."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
        if best > 1:
            break
    return best
