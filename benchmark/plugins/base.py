"""`Plugin`: the base class of every kind of plug-in, a named and frozen set of settings."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from typing_extensions import dataclass_transform

from oodbench.benchmark.errors import PluginError


def _annotations(cls: type) -> dict[str, Any]:
    """The annotations of a class itself, without its bases'; names that cannot be evaluated are left as they are."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(cls)


@dataclass_transform(kw_only_default=True, eq_default=False)
class Plugin:
    """A named, frozen set of settings.

    Annotated class attributes are the settings: keyword arguments of the constructor, stored unchanged. Attributes that
    are set later must have names that end in an underscore, annotated or not; setting any other attribute raises
    `AttributeError`.
    """

    name: ClassVar[str] = ""
    """The name on the command line; set by the decorator that registers the class."""
    title: ClassVar[str] = ""
    """One line for lists and tables; set by the decorator."""
    paper: ClassVar[str] = ""
    """The publication; set by the decorator."""
    display_name: ClassVar[str] = ""
    """The name in tables for papers, such as "ViM"; set by the decorator."""
    cite: ClassVar[str] = ""
    """The publication in BibTeX: an entry, or keys of `references.bib` beside the plug-in; set by the decorator."""
    version: ClassVar[str | None] = None
    """Part of the key of every stored result. None, the default, means a hash of the source code. Pin a string to keep
    stored results when the code changes and the numbers do not."""

    depends_on: ClassVar[tuple[str, ...] | None] = None
    """Files that the code reads, such as ("config.json",): their content is part of the version. Paths are relative to
    the plug-in's file. A plug-in whose code opens files and that declares none is computed again by every command; ()
    says that what is read changes no result."""

    MAY_BE_SETTINGS: ClassVar[frozenset[str]] = frozenset()
    """Declarations that are read from instances, so that a subclass may make settings of them."""

    RENAMED: ClassVar[Mapping[str, str]] = {}
    """Attribute names of older versions -> a sentence that gives the new name. A subclass that defines one is refused
    with `PluginError`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if old := next((name for name in cls.RENAMED if name in vars(cls)), None):
            raise PluginError(f"{cls.__name__}.{old}: {cls.RENAMED[old]}")
        annotations = _annotations(cls)
        if any(name.endswith("_") for name in annotations):  # as class variables, dataclasses do not make them fields
            cls.__annotations__ = {name: ClassVar[Any] if name.endswith("_") else t for name, t in annotations.items()}
        dataclasses.dataclass(kw_only=True, eq=False)(cls)

    @classmethod
    def own_init(cls) -> str:
        """Why a plug-in defines no `__init__`, as a sentence, if this class or a base of it does; else empty."""
        for owner in cls.__mro__[: cls.__mro__.index(Plugin)]:
            code = getattr(vars(owner).get("__init__"), "__code__", None)
            if code is not None and code.co_filename != "<string>":  # where dataclasses compile theirs
                return (
                    f"{owner.__name__} defines __init__, which plug-ins do not: settings are annotated class "
                    "attributes, such as `k: int = 5`, and what is learned is set in other methods"
                )
        return ""

    @classmethod
    def unannotated(cls) -> dict[str, Any]:
        """Numbers, words and truth values that look like settings and are none, because they have no annotation."""
        owners = cls.__mro__[: cls.__mro__.index(Plugin)]
        theirs = [owner for owner in owners if not owner.__module__.startswith(f"{__package__}.")]  # not the kind's own
        annotated = {name for owner in owners for name in _annotations(owner)} | set(_annotations(Plugin))
        return {
            name: value
            for owner in theirs
            for name, value in vars(owner).items()
            if isinstance(value, bool | int | float | str)
            and name not in annotated
            and not name.startswith("_")
            and name.islower()
        }

    def __setattr__(self, name: str, value: object) -> None:
        is_setting = name in {field.name for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        if is_setting and name in self.__dict__:
            raise AttributeError(f"{type(self).__name__}.{name} is a setting and cannot change after construction")
        if not is_setting and not name.endswith("_"):
            owner = type(self).__name__
            raise AttributeError(f"{owner}.{name}: the name of a learned attribute must end in '_' ('{name}_')")
        object.__setattr__(self, name, value)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings by name, with their defaults where none was given."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def changed_settings(self) -> dict[str, Any]:
        """The settings that differ from their defaults."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in self.settings.items() if value != defaults[name]}

    def read_from(self) -> Mapping[str, str]:
        """Hashes of what the settings name outside of the code, such as the words in a file.

        They are in the keys of everything that is computed with the plug-in, and are compared again when a job starts.

        Returns:
            Name of a setting -> SHA-256 of what it names; empty by default.
        """
        return {}

    def state(self) -> dict[str, Any]:
        """The learned attributes, those whose names end in an underscore."""
        return {name: value for name, value in self.__dict__.items() if name.endswith("_")}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        for name, value in state.items():
            setattr(self, name, value)


def shadowing(plugin: type[Plugin], kind: type[Plugin]) -> str:
    """Say which setting has the name of a method, or of what plug-ins of this kind declare; empty if none does.

    Such a setting would replace the method on the instance, and the harness would call a number.

    Args:
        plugin: The class whose settings are looked at.
        kind: The base class of its kind, such as `Detector`, all of whose public names are taken. Of classes between
            the two, and of the plug-in itself, so are the names of methods and properties.

    Returns:
        A clause such as "'samples', which is a method of Recipe; choose another name for the setting".
    """
    other_name = "choose another name for the setting"
    for field in dataclasses.fields(plugin):  # type: ignore[arg-type]
        for owner in plugin.__mro__[: plugin.__mro__.index(Plugin) + 1]:
            value = field.default if owner is plugin else vars(owner).get(field.name)
            if inspect.isroutine(value) or isinstance(value, property | classmethod | staticmethod):
                what = "property" if isinstance(value, property) else "method"
                return f"'{field.name}', which is a {what} of {owner.__name__}; {other_name}"
        if hasattr(kind, field.name) and field.name not in kind.MAY_BE_SETTINGS:
            return (
                f"'{field.name}', which every {kind.__name__} declares; leave out its annotation to declare it, or "
                f"{other_name}"
            )
    return ""
