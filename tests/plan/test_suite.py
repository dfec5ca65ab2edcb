"""Suites: shipped ones parse, errors name file and key, and settings merge level by level."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from oodbench.benchmark import Detector
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import PluginError, UserError
from oodbench.benchmark.plan.resolve import refuse_overlap
from oodbench.benchmark.plan.suite import IDEntry, Schedule, Suite
from oodbench.benchmark.plan.suite_file import default_suite, read_suite
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.registry import PluginEntry, registry
from oodbench.benchmark.plugins.specs import create, parse_set, parse_spec

SHIPPED = list(registry.entries("suite"))

GOOD = """
schema = 1
title = "A suite"
default = false
notes = ["One.", "Two."]

[protocol]
backbone = "small_cnn"
recipe = "cross_entropy"

[training]
epochs = 10
batch_size = 32
milestones = [0.5, 0.75]
decay = 0.5

[recipes.cross_entropy]
learning_rate = 0.1

[recipes.confidence]
beta = 0.5
training = { epochs = 20 }

[[id]]
set = "digits[0-6]"
outliers = "glyphs"
ood = [{ set = "digits[7-9]", group = "near" }, { set = "digits[0-6]+inverted" }]
[id.recipes.confidence]
beta = 0.25
learning_rate = 0.01
training = { batch_size = 8, milestones = [] }

[[id]]
set = "glyphs"
ood = [{ set = "greek", group = "far" }]
"""

Read = Callable[..., Suite]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read GOOD with some of its text replaced."""

    def reader(old: str = "", new: str = "") -> Suite:
        assert GOOD.count(old) >= 1
        path = tmp_path / "mine.toml"
        path.write_text(GOOD.replace(old, new, 1) if old else GOOD + new)
        return read_suite(str(path))

    return reader


# shipped suites


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_suite_is_valid(name: str) -> None:
    suite = read_suite(name)
    assert suite.name == name
    assert suite.title
    assert suite.entries
    create("backbone", parse_spec(suite.backbone))
    for entry in suite.entries:
        assert entry.ood
        for recipe in {suite.recipe, *suite.recipes, *entry.recipes}:
            create("recipe", parse_spec(recipe), suite.recipe_settings(recipe, entry.set))
            assert suite.schedule(recipe, entry.set).epochs >= 1
        for ood in entry.ood:
            refuse_overlap(entry.set, ood.set)
        assert len({ood.set for ood in entry.ood}) == len(entry.ood)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_sets_of_a_shipped_suite_have_the_splits_it_needs(name: str, tmp_path: Path) -> None:
    library = Library(tmp_path)
    suite = read_suite(name)
    classifies = registry.get("recipe", suite.recipe).classifies
    for entry in suite.entries:
        assert (library.num_classes(entry.set) >= 2) == classifies
        assert {"train", "test"} <= set(library.card(entry.set).splits)
        assert all("test" in library.card(ood.set).splits for ood in entry.ood)
        assert entry.outliers is None or "train" in library.card(entry.outliers).splits


def test_exactly_one_shipped_suite_is_the_default() -> None:
    assert [name for name in SHIPPED if read_suite(name).default] == [default_suite()]


def test_the_default_suite_needs_no_download(tmp_path: Path) -> None:
    library = Library(tmp_path)
    for entry in read_suite(default_suite()).entries:
        sets = [entry.set, *(ood.set for ood in entry.ood), *([entry.outliers] if entry.outliers else [])]
        assert all(library.missing(spec) is None for spec in sets)


def test_a_broken_suite_of_another_package_hides_no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Path:
        raise PluginError("It is broken.")

    expected = default_suite()
    first = {"aa_broken": PluginEntry("suite", "aa_broken", "", "a test", broken)}
    monkeypatch.setitem(registry._installed, "suite", {**first, **registry.entries("suite")})
    assert next(iter(registry.entries("suite"))) == "aa_broken"
    assert default_suite() == expected


def test_without_a_default_suite_one_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entries", lambda kind: {})
    with pytest.raises(UserError, match=r"^No suite is marked 'default = true'\. Name one with --suite\.$"):
        default_suite()


# reading


def test_every_key_of_a_suite_is_read(read: Read) -> None:
    suite = read()
    assert (suite.name, suite.title, suite.default, suite.notes) == ("mine", "A suite", False, ("One.", "Two."))
    assert (suite.backbone, suite.recipe) == ("small_cnn", "cross_entropy")
    first, second = suite.entries
    assert (str(first.set), str(first.outliers), str(second.set), second.outliers) == (
        "digits[0-6]",
        "glyphs",
        "glyphs",
        None,
    )
    assert [(str(ood.set), ood.group) for ood in first.ood] == [("digits[7-9]", "near"), ("digits[0-6]+inverted", "")]


