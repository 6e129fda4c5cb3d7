"""Every search with every exact search unit, and the presets."""

import keras
import numpy as np
import pytest
from ranker_testing import oracles
from ranker_testing.data import OWN, RICH, SMALL, fill_table, ranker_inputs

from muse_keras.losses import ImpressionCrossentropy
from muse_keras.models import (
    DIN,
    ETA,
    MISS,
    MUSE,
    SDIM,
    TWIN,
    FullDIN,
    SearchRanker,
    SIMHard,
    SIMSoft,
)
from muse_keras.models.search_ranker import ESUS, GSUS
from muse_keras.optimizers import RowSparseAdam

K = 5
PRESETS = {
    SIMHard: ("category", "sa_ta_simtier"),
    SIMSoft: ("id_cosine", "sa_ta_simtier"),
    ETA: ("simhash", "ta"),
    FullDIN: ("none", "full_ta"),
    SDIM: ("none", "sdim"),
    TWIN: ("target_attention", "ta_simtier"),
    MISS: ("dual", "ta"),
    MUSE: ("scl_cosine", "sa_ta_simtier"),
}
# Every search and every unit, and what an attention is borrowed for.
EACH_ONCE = [
    *zip((*GSUS, "scl_cosine", "category"), ESUS, strict=True),
    ("target_attention", "sdim"),
    ("target_attention", "simtier"),
]
PAIRS = {
    # Quick: all of them.
    "torch": [(gsu, esu) for gsu in GSUS for esu in ESUS],
    "tensorflow": EACH_ONCE,
    "jax": EACH_ONCE,
}
not_on_jax = pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="the same code as on PyTorch"
)


def numpy(value):
    return keras.ops.convert_to_numpy(value)


def ranker(cls=SearchRanker, seed=2, **arguments):
    model = cls(**{**SMALL, "k": K, **arguments})
    codes = fill_table(model)
    rng = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(size=weight.shape) * 0.5)
    return model, codes


def requests(seed=0, **sizes):
    return ranker_inputs(np.random.default_rng(seed), **sizes)


def explained(model, inputs):
    return {name: numpy(x) for name, x in model.explain(inputs).items()}


def check_gradients_on_jax(model, inputs):
    """They are computed step by step, for a compiler takes seconds.

    That it could compile them is seen from tracing them, without values.
    """
    import jax

    frozen = [weight.value for weight in model.non_trainable_variables]

    def total(weights, inputs):
        logits, _ = model.stateless_call(weights, frozen, inputs, training=True)
        return logits.sum()

    weights = [weight.value for weight in model.trainable_variables]
    found = jax.grad(total)(weights, inputs)
    for weight, gradient in zip(model.trainable_variables, found, strict=True):
        assert np.isfinite(gradient).all(), weight.path
        assert np.any(gradient), weight.path
    traced = jax.eval_shape(jax.grad(total), weights, inputs)
    assert [x.shape for x in traced] == [x.shape for x in weights]


@pytest.mark.parametrize(
    ("gsu", "esu"),
    PAIRS[keras.backend.backend()],
    ids=lambda name: name,
)
def test_trains_saves_and_reloads(gsu, esu, tmp_path):
    model, _ = ranker(gsu=gsu, esu=esu, hash_bits=8, hash_rounds=3)
    inputs = requests()
    inputs["behavior_mask"][1] = False
    if keras.backend.backend() == "jax":
        check_gradients_on_jax(model, inputs)
    else:
        clicks = (inputs["candidate_rows"] % 2).astype("float32")
        model.compile(
            RowSparseAdam(1e-2, table_learning_rate=5e-2),
            ImpressionCrossentropy(),
            run_eagerly=keras.backend.backend() == "tensorflow",
        )
        assert np.isfinite(model.train_on_batch(inputs, clicks))
    scores = numpy(model(inputs))
    assert np.isfinite(scores).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert loaded.get_config() == model.get_config()
    np.testing.assert_allclose(numpy(loaded(inputs)), scores, atol=1e-6)
    parts = explained(loaded, inputs)
    np.testing.assert_allclose(
        parts["click_probability"], oracles.sigmoid(scores), atol=1e-6
    )
    np.testing.assert_array_equal(
        parts["tiers"],
        oracles.tier_counts(parts["similarities"], parts["mask"], 20),
    )
    assert not parts["mask"][1].any()
    assert not parts["attention"][~parts["mask"]].any()
    check_empty_history(loaded, inputs)


