"""Declarations: presets, errors in one line, round trips and digests."""

import copy
import datetime
import pathlib
import tempfile

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import schemas
from schemas import ranking_schema
from schemas.ranking_schema import RankingSchema
from schemas.settings_file import ConfigError

GOOD = {
    "name": "news",
    "user": "reader",
    "item": {"column": "article"},
    "labels": {"click": {"column": "opened", "one_hot": True}},
    "features": {
        "user": {"age": "age_band", "country": None},
        "item": {"topic": None, "author": "written_by"},
        "behavior": {"topic": "read_topics", "author": "read_authors"},
        "matches": ["topic", "author"],
    },
    "history": "read_articles",
    "vectors": "embedding",
}


LOGS = {
    **GOOD,
    "labels": {"click": {"column": "stars", "at_least": 4}},
    "log": {
        "tables": {"impressions": "shown", "events": "done"},
        "time": "shown_at",
        "request": "page",
        "event_time": "at",
        "known_time": "arrived",
        "action": "what",
        "keep": ["click"],
        "as_of": "day",
        "delay_s": 5,
        "max_history": 50,
        "timezone": "Europe/Berlin",
        "train": [datetime.date(2026, 3, 1), datetime.date(2026, 3, 28)],
        "eval": [datetime.date(2026, 3, 29), datetime.date(2026, 3, 30)],
    },
}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("    user: {a: b}", "key 'user' occurs twice in "),
        ("   user: {a: b}", "expected <block end>"),
    ],
)
def test_yaml_that_is_not_what_it_seems_is_named(tmp_path, line, said):
    path = tmp_path / "own.yaml"
    path.write_text(f"name: x\nfeatures:\n    user: {{c: d}}\n{line}\n")
    with pytest.raises(ConfigError, match=said) as error:
        ranking_schema.load(path)
    assert f'"{path}", line 4, column' in str(error.value)


def changed(values, path, value):
    """Returns values with one key, ``a.b.c``, set."""
    values = copy.deepcopy(values)
    *sections, leaf = path.split(".")
    section = values
    for one in sections:
        section = section[one]
    section[leaf] = value
    return values


def write(folder, values, name="schema.yaml"):
    path = pathlib.Path(folder) / name
    text = (
        values
        if isinstance(values, str)
        else yaml.safe_dump(values, sort_keys=False)
    )
    path.write_text(text, encoding="utf-8")
    return path


def error_of(path):
    with pytest.raises(ConfigError) as info:
        ranking_schema.load(path)
    (line,) = str(info.value).splitlines()
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


def test_names_and_columns_of_a_declaration(tmp_path):
    found = ranking_schema.load(write(tmp_path, GOOD))
    assert found.names == {
        "user": ["age", "country"],
        "item": ["topic", "author"],
        "context": [],
        "candidate": [],
        "behavior": ["topic", "author"],
        "matches": ["topic", "author"],
    }
    assert found.tables == {
        "samples": {
            "click": "opened",
            "user_id": "reader",
            "item_id": "article",
        },
        "users": {
            "user_id": "reader",
            "user_age": "age_band",
            "user_country": "country",
            "behavior_item_ids": "read_articles",
            "behavior_topic": "read_topics",
            "behavior_author": "read_authors",
        },
        "items": {
            "item_id": "article",
            "item_topic": "topic",
            "item_author": "written_by",
        },
        "vectors": {"item_id": "article", "item_vector": "embedding"},
    }
    assert found.labels["click"].one_hot


def test_columns_by_default():
    found = RankingSchema(name="x", features={"item": {"kind": None}})
    assert found.tables == {
        "samples": {n: n for n in ("click", "user_id", "item_id")},
        "users": {n: n for n in ("user_id", "behavior_item_ids")},
        "items": {"item_id": "item_id", "item_kind": "kind"},
        "vectors": {n: n for n in ("item_id", "item_vector")},
    }
    assert not found.labels["click"].one_hot


def test_presets_are_files_and_load():
    folder = pathlib.Path(schemas.__file__).parent
    names = {path.stem for path in folder.glob("*.yaml")}
    assert names == {"taobao_mm", "complete_journey"}
    for name in names:
        found = ranking_schema.preset(name)
        assert found.name == name
        assert found == ranking_schema.load(folder / f"{name}.yaml")
        assert found == ranking_schema.named(name)
    assert ranking_schema.preset("taobao_mm").names == {
        "user": [f"profile_{i}" for i in range(1, 6)],
        "item": ["category", "city", "province"],
        "context": [],
        "candidate": [],
        "behavior": ["category"],
        "matches": ["category"],
    }
    assert ranking_schema.preset("complete_journey").names["item"] == [
        "category",
        "manufacturer",
        "department",
    ]