def test_optional_keys_have_defaults(tmp_path: Path) -> None:
    path = tmp_path / "bare.toml"
    path.write_text(
        'schema = 1\nprotocol = { backbone = "small_cnn", recipe = "cross_entropy" }\n'
        '[[id]]\nset = "digits"\nood = [{ set = "greek" }]\n'
    )
    suite = read_suite(str(path))
    assert (suite.title, suite.notes, suite.default, suite.training, suite.recipes) == ("", (), False, {}, {})
    assert suite.schedule("cross_entropy", parse_set("digits")) == Schedule()
    assert suite.recipe_settings("cross_entropy", parse_set("digits")) == {}


@pytest.mark.parametrize(
    "old, new, message",
    [
        # mistyped keys, at every level
        ("title =", "titel =", "unknown key 'titel' in the top level. Did you mean 'title'?"),
        ("[protocol]", "[protocl]", "unknown key 'protocl' in the top level. Did you mean 'protocol'?"),
        ("", '[[ids]]\nset = "greek"', "unknown key 'ids' in the top level. Did you mean 'id'?"),
        (
            "title =",
            "zzz =",
            "unknown key 'zzz' in the top level. Known are default, extends, folders, id, notes, protocol, ",
        ),
        ("backbone =", "backbones =", "unknown key 'backbones' in [protocol]. Did you mean 'backbone'?"),
        ("epochs = 10", "epoch = 10", "unknown key 'epoch' in [training]. Did you mean 'epochs'?"),
        ("{ epochs = 20 }", "{ epoch = 20 }", "unknown key 'epoch' in [recipes].confidence.training. Did you mean"),
        ("outliers =", "outlier =", "unknown key 'outlier' in [[id]]. Did you mean 'outliers'?"),
        ("group =", "grup =", "unknown key 'grup' in ood. Did you mean 'group'?"),
        ("batch_size = 8", "batchsize = 8", "unknown key 'batchsize' in id.recipes.confidence.training. Did you mean"),
        # missing keys
        ("schema = 1", "", "the top level lacks the key 'schema'"),
        ('backbone = "small_cnn"', "", "[protocol] lacks the key 'backbone'"),
        ('set = "digits[0-6]"', "", "[[id]] lacks the key 'set'"),
        ('{ set = "digits[7-9]", group = "near" }', '{ group = "near" }', "ood lacks the key 'set'"),
        # schema
        ("schema = 1", "schema = 2", "schema is 2; this oodbench reads schema 1"),
        ("schema = 1", 'schema = "1"', "schema is '1'; this oodbench reads schema 1"),
        # wrong types
        ('title = "A suite"', "title = 5", "title must be a string in quotes, got 5"),
        ("default = false", 'default = "no"', "default must be true or false, got 'no'"),
        ('["One.", "Two."]', '"One."', "notes must be a list, got 'One.'"),
        ('["One.", "Two."]', "[1]", "notes must be a list of sentences in quotes, got [1]"),
        (
            'backbone = "small_cnn"',
            'backbone = ["small_cnn"]',
            "a backbone must be a name in quotes, got ['small_cnn']",
        ),
        ('recipe = "cross_entropy"', "recipe = 3", "a recipe must be a name in quotes, got 3"),
        ("epochs = 10", "epochs = 0", "epochs in [training] is 0; it must be a whole number from 1"),
        ("epochs = 10", "epochs = 1.5", "epochs in [training] is 1.5; it must be a whole number from 1"),
        ("epochs = 10", "epochs = true", "epochs in [training] is True; it must be a whole number from 1"),
        ("batch_size = 32", 'batch_size = "32"', "batch_size in [training] is '32'; it must be a whole number from 1"),
        ("[0.5, 0.75]", "0.5", "milestones in [training] is 0.5; it must be a list of fractions of the epochs"),
        ("[0.5, 0.75]", "[5]", "milestones in [training] is [5]; it must be a list of fractions of the epochs"),
        ("[0.5, 0.75]", "[nan]", "milestones in [training] is [nan]; it must be a list of fractions of the epochs"),
        ("decay = 0.5", "decay = 0", "decay in [training] is 0; it must be a number above 0"),
        ("decay = 0.5", "decay = inf", "decay in [training] is inf; it must be a number above 0"),
        ("{ epochs = 20 }", "20", "[recipes].confidence.training must be a table, got 20"),
        ('set = "digits[0-6]"', "set = 7", "a set must be a name in quotes, got 7"),
        ('outliers = "glyphs"', 'outliers = ["glyphs"]', "a set must be a name in quotes, got ['glyphs']"),
        ('ood = [{ set = "greek", group = "far" }]', 'ood = "greek"', "ood must be a list, got 'greek'"),
        ('ood = [{ set = "greek", group = "far" }]', 'ood = ["greek"]', "ood must be a table, got 'greek'"),
        (
            'group = "near"',
            'group = "nearby"',
            "group of 'digits[7-9]' is 'nearby'; it must be 'near', 'far' or omitted",
        ),
        # unknown names
        ('"small_cnn"', '"smal_cnn"', "Unknown backbone 'smal_cnn'. Did you mean 'small_cnn'? 'bench list backbones'"),
        ('"cross_entropy"', '"crossentropy"', "Unknown recipe 'crossentropy'. Did you mean 'cross_entropy'? 'bench"),
        ("[recipes.confidence]", "[recipes.confidnce]", "Unknown recipe 'confidnce'. Did you mean 'confidence'?"),
        ("[id.recipes.confidence]", "[id.recipes.confidnce]", "Unknown recipe 'confidnce'. Did you mean 'confidence'?"),
        ('"digits[0-6]"', '"digit[0-6]"', "Unknown data set 'digit'. Did you mean 'digits'? 'bench list datasets'"),
        ('"glyphs"', '"glyph"', "Unknown data set 'glyph'. Did you mean 'glyphs'?"),
        ('"digits[7-9]"', '"digitz[7-9]"', "Unknown data set 'digitz'. Did you mean 'digits'?"),
        ("+inverted", "+invert", "Unknown form 'invert'. Did you mean 'inverted'?"),
        ('"digits[7-9]"', '"digits[9-7]"', "'9-7' in 'digits[9-7]' is not a class or range of classes"),
        ('"digits[7-9]"', '"digits["', "'digits[' is not of the form NAME"),
        # listed twice
        ('set = "glyphs"', 'set = "digits[0-6]"', "the ID set 'digits[0-6]' is listed twice; write one [[id]] for it"),
    ],
)
def test_an_error_names_file_and_key(read: Read, tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(old, new)
    text = str(error.value)
    assert text.startswith(f"Suite '{tmp_path / 'mine.toml'}': {message}")
    assert text.endswith((".", "?"))
    assert "\n" not in text


@pytest.mark.parametrize(
    "line, message",
    [
        ("protocol = 3", "[protocol] must be a table, got 3"),
        ("training = 3", "[training] must be a table, got 3"),
        ("recipes = 3", "[recipes] must be a table, got 3"),
        ("recipes = { confidence = 3 }", "[recipes].confidence must be a table of settings, got 3"),
        ("id = 3", "[[id]] must be a list, got 3"),
        ('id = { set = "digits", ood = [] }', "[[id]] must be a list, got {"),
        ("id = [3]", "[[id]] must be a table, got 3"),
        ('id = [{ set = "digits", ood = 3 }]', "ood must be a list, got 3"),
        ('id = [{ set = "digits", ood = [], recipes = 3 }]', "id.recipes must be a table, got 3"),
    ],
)
def test_a_table_must_be_a_table(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    lines = ["schema = 1", 'protocol = { backbone = "small_cnn", recipe = "cross_entropy" }', "id = []"]
    key = line.partition(" =")[0]
    path.write_text("\n".join([*(other for other in lines if not other.startswith(f"{key} =")), line]))
    with pytest.raises(UserError) as error:
        read_suite(str(path))
    assert str(error.value).startswith(f"Suite '{path}': {message}")


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "cannot be read: No such file or directory."),
        (b"schema = ", "is not valid TOML: "),
        (b"\xff\xfe", "is not valid TOML: "),
    ],
)
def test_a_file_that_is_not_a_suite_is_an_error(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_suite(str(path))
    assert str(error.value).startswith(f"The suite file '{path}' {message}")


def test_a_folder_is_not_a_suite(tmp_path: Path) -> None:
    folder = tmp_path / "mine.toml"
    folder.mkdir()
    with pytest.raises(UserError, match=r"mine\.toml' cannot be read: "):
        read_suite(str(folder))


def test_an_unknown_suite_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"^Unknown suite 'digit'\. Did you mean 'digits'\? 'bench list suites' shows"):
        read_suite("digit")


