"""Parsing and printing of plug-in and data set names with settings, as written on the command line and in suites.

    odin[temperature=1000,epsilon=0.0014]@joint[beta=0.1]     detector, its settings, the recipe of its classifier
    digits[0-6]+inverted                                      data set, its classes, a form
    torchvision:resnet50[normalisation=raw]                   short for torchvision[model=resnet50,normalisation=raw]

Printing a parsed name gives its canonical form, which jobs and records use.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple, get_args

from oodbench.benchmark.errors import UserError, unknown
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.registry import registry


class Spec(NamedTuple):
    """A plug-in's name and the given settings, sorted by name."""

    name: str
    settings: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        inside = ",".join(f"{key}={_written(value)}" for key, value in self.settings)
        return f"{self.name}[{inside}]" if inside else self.name


class DetectorSpec(NamedTuple):
    """A detector and the recipe of its classifier; None means the detector's own recipe or the suite's."""

    detector: Spec
    recipe: Spec | None = None

    def __str__(self) -> str:
        return f"{self.detector}@{self.recipe}" if self.recipe else str(self.detector)


class SetSpec(NamedTuple):
    """A data set, the selected classes (None: all), and the forms, applied in this order."""

    name: str
    classes: tuple[int, ...] | None = None
    forms: tuple[str, ...] = ()

    def __str__(self) -> str:
        classes = "" if self.classes is None else f"[{_ranges(self.classes)}]"
        return "+".join((self.name + classes, *self.forms))


