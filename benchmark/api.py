"""`run` and `prepare`: the whole flow of `bench run`, as functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from oodbench.benchmark.comparisons.scored_images import ScoredImages
from oodbench.benchmark.data.outputs.data_sets import GivenSets
from oodbench.benchmark.data.own_sets import with_absolute_path
from oodbench.benchmark.data.pictures.view import PIXEL_CACHE
from oodbench.benchmark.engines.choose import choose_engine
from oodbench.benchmark.engines.engine import Engine, Progress, Quiet, following
from oodbench.benchmark.engines.time_limit import refuse_impossible
from oodbench.benchmark.plan.options import Options
from oodbench.benchmark.plan.outputs.run_input import read_input
from oodbench.benchmark.plan.plan import Plan, Request
from oodbench.benchmark.plan.suite_file import default_suite, suite_path
from oodbench.benchmark.plan.weights.file import GIVEN, SCORES
from oodbench.benchmark.plugins.networks.places import with_absolute_place
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.renamed import refuse_old_parameters
from oodbench.benchmark.records.run import StoredRun, read_stored_run
from oodbench.benchmark.records.run_folders import refuse_encoding, refuse_folders, store_folder
from oodbench.benchmark.records.running import marked_running
from oodbench.benchmark.runner.cell_origins import add_origins
from oodbench.benchmark.runner.command_line import command_line
from oodbench.benchmark.runner.earlier_cells import ALL, NONE, VALID, options_of
from oodbench.benchmark.runner.older_versions import log_older_versions
from oodbench.benchmark.runner.progress.bars import shown
from oodbench.benchmark.runner.progress.standing import Standing
from oodbench.benchmark.runner.runner import Work, run_lock, run_plan, work_left
from oodbench.benchmark.runner.write_views import write_views
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.models.for_run import with_outputs
from oodbench.benchmark.stages.models.outputs import Outputs
from oodbench.benchmark.stages.open_worker import open_context
from oodbench.benchmark.stages.training.curves import refuse_missing_tensorboard, write_stored_curves
from oodbench.benchmark.stages.worker_config import WorkerConfig
from oodbench.benchmark.store.atomic import unique_slug
from oodbench.benchmark.store.user_path import user_path
from oodbench.benchmark.views.run import Run, public


@dataclass(frozen=True)
class Prepared:
    """A run about to start: everything is resolved and checked, nothing is done."""

    plan: Plan
    work: Work
    context: JobContext
    engine: Engine
    run_dir: Path
    asked: dict[str, Any]
    earlier: str
    """Which cells of earlier commands stay in the run (`runner.earlier_cells`)."""
    given: GivenSets | None = None
    """Arrays and scores that the user gives."""

    def start(self, progress: Progress | None = None) -> StoredRun:
        """Do the work and write records, tables and plots."""
        store = self.context.store
        self.context.use_threads()  # another run may have been prepared since, also of the same outputs
        if self.given is not None:
            self.given.register()
        with store.in_use(self.run_dir), marked_running(store.locks, self.run_dir):
            self.context.library.files.cache.tidy()
            self._share()
            watched = following(progress or Quiet())
            run_plan(self.plan, self.work, self.context, self.run_dir, self.asked, watched, self.earlier, self.engine)
            if self.context.config is not None and self.context.config.tensorboard:
                write_stored_curves(store, (key for job in self.plan.jobs.values() for key in job.makes))
            watched.phase("writing tables and plots")
            # Read under the lock: of several processes, the last to draw has seen the records of all.
            with run_lock(store, self.run_dir):
                done = read_stored_run(self.run_dir)
                write_views(done, store.root, ScoredImages(self.context.library))
        return done

    def standing(self) -> Standing:
        """Which row is the best, from the cells that are finished; those of earlier commands are."""
        return Standing([cell.record for cell in self.plan.cells], self.work.kept.values())

    def _share(self) -> None:
        """Where a store is shared: put into it what other machines need, and fetch what the records are made of."""
        store = self.context.store
        store.share(key for job in self.plan.jobs.values() for key in job.makes)
        store.bring(key for cell in self.plan.cells for key in cell.reads)
        if self.work.jobs:
            self.context.library.share()


def prepare(detectors: str | Iterable[str] = "all", **options: Any) -> Prepared:
    """Resolve and check what `run` is asked for, before any work; the options are the fields of `Options`."""
    asked = Options(detectors, **options)
    asked.check()
    request = asked.request()
    refuse_encoding(("results", asked.results), *(("checkpoint", path) for path in request.checkpoint))
    results, data_dir, files = user_path(asked.results), user_path(asked.data_dir), tuple(map(user_path, asked.plugins))
    for file in files:
        registry.load_file(file)  # before the suite is read: it may name them
    given = read_input(request)
    stated = given.suite
    gpus = stated.gpus if asked.gpus is None else asked.gpus
    chosen_engine = choose_engine(asked.engine, asked.jobs, asked.ray_address, gpus)
    cache, threads = store_folder(results, asked.name, asked.own_cache), asked.threads or stated.threads
    refuse_impossible(asked.cell_timeout)
    if asked.tensorboard:
        refuse_missing_tensorboard()
    config = WorkerConfig(
        cache,
        data_dir,
        asked.device,
        threads,
        asked.skip_bad_images,
        asked.cell_timeout,
        files,
        store=asked.store,
        view=given.view(asked.pixel_cache),
        tensorboard=asked.tensorboard,
    )
    context = open_context(config, chosen_engine.planning_device(asked.device))
    plan = given.plan(context.library, context.device)
    add_origins(plan, request)
    run_dir = results / "runs" / unique_slug(asked.name or plan.suite.name)
    refuse_folders(results, run_dir, cache)
    labels = list(dict.fromkeys(cell.record.label for cell in plan.cells))
    info: dict[str, Any] = {"name": asked.name or plan.suite.name, "asked": asdict(request)}
    info |= {"seeds": list(request.seeds), "detectors": labels}
    where = {"data_dir": data_dir, "plugins": files, "skip_bad_images": asked.skip_bad_images}
    command = _command(request, plan, context, **where)
    info["commands"], info["parts"] = (
        [command],
        [{"line": command_line(asked), "options": options_of(command, plan.suite)}],
    )
    work = work_left(plan, context, run_dir, asked.rerun)
    earlier = ALL if asked.add else NONE if asked.only else VALID
    log_older_versions(plan, work, run_dir, cache)
    return Prepared(plan, work, context, chosen_engine, run_dir, info, earlier, given.sets)


@refuse_old_parameters
def run(
    detectors: str | Iterable[str] = "all",
    *,
    suite: str = "",
    id_sets: str | Iterable[str] = "all",
    ood_sets: str | Iterable[str] = "",
    near: str | Iterable[str] = "",
    far: str | Iterable[str] = "",
    backbone: str = "",
    seeds: int | Iterable[int] = 1,
    metrics: str | Iterable[str] = "exact",
    protocol: str = "",
    precision: str = "",
    limit_train: int = 0,
    limit_test: int = 0,
    epochs: int = 0,
    checkpoint: str | Path | Iterable[str | Path] = "",
    recipe: str = "",
    head: str = "",
    classes: str | Path = "",
    resize: str = "",
    crop: str = "",
    interpolation: str = "",
    mean: str = "",
    std: str = "",
    exif: bool = False,
    block: int = 0,
    store_features: str = "",
    fit_from: str | float = "",
    fit_per_class: int = 0,
    pollution: float | None = None,
    outputs: str | Path | Iterable[str | Path] | Outputs = "",
    scores: str | Path = "",
    higher: str = "",
    model: Any = None,
    models: Iterable[Any] | None = None,
    id_train: Any = None,
    id_val: Any = None,
    id_test: Any = None,
    ood: Mapping[str, Any] | None = None,
    features: str = "",
    preprocessing: str = "",
    stability: bool = True,
    device: str = "auto",
    threads: int = 0,
    data_dir: str | Path = "data",
    results: str | Path = "results",
    name: str = "",
    plugins: Iterable[str | Path] = (),
    rerun: str = "missing",
    add: bool = False,
    only: bool = False,
    skip_bad_images: bool = False,
    pixel_cache: float = PIXEL_CACHE,
    cell_timeout: float = 0.0,
    tensorboard: bool = False,
    store: str = "",
    engine: str = "local",
    jobs: int = 1,
    ray_address: str = "",
    gpus: float | None = None,
    progress: Progress | bool | None = None,
) -> Run:
    """Compare detectors on a suite's ID x OOD matrix, as `bench run` does, and return the run.

    What an earlier call has finished is not computed again. Records, tables and plots are written to
    `RESULTS/runs/NAME`, artifacts to `RESULTS/cache`. Messages go to the logger `oodbench`.

    Args:
        detectors: Names, a list or one string with commas: `"msp,energy[temperature=10]@joint"`, which is a detector,
            its settings and the recipe of its classifier; "all" for every registered detector.
        suite: Name of a suite, or path of a suite file: the ID x OOD matrix and its protocol; the default one if empty.
        id_sets: ID sets, such as `"digits[0-6]"`; "all" for those of the suite.
        ood_sets: OOD sets, such as `"digits[7-9],greek"`, in the suite's groups; "all", the default unless `near` or
            `far` are given, for those of the suite.
        near: Further OOD sets, whose group is near in this run.
        far: Further OOD sets, whose group is far in this run.
        backbone: The network, such as "resnet18"; the suite's if empty.
        seeds: A number of seeds (3 means 0, 1, 2), or the seeds themselves.
        metrics: "exact", and what else to compute: "extended", "lee2018".
        protocol: How settings are chosen: "defaults", "val_ood" or "leave_one_out"; the suite's if empty.
        precision: Of training: "auto", "float32" or "bfloat16"; the suite's if empty.
        limit_train: Train on at most so many images of each ID set; 0 for all.
        limit_test: Score at most so many test images of each set, ID and OOD, for a quick look; 0 for all.
        epochs: Train for so many epochs; 0 for the suite's number.
        checkpoint: A file with trained weights of the backbone, evaluated instead of training, or started from by
            recipes that do. Several files, a list or one string with commas, are one for each seed.
        recipe: How classifiers are trained, such as "cross_entropy[learning_rate=0.01]", for detectors that name no
            recipe and have none of their own; the suite's if empty.
        head: What becomes of a given head with more outputs than the ID set has classes: "subset" keeps the rows of
            these classes, "all" keeps all outputs; the suite's if empty.
        classes: A text file with the names of the ID set's classes, one in each line in the order of the labels, for
            heads that are made of names or found by them; the suite's, or those of the set, if empty.
        resize: Size to which every picture is resized for the network: "256" for the shorter side, "224x224" for height
            x width; the suite's, or what the network's weights say, if empty. So for the next two.
        crop: Size of the centre of a picture that the network gets, such as "224".
        interpolation: "bilinear", "bicubic", "lanczos", "nearest", "box" or "hamming".
        mean: Mean of red, green and blue in [0, 1] that the network subtracts, such as "0.485,0.456,0.406"; the
            backbone's if empty.
        std: The standard deviations that it divides by, likewise.
        exif: Apply the rotation that EXIF data state, which torchvision, timm and OpenOOD do not.
        block: Images per forward call; by the size of the images if 0. Last bits of results depend on it.
        store_features: "float32", or "float16" for half the space, rounded and marked; the suite's if empty.
        fit_from: What detectors learn from: "train", "val" for a published validation split, or the share of the ID
            test split that is held out for it and not scored, such as 0.2; the suite's if empty.
        fit_per_class: Fit detectors on at most so many images of each class; 0 for the suite's number, or all.
        pollution: Of an ID set of one class: share of the training images that are of other classes; None for the
            suite's, or 0.
        outputs: A folder with logits and features of an ID set and of OOD sets, which take the place of images and
            networks, or `Outputs`. Several folders, a list or one string with commas, are one for each seed.
        scores: A folder or CSV file with scores by any methods; each is a row of the tables.
        higher: What higher scores of these methods mean, "ood" or "id"; what the files say, or "ood", if empty.
        model: A network in memory, an `nn.Module` or a function around one, which passes over the sets below and takes
            the place of a backbone. It passes at every call; on outputs that are the same, nothing is computed again.
        models: Several trainings of it, one for each seed, in place of `model`.
        id_train: What detectors learn from, with labels: a DataLoader, a data set of torchvision or Hugging Face,
            tensors, or an iterable of batches, preprocessed for the network. So for the next three.
        id_val: What they are calibrated on; by default a part of `id_train`.
        id_test: The ID images to score.
        ood: OOD sets by name. `near` and `far` then name those that are near or far.
        features: Name of the module of the model whose output are the penultimate features; by default the input of
            its head, whose name may be given by `head`.
        preprocessing: How pictures became the tensors, in your words; by default what `id_test` says of its transform.
        stability: Score slightly changed ID test images as well, for the stability lines under the tables.
        device: "auto", "cpu", "cuda" (or "cuda:1") or "mps".
        threads: CPU threads of a job, whatever the engine and the machine; the suite's number if 0. Results depend
            on it.
        data_dir: Folder with the files of data sets.
        results: Folder for runs and artifacts.
        name: Name of the run; the suite's if empty.
        plugins: Python files with plug-ins, loaded before names are resolved.
        rerun: Which cells to compute: "missing", "failed" (those too) or "all".
        add: Keep all cells of earlier calls in the run's tables. Those of one name that were not made alike are rows of
            their own, with a longer label.
        only: Keep no cell of earlier calls. With neither, those stay that were made with the same options, code and
            images.
        skip_bad_images: Leave out, and count, images that cannot be read, instead of refusing their set.
        pixel_cache: Gigabytes of decoded pixels up to which a set of pictures is kept on the disk; larger sets are
            decoded whenever they are read. Results do not depend on it.
        cell_timeout: Seconds that a detector may take to tune, fit or score one set; 0 for no limit.
        tensorboard: Write the losses of trainings for TensorBoard, beside the checkpoints, while they run; of stored
            ones as well.
        store: URL of a store that several machines share, such as `"s3://bucket/folder"`.
        engine: "local", or "ray" for a Ray cluster.
        jobs: Processes on this machine, with the local engine. Above 1, a script must call `run` under
            `if __name__ == "__main__":`, because every process imports it.
        ray_address: HOST:PORT of a Ray cluster; one that runs on this machine if empty.
        gpus: GPUs per job on the cluster, or a fraction of one; the suite's number if None.
        progress: True for a progress bar (of tqdm if that is installed, else of rich), False for none; by default a
            bar in notebooks, and none in scripts. Or an object whose `start`, `tick` and `finish` are called as jobs
            proceed, and whose `cell` and `phase`, if it has both, are called with records and with what else is done;
            `training`, if it has that, with the losses of running trainings.

    Returns:
        The run with one `Record` per cell. A detector that fails makes its own cells fail (`record.status`,
        `record.reason`) and stops nothing else.

    Raises:
        OodbenchError: With one sentence, for a wrong name, setting or file, or a folder that cannot be written.

    Example:
        >>> from oodbench.benchmark import run
        >>> result = run("msp,energy", id_sets="digits", seeds=3)  # doctest: +SKIP
        >>> result.table().round(1)  # doctest: +SKIP
    """
    options = {name: value for name, value in locals().items() if name != "progress"}
    prepared = prepare(**with_outputs(options))
    with shown(progress, prepared.work.jobs, prepared.standing) as watched:
        return public(prepared.start(watched))


def _command(request: Request, plan: Plan, context: JobContext, **where: Any) -> dict[str, Any]:
    """What `prepare` needs to lay out the same run again, with everything resolved that depends on the machine."""
    is_given = bool(request.outputs or (request.scores and not request.suite))
    records = [cell.record for cell in plan.cells if cell.record.recipe != SCORES]
    every = dict.fromkeys(r.label.partition("@")[0] if r.recipe in GIVEN else r.label for r in records)
    return {
        **asdict(request),
        **{name: [*map(with_absolute_path, getattr(request, name))] for name in ("id_sets", "ood_sets", "near", "far")},
        **({"suite": ""} if is_given else _suite_text(request)),
        "backbone": with_absolute_place(request.backbone) if request.backbone else "",
        "detectors": list(every) if "all" in request.detectors else list(request.detectors),
        "precision": request.precision if is_given else plan.precision,
        "checkpoint": [str(Path(path).absolute()) for path in request.checkpoint],
        "device": str(context.device),
        "threads": plan.threads,
        "data_dir": str(Path(where["data_dir"]).absolute()),
        "plugins": [str(Path(file).absolute()) for file in where["plugins"]],
        "skip_bad_images": where["skip_bad_images"],
    }


def _suite_text(request: Request) -> dict[str, str]:
    """The suite's name or path, and its text."""
    name = request.suite or default_suite()
    path = suite_path(name)
    return {
        "suite": str(path.absolute()) if name.endswith(".toml") else name,
        "suite_toml": path.read_text(encoding="utf-8-sig"),
    }
