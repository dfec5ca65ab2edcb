"""The accuracy of a batch, which recipes return beside their losses."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def share_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of rows whose largest logit is that of the label, a scalar: logits (N, K), labels int64 (N,)."""
    return (logits.argmax(dim=1) == labels).to(logits.dtype).mean()
