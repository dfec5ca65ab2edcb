"""Everything that a user may ask of a run, with its default, and the checks of what needs no plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from oodbench.benchmark.data.fit_images import check_fit
from oodbench.benchmark.data.pictures.view import PIXEL_CACHE
from oodbench.benchmark.data.pollution import check_pollution
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.names import EXACT
from oodbench.benchmark.metrics.released_scripts import check_rules
from oodbench.benchmark.plan.plan import ALL, Request
from oodbench.benchmark.plan.precision import check_stored
from oodbench.benchmark.plan.suite import HEADS
from oodbench.benchmark.plan.threads import THREAD_COUNTS, is_thread_count
from oodbench.benchmark.plan.tuning_protocols import PROTOCOLS
from oodbench.benchmark.plan.weights.given import checkpoint_paths
from oodbench.benchmark.plugins.specs import split_list
from oodbench.benchmark.store.user_path import user_path

RERUN = ("missing", "failed", "all")

HIGHER = ("ood", "id")
"""What higher scores of a user's methods may mean."""

Names = str | Iterable[str]
"""Names, as a list or as one string with commas."""


@dataclass(frozen=True)
class Options:
    """The options of `bench run`; `api.run` has the same parameters, and describes them."""

    detectors: Names = "all"
    suite: str = ""
    id_sets: Names = "all"
    ood_sets: Names = ""
    near: Names = ""
    far: Names = ""
    backbone: str = ""
    seeds: int | Iterable[int] = 1
    metrics: Names = EXACT
    protocol: str = ""
    precision: str = ""
    limit_train: int = 0
    limit_test: int = 0
    epochs: int = 0
    checkpoint: str | Path | Iterable[str | Path] = ""
    recipe: str = ""
    head: str = ""
    classes: str | Path = ""
    resize: str = ""
    crop: str = ""
    interpolation: str = ""
    mean: str = ""
    std: str = ""
    exif: bool = False
    block: int = 0
    store_features: str = ""
    fit_from: str | float = ""
    fit_per_class: int = 0
    pollution: float | None = None
    outputs: str | Path | Iterable[str | Path] = ""
    scores: str | Path = ""
    higher: str = ""
    stability: bool = True
    device: str = "auto"
    threads: int = 0
    data_dir: str | Path = "data"
    results: str | Path = "results"
    name: str = ""
    plugins: Iterable[str | Path] = ()
    rerun: str = RERUN[0]
    add: bool = False
    only: bool = False
    skip_bad_images: bool = False
    pixel_cache: float = PIXEL_CACHE
    cell_timeout: float = 0.0
    tensorboard: bool = False
    store: str = ""
    engine: str = "local"
    jobs: int = 1
    ray_address: str = ""
    gpus: float | None = None
    own_cache: bool = False
    """Whether artifacts are kept in the run's own folder, as repetitions of a run do. No option of `api.run`."""

    def __post_init__(self) -> None:
        """Make lists of what can be read only once."""
        names = ("detectors", "id_sets", "ood_sets", "near", "far", "metrics", "plugins", "seeds")
        for name in (*names, "checkpoint", "outputs"):
            value = getattr(self, name)
            if not isinstance(value, str | int | Path):
                object.__setattr__(self, name, tuple(value))

    def request(self) -> Request:
        """What is asked for, apart from where and how it is computed."""
        return Request(
            suite=self.suite,
            detectors=_list(self.detectors),
            id_sets=_list(self.id_sets),
            ood_sets=self._ood_sets(),
            near=_list(self.near),
            far=_list(self.far),
            backbone=self.backbone,
            seeds=self._seeds(),
            metrics=tuple(dict.fromkeys(name for name in _list(self.metrics) if name != EXACT)),
            protocol=self.protocol,
            precision=self.precision,
            limit_train=self.limit_train,
            limit_test=self.limit_test,
            epochs=self.epochs,
            checkpoint=checkpoint_paths(self.checkpoint),
            recipe=self.recipe,
            store_features=self.store_features,
            fit_from=str(self.fit_from),
            fit_per_class=self.fit_per_class,
            pollution=self.pollution,
            outputs=self._outputs(),
            scores=str(user_path(self.scores).absolute()) if str(self.scores) else "",
            higher=self.higher,
            head=self.head,
            classes=str(user_path(self.classes).absolute()) if str(self.classes) else "",
            resize=self.resize,
            crop=self.crop,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            exif=self.exif,
            block=self.block,
            stability=self.stability,
            threads=self.threads,
        )

    def check(self) -> None:
        """Raise `UserError` for values that are wrong whatever the suite."""
        self._check_choices()
        self._check_numbers()
        check_stored(self.store_features)
        check_fit(self.fit_from, self.fit_per_class)
        check_pollution(self.pollution)
        for name in self.request().metrics:
            check_rules(name, "bench run --help")

    def _ood_sets(self) -> tuple[str, ...]:
        """The sets of `ood_sets`: the suite's if nothing is given, none if only near or far ones are."""
        given = _list(self.ood_sets)
        return given or (() if _list(self.near) or _list(self.far) else (ALL,))

    def _seeds(self) -> tuple[int, ...]:
        """The seeds; by default, as many as there are files of weights, or folders of outputs."""
        seeds = tuple(range(self.seeds)) if isinstance(self.seeds, int) else tuple(self.seeds)
        files = max(1, len(checkpoint_paths(self.checkpoint)), len(self._outputs()))
        return tuple(range(files)) if seeds == (0,) else seeds

    def _outputs(self) -> tuple[str, ...]:
        """Absolute paths of the folders of outputs."""
        given = self.outputs
        if isinstance(given, str):
            whole = "," not in given or user_path(given).is_dir()
            given = [given] if whole else [path.strip() for path in given.split(",")]
            if len(given) > 1 and "" in given:
                raise UserError("--outputs names no folder between two commas. Leave out one of them.")
        paths = [given] if isinstance(given, Path) else given
        return tuple(str(user_path(path).absolute()) for path in paths if str(path))

    def _check_choices(self) -> None:
        if self.head not in ("", *HEADS):
            raise UserError(f"Unknown head '{self.head}'. Choose {', '.join(HEADS)}.")
        if self.add and self.only:
            raise UserError(
                "add keeps all cells of earlier commands and only keeps none of them. Choose one of the two."
            )
        if self.higher not in ("", *HIGHER):
            raise UserError(f"Unknown meaning of higher scores, '{self.higher}'. Choose {' or '.join(HIGHER)}.")
        if self.rerun not in RERUN:
            raise UserError(f"Unknown rerun '{self.rerun}'. Choose {', '.join(RERUN)}.")
        if self.protocol not in ("", *PROTOCOLS):
            raise UserError(f"Unknown protocol '{self.protocol}'. Choose {', '.join(PROTOCOLS)}.")
        seeds = self._seeds()
        if not seeds or min(seeds) < 0:
            raise UserError(f"Seeds must be whole numbers from 0, at least one of them; got {list(seeds)}.")

    def _check_numbers(self) -> None:
        if not 0 <= self.cell_timeout < float("inf"):
            raise UserError(f"cell_timeout must be a number of seconds, or 0 for no limit; got {self.cell_timeout}.")
        if self.threads != 0 and not is_thread_count(self.threads):
            raise UserError(f"threads must be {THREAD_COUNTS}, or 0 for the suite's own; got {self.threads}.")
        for name in ("limit_train", "limit_test", "epochs", "block"):
            if (count := getattr(self, name)) < 0:
                raise UserError(f"{name} must be a whole number from 1, or 0 for the suite's own; got {count}.")
        if not 0 <= self.pixel_cache < float("inf"):
            raise UserError(f"pixel_cache must be a number of gigabytes, or 0 for none; got {self.pixel_cache}.")


def _list(names: Names) -> tuple[str, ...]:
    return tuple(split_list(names)) if isinstance(names, str) else tuple(names)
