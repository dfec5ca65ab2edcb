"""What a paper calls the rows and sets of a run, and which publications it cites for them.

Names and citations are those that plug-ins declare, as `run.json` has them or, for older runs, as built-in plug-ins
declare them today. A file of the user's, `names.toml`, overrides them. Nothing here imports a plug-in.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from oodbench.benchmark.errors import OodbenchError, UserError, did_you_mean
from oodbench.benchmark.plugins.citations.bibtex import (
    KEY,
    cited,
    entries_beside,
    entries_of,
    entry_of_text,
    is_sound,
    plain_key,
)
from oodbench.benchmark.plugins.registry import KINDS, registry
from oodbench.benchmark.plugins.specs import DetectorSpec, SetSpec, Spec, parse_detector, parse_set, parse_spec
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.records.rows import own_name
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.store.toml_file import read_toml

MAX_NAMES = 1 << 16
"""Largest `names.toml`, in bytes."""

SECTIONS = ("rows", "recipes", "sets", "cite")
"""Tables of `names.toml`; `bibtex` is a text beside them."""


@dataclass(frozen=True)
class OwnNames:
    """The user's names: what `names.toml` holds."""

    rows: Mapping[str, str] = field(default_factory=dict)
    """Label, or name of a detector -> its name."""
    recipes: Mapping[str, str] = field(default_factory=dict)
    sets: Mapping[str, str] = field(default_factory=dict)
    """Name of an ID or OOD set, with classes and forms or without -> its name."""
    cite: Mapping[str, str] = field(default_factory=dict)
    """Label, or name of a plug-in -> keys, separated by commas; none for no citation."""
    entries: Mapping[str, str] = field(default_factory=dict)
    """Key -> BibTeX entry."""


NO_NAMES = OwnNames()


@dataclass(frozen=True)
class Plug:
    """How a plug-in is named and cited."""

    display_name: str = ""
    title: str = ""
    paper: str = ""
    cite: tuple[str, ...] = ()


@dataclass(frozen=True)
class Names:
    """The names and citations of one run's rows, sets and networks."""

    rows: Mapping[str, str]
    """Label -> name; the label where two rows would have the same name."""
    sets: Mapping[str, str]
    """Name of an ID or OOD set as tables have it -> its name in a paper."""
    cites: Mapping[str, tuple[str, ...]]
    """Label, name of a set or of a backbone -> keys of the publications."""
    entries: Mapping[str, str]
    """Key -> BibTeX entry."""
    networks: Mapping[str, str] = field(default_factory=dict)
    """Backbone with its settings -> its name in a paper."""

    def row(self, label: str) -> str:
        """The name of a row; its label if the run has no such row."""
        return self.rows.get(label, label)

    def set(self, name: str) -> str:
        """The name of an ID or OOD set; as tables have it if the run has no such set."""
        return self.sets.get(name, name)

    def network(self, backbone: str) -> str:
        """The name of a backbone; with its settings as tables have it if nothing is known."""
        return self.networks.get(backbone, backbone)

    def cite(self, name: str) -> tuple[str, ...]:
        """The keys of what to cite for a row (by label), a set or a backbone; none if nothing is known."""
        return self.cites.get(name, ())

    def bibtex(self, names: Iterable[str]) -> str:
        """The entries that these rows, sets and backbones cite, each once, in the order of their keys."""
        keys = dict.fromkeys(key for name in names for key in self.cite(name))
        return "\n\n".join(self.entries[key] for key in sorted(keys) if key in self.entries) + "\n" * bool(keys)


def display_names(run: StoredRun, own: OwnNames = NO_NAMES) -> Names:
    """The names and citations of everything that a run's tables show."""
    known = _Known(run, own)
    firsts: dict[str, Record] = {}
    for record in run.records:
        firsts.setdefault(record.label, record)
    rows = {label: known.row_name(record) for label, record in firsts.items()}
    own_sets: dict[str, str] = {}
    for record in run.records:
        own_sets.setdefault(record.id_set, own_name(record, "id_set"))
        own_sets.setdefault(record.ood_set, own_name(record, "ood_set"))
    sets = {name: known.set_name(name, of_plug) for name, of_plug in own_sets.items()}
    cites = {label: known.row_cites(record) for label, record in firsts.items()}
    cites |= {name: known.set_cites(name, of_plug) for name, of_plug in own_sets.items()}
    backbones = [one for one in dict.fromkeys(record.backbone for record in run.records) if one]
    cites |= {one: known.cites_of("backbone", one) for one in backbones}
    networks = {one: known.network_name(one) for one in backbones}
    return Names(_unlike(rows), _unlike_within(run, sets), cites, known.entries, networks)


