"""Backbones from a user's file: `path/net.py:make` is a function that returns an `nn.Module`.

The function is registered as the backbone `net.py:make`, whose version follows the file and what it imports, as that
of a plug-in does. It is called with the number of classes if it takes a parameter, and with the images' shape if it has
one named `image_shape`. The head, the features and the feature maps are found by a trial pass.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from oodbench.benchmark.errors import OodbenchError, UserError, did_you_mean, typed_first_line
from oodbench.benchmark.plugins.backbone import Backbone
from oodbench.benchmark.plugins.networks.calls import blocks_of, watched
from oodbench.benchmark.plugins.networks.found import FoundNetwork
from oodbench.benchmark.plugins.networks.parts import logits_of, placed
from oodbench.benchmark.plugins.networks.search import find_parts
from oodbench.benchmark.plugins.networks.transforms import Expected
from oodbench.benchmark.plugins.networks.unwrapped import unwrapped
from oodbench.benchmark.plugins.pictures import Preprocessing
from oodbench.benchmark.plugins.plugin_file import has_changed, import_file, name_of
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.source_version import reads_files
from oodbench.benchmark.store.safe_read import is_file

logger = logging.getLogger(__name__)

TRIED = 2
"""Images in the trial pass; their number tells an axis of images from others."""

PLAIN_SHAPE = (3, 32, 32)
"""Shape of images where a network is built only to ask for its preprocessing."""

_warned: set[str] = set()
"""Functions whose networks have the same weights every time, once that has been said."""


class FromFile(Backbone):
    """A backbone that a function in a user's file builds."""

    function: ClassVar[Callable[..., Any]]

    def refuses(self, image_shape: tuple[int, int, int]) -> str | None:
        """Build the network and try it; returns the error, if any."""
        problem = self._problem(0, image_shape)
        if not problem and self.name not in _warned and self._has_own_weights(image_shape):
            _warned.add(self.name)
            logger.warning(
                f"'{self.name}' returns the same weights every time, as if they were trained: without --checkpoint, "
                "training goes on from them, the same for every seed. To evaluate them as they are, save their state "
                "dict and give it with --checkpoint."
            )
        return problem

    def refuses_classes(self, num_classes: int, image_shape: tuple[int, int, int]) -> str | None:
        """Build the network and count its outputs."""
        return self._problem(num_classes, image_shape)

    def _problem(self, num_classes: int, image_shape: tuple[int, int, int]) -> str | None:
        try:
            with torch.random.fork_rng(devices=[]):
                self.build(num_classes, image_shape)
        except OodbenchError as error:
            return str(error).rstrip(".")
        return None

    def _has_own_weights(self, image_shape: tuple[int, int, int]) -> bool:
        """Whether weights do not depend on torch's random numbers."""
        states = []
        for seed in range(2):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                states.append(self._made(0, image_shape)[0].state_dict())
        first, second = states
        return all(torch.equal(first[name].cpu(), second[name].cpu()) for name in first)

    @property
    def is_pretrained(self) -> bool:
        """Whether it states a preprocessing, which then applies to every set."""
        return self.preprocessing() is not None

    @property
    def statistics(self) -> str:
        """Mean and standard deviation of the transform that came with the network; "" for none."""
        return self._expected().described()

    def preprocessing(self) -> Preprocessing | None:
        """What came with the function or its network; None if nothing did."""
        return self._expected().preprocessing

    def _expected(self) -> Expected:
        if not hasattr(self, "expected_"):
            own = getattr(type(self).function, "preprocessing", None)
            if own is None:
                with torch.random.fork_rng(devices=[]):
                    own = self._made(0, PLAIN_SHAPE)[1]
            self.expected_ = Expected(own, f"'{self.name}'")
        expected: Expected = self.expected_
        return expected

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Call the function and separate the head; `num_classes`: 0 for any number.

        Raises `UserError` if the function fails, or its network does not end in a linear layer on the images' features.
        """
        with torch.device("cpu"):  # not the meta device, on which networks are built to be looked at
            return self._built(num_classes, image_shape)

    def _built(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        network, _ = self._made(num_classes, image_shape)
        normalise = self._expected().normalise()
        images = torch.rand(TRIED, *image_shape, generator=torch.Generator().manual_seed(0))
        images = images if normalise is None else normalise(images)
        head = find_parts(network, images).head
        layer: Any = network.get_submodule(head)
        if layer.bias is None:
            raise UserError(f"The head '{head}' of '{self.name}' has no bias, which detectors read. Give it one.")
        if num_classes and layer.out_features != num_classes:
            raise UserError(
                f"'{self.name}' returns a network of {layer.out_features} outputs for {num_classes} classes. Give the "
                "function a parameter num_classes, and use it, or choose another ID set."
            )
        _, seen = watched(network, network, placed(network, images[:1]))
        return _Built(network, head, blocks_of(seen, image_shape), normalise)

    def _made(self, num_classes: int, image_shape: tuple[int, int, int]) -> tuple[nn.Module, Any]:
        """The network that the function returns, and its preprocessing, if it has one."""
        function = type(self).function
        try:
            with torch.device("cpu"):
                made = function(**_arguments(function, self.name, num_classes or 2, image_shape))
        except OodbenchError:
            raise
        except Exception as error:  # the user's function may raise anything
            raise UserError(f"'{self.name}' fails: {typed_first_line(error).rstrip('.')}.") from error
        preprocessing = None
        if isinstance(made, tuple) and len(made) == 2:
            made, preprocessing = made
        if not isinstance(made, nn.Module):
            raise UserError(
                f"'{self.name}' returns an object of type {type(made).__name__}, expected an nn.Module, or an "
                "nn.Module and its preprocessing."
            )
        return unwrapped(made), preprocessing

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """The modules that output the last feature maps of each resolution, found when the network was built."""
        return network.blocks if isinstance(network, FoundNetwork) else []

    def weight_name(self, network: nn.Module, name: str) -> str:
        """Translate the network's own name of a weight to the name in the wrapper."""
        return network.own_name(name) if isinstance(network, FoundNetwork) else f"network.{name}"


