"""Reads suite files: every key and name in them is checked, and errors name the file and the key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from oodbench.benchmark.data.files.user_folder import Role
from oodbench.benchmark.data.fit_images import EXPECTED, FEWEST, TRAIN, FitImages, parse_fit
from oodbench.benchmark.data.own_sets import PREFIXES, adopt
from oodbench.benchmark.data.pollution import EXPECTED as POLLUTION
from oodbench.benchmark.data.pollution import is_pollution
from oodbench.benchmark.errors import OodbenchError, UserError, did_you_mean, unknown
from oodbench.benchmark.plan.precision import AUTO, FLOAT32, PRECISIONS, STORED_AS
from oodbench.benchmark.plan.suite import HEADS, SHARES, IDEntry, OODEntry, Schedule, Suite, is_share
from oodbench.benchmark.plan.threads import DEFAULT_THREADS, THREAD_COUNTS, is_thread_count
from oodbench.benchmark.plan.tuning_protocols import PROTOCOLS
from oodbench.benchmark.plugins.dataset import COLOUR, GREY
from oodbench.benchmark.plugins.networks.places import adopt_backbone, with_absolute_place
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import SetSpec, parse_set
from oodbench.benchmark.store.safe_read import read_bounded
from oodbench.benchmark.store.toml_file import read_toml
from oodbench.benchmark.store.user_path import user_path

MAX_SUITE = 1 << 16
"""Largest suite file, in bytes; the parser's time can grow with the square of its size."""


def default_suite() -> str:
    """The suite that marks itself as the default."""
    for name in registry.entries("suite"):
        with suppress(OodbenchError):  # a broken suite of another package is reported when it is requested
            if read_suite(name).default:
                return name
    raise UserError("No suite is marked 'default = true'. Name one with --suite.")


def suite_path(name: str) -> Path:
    """The file of a suite, given by its registered name or as a path that ends in .toml."""
    return user_path(name) if name.endswith(".toml") else Path(registry.get("suite", name))


def read_suite(name: str) -> Suite:
    """Read a suite by its registered name or from a path that ends in .toml, and check every key and name in it."""
    path = suite_path(name)
    return _Reader(path).suite(_tables(path))


def suite_that_runs_all(name: str) -> str:
    """The registered suite that extends a suite and whose 'all' includes every detector; empty if there is none."""
    for other in registry.entries("suite"):
        with suppress(OodbenchError):  # a broken suite of another package is reported when it is requested
            suite = read_suite(other)
            if suite.extends == name and suite.every_detector:
                return other
    return ""


def _tables(path: Path) -> dict[str, Any]:
    """The content of a suite file as nested tables, over those of the suite that it extends."""
    data = read_toml(path, MAX_SUITE, "The suite file")
    return _over(_base_tables(path, data["extends"]), data) if "extends" in data else data


def _base_tables(path: Path, base: Any) -> dict[str, Any]:
    """The tables of the suite that a suite file extends, without what is that suite's own: `default` and `folders`."""
    reader = _Reader(path)
    reader.known("suite", base)
    file = suite_path(base)
    if text_elsewhere(text := read_bounded(file, MAX_SUITE).decode("utf-8-sig"), file.parent) != text:
        raise reader.error(f"'{base}' cannot be extended, because it names files by their paths; copy it")
    tables = _tables(file)
    if "extends" in tables:
        raise reader.error(f"'{base}' itself extends '{tables['extends']}'; extend that one")
    return {key: value for key, value in tables.items() if key not in ("default", "folders")}


def _over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Tables with entries of their own over those of a base, table by table; lists and values replace the base's."""
    merged = {**base, **own}
    for key, value in own.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping):
            merged[key] = _over(base[key], value)
    return merged


def text_elsewhere(text: str, folder: Path) -> str:
    """The text of a suite file for another place, where its relative paths still mean those in its former folder."""
    if not any(prefix in text for prefix in (*PREFIXES, ".py:")) or re.search(r"^folders\s*=", text, re.MULTILINE):
        return text
    return f"folders = {json.dumps(str(folder.absolute()), ensure_ascii=False)}\n{text}"


