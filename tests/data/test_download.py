"""Downloads from a local server that cuts connections, sends wrong bytes, ignores Range, and fails."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from oodbench.benchmark.data.files import download
from oodbench.benchmark.data.files.download import Progress
from oodbench.benchmark.data.files.file_source import File
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.registry import registry
from tests.support import bench

CONTENT = hashlib.sha256(b"seed").digest() * 20_000  # 640,000 bytes: several blocks
SHA256 = hashlib.sha256(CONTENT).hexdigest()
WRONG = bytes(len(CONTENT))


class Server(ThreadingHTTPServer):
    """Serves CONTENT at every path. Each request to a path consumes one of its `faults`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: dict[str, list[Any]] = {}
        self.requests: list[tuple[str, str]] = []
        """(path, Range header) of every request."""

    def url(self, path: str = "/file") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def ranges(self) -> list[str]:
        return [header for _, header in self.requests]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        header = self.headers.get("Range", "")
        self.server.requests.append((self.path, header))
        faults = self.server.faults.get(self.path, [])
        fault = faults.pop(0) if faults else None
        if isinstance(fault, int):
            self.send_error(fault)
            return
        start = int(header.removeprefix("bytes=").removesuffix("-")) if header and fault != "no range" else 0
        content = WRONG if fault == "wrong" else CONTENT[:-7] if fault == "short" else CONTENT
        if start >= len(content):
            self.send_error(416)
            return
        body = content[start:]
        self.send_response(206 if start else 200)
        if start:
            first = 0 if fault == "lying range" else start
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if fault != "no length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: fault[1]] if isinstance(fault, tuple) else body)


@pytest.fixture
def server() -> Iterator[Server]:
    local = Server()
    thread = threading.Thread(target=local.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield local
    local.shutdown()
    local.server_close()
    thread.join()


def fetch(file: File, folder: Path, progress: Progress = lambda done, total: None) -> Path:
    """Download without pauses between attempts."""
    return download.fetch(file, folder, progress, download.Limits(pause=0.0))


def archive(*urls: str, size: int = len(CONTENT), sha256: str = SHA256) -> File:
    return File(("set/archive.zip",), urls, size=size, sha256=sha256)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def fetch_and_check(file: File, folder: Path) -> None:
    path = fetch(file, folder)
    assert path == folder / "set" / "archive.zip"
    assert path.read_bytes() == CONTENT
    assert files_in(folder) == ["archive.zip"]


def test_a_file_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    fetch(archive(server.url()), tmp_path, lambda done, total: progress.append((done, total)))
    assert progress[-1] == (len(CONTENT), len(CONTENT))
    assert files_in(tmp_path) == ["archive.zip"]
    fetch_and_check(archive(server.url()), tmp_path)
    assert len(server.requests) == 1, "a correct file is not downloaded again"


def test_a_cut_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.faults["/file"] = [("cut", 300_000), ("cut", 100_000)]
    fetch_and_check(archive(server.url()), tmp_path)
    assert server.ranges() == ["", "bytes=300000-", "bytes=400000-"]


def test_many_cuts_are_tolerated_as_long_as_data_arrives(server: Server, tmp_path: Path) -> None:
    server.faults["/file"] = [("cut", 50_000)] * 12
    fetch_and_check(archive(server.url()), tmp_path)


def test_connection_cut_before_any_byte(server: Server, tmp_path: Path) -> None:
    server.faults["/file"] = [("cut", 0)] * 3
    fetch_and_check(archive(server.url()), tmp_path)


def test_server_that_ignores_range(server: Server, tmp_path: Path) -> None:
    server.faults["/file"] = [("cut", 300_000), "no range"]
    fetch_and_check(archive(server.url()), tmp_path)


def test_server_that_answers_with_another_range(server: Server, tmp_path: Path) -> None:
    server.faults["/file"] = [("cut", 300_000), "lying range", "lying range"]
    with pytest.raises(DataError, match="340,000 bytes, expected 640,000"):
        fetch(archive(server.url()), tmp_path)
    assert "archive.zip" not in files_in(tmp_path)


def test_wrong_bytes_are_never_accepted(server: Server, tmp_path: Path) -> None:
    server.faults["/file"] = ["wrong"]
    with pytest.raises(DataError, match=r"its SHA256 is .*, expected .*put it at '.*archive\.zip'\.$"):
        fetch(archive(server.url()), tmp_path)
    assert files_in(tmp_path) == []
    fetch_and_check(archive(server.url()), tmp_path)


def test_after_wrong_bytes_the_next_mirror_is_tried(server: Server, tmp_path: Path) -> None:
    server.faults["/first"] = ["wrong"]
    fetch_and_check(archive(server.url("/first"), server.url("/second")), tmp_path)
    assert server.requests == [("/first", ""), ("/second", "")]


def test_another_mirror_completes_a_partial_file(server: Server, tmp_path: Path) -> None:
    server.faults["/first"] = [("cut", 300_000), *[("cut", 0)] * download.ATTEMPTS]
    fetch_and_check(archive(server.url("/first"), server.url("/second")), tmp_path)
    assert server.requests[-1] == ("/second", "bytes=300000-")


def test_a_wrong_partial_file_is_discarded(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "archive.zip.part").write_bytes(WRONG[:1000])
    fetch_and_check(archive(server.url()), tmp_path)
    assert server.ranges() == ["bytes=1000-", ""]


@pytest.mark.parametrize("size", [len(CONTENT), 0], ids=["size known", "size unknown"])
def test_a_partial_file_that_is_too_long(server: Server, tmp_path: Path, size: int) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "archive.zip.part").write_bytes(CONTENT + b"more")
    fetch_and_check(archive(server.url(), size=size), tmp_path)


