"""Ways to find nearest training images without whole blocks of similarities, and which of them suits a set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from oodbench.benchmark.plugins import training_bank
from oodbench.benchmark.plugins.neighbours.hardware import multiplies_bfloat16
from oodbench.benchmark.plugins.neighbours.on_cpu import CPUScreen
from oodbench.benchmark.plugins.neighbours.on_gpu import GPUScreen, UnitVectors, bank_on
from oodbench.benchmark.plugins.neighbours.rounded import rounds_to_nearest
from oodbench.benchmark.plugins.neighbours.screen import Search
from oodbench.benchmark.plugins.neighbours.streamed import StreamedSearch
from oodbench.benchmark.plugins.neighbours.tiles import Shape, agreeing, multiplies_pairs, pieces_agree
from oodbench.benchmark.plugins.training_bank import TrainingBank

FEWEST_DIMS, FEWEST_IN_BANK, FEWEST_IMAGES, FEWEST_BLOCKS = 64, 4096, 8192, 16
"""Below as many features, images in the bank, images in the set or blocks of it, nothing is screened: rounding the bank
takes as long as is saved in about eight blocks."""

CPU = torch.device("cpu")


class Searches(ABC):
    """One way to search a bank, with any weights.

    Args:
        bank: The bank.
        images: Number of images in the set.
        device: The device of the job.
    """

    NUMBERS: ClassVar[int] = 0
    """Numbers in the features of images that are searched together."""

    def __init__(self, bank: TrainingBank, images: int, device: torch.device) -> None:
        self.bank, self.images, self.device = bank, images, device
        self._made: list[tuple[Tensor | None, Search]] = []

    @property
    @abstractmethod
    def is_suitable(self) -> bool:
        """Whether it may pay here."""

    @property
    def at_once(self) -> int:
        """Number of blocks that are searched together: two, or as many as `NUMBERS` allows."""
        return max(2, self.NUMBERS // (self.bank.shape[1] * self.bank.block))

    @abstractmethod
    def make(self, weights: Tensor | None, shape: Shape) -> Search | None:
        """A search of the bank with these weights; None if there is too little memory for another one."""

    def release(self) -> None:
        """Give back memory that others could use."""
        self._made.clear()

    def number_of(self, weights: Tensor | None) -> int | None:
        """The number of the search with these weights; None if there cannot be one."""
        for number, (known, _) in enumerate(self._made):
            if known is weights or (known is not None and weights is not None and torch.equal(known, weights)):
                return number
        shape = self.shape_of(self.bank.block)
        made = None if shape is None else self.make(weights, shape)
        if made is None:
            return None
        self._made.append((weights, made))
        return len(self._made) - 1

    def __getitem__(self, number: int) -> Search:
        return self._made[number][1]

    def shape_of(self, images: int) -> Shape | None:
        """The shape in which entries have the bits of a block of so many images; None if there is none."""
        return agreeing(images, *self.bank.shape, torch.get_num_threads())

    @property
    def _is_large(self) -> bool:
        """Whether screening may pay for a bank and a set of this size."""
        count, dims = self.bank.shape
        fewest = max(FEWEST_IMAGES, FEWEST_BLOCKS * self.bank.block)
        return count >= FEWEST_IN_BANK and dims >= FEWEST_DIMS and self.images >= fewest


class OnGPU(Searches):
    """Screening on a GPU."""

    NUMBERS = 2**27
    """512 MB in float32: a bank that memory does not hold is read once for all of these images that have to be compared
    with all of it."""

    _vectors: UnitVectors | None = None

    @property
    def is_suitable(self) -> bool:
        """Whether there is a GPU that multiplies bfloat16, with enough memory."""
        return (
            self.device.type == "cuda"
            and self._is_large
            and multiplies_bfloat16(self.device)
            and rounds_to_nearest(self.device)
            and GPUScreen.bytes_of(self.bank, self.images) <= torch.cuda.mem_get_info(self.device)[0]
        )

    def make(self, weights: Tensor | None, shape: Shape) -> Search | None:
        """As of `Searches`. All of them share the bank on the GPU."""
        try:
            self._vectors = self._vectors or bank_on(self.bank, self.device)
            return GPUScreen(self.bank, weights, shape, self._vectors)
        except torch.cuda.OutOfMemoryError:
            return None

    def release(self) -> None:
        """As of `Searches`: torch would keep the GPU's memory for this process."""
        super().release()
        if self._vectors is not None:
            self._vectors = None
            torch.cuda.empty_cache()


class OnCPU(Searches):
    """Screening on a processor that multiplies bfloat16, of a bank that memory holds.

    Two blocks at once: in bfloat16 they take the memory of one block of float32 similarities.
    """

    @property
    def is_suitable(self) -> bool:
        """Whether the processor, torch and the memory allow it."""
        return (
            self.bank.held is not None
            and self._is_large
            and self._bytes_of(1) <= training_bank.HELD
            and multiplies_bfloat16(CPU)
            and rounds_to_nearest(CPU)
            and multiplies_pairs()
        )

    def make(self, weights: Tensor | None, shape: Shape) -> Search | None:
        """As of `Searches`."""
        fits = self._bytes_of(len(self._made) + 1) <= training_bank.HELD
        return CPUScreen(self.bank, weights, shape) if fits else None

    def _bytes_of(self, screens: int) -> int:
        """Memory of the bank with some screens, in bytes."""
        count, dims = self.bank.shape
        return 4 * count * dims + screens * CPUScreen.bytes_of(count, dims)


class Streamed(Searches):
    """The float32 product with a bank that memory does not hold, read once for many blocks."""

    NUMBERS = 2**24
    """Multiplying them takes about ten times as long as reading and normalising the bank."""

    @property
    def is_suitable(self) -> bool:
        """Whether the bank would be read more often otherwise."""
        return self.bank.held is None and self.images > 2 * self.bank.block

    def make(self, weights: Tensor | None, shape: Shape) -> Search | None:
        """As of `Searches`; None where pieces have other bits in memory of their own."""
        block = self.bank.block
        agree = pieces_agree(block, *self.bank.shape, torch.get_num_threads())
        return StreamedSearch(self.bank, weights, shape) if agree else None


def searches_of(bank: TrainingBank, images: int, device: torch.device) -> Searches | None:
    """The first way that suits a bank and a set of so many images; None if there is none."""
    if torch.get_float32_matmul_precision() != "highest":
        return None
    ways: list[Searches] = [kind(bank, images, device) for kind in (OnGPU, OnCPU, Streamed)]
    return next((way for way in ways if way.is_suitable), None)