class _Reader:
    """Turns a suite file's tables into a `Suite`; errors name the file and the key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folders = path.parent
        """What paths after `folder:` are relative to."""

    def suite(self, data: Mapping[str, Any]) -> Suite:
        keys = {"schema", "title", "default", "notes", "protocol", "training", "recipes", "id", "folders", "extends"}
        self.check(data, "the top level", keys, required={"schema", "protocol", "id"})
        if data["schema"] != 1:
            raise self.error(f"schema is {data['schema']!r}; this oodbench reads schema 1")
        self.folders = user_path(self.typed(data, "folders", str, "folders") or self.folders)
        if "folders" in data and not self.folders.is_absolute():
            raise self.error(f"folders is '{self.folders}'; it must be an absolute path, or left out")
        protocol = self.protocol(data["protocol"])
        self.schedule(data.get("training", {}), "[training]")
        entries = tuple(self.id_entry(entry) for entry in self.typed(data, "id", list, "[[id]]"))
        sets = [entry.set for entry in entries]
        for twice in (spec for k, spec in enumerate(sets) if spec in sets[:k]):
            raise self.error(f"the ID set '{twice}' is listed twice; write one [[id]] for it")
        for entry in entries:
            if entry.replaces is not None and (entry.replaces == entry.set or entry.replaces not in sets):
                raise self.error(f"'{entry.set}' replaces '{entry.replaces}', which is no other [[id]] of the suite")
        return Suite(
            name=self.path.stem,
            title=self.typed(data, "title", str, "title"),
            entries=entries,
            training=_tuples(data.get("training", {})),
            recipes=self.recipes(self.typed(data, "recipes", dict, "[recipes]"), "[recipes]"),
            notes=self.notes(data, "notes"),
            default=self.typed(data, "default", bool, "default"),
            extends=data.get("extends", ""),
            **protocol,
        )

    def notes(self, table: Mapping[str, Any], where: str) -> tuple[str, ...]:
        notes = self.typed(table, "notes", list, where)
        if not all(isinstance(note, str) for note in notes):
            raise self.error(f"{where} must be a list of sentences in quotes, got {notes!r}")
        return tuple(notes)

    def protocol(self, table: Any) -> dict[str, Any]:
        """The fields of a `Suite` that [protocol] gives."""
        self.check(table, "[protocol]", PROTOCOL_KEYS, required={"backbone", "recipe"})
        self.backbone(table["backbone"])
        self.known("recipe", table["recipe"])
        precision = table.get("precision", AUTO)
        if precision not in PRECISIONS:
            raise self.error(f"precision in [protocol] is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
        tuning = table.get("tuning", PROTOCOLS[0])
        if tuning not in PROTOCOLS:
            raise self.error(f"tuning in [protocol] is {tuning!r}; it must be one of {', '.join(PROTOCOLS)}")
        gpus = table.get("gpus", 1)
        if not isinstance(gpus, int | float) or isinstance(gpus, bool) or not is_share(gpus):
            raise self.error(f"gpus in [protocol] is {gpus!r}; it must be {SHARES}")
        stability, every = table.get("stability", True), table.get("every_detector", False)
        for key, value in (("stability", stability), ("every_detector", every)):
            if not isinstance(value, bool):
                raise self.error(f"{key} in [protocol] is {value!r}; it must be true or false")
        channels = table.get("channels")
        if channels is not None and (isinstance(channels, bool) or channels not in (GREY, COLOUR)):
            raise self.error(f"channels in [protocol] is {channels!r}; it must be 1 (grey) or 3 (colour), or left out")
        threads = table.get("threads", DEFAULT_THREADS)
        if not is_thread_count(threads):
            raise self.error(f"threads in [protocol] is {threads!r}; it must be {THREAD_COUNTS}")
        block = table.get("block", 0)
        if not isinstance(block, int) or isinstance(block, bool) or block < 0:
            raise self.error(f"block in [protocol] is {block!r}; it must be a number of images, or left out")
        stored = table.get("store_features", FLOAT32)
        if stored not in STORED_AS:
            raise self.error(f"store_features in [protocol] is {stored!r}; it must be {' or '.join(STORED_AS)}")
        backbone = with_absolute_place(table["backbone"], self.folders)
        names = {"backbone": backbone, "recipe": table["recipe"], "precision": precision}
        head = table.get("head", HEADS[0])
        if head not in HEADS:
            raise self.error(f"head in [protocol] is {head!r}; it must be {' or '.join(HEADS)}")
        names |= {"protocol": tuning, "stability": stability, "store_features": stored, "head": head}
        names |= {"block": block, **{name: self.size(name, table[name]) for name in PICTURES if name in table}}
        if not is_pollution(pollution := table.get("pollution", 0)):
            raise self.error(f"pollution in [protocol] is {pollution!r}; it must be {POLLUTION}")
        names |= {"channels": channels, "threads": threads, "every_detector": every, "pollution": float(pollution)}
        return {**names, "gpus": float(gpus)}

    def size(self, name: str, value: Any) -> str:
        """A size of pictures, or the name of an interpolation; what is wrong with it is said when it is used."""
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise self.error(f"{name} in [protocol] is {value!r}; it must be {PICTURES[name]}")
        return str(value)

    def id_entry(self, entry: Mapping[str, Any]) -> IDEntry:
        keys = {*ID_KEYS, *FIT}
        self.check(entry, "[[id]]", keys, required={"set", "ood"})
        self.schedule(entry.get("training", {}), "id.training")
        ood = tuple(self.ood_entry(item) for item in self.typed(entry, "ood", list, "ood"))
        outliers = self.set_spec(entry["outliers"], "outliers") if "outliers" in entry else None
        recipes = self.recipes(self.typed(entry, "recipes", dict, "id.recipes"), "id.recipes")
        training = _tuples(entry.get("training", {}))
        tuning = self.set_spec(entry["tuning"], "outliers") if "tuning" in entry else None
        set_ = self.set_spec(entry["set"], "id")
        shifted = tuple(self.shifted(text, set_) for text in self.typed(entry, "shifted", list, "shifted"))
        for both in (spec for spec in shifted if spec in [item.set for item in ood]):
            raise self.error(f"'{both}' is in both shifted and ood of '{set_}'; a set is either ID or OOD")
        replaces = self.set_spec(entry["replaces"]) if "replaces" in entry else None
        notes = self.notes(entry, "id.notes")
        fit = self.fit_images(entry)
        classes = self.typed(entry, "classes", str, "id.classes")
        names = str(self.folders / user_path(classes)) if classes else ""
        return IDEntry(set_, ood, outliers, recipes, tuning, training, shifted, replaces, notes, fit, names)

    def fit_images(self, entry: Mapping[str, Any]) -> FitImages:
        value, count = entry.get("fit", TRAIN), entry.get("fit_per_class", 0)
        if "fit_per_class" in entry and (isinstance(count, bool) or not isinstance(count, int) or count < FEWEST):
            raise self.error(
                f"fit_per_class of '{entry['set']}' is {count!r}; it must be a whole number from {FEWEST}, or left out"
            )
        try:
            return parse_fit(value, count)
        except ValueError:
            raise self.error(f"fit of '{entry['set']}' is {value!r}; it must be {EXPECTED}") from None

    def ood_entry(self, item: Any) -> OODEntry:
        self.check(item, "ood", {"set", "group"}, required={"set"})
        if item.get("group", "") not in ("near", "far", ""):
            raise self.error(f"group of '{item['set']}' is {item['group']!r}; it must be 'near', 'far' or omitted")
        return OODEntry(self.set_spec(item["set"]), item.get("group", ""))

    def shifted(self, text: Any, id_set: SetSpec) -> SetSpec:
        spec = self.set_spec(text)
        if spec == id_set or spec.classes != id_set.classes or not self.same_classes(spec, id_set):
            raise self.error(
                f"'{spec}' in shifted is not a form of '{id_set}'; write it as '{id_set}+FORM', or name a set with the "
                "same classes"
            )
        return spec

    def same_classes(self, one: SetSpec, other: SetSpec) -> bool:
        """Whether two sets have the same classes in the same order, and have some."""
        if one.name == other.name:
            return True
        classes = [registry.get("dataset", spec.name).classes for spec in (one, other)]
        return bool(classes[0]) and classes[0] == classes[1]

    def recipes(self, tables: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
        for name, table in tables.items():
            self.known("recipe", name)
            if not isinstance(table, Mapping):
                raise self.error(f"{where}.{name} must be a table of settings, got {table!r}")
            self.schedule(table.get("training", {}), f"{where}.{name}.training")
        return {name: {**table, "training": _tuples(table.get("training", {}))} for name, table in tables.items()}

    def schedule(self, table: Any, where: str) -> None:
        self.check(table, where, set(Schedule._fields))
        for key, value in table.items():
            if not _fits_schedule(key, value):
                raise self.error(f"{key} in {where} is {value!r}; it must be {SCHEDULE[key]}")

    def backbone(self, text: Any) -> None:
        """A name, or a name with settings: `small_cnn[width=64]`."""
        try:
            self.known("backbone", adopt_backbone(text, self.folders).name if isinstance(text, str) else text)
        except UserError as error:
            raise error if str(self.path) in str(error) else self.error(str(error)) from error

    def set_spec(self, text: Any, role: Role = "") -> SetSpec:
        """A set; a path after `folder:` or `list:` is relative to the suite file, which may lie beside its images."""
        if not isinstance(text, str):
            raise self.error(f"a set must be a name in quotes, got {text!r}")
        try:
            spec = adopt(parse_set(text), role, self.folders)
        except UserError as error:
            raise self.error(str(error)) from error
        self.known("dataset", spec.name)
        for name in spec.forms:
            self.known("form", name)
        return spec

    def known(self, kind: str, name: Any) -> None:
        if not isinstance(name, str):
            raise self.error(f"a {kind} must be a name in quotes, got {name!r}")
        entries = registry.entries(kind)
        if name not in entries:
            problem = unknown(kind.replace("dataset", "data set"), name, entries, f"bench list {kind}s")
            raise self.error(str(problem).rstrip("."))

    def typed(self, table: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
        """The value of a key, checked to be of a type; that type's empty value if the key is absent."""
        value = table.get(key, kind())
        if not isinstance(value, kind):
            raise self.error(f"{where} must be {KINDS[kind]}, got {value!r}")
        return value

    def check(self, table: Any, where: str, allowed: set[str], required: Iterable[str] = ()) -> None:
        if not isinstance(table, Mapping):
            raise self.error(f"{where} must be a table, got {table!r}")
        for key in table:
            if key not in allowed:
                hint = did_you_mean(key, allowed, otherwise=f"Known are {', '.join(sorted(allowed))}.")
                raise self.error(f"unknown key '{key}' in {where}. {hint}")
        for key in sorted(set(required) - set(table)):
            raise self.error(f"{where} lacks the key '{key}'")

    def error(self, problem: str) -> UserError:
        return UserError(f"Suite '{self.path}': {problem.rstrip('.?')}{'?' if problem.endswith('?') else '.'}")