# merging


def test_recipe_settings_merge_suite_then_id_set(read: Read) -> None:
    suite, id_set, other = read(), parse_set("digits[0-6]"), parse_set("glyphs")
    assert suite.recipe_settings("confidence", id_set) == {"beta": 0.25, "learning_rate": 0.01}
    assert suite.recipe_settings("confidence", other) == {"beta": 0.5}
    assert suite.recipe_settings("cross_entropy", id_set) == {"learning_rate": 0.1}
    assert suite.recipe_settings("joint", id_set) == {}
    assert suite.recipe_settings("confidence", parse_set("digits")) == {"beta": 0.5}


def test_schedules_merge_suite_then_recipe_then_id_set(read: Read) -> None:
    suite, id_set, other = read(), parse_set("digits[0-6]"), parse_set("glyphs")
    assert suite.schedule("cross_entropy", id_set) == Schedule(10, 32, (0.5, 0.75), 0.5)
    assert suite.schedule("confidence", other) == Schedule(20, 32, (0.5, 0.75), 0.5)
    assert suite.schedule("confidence", id_set) == Schedule(20, 8, (), 0.5)
    assert suite.schedule("confidence", parse_set("digits")) == Schedule(20, 32, (0.5, 0.75), 0.5)


def test_the_schedule_of_an_id_set_overrides_the_recipe_s_and_not_that_of_both(read: Read) -> None:
    id_set = parse_set("digits[0-6]")
    suite = read('outliers = "glyphs"', 'outliers = "glyphs"\ntraining = { epochs = 3, batch_size = 16 }')
    assert suite.schedule("cross_entropy", id_set) == Schedule(3, 16, (0.5, 0.75), 0.5)
    assert suite.schedule("confidence", id_set) == Schedule(3, 8, (), 0.5)
    assert suite.schedule("confidence", parse_set("glyphs")) == Schedule(20, 32, (0.5, 0.75), 0.5)
    with pytest.raises(UserError, match=r"epochs in id\.training is 0; it must be a whole number from 1"):
        read('outliers = "glyphs"', 'outliers = "glyphs"\ntraining = { epochs = 0 }')


