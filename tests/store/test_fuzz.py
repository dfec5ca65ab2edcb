"""Mutated inputs of every kind: each gives a valid result or a one-line error, and nothing is written elsewhere.

The seeds in tests/fuzz/ are valid; hypothesis changes them, the same way each time. A few hundred inputs by default,
more than ten thousand in all shares of `-m slow` (`tests.support.share`).
"""

from __future__ import annotations

import io
import json
import signal
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from PIL import Image

from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.files.file_dataset import Access, FileDataset
from oodbench.benchmark.data.files.file_source import File, Source, tree_file
from oodbench.benchmark.data.files.idx import Idx
from oodbench.benchmark.data.files.image_tree import ImageTree
from oodbench.benchmark.data.files.native.remarks import remarks_on
from oodbench.benchmark.data.files.own_images import decode_own
from oodbench.benchmark.data.files.pixels import BadImageError, Fit, decode
from oodbench.benchmark.errors import MAX_SENTENCE, OodbenchError
from oodbench.benchmark.papers.against_published import against_csv, against_markdown, against_text
from oodbench.benchmark.papers.published import read_reference
from oodbench.benchmark.plan.suite_file import read_suite
from oodbench.benchmark.plan.weights.file import read_weights
from oodbench.benchmark.plugins.specs import create, parse_detector, parse_set, parse_spec, split_list
from oodbench.benchmark.records.csv_file import records_csv
from oodbench.benchmark.records.prune import prune
from oodbench.benchmark.records.run import read_stored_run
from oodbench.benchmark.store.store import Key, Store
from oodbench.benchmark.store.tensor_file import from_file, to_bytes
from oodbench.benchmark.views.tables.extended import extended_text
from oodbench.benchmark.views.tables.files import table_csv
from oodbench.benchmark.views.tables.latex import table_latex
from oodbench.benchmark.views.tables.markdown import table_markdown
from oodbench.benchmark.views.tables.released_scripts import audit_text
from oodbench.benchmark.views.tables.text import text_table
from tests.mutations import EDITS, SEEDS, bytes_like, json_like, mutated, seed
from tests.support import SHARES, encode_image, idx_file, safetensors_file, share

FEW, MANY = 20, 720
HANGS = 60
"""Seconds after which processing an input counts as endless."""
MEMORY = 1 << 30
"""Bytes by which all inputs of a kind together may raise the process's peak memory."""
Read = Callable[[bytes], object]

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # from NumPy, for a shape whose product overflows
    pytest.mark.filterwarnings("ignore:.*additional header parsing.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
    pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning"),
]


# Formats around the seeds


def npy_from_header(header: bytes) -> bytes:
    text = header + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", min(len(text), 65_535)) + text + bytes(64)


def with_32_bytes(header: bytes) -> bytes:
    """A safetensors file with this header."""
    return safetensors_file(header, bytes(32))


IDX_SIZES = st.lists(st.sampled_from([0, 1, 2, 8, 1 << 20, (1 << 32) - 1]), max_size=4)


@cache
def pictures() -> tuple[bytes, ...]:
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (8, 9, 3)).astype(np.uint8))
    return tuple(encode_image(image, form) for form in ("PNG", "JPEG", "WEBP", "BMP", "PPM"))


