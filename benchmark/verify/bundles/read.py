"""`read_bundle`: a run from a bundle, as `read_run` gives one from a results folder."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path

from oodbench.benchmark.errors import StoreError, UserError
from oodbench.benchmark.records.run import read_stored_run
from oodbench.benchmark.store.user_path import user_path
from oodbench.benchmark.verify.bundles.check import check_unpacked
from oodbench.benchmark.verify.bundles.unpack import Unpacked, unpack
from oodbench.benchmark.views.run import Run


@dataclass(frozen=True)
class BundledRun(Run):
    """A run that was read from a bundle: everything that `Run` has, and what is known of the file.

    Its files lie in a temporary folder, which is removed when the object is, unless `read_bundle` was given a folder.
    """

    bundle: Unpacked | None = field(default=None, repr=False)

    @property
    def sha256(self) -> str:
        """Stands for everything in the bundle: the same for equal bundles."""
        return self.bundle.sha256 if self.bundle else ""

    def problems(self) -> list[str]:
        """Compute every metric, interval and mark again from the scores; one sentence for each difference."""
        return check_unpacked(self.bundle).problems if self.bundle else []


def read_bundle(file: str | Path, folder: str | Path = "") -> BundledRun:
    """Read a run from a bundle. Needs neither torch nor the images.

    Its numbers are those of its author; `problems()` of the result says which of them the scores do not give.

    Args:
        file: What `bundle` or `bench bundle` wrote.
        folder: A new results folder to unpack it into; by default a temporary one.

    Raises:
        UserError: The file is not a bundle, is damaged, is of a newer oodbench, or unpacks to more than is read; or the
            folder exists.
        StoreError: The folder cannot be written.

    Example:
        >>> run = read_bundle("digits.bundle.zip")  # doctest: +SKIP
        >>> assert not run.problems()  # doctest: +SKIP
        >>> run.table().round(1)  # doctest: +SKIP
    """
    temporary = "" if str(folder) else tempfile.mkdtemp(prefix="oodbench-bundle-")
    target = user_path(folder) if str(folder) else Path(temporary) / "results"
    if target.exists():
        raise UserError(f"'{target}' exists. Choose a new folder.")
    try:
        bundle = unpack(user_path(file), target)
        read = read_stored_run(bundle.run_dir)
    except BaseException as error:
        shutil.rmtree(temporary or target, ignore_errors=True)
        if isinstance(error, OSError):
            problem = error.strerror or error
            raise StoreError(f"Cannot write '{target}': {problem}. Choose another folder.") from error
        raise
    run = BundledRun(read.path, read.info, read.records, read.missing, read.parts, bundle)
    if temporary:
        weakref.finalize(run, shutil.rmtree, temporary, ignore_errors=True)
    return run
