"""Packs a run into a bundle: records, scores, groups of images and keys, checked before the file is there."""

from __future__ import annotations

from pathlib import Path

from oodbench.benchmark.comparisons.scored_images import ScoredImages
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import StoreError, UserError
from oodbench.benchmark.records.cell_names import cell_name
from oodbench.benchmark.records.paths import cache_of, run_dir
from oodbench.benchmark.records.record import OK
from oodbench.benchmark.records.run import StoredRun, read_stored_run
from oodbench.benchmark.runner.run_data import adopt_folders
from oodbench.benchmark.runner.run_view import view_of_run
from oodbench.benchmark.store.atomic import flush, rename, temporary_beside
from oodbench.benchmark.store.user_path import user_path
from oodbench.benchmark.verify.bundles.check import check_file
from oodbench.benchmark.verify.bundles.container import (
    write_zip,
)
from oodbench.benchmark.verify.bundles.packing import REPEAT, Packing

EXTENSION = ".bundle.zip"


def bundle(
    run: str | Path | StoredRun,
    file: str | Path = "",
    *,
    name: str = "",
    weights: bool = False,
    results: str | Path = "results",
    data_dir: str | Path = "data",
    overwrite: bool = False,
) -> Path:
    """Pack a finished run into one file that anyone can check, as `bench bundle` does, and return its path.

    It has the records, the scores of every cell, which images belong together, and what made each number; no images, no
    paths and no names of machines. Equal runs give equal bytes. The file is there only if it verifies.

    Args:
        run: The name of a run in the results folder, the run's folder, or a run that `read_run` gave.
        file: Where to write; NAME.bundle.zip in the working folder by default.
        name: What a board calls it; the run's name by default.
        weights: Whether the networks' weights are in it.
        results: The results folder.
        data_dir: The folder with the files of data sets: labels and groups of images are read there.
        overwrite: Whether an existing file is replaced.

    Raises:
        UserError: There is no such run, it is unfinished or has no numbers, what it was computed from is missing, its
            numbers do not verify, or the file exists.
        StoreError: The file cannot be written.

    Example:
        >>> from oodbench.benchmark import bundle, read_bundle
        >>> file = bundle("digits")  # doctest: +SKIP
        >>> read_bundle(file).table()  # doctest: +SKIP
    """
    root = user_path(results)
    folder = run.path if isinstance(run, StoredRun) else run_dir(root, str(run))
    stored = read_stored_run(folder)
    called = name or stored.name
    target = user_path(file or f"{folder.name}{EXTENSION}")
    if target.exists() and not overwrite:
        raise UserError(f"'{target}' exists. Choose another file, or replace it with --overwrite.")
    _refuse_incomplete(stored)
    adopt_folders(stored.info)
    cache = cache_of(folder, root)
    images = ScoredImages(Library(user_path(data_dir), cache / "data", view=view_of_run(stored.info)))
    packing = Packing(folder, cache, images, called)
    packing.collect(weights)
    try:
        with temporary_beside(target) as temporary:
            with temporary.open("wb") as out:
                write_zip(out, packing.members)
            _refuse_wrong(temporary, called)
            flush(temporary)
            rename(temporary, target)
    except OSError as error:
        raise StoreError(f"Cannot write '{target}': {error.strerror or error}. Choose another file.") from error
    return target


def _refuse_incomplete(run: StoredRun) -> None:
    if run.missing:
        raise UserError(f"Run '{run.name}' cannot be bundled yet. {' '.join(run.unfinished)}")
    if not any(record.status == OK for record in run.records):
        raise UserError(f"Run '{run.name}' has no cell with numbers, so there is nothing to bundle.")
    for record in run.records:
        if record.status == OK and not (record.provenance.get("artifacts") and "row" in record.origin):
            raise UserError(
                f"'{cell_name(record)}' of run '{run.name}' is of an older oodbench, which did not record what made "
                f"it. {REPEAT}"
            )


def _refuse_wrong(file: Path, name: str) -> None:
    found = check_file(file).problems
    if found:
        more = f" And {len(found) - 1} more problems." if len(found) > 1 else ""
        raise UserError(
            f"The run '{name}' does not verify, so it is not bundled: {found[0]}.{more} 'bench verify' shows what is "
            "wrong; the command that made the run computes again what is missing."
        )
