"""Random seeds derived per component, so that adding a detector moves no other number; torch's generators restored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed for one component of a run: the same names give the same seed, other names an unrelated one."""
    text = "\0".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's global generators on the CPU and on `device`, as `torch.manual_seed` does on every device.

    That function formats a stack for each kind of device that is not in use, which takes longer than to score a set by
    a detector of logits.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def restored_rng(device: torch.device) -> Iterator[None]:
    """Restore torch's global generators on the CPU and on `device` when the block ends; it may seed and use them.

    Other devices are left alone: `torch.random.fork_rng()` without a device starts a context on every GPU, which takes
    hundreds of megabytes on each, and forgets MPS in older versions of torch.
    """
    import torch  # imported late: commands that only read records do not need it

    apple = torch.mps.get_rng_state() if device.type == "mps" else None
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else [], device_type="cuda"):
            yield
    finally:
        if apple is not None:
            torch.mps.set_rng_state(apple)
