"""The published implementation's formulas and checkpoints, in NumPy.

One candidate at a time, in float64, from the formulas; nothing here knows
`muse_keras`. Weights are named and shaped as in the published files.
"""

import numpy as np

RECENT = TOP = 50
UNITS = (256, 128, 64, 2)
FIELDS = ("129_1", "130_1", "130_2", "130_3", "130_4", "130_5")


def dense_weights(rng, dim, units=UNITS):
    """Random weights of the dense file, nested as it is."""

    def normal(*shape):
        return rng.normal(0.0, 0.5, shape).astype("float32")

    def linear(rows, columns, index=0):
        return {
            f"linears.{index}.weight": 4.0 * normal(columns, rows) / rows**0.5,
            f"linears.{index}.bias": normal(columns),
        }

    def projections(*names):
        return {
            f"{name}.0.{key}": value
            for name in names
            for key, value in linear(2 * dim, 2 * dim).items()
        }

    width = 15 * dim + 3 * (dim // 2) + 44
    tower = {}
    for index, columns in enumerate(units):
        tower |= linear(width, columns, index)
        tower[f"act_layers.{index}.dice_gamma"] = normal(1, columns)
        width = columns
    return {
        "all_seq_image_res": {
            "rt_simtier.emb": normal(1, 22, 1),
            "uni_v2_simtier.emb": normal(1, 22, 1),
        },
        "realtime_att": projections("query_fcs", "fact_fcs"),
        "uni_att_v2": projections("query_layers", "fact_layers", "value_layers")
        | {
            "cosine_tau1": np.array([[0.13], [0.1]], "float32"),
            "cosine_tau2": np.array([[0.8], [1.2], [0.6]], "float32"),
        },
        "fc_tower": tower,
    }


def tables(rng, dim, sizes):
    """Random tables; row 0 is zero in a file, as it is never trained."""
    found = {}
    for name, rows in sizes.items():
        width = dim // 2 if name in FIELDS[3:] else dim
        table = rng.normal(size=(rows, width)).astype("float32")
        table[0] = 0.0
        found[f"{name}.weight"] = table
    return {"embedding_layers": found}


def probability(dense, embeddings, codes, user, history, candidate):
    """Probability of a click on one candidate.

    Args:
        dense: `dense_weights`.
        embeddings: `tables`.
        codes: int8 (rows, D).
        user: row of each of `FIELDS`.
        history: rows and categories, oldest first, padded with 0 in front.
        candidate: row, category, city and province.
    """
    table = embeddings["embedding_layers"]
    rows, categories = history
    items = np.concatenate(
        [
            table["150_2_180.weight"][rows],
            table["151_2_180.weight"][categories],
        ],
        axis=1,
    ).astype("float64")
    advert = [
        table[f"{name}.weight"][row]
        for name, row in zip(
            ("150_2_180", "151_2_180", "213", "214"), candidate, strict=True
        )
    ]
    target = np.concatenate(advert[:2]).astype("float64")
    cosines = np.array([cosine(codes[candidate[0]], codes[r]) for r in rows])
    recent = slice(len(rows) - RECENT, len(rows))
    # Padding, whose cosine is 0, comes after everything else.
    order = np.argsort(-np.where(cosines == 0.0, -1.1, cosines), kind="stable")
    top = order[:TOP]

    weights = dense["realtime_att"]
    query = linear(weights, "query_fcs.0.linears.0", target)
    fact = linear(weights, "fact_fcs.0.linears.0", items[recent])
    short = (softmax(fact @ query) + 1e-7) @ fact

    weights = dense["uni_att_v2"]
    query = silu(linear(weights, "query_layers.0.linears.0", target))
    fact = silu(linear(weights, "fact_layers.0.linears.0", items[top]))
    value = silu(linear(weights, "value_layers.0.linears.0", items[top]))
    dot = fact @ query
    bias = cosines[top] / weights["cosine_tau1"][0, 0]
    one, two, three = weights["cosine_tau2"][:, 0]
    dot = one * dot + two * bias + three * dot * bias
    long = (softmax(dot) + 1e-7) @ value

    tiers = dense["all_seq_image_res"]
    profile = [
        table[f"{name}.weight"][row]
        for name, row in zip(FIELDS, user, strict=True)
    ]
    values = np.concatenate(
        [
            short,
            long,
            items[top].mean(axis=0),
            items[recent].mean(axis=0),
            *advert,
            *profile,
            histogram(cosines[recent], tiers["rt_simtier.emb"]),
            histogram(cosines[top], tiers["uni_v2_simtier.emb"]),
        ]
    )
    weights = dense["fc_tower"]
    for index in range(len([n for n in weights if n.endswith("gamma")])):
        values = linear(weights, f"linears.{index}", values)
        normal = (values - values.mean()) / np.sqrt(values.var() + 1e-12)
        gate = 1.0 / (1.0 + np.exp(-normal))
        gamma = weights[f"act_layers.{index}.dice_gamma"][0]
        values = gamma * (1.0 - gate) * values + gate * values
    return np.clip(softmax(values) + 1e-7, 0.0, 1.0)[1]


def cosine(a, b):
    a, b = a.astype("float64"), b.astype("float64")
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / norms if norms else 0.0


def histogram(cosines, weights):
    counts = np.zeros(22)
    # As a float32 program divides by 0.1: the exact product would be a hair
    # above a tenth where the cosine is one.
    for tier in np.ceil(cosines.astype("float32") * np.float32(10.0)):
        counts[int(tier) + 10] += 1.0
    return np.log(counts + 1.0) * weights[0, :, 0]


def linear(weights, name, values):
    return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def silu(values):
    return values / (1.0 + np.exp(-values))


def softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()
