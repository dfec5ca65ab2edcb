"""What detectors read of a block of similarities: all of them, or the nearest only, and which way is faster.

Both ways give the same bits, so that the choice is in no key. The nearest are found by screening where the GPU or the
processor multiplies bfloat16, bank and set are large enough for it to pay, and no detector needs all similarities
anyway. The first block is computed in full, and timed; screening goes on only while it takes less time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from oodbench.benchmark.plugins import training_bank
from oodbench.benchmark.plugins.neighbours.hardware import multiplies_bfloat16
from oodbench.benchmark.plugins.neighbours.largest import largest
from oodbench.benchmark.plugins.neighbours.on_cpu import CPUScreen
from oodbench.benchmark.plugins.neighbours.on_gpu import GPUScreen, UnitVectors, bank_on
from oodbench.benchmark.plugins.neighbours.rounded import rounds_to_nearest
from oodbench.benchmark.plugins.neighbours.screen import Screen
from oodbench.benchmark.plugins.neighbours.tiles import Shape, agreeing, multiplies_pairs
from oodbench.benchmark.plugins.training_bank import SharedBlock, TrainingBank, unit

FEWEST_DIMS, FEWEST_IN_BANK, FEWEST_IMAGES, FEWEST_BLOCKS = 64, 4096, 8192, 16
"""Below as many features, images in the bank, images in the set or blocks of it, screening is not tried: rounding the
bank takes as long as is saved in about eight blocks."""

AT_ONCE = 2
"""Blocks that the CPU screens together: in bfloat16 they take the memory of one block of float32 similarities."""

AT_ONCE_NUMBERS = 2**27
"""Numbers in the features of images that are screened together on a GPU, 512 MB in float32: a bank that is not held in
memory is read once for all of them that have to be compared with all of it."""

CPU = torch.device("cpu")

PATIENCE = 1.1
"""Screening ends once it takes this many times as long as the float32 product of the first block would have taken."""

Find = Callable[[Screen, Tensor], "Tensor | None"]
"""Finds neighbours of unit vectors, float32 (n, D); None if the whole product is faster."""


class Neighbours:
    """The images of the bank that are most similar to each image of a block.

    Args:
        similarities: Returns the block's similarities, float32 (N, B).
    """

    def __init__(self, similarities: Callable[[], Tensor]) -> None:
        self._similarities = similarities

    def column(self, k: int) -> Tensor:
        """The column of the k-th most similar image, int64 (N,); k from 1."""
        return largest(self._similarities(), k)[1][:, -1]

    def largest(self, k: int, weights: Tensor | None = None) -> Tensor:
        """The k largest similarities, in descending order, float32 (N, k).

        Args:
            k: From 1 to the number of images in the bank.
            weights: Factors of the images of the bank, float32 (B,), by which similarities are multiplied before.
        """
        similarities = self._similarities()
        return largest(similarities if weights is None else similarities * weights, k)[0]


class SharedProduct(SharedBlock):
    """A set's similarities to a bank, block by block; all of them, or by `neighbours` the nearest.

    Args:
        bank: The bank.
        features: Returns the features of some images of the set, float32 (n, D).
        images: Number of images in the set.
        device: Where to screen; on the CPU if this GPU cannot.
    """

    def __init__(
        self, bank: TrainingBank, features: Callable[[slice], Tensor], images: int, device: torch.device = CPU
    ) -> None:
        super().__init__(lambda rows: bank.similarities(features(rows)))
        self._bank, self._features, self._images = bank, features, images
        self._on_gpu = _large_enough(bank, images) and _gpu_screens(bank, images, device)
        self._device = device
        self._vectors: UnitVectors | None = None
        self._at_once = max(2, AT_ONCE_NUMBERS // (bank.shape[1] * bank.block)) if self._on_gpu else AT_ONCE
        self._screening = self._on_gpu or (_large_enough(bank, images) and _cpu_screens(bank))
        self._screens: list[tuple[Tensor | None, Screen]] = []
        self._found: dict[tuple[str, int, int], tuple[slice, Tensor | None]] = {}
        self._first, self._spent, self._blocks = 0.0, 0.0, set[int]()

    def __call__(self, rows: slice) -> Tensor:
        """All similarities of some images, for a detector that needs them: the rest of the set is computed in full."""
        self._screening = False
        return self.whole(rows)

    def whole(self, rows: slice) -> Tensor:
        """All similarities of some images, for one that could do without."""
        return super().__call__(rows)

    def neighbours(self, rows: slice) -> Neighbours:
        """The nearest images of the bank, of some images of the set."""
        return _SharedNeighbours(self, rows)

    def screened(self, rows: slice, what: str, k: int, weights: Tensor | None, find: Find) -> Tensor | None:
        """What `find` gets for some images from the screen of the bank; None if the block is to be computed in full.

        `what` and `k` say what is found: it is kept for the next blocks, which are screened together.
        """
        block = self._bank.block
        if not self._screening or rows.start < block or rows.start % block or rows.stop > self._last:
            return None
        with torch.inference_mode(False), torch.no_grad():
            start = time.thread_time()
            number = self._screen(weights)
            self._spent -= time.thread_time() - start  # once for the set
            if number is None:
                self._screening = False
                return None
            together, found = self._found.get((what, k, number), (slice(0, 0), None))
            if not together.start <= rows.start < together.stop:
                together = slice(rows.start, min(rows.start + self._at_once * block, self._last))
                found = self._find(find, number, unit(self._features(together)).float())
                self._found[what, k, number] = together, found
            own = slice(rows.start - together.start, rows.stop - together.start)
            return None if found is None else found[own].clone()

    @cached_property
    def _last(self) -> int:
        """Images before the first that is not screened: a small last block may have bits that entries do not have."""
        block = self._bank.block
        over = self._images % block
        return self._images if over == 0 or self._agreeing(over) == self._agreeing(block) else self._images - over

    def took(self, rows: slice, seconds: float) -> None:
        """Note the processor time of one detector's neighbours, and end screening if it takes too long."""
        block = self._bank.block
        if rows.start == 0 and rows.stop == block:
            self._first += seconds
        elif self._screening and rows.start >= block:
            self._blocks.add(rows.start)
            self._spent += seconds
            before = len(self._blocks) - 1  # blocks of which all detectors have read
            if before % self._at_once == 0 and before > 0:
                self._screening = self._spent <= PATIENCE * self._first * (before + self._at_once)

    def _screen(self, weights: Tensor | None) -> int | None:
        """The number of the screen of the bank with these weights; None if there cannot be one."""
        for number, (known, _) in enumerate(self._screens):
            if known is weights or (known is not None and weights is not None and torch.equal(known, weights)):
                return number
        shape = self._agreeing(self._bank.block)
        made = None if shape is None else self._made(weights, shape)
        if made is None:
            return None
        self._screens.append((weights, made))
        return len(self._screens) - 1

    def _agreeing(self, images: int) -> Shape | None:
        """The shape in which entries have the bits of a block of so many images; None if there is none."""
        return agreeing(images, *self._bank.shape, torch.get_num_threads())

    def _made(self, weights: Tensor | None, shape: Shape) -> Screen | None:
        """A screen of the bank; None if there is too little memory for another one."""
        if self._on_gpu:
            try:
                self._vectors = self._vectors or bank_on(self._bank, self._device)
                return GPUScreen(self._bank, weights, shape, self._vectors)
            except torch.cuda.OutOfMemoryError:
                return None
        fits = _nbytes(self._bank, len(self._screens) + 1) <= training_bank.HELD
        return CPUScreen(self._bank, weights, shape) if fits else None

    def _find(self, find: Find, number: int, units: Tensor) -> Tensor | None:
        """What `find` gets from a screen; None if there is too little memory on the GPU."""
        try:
            return find(self._screens[number][1], units)
        except torch.cuda.OutOfMemoryError:
            self._screening, self._vectors = False, None
            self._screens.clear()
            return None