def _unlike(names: Mapping[str, str]) -> dict[str, str]:
    """Names, or what they are names of where two would be the same."""
    shared = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {one: one if name in shared else name for one, name in names.items()}


def _unlike_within(run: StoredRun, names: Mapping[str, str]) -> dict[str, str]:
    """The same for sets, which only have to be told apart from others of the same ID set."""
    found = dict(names)
    for id_set in dict.fromkeys(record.id_set for record in run.records):
        shown = [r.ood_set for r in run.records if r.id_set == id_set]
        own = _unlike({name: names[name] for name in dict.fromkeys([id_set, *shown])})
        found |= {name: shown for name, shown in own.items() if shown == name}
    ids = list(dict.fromkeys(record.id_set for record in run.records))
    return found | _unlike({name: found[name] for name in ids})


class _Known:
    """What is known of the plug-ins of a run."""

    def __init__(self, run: StoredRun, own: OwnNames) -> None:
        self.own = own
        self.entries: dict[str, str] = {}
        """Key -> entry, of all plug-ins and of the user."""
        self._plugs: dict[tuple[str, str], Plug] = {}
        self._stored: dict[tuple[str, str], Plug] = {}
        for info in [run.info, *(part.info for part in run.parts)]:
            self._read(info)
        self.entries |= own.entries

    def _read(self, info: Mapping[str, Any]) -> None:
        """Take what `run.json` says, which may come from a file of others."""
        entries = info.get("references") or {}
        self.entries |= {key: text for key, text in entries.items() if is_sound(text, key)}
        for kind, plugins in (info.get("described") or {}).items():
            for name, facts in plugins.items():
                keys = tuple(key for key in facts.get("cite", "").split(",") if key in self.entries)
                known = {one: facts.get(one, "") for one in ("display_name", "title", "paper")}
                self._stored.setdefault((kind, name), Plug(**known, cite=keys))

    def plug(self, kind: str, name: str) -> Plug:
        """How a plug-in is named and cited: as the run says, or as a built-in one declares."""
        if (kind, name) not in self._plugs:
            found = self._stored.get((kind, name))
            if found is None:
                found, entries = declared_plug(kind, name)
                self.entries = {**entries, **self.entries}
            if found.paper and not found.cite:
                key = plain_key(f"{kind}-{name}")
                self.entries.setdefault(key, entry_of_text(key, found.title or name, found.paper))
                found = Plug(found.display_name, found.title, found.paper, (key,))
            self._plugs[kind, name] = found
        return self._plugs[kind, name]

    def row_name(self, record: Record) -> str:
        """A row's name: the detector's, its settings in parentheses, `+` and the recipe's, what tells rows apart."""
        label, own = record.label, own_name(record, "label")
        if label in self.own.rows:
            return self.own.rows[label]
        tail = label.removeprefix(own) if label.startswith(own) else ""
        if own in self.own.rows:
            return self.own.rows[own] + tail
        spec = _parsed(own)
        if spec is None or spec.detector.name != record.detector:
            return label  # scores of the user, whose labels are any text
        name = self.own.rows.get(record.detector) or self.plug("detector", record.detector).display_name
        text = (name or record.detector) + _settings(spec.detector.settings)
        if spec.recipe is not None:
            recipe = self.own.recipes.get(spec.recipe.name) or self.plug("recipe", spec.recipe.name).display_name
            text += f" + {recipe or spec.recipe.name}{_settings(spec.recipe.settings)}"
        return text + tail

    def row_cites(self, record: Record) -> tuple[str, ...]:
        """What to cite for a row: its detector's publications and, if its label names a recipe, that one's."""
        own = own_name(record, "label")
        for name in (record.label, own):
            if name in self.own.cite:
                return _keys(self.own.cite[name])
        spec = _parsed(own)
        if spec is None or spec.detector.name != record.detector:
            return ()
        keys = self.cites_of("detector", record.detector)
        return tuple(dict.fromkeys([*keys, *(self.cites_of("recipe", spec.recipe.name) if spec.recipe else ())]))

    def set_name(self, name: str, own: str) -> str:
        """A set's name: the data set's, its classes, and forms in parentheses.

        `own`: the name without what tells it apart from others in the run's tables.
        """
        for one in (name, own):
            if one in self.own.sets:
                return self.own.sets[one]
        spec = _parsed_set(own)
        if spec is None:
            return name
        base = self.own.sets.get(spec.name) or self.plug("dataset", spec.name).display_name
        if not base:
            return name
        classes = "" if spec.classes is None else " " + str(SetSpec("", spec.classes)).strip("[]")
        forms = ", ".join(self.plug("form", form).display_name or form for form in spec.forms)
        return base + classes + (f" ({forms})" if forms else "") + name.removeprefix(own) * name.startswith(own)

    def network_name(self, backbone: str) -> str:
        """A backbone's name; a model of a library's by its own."""
        with suppress(OodbenchError):
            spec = parse_spec(backbone)
            settings = dict(spec.settings)
            model = settings.pop("model", "")
            name = str(model) or self.plug("backbone", spec.name).display_name
            if name:
                return name + _settings(tuple(settings.items()))
        return backbone

    def set_cites(self, name: str, own: str) -> tuple[str, ...]:
        """What to cite for a set."""
        for one in (name, own):
            if one in self.own.cite:
                return _keys(self.own.cite[one])
        spec = _parsed_set(own)
        return self.cites_of("dataset", spec.name) if spec else ()

    def cites_of(self, kind: str, text: str) -> tuple[str, ...]:
        """What to cite for a plug-in, by its name with settings or without."""
        with suppress(OodbenchError):
            text = parse_spec(text).name
        if text in self.own.cite:
            return _keys(self.own.cite[text])
        return self.plug(kind, text).cite


