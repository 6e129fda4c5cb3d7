"""Which trainings a comparison needs."""

import pytest

from muse_tools.compare import grid
from muse_tools.compare.grid import Cell, Column, Method, expand, sections
from tests.muse_tools.compare import worlds


def test_presets_are_those_of_the_models():
    from muse_keras import models

    classes = {
        "din": models.DIN,
        "sim_hard": models.SIMHard,
        "sim_soft": models.SIMSoft,
        "eta": models.ETA,
        "full_din": models.FullDIN,
        "est": models.EST,
        "sdim": models.SDIM,
        "twin": models.TWIN,
        "miss": models.MISS,
        "muse": models.MUSE,
    }
    assert grid.presets() == {
        name: (one.own_gsu, one.own_esu) for name, one in classes.items()
    }


@pytest.mark.parametrize(
    ("gsu", "esu", "method"),
    [
        ("scl_cosine", "sa_ta_simtier", Method("muse")),
        ("category", "sa_ta_simtier", Method("sim_hard")),
        ("dual", "ta", Method("miss")),
        ("dual", "sa_ta", Method("muse", "dual", "sa_ta")),
    ],
)
def test_a_combination_that_has_a_name_is_the_same_cell(gsu, esu, method):
    assert Method.of(gsu, esu) == method
    assert method.parts == (gsu, esu)


def test_expansion_by_hand():
    config = worlds.config(
        methods=("din", "muse"),
        esus=("ta", "sa_ta_simtier"),
        history_lengths=(7,),
        history_methods=("muse",),
        embeddings=("random",),
    )
    muse, din = Method("muse"), Method("din")
    ta = Method("muse", "scl_cosine", "ta")
    wanted = {
        # overall, seeds 1 and 2
        *(Cell("toy", Column(m), s) for m in (muse, din) for s in (1, 2)),
        # esu; its other row is MUSE
        Cell("toy", Column(ta), 1),
        # history; its other row is MUSE
        Cell("toy", Column(muse, history=7), 1),
        # vectors; SIM-hard is the method that uses them in the ESU alone
        Cell("toy", Column(Method("sim_hard")), 1),
        *(
            Cell("toy", Column(m, embeddings="random"), 1)
            for m in (muse, ta, Method("sim_hard"))
        ),
    }
    found = expand(config)
    assert len(found) == len(set(found))
    assert set(found) == wanted
    # A seed is complete before the next begins.
    assert [one.seed for one in found] == sorted(one.seed for one in found)


def test_baselines():
    config = worlds.config(
        esus=("ta", "sa_ta"), gsus=("category", "scl_cosine")
    )
    by_name = {section.name: section for section in sections(config)}
    assert set(by_name) == {"overall", "gsu", "esu"}
    ta = Column(Method("muse", "scl_cosine", "ta"))
    assert dict(by_name["esu"].rows) == {
        ta: None,
        Column(Method("muse", "scl_cosine", "sa_ta")): ta,
    }
    # Without id_cosine the first row.
    assert dict(by_name["gsu"].rows)[Column(Method("muse"))] == Column(
        Method("sim_hard")
    )
    assert by_name["overall"].seeds == (1, 2)
    assert by_name["esu"].seeds == (1,)


def test_every_data_set_has_the_whole_grid():
    one = worlds.config()
    both = worlds.config(
        data_sets={"a": {"pipeline": "p"}, "b": {"pipeline": "p"}}
    )
    assert len(expand(both)) == 2 * len(expand(one))


def test_methods_may_be_pairs_and_any_row_the_baseline():
    config = worlds.config(
        methods=("din", "category+sa_ta_simtier", "simhash+ta_simtier"),
        baseline="category+sa_ta_simtier",
    )
    (section,) = sections(config)
    baselines = {row.method.name: base for row, base in section.rows}
    assert [*baselines] == ["DIN", "SIM-hard", "simhash + ta_simtier"]
    hard = Column(Method("sim_hard"))
    assert [*baselines.values()] == [hard, None, hard]
    with pytest.raises(ValueError, match="or pairs gsu"):
        worlds.config(methods=("din", "simhash+nothing"))