def test_an_unknown_preset_is_told_with_those_there_are():
    for find in (ranking_schema.preset, ranking_schema.named):
        with pytest.raises(ConfigError) as info:
            find("taobao")
        assert str(info.value) == (
            "schema: expected complete_journey, taobao_mm. Received: 'taobao'"
        )


def test_the_declaration_beside_the_tables_counts(tmp_path):
    (tmp_path / "raw").mkdir()
    folders = (tmp_path / "raw", tmp_path)
    taobao = ranking_schema.preset("taobao_mm")
    assert ranking_schema.beside(*folders) == taobao
    outer = ranking_schema.load(write(tmp_path, {**GOOD, "name": "outer"}))
    assert ranking_schema.beside(*folders) == outer != taobao
    inner = write(tmp_path / "raw", {**GOOD, "name": "inner"})
    assert ranking_schema.beside(*folders).name == "inner"
    assert ranking_schema.named(str(inner)).name == "inner"


WRONG = {
    "unknown key": (
        "histori",
        "a",
        ["histori", "did you mean history?", "'a'"],
    ),
    "unknown section": (
        "features.itens",
        {},
        ["features.itens", "did you mean features.item?", "{}"],
    ),
    "unknown key of a label": (
        "labels.click.onehot",
        True,
        ["labels.click.onehot", "did you mean labels.click.one_hot?", "True"],
    ),
    "unknown key of a column": (
        "features.user.age",
        {"colum": "a"},
        ["did you mean features.user.age.column?", "'a'"],
    ),
    "capital letters": (
        "features.user.Age",
        None,
        ["features.user", "small letters", "'Age'"],
    ),
    "digit first": ("features.item.2nd", None, ["features.item", "'2nd'"]),
    "dash": ("features.item.a-b", None, ["features.item", "'a-b'"]),
    "no letters": ("features.user.", None, ["features.user", "''"]),
    "taken user": (
        "features.user.id",
        "x",
        ["features.user", "none of features, id"],
    ),
    "one name twice": (
        "features.user.topic",
        "x",
        ["features.user", "features.item", "'topic'"],
    ),
    "taken item": (
        "features.item.popularity",
        None,
        ["features.item", "popularity", "'popularity'"],
    ),
    "taken behavior": (
        "features.behavior.item_ids",
        "x",
        ["features.behavior", "item_ids", "'item_ids'"],
    ),
    "name of a count of matches": (
        "features.item.topic_matches",
        None,
        ["features.item", "'topic_matches'"],
    ),
    "match without a behavior feature": (
        "features.matches",
        ["price"],
        ["features.matches", "features.behavior, topic, author", "'price'"],
    ),
    "match twice": (
        "features.matches",
        ["topic", "topic"],
        ["features.matches", "each name once", "topic, topic"],
    ),
    "matches that are no list": (
        "features.matches",
        "topic",
        ["features.matches", "expected a list", "'topic'"],
    ),
    "column twice": (
        "features.user.country",
        "age_band",
        ["table users", "user_age and user_country", "'age_band' twice"],
    ),
    "column of a key": (
        "features.item.topic",
        "article",
        ["table items", "item_id and item_topic", "'article' twice"],
    ),
    "column of the label": (
        "labels.click.column",
        "reader",
        ["table samples", "click and user_id", "'reader' twice"],
    ),
    "column of the history": (
        "features.behavior.topic",
        "read_articles",
        ["table users", "behavior_item_ids and behavior_topic"],
    ),
    "vectors": (
        "vectors",
        "article",
        ["table vectors", "item_id and item_vector", "'article' twice"],
    ),
    "column that is a number": ("item", 205, ["item", "column", "205"]),
    "column of a feature that is a number": (
        "features.user.age",
        1301,
        ["features.user.age", "column", "1301"],
    ),
    "feature that is a list": (
        "features.user.age",
        ["a"],
        ["features.user.age", "['a']"],
    ),
    "features that are a list": ("features.user", ["a"], ["features.user"]),
    "no features": ("features", None, ["features", "None"]),
    "no item features": (
        "features",
        {"item": {}},
        ["features.item", "at least one feature", "none"],
    ),
    "no key item": (
        "features",
        {"user": {"age": None}},
        ["features.item", "must be given"],
    ),
    "another version": ("version", 2, ["version", "1", "2"]),
    "name that is a number": ("name", 7, ["name", "string", "7"]),
    "one hot that is a text": (
        "labels.click.one_hot",
        "always",
        ["labels.click.one_hot", "'always'"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line_that_names_it(tmp_path, case):
    key, value, parts = WRONG[case]
    line = error_of(write(tmp_path, changed(GOOD, key, value)))
    for part in parts:
        assert part in line, line
    # What would be right, or where to look it up.
    assert "expected" in line or "should be" in line or "own-data.md" in line
    # No word about the classes of the code.
    assert "RankingSchema" not in line and "pydantic" not in line


WRONG_LOGS = {
    "unknown key": (
        "log.requests",
        "a",
        ["log.requests", "did you mean log.request?"],
    ),
    "unknown table": ("log.tables.clicks", "a", ["log.tables.clicks"]),
    "no days": ("log.eval", None, ["log.eval"]),
    "days that are none": (
        "log.eval",
        ["soon", "late"],
        ["log.eval", "'soon'"],
    ),
    "one day": ("log.train", [datetime.date(2026, 3, 1)], ["log.train"]),
    "eval before train": (
        "log.eval",
        [datetime.date(2026, 2, 1), datetime.date(2026, 2, 2)],
        ["train: [first, last]", "2026-02-01"],
    ),
    "days of both": (
        "log.eval",
        [datetime.date(2026, 3, 28), datetime.date(2026, 3, 30)],
        ["on later days", "2026-03-28"],
    ),
    "unknown zone": ("log.timezone", "Berlin", ["log.timezone", "'Berlin'"]),
    "negative delay": ("log.delay_s", -1, ["log.delay_s", "-1"]),
    "no behaviors": ("log.max_history", 0, ["log.max_history", "0"]),
    "unknown cut": ("log.as_of", "week", ["log.as_of", "'week'"]),
    "actions without their column": ("log.action", "", ["log.action"]),
    "one hot": ("labels.click.one_hot", True, ["labels.click.one_hot", "true"]),
    "column twice": (
        "log.request",
        "shown_at",
        ["samples", "'shown_at' twice"],
    ),
    "column of events twice": ("log.action", "at", ["events", "'at' twice"]),
}


@pytest.mark.parametrize("case", WRONG_LOGS)
def test_what_is_wrong_with_logs_is_one_line(tmp_path, case):
    key, value, parts = WRONG_LOGS[case]
    line = error_of(write(tmp_path, changed(LOGS, key, value)))
    for part in parts:
        assert part in line, line


def test_a_missing_name_is_told(tmp_path):
    values = {key: value for key, value in GOOD.items() if key != "name"}
    line = error_of(write(tmp_path, values))
    assert (
        line == "name: must be given, it has no default; see docs/own-data.md"
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("- a\n- b\n", "expected a mapping of settings. Received: list"),
        ("just words", "expected a mapping of settings. Received: str"),
        ("name: [a", "not valid YAML"),
        ("name: a\n\tuser: b", "not valid YAML"),
        ("", "name: must be given"),
    ],
)
def test_files_that_are_no_declaration(tmp_path, text, part):
    assert part in error_of(write(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path):
    assert error_of(tmp_path / "none.yaml") == "No such file or directory"
    with pytest.raises(ConfigError, match="none.yaml: No such file"):
        ranking_schema.named(str(tmp_path / "none.yaml"))
    (tmp_path / "latin.yaml").write_bytes("name: größe".encode("latin-1"))
    assert "not valid YAML" in error_of(tmp_path / "latin.yaml")


# YAML has no other control characters; no column is called so.
COLUMNS = st.text(
    st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" \n"),
    min_size=3,
    max_size=9,
)
NAMES = st.from_regex("[a-z][a-z0-9_]{2,6}", fullmatch=True)
COLUMN = st.one_of(
    st.none(),
    COLUMNS,
    st.fixed_dictionaries({}, optional={"column": COLUMNS}),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["int64", "string"])},
        optional={"column": COLUMNS},
    ),
)