def check_empty_history(model, inputs):
    """A history of length 0 is one without a real behavior.

    On JAX its shapes are traced, not compiled: its values are those of the
    same code on PyTorch.
    """
    masked = {**inputs, "behavior_mask": np.zeros((3, 12), bool)}
    empty = dict(inputs)
    for name in ("behavior_rows", "behavior_features", "behavior_mask"):
        empty[name] = inputs[name][:, :0]
    if keras.backend.backend() == "jax":
        import jax

        traced = jax.eval_shape(lambda: model.explain(empty))
        assert {name: x.shape for name, x in traced.items()} == {
            name: x.shape for name, x in explained(model, masked).items()
        }
        return
    parts, expected = explained(model, empty), explained(model, masked)
    for name, values in expected.items():
        np.testing.assert_allclose(parts[name], values, atol=1e-6, err_msg=name)
    assert not parts["mask"].any() and not parts["attention"].any()


@not_on_jax
@pytest.mark.parametrize("cls", PRESETS)
def test_presets_are_their_names(cls):
    gsu, esu = PRESETS[cls]
    preset, _ = ranker(cls)
    named, _ = ranker(gsu=gsu, esu=esu)
    for target, source in zip(named.weights, preset.weights, strict=True):
        target.assign(source)  # Hyperplanes are drawn for each model.
    inputs = requests(1)
    np.testing.assert_array_equal(numpy(preset(inputs)), numpy(named(inputs)))
    other, _ = ranker(cls, gsu="none", esu="simtier")
    assert type(other.search).__name__ == "NewestSearch"
    assert other.exact_search_unit.attention is None


@not_on_jax
def test_din_has_a_long_part_only_if_asked():
    assert ranker(DIN)[0].search is None
    for arguments in ({"gsu": "none"}, {"esu": "ta"}):
        model, _ = ranker(DIN, **arguments)
        assert type(model.search).__name__ == "NewestSearch"
        assert model.exact_search_unit.kind == "ta"
    assert ranker(DIN, gsu="category")[0].exact_search_unit.kind == "ta"


def embedded(model, inputs, kind):
    """What the oracle reads from the weights, (B, C or L, E)."""
    oracle = oracles.Ranker(model, codes=np.zeros(0))
    one = getattr(oracle, kind)
    shape = inputs[f"{kind}_rows"].shape
    vectors = [one(inputs, *place) for place in np.ndindex(shape)]
    return np.reshape(vectors, (*shape, -1))


def found_by(scores, inputs):
    """Sets of the K highest scores of real behaviors."""
    return [
        [
            set(
                sorted(
                    np.flatnonzero(inputs["behavior_mask"][b]),
                    key=lambda i, row=row: -row[i],
                )[:K]
            )
            for row in scores[b]
        ]
        for b in range(len(scores))
    ]


def found_sets(parts):
    return [
        [
            set(indices[mask].tolist())
            for indices, mask in zip(*request, strict=True)
        ]
        for request in zip(
            parts["behavior_indices"], parts["mask"], strict=True
        )
    ]


def long_requests(layout=SMALL):
    """No item twice in a history: nothing ties."""
    inputs = requests(3, length=30, layout=layout)
    rng = np.random.default_rng(3)
    for row in inputs["behavior_rows"]:
        row[:] = rng.permutation(SMALL["num_items"])[:30] + 1
    return inputs


