"""The precision that networks train in: bfloat16 autocast where the processor is faster with it, else float32.

Autocast wraps the networks, not the recipe: weights, optimiser states, losses and whatever a recipe computes itself
stay float32. All evaluation is in float32 as well, because scores rounded to 8 bits would tie; `in_float32` stops torch
from rounding to less on GPUs, as it does by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from oodbench.benchmark.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn


FLOAT32, BFLOAT16, AUTO = "float32", "bfloat16", "auto"

PRECISIONS = (AUTO, FLOAT32, BFLOAT16)


FLOAT16 = "float16"

STORED = "stored"
"""The entry in the key of features that are not stored as float32."""

STORED_AS = (FLOAT32, FLOAT16)
"""What features may be stored as; as float16 they take half the space, and have 11 significant bits in place of 24."""


def check_stored(name: str) -> None:
    """Raise `UserError` for a type that features are not stored as; an empty name stands for the suite's."""
    if name not in ("", *STORED_AS):
        raise UserError(f"Features cannot be stored as '{name}'. Choose {' or '.join(STORED_AS)}.")


def resolve_precision(requested: str, device: torch.device) -> str:
    """'auto' -> the precision for a device; other precisions are returned unchanged.

    It depends on the processor and not on a timing, so that it is the same in every run. Raises `UserError` for an
    unknown precision.
    """
    if requested not in PRECISIONS:
        raise UserError(f"Unknown precision '{requested}'. Choose one of {', '.join(PRECISIONS)}.")
    if requested != AUTO:
        return requested
    from oodbench.benchmark.plugins.neighbours.hardware import multiplies_bfloat16

    return BFLOAT16 if multiplies_bfloat16(device) else FLOAT32


def train_in(precision: str, networks: Iterable[nn.Module], device: torch.device) -> None:
    """Make networks compute in a precision, in `forward`, `features` and `head`; their outputs stay float32."""
    if precision == FLOAT32:
        return
    from torch import nn

    for network in networks:
        head = getattr(network, "head", None)
        for module in [network, head] if isinstance(head, nn.Module) else [network]:
            module.forward = _autocast(module.forward, device.type)
        if hasattr(network, "features"):
            network.features = _autocast(network.features, device.type)  # type: ignore[assignment,arg-type]


@contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """Multiply float32 numbers as such, whatever the process has set; its settings are restored when the block ends.

    By default, convolutions on NVIDIA GPUs round what they multiply to TF32, with 11 significant bits in place of 24.
    cuDNN is also asked for algorithms whose result is the same in every call. Autocast is not affected.
    """
    import torch

    cudnn: Any = torch.backends.cudnn
    older = _older_settings()
    parts = [] if older else [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]
    before = [part.fp32_precision for part in parts]
    deterministic, benchmark = cudnn.deterministic, cudnn.benchmark
    try:
        if older:
            torch.set_float32_matmul_precision("highest")
            cudnn.allow_tf32 = False
        for part in parts:
            part.fp32_precision = "ieee"
        if device.type == "cuda":
            cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        if older:
            torch.set_float32_matmul_precision(older[0])
            cudnn.allow_tf32 = older[1]
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision
        cudnn.deterministic, cudnn.benchmark = deterministic, benchmark


def _older_settings() -> tuple[str, bool] | None:
    """The precision of matrix products and whether cuDNN may use TF32, in the settings that every version of torch has.

    None if the process has used those of torch 2.9 and later: they prevail, or torch refuses to read the others.
    """
    import torch

    newer = (getattr(owner, "fp32_precision", "none") for owner in (torch.backends, torch.backends.cudnn))
    if any(setting != "none" for setting in newer):
        return None
    try:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return None


def _autocast(compute: Callable[..., Any], device: str) -> Callable[..., Any]:
    import torch

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            output = compute(*args, **kwargs)
        return output.float() if isinstance(output, torch.Tensor) and output.dtype == torch.bfloat16 else output

    return forward