class _Built(FoundNetwork):
    """A network that may return an object with logits."""

    def features(self, images: Tensor) -> Tensor:
        """The input of the head, (N, D)."""
        features = logits_of(self.network(self.normalise(images)))
        if features is None:
            raise UserError("The network returns something else while it trains than in evaluation mode.")
        return features


def _arguments(
    function: Callable[..., Any], name: str, num_classes: int, image_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """What a function is called with. Raises `UserError` for a parameter that is neither of the two."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # compiled code
        return {}
    classes = next((p.name for p in parameters if p.name == "num_classes"), "")
    classes = classes or next((p.name for p in parameters if _is_required(p) and p.name != "image_shape"), "")
    known = {classes: num_classes, "image_shape": image_shape}
    for parameter in parameters:
        if _is_required(parameter) and parameter.name not in known:
            raise UserError(
                f"'{name}' takes '{parameter.name}', for which nothing is known: it is called with the number of "
                "classes and, by name, image_shape. Give the parameter a default."
            )
        if parameter.name in known and parameter.kind is parameter.POSITIONAL_ONLY:
            raise UserError(f"'{name}' takes '{parameter.name}' by position only. Remove the '/' from its parameters.")
    return {parameter.name: known[parameter.name] for parameter in parameters if parameter.name in known}


def _is_required(parameter: inspect.Parameter) -> bool:
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and parameter.kind not in variable


def register(path: Path, function: str) -> str:
    """Register a function of a file as a backbone, and return its name.

    The file is imported again if it or a file beside it has changed, or if it reads other files. Raises `UserError` if
    the file or the function is not there, or the file cannot be imported.
    """
    if not is_file(path):
        raise UserError(f"The file '{path}' of the backbone '{path.name}:{function}' does not exist.")
    module, name = name_of(path), f"{path.name}:{function}"
    entry = registry.entries("backbone").get(name)
    known: type[FromFile] | None = entry.load() if entry is not None and entry.origin == _origin(path) else None
    if has_changed(path) or (known is not None and reads_files(known)):
        registry.drop(path)
        known = None
    if module not in sys.modules:
        _import(path)
    if known is None or known.function is not vars(sys.modules[module]).get(function):
        registry.adopt("backbone", name, _backbone(name, path, _function(path, function)), _origin(path))
    return name


def _origin(path: Path) -> str:
    """As that of plug-in files, with which they are forgotten when the file has changed."""
    return f"file {path}"


def _import(path: Path) -> None:
    try:
        import_file(path)
    except (Exception, SystemExit) as error:  # the user's file may raise anything
        registry.drop(path)
        raise UserError(f"The file '{path}' cannot be imported: {typed_first_line(error)}") from error


def _function(path: Path, name: str) -> Callable[..., Any]:
    module = sys.modules[name_of(path)]
    value = vars(module).get(name)
    if isinstance(value, nn.Module):
        raise UserError(
            f"'{name}' in '{path}' is a network, expected a function that returns one, so that every "
            f"training begins with new weights: def make(num_classes): ..."
        )
    if not callable(value):
        known = [other for other, one in vars(module).items() if callable(one) and one.__module__ == module.__name__]
        what = f"is of type {type(value).__name__}, expected a function" if name in vars(module) else "does not exist"
        hint = did_you_mean(name, known, f"It defines {', '.join(known)}." if known else "It defines no function.")
        raise UserError(f"The function '{name}' in '{path}' {what}. {hint}")
    return value  # type: ignore[no-any-return]


def _backbone(name: str, path: Path, function: Callable[..., Any]) -> type[Backbone]:
    """A class in the file's own module, so that its version is that of the file."""
    body = {
        "__module__": name_of(path),
        "__qualname__": function.__name__,
        "function": staticmethod(function),
        "depends_on": getattr(sys.modules[name_of(path)], "depends_on", None),
    }
    made: type[Backbone] = type("FromFile", (FromFile,), body)
    made.name, made.title = name, f"A network of '{path.name}'"
    return made
