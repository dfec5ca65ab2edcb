"""Every registered plug-in passes its contract checks, and `run_checks` reports their outcome."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oodbench.benchmark import run_checks
from oodbench.benchmark.errors import PluginError, UserError
from oodbench.benchmark.plugins.registry import PluginEntry, registry
from oodbench.benchmark.verify import plugin_checks
from oodbench.benchmark.verify.check_error import SkippedCheck
from oodbench.benchmark.verify.other_checks import check_dataset
from oodbench.benchmark.verify.plugin_checks import CHECKS, Result

pytestmark = pytest.mark.usefixtures("one_thread")

SLOW: set[tuple[str, str]] = {
    *(("check_backbone", name) for name in ("wrn", "densenet", "resnet18", "vgg13")),
    *(("check_declarations", name) for name in ("deep_sad", "deep_svdd")),
    *(
        (f"check_recipe_{what}", name)
        for what in ("learns", "repeats", "takes_grey")
        for name in ("gan", "gan_entropy", "joint", "pixmix", "reject_class")
    ),
}
"""(check, name) of the checks that take longest; on `gan_confidence` a method with a GAN has them by default."""

RUNS = ("msp", "knn", "mahalanobis_ensemble", "confidence")
"""Detectors that run the tiny suite by default; all others do so in the slow tests."""

KNOWN_FAILURES: dict[tuple[str, str], str] = {}
"""(check, name) -> why a built-in plug-in does not pass."""


def cases() -> list[Any]:
    """Every check on every registered plug-in, including those of other distributions."""
    found = []
    for kind in CHECKS:
        for check, name in itertools.product(CHECKS[kind], registry.entries(kind)):
            case = (check.__name__, name)
            runs = check.__name__ == "check_run" and name not in RUNS
            marks = [pytest.mark.slow] if case in SLOW or runs else []
            if case in KNOWN_FAILURES:
                marks.append(pytest.mark.xfail(reason=KNOWN_FAILURES[case], strict=True))
            found.append(pytest.param(check, name, id=f"{check.__name__}-{name}", marks=marks))
    return found


@pytest.mark.parametrize("check, name", cases())
def test_contract(check: Callable[[str], None], name: str, tmp_path: Path) -> None:
    kind = next(kind for kind in CHECKS if check in CHECKS[kind])
    if kind == "backbone" and (reason := registry.get(kind, name)().refuses((3, 32, 32))):
        pytest.skip(reason)
    if kind != "dataset":
        try:
            check(name)
        except SkippedCheck as skipped:
            pytest.skip(str(skipped))
    elif registry.get(kind, name)().missing(tmp_path) is None:
        check_dataset(name, tmp_path)
    else:
        pytest.skip(registry.get(kind, name)().missing(tmp_path))


def test_lists_of_exceptions_are_not_stale() -> None:
    known = {case.id for case in cases()}
    assert {f"{check}-{name}" for check, name in SLOW | set(KNOWN_FAILURES)} <= known


@pytest.mark.parametrize("where", ["recipes", "id.recipes"])
def test_a_suite_with_a_mistyped_setting_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'schema = 1\nprotocol = { backbone = "small_cnn", recipe = "cross_entropy" }\n'
        f'[[id]]\nset = "digits"\nood = [{{ set = "greek" }}]\n[{where}.confidence]\nbetta = 1.0\n'
    )
    entry = PluginEntry("suite", "checks_suite", "", "a test", lambda: path)
    monkeypatch.setitem(registry._from_files, ("suite", "checks_suite"), entry)
    (result,) = run_checks(["checks_suite"], tmp_path)
    assert (result.kind, result.status) == ("suite", "failed")
    assert result.reason.startswith("Unknown setting of the recipe 'confidence': 'betta'. Did you mean 'beta'?")


def test_one_name_may_stand_for_several_kinds() -> None:
    kinds = {result.kind for result in run_checks(["confidence"], Path())}
    assert kinds == {"detector", "recipe"}


def test_an_unknown_name_gets_the_nearest_of_all_kinds() -> None:
    with pytest.raises(
        UserError, match=r"^Unknown plug-in 'permutd'\. Did you mean 'permuted'\? 'bench list' shows all"
    ):
        list(run_checks(["permutd"], Path()))


def test_all_stands_for_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {kind: dict(list(registry.entries(kind).items())[:1]) for kind in CHECKS}
    monkeypatch.setattr(registry, "entries", entries.__getitem__)
    asked: list[tuple[str, str]] = []

    def note(kind: str, name: str, data_dir: Path) -> list[Result]:
        asked.append((kind, name))
        return []

    monkeypatch.setattr(plugin_checks, "_run", note)
    list(run_checks(["all"], Path()))
    assert asked == [(kind, next(iter(entries[kind]))) for kind in CHECKS]


def test_a_plugin_that_cannot_be_imported_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise PluginError("ImportError: no such thing")

    entry = PluginEntry("detector", "checks_broken", "", "a test", broken)
    monkeypatch.setitem(registry._from_files, ("detector", "checks_broken"), entry)
    (result,) = run_checks(["checks_broken"], Path())
    assert result == Result("detector", "checks_broken", "import", "failed", "ImportError: no such thing")