@not_on_jax
@pytest.mark.parametrize("layout", [SMALL, OWN])
def test_soft_search_looks_at_the_weights_of_now(layout):
    model, _ = ranker(SIMSoft, **layout)
    inputs = long_requests(layout)
    seen = []
    for seed in (4, 5):
        rng = np.random.default_rng(seed)
        table = model.item_embedding.embeddings
        table.assign(rng.normal(size=table.shape))
        left, right = (
            embedded(model, inputs, kind) for kind in ("candidate", "behavior")
        )
        cosines = left @ right.swapaxes(1, 2)
        cosines /= np.linalg.norm(left, axis=-1)[:, :, None]
        cosines /= np.linalg.norm(right, axis=-1)[:, None]
        seen.append(found_sets(explained(model, inputs)))
        assert seen[-1] == found_by(cosines, inputs)
    assert seen[0] != seen[1]


@not_on_jax
@pytest.mark.parametrize(
    ("esu", "heads", "layout"),
    [
        ("ta", 1, SMALL),
        ("sa_ta_simtier", 2, SMALL),
        ("simtier", 1, SMALL),
        ("ta", 1, OWN),
    ],
)
def test_twin_finds_what_its_attention_weighs_most(esu, heads, layout):
    model, _ = ranker(TWIN, esu=esu, num_heads=heads, **layout)
    inputs = long_requests(layout)
    layer = model.exact_search_unit.attention or model.short_term.attention
    query, key = (
        oracles.silu(
            embedded(model, inputs, kind)
            @ numpy(getattr(layer, f"{name}_kernel")).astype("float64")
        )
        for kind, name in (("candidate", "query"), ("behavior", "key"))
    )
    scores = query @ key.swapaxes(1, 2)
    parts = explained(model, inputs)
    assert found_sets(parts) == found_by(scores, inputs)
    if esu == "ta":
        # The search's order is that of the exact unit's weights.
        weights = np.where(parts["mask"], parts["attention"], -1)
        assert (np.diff(weights, axis=-1) <= 1e-6).all()


@not_on_jax
@pytest.mark.parametrize(
    ("layout", "asked", "held"), [(SMALL, 0, 0), (RICH, 0, 1)]
)
def test_hard_search_finds_the_first_match_only(layout, asked, held):
    model, _ = ranker(SIMHard, **layout)
    inputs = requests(6, length=40, layout=layout)
    parts = explained(model, inputs)
    assert parts["mask"].any()
    values = inputs["behavior_features"][..., held]
    for b, c in np.ndindex(inputs["candidate_rows"].shape):
        shown = parts["behavior_indices"][b, c][parts["mask"][b, c]]
        value = inputs["candidate_features"][b, c, asked]
        assert (values[b, shown] == value).all()
        assert (np.diff(shown) < 0).all()
        same = inputs["behavior_mask"][b] & (values[b] == value)
        assert len(shown) == (min(K, same.sum()) if value else 0)


@pytest.mark.parametrize("changed", [{"matches": ()}, OWN])
def test_a_hard_search_needs_a_match_of_one_value(changed):
    changed = changed | {"matches": changed["matches"][1:]}
    with pytest.raises(ValueError, match='`gsu` "category".*first of `matc'):
        ranker(SIMHard, **changed)


@not_on_jax
def test_hyperplanes_are_saved_not_trained():
    model, _ = ranker(gsu="simhash", esu="sdim")
    planes = [model.search.planes, model.exact_search_unit.planes]
    for variable in planes:
        assert not variable.trainable
    paths = {weight.path for weight in model.weights}
    assert {variable.path for variable in planes} <= paths


@not_on_jax
def test_old_configurations_still_load():
    """Of files that were saved before there was a choice."""
    for cls in (MUSE, DIN):
        model, _ = ranker(cls)
        config = model.get_config()
        for name in ("gsu", "esu", "hash_bits", "hash_rounds"):
            del config[name]
        assert cls.from_config(config).get_config() == model.get_config()


def test_bad_names_list_the_choices():
    with pytest.raises(ValueError, match=r"`gsu`.*'simhash'.*MUSE's own.*'x'"):
        ranker(MUSE, gsu="x")
    with pytest.raises(ValueError, match=r"`esu`.*'sdim'.*Received: esu='y'"):
        ranker(DIN, esu="y")
