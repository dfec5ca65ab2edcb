"""`run`: what `bench run` does, as a function."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from oodbench.benchmark.compare.best_set import update_best
from oodbench.benchmark.compare.scored_images import ScoredImages
from oodbench.benchmark.engines.choose import choose_engine
from oodbench.benchmark.engines.engine import Engine, Progress, Quiet
from oodbench.benchmark.engines.time_limit import refuse_impossible
from oodbench.benchmark.errors import StoreError, UserError, unknown
from oodbench.benchmark.metrics.names import EXACT, EXTENDED
from oodbench.benchmark.metrics.released_scripts import RULES
from oodbench.benchmark.plan.plan import Plan, Request
from oodbench.benchmark.plan.planner import make_plan
from oodbench.benchmark.plan.suite import default_suite, read_suite, suite_path
from oodbench.benchmark.plan.tuning_protocols import PROTOCOLS
from oodbench.benchmark.plan.weights_file import IMPORTED
from oodbench.benchmark.plugins.specs import split_list
from oodbench.benchmark.records.run import Run, read_run
from oodbench.benchmark.runner.runner import RERUN, Work, run_lock, run_plan, work_left, write_views
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.open_worker import open_context
from oodbench.benchmark.stages.worker_config import WorkerConfig
from oodbench.benchmark.store.atomic import slug


@dataclass(frozen=True)
class Prepared:
    """A run about to start: everything is resolved and checked, nothing is done."""

    plan: Plan
    work: Work
    context: JobContext
    engine: Engine
    run_dir: Path
    asked: dict[str, Any]
    add: bool

    def start(self, progress: Progress | None = None) -> Run:
        """Do the work and write records, tables and plots."""
        store = self.context.store
        with store.in_use(self.run_dir):
            self.context.library.files.cache.tidy()
            self._share()
            watched = progress or Quiet()
            run_plan(self.plan, self.work, self.context, self.run_dir, self.asked, watched, self.add, self.engine)
            # Read under the lock: of several processes, the last to draw has seen the records of all.
            with run_lock(store, self.run_dir):
                done = read_run(self.run_dir)
                update_best(done, store.root, ScoredImages(self.context.library))
                write_views(done, store.root)
        return done

    def _share(self) -> None:
        """Where a store is shared: put into it what other machines need, and fetch what the records are made of."""
        store = self.context.store
        store.share(key for job in self.plan.jobs.values() for key in job.makes)
        store.bring(key for cell in self.plan.cells for key in cell.reads)
        if self.work.jobs:
            self.context.library.share()


def prepare(
    detectors: str | Iterable[str] = "all",
    *,
    suite: str = "",
    id_sets: str | Iterable[str] = "all",
    ood_sets: str | Iterable[str] = "all",
    backbone: str = "",
    seeds: int | Iterable[int] = 1,
    metrics: str | Iterable[str] = EXACT,
    protocol: str = "",
    precision: str = "",
    limit_train: int = 0,
    epochs: int = 0,
    checkpoint: str | Path = "",
    device: str = "auto",
    threads: int = 0,
    data_dir: str | Path = "data",
    results: str | Path = "results",
    name: str = "",
    plugins: Iterable[str | Path] = (),
    rerun: str = "missing",
    add: bool = False,
    skip_bad_images: bool = False,
    own_cache: bool = False,
    cell_timeout: float = 0.0,
    store: str = "",
    engine: str = "local",
    jobs: int = 1,
    ray_address: str = "",
    gpus: float | None = None,
) -> Prepared:
    """Resolve and check what `run` is asked for; see there."""
    if rerun not in RERUN:
        raise UserError(f"Unknown rerun '{rerun}'. Choose {', '.join(RERUN)}.")
    beside = tuple(dict.fromkeys(name for name in _list(metrics) if name != EXACT))
    for rules in beside:
        if rules not in (*RULES, EXTENDED):
            raise unknown("metric rules", rules, (EXACT, *RULES, EXTENDED), "bench run --help")
    if protocol not in ("", *PROTOCOLS):
        raise UserError(f"Unknown protocol '{protocol}'. Choose {', '.join(PROTOCOLS)}.")
    files = tuple(Path(file) for file in plugins)
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen or min(chosen) < 0:
        raise UserError(f"Seeds must be whole numbers from 0, at least one of them; got {list(chosen)}.")
    if not 0 <= cell_timeout < float("inf"):
        raise UserError(f"cell_timeout must be a number of seconds, or 0 for no limit; got {cell_timeout}.")
    for what, count in (("limit_train", limit_train), ("epochs", epochs)):
        if count < 0:
            raise UserError(f"{what} must be a whole number from 1, or 0 for the suite's own; got {count}.")
    asked_sets = (_list(detectors), _list(id_sets), _list(ood_sets))
    _refuse_training_options(checkpoint, chosen, limit_train, epochs)
    request = Request(
        suite, *asked_sets, backbone, chosen, beside, protocol, precision, limit_train, epochs, str(checkpoint)
    )
    share = read_suite(suite or default_suite()).gpus if gpus is None else gpus
    where_to = choose_engine(engine, jobs, ray_address, share)
    cache, count = _cache(Path(results), name, own_cache), threads or where_to.threads(usable_cores())
    refuse_impossible(cell_timeout)
    config = WorkerConfig(cache, Path(data_dir), device, count, skip_bad_images, cell_timeout, files, store=store)
    context = open_context(config, where_to.planning_device(device))
    plan = make_plan(request, context.library, context.device)
    run_dir = Path(results) / "runs" / slug(name or plan.suite.name)
    _refuse_unwritable(Path(results))
    if (run_dir / "run.json").is_file():
        read_run(run_dir)  # a run of a newer oodbench is refused before any work
    labels = list(dict.fromkeys(cell.record.label for cell in plan.cells))
    _refuse_shared_cache(run_dir, cache)
    asked = {"name": run_dir.name, "asked": asdict(request), "seeds": list(chosen), "detectors": labels}
    where = {"data_dir": data_dir, "plugins": files, "skip_bad_images": skip_bad_images}
    asked["commands"] = [_options(request, plan, context, count, **where)]
    return Prepared(plan, work_left(plan, context, run_dir, rerun), context, where_to, run_dir, asked, add)


def run(detectors: str | Iterable[str] = "all", *, progress: Progress | None = None, **options: Any) -> Run:
    """Compare detectors on a suite's ID x OOD matrix and return the run with its records.

    `detectors`: names, or one string with commas; "all" for every registered one. Options, as on the command line:
    `suite`, `id_sets`, `ood_sets`, `backbone`, `seeds` (a count or a list), `metrics` ("exact", or what to compute
    beside: "extended", "lee2018"), `protocol`, `precision`, `limit_train` and `epochs` (0: the suite's), `checkpoint`
    (a file of weights to evaluate instead of training), `device`, `threads`, `data_dir`, `results`, `name`, `plugins`
    (files), `rerun` ("missing", "failed" or "all"), `add`, `skip_bad_images`, `cell_timeout` (seconds that a detector
    may take to tune, fit or score one set; 0 for no limit), `engine` ("local", with `jobs` processes, or "ray", with
    `ray_address` and `gpus` a job), `store` (the URL of one that machines share), `say`. Raises `OodbenchError` with
    one sentence for a wrong name, setting or file; a detector that fails, fails its own cells only (`record.status`).

    With `jobs` above 1 a script must call this under `if __name__ == "__main__":`, because each process imports it.
    """
    return prepare(detectors, **options).start(progress)


def usable_cores() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _refuse_training_options(checkpoint: str | Path, seeds: tuple[int, ...], limit_train: int, epochs: int) -> None:
    given = [f"--{what}" for what, value in (("limit-train", limit_train), ("epochs", epochs)) if value]
    if checkpoint and given:
        raise UserError(f"--checkpoint trains nothing, so leave out {' and '.join(given)}.")
    if checkpoint and len(seeds) > 1:
        raise UserError(f"--checkpoint gives one classifier, so give one seed in place of {len(seeds)}.")


def _options(request: Request, plan: Plan, context: JobContext, threads: int, **where: Any) -> dict[str, Any]:
    """What `prepare` needs to lay out the same run again, with everything resolved that depends on the machine."""
    name = request.suite or default_suite()
    path = suite_path(name)
    records = [cell.record for cell in plan.cells]
    every = dict.fromkeys(r.label.partition("@")[0] if r.recipe == IMPORTED else r.label for r in records)
    return {
        **asdict(request),
        "suite": str(path.absolute()) if name.endswith(".toml") else name,
        "suite_toml": path.read_text(encoding="utf-8"),
        "detectors": list(every) if "all" in request.detectors else list(request.detectors),
        "precision": plan.precision,
        "checkpoint": str(Path(request.checkpoint).absolute()) if request.checkpoint else "",
        "device": str(context.device),
        "threads": threads,
        "data_dir": str(Path(where["data_dir"]).absolute()),
        "plugins": [str(Path(file).absolute()) for file in where["plugins"]],
        "skip_bad_images": where["skip_bad_images"],
    }


def _cache(results: Path, name: str, own: bool) -> Path:
    """Where artifacts lie: in the results folder, or in the run's own, which then needs a name."""
    return results / "runs" / slug(name) / "cache" if own else results / "cache"


def _refuse_shared_cache(run_dir: Path, cache: Path) -> None:
    if (run_dir / "cache").is_dir() and run_dir not in cache.parents:
        raise UserError(
            f"The run '{run_dir.name}' repeats another with a store of its own, so nothing else can be run under its "
            "name. Choose another --name."
        )


def _list(names: str | Iterable[str]) -> tuple[str, ...]:
    return tuple(split_list(names)) if isinstance(names, str) else tuple(names)


def _refuse_unwritable(results: Path) -> None:
    nearest = next(p for p in (results, *results.absolute().parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        what = "is no folder" if not nearest.is_dir() else "is not writable"
        raise StoreError(
            f"The results folder '{results}' cannot be used: '{nearest}' {what}. Choose another --results."
        )