@st.composite
def declarations(draw):
    item = draw(st.dictionaries(NAMES, COLUMN, min_size=1, max_size=4))
    behavior = draw(st.lists(st.sampled_from([*item]), unique=True))
    matches = behavior and draw(
        st.lists(st.sampled_from(behavior), unique=True)
    )
    others = NAMES.filter(lambda name: name not in item)
    values = {
        "name": draw(st.text(max_size=5)),
        "features": {
            "user": draw(st.dictionaries(others, COLUMN, max_size=4)),
            "item": item,
            "behavior": {name: draw(COLUMN) for name in behavior},
            "matches": matches,
        },
    }
    for key in ("user", "item", "history", "vectors"):
        if draw(st.booleans()):
            values[key] = draw(COLUMN)
    if draw(st.booleans()):
        # Earlier and later days, and some of the other keys.
        log = LOGS["log"]
        some = draw(st.sets(st.sampled_from([*log])))
        values["log"] = {
            key: value
            for key, value in log.items()
            if key in some | {"train", "eval", "action"}
        }
    elif draw(st.booleans()):
        values["labels"] = {"open": {"one_hot": draw(st.booleans())}}
    try:
        return RankingSchema(**values)
    except ValueError:
        assume(False)


def order(declared):
    return [(kind, list(names)) for kind, names in declared.names.items()]