def neighbours_of(product: object, rows: slice, similarities: Callable[[], Tensor]) -> Neighbours:
    """The neighbours of some images of a set, from the product that its detectors share or from the similarities."""
    return product.neighbours(rows) if isinstance(product, SharedProduct) else Neighbours(similarities)


class _SharedNeighbours(Neighbours):
    """The nearest images of a block of a set."""

    def __init__(self, product: SharedProduct, rows: slice) -> None:
        super().__init__(lambda: product.whole(rows))
        self._product, self._rows = product, rows

    def column(self, k: int) -> Tensor:
        """As of `Neighbours`."""
        start = time.thread_time()
        found = self._product.screened(self._rows, "column", k, None, lambda screen, units: screen.column(units, k))
        found = super().column(k) if found is None else found
        self._product.took(self._rows, time.thread_time() - start)
        return found

    def largest(self, k: int, weights: Tensor | None = None) -> Tensor:
        """As of `Neighbours`."""
        start = time.thread_time()
        found = self._product.screened(self._rows, "values", k, weights, lambda screen, units: screen.values(units, k))
        found = super().largest(k, weights) if found is None else found
        self._product.took(self._rows, time.thread_time() - start)
        return found


def _nbytes(bank: TrainingBank, screens: int) -> int:
    """Memory of a held bank with some screens on the CPU, in bytes."""
    count, dims = bank.shape
    return 4 * count * dims + screens * CPUScreen.bytes_of(count, dims)


def _large_enough(bank: TrainingBank, images: int) -> bool:
    """Whether screening may pay for a bank and a set of so many images."""
    return (
        len(bank) >= FEWEST_IN_BANK
        and bank.shape[1] >= FEWEST_DIMS
        and images >= max(FEWEST_IMAGES, FEWEST_BLOCKS * bank.block)
        and torch.get_float32_matmul_precision() == "highest"
    )


def _cpu_screens(bank: TrainingBank) -> bool:
    """Whether the CPU can screen a bank."""
    return (
        bank.held is not None
        and _nbytes(bank, 1) <= training_bank.HELD
        and multiplies_bfloat16(CPU)
        and rounds_to_nearest(CPU)
        and multiplies_pairs()
    )


def _gpu_screens(bank: TrainingBank, images: int, device: torch.device) -> bool:
    """Whether a device is a GPU that can screen a bank."""
    return (
        device.type == "cuda"
        and multiplies_bfloat16(device)
        and rounds_to_nearest(device)
        and GPUScreen.bytes_of(bank, images) <= torch.cuda.mem_get_info(device)[0]
    )