@cache
def own_pictures() -> tuple[bytes, ...]:
    """The formats that are read among a user's own images only, and EXIF data."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (8, 9, 3)).astype(np.uint8))
    more: dict[str, dict[str, object]] = {
        "TIFF": {"exif": exif},
        "GIF": {},
        "JPEG": {"exif": exif},
        "MPO": {"save_all": True, "append_images": [image]},
    }
    return tuple(encode_image(image, form, **options) for form, options in more.items())


def zipped(names: list[str], content: bytes, method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name in names:
            archive.writestr(name, content)
    return out.getvalue()


def tarred(names: list[str], content: bytes, kind: bytes, size: int, pax: dict[str, str]) -> bytes:
    out = io.BytesIO()
    for name in names:
        info = tarfile.TarInfo(name)
        info.type, info.size, info.pax_headers = kind, size, pax
        out.write(info.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT, errors="surrogateescape"))
        out.write(content + bytes(-len(content) % 512))
    return out.getvalue() + bytes(1024)


HOSTILE = ["0.png", "a/1.jpg", "../x.png", "/x.png", "C:x.png", "a\\b.png", ".x", "a\x1b.png", "a/" * 300, "x\n"]
NAMES = st.lists(st.sampled_from(HOSTILE), min_size=1, max_size=3)
METHODS = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
KINDS = st.sampled_from([bytes([k]) for k in b"01234567xgLKSX"])
SIZES = st.sampled_from([0, 1, 9, 512, -1, -512, 1 << 29, 1 << 40, (1 << 62)])
PAX = st.dictionaries(
    st.sampled_from(["size", "path", "GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.map", "hdrcharset"]),
    st.sampled_from(["-1", "0", "1", "512", "999999999999", "../x", "BINARY", "x"]),
    max_size=3,
)


@cache
def checkpoint(zipped_: bool) -> bytes:
    out = io.BytesIO()
    content = {"state_dict": {"head.weight": torch.ones(2, 2), "head.bias": torch.ones(2)}, "epoch": 3}
    torch.save(content, out, _use_new_zipfile_serialization=zipped_)
    return out.getvalue()


def repacked(edits: list[tuple[str, float, int, int | bytes]]) -> bytes:
    """A checkpoint with a mutated pickle in an intact archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(checkpoint(True))) as whole, zipfile.ZipFile(out, "w") as archive:
        for name in whole.namelist():
            content = whole.read(name)
            archive.writestr(name, mutated(content, edits) if name.endswith("data.pkl") else content)
    return out.getvalue()


# Readers, which work in the folder `inside`


def lines_print(*texts: str) -> None:
    for text in texts:
        assert all(line.isprintable() for line in text.split("\n"))


def reads_suite(inside: Path) -> Read:
    def read(content: bytes) -> object:
        (inside / "mine.toml").write_bytes(content)
        return read_suite(str(inside / "mine.toml"))

    return read


def reads_specs(inside: Path) -> Read:
    def read(content: bytes) -> None:
        text = content.decode(errors="replace")
        for parse in (parse_spec, parse_detector, parse_set, split_list):
            try:
                str(parse(text))
            except OodbenchError as error:
                check_message(error)
        create("detector", parse_spec(text))

    return read


def reads_run(inside: Path, part: str) -> Read:
    folder = inside / "runs" / "x"
    (folder / "cells").mkdir(parents=True)
    (folder / "run.json").write_text(seed("run.json"))
    (folder / "cells" / "cell.json").write_text(seed("record.json"))
    (folder / "cells" / "other.json").write_text(seed("record.json").replace('"seed": 0', '"seed": 1'))
    published = read_reference(str(SEEDS / "reference.csv"))

    def read(content: bytes) -> None:
        (folder / part).write_bytes(content)
        run = read_stored_run(folder)
        lines_print(text_table(run), table_markdown(run), table_latex(run))
        lines_print(against_text(run, published), against_markdown(run, published))
        table_csv(run), records_csv(run.records), against_csv(run, published)
        lines_print(extended_text(run))
        lines_print(audit_text(run, "lee2018"))

    return read


def reads_cell(inside: Path) -> Read:
    return reads_run(inside, "cells/cell.json")


def reads_info(inside: Path) -> Read:
    return reads_run(inside, "run.json")


KEY = Key("scores", ".npy", "a", {"made of": 1})


def reads_side(inside: Path) -> Read:
    """The side file of an artifact, which is found or not; pruning reads it too."""
    store = Store(inside / "cache")

    def read(content: bytes) -> None:
        path = store.save_array(KEY, np.zeros(3), {})
        side = path.with_name(path.name + ".json")
        sha256 = json.loads(side.read_text())["sha256"]
        side.write_bytes(content.replace(b"DIGEST", KEY.digest.encode()).replace(b"SHA256", sha256.encode()))
        again = Store(inside / "cache")
        float(again.about(KEY).get("seconds", 0.0))
        again.key_of(KEY.path)
        prune(inside, dry_run=True)
        again.find(KEY)

    return read


class Fuzzed(FileDataset):
    """A tree of images."""

    name = "fuzzed"
    splits = ("test",)
    sources = {"test": (Source((tree_file("fuzzed"),), ImageTree(fit=Fit())),)}