@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.filter_too_much],
)
@given(declarations(), declarations())
def test_what_is_written_is_what_is_read(declared, other):
    with tempfile.TemporaryDirectory() as folder:
        path = write(folder, declared.yaml())
        again = ranking_schema.load(path)
    assert again == declared and hash(again) == hash(declared)
    assert again.digest() == declared.digest()
    # The order of features is the order of their embeddings.
    assert order(again) == order(declared)
    same = other == declared and order(other) == order(declared)
    assert (other.digest() == declared.digest()) == same


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "other"),
        ("user", "other"),
        ("item.column", "other"),
        ("labels.click.column", "other"),
        ("labels.click.one_hot", False),
        ("history", "other"),
        ("vectors", "other"),
        ("features.user.age", "other"),
        ("features.user.more", None),
        ("features.user", {"country": None, "age": "age_band"}),
        ("features.item.topic", "other"),
        ("features.item.more", None),
        ("features.behavior.topic", "other"),
        (
            "features.behavior",
            {"author": "read_authors", "topic": "read_topics"},
        ),
        ("features.matches", ["author", "topic"]),
        ("features.matches", ["topic"]),
        ("features.matches", []),
    ],
)
def test_every_part_changes_the_digest(key, value):
    before = RankingSchema(**GOOD)
    assert before.digest() == RankingSchema(**copy.deepcopy(GOOD)).digest()
    after = RankingSchema(**changed(GOOD, key, value))
    assert after.digest() != before.digest()
    assert len(after.digest()) == 16 and int(after.digest(), 16) >= 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("labels.click.at_least", 3.5),
        ("user", {"column": "reader", "type": "string"}),
        ("log.tables", {"impressions": "shown", "events": "other"}),
        *(
            (f"log.{key}", "other")
            for key in ("time", "request", "event_time", "known_time", "action")
        ),
        ("log.keep", ["click", "order"]),
        ("log.as_of", "request"),
        ("log.delay_s", 6),
        ("log.max_history", 51),
        ("log.timezone", "UTC"),
        ("log.train", [datetime.date(2026, 3, 2), datetime.date(2026, 3, 28)]),
        ("log.eval", [datetime.date(2026, 3, 29), datetime.date(2026, 3, 31)]),
    ],
)
def test_every_part_of_logs_changes_the_digest(key, value):
    digests = {
        RankingSchema(**values).digest()
        for values in (LOGS, changed(LOGS, key, value))
    }
    assert len(digests) == 2


def test_the_spelling_changes_no_digest():
    """A name alone or a section, a default written out or left out."""
    before = RankingSchema(**GOOD)
    for key, value in (
        ("user", {"column": "reader"}),
        ("features.user.country", {}),
        ("features.user.country", {"column": ""}),
        ("version", 1),
    ):
        after = RankingSchema(**changed(GOOD, key, value))
        assert after == before and after.digest() == before.digest()


def test_a_declaration_cannot_be_changed():
    declared = RankingSchema(**GOOD)
    with pytest.raises(ValueError, match="frozen"):
        declared.name = "other"
    # What was looked up makes no difference.
    assert declared.tables and declared == RankingSchema(**GOOD)


def test_weight_alone_names_the_column_weight(tmp_path):
    declared = ranking_schema.load(write(tmp_path, {**GOOD, "weight": None}))
    assert declared.tables["samples"]["weight"] == "weight"
    assert ranking_schema.load(write(tmp_path, GOOD)).weight is None
