"""The weights of a bundle's network: their hash, whatever file they are in, and their tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def hash_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values of tensors."""
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def state_dict_of(network: nn.Module) -> dict[str, Tensor]:
    """A network's tensors by name, each in memory of its own: safetensors refuses tied weights."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