class FuzzedPair(FileDataset):
    """Two idx files."""

    name = "fuzzed-pair"
    splits = ("test",)
    classes = ("a", "b")
    sources = {"test": (Source((File(("images",)), File(("labels",))), Idx(2)),)}


def reads_decoded(inside: Path) -> Read:
    """The side file of decoded pixels: whatever was changed, the pixels are the same, or are decoded again."""
    (inside / "fuzzed.zip").write_bytes(zipped(["0.png"], pictures()[0], zipfile.ZIP_STORED))
    whole = Fuzzed().open("test", Access(inside, DataCache(inside / "cache"))).images.images
    (side,) = (inside / "cache").glob("fuzzed-*.json")
    known = json.loads(side.read_text())
    known["sha256"] = known["sha256"]["images"]

    def read(content: bytes) -> None:
        for name in ("key", "checksum", "sha256"):
            content = content.replace(name.upper().encode(), known[name].encode())
        side.write_bytes(content)
        store = DataCache(inside / "cache")
        for stem, found in store.entries():
            store.damaged(stem, found)
        opened = Fuzzed().open("test", Access(inside, store, skip_bad=True))
        assert np.array_equal(opened.images.images, whole)

    return read


def reads_array(inside: Path) -> Read:
    def read(content: bytes) -> None:
        store = Store(inside / "cache")

        def write(path: Path) -> None:
            path.write_bytes(content)

        store.save(KEY, write, {})
        array = store.load_array(KEY)
        assert array.nbytes <= len(content)
        assert array.dtype.kind in "biuf"

    return read


def reads_weights(inside: Path) -> Read:
    def read(content: bytes) -> None:
        (inside / "mine").write_bytes(content)
        found = read_weights(inside / "mine").tensors
        assert all(torch.isfinite(value).all() for value in found.values() if value.is_floating_point())

    return read


def reads_state(inside: Path) -> Read:
    def read(content: bytes) -> None:
        (inside / "state").write_bytes(content)
        with suppress(ValueError):  # expected by callers, which recompute the state
            from_file(inside / "state")

    return read


def reads_idx(inside: Path) -> Read:
    (inside / "labels").write_bytes(idx_file([2], bytes(2)))

    def read(content: bytes) -> object:
        (inside / "images").write_bytes(content)
        return FuzzedPair().open("test", Access(inside, DataCache(None)))

    return read


def reads_tree(inside: Path, suffix: str) -> Read:
    def read(content: bytes) -> object:
        (inside / f"fuzzed{suffix}").write_bytes(content)
        return Fuzzed().open("test", Access(inside, DataCache(None), skip_bad=True))

    return read


def reads_zip(inside: Path) -> Read:
    return reads_tree(inside, ".zip")


def reads_tar(inside: Path) -> Read:
    return reads_tree(inside, ".tar")


def reads_image(inside: Path) -> Read:
    def read(content: bytes) -> None:
        with suppress(BadImageError):
            assert decode(content, Fit())[0].shape == (3, 32, 32)

    return read


def reads_own_image(inside: Path) -> Read:
    def read(content: bytes) -> None:
        remarks_on(content)
        with suppress(BadImageError):
            assert decode_own(content, Fit())[0].shape[1:] == (32, 32)

    return read


def reads_reference(inside: Path) -> Read:
    def read(content: bytes) -> object:
        (inside / "mine.csv").write_bytes(content)
        return read_reference(str(inside / "mine.csv"))

    return read


