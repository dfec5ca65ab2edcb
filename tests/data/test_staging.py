"""Files of data sets in a shared store: a machine without a file fetches it once and verifies it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from oodbench.benchmark.data.files.file_dataset import FileDataset
from oodbench.benchmark.data.files.file_source import File, Source, tree_file
from oodbench.benchmark.data.files.idx import Idx
from oodbench.benchmark.data.files.image_tree import ImageTree
from oodbench.benchmark.data.files.staging import StagedFiles
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plan.jobs import SetRef
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.store.locks import Locks
from oodbench.benchmark.store.remote import Remote
from oodbench.benchmark.store.store import Store
from tests.support import encode_image

CLASSES = ("cat", "dog")
PETS = parse_set("pets")


class Pets(FileDataset):
    """Two classes in a tree; the preferred source, a pair of files, is available nowhere."""

    splits = ("test",)
    classes = CLASSES
    sources = {
        "test": (
            Source((File(("images",)), File(("labels",))), Idx(2)),
            Source((tree_file("inner/pets"),), ImageTree(CLASSES)),
        )
    }


@pytest.fixture(autouse=True)
def pets(register: Callable[[str, type[Plugin]], None]) -> None:
    register("pets", Pets)


class Machine:
    """A machine with its own data folder and cache; a second object of the same name is another process on it."""

    def __init__(self, root: Path, url: str) -> None:
        self.data, cache = root / "data", root / "cache"
        self.remote = Remote(url, pause=0)
        staged = StagedFiles(self.remote, self.data, Locks(cache / "data"))
        self.library = Library(self.data, cache / "data", staged=staged)
        self.context = JobContext(Store(cache), self.library, torch.device("cpu"))

    @property
    def checksum(self) -> str:
        return self.library.part(PETS, "test").checksum


@pytest.fixture
def machine(tmp_path: Path, store_url: str) -> Callable[[str], Machine]:
    return lambda name: Machine(tmp_path / name, store_url)


def put_pets(data: Path, seed: int = 0) -> Path:
    """An archive of six images."""
    random = np.random.RandomState(seed)
    path = data / "inner" / "pets.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for n in range(6):
            pixels = random.randint(0, 256, (32, 32, 3)).astype(np.uint8)
            archive.writestr(f"{CLASSES[n % 2]}/{n}.png", encode_image(pixels))
    return path


@pytest.fixture
def one(machine: Callable[[str], Machine]) -> Machine:
    """A machine that has the file and has uploaded it to the store."""
    one = machine("one")
    put_pets(one.data)
    assert len(one.checksum) == 64
    one.library.share()
    return one


def test_a_machine_without_the_file_fetches_it(
    one: Machine, machine: Callable[[str], Machine], logged: list[str]
) -> None:
    other = machine("other")
    assert other.checksum == one.checksum
    file = other.data / "inner" / "pets.zip"
    assert file.read_bytes() == (one.data / "inner" / "pets.zip").read_bytes()
    assert logged[-1:] == [f"Fetching '{file}' from the store."]
    again = machine("other")
    assert again.checksum == one.checksum
    assert len([text for text in logged if text.startswith("Fetching")]) == 1, "once per machine"
    assert [path.name for path in other.data.rglob("*") if path.is_file()] == ["pets.zip"]


def test_a_stored_file_is_not_uploaded_again(
    one: Machine, machine: Callable[[str], Machine], logged: list[str]
) -> None:
    for name in ("one", "other"):
        again = machine(name)
        assert again.checksum
        logged.clear()
        again.library.share()
        assert logged == []


def test_another_file_of_the_same_name_replaces_it(one: Machine, machine: Callable[[str], Machine]) -> None:
    two = machine("two")
    put_pets(two.data, seed=1)
    assert two.checksum != one.checksum
    two.library.share()
    assert machine("other").checksum == two.checksum


def test_a_job_is_refused_if_the_images_are_not_those_it_was_planned_for(
    one: Machine, machine: Callable[[str], Machine]
) -> None:
    two = machine("two")
    put_pets(two.data, seed=1)
    planned = SetRef("pets", "test", 6, checksum=one.checksum)
    assert one.context.images(planned).checksum == one.checksum
    with pytest.raises(DataError) as caught:
        two.context.images(planned)
    assert str(caught.value) == (
        "pets (test) differs on this machine from what the run was planned with: its SHA-256 is "
        f"{two.checksum[:12]}, expected {one.checksum[:12]}. Give every machine the same files with --data-dir."
    )


@pytest.mark.parametrize("damage", ["truncated", "removed", "other checksum"])
def test_damage_is_reported(one: Machine, machine: Callable[[str], Machine], damage: str) -> None:
    name = "files/inner/pets.zip"
    content = one.remote.read(name) or b""
    if damage == "truncated":
        one.remote.write(name, content[:-1])
    elif damage == "removed":
        one.remote.remove(name)
    else:
        one.remote.write(f"{name}.json", b'{"sha256": "00"}')
    other = machine("other")
    message = "is not in" if damage == "removed" else "does not match its checksum"
    with pytest.raises(DataError, match=message):
        other.library.part(PETS, "test")
    assert not [path for path in other.data.rglob("*") if path.is_file()]
    again = machine("one")
    again.library.part(PETS, "test")
    if damage == "truncated":
        one.remote.remove(f"{name}.json")  # as the message says
    again.library.share()
    assert machine("third").checksum == one.checksum


def test_a_file_that_no_machine_has_is_absent(machine: Callable[[str], Machine]) -> None:
    with pytest.raises(DataError, match=r"^The test split of 'pets' is not in '.*'\. Put one of these there: "):
        machine("one").library.part(PETS, "test")


def test_an_incomplete_source_is_not_fetched(machine: Callable[[str], Machine], logged: list[str]) -> None:
    one = machine("one")
    one.remote.write("files/images", b"x")
    one.remote.write("files/images.json", b"{}")
    with pytest.raises(DataError, match="is not in"):
        one.library.part(PETS, "test")
    assert logged == []


def test_a_folder_is_not_uploaded_and_reported(machine: Callable[[str], Machine], logged: list[str]) -> None:
    one = machine("one")
    archive = put_pets(one.data)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(one.data / "inner" / "pets")
    archive.unlink()
    assert one.checksum
    one.library.share()
    assert logged == [
        f"'{one.data}/inner/pets' is not uploaded to the store, which only takes regular files of the data folder. "
        "Pack a folder as a zip, or give every machine a copy."
    ]
    assert one.remote.names("files") == set()


def test_a_data_folder_that_cannot_be_written_is_reported(one: Machine, machine: Callable[[str], Machine]) -> None:
    other = machine("other")
    other.data.parent.mkdir(parents=True, exist_ok=True)
    other.data.write_text("a file in place of the folder")
    with pytest.raises(DataError, match=r"pets\.zip' cannot be written: .*\. Choose another --data-dir\.$"):
        other.library.part(PETS, "test")
