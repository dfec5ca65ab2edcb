"""What to do when memory runs out."""

from __future__ import annotations

import gc

import torch

TOLD = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
"""How torch says so on a GPU, on Windows and on Linux."""


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, on the CPU or on a GPU."""
    if isinstance(error, RuntimeError | OSError):
        return any(words in str(error).lower() for words in TOLD)
    return isinstance(error, MemoryError)


def release() -> None:
    """Give back what nothing refers to any more, and what torch keeps of a GPU's memory for later use."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
