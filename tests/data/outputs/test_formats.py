"""Every format gives the same arrays, mapped where they lie if the format allows it; damaged files are one sentence."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file as save_tensors

from oodbench.benchmark.data.outputs import read_outputs
from oodbench.benchmark.data.outputs.files import READERS
from oodbench.benchmark.data.outputs.formats.npy_arrays import npy_array, npz_arrays
from oodbench.benchmark.data.outputs.formats.parquet_arrays import MAX_WIDTH, ROWS, parquet_arrays
from oodbench.benchmark.data.outputs.formats.spool import IN_MEMORY, converted, spooled_bytes
from oodbench.benchmark.data.outputs.formats.tensor_arrays import safetensors_arrays
from oodbench.benchmark.errors import UserError
from tests.data.outputs.folders import arrays, write_folder

Content = dict[str, Any]


def names(count: int) -> Any:
    return np.array([f"ordner/bild {k} ä.png" for k in range(count)])


def write_npz(folder: Path, name: str, content: Content) -> None:
    save: Any = np.savez
    save(folder / f"{name}.npz", **content)


def write_compressed(folder: Path, name: str, content: Content) -> None:
    save: Any = np.savez_compressed
    save(folder / f"{name}.npz", **content)


def write_npy(folder: Path, name: str, content: Content) -> None:
    for key, array in content.items():
        np.save(folder / f"{name}_{key}.npy", array)


def write_safetensors(folder: Path, name: str, content: Content) -> None:
    tensors = {key: array for key, array in content.items() if key != "names"}
    save_arrays(tensors, folder / f"{name}.safetensors", metadata={"by": "hand"})
    if "names" in content:
        (folder / f"{name}_names.txt").write_text("\n".join(content["names"]) + "\n", encoding="utf-8")


def write_parquet(folder: Path, name: str, content: Content, fixed: bool = False, **options: Any) -> None:
    def column(array: Any) -> Any:
        if array.ndim == 1:
            return pa.array(array)
        if fixed:
            return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
        return pa.array(list(array))

    table = pa.table({key: column(array) for key, array in content.items()})
    pq.write_table(table, folder / f"{name}.parquet", **options)


def write_fixed(folder: Path, name: str, content: Content) -> None:
    write_parquet(folder, name, content, fixed=True, row_group_size=3)


WRITERS = [write_npz, write_compressed, write_npy, write_safetensors, write_parquet, write_fixed]


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_same(tmp_path: Path, write: Callable[[Path, str, Content], None]) -> None:
    sets = {"id_test": arrays(7, 2, names=names(7), score_mine=np.arange(7.0)), "svhn": arrays(2 * ROWS + 3, 3)}
    (tmp_path / "ood").mkdir()
    write(tmp_path, "id_test", sets["id_test"])
    write(tmp_path / "ood", "svhn", sets["svhn"])
    write(tmp_path, "head", {"weight": np.ones((3, 5), np.float32), "bias": np.arange(3.0)})
    given = read_outputs(tmp_path)
    for name, found in (("id_test", given.id["test"]), ("svhn", given.ood["svhn"])):
        for key in ("logits", "features"):
            array = getattr(found, key)
            assert array.dtype == sets[name][key].dtype
            np.testing.assert_array_equal(array, sets[name][key])
    test = given.id["test"]
    np.testing.assert_array_equal(test.labels, sets["id_test"]["labels"])
    assert test.names == tuple(names(7))
    assert test.scores["mine"][0].tolist() == list(range(7))
    assert given.head is not None
    assert given.head.bias.tolist() == [0, 1, 2]


@pytest.mark.parametrize("write", [write_npz, write_npy, write_safetensors])
def test_uncompressed_arrays_are_mapped(tmp_path: Path, write: Callable[[Path, str, Content], None]) -> None:
    write(tmp_path, "x", arrays(7))
    read = {".npz": npz_arrays, ".npy": lambda path: {"logits": npy_array(path)}, ".safetensors": safetensors_arrays}
    for path in tmp_path.glob("x*"):
        if path.suffix != ".npy" or "logits" in path.name:
            found = read[path.suffix](path)["logits"]
            assert isinstance(found, np.memmap)
            assert str(found.filename) == str(path)
            assert not found.flags.writeable


def test_fortran_order_and_other_byte_orders(tmp_path: Path) -> None:
    content = arrays(7)
    content["logits"] = np.asfortranarray(content["logits"])
    content["features"] = content["features"].astype(">f4")
    write_folder(tmp_path, id_test=content, svhn=content)
    for save in (write_npz, write_compressed):
        save(tmp_path, "id_test", content)
        found = read_outputs(tmp_path).id["test"]
        np.testing.assert_array_equal(found.logits, content["logits"])
        np.testing.assert_array_equal(found.features, content["features"])
        assert found.features is not None
        assert found.features.dtype == np.float32
        assert found.features.dtype.isnative


@pytest.mark.parametrize(
    "dtype, expected",
    [("f2", "f2"), ("f4", "f4"), ("f8", "f8"), ("i8", "f8"), ("u1", "f8"), ("g", "f8"), (">f8", "f8")],
)
def test_types_of_logits(tmp_path: Path, dtype: str, expected: str) -> None:
    content = {"logits": np.arange(21).reshape(7, 3).astype(dtype)}
    write_folder(tmp_path, id_test=content, svhn=content)
    found = read_outputs(tmp_path).id["test"].logits
    assert found is not None
    assert found.dtype == np.dtype(expected)
    np.testing.assert_array_equal(found, np.arange(21).reshape(7, 3))


def test_bfloat16_is_widened_exactly(tmp_path: Path) -> None:
    tensor = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    save_tensors({"logits": tensor}, tmp_path / "x.safetensors")
    found = safetensors_arrays(tmp_path / "x.safetensors")["logits"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, tensor.float().numpy())


def test_a_head_from_the_state_of_a_network(tmp_path: Path) -> None:
    write_folder(tmp_path, id_test=arrays(4), svhn=arrays(3))
    save_tensors({"module.fc.weight": torch.ones(3, 5), "module.fc.bias": torch.ones(3)}, tmp_path / "head.safetensors")
    head = read_outputs(tmp_path).head
    assert head is not None
    assert head.weight.shape == (3, 5)


# Arrays that do not fit in memory


def test_large_arrays_are_unpacked_into_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    content = np.arange(4000.0)
    pieces = [content[:1500].tobytes(), content[1500:].tobytes()]
    found = spooled_bytes(pieces, content.nbytes, content.dtype, in_memory=1000)
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, content)
    np.testing.assert_array_equal(spooled_bytes(pieces, content.nbytes, content.dtype), content)
    assert not list(tmp_path.iterdir())
    matrix = np.arange(8000).reshape(2000, 4)
    mapped = converted(matrix, np.float32, in_memory=1000)
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, matrix)


def test_a_disk_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert IN_MEMORY < 1 << 60
    with pytest.raises(ValueError, match=r"GB in .* to be unpacked or converted, which has .*TMPDIR"):
        spooled_bytes([], 1 << 60, np.dtype("f4"))


# Files that are refused


def refused(path: Path, sentence: str) -> None:
    (path.parent / "ood").mkdir(exist_ok=True)
    np.save(path.parent / "ood" / "svhn.npy", np.zeros(3))
    with pytest.raises(UserError, match=sentence) as caught:
        read_outputs(path.parent)
    assert str(path) in str(caught.value)


class Runs:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("ran",))


def test_pickles_are_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    objects = np.array([Runs(), Runs()], dtype=object)
    path = tmp_path / "id_test_logits.npy"
    np.save(path, objects, allow_pickle=True)
    refused(path, "contains Python objects .pickle., which are never read .*; save numbers, such as np.asarray")
    path.unlink()
    path = tmp_path / "id_test.npz"
    np.savez(path, logits=objects)
    refused(path, "a member 'logits.npy' that contains Python objects")
    np.savez_compressed(path, logits=objects)
    refused(path, "a member 'logits.npy' that contains Python objects")
    path.write_bytes(pickle.dumps(Runs()))
    refused(path, "is not a readable .npz archive")
    assert not (tmp_path / "ran").exists()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_truncated_files(tmp_path: Path) -> None:
    path = tmp_path / "id_test_logits.npy"
    whole = npy(np.zeros((9, 3)))
    path.write_bytes(whole[:-1])
    refused(path, "declares 216 bytes of data but has 215: the file is truncated or damaged; save it again")
    path.write_bytes(whole[:20])
    refused(path, "is not a NumPy array")
    path.write_bytes(b"")
    refused(path, "is not a NumPy array")
    path.unlink()
    for write in (write_npz, write_compressed, write_safetensors, write_parquet):
        write(tmp_path, "id_test", arrays(500))
        (path,) = tmp_path.glob("id_test.*")
        path.write_bytes(path.read_bytes()[:-9])
        refused(path, "archive|safetensors|outside of the file|Parquet")
        path.unlink()


def zipped(path: Path, members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_archives_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "id_test.npz"
    whole = npy(np.zeros((9, 3)))
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        refused(
            zipped(path, {"logits.npy": whole[:-8]}, how), "'logits.npy' that declares 216 bytes of data but has 208"
        )
    refused(zipped(path, {"logits.npy": whole, "logits": whole}), "contains 'logits' twice")
    refused(zipped(path, {f"m{k}.npy": b"" for k in range(1001)}), "has 1,001 members; at most 1,000")
    refused(zipped(path, {"logits.npy": b"text"}), "'logits.npy' that is not a NumPy array")
    refused(zipped(path, {}), "contains no arrays")
    content = bytearray(zipped(path, {"logits.npy": whole}).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    refused(path, "encrypted")
    content = bytearray(zipped(path, {"logits.npy": npy(np.arange(27.0))}, zipfile.ZIP_DEFLATED).read_bytes())
    content[60] ^= 255
    path.write_bytes(content)
    refused(path, "id_test.npz' ")


@pytest.mark.parametrize(
    "header, sentence",
    [
        (b"{}", None),
        (b"[]", "its header is no JSON object"),
        (b"{", "id_test.safetensors' "),
        (b'{"logits": 1}', "expected"),
        (b'{"logits": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 99999]}}', "outside of the file"),
        (b'{"logits": {"dtype": "F32", "shape": [2, 2], "data_offsets": [8, 4]}}', "outside of the file"),
        (b'{"logits": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0]}}', "outside of the file"),
        (b'{"logits": {"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]}}', "outside of the file"),
        (b'{"logits": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 16]}}', "does not fit its shape"),
        (b'{"logits": {"dtype": "F8_E4M3", "shape": [4, 4], "data_offsets": [0, 16]}}', "type F8_E4M3; save it as"),
    ],
)
def test_safetensors_that_lie(tmp_path: Path, header: bytes, sentence: str | None) -> None:
    path = tmp_path / "id_test.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    refused(path, sentence or "contains no arrays")
    path.write_bytes(struct.pack("<Q", 1 << 62) + header)
    refused(path, "is not a .safetensors file, or it is truncated")


@pytest.mark.parametrize(
    "columns, sentence",
    [
        ({"logits": [[1.0, 2.0], [3.0]]}, "has a list of 1 numbers in row 1 of the column 'logits', but 2 in row 0"),
        ({"logits": [[1.0, 2.0], None]}, "has no value in row 1 of the column 'logits'"),
        ({"logits": [[1.0, 2.0], [3.0, None]]}, "has an empty value in row 1 of the column 'logits'"),
        ({"score": [1.0, None]}, "has no value in row 1 of the column 'score'"),
        ({"names": ["a", None]}, "has no value in row 1 of the column 'names'"),
        ({"logits": [{"a": 1}, {"a": 2}]}, "column 'logits' of type struct.*expected numbers"),
    ],
)
def test_parquet_with_gaps(tmp_path: Path, columns: Content, sentence: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "id_test.parquet")
    refused(tmp_path / "id_test.parquet", sentence)


def test_rows_of_later_batches_are_named(tmp_path: Path) -> None:
    rows: list[Any] = [[1.0, 2.0]] * (2 * ROWS)
    rows[ROWS + 7] = [1.0, 2.0, 3.0]
    pq.write_table(pa.table({"logits": rows}), tmp_path / "id_test.parquet")
    refused(tmp_path / "id_test.parquet", f"in row {ROWS + 7} of the column 'logits'")


def test_parquet_of_other_types(tmp_path: Path) -> None:
    table = pa.table({"names": pa.array(["a", "b"]).dictionary_encode(), "logits": [[1, 2], [3, 4]]})
    pq.write_table(table, tmp_path / "x.parquet")
    found = parquet_arrays(tmp_path / "x.parquet")
    assert found["names"].tolist() == ["a", "b"]
    assert found["logits"].tolist() == [[1, 2], [3, 4]]
    pq.write_table(table.slice(0, 0), tmp_path / "id_test.parquet")
    refused(tmp_path / "id_test.parquet", "has no rows: the set 'id_test' is empty")


def test_empty_and_endless_rows(tmp_path: Path) -> None:
    save_arrays({"logits": np.empty((0, 3), np.float32)}, tmp_path / "id_test.safetensors")
    refused(tmp_path / "id_test.safetensors", "has no rows: the set 'id_test' is empty")
    (tmp_path / "id_test.safetensors").unlink()
    pq.write_table(pa.table({"logits": [np.zeros(MAX_WIDTH + 1, np.int8)]}), tmp_path / "id_test.parquet")
    refused(tmp_path / "id_test.parquet", "has lists of 1,048,577 numbers in the column 'logits'; at most 1,048,576")


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "id_test_logits.npy")
    refused(tmp_path / "id_test_logits.npy", "is not a regular file")


@pytest.mark.parametrize("suffix", [*READERS, ".npy", "_names.txt", ".toml"])
def test_random_bytes_are_one_sentence(tmp_path: Path, suffix: str) -> None:
    draw = random.Random(suffix)
    writers = {".npz": write_compressed, ".safetensors": write_safetensors, ".parquet": write_parquet}
    if write := writers.get(suffix):
        write(tmp_path, "x", arrays(20))
    starts = {".npy": npy(np.zeros((4, 3))), "_names.txt": "ä\n".encode() * 9, ".toml": b'title = "x"\n[ood.svhn]\n'}
    whole = (tmp_path / f"x{suffix}").read_bytes() if write else starts[suffix]
    for path in tmp_path.iterdir():
        path.unlink()
    write_folder(tmp_path, id_test={"score": np.zeros(9)}, svhn={"score": np.zeros(9)})
    where = "outputs" if suffix == ".toml" else "id_train"
    path, refusals = tmp_path / f"{where}{suffix}", []
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(draw.choice([1, 3, 30])):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(
            draw.choice([bytes(content), bytes(content[: draw.randrange(len(content))]), draw.randbytes(99)])
        )
        try:
            read_outputs(tmp_path)
        except UserError as error:
            refusals.append(str(error))
    assert refusals
    assert not [text for text in refusals if where not in text]
