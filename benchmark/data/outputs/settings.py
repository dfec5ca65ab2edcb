"""`outputs.toml`: names, groups and notes for a folder of arrays. All of it is optional."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oodbench.benchmark.errors import UserError, did_you_mean
from oodbench.benchmark.store.toml_file import parse_toml

NAME = "outputs.toml"

MAX_SETTINGS = 1 << 22
"""Bytes of the file; the names of 21,000 classes take about 1 MB."""

GROUPS = ("near", "far")
HIGHER = ("ood", "id")

TEXTS = ("title", "id_set", "network", "preprocessing", "method", "higher")
LISTS = ("classes", "notes")
TABLES = ("ood", "scores")


@dataclass(frozen=True)
class Settings:
    """The content of `outputs.toml`; empty values where it says nothing."""

    title: str = ""
    id_set: str = ""
    network: str = ""
    preprocessing: str = ""
    method: str = ""
    """Name in tables of scores that are stored without one."""
    higher: str = ""
    """What higher scores mean, 'ood' or 'id', for methods without an entry in `higher_of`; empty if not stated."""
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    titles: Mapping[str, str] = field(default_factory=dict)
    """OOD set as its file is called -> its name in tables, in the order of the file."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """OOD set as its file is called -> 'near' or 'far'."""
    higher_of: Mapping[str, str] = field(default_factory=dict)
    """Method -> what higher scores mean."""


def read_settings(path: Path) -> Settings:
    """Read and check the file. Raises `UserError`, which names the key. Without a file, defaults."""
    try:
        data = parse_toml(path, MAX_SETTINGS)
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{path}' is not valid TOML: {error}.") from error
    return _Checked(path).settings(data)


def to_toml(settings: Settings) -> str:
    """The text of the file for some settings; empty ones are left out."""
    lines = [f"{key} = {quoted(value)}" for key in TEXTS if (value := getattr(settings, key))]
    for key in LISTS:
        if value := getattr(settings, key):
            lines.append(f"{key} = [{', '.join(map(quoted, value))}]")
    for name, title in settings.titles.items():
        lines += ["", f"[ood.{quoted(name)}]", f"title = {quoted(title)}"]
        if group := settings.groups.get(name):
            lines.append(f"group = {quoted(group)}")
    for method, higher in settings.higher_of.items():
        lines += ["", f"[scores.{quoted(method)}]", f"higher = {quoted(higher)}"]
    return "\n".join([*lines, ""])


def quoted(text: str) -> str:
    """A text as a TOML string."""
    # A JSON string is one, but for DEL and for pairs of surrogates, which JSON writes only if it escapes to ASCII.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


class _Checked:
    """Checks the parsed file; errors name the file and the key."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def settings(self, data: Mapping[str, Any]) -> Settings:
        self.keys(data, (*TEXTS, *LISTS, *TABLES), "")
        ood = self.tables(data, "ood", ("title", "group"))
        scores = self.tables(data, "scores", ("higher",))
        texts = {key: self.text(data, key) for key in TEXTS}
        self.one_of("higher", texts["higher"], HIGHER)
        for name, table in ood.items():
            self.one_of(f"group of [ood.{name}]", table["group"], GROUPS)
        for name, table in scores.items():
            self.one_of(f"higher of [scores.{name}]", table["higher"], HIGHER)
        classes = self.texts(data, "classes")
        if twice := [name for name, times in Counter(classes).items() if times > 1]:
            raise self.error(f"classes names '{twice[0]}' twice; every class needs its own name")
        return Settings(
            **texts,
            classes=classes,
            notes=self.texts(data, "notes"),
            titles={name: table["title"] or name for name, table in ood.items()},
            groups={name: table["group"] for name, table in ood.items() if table["group"]},
            higher_of={name: table["higher"] for name, table in scores.items() if table["higher"]},
        )

    def tables(self, data: Mapping[str, Any], key: str, keys: tuple[str, ...]) -> dict[str, dict[str, str]]:
        """The tables [key.NAME], whose values are texts."""
        found = data.get(key, {})
        if not isinstance(found, dict):
            raise self.error(f"{key} must be tables such as [{key}.NAME], got {found!r}")
        for name, table in found.items():
            if not isinstance(table, dict):
                raise self.error(f"{key}.{name} must be a table, [{key}.{name}], got {table!r}")
            self.keys(table, keys, f" in [{key}.{name}]")
        return {name: {inner: self.text(table, inner) for inner in keys} for name, table in found.items()}

    def keys(self, table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
        for key in table:
            if key not in known:
                nearest = did_you_mean(key, known, f"Known: {', '.join(known)}.")
                raise self.error(f"unknown key '{key}'{where}. {nearest}")

    def text(self, table: Mapping[str, Any], key: str) -> str:
        value = table.get(key, "")
        if not isinstance(value, str):
            raise self.error(f"{key} must be a text in quotes, got {value!r}")
        return " ".join(value.split())

    def texts(self, table: Mapping[str, Any], key: str) -> tuple[str, ...]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(f"{key} must be a list of texts in quotes, got {value!r:.80}")
        return tuple(value)

    def one_of(self, key: str, value: str, known: tuple[str, ...]) -> None:
        if value and value not in known:
            raise self.error(f"{key} is '{value}'; it must be {' or '.join(known)}")

    def error(self, problem: str) -> UserError:
        return UserError(f"'{self.path}': {problem}{'' if problem.endswith(('.', '?')) else '.'}")