ID_KEYS = ("set", "outliers", "ood", "recipes", "training", "tuning", "shifted", "replaces", "notes", "classes")
FIT = ("fit", "fit_per_class")
"""Keys of an [[id]] that say which images detectors learn from."""

PROTOCOL_KEYS = {
    *("backbone", "recipe", "precision", "tuning", "stability", "gpus", "channels", "threads", "block"),
    *("store_features", "head", "every_detector", "pollution"),
    *("resize", "crop", "interpolation"),
}

PICTURES = {
    "resize": '256 for the shorter side, or "224x224" for height x width',
    "crop": '224, or "224x192" for height x width',
    "interpolation": 'a name in quotes, such as "bicubic"',
}
"""Keys of [protocol] that say how networks get pictures -> what they must be."""

KINDS = {list: "a list", dict: "a table", str: "a string in quotes", bool: "true or false"}

SCHEDULE = {
    "epochs": "a whole number from 1",
    "batch_size": "a whole number from 1",
    "milestones": "a list of fractions of the epochs, each from 0 to 1",
    "decay": "a number above 0",
}


def _fits_schedule(key: str, value: Any) -> bool:
    if key == "milestones":
        return isinstance(value, list) and all(isinstance(v, int | float) and 0 <= v <= 1 for v in value)
    if key == "decay":
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
