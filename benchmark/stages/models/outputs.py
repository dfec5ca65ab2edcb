"""`Outputs`: logits and features of a network in memory, set by set, for detectors on arrays and for `run`."""

from __future__ import annotations

import html
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, overload

from oodbench.benchmark.data.outputs import GivenArrays, GivenHead, GivenOutputs, read_outputs, write_outputs
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.networks.unwrapped import unwrapped
from oodbench.benchmark.stages.models.assembly import (
    given_outputs,
    one_set,
    refuse_read_once,
    refuse_unlike,
    sources_of,
)
from oodbench.benchmark.stages.models.extraction import Pass
from oodbench.benchmark.stages.models.set_outputs import SetOutputs, set_rows
from oodbench.benchmark.stages.models.sources import BATCH, opened
from oodbench.benchmark.store.user_path import user_path

logger = logging.getLogger(__name__)

SEED = "seed{}"
"""Folder of one of several networks."""


class Outputs:
    """Logits and features of one ID set and its OOD sets, under one network or under several trainings of it.

    Large arrays are memory-mapped: memory does not grow with the number of images.

    Attributes:
        networks: The outputs under each network, which are the seeds of a run.

    Example:
        >>> from oodbench.benchmark import Outputs, run
        >>> outputs = Outputs.from_model(net, id_train=a, id_test=b, ood={"svhn": c})  # doctest: +SKIP
        >>> outputs.save("outputs")  # doctest: +SKIP
        >>> run("msp,vim,knn", outputs=outputs)  # doctest: +SKIP
    """

    def __init__(self, networks: Iterable[GivenOutputs]) -> None:
        self.networks = tuple(networks)
        if not self.networks:
            raise UserError("Outputs of no network. Give at least one.")

    @property
    def id(self) -> Mapping[str, GivenArrays]:
        """The ID set's splits under the first network: 'train', 'val' and 'test', where they are there."""
        return self.networks[0].id

    @property
    def ood(self) -> Mapping[str, GivenArrays]:
        """The OOD sets under the first network, by name."""
        return self.networks[0].ood

    @property
    def head(self) -> GivenHead | None:
        """The linear layer of the first network, (weight, bias); None if there is none."""
        return self.networks[0].head

    @overload
    @classmethod
    def from_model(
        cls, model: Any, data: Any, *, features: str = "", head: str = "", batch_size: int = BATCH
    ) -> SetOutputs: ...

    @overload
    @classmethod
    def from_model(
        cls,
        model: Any,
        *,
        id_train: Any = None,
        id_val: Any = None,
        id_test: Any = None,
        ood: Mapping[str, Any] | None = None,
        near: str | Iterable[str] | Mapping[str, Any] = "",
        far: str | Iterable[str] | Mapping[str, Any] = "",
        features: str = "",
        head: str = "",
        preprocessing: str = "",
        batch_size: int = BATCH,
        name: str = "",
        folder: str | Path | None = None,
    ) -> Outputs: ...

    @classmethod
    def from_model(
        cls,
        model: Any,
        data: Any = None,
        *,
        id_train: Any = None,
        id_val: Any = None,
        id_test: Any = None,
        ood: Mapping[str, Any] | None = None,
        near: str | Iterable[str] | Mapping[str, Any] = "",
        far: str | Iterable[str] | Mapping[str, Any] = "",
        features: str = "",
        head: str = "",
        preprocessing: str = "",
        batch_size: int = BATCH,
        name: str = "",
        folder: str | Path | None = None,
    ) -> SetOutputs | Outputs:
        """Pass sets of images through a network.

        A set is a DataLoader, a data set of torchvision or Hugging Face, a tensor or array of images (N, C, H, W), a
        pair (images, labels), or an iterable of batches. Images are preprocessed already: what they pass before the
        network is the caller's, and is recorded as such. A DataLoader keeps its batch size; all images of its data set
        are read, in their order.

        The network is called on its own device, in evaluation mode and without gradients, and left as it was.

        Args:
            model: An `nn.Module`, or a function around one; several, a list, are trainings of one network.
            data: One set, in place of the others; the result is then a `SetOutputs`.
            id_train: What detectors learn from, with labels.
            id_val: What they are calibrated on, with labels; by default a part of `id_train`.
            id_test: ID images to score, with labels for the accuracy.
            ood: OOD sets by name; labels are not read.
            near: Names of `ood` whose group is near, or further sets by name.
            far: Likewise, for far.
            features: Name of the module whose output are the penultimate features, averaged over height and width if
                it is a map; by default the input of the head.
            head: Name of the linear head, whose output is then taken as logits; by default the linear layer whose
                output the network returns.
            preprocessing: How pictures became tensors, in your words; by default what `id_test` says of its transform.
            batch_size: Images in a batch of what is no DataLoader.
            name: The network in your words; by default its class, number of weights and a hash of them.
            folder: Where large arrays are kept while they are used; by default the folder for temporary files.

        Raises:
            UserError: One sentence, for a network without a linear head, a set that cannot be read, and what else
                cannot work.
        """
        models = list(model) if isinstance(model, list | tuple) else [model]
        place = None if folder is None else user_path(folder)
        if data is not None:
            if len(models) != 1:
                raise UserError(f"One set passes through one network, got {len(models)}. Call from_model for each.")
            return one_set(Pass(unwrapped(models[0]), features, head, place), opened(data, "data", batch_size))
        sources, groups = sources_of({"train": id_train, "val": id_val, "test": id_test}, ood, near, far, batch_size)
        refuse_read_once(sources, len(models))
        networks = []
        for index, one in enumerate(models):
            network = unwrapped(one)
            logger.info(f"Passing {len(sources)} sets through {type(network).__name__} ({index + 1} of {len(models)}).")
            passing = Pass(network, features, head, place)
            found = {key: passing.arrays(source, labelled=key[0] == "id") for key, source in sources.items()}
            networks.append(given_outputs(passing, sources, found, groups, preprocessing, name))
        refuse_unlike(networks)
        return cls(networks)

    def save(self, folder: str | Path) -> None:
        """Write a folder that `load`, and `bench run --outputs`, read. Raises `StoreError` if it cannot be written.

        Several networks are written to the folders `seed0`, `seed1`, ... in it.
        """
        for path, given in zip(folders(user_path(folder), len(self.networks)), self.networks, strict=True):
            write_outputs(path, given)

    @classmethod
    def load(cls, folder: str | Path) -> Outputs:
        """Open a folder that `save` wrote. Raises `UserError` for what is not one."""
        path = user_path(folder)
        seeds = sorted(path.glob(SEED.format("*")), key=lambda one: (len(one.name), one.name))
        return cls(map(read_outputs, [one for one in seeds if one.is_dir()] or [path]))

    def __repr__(self) -> str:
        first = self.networks[0]
        lines = [f"Outputs: {first.network or first.title}" + (f" x {len(self.networks)}" * (len(self.networks) > 1))]
        return "\n".join([*lines, *(f"  {name}: {sizes}" for name, sizes in set_rows(first))])

    def _repr_html_(self) -> str:
        first = self.networks[0]
        title = html.escape(first.network or first.title)
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(sizes)}</td></tr>" for name, sizes in set_rows(first)
        )
        count = f", {len(self.networks)} networks" if len(self.networks) > 1 else ""
        return f"<table><caption>Outputs: {title}{count}</caption>{rows}</table>"


def folders(folder: Path, count: int) -> list[Path]:
    """Where the outputs of each of several networks are written."""
    return [folder] if count == 1 else [folder / SEED.format(index) for index in range(count)]
