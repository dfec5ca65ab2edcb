"""`FoundNetwork`: a network that was written elsewhere, with the `features` and the `head` of a backbone's network."""

from __future__ import annotations

from torch import Tensor, nn

from oodbench.benchmark.plugins.networks.layouts import Layout, MapTap


class FoundNetwork(nn.Module):
    """Another package's network, with its last layer replaced by the identity and moved to `head`."""

    def __init__(
        self, network: nn.Module, head: str, blocks: dict[str, Layout], normalise: nn.Module | None = None
    ) -> None:
        """Take a network apart; it is changed.

        Args:
            network: A network whose last layer is linear.
            head: The name of this layer (`head_of`).
            blocks: The modules that return feature maps (`blocks_of`).
            normalise: What images in [0, 1] pass before the network; by default nothing.
        """
        super().__init__()
        self.normalise = normalise or nn.Identity()
        self.network = network
        self.head_name = head
        parent, _, own = head.rpartition(".")
        self.head = network.get_submodule(head)
        setattr(network.get_submodule(parent), own, nn.Identity())
        modules = {name: network.get_submodule(name) for name in blocks}
        token = getattr(network, "global_pool", "token") == "token"
        self._blocks = [
            modules[name] if layout.is_plain else MapTap(modules[name], layout, token and bool(layout.prefix))
            for name, layout in blocks.items()
        ]

    @property
    def blocks(self) -> list[nn.Module]:
        """The modules that return the blocks' feature maps, (N, C, H, W), in order."""
        return self._blocks

    def features(self, images: Tensor) -> Tensor:
        """The input of the last linear layer, (N, D), of images (N, C, H, W) in [0, 1]."""
        features: Tensor = self.network(self.normalise(images))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) in [0, 1]."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def own_name(self, name: str) -> str:
        """Translate the name of a weight in the network as it was to its name here."""
        if name.startswith(f"{self.head_name}."):
            return f"head.{name.removeprefix(f'{self.head_name}.')}"
        return f"network.{name}"
