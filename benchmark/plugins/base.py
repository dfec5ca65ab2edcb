"""`Plugin`: a named, frozen set of settings, the base of every kind of plug-in."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import dataclass_transform

from oodbench.benchmark.errors import PluginError

if TYPE_CHECKING:
    pass


def _annotations(cls: type) -> dict[str, Any]:
    """A class's own annotations, names that cannot be evaluated left alone."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(cls)


@dataclass_transform(kw_only_default=True, eq_default=False)
class Plugin:
    """A named, frozen set of settings.

    Annotated class attributes are the settings: keyword arguments of the constructor, stored unchanged. What is learned
    later gets a name that ends in an underscore, annotated or not; nothing else can be set.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    version: ClassVar[str | None] = None
    """Pin it when a change of the source moves no number; without a pin the hash of the source is the version."""

    RENAMED: ClassVar[Mapping[str, str]] = {}
    """Old name in a subclass's body -> the sentence that names the new one."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if old := next((name for name in cls.RENAMED if name in vars(cls)), None):
            raise PluginError(f"{cls.__name__}.{old}: {cls.RENAMED[old]}")
        own = _annotations(cls)
        if any(name.endswith("_") for name in own):  # to dataclasses, a class variable is no field
            cls.__annotations__ = {name: ClassVar[Any] if name.endswith("_") else kind for name, kind in own.items()}
        dataclasses.dataclass(kw_only=True, eq=False)(cls)

    def __setattr__(self, name: str, value: object) -> None:
        is_setting = name in {field.name for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        if is_setting and name in self.__dict__:
            raise AttributeError(f"{type(self).__name__}.{name} is a setting and cannot change after construction")
        if not is_setting and not name.endswith("_"):
            raise AttributeError(f"{type(self).__name__}.{name}: what is learned must end in '_' ('{name}_')")
        object.__setattr__(self, name, value)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as given or defaulted."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def changed_settings(self) -> dict[str, Any]:
        """The settings that differ from their defaults."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in self.settings.items() if value != defaults[name]}

    def state(self) -> dict[str, Any]:
        """What was learned: every attribute whose name ends in an underscore."""
        return {name: value for name, value in self.__dict__.items() if name.endswith("_")}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        for name, value in state.items():
            setattr(self, name, value)
