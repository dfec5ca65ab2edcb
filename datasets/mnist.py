"""MNIST and data sets in its format: Fashion-MNIST, KMNIST and notMNIST."""

from __future__ import annotations

from oodbench.benchmark import dataset
from oodbench.benchmark.data.files import FileDataset, Idx, Source, idx_pair, own_files
from oodbench.benchmark.data.files.pixels import Fit

RESIZED = (
    "Greyscale, 28 x 28; resized to 32 x 32 (bilinear, Pillow), in one channel. Lee et al. (ICLR 2018) resize alike "
    "and repeat the images in three channels, as the suite lee2018-mnist does. Zero padding would keep the stroke "
    "width and give different numbers."
)
DIGITS = tuple("0123456789")
SIZES = {"train": 60_000, "test": 10_000}
MD5 = {
    "mnist": {
        "train": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432"),
        "test": ("9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
    },
    "fashion-mnist": {
        "train": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe"),
        "test": ("bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
    },
    "kmnist": {
        "train": ("bdb82020997e1d708af4cf47b453dcf7", "e144d726b3acfaa3e44228e80efcd344"),
        "test": ("5c965bf0a639b31b8f53240b1b52f4d7", "7320c461ea6c1c855c0b718fb2a4b134"),
    },
}
"""MD5 of the gzipped images and labels, as listed by torchvision."""


def sources(
    name: str,
    classes: tuple[str, ...],
    folder: str = "",
    mirrors: tuple[str, ...] = (),
    checksums: tuple[str, str] = ("", ""),
) -> dict[str, tuple[Source, ...]]:
    """Sources of both splits: the IDX pair, a tree, or a Parquet file. `checksums` are of the IDX pairs' content."""
    return {
        split: (
            idx_pair(name, split, Idx(len(classes)), folder, mirrors, MD5.get(name, {}).get(split, ("", "")), checksum),
            *own_files(f"{name}-{split}", classes, Fit(stored=(28, 28))),
        )
        for split, checksum in zip(("train", "test"), checksums, strict=True)
    }


@dataset(
    "mnist",
    title="MNIST: handwritten digits",
    paper="LeCun et al., Gradient-based Learning Applied to Document Recognition, Proc. IEEE 86(11), 1998",
    display_name="MNIST",
    cite="lecun1998mnist",
)
class Mnist(FileDataset):
    """60,000 + 10,000 handwritten digits."""

    channels = 1
    classes = DIGITS
    sizes = SIZES
    sources = sources(
        "mnist",
        DIGITS,
        "MNIST",
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        (
            "382b7e40738a8e206af2d685a1ba7546ea74598c12e2b23b154d6280d4545062",
            "6854a69cc1c029c7c92d18fb08ab6a1db92adebae3249756608c317b6dc69c27",
        ),
    )
    licence = "Commonly given as CC BY-SA 3.0"
    origin = f"The four IDX files that torchvision downloads, with 'mnist-' before their names. {RESIZED}"
    caveats = (
        "Writers are not marked, so there are no groups; train and test have different writers. Easy: classifiers "
        "reach 99% accuracy and more."
    )


@dataset(
    "fashion-mnist",
    title="Fashion-MNIST: pictures of clothes",
    paper="Xiao et al., Fashion-MNIST: a Novel Image Dataset for Benchmarking, arXiv:1708.07747, 2017",
    display_name="Fashion-MNIST",
    cite="xiao2017fashion",
)
class FashionMnist(FileDataset):
    """60,000 + 10,000 images of clothing, with balanced classes."""

    channels = 1
    classes = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
    sizes = SIZES
    sources = sources(
        "fashion-mnist",
        classes,
        "FashionMNIST",
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        ("", "00cd4e27fd28985b0a7ed400eb56912a3a814f906a4eefb880f44a2407cff47d"),
    )
    licence = "MIT"
    origin = (
        "https://github.com/zalandoresearch/fashion-mnist, IDX files with 'fashion-mnist-' before their names. "
        f"{RESIZED}"
    )
    caveats = "Shop photographs, centred and inverted (bright on black); shirt, coat and pullover overlap."


@dataset(
    "kmnist",
    title="Kuzushiji-MNIST: cursive Japanese characters",
    paper="Clanuwat et al., Deep Learning for Classical Japanese Literature, arXiv:1812.01718, 2018",
    display_name="KMNIST",
    cite="clanuwat2018kmnist",
)
class Kmnist(FileDataset):
    """60,000 + 10,000 handwritten hiragana characters, balanced over 10 classes."""

    channels = 1
    classes = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    sizes = SIZES
    sources = sources(
        "kmnist",
        classes,
        "KMNIST",
        ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        ("", "bb58c3b0be25aa0352f9dbdb6215aa9966acf4121287aa19e771b2cb938ada2d"),
    )
    licence = "CC BY-SA 4.0"
    origin = f"https://github.com/rois-codh/kmnist, IDX files with 'kmnist-' before their names. {RESIZED}"
    caveats = "A class holds several historical forms of its character."


@dataset(
    "notmnist",
    title="notMNIST: letters A to J from fonts, in MNIST's format",
    paper="Bulatov, notMNIST, 2011",
    display_name="notMNIST",
    cite="bulatov2011notmnist",
)
class NotMnist(FileDataset):
    """Letters A to J in publicly available fonts: 10,000 test images, converted to MNIST's format."""

    channels = 1
    classes = tuple("ABCDEFGHIJ")
    sizes = SIZES
    sources = sources(
        "notmnist", classes, checksums=("", "122760e846ac223f02f42d512c3f3cc75cf10e33e33163b169f2bdbaeea51851")
    )
    licence = "No explicit licence on the images; the conversion's code is MIT"
    origin = (
        "https://github.com/davidflanagan/notMNIST-to-MNIST: its four IDX files, with 'notmnist-' before their names. "
        f"No checksum is published, so they must be downloaded by hand. {RESIZED}"
    )
    caveats = (
        "The split was defined by that conversion: a selection from the original archives, not their 18,724 "
        "hand-cleaned images (`notmnist-small`). Labels are noisy, and some images show no letter: only 9,804 of the "
        "10,000 are distinct, because many images of I are plain white squares. The number of training images was not "
        "checked against the file."
    )
