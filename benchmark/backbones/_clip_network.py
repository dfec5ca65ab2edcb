"""An open_clip network with features, a head and cosines of patches, as the harness takes networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import DataError

TEXTS = 64
"""Texts that are embedded at a time."""


class Patches(nn.Module):
    """Passes cosines of patches on, for those who hook it. They do not reach the features: nobody may change them."""

    @property
    def is_watched(self) -> bool:
        """Whether something is hooked to it."""
        return bool(self._forward_hooks)

    def forward(self, cosines: Tensor) -> Tensor:
        """(N, K, rows, columns), unchanged."""
        return cosines


class ClipNetwork(nn.Module):
    """Features: the normalised image embedding, (N, D). Head: linear, to K classes.

    Args:
        clip: `open_clip.CLIP` or `CustomTextCLIP`.
        width: D, the dimension of the space of images and texts.
        num_classes: K.
        normalise: What images in [0, 1] pass before the network.
        tokens: Texts -> tokens, int64 (N, length).
    """

    def __init__(
        self,
        clip: Any,
        width: int,
        num_classes: int,
        normalise: nn.Module,
        tokens: Callable[[Sequence[str]], Tensor],
    ) -> None:
        super().__init__()
        self.clip = clip
        self.head = nn.Linear(width, num_classes)
        self.normalise = normalise
        self.patches = Patches()
        self._tokens = tokens

    def features(self, images: Tensor) -> Tensor:
        """The image embeddings divided by their norms, (N, D), of images (N, 3, H, W) in [0, 1]."""
        pixels = self.normalise(images)
        if not self.patches.is_watched:
            embedded: Tensor = self.clip.encode_image(pixels, normalize=True)
            return embedded
        kept: list[Tensor] = []
        handle = self._before_pooling().register_forward_pre_hook(lambda _, given: kept.append(given[0]))
        try:
            embedded = self.clip.encode_image(pixels, normalize=True)
        finally:
            handle.remove()
        local = F.normalize(self._local(kept[0]), dim=-1)
        cosines = (local @ F.normalize(self.head.weight, dim=-1).T).permute(0, 3, 1, 2)
        if self.patches(cosines) is not cosines:
            raise DataError("The maps of openclip are cosines of patches, which do not reach the features.")
        return embedded

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, 3, H, W) in [0, 1]."""
        logits: Tensor = self.head(self.features(images))
        return logits

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """The text embeddings divided by their norms, float32 (N, D), on the network's device."""
        tokens = self._tokens(texts).to(next(self.clip.parameters()).device)
        found = [self.clip.encode_text(part, normalize=True).float() for part in tokens.split(TEXTS)]
        return torch.cat(found)

    @property
    def has_patches(self) -> bool:
        """Whether the image encoder is one whose patches can be embedded: open_clip's own ViT or ResNet."""
        visual: Any = self.clip.visual
        if hasattr(visual, "attnpool"):
            return True
        if getattr(visual, "attn_pool", True) is not None or not hasattr(visual, "transformer"):
            return False
        last = visual.transformer.resblocks[-1]
        return type(getattr(last, "attn", None)) is nn.MultiheadAttention and last.attn.in_proj_weight is not None

    def _before_pooling(self) -> nn.Module:
        """The module whose input the patches are embedded from: the last attention."""
        visual: Any = self.clip.visual
        module: nn.Module = visual.attnpool if hasattr(visual, "attnpool") else visual.transformer.resblocks[-1]
        return module

    def _local(self, given: Tensor) -> Tensor:
        """Embeddings of patches, (N, rows, columns, D): the last attention's values, and what follows it."""
        visual: Any = self.clip.visual
        if hasattr(visual, "attnpool"):  # (N, C, rows, columns)
            pool = visual.attnpool
            projected: Tensor = pool.c_proj(pool.v_proj(given.permute(0, 2, 3, 1)))
            return projected
        block = visual.transformer.resblocks[-1]
        tokens = given if visual.transformer.batch_first else given.transpose(0, 1)
        attention, width = block.attn, given.shape[-1]
        weight, bias = attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
        values = attention.out_proj(F.linear(block.ln_1(tokens), weight, bias))
        tokens = tokens + block.ls_1(values)
        tokens = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
        embedded = visual.ln_post(tokens)
        if visual.proj is not None:
            embedded = embedded @ visual.proj
        patches: Tensor = embedded[:, 1:].unflatten(1, visual.grid_size)
        return patches