def test_not_found_is_final_and_server_errors_are_not(server: Server, tmp_path: Path) -> None:
    server.faults["/gone"] = [404]
    server.faults["/busy"] = [500, 503, 502]
    fetch_and_check(archive(server.url("/gone"), server.url("/busy")), tmp_path)
    assert [path for path, _ in server.requests] == ["/gone", *["/busy"] * 4]


def test_a_failing_server_is_given_up(server: Server, tmp_path: Path) -> None:
    server.faults["/file"] = [500] * 100
    with pytest.raises(
        DataError, match=r"^'archive\.zip' could not be downloaded \(http.*answers 500 .*\)\. Run the same"
    ):
        fetch(archive(server.url()), tmp_path)
    assert len(server.requests) == download.ATTEMPTS
    assert files_in(tmp_path) == []


def test_a_wrong_size_is_refused_before_the_download(server: Server, tmp_path: Path) -> None:
    server.faults["/file"] = ["short"]
    with pytest.raises(DataError, match="offers 639,993 bytes, expected 640,000"):
        fetch(archive(server.url()), tmp_path)


def test_reply_without_length(server: Server, tmp_path: Path) -> None:
    server.faults["/file"] = ["no length"]
    fetch_and_check(archive(server.url(), size=0), tmp_path)


def test_interrupted_download_does_not_look_complete(server: Server, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    file = archive(server.url())
    with pytest.raises(KeyboardInterrupt):
        fetch(file, tmp_path, stop)
    assert files_in(tmp_path) == ["archive.zip.part"]
    assert file.find(tmp_path) is None
    fetch_and_check(file, tmp_path)
    assert server.ranges()[1].startswith("bytes=")


def test_without_a_connection_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"^'archive\.zip' could not be downloaded \(.*refused.*\).*put it at '.*'\.$"
    ) as caught:
        fetch(archive("http://127.0.0.1:9/file"), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_without_url(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it has no URL"):
        fetch(archive(), tmp_path)


def test_a_url_without_checksum_is_refused() -> None:
    with pytest.raises(ValueError, match="no checksum"):
        archive("http://127.0.0.1:9/file", sha256="")


def test_a_file_is_not_downloaded_by_two_processes(server: Server, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl", reason="Windows has no such locks")
    (tmp_path / "set").mkdir()
    with (tmp_path / "set" / "archive.zip.part").open("wb") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="Another process is downloading"):
            fetch(archive(server.url()), tmp_path)
    fetch_and_check(archive(server.url()), tmp_path)


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        fetch(archive(server.url()), tmp_path)


PLUGIN = """
from oodbench.benchmark import dataset
from oodbench.benchmark.data.files import File, FileDataset, ImageTree, Source

@dataset("remote", title="A test's data set")
class Remote(FileDataset):
    splits = ("test",)
    sources = {{"test": (Source((File(("remote.zip",), ("{url}",), sha256="{sha256}"),), ImageTree()),)}}
"""


def test_commands_fetch_list_and_verify(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for names in ("_objects", "_from_files"):
        monkeypatch.setattr(registry, names, dict(getattr(registry, names)))
    plugin = tmp_path / f"remote_{server.server_port}.py"
    plugin.write_text(PLUGIN.format(url=server.url(), sha256=SHA256))
    options = ["remote", "--plugin", str(plugin), "--data-dir", str(tmp_path / "data")]
    results = ["--results", str(tmp_path / "results")]

    absent = bench("data", "list", *options, *results)
    assert absent.exit_code == 0
    assert "Put one of these there: remote.zip ('bench data fetch remote' downloads it)." in absent.output

    server.faults["/file"] = [404]
    failed = bench("data", "fetch", *options)
    assert failed.exit_code == 2
    assert "could not be downloaded" in failed.output

    done = bench("data", "fetch", *options)
    assert done.exit_code == 0
    assert "640,000 bytes, verified" in done.output
    assert "all files are available" in bench("data", "fetch", *options).output

    listed = bench("data", "list", *options, *results)
    assert SHA256 in listed.output
    assert "the file that the card describes" in listed.output
    assert bench("data", "verify", *options, *results).exit_code == 0

    (tmp_path / "data" / "remote.zip").write_bytes(WRONG)
    changed = bench("data", "verify", *options, *results)
    assert changed.exit_code == 1
    assert "not the file that the card describes" in changed.output


def test_a_set_without_files_is_refused() -> None:
    done = bench("data", "list", "digits")
    assert done.exit_code == 2
    assert done.output == "Error: Data set 'digits' needs no files: it is part of oodbench or is generated.\n"
