"""In which precision networks train: bfloat16 inside, where the processor multiplies it faster, float32 outside.

Autocast wraps the networks, not the recipe: weights, optimiser states, losses and whatever a recipe computes itself
stay float32, and so does all evaluation, because scores that were rounded to 8 bits would tie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from oodbench.benchmark.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn


FLOAT32, BFLOAT16, AUTO = "float32", "bfloat16", "auto"

PRECISIONS = (AUTO, FLOAT32, BFLOAT16)


def resolved(asked: str, device: torch.device) -> str:
    """'auto' -> what the device can do best; it follows from the processor and not from a timing, so it is the same
    in every run. Raises `UserError` for an unknown word."""
    if asked not in PRECISIONS:
        raise UserError(f"Unknown precision '{asked}'. Choose {', '.join(PRECISIONS)}.")
    if asked != AUTO:
        return asked
    return BFLOAT16 if _multiplies_bfloat16(device) else FLOAT32


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the processor has instructions or units for products of bfloat16 matrices."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch: float32
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def train_in(precision: str, networks: Iterable[nn.Module], device: torch.device) -> None:
    """Make networks compute in a precision when called, `features` and `head` included; outputs stay float32."""
    if precision == FLOAT32:
        return
    from torch import nn

    for network in networks:
        inner = [network] + [part for part in (getattr(network, "head", None),) if isinstance(part, nn.Module)]
        for module in inner:
            module.forward = _autocast(module.forward, device.type)
        if hasattr(network, "features"):
            network.features = _autocast(network.features, device.type)  # type: ignore[assignment,arg-type]


def _autocast(compute: Callable[..., Any], device: str) -> Callable[..., Any]:
    import torch

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            out = compute(*args, **kwargs)
        return out.float() if isinstance(out, torch.Tensor) and out.dtype == torch.bfloat16 else out

    return forward
