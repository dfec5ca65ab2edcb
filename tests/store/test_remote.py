"""A folder at a URL: reading and writing, retries, error messages, and that credentials are never shown."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from oodbench.benchmark.errors import StoreError, UserError
from oodbench.benchmark.store.remote import ATTEMPTS, Listings, Remote, without_secrets
from tests.support import bench

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmark"


@pytest.fixture
def remote(store_url: str) -> Remote:
    return Remote(store_url, pause=0)


def test_what_is_written_is_read(remote: Remote, tmp_path: Path) -> None:
    remote.refuse_unwritable()
    assert remote.names("") == set()
    assert remote.names("absent") == set()
    for content in (b"one", b"another"):
        (tmp_path / "source").write_bytes(content)
        remote.put(tmp_path / "source", "folder/inner/a.npy")
        remote.write("folder/b.json", content)
        assert remote.read("folder/b.json") == content
        assert remote.get("folder/inner/a.npy", tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == content
    assert remote.names("folder") == {"inner", "b.json"}
    assert remote.names("folder/inner") == {"a.npy"}
    for _ in range(2):
        remote.remove("folder/b.json")
    assert remote.read("folder/b.json") is None
    assert not remote.get("folder/b.json", tmp_path / "other")
    assert remote.names("folder") == {"inner"}


def test_a_reader_never_finds_half_a_file(store_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process killed while writing leaves the old file."""
    remote = Remote(store_url)
    remote.write("folder/a", b"old")
    (tmp_path / "new").write_bytes(b"new")

    def killed(source: str, target: str, **_: Any) -> None:
        remote._fs.pipe_file(target, b"n")
        raise KeyboardInterrupt

    monkeypatch.setattr(remote._fs, "put_file", killed)  # the object, which fsspec hands out to all tests
    with pytest.raises(KeyboardInterrupt):
        remote.put(tmp_path / "new", "folder/a")
    assert remote.read("folder/a") == b"old"
    assert remote.names("folder") == {"a"}


# what fails


class Failing:
    """Raises an error the first `times` calls, then calls the original function."""

    def __init__(self, times: int, error: Exception, then: Callable[..., Any]) -> None:
        self.left, self.error, self.then, self.calls = times, error, then, 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls <= self.left:
            raise self.error
        return self.then(*arguments, **options)


def fail_times(remote: Remote, monkeypatch: pytest.MonkeyPatch, method: str, times: int, error: Exception) -> Failing:
    replacement = Failing(times, error, getattr(remote._fs, method))
    monkeypatch.setattr(remote._fs, method, replacement)
    return replacement


