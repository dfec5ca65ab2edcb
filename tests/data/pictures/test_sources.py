"""Shards, Parquet files, lists and files in sequence give the pictures that a folder gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oodbench.benchmark.data.files import ImageTree, Joined, Parquet, Rows
from oodbench.benchmark.data.files.listing import list_images
from oodbench.benchmark.data.files.own_images import OwnImages, open_own
from oodbench.benchmark.data.files.pixels import AS_STORED, Fit
from oodbench.benchmark.data.pictures.source import (
    BadImageError,
    DamagedImageError,
    ListedFiles,
    PictureFiles,
    read_file,
)
from oodbench.benchmark.errors import DataError
from tests.data.pictures.pictures import encoded, photo, varied
from tests.data.trees import as_folder, as_tar, as_zip

CLASSES = ("0", "1", "2")


def contents(files: PictureFiles | None) -> list[bytes]:
    assert files is not None
    assert len(set(files.names)) == len(files.names) == len(files.stamps(range(len(files.names))))
    return [files.read(row) for row in range(len(files.names))]


def labelled() -> list[tuple[str, int, bytes]]:
    return [(f"{k:06d}", k % 3, encoded(photo(30 + k, 40, k), "JPEG")) for k in range(9)]


def test_shards_of_webdataset(tmp_path: Path) -> None:
    for folder in ("train", "test"):
        for shard in range(3):
            members = {}
            for key, label, content in labelled()[3 * shard : 3 * shard + 3]:
                members[f"{key}.jpg"] = content
                members |= {f"{key}.cls": str(label).encode()} if shard else {f"{key}.json": b'{"label": %d}' % label}
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            as_tar(tmp_path / "set" / folder / f"photos-{shard:06d}.tar", members)
    listing = list_images(open_own(tmp_path / "set"))
    assert listing.classes == CLASSES
    files = OwnImages("train", Fit()).pictures([tmp_path / "set"], None)
    found = sorted(zip(contents(files), files.labels.tolist(), strict=True)) if files.labels is not None else []
    assert found == sorted((content, label) for _, label, content in labelled())
    assert files.names[0] == "train/0/photos-000000/000000.jpg"
    read = OwnImages("test", Fit()).read([tmp_path / "set"])
    assert read.images.shape == (9, 3, 32, 32)


def test_shards_without_classes_are_images_in_stored_order(tmp_path: Path) -> None:
    tmp_path.joinpath("set").mkdir()
    as_tar(tmp_path / "set" / "a-0.tar", {f"{key}.jpg": content for key, _, content in labelled()})
    assert contents(OwnImages("test", Fit()).pictures([tmp_path / "set"], None)) == [c for _, _, c in labelled()]


@pytest.mark.parametrize("content", [b"cat", b"-1", b"", b"1.5"])
def test_a_shard_with_another_label_is_refused(tmp_path: Path, content: bytes) -> None:
    tmp_path.joinpath("set").mkdir()
    as_tar(tmp_path / "set" / "a-0.tar", {"1.jpg": encoded(photo(9, 9), "JPEG"), "1.cls": content})
    with pytest.raises(DataError, match=r"'1.cls' in '.*a-0.tar' is .*; expected the number of a class"):
        open_own(tmp_path / "set")


def parquet(path: Path, labels: bool = True, groups: int = 4) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns: dict[str, object] = {"image": [{"bytes": content, "path": f"{key}.jpg"} for key, _, content in labelled()]}
    if labels:
        columns["label"] = [label for _, label, _ in labelled()]
    pq.write_table(pa.table(columns), path, row_group_size=groups)
    return path


@pytest.mark.parametrize("order", [range(9), (8, 0, 5, 4, 3, 8)])
def test_parquet_is_read_by_row_group(tmp_path: Path, order: range | tuple[int, ...]) -> None:
    files = Parquet(CLASSES, Fit()).pictures([parquet(tmp_path / "set.parquet")], None)
    assert files is not None
    assert files.labels is not None
    assert files.labels.tolist() == [label for _, label, _ in labelled()]
    assert [files.read(row) for row in order] == [labelled()[row][2] for row in order]


def test_parquet_without_bytes_or_of_one_size(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    assert Parquet(CLASSES, AS_STORED).pictures([parquet(tmp_path / "set.parquet")], None) is None
    pq.write_table(pa.table({"image": [{"bytes": b"1"}, {"bytes": None}]}), tmp_path / "empty.parquet")
    files = Parquet((), Fit()).pictures([tmp_path / "empty.parquet"], None)
    assert files is not None
    with pytest.raises(DamagedImageError, match="holds no bytes"):
        files.read(1)


def test_rows_of_files_and_files_in_sequence(tmp_path: Path) -> None:
    one, two = (as_folder(tmp_path / name, varied()) for name in ("one", "two"))
    tree = ImageTree(fit=Fit(), group=2)
    whole = contents(tree.pictures([one], None))
    assert contents(Rows(tree, 2, 5).pictures([one], None)) == whole[2:5]
    joined = Joined(((tree, 0, 3), (tree, 1, None))).pictures([one, two], None)
    assert contents(joined) == whole[:3] + whole[1:]
    assert joined is not None
    assert joined.groups is not None
    assert joined.groups[:4].tolist() == [0, 0, 1, 2]
    assert joined.names[2:4] == ["one/colour.jpg", "two/cmyk.jpg"]
    assert Joined(((tree, 0, 3), (ImageTree(), 0, 3))).pictures([one, two], None) is None


def test_a_list(tmp_path: Path) -> None:
    as_folder(tmp_path / "images", varied())
    names = [*sorted(varied()), "gone.jpg"]
    files = ListedFiles(tmp_path / "images", names)
    assert [files.read(row) for row in range(9)] == [varied()[name] for name in names[:9]]
    assert files.stamps([9]) == ["-"]
    with pytest.raises(DamagedImageError, match="is not there"):
        files.read(9)


def test_archives_whose_members_are_damaged(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "set.zip", varied())
    content = bytearray(path.read_bytes())
    content[content.index(varied()["colour.jpg"]) + 200] ^= 255
    path.write_bytes(content)
    files = OwnImages("test", Fit()).pictures([path], None)
    with pytest.raises(DamagedImageError, match=r"cannot be unpacked \(Bad CRC-32"):
        files.read(list(files.names).index("colour.jpg"))
    damaged = as_tar(tmp_path / "set.tar.gz", varied())
    damaged.write_bytes(damaged.read_bytes()[:-300])
    with pytest.raises(DataError, match="is damaged or incomplete"):
        ImageTree(fit=Fit()).pictures([damaged], tmp_path / "cache")


def test_a_compressed_tar_is_unpacked_once(tmp_path: Path) -> None:
    path = as_tar(tmp_path / "set.tar.gz", varied())
    for _ in range(2):
        files = ImageTree(fit=Fit()).pictures([path], tmp_path / "cache")
        assert contents(files) == [varied()[name] for name in sorted(varied())]
    unpacked = list((tmp_path / "cache").glob("*.unpacked.tar"))
    assert len(unpacked) == 1
    side = json.loads(unpacked[0].with_name(unpacked[0].name.replace(".unpacked.tar", ".json")).read_text())
    assert side["made_from"]["names"] == [str(path)]


def test_what_is_not_a_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match="is a folder"):
        read_file(tmp_path)
    with pytest.raises(DamagedImageError, match="is not there"):
        read_file(tmp_path / "none" / "a.jpg")
