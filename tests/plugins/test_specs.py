"""The grammar of names, and plug-ins created with settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, Detector, FitData
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.specs import (
    DetectorSpec,
    SetSpec,
    Spec,
    canonical,
    create,
    parse_detector,
    parse_set,
    parse_spec,
    parse_value,
    split_list,
)
from oodbench.benchmark.store.store import digest

SPECIAL = "[]@+,="
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=SPECIAL), min_size=1).filter(
    lambda text: text == text.strip()
)
names = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,8}", fullmatch=True)
values = (
    st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.none()
    | words.filter(lambda text: parse_value(text) == text)
)
specs = st.builds(Spec, names, st.dictionaries(names, values, max_size=4).map(lambda d: tuple(sorted(d.items()))))
sets = st.builds(
    SetSpec,
    names,
    st.none() | st.sets(st.integers(0, 99999), min_size=1, max_size=8).map(lambda s: tuple(sorted(s))),
    st.lists(names, max_size=3).map(tuple),
)
anything = st.text(max_size=40) | st.text(st.sampled_from("ab01.-e_" + SPECIAL + " \n"), max_size=40)


def sentence(error: pytest.ExceptionInfo[UserError]) -> str:
    """The text of an error, which must be one or two sentences."""
    text = str(error.value)
    assert len(text.splitlines()) == 1
    assert 20 < len(text) < 400
    return text


class Knobs(Detector):
    """One setting of each type."""

    real: float = 1.0
    whole: int = 3
    flag: bool = False
    word: str = "mean"
    open: Any = None

    def score(self, batch: Batch) -> Any:
        return batch.logits[:, 0]


class Picky(Detector):
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share must lie between 0 and 1, got {self.share}")

    def score(self, batch: Batch) -> Any:
        return batch.logits[:, 0]


class Demanding(Detector):
    given: int

    def score(self, batch: Batch) -> Any:
        return batch.logits[:, 0]


@pytest.fixture(autouse=True)
def registered(register: Callable[[str, type[Plugin]], None]) -> None:
    register("knobs", Knobs)
    register("picky", Picky)
    register("demanding", Demanding)


# Grammar


@pytest.mark.slow
@given(specs)
@settings(deadline=None, max_examples=50)
def test_a_printed_spec_is_read_back(spec: Spec) -> None:
    again = parse_spec(str(spec))
    assert again == spec
    assert [type(value) for _, value in again.settings] == [type(value) for _, value in spec.settings]


@given(specs, st.none() | specs)
@settings(deadline=None, max_examples=50)
def test_a_printed_detector_is_read_back(detector: Spec, recipe: Spec | None) -> None:
    if not any("@" in str(value) for _, value in detector.settings):
        spec = DetectorSpec(detector, recipe)
        assert parse_detector(str(spec)) == spec


@given(sets)
@settings(deadline=None, max_examples=50)
def test_a_printed_set_is_read_back(spec: SetSpec) -> None:
    assert parse_set(str(spec)) == spec


@given(st.lists(specs | sets, max_size=5))
@settings(deadline=None, max_examples=50)
def test_a_list_is_cut_outside_brackets_only(items: list[Spec | SetSpec]) -> None:
    assert split_list(", ".join(map(str, items))) == [str(item).strip() for item in items]


@pytest.mark.parametrize("parse", [parse_spec, parse_detector, parse_set])
@given(text=anything)
@settings(deadline=None, max_examples=200)
def test_whatever_is_typed_is_read_canonically_or_refused(parse: Callable[[str], Any], text: str) -> None:
    try:
        spec = parse(text)
    except UserError:
        return
    printed = str(spec)
    assert parse(printed) == spec
    assert str(parse(printed)) == printed


@pytest.mark.parametrize(
    "text, spec",
    [
        ("msp", Spec("msp")),
        (" msp ", Spec("msp")),
        ("msp[]", Spec("msp")),
        ("odin[ temperature = 1000 , epsilon=0.0014 ]", Spec("odin", (("epsilon", 0.0014), ("temperature", 1000)))),
        ("a[x=true,y=None,z=-1e-3,w=word]", Spec("a", (("w", "word"), ("x", True), ("y", None), ("z", -0.001)))),
        ("a[x=nan,y=inf,z=1e999]", Spec("a", (("x", "nan"), ("y", "inf"), ("z", "1e999")))),
        ("a[x=" + "9" * 400 + "]", Spec("a", (("x", int("9" * 400)),))),
        ("a[x=" + "(" * 500 + "]", Spec("a", (("x", "(" * 500),))),
    ],
)
def test_spec(text: str, spec: Spec) -> None:
    assert parse_spec(text) == spec


def test_order_of_settings_does_not_matter() -> None:
    assert str(parse_detector("b[y=1,x=2]@r[d=1,c=2]")) == str(parse_detector("b[x=2,y=1]@r[c=2,d=1]"))


@pytest.mark.parametrize(
    "text, printed, classes",
    [
        ("digits[0-6]", "digits[0-6]", (0, 1, 2, 3, 4, 5, 6)),
        ("digits[2,0,1]", "digits[0-2]", (0, 1, 2)),
        ("digits[4-6, 0,2 ,2]+inverted", "digits[0,2,4-6]+inverted", (0, 2, 4, 5, 6)),
        ("digits+permuted+inverted", "digits+permuted+inverted", None),
        (" digits ", "digits", None),
        ("digits[3]", "digits[3]", (3,)),
    ],
)
def test_set(text: str, printed: str, classes: tuple[int, ...] | None) -> None:
    spec = parse_set(text)
    assert str(spec) == printed
    assert (spec.name, spec.classes) == ("digits", classes)


@pytest.mark.parametrize(
    "text, items",
    [
        ("a,b", ["a", "b"]),
        ("a[x=1,y=2],b[z=3]@c[u=4,v=5],d", ["a[x=1,y=2]", "b[z=3]@c[u=4,v=5]", "d"]),
        (" a , ,b, ", ["a", "b"]),
        ("digits[0,2,4-6]+inverted,glyphs", ["digits[0,2,4-6]+inverted", "glyphs"]),
        ("", []),
    ],
)
def test_list(text: str, items: list[str]) -> None:
    assert split_list(text) == items


@pytest.mark.parametrize(
    "text", ["", "  ", "@", "msp@", "@joint", "a[", "a]", "a[x=1", "a[x]", "a[=1]", "a[x=1]]", "a[x=1]b", "a[[x=1]]",
             "a@b@c", "a+b", "a=b", "a,b", "a[x=1,x=2]", "a[x=b@c]"],
)  # fmt: skip
def test_a_bad_detector_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UserError) as error:
        parse_detector(text)
    assert "is not of the form NAME" in sentence(error) or "setting" in sentence(error)


@pytest.mark.parametrize(
    "text", ["", "digits[]", "digits[a]", "digits[3-1]", "digits[-1]", "digits[1.5]", "digits[0-]", "digits[,]",
             "digits+", "+inverted", "digits++inverted", "digits[0]x", "digits@x", "digits[999999]", "digits[0][1]"],
)  # fmt: skip
def test_a_bad_set_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UserError) as error:
        parse_set(text)
    assert "NAME[" in sentence(error)


# Settings


def settings_of(text: str, defaults: dict[str, Any] | None = None) -> dict[str, Any]:
    plugin: Plugin = create("detector", parse_spec(text), defaults)
    return plugin.settings


def test_settings_are_stored_as_given() -> None:
    assert settings_of("knobs[real=0.5,whole=7,flag=true,word=max,open=12]") == {
        "real": 0.5,
        "whole": 7,
        "flag": True,
        "word": "max",
        "open": 12,
    }


def test_a_whole_number_serves_as_a_float_and_makes_the_same_key() -> None:
    one, other = settings_of("knobs[real=2]"), settings_of("knobs[real=2.0]")
    assert type(one["real"]) is float
    assert digest(one) == digest(other)
    assert digest(settings_of("knobs[real=1]")) == digest(settings_of("knobs"))


def test_given_settings_win_over_defaults_beneath() -> None:
    assert settings_of("knobs[whole=9]", {"whole": 5, "real": 4})["whole"] == 9
    assert settings_of("knobs[whole=9]", {"whole": 5, "real": 4})["real"] == 4.0


@pytest.mark.parametrize("text", ["knobs", "knobs[real=1]", "knobs[whole=3,flag=false]"])
def test_defaults_given_are_no_change(text: str) -> None:
    assert str(canonical(create("detector", parse_spec(text)))) == "knobs"


def test_canonical_form_makes_the_same_plugin() -> None:
    plugin: Plugin = create("detector", parse_spec("knobs[whole=4,real=2,word=max,flag=true]"))
    assert str(canonical(plugin)) == "knobs[flag=True,real=2.0,whole=4,word=max]"
    assert settings_of(str(canonical(plugin))) == plugin.settings


@pytest.mark.parametrize(
    "setting, expected",
    [
        ("real=true", "Setting 'real' of the detector 'knobs' must be a float like 1.0, got True."),
        ("real=high", "Setting 'real' of the detector 'knobs' must be a float like 1.0, got 'high'."),
        ("real=none", "Setting 'real' of the detector 'knobs' must be a float like 1.0, got None."),
        ("real=1e999", "Setting 'real' of the detector 'knobs' must be a float like 1.0, got '1e999'."),
        ("whole=1.5", "Setting 'whole' of the detector 'knobs' must be a int like 3, got 1.5."),
        ("whole=true", "Setting 'whole' of the detector 'knobs' must be a int like 3, got True."),
        ("flag=1", "Setting 'flag' of the detector 'knobs' must be a bool like False, got 1."),
        ("word=2", "Setting 'word' of the detector 'knobs' must be a str like 'mean', got 2."),
        ("wohle=2", "Unknown setting of the detector 'knobs': 'wohle'. Did you mean 'whole'? "
                    "'bench show knobs' shows all 5."),
        ("name=x", "Unknown setting of the detector 'knobs': 'name'. 'bench show knobs' shows all 5."),
        ("version=2", "Unknown setting of the detector 'knobs': 'version'. 'bench show knobs' shows all 5."),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused_in_a_sentence(setting: str, expected: str) -> None:
    with pytest.raises(UserError) as error:
        settings_of(f"knobs[{setting}]")
    assert sentence(error) == expected


class Ruled(Detector):
    """Settings whose default, None, stands for a rule."""

    share: float | None = None
    count: Optional[int] = None  # noqa: UP045
    word: str | None = None


EVALUATED = {"share": float | None, "count": Optional[int], "word": str | None}  # noqa: UP045
"""The annotations of the same class in a module without the future import."""
RULED = [Ruled, type("Evaluated", (Detector,), {**dict.fromkeys(EVALUATED), "__annotations__": EVALUATED})]


@pytest.mark.parametrize("plugin", RULED)
@pytest.mark.parametrize(
    "text, expected",
    [
        ("ruled", {"share": None, "count": None, "word": None}),
        ("ruled[share=none,count=NONE]", {"share": None, "count": None, "word": None}),
        ("ruled[share=90,count=3,word=max]", {"share": 90.0, "count": 3, "word": "max"}),
    ],
)
def test_an_optional_setting_is_none_or_of_its_type(
    register: Callable[[str, type[Plugin]], None], plugin: type[Plugin], text: str, expected: dict[str, Any]
) -> None:
    register("ruled", plugin)
    found = settings_of(text)
    assert found == expected
    assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in expected.items()}
    assert digest(settings_of("ruled[share=90]")) == digest(settings_of("ruled[share=90.0]"))


@pytest.mark.parametrize("plugin", RULED)
@pytest.mark.parametrize(
    "setting, expected",
    [
        ("share=high", "Setting 'share' of the detector 'ruled' must be a float or none, got 'high'."),
        ("share=true", "Setting 'share' of the detector 'ruled' must be a float or none, got True."),
        ("count=1.5", "Setting 'count' of the detector 'ruled' must be a int or none, got 1.5."),
        ("word=2", "Setting 'word' of the detector 'ruled' must be a str or none, got 2."),
    ],
)
def test_a_wrong_value_of_an_optional_setting_is_refused(
    register: Callable[[str, type[Plugin]], None], plugin: type[Plugin], setting: str, expected: str
) -> None:
    register("ruled", plugin)
    with pytest.raises(UserError) as error:
        settings_of(f"ruled[{setting}]")
    assert sentence(error) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["real", "open"])
def test_numbers_that_are_not_finite_are_refused(name: str, value: float) -> None:
    """A suite file may contain them, but a key cannot."""
    with pytest.raises(UserError, match=f"Setting '{name}' of the detector 'knobs' must be a finite number, got "):
        settings_of("knobs", {name: value})


def test_a_whole_number_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(UserError, match="must be a float"):
        settings_of("knobs", {"real": 10**400})


def test_unknown_plugin_is_refused_before_its_settings() -> None:
    with pytest.raises(UserError, match=r"^Unknown detector 'knbos'\. Did you mean 'knobs'\?"):
        settings_of("knbos[whole=1]")


@pytest.mark.parametrize(
    "kind, text, why",
    [
        ("detector", "picky[share=2]", "share must lie between 0 and 1, got 2.0"),
        ("detector", "demanding", "missing 1 required keyword-only argument: 'given'"),
        ("detector", "energy[temperature=0]", "temperature must be positive"),
        ("detector", "energy[temperature=-1]", "temperature must be positive"),
        ("recipe", "confidence[beta=-1]", "beta must not be negative"),
        ("recipe", "joint[beta=-0.5]", "beta must not be negative"),
    ],
)
def test_what_a_plugin_refuses_is_told_as_its_sentence(kind: str, text: str, why: str) -> None:
    with pytest.raises(UserError) as error:
        create(kind, parse_spec(text))
    assert str(error.value).startswith(f"The {kind} '{text}' cannot be created: ")
    assert why in sentence(error)


# What is not a setting


def test_a_name_that_ends_in_an_underscore_is_no_setting() -> None:
    """Also if it is annotated: what `fit` learns is often declared with its type."""

    class Learner(Detector):
        power: float = 2.0
        means_: Tensor
        count_: int = 0

        def fit(self, classifier: Classifier, data: FitData) -> None:
            self.means_ = torch.ones(2)

        def score(self, batch: Batch) -> Tensor:
            return batch.logits[:, 0]

    class Heir(Learner):
        more_: Tensor | None = None

    for plugin in (Learner, Heir):
        learner = plugin()  # type: ignore[call-arg]  # static tools see one more argument
        assert learner.settings == {"power": 2.0}
        assert learner.changed_settings() == {}
        assert learner.state() == {}
        learner.fit(None, None)  # type: ignore[arg-type]
        learner.count_ = 3
        assert set(learner.state()) == {"means_", "count_"}
        with pytest.raises(TypeError, match="count_"):
            plugin(count_=1)  # type: ignore[call-arg]


def test_a_class_attribute_without_annotation_is_named_for_what_it_is(
    register: Callable[[str, type[Plugin]], None],
) -> None:
    class Forgetful(Detector):
        power = 2.0

        def score(self, batch: Batch) -> Tensor:
            return -batch.logits.amax(dim=1)

    register("forgetful", Forgetful)
    with pytest.raises(UserError, match=r"'power' is not a setting of .*no annotation\. Write power: float = 2\.0\.$"):
        create("detector", parse_spec("forgetful[power=3]"))


def test_an_init_is_named_for_what_it_is(register: Callable[[str, type[Plugin]], None]) -> None:
    class Classic(Detector):
        def __init__(self, power: float = 2.0) -> None:
            self.power = power

        def score(self, batch: Batch) -> Tensor:
            return -batch.logits.amax(dim=1)

    register("classic", Classic)
    with pytest.raises(UserError, match=r"cannot be created: Classic defines __init__, which plug-ins do not"):
        create("detector", parse_spec("classic"))