def test_a_failed_request_is_retried(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = fail_times(remote, monkeypatch, "pipe_file", ATTEMPTS - 1, ConnectionResetError("gone away"))
    remote.write("folder/a", b"a")
    assert failures.calls == ATTEMPTS
    assert remote.read("folder/a") == b"a"


def test_persistent_failures_are_reported(remote: Remote, monkeypatch: pytest.MonkeyPatch, store_url: str) -> None:
    error = RuntimeError("no route to host, see https://me:hunter2@proxy/?token=abc\nand more")
    failures = fail_times(remote, monkeypatch, "pipe_file", 99, error)
    with pytest.raises(StoreError) as caught:
        remote.write("folder/a", b"a")
    assert failures.calls == ATTEMPTS
    assert str(caught.value) == (
        f"Cannot write 'folder/a' to the store '{store_url}': no route to host, see https://proxy/. No finished "
        "work is lost: run the same command again when this is fixed, or with another --store."
    )
    assert caught.value.__context__ is None, "a traceback would show the library's text"


@pytest.mark.parametrize("error", [PermissionError(13, "Access Denied"), OSError(28, "No space left on device")])
def test_permanent_errors_are_not_retried(remote: Remote, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    failures = fail_times(remote, monkeypatch, "pipe_file", 99, error)
    with pytest.raises(StoreError, match=rf"^Cannot write '\.oodbench-\w+' to the store '.*': {error.strerror}\. "):
        remote.refuse_unwritable()
    assert failures.calls == 1


def test_a_location_that_is_not_writable_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file in place of the folder")
    with pytest.raises(StoreError, match=r"^Cannot write '\.oodbench-\w+' to the store 'file://.*': "):
        Remote(f"file://{tmp_path}/file", pause=0).refuse_unwritable()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "results/shared",
            "--store 'results/shared' is not a URL. Write PROTOCOL://LOCATION, such as s3://bucket/folder.",
        ),
        ("://x", "--store '://x' is not a URL. Write PROTOCOL://LOCATION, such as s3://bucket/folder."),
        (
            "s4://me:secret@bucket/x?key=secret",
            "Unknown protocol 's4' in --store 's4://bucket/x'. Use one that fsspec supports, such as s3, gs or file.",
        ),
        ("memory://", "--store 'memory://' cannot be used: it contains no bucket or folder."),
        ("file:///", "--store 'file:///' cannot be used: it contains no bucket or folder."),
        (
            "memory://KEY:SE/CRET@bucket/x",
            "--store 'memory://bucket/x' cannot be used: memory:// does not support a name or password in the URL; "
            "configure them as its package requires.",
        ),
    ],
)
def test_a_url_that_cannot_be_used_is_reported(url: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Remote(url)
    assert str(caught.value) == message


def test_a_missing_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(protocol: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(UserError) as caught:
        Remote("s3://bucket/x")
    assert str(caught.value) == (
        "--store 's3://bucket/x' needs a package that is not installed (Install s3fs to access S3): pip install "
        "'oodbench[remote]', and s3fs for s3://, gcsfs for gs://, adlfs for abfs://."
    )
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(UserError, match=r"needs the package fsspec, which is not installed: pip install 'oodbench"):
        Remote("s3://bucket/x")


def test_faults_are_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for url in ("s4://bucket/x", "bucket", f"file://{tmp_path}/file", f"file://{tmp_path}/results/cache"):
        arguments = ["run", "--detectors", "msp", "--results", str(tmp_path / "results"), "--store", url]
        result = bench(*arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith("Error: ")
        assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "results").exists(), "nothing was started"


# credentials


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/folder", "s3://bucket/folder"),
        ("file:///home/a@b/c", "file:///home/a@b/c"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("sftp://me:pw@host/folder", "sftp://host/folder"),
        ("sftp://me@host/folder", "sftp://host/folder"),
        ("s3://KEY:SE/CR+ET@bucket/folder", "s3://bucket/folder"),
        ("https://host/a?sig=abc&se=1", "https://host/a"),
        ("at 'https://me:pw@host/a?sig=abc' and https://host/b?c", "at 'https://host/a' and https://host/b"),
    ],
)
def test_credentials_in_urls_are_left_out(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_credentials_that_a_library_quotes_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = Remote("memory://place/x?token=s3cr%2Fet", pause=0)
    fail_times(remote, monkeypatch, "pipe_file", 99, PermissionError("bad token s3cr/et (s3cr%2Fet) in /place/x"))
    with pytest.raises(StoreError, match=r"memory://place/x': bad token \*\*\* \(\*\*\*\) in /place/x\. "):
        remote.write("a", b"")
    assert remote._at("a") == "/place/x/a"


@pytest.mark.slow
def test_fsspec_is_only_imported_when_a_store_is_opened() -> None:
    found = {}
    for path in BENCHMARK.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "fsspec" for alias in node.names):
                found[path.name] = node.col_offset
            assert not (isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "fsspec"), path
    assert list(found) == ["remote.py"]
    assert found["remote.py"] > 0, "inside a function"


# listings


class Counted:
    """A remote that counts its listings, each of which takes `takes` seconds."""

    def __init__(self, **folders: set[str]) -> None:
        self.folders, self.asked, self.now, self.takes = folders, list[str](), 0.0, 0.0

    def names(self, folder: str) -> set[str]:
        self.asked.append(folder)
        self.now += self.takes
        return set(self.folders.get(folder, ()))

    def listings(self) -> Listings:
        return Listings(self, lambda: self.now)  # type: ignore[arg-type]


def test_a_folder_is_listed_once() -> None:
    counted = Counted(scores={"a", "b"})
    listings = counted.listings()
    assert [listings.hold(f"scores/{name}") for name in "abcdef" * 100] == [True, True, *[False] * 4] * 100
    assert listings.hold("scores/a", "scores/b")
    assert not listings.hold("scores/a", "scores/c")
    assert not listings.hold("fit/a")
    assert counted.asked == ["scores", "fit"]


def test_a_missing_name_is_looked_for_again_after_a_while() -> None:
    counted = Counted(scores={"a"})
    counted.takes = 3.0
    listings = counted.listings()
    assert not listings.hold("scores/b")
    counted.folders["scores"].add("b")
    counted.now = 3.0 + 59.9  # twenty times the three seconds that listing took
    assert not listings.hold("scores/b")
    counted.now = 3.0 + 60.0
    assert listings.hold("scores/a")
    assert counted.asked == ["scores"], "names found earlier are not looked for again"
    assert listings.hold("scores/b")
    assert counted.asked == ["scores", "scores"]


def test_written_and_removed_files_are_known_immediately() -> None:
    counted = Counted(scores={"a"})
    listings = counted.listings()
    assert listings.hold("scores/a")
    listings.add("scores/b", "fit/c")
    listings.discard("scores/a")
    assert listings.hold("scores/b")
    assert not listings.hold("scores/a")
    assert not listings.hold("fit/c"), "a folder that was never listed is listed now"
    assert counted.asked == ["scores", "fit"]