@pytest.mark.parametrize("gpus", ["-1", "1.5", "true", "'one'", "inf"])
def test_gpus_of_a_suite_are_a_fraction_of_one_or_a_whole_number(read: Read, gpus: str) -> None:
    assert read('"small_cnn"', '"small_cnn"\ngpus = 2').gpus == 2
    with pytest.raises(UserError, match=r"gpus|finite|inf"):
        read('"small_cnn"', f'"small_cnn"\ngpus = {gpus}')


def test_precision_and_the_backbone_s_settings_belong_to_the_protocol(read: Read) -> None:
    assert read().precision == "auto"
    assert read('"small_cnn"', '"small_cnn"\nprecision = "float32"').precision == "float32"
    with pytest.raises(UserError, match=r"precision in .protocol. is 'half'; it must be one of auto, float32"):
        read('"small_cnn"', '"small_cnn"\nprecision = "half"')
    assert read('"small_cnn"', '"small_cnn[width=8]"').backbone == "small_cnn[width=8]"
    with pytest.raises(UserError, match=r"Unknown backbone 'smal_cnn'\. Did you mean 'small_cnn'"):
        read('"small_cnn"', '"smal_cnn[width=8]"')
    with pytest.raises(UserError, match=r"mine\.toml"):
        read('"small_cnn"', '"small_cnn[width=8"')


def test_a_set_outside_the_matrix_keeps_the_protocol(read: Read) -> None:
    spec = parse_set("digits[0-3]")
    assert read().entry(spec) == IDEntry(spec, ())
    assert read().entry(parse_set("digits[0-6]")).outliers == parse_set("glyphs")


def test_an_unknown_setting_of_a_recipe_is_an_error_when_the_recipe_is_created(read: Read) -> None:
    suite = read("beta = 0.5", "betta = 0.5")
    with pytest.raises(UserError, match=r"Unknown setting of the recipe 'confidence': 'betta'\. Did you mean 'beta'\?"):
        create("recipe", parse_spec("confidence"), suite.recipe_settings("confidence", parse_set("glyphs")))


def test_a_suite_may_use_a_registered_plugin(read: Read, register: Callable[[str, type[Plugin]], None]) -> None:
    from oodbench.benchmark import Backbone

    class Mine(Backbone):
        def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> None:  # type: ignore[override]
            return None

    class NoBackbone(Detector):
        pass

    register("suite_net", Mine)
    register("suite_detector", NoBackbone)
    assert read('"small_cnn"', '"suite_net"').backbone == "suite_net"
    with pytest.raises(UserError, match="Unknown backbone 'suite_detector'"):
        read('"small_cnn"', '"suite_detector"')
