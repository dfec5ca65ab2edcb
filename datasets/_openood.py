"""What the cards of OpenOOD's lists share: where lists and images lie, and what the membership is."""

from __future__ import annotations

from oodbench.benchmark.data.files import File, Source
from oodbench.benchmark.data.lists import ListReader, ListSource

PAPER = "Zhang et al., OpenOOD v1.5: Enhanced Benchmark for Out-of-Distribution Detection, arXiv:2306.09301, 2023"
MEMBERSHIP = "OpenOOD v1.5's lists"
CLASSIC, LARGE = "images_classic", "images_largescale"
"""Folders of images beside `benchmark_imglist`."""

ORIGIN = (
    "OpenOOD's own data folder (github.com/Jingkang50/OpenOOD, its download script) as --data-dir: lists in "
    "benchmark_imglist/, images in images_classic/ and images_largescale/."
)
NOT_RUN = (
    "Not run on the real images, which were not available when this was written; tested on synthetic ones in the same "
    "layout."
)
CIFAR_COPY = (
    "The lists were checked against a copy in the repository HengGao12/OTOD (commit 379c629), not against OpenOOD's "
    "download."
)
LARGE_COPY = (
    "The lists were checked against a copy in the repository facebookresearch/UnifiedUncertaintyCalibration (commit "
    "6718913), not against OpenOOD's download."
)


MEMBERS = {
    "cifar10/train_cifar10": "9317e18980f1b11df74bba9d64223e57e69bd08c2943adbc75aec393a4976d1b",
    "cifar10/val_cifar10": "6f64c4370bf3c61dab3308f7e8c5c94938b112b20d38cca77c1dfa0bcc5c1d89",
    "cifar10/test_cifar10": "84559ec5225425e7f7363058d5f9442ed21a39c7c66b63c3f1bb8b1ddb935e13",
    "cifar10/test_cifar10c": "92bf50253d3f030c4cf9c3acb2434688c3ce5cccd05a393d5a977c0c4974f601",
    "cifar10/test_cifar100": "f907cb13024ba0fd13099954064df8f2f1ab8e3369c27b95ab44f3c5fc87ad16",
    "cifar10/val_tin": "39e22c5c6c2d95f95ab5ba43106f43ad7aa254ff62316104f406f7f10811f7c2",
    "cifar10/test_tin": "a44fd34e3c925d984063d2ad64969ff71e8fa6f5524fbe9da481c8b0c87b27cd",
    "cifar10/test_mnist": "48f8055d7327cbe91bff3ab6b43f9b623c3983355c55c246207907841c2ccb92",
    "cifar10/test_svhn": "f0cb7b825a985af2a6bf803cf51d7ca004e24ee8d8051eb6805bf77c77621c1e",
    "cifar10/test_texture": "644fcaec364ee1ee440ff5285e1581d162b957378bb240ac4b7fc26e4f2f48e4",
    "cifar10/test_places365": "fa127faa5c1bbc5b567e1cd2871b04b570f045d1676550f441ec5e7c91ab6cc7",
    "cifar100/train_cifar100": "50486e5eadbcfabc0f91d652c8c4ba4fd143e6d1b462df4daa7f3aef00b545a7",
    "cifar100/val_cifar100": "c3c7a4fdade23a3e61a0d7c938db0165a36eea26dfc89b32b1f5762ccd40350d",
    "cifar100/test_cifar100": "b80ec93f98001ff121131204d7c1a21c04ace146cbbe7c3f60a1a2c6b239f18f",
    "cifar100/test_cifar10": "352dd98e85f2960921339ae8a9ef3c3cc5b7a165e2dab896650d7a822d5b591c",
    "cifar100/val_tin": "b9b77628910bb860f0145e1670347efd6bfa1c6ff8c3e574d8f4bc438b420a8a",
    "cifar100/test_tin": "8a85ed2203195cb70a2ddab2a6622ed5d091c868717976eb20661b49f6a82b16",
    "cifar100/test_places365": "72d284ba55265c8e160a2dd668d6270305684c07adc8ab1e5fb7f400d3647705",
    "imagenet/val_imagenet": "b352c357d25ca94aae787ff7a65aaee0a4c219ab4021481ce3ccc97b88904fea",
    "imagenet/test_imagenet": "7e0e05f8aa8e312992bfe342d57b8513dd4e62b68fedb5a1c63b6bca662d047c",
    "imagenet/test_imagenet_c": "d31f2b2fb1b242e8e200b94be5de3405ba9165eaa16a260632ba2c9200acdabe",
    "imagenet/test_imagenet_r": "a9668e25fa5c7d291af4c0ebed6a6b718b87770a45b34121e95be3baf7b43c1c",
    "imagenet/test_imagenet_v2": "44f4322a5a44f1ccdb9449eae9c26bf12d831c459c23f726e5aabedcd8b0a0bf",
    "imagenet/test_ssb_hard": "e2dc7ba6c1e2bd2179a06038598344d5d8716be3bbc9409c45b0c3de95431510",
    "imagenet/test_ninco": "28450babf7d8d7389b75989a3af15346be0d514f048eac3711694045fdf40dd8",
    "imagenet/test_inaturalist": "86a19665f968eecf17383bafa15dea3aeb53db96c305d08f026cdb6438376ecb",
    "imagenet/test_textures": "9cf1ff7e97ce67ea61a8bb1ffc17bb845ae06e1d22bfebc74c3c0aa284a408c9",
    "imagenet/test_openimage_o": "cbfb3ab73257f2d1523e1358e3c55d9589844194447cbad737248835cceb2ffc",
    "imagenet/val_openimage_o": "3bb1227701775c3893fedd5268f61a17dbfc15e3ec70ea195e3cc827c6b741d1",
}
"""List -> SHA-256 over its names and labels (`ImageList.digest`), in the copies that the cards name."""


def listed(boards: str, stem: str, folder: str, classes: int = 0) -> tuple[Source, ...]:
    """The list benchmark_imglist/BOARD/STEM.txt of the first of some boards that has it.

    `folder`: where its paths start. `classes`: 0 for a set whose labels have no meaning.
    """
    names = tuple(f"benchmark_imglist/{board}/{stem}.txt" for board in boards.split())
    members = MEMBERS.get(f"{boards.split()[0]}/{stem}", "")
    return (ListSource((File(names),), ListReader(f"../../{folder}", classes), members=members),)
