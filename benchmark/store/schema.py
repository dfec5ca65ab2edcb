"""What the JSON files that the harness reads back must look like, as far as it looks into them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict


class SuiteInfo(TypedDict, total=False):
    """Of which suite a run is."""

    name: str
    title: str


class PairNames(TypedDict):
    """What every pair has."""

    id_set: str
    ood_set: str


class PairInfo(PairNames, total=False):
    """An ID set with an OOD set."""

    group: str
    outlier_source: bool
    trivial: Mapping[str, Any] | None
    id_family: str
    ood_family: str


class Skipped(TypedDict):
    """What a plan left out."""

    what: str


class Unavailable(TypedDict):
    """What could not be loaded."""

    name: str


class RunInfo(TypedDict, total=False):
    """`run.json`."""

    name: str
    suite: SuiteInfo | None
    cells: list[str]
    pairs: list[PairInfo]
    seeds: list[int]
    detectors: list[str]
    notes: list[str]
    skipped: list[Skipped]
    unavailable: list[Unavailable]
    packages: Mapping[str, Any]
    commit: Mapping[str, Any] | None


class About(TypedDict, total=False):
    """How an artifact was made, as far as it is read again."""

    seconds: float


class DecodedFrom(TypedDict):
    """Which files a decoded split was made of."""

    names: list[str]


class SideFile(TypedDict, total=False):
    """A side file of the store, or of a decoded split."""

    key: Mapping[str, Any] | str
    digest: str
    sha256: str | Mapping[str, str]
    about: About
    made_from: DecodedFrom


class DecodedSide(TypedDict):
    """The side file of a decoded split."""

    key: str
    images: int
    checksum: str
    sha256: Mapping[str, str]
    bad: list[str]
    modes: Mapping[str, int]