def _keys(text: str) -> tuple[str, ...]:
    return tuple(key.strip() for key in text.split(",") if key.strip())


def _parsed(label: str) -> DetectorSpec | None:
    try:
        return parse_detector(label)
    except OodbenchError:
        return None


def _parsed_set(name: str) -> SetSpec | None:
    try:
        return parse_set(name)
    except OodbenchError:
        return None


def _settings(settings: Sequence[tuple[str, Any]]) -> str:
    inside = str(Spec("", tuple(settings))).strip("[]").replace(",", ", ")
    return f" ({inside})" if inside else ""


def declared_plug(kind: str, name: str) -> tuple[Plug, dict[str, str]]:
    """How a built-in plug-in is named and cited, read from its file without importing it, and the entries."""
    entry = registry.entries(kind).get(name) if kind in KINDS else None
    if entry is None:
        return Plug(), {}
    entries: dict[str, str] = {}
    if entry.cite:
        with suppress(UserError):
            entries = cited(entry.cite, entries_beside(_folder(KINDS[kind].package) / f"{name}.py"))
    return Plug(entry.display_name, entry.title, "", tuple(entries)), entries


@cache
def _folder(package: str) -> Path:
    """The folder of a package of built-in plug-ins."""
    spec = importlib.util.find_spec(package)
    return Path(next(iter(spec.submodule_search_locations or ["."]), ".")) if spec else Path()


def read_names(path: Path) -> OwnNames:
    """Read `names.toml`: names of rows, recipes and sets for a paper, and what to cite for them.

    ```toml
    [rows]
    vim = "ViM (ours)"
    "odin[temperature=10]@joint" = "ODIN"
    [sets]
    "digits[7-9]" = "Digits 7 to 9"
    [cite]
    vim = "me2027vim"
    ```

    Raises:
        UserError: The file cannot be read, or has a table, a key or a value that is not as shown here.
    """
    return OwnNames(**dict(_sections(path, read_toml(path, MAX_NAMES, "The file of names"))))


def _sections(path: Path, data: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, str]]]:
    for section, names in data.items():
        if section == "bibtex" and isinstance(names, str):
            yield "entries", entries_of(names)
            continue
        if section not in SECTIONS:
            hint = did_you_mean(section, SECTIONS, f"It may have {', '.join(f'[{one}]' for one in SECTIONS)}.")
            raise UserError(f"The file of names '{path}' has an unknown table [{section}]. {hint}")
        if not isinstance(names, Mapping) or not all(isinstance(value, str) for value in names.values()):
            raise UserError(f"[{section}] of the file of names '{path}' must hold lines of the form NAME = \"text\".")
        for name, text in names.items():
            if section == "cite" and (bad := [key for key in _keys(text) if not KEY.fullmatch(key)]):
                raise UserError(f"'{bad[0]}', for '{name}' in [cite] of '{path}', is no key that BibTeX accepts.")
        yield section, dict(names)
