"""What processors multiply in hardware."""

from __future__ import annotations

from typing import Any

import torch


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a processor has hardware for bfloat16 matrix products."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # absent from older versions of torch
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
