"""Arrays as users give them, from NumPy, PyTorch or lists: checked, and results brought back to the same kind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oodbench.benchmark.errors import UserError

if TYPE_CHECKING:
    import torch

Given = Union[ArrayLike, "torch.Tensor"]
"""A NumPy array, a tensor on any device, or anything that `np.asarray` takes."""

BLOCK = 2**17
"""Entries that are checked at a time, so that the answers for each of them, one byte, stay in the processor's cache."""

EXPECTED = {
    "features": "(N, D), one row per image",
    "logits": "(N, K), one row per image, one column per class",
    "labels": "(N,), one class number per image",
}
"""Name of an argument -> its shape in words."""


def is_tensor(value: object) -> bool:
    """Whether a value is a tensor; does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def as_array(value: Given, name: str) -> NDArray[Any]:
    """A value as a NumPy array, without a copy where possible. Raises `UserError`, which calls it `name`."""
    if is_tensor(value):
        tensor: Any = value
        tensor = tensor.detach().cpu()
        return np.asarray((tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy())
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{name} cannot be converted to an array ({error}); expected {_expected(name)}.") from error


def _expected(name: str) -> str:
    return next((shape for argument, shape in EXPECTED.items() if argument in name), "numbers")


def rows_of_numbers(value: Given, name: str, finite: bool = True) -> NDArray[Any]:
    """Features or logits, (N, D) or (N, K). Raises `UserError`, which calls them `name`; `finite`: also for NaN."""
    array = as_array(value, name)
    if array.dtype.kind not in "iuf":
        raise UserError(f"{name} holds {_words(array)}; expected numbers, {_expected(name)}.")
    if array.ndim != 2:
        hint = {
            1: f" For a single image, give {name}[None].",
            4: " These look like feature maps: average them over height and width first.",
        }.get(array.ndim, "")
        raise UserError(f"{name} has shape {array.shape}; expected {_expected(name)}.{hint}")
    if not array.size:
        raise UserError(f"{name} has shape {array.shape}, which holds nothing; expected {_expected(name)}.")
    if finite and array.dtype.kind == "f":
        refuse_not_finite(array, name)
    return array


def refuse_not_finite(array: NDArray[Any], name: str, first: int = 0) -> None:
    """Raise `UserError` that names the first row with NaN or infinity, counted from `first`."""
    rows = max(1, BLOCK // array.shape[1])
    for start in range(0, len(array), rows):
        block = array[start : start + rows]
        finite = np.isfinite(block)
        if finite.all():
            continue
        row = int(finite.all(axis=1).argmin())
        value = block[row][~finite[row]][0]
        hint = " float16 ends at 65,504: save it as float32." if block.dtype == np.float16 and np.isinf(value) else ""
        raise UserError(
            f"{name} has {_nan_or_infinity(value)} in row {first + start + row:,}; expected finite numbers.{hint}"
        )


def _nan_or_infinity(value: Any) -> str:
    return "NaN" if np.isnan(value) else "an infinite value"


def _words(array: NDArray[Any]) -> str:
    names = {"U": "text", "S": "text", "O": "objects", "b": "true and false", "c": "complex numbers"}
    return names.get(array.dtype.kind, f"values of type {array.dtype}")


def class_numbers(value: Given, name: str) -> NDArray[np.int64]:
    """Labels, int64 (N,), not negative. Raises `UserError`, which calls them `name`."""
    array = as_array(value, name)
    if array.ndim == 2 and array.dtype.kind in "iufb" and array.shape[1] > 1:
        raise UserError(f"{name} has shape {array.shape}, as if one-hot; expected {_expected(name)}: {name}.argmax(1).")
    if array.dtype.kind in "USO":
        raise UserError(
            f"{name} holds {_words(array)}, such as {str(array.reshape(-1)[0])!r}; expected class numbers from 0, in "
            "the order of the logits' columns."
        )
    if array.dtype.kind not in "iu":
        raise UserError(f"{name} holds {_words(array)}; expected integers, {_expected(name)}.")
    if array.ndim != 1 or not array.size:
        raise UserError(f"{name} has shape {array.shape}; expected {_expected(name)}.")
    if (smallest := int(array.min())) < 0:
        raise UserError(f"{name} has {smallest} in row {int(array.argmin()):,}; expected class numbers from 0.")
    return array.astype(np.int64)


def dependent(groups: Given | None, name: str, count: int) -> NDArray[np.integer] | None:
    """Numbers that are equal for images that depend on each other, integers (N,); None where all are independent.

    Raises `UserError`, which calls them `name`.
    """
    if groups is None:
        return None
    array = as_array(groups, name)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise UserError(f"{name} is {array.dtype} of shape {array.shape}; expected {count:,} integers, one per image.")
    return array


def each_set(
    value: Given | Mapping[str, Given] | None,
    counts: Mapping[str, int],
    name: str,
    check: Callable[[Given, str, int], NDArray[Any] | None],
) -> dict[str, NDArray[Any]]:
    """An array for each OOD set, such as the groups of its images, without sets that have none.

    Args:
        value: An array for a single set, or by name.
        counts: The numbers of images of all sets.
        name: The argument's name, for messages.
        check: Checks one array, given its name and the number of images; None if there is nothing in it.

    Raises:
        UserError: One array for several sets, or an unknown set.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        if len(counts) > 1:
            raise UserError(
                f"{name} is one array for {len(counts)} OOD sets; expected a name and an array for each, such as "
                f"{{'{next(iter(counts))}': ...}}."
            )
        value = dict.fromkeys(counts, value)
    if strange := [key for key in value if key not in counts]:
        raise UserError(f"{name} has '{strange[0]}', which is no OOD set here; expected one of {', '.join(counts)}.")
    called = {key: f"{name}['{key}']" if len(counts) > 1 else name for key in value}
    found = {key: check(array, called[key], counts[key]) for key, array in value.items()}
    return {key: array for key, array in found.items() if array is not None}


def groups_by_set(
    groups: Given | Mapping[str, Given] | None, counts: Mapping[str, int]
) -> dict[str, NDArray[np.integer]]:
    """Groups of dependent images by name of the OOD set, as `each_set` gives them. Raises `UserError`."""
    return each_set(groups, counts, "ood_groups", dependent)


@dataclass(frozen=True)
class Kind:
    """How results are returned: as NumPy arrays, or as tensors on a device."""

    device: Any = None
    """The device of tensors; None for NumPy arrays."""

    @classmethod
    def of(cls, *values: object) -> Kind:
        """The kind of the first tensor among some arguments; NumPy if there is none."""
        return next((cls(value.device) for value in values if is_tensor(value)), cls())  # type: ignore[attr-defined]

    def returned(self, array: NDArray[np.float64]) -> Any:
        """An array of numbers in this kind; float64, or float32 on a device that has no float64."""
        if self.device is None:
            return array
        import torch

        tensor = torch.from_numpy(array)
        return (tensor.float() if self.device.type == "mps" else tensor).to(self.device)
