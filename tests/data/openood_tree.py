"""Makes a small data folder in OpenOOD's layout: lists in benchmark_imglist/, a few images for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CIFAR = {
    "train_cifar10": ("images_classic", "cifar10/train/{}.png", (32, 32), 40),
    "val_cifar10": ("images_classic", "cifar10/test/v{}.png", (32, 32), 20),
    "test_cifar10": ("images_classic", "cifar10/test/{}.png", (32, 32), 20),
    "test_cifar100": ("images_classic", "cifar100/test/{}.png", (32, 32), 8),
    "val_tin": ("images_classic", "tin/val/images/v{}.JPEG", (64, 64), 6),
    "test_tin": ("images_classic", "tin/val/images/{}.JPEG", (64, 64), 7),
    "test_mnist": ("images_classic", "mnist/test/{}.jpg", (28, 28), 9),
    "test_svhn": ("images_classic", "svhn/test/{}.jpg", (32, 32), 6),
    "test_texture": ("images_classic", "texture/banded/{}.jpg", (80, 110), 6),
    "test_places365": ("images_classic", "places365/desert/{}.jpg", (256, 256), 5),
    "test_cifar10c": ("images_classic", "cifar10c/{}.png", (32, 32), 20),
}
"""Lists of the CIFAR-10 board: folder, path of an image, its height and width, number of images."""

IMAGENET = {
    "val_imagenet": ("images_largescale", "imagenet_1k/val/v{}.JPEG", (70, 50), 20),
    "test_imagenet": ("images_largescale", "imagenet_1k/val/{}.JPEG", (40, 60), 30),
    "test_ssb_hard": ("images_largescale", "ssb_hard/n1/{}.JPEG", (50, 40), 6),
    "test_ninco": ("images_largescale", "ninco/caracal/{}.jpeg", (45, 45), 5),
    "test_inaturalist": ("images_largescale", "inaturalist/images/{}.jpg", (64, 48), 6),
    "test_textures": ("images_classic", "texture/banded/{}.jpg", (80, 110), 6),
    "test_openimage_o": ("images_largescale", "openimage_o/images/{}.jpg", (48, 64), 7),
    "val_openimage_o": ("images_largescale", "openimage_o/images/v{}.jpg", (48, 64), 5),
    "test_imagenet_v2": ("images_largescale", "imagenet_v2/{}.jpeg", (50, 50), 10),
    "test_imagenet_c": ("images_largescale", "imagenet_c/fog/1/{}.JPEG", (224, 224), 10),
    "test_imagenet_r": ("images_largescale", "imagenet_r/n1/{}.jpg", (60, 40), 10),
    "test_imagenet_es": ("images_largescale", "imagenet_es/{}.png", (60, 40), 10),
}
"""Lists of the ImageNet-1K board, without training images."""

IMAGENET_200 = {
    "val_imagenet200": ("images_largescale", "imagenet_1k/val/v{}.JPEG", (70, 50), 20),
    "test_imagenet200": ("images_largescale", "imagenet_1k/val/{}.JPEG", (40, 60), 20),
    "test_imagenet200_r": ("images_largescale", "imagenet_r/n1/{}.jpg", (60, 40), 10),
    **{name: IMAGENET[name] for name in ("test_ssb_hard", "test_textures", "test_openimage_o")},
}
"""Some lists of the ImageNet-200 board, without training images."""

LABELLED = ("cifar10", "imagenet")

BOARDS = {10: "cifar10", 200: "imagenet200", 1000: "imagenet"}
"""Number of classes -> the board's folder of lists."""


def openood_tree(folder: Path, lists: dict[str, tuple[str, str, tuple[int, int], int]], classes: int) -> Path:
    """Write a board's lists and images, and return the data folder. Labels go round through the classes; OOD has -1."""
    board = folder / "benchmark_imglist" / BOARDS[classes]
    board.mkdir(parents=True, exist_ok=True)
    for number, (name, (root, path, size, count)) in enumerate(lists.items()):
        lines = []
        labelled = name.split("_", 1)[1].startswith(LABELLED) and name != "test_cifar100"
        for k in range(count):
            file = folder / root / path.format(k)
            file.parent.mkdir(parents=True, exist_ok=True)
            label = k * classes // count if labelled else -1
            picture(1000 * number + k, size, grey=name == "test_mnist", level=label).save(file)
            lines.append(f"{path.format(k)} {label}")
        write_list(board / f"{name}.txt", lines)
    return folder


def picture(seed: int, size: tuple[int, int], grey: bool = False, level: int = -1) -> Image.Image:
    """An image (height, width) of random blocks, brighter for a larger level."""
    random = np.random.RandomState(seed)
    blocks = random.randint(0, 120, (4, 4) if grey else (4, 4, 3)) + 12 * (level + 1) % 130
    return Image.fromarray(blocks.astype(np.uint8)).resize((size[1], size[0]), Image.Resampling.NEAREST)


def write_list(path: Path, lines: Sequence[str]) -> None:
    """Write a list, a line for each image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