STATE = to_bytes({"a": torch.ones(2), "b": [1.5, "x", {"c": np.zeros(3)}], "d": (1, None)})
TARGETS: dict[str, tuple[Callable[[Path], Read], st.SearchStrategy[bytes]]] = {
    "suite": (reads_suite, bytes_like(seed("suite.toml").encode())),
    "specs": (reads_specs, bytes_like(*(line.encode() for line in seed("specs.txt").splitlines()))),
    "cell": (reads_cell, json_like(seed("record.json"))),
    "run": (reads_info, json_like(seed("run.json"))),
    "side": (reads_side, json_like(seed("side.json"))),
    "decoded": (reads_decoded, json_like(seed("decoded.json"))),
    "array": (
        reads_array,
        st.builds(npy_from_header, bytes_like(*(line.encode() for line in seed("npy.txt").splitlines()))),
    ),
    "safetensors": (reads_weights, json_like(seed("safetensors.json")).map(with_32_bytes)),
    "checkpoint": (reads_weights, st.builds(repacked, EDITS) | bytes_like(checkpoint(True), checkpoint(False))),
    "state": (reads_state, bytes_like(STATE)),
    "idx": (
        reads_idx,
        st.builds(idx_file, IDX_SIZES, st.integers(0, 150).map(bytes)) | bytes_like(idx_file([2, 8, 8], bytes(128))),
    ),
    "zip": (
        reads_zip,
        st.builds(zipped, NAMES, bytes_like(*pictures()), METHODS)
        | bytes_like(zipped(["0.png", "a/1.png"], pictures()[0], zipfile.ZIP_DEFLATED)),
    ),
    "tar": (
        reads_tar,
        st.builds(tarred, NAMES, bytes_like(*pictures()), KINDS, SIZES, PAX)
        | bytes_like(tarred(["0.png"], pictures()[0], b"0", len(pictures()[0]), {})),
    ),
    "image": (reads_image, bytes_like(*pictures())),
    "own image": (reads_own_image, bytes_like(*own_pictures())),
    "reference": (reads_reference, bytes_like(seed("reference.csv").encode())),
}


# The property


def check_message(error: OodbenchError) -> None:
    text = str(error)
    assert text.strip()
    assert text.isprintable()
    assert len(text) <= MAX_SENTENCE + 5
    assert "Traceback" not in text


@contextmanager
def ends() -> Iterator[None]:
    """A watchdog that turns an endless loop into a failure."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def bark(*_: object) -> None:
        raise TimeoutError(f"not finished within {HANGS} seconds")

    before = signal.signal(signal.SIGALRM, bark)
    signal.alarm(HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def peak() -> int:
    """Peak memory of the process in bytes; 0 where it is unknown."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


COUNTS = [
    pytest.param(FEW, [0], id="few"),
    pytest.param(MANY // SHARES, share(range(1, SHARES + 1)), id="many", marks=pytest.mark.slow),
]
"""Inputs of one seed, and seeds; 0 leaves the choice to hypothesis, which makes the same one each time."""


@pytest.mark.parametrize("examples, seeds", COUNTS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_valid_result_or_a_one_line_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, examples: int, seeds: list[int]
) -> None:
    make, inputs = TARGETS[target]
    inside = tmp_path / "a" / "b" / "inside"
    inside.mkdir(parents=True)
    (tmp_path / "x").write_text("not yours")
    monkeypatch.chdir(tmp_path / "a")
    read = make(inside)

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(inputs)
    def holds(content: bytes) -> None:
        with ends():
            try:
                read(content)
            except OodbenchError as error:
                check_message(error)

    before = peak()
    for number in seeds:
        (seeded(number)(holds) if number else holds)()
    assert peak() - before < MEMORY
    outside = {name: content for name, content in contents(tmp_path).items() if not name.startswith("a/b/inside/")}
    assert outside == {"x": b"not yours"}


def test_more_than_ten_thousand_inputs() -> None:
    assert FEW * len(TARGETS) >= 300
    assert MANY * len(TARGETS) > 10_000


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_are_valid(tmp_path: Path, target: str) -> None:
    """Otherwise mutations would never get past the first check."""
    whole: dict[str, bytes] = {
        "suite": seed("suite.toml").encode(),
        "specs": b"energy[temperature=10]",
        "cell": seed("record.json").encode(),
        "run": seed("run.json").encode(),
        "side": seed("side.json").encode(),
        "decoded": seed("decoded.json").encode(),
        "array": npy_from_header(seed("npy.txt").splitlines()[0].encode()),
        "safetensors": with_32_bytes(seed("safetensors.json").encode()),
        "checkpoint": checkpoint(True),
        "state": STATE,
        "idx": idx_file([2, 8, 8], bytes(128)),
        "zip": zipped(["0.png"], pictures()[0], zipfile.ZIP_DEFLATED),
        "tar": tarred(["0.png"], pictures()[0], b"0", len(pictures()[0]), {}),
        "image": pictures()[0],
        "own image": own_pictures()[0],
        "reference": seed("reference.csv").encode(),
    }
    make, _ = TARGETS[target]
    make(tmp_path)(whole[target])