def _written(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _ranges(numbers: tuple[int, ...]) -> str:
    """(0, 1, 2, 5) -> '0-2,5'."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and runs[-1][-1] == n - 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


MAX_SPEC = 4000
"""Maximum number of characters of a name with settings; a list of names may have ten times as many."""


def _refuse_long(text: str, limit: int = MAX_SPEC) -> None:
    if len(text) > limit:
        raise UserError(f"'{text[:40]}...' has {len(text):,} characters, expected at most {limit:,}. Shorten it.")


def split_list(text: str) -> list[str]:
    """Split at the commas that are outside brackets; empty items are dropped."""
    _refuse_long(text, 10 * MAX_SPEC)
    items = re.split(r",(?![^\[]*\])", text)
    return [item.strip() for item in items if item.strip()]


PLUGIN = re.compile(r"(?P<name>[^\[\]@+,=]+)(?:\[(?P<settings>[^\[\]]*)\])?")

FUNCTION = re.compile(r"\.py:[^:]+$")
"""Ends a name that is the place of a function, `path/net.py:make`."""

SET = re.compile(r"(?P<name>[^\[\]@+,=]+)(?:\[(?P<classes>[^\[\]]*)\])?(?P<forms>(?:\+[^\[\]@+,=]+)*)")


def parse_spec(text: str) -> Spec:
    """Parse 'name' or 'name[key=value,...]'. 'name:word' sets 'model'; 'net.py:word' is one name."""
    _refuse_long(text)
    match = PLUGIN.fullmatch(text.strip())
    if match is None:
        path = " A path cannot hold any of the characters [ ] @ + , =." if ".py" in text else ""
        raise UserError(f"'{text}' is not of the form NAME or NAME[setting=value,...].{path}")
    name, colon, model = (part.strip() for part in match["name"].partition(":"))
    if FUNCTION.search(match["name"]):
        name, colon, model = match["name"].strip(), "", ""
    if colon and not (name and model):
        raise UserError(f"'{text}' is not of the form NAME:MODEL.")
    settings: dict[str, Any] = {"model": model} if colon else {}
    for item in filter(None, (match["settings"] or "").split(",")):
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise UserError(f"'{item}' in '{text}' is not a setting; write NAME[setting=value,...].")
        if key.strip() in settings:
            raise UserError(f"'{text}' gives the setting '{key.strip()}' twice.")
        settings[key.strip()] = parse_value(value.strip())
    return Spec(name, tuple(sorted(settings.items())))


def parse_value(text: str) -> Any:
    """Parse a number or true/false/none; any other word is returned as it is."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        return float(text) if math.isfinite(float(text)) else text
    return text


def parse_detector(text: str) -> DetectorSpec:
    """Parse 'detector[...]@recipe[...]'; both brackets and the recipe are optional."""
    detector, at, recipe = text.partition("@")
    return DetectorSpec(parse_spec(detector), parse_spec(recipe) if at else None)


def parse_set(text: str) -> SetSpec:
    """Parse 'name[classes]+form'. Classes are numbers and ranges of them: 'digits[0-6]', 'digits[0,2,4-6]'."""
    _refuse_long(text)
    match = SET.fullmatch(text.strip())
    if match is None:
        path = " A path after the colon cannot hold any of the characters [ ] @ + , =." if ":" in text else ""
        raise UserError(f"'{text}' is not of the form NAME, NAME[classes] or NAME+FORM (digits 0-6: NAME[0-6]).{path}")
    forms = tuple(filter(None, match["forms"].split("+")))
    return SetSpec(match["name"].strip(), _classes(match["classes"], text), forms)


def _classes(inside: str | None, text: str) -> tuple[int, ...] | None:
    if inside is None:
        return None
    numbers: set[int] = set()
    for item in inside.split(","):
        ends = re.fullmatch(r"\s*(\d{1,5})(?:-(\d{1,5}))?\s*", item)
        if ends is None or int(ends[2] or ends[1]) < int(ends[1]):
            raise UserError(f"'{item}' in '{text}' is not a class or range of classes; write NAME[0-6] or NAME[0,2,4].")
        numbers.update(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return tuple(sorted(numbers))


def canonical(plugin: Plugin) -> Spec:
    """A plug-in's name and the settings that differ from its defaults: enough to create an equal one."""
    return Spec(plugin.name, tuple(sorted(plugin.changed_settings().items())))


def create(kind: str, spec: Spec, defaults: Mapping[str, Any] | None = None) -> Any:
    """Create the plug-in that a spec names.

    `defaults` are settings that the spec's settings override. Raises `UserError` for an unknown plug-in or setting, or
    a value that the setting does not accept.
    """
    plugin: Any = registry.get(kind, spec.name)
    fields = {field.name: field for field in dataclasses.fields(plugin)}
    settings = {**(defaults or {}), **dict(spec.settings)}
    for name in settings:
        if name not in fields:
            if kind == "detector" and plugin.recipe and name in _settings_of("recipe", plugin.recipe):
                raise UserError(
                    f"'{name}' is a setting of the recipe '{plugin.recipe}', not of the detector '{spec.name}'. Write "
                    f"{spec.name}@{plugin.recipe}[{name}={_written(settings[name])}]."
                )
            if name in (plain := plugin.unannotated()):
                raise UserError(
                    f"'{name}' is not a setting of the {kind} '{spec.name}': its class attribute has no annotation. "
                    f"Write {name}: {type(plain[name]).__name__} = {plain[name]!r}."
                )
            if not fields:
                raise UserError(f"The {kind} '{spec.name}' has no settings, got '{name}'.")
            raise unknown(f"setting of the {kind} '{spec.name}':", name, fields, f"bench show {spec.name}")
    checked = {name: _checked(kind, spec.name, fields[name], value) for name, value in settings.items()}
    try:
        return plugin(**checked)
    except (AttributeError, TypeError, ValueError) as error:
        reason = plugin.own_init() or str(error).rstrip(".")
        raise UserError(f"The {kind} '{spec}' cannot be created: {reason}. See 'bench show {spec.name}'.") from error


def _settings_of(kind: str, name: str) -> set[str]:
    return {field.name for field in dataclasses.fields(registry.get(kind, name))}


def _checked(kind: str, owner: str, field: dataclasses.Field[Any], value: Any) -> Any:
    """`value` in the type of the setting: its default's, or for None the annotated one ('int | None').

    An integer for a float setting is converted, so that keys agree.
    """
    default = field.default
    optional = _optional_type(field) if default is None else None
    is_float = isinstance(default, float) or optional is float
    if is_float and isinstance(value, int) and not isinstance(value, bool):
        with suppress(OverflowError):
            value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"Setting '{field.name}' of the {kind} '{owner}' must be a finite number, got {value!r}.")
    if field.name.endswith("learning_rate") and isinstance(value, float) and value < 0:
        raise UserError(f"Setting '{field.name}' of the {kind} '{owner}' must not be negative, got {value!r}.")
    if optional is not None and value is not None and type(value) is not optional:
        raise UserError(
            f"Setting '{field.name}' of the {kind} '{owner}' must be a {optional.__name__} or none, got {value!r}."
        )
    if default is None or default is dataclasses.MISSING or type(value) is type(default):
        return value
    expected = type(default).__name__
    raise UserError(
        f"Setting '{field.name}' of the {kind} '{owner}' must be a {expected} like {default!r}, got {value!r}."
    )


def _optional_type(field: dataclasses.Field[Any]) -> type | None:
    """The type X of a setting annotated 'X | None', X one of bool, int, float and str; None for other annotations."""
    known = {kind.__name__: kind for kind in (bool, int, float, str)}
    if isinstance(field.type, str):  # 'from __future__ import annotations'
        names = {name.strip() for name in re.sub(r"^(typing\.)?Optional\[(.+)\]$", r"\2", field.type).split("|")}
    else:
        names = {getattr(part, "__name__", "") for part in get_args(field.type)}
    names -= {"None", "NoneType"}
    return known.get(names.pop()) if len(names) == 1 else None
