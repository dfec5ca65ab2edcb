"""Memory does not depend on the number of pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.pictures.pictures import encoded, photo

PROGRAM = """
import resource, sys
from pathlib import Path
from oodbench.benchmark.data.files.native.open_split import streamed_split
from oodbench.benchmark.data.pictures.source import ListedFiles
from oodbench.benchmark.data.pictures.view import PictureView
from oodbench.benchmark.plugins.pictures import Preprocessing

names = [f"{number % 50}.jpg" for number in range(int(sys.argv[3]))]
view = PictureView(Preprocessing((224, 224)), pixel_cache=float(sys.argv[4]))
passed = 0
for repeat in range(3):
    images = streamed_split("set", ListedFiles(Path(sys.argv[1]), names), (), view, Path(sys.argv[2])).images.images
    for block in images.blocks(8):
        passed += len(block)
assert passed == 3 * len(names)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_of_passes(tmp_path: Path) -> None:
    """1,000 pictures take no more than 100 and their index; decoded, the 900 others have 135 MB.

    Two passes decode them, and a third reads the pixels that the second has stored.
    """
    for number in range(50):
        (tmp_path / f"{number}.jpg").write_bytes(encoded(photo(80, 60, number), "JPEG"))
    peaks = []
    for count in (100, 1000):
        places = [str(tmp_path), str(tmp_path / f"cache-{count}")]
        command = [sys.executable, "-c", PROGRAM, *places, str(count), "1"]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1000)
    assert peaks[1] - peaks[0] < 30
