"""The shared store on a mock S3 server (moto), accessed through the same package as the real one."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from oodbench.benchmark.api import Prepared
from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.store.remote import Remote
from tests.support import prepare_suite, write_suite

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # from the server and botocore
]

MATRIX = """
[[id]]
set = "digits[0-2]"
ood = [{ set = "greek", group = "near" }]
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server with the bucket 'bench'."""
    # Imported here, because these packages are large and every test session collects this file.
    s3fs = pytest.importorskip("s3fs", reason="pip install -e '.[s3test]' brings an S3 client")
    moto = pytest.importorskip("moto.server", reason="pip install -e '.[s3test]' brings an S3 server")

    served = moto.ThreadedMotoServer(port=0, verbose=False)
    served.start()
    host, port = served.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "s3cr3t",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"", timeout=10).close()
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bench")
    yield f"http://{host}:{port}"
    s3fs.S3FileSystem.clear_instance_cache()
    served.stop()


@pytest.mark.usefixtures("server")
def test_what_is_written_is_read(tmp_path: Path) -> None:
    store = Remote("s3://bench/folder")
    assert store.threads > 1
    store.refuse_unwritable()
    assert store.names("") == set()
    (tmp_path / "source").write_bytes(bytes(range(256)) * 50_000)  # 12.8 MB
    store.put(tmp_path / "source", "scores/a.npy")
    store.write("scores/a.npy.json", b"{}")
    assert store.names("scores") == {"a.npy", "a.npy.json"}
    assert store.get("scores/a.npy", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()
    assert Remote("s3://bench/folder").read("scores/a.npy.json") == b"{}"
    store.remove("scores/a.npy.json")
    assert store.read("scores/a.npy.json") is None
    assert not store.get("scores/b.npy", tmp_path / "other")
    assert store.names("scores") == {"a.npy"}


@pytest.mark.usefixtures("server", "one_thread")
def test_a_run_is_continued_on_another_machine(tmp_path: Path, logged: list[str]) -> None:
    suite = write_suite(tmp_path, MATRIX, backbone="small_cnn[hidden=16,width=8]")  # vim needs several directions

    def planned(results: str) -> Prepared:
        return prepare_suite(suite, "msp,vim", store="s3://bench/runs", results=tmp_path / results)

    one = planned("one").start()
    prepared = planned("two")
    assert prepared.work.jobs == []
    two = prepared.start()
    assert [record.metrics for record in two.records] == [record.metrics for record in one.records]
    assert (two.path / "table.csv").read_bytes() == (one.path / "table.csv").read_bytes()
    assert {p.parent.name for p in (tmp_path / "two" / "cache").rglob("*.npy")} == {"scores", "logits"}
    names = Remote("s3://bench/runs").names("checkpoint")
    assert {name.rpartition("-")[2].partition(".")[2] for name in names} == {
        "safetensors",
        "safetensors.json",
        "losses.csv",
    }
    assert logged == []
    for path in (tmp_path / "two").rglob("*"):
        assert not path.is_file() or b"s3cr3t" not in path.read_bytes()


def test_failures_are_reported(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    with pytest.raises(StoreError, match=r"^Cannot write '\.oodbench-\w+' to the store 's3://absent/x': .*bucket"):
        Remote("s3://absent/x", pause=0).refuse_unwritable()
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"^Cannot write '\.oodbench-\w+' to the store 's3://bench/x': Could not conn"):
        Remote("s3://bench/x", pause=0).refuse_unwritable()
