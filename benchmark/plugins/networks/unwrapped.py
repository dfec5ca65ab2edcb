"""The `nn.Module` inside what a user calls a model: wrappers for several devices or a compiler, and functions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import nn

from oodbench.benchmark.errors import UserError

SHARDED = ("FullyShardedDataParallel", "FSDP")
"""Wrappers whose parameters are in pieces, so that their layers cannot be read."""


class Function(nn.Module):
    """A function around networks, such as `lambda images: network(2 * images - 1)`, as a module."""

    def __init__(self, function: Callable[..., Any], networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.function = function
        for name, network in networks.items():
            self.add_module(name, network)

    def forward(self, images: torch.Tensor) -> Any:
        """What the function returns."""
        return self.function(images)


def unwrapped(model: Any) -> nn.Module:
    """The module to call and to search for layers.

    `DataParallel`, `DistributedDataParallel` and compiled modules are taken off; a function is searched for the
    networks that it uses. Raises `UserError` for what is no network.
    """
    if isinstance(model, type):
        raise UserError(f"The model is the class {model.__name__}. Give an instance of it: {model.__name__}(...).")
    if isinstance(model, nn.Module):
        return _module(model)
    if isinstance(model, str | Path):
        raise UserError(
            f"The model is the text '{model}', expected an nn.Module. Weights in a file go with the name of their "
            "backbone: backbone=..., checkpoint=...."
        )
    if isinstance(model, Mapping):
        raise UserError(
            "The model is a dictionary, expected an nn.Module. If it is a state dict, build the network and call its "
            "load_state_dict first."
        )
    if not callable(model):
        raise UserError(f"The model is of type {type(model).__name__}, expected an nn.Module.")
    networks = _used_by(model)
    if not networks:
        raise UserError(
            f"The model '{getattr(model, '__name__', type(model).__name__)}' is a function that uses no nn.Module, "
            "so that no head can be found. Give an nn.Module; a function that builds one is called first."
        )
    return Function(model, networks)


def _module(model: nn.Module) -> nn.Module:
    kind = type(model).__name__
    if kind in SHARDED:
        raise UserError(
            f"The model is wrapped in {kind}, which keeps its weights in pieces. Give the network itself, with its "
            "full state dict loaded."
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError(
            "The model is a TorchScript program, whose layers cannot be watched. Give the nn.Module that it was made "
            "from."
        )
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):  # torch.compile
        return unwrapped(inner)
    return model


def _used_by(function: Any) -> dict[str, nn.Module]:
    """The networks that a function reads: in its closure, its globals, its defaults, or bound to it."""
    found: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        found |= {f"argument{index}": value for index, value in enumerate(function.args)} | function.keywords
        function = function.func
    if isinstance(function, MethodType):
        found["self"] = function.__self__
        function = function.__func__
    if isinstance(function, nn.Module):
        found["module"] = function
    elif inspect.isfunction(function):
        variables = inspect.getclosurevars(function)
        defaults = {name: of.default for name, of in inspect.signature(function).parameters.items()}
        found = {**defaults, **variables.globals, **variables.nonlocals, **found}
    else:
        found |= getattr(function, "__dict__", {})
    for name, value in [*found.items()]:
        inner = (
            enumerate(value) if isinstance(value, list | tuple) else value.items() if isinstance(value, dict) else ()
        )
        found |= {f"{name}_{key}": one for key, one in inner}
    return {name.replace(".", "_"): _module(value) for name, value in found.items() if isinstance(value, nn.Module)}
