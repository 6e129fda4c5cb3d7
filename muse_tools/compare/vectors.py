"""Measures what item vectors can distinguish, without training.

It measures the similarity of two random items, what MUSE's search retrieves
for a candidate, and how well single numbers of the retrieved behaviors rank
the candidates.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_transform as tft

from muse_keras.layers import GSUTopK, SimTier
from muse_keras.layers.gsu_top_k import GSUResult
from muse_keras.tables import ItemTable
from muse_tools.compare import keys
from muse_tools.compare.config import BASE_EMBEDDINGS, CompareConfig
from muse_tools.compare.plan import Prepared
from muse_tools.compare.results import Interval, VectorsRow, VectorsTable
from muse_tools.compare.scores import finite, gauc_intervals
from serving.files import locked, write_text
from tfx_pipeline import features
from tfx_pipeline.training import input_fn, records

Report = Callable[[str], None]

PERCENTILES = (1, 10, 50, 90, 99)
SEED = 20251121
REQUESTS = 5000
_VERSION = 1
_PAIRS = 100_000
_BATCH = 16
# Score of a candidate without retrieved behaviors: below any cosine.
_NOTHING = -2.0


class _Batch(NamedTuple):
    """A batch of requests: `behaviors` (B, L), `users` and others (B, C).

    Padding has the id 0 and is False in `real`.
    """

    users: npt.NDArray[np.int64]
    candidates: npt.NDArray[np.int64]
    behaviors: npt.NDArray[np.int64]
    real: npt.NDArray[np.bool_]
    clicks: npt.NDArray[np.int64]
    matches: npt.NDArray[np.float32]

    @property
    def repeats(self) -> npt.NDArray[np.int64]:
        same = self.candidates[:, :, None] == self.behaviors[:, None]
        return same.sum(axis=2)


def vectors_table(
    config: CompareConfig, name: str, data: Prepared, report: Report
) -> VectorsTable:
    """Returns the table of a data set, from its file if it was made before."""
    names = tuple(dict.fromkeys([BASE_EMBEDDINGS, *config.embeddings]))
    key = keys.digest(
        [
            [_VERSION, REQUESTS, SEED, _PAIRS, PERCENTILES],
            keys.code_digest(),
            data.digests["eval"],
            {one: data.digests[f"items/{one}"] for one in names},
            [data.settings["model"][one] for one in ("k", "num_tiers")],
            config.bootstrap_samples,
        ]
    )
    path = config.root / "data" / name / f"vectors-{key}.json"
    with locked(path.with_name(".vectors.lock")):
        if not path.exists():
            report(f"{name}: looking at what the item vectors tell apart")
            made = measure(data, names, config.bootstrap_samples)
            write_text(path, made.model_dump_json(indent=1) + "\n")
    return VectorsTable.model_validate_json(path.read_text(encoding="utf-8"))


def measure(
    data: Prepared,
    names: Sequence[str],
    samples: int,
    limit: int = REQUESTS,
) -> VectorsTable:
    """Computes the table from at most `limit` requests."""
    model = data.settings["model"]
    pattern = data.eval_files[0]
    count = records.count_records([pattern])
    chosen = np.ones(count, bool)
    if count > limit:
        generator = np.random.default_rng(SEED)
        chosen[:] = False
        chosen[generator.choice(count, limit, replace=False)] = True
    spec = tft.TFTransformOutput(
        data.transform_graph
    ).transformed_feature_spec()
    match = data.settings["schema"]["features"]["matches"][0]
    batches = list(_read(pattern, spec, chosen, f"candidate_{match}_matches"))
    users, clicks, matches, repeats = (
        np.concatenate([getattr(one, name)[one.real] for one in batches])
        for name in ("users", "clicks", "matches", "repeats")
    )

    def gauc(scores: npt.NDArray[Any]) -> Interval:
        return gauc_intervals(users, clicks, [(1, scores)], samples)

    search = tf.function(GSUTopK(model["k"]), reduce_retracing=True)
    tiers = SimTier(model["num_tiers"], scale="count", learnable=False)
    rows = []
    for name in names:
        table = ItemTable.open(pathlib.Path(data.item_tables[name]))
        rows.append(_row(name, table, batches, search, tiers, gauc))
    repeated = repeats > 0
    return VectorsTable(
        requests=int(chosen.sum()),
        all_requests=count,
        impressions=len(clicks),
        seed=SEED,
        k=model["k"],
        tier_edges=np.linspace(-1, 1, model["num_tiers"] + 1).round(6).tolist(),
        percentiles=list(PERCENTILES),
        clicks_repeated=_share(repeated[clicks == 1]),
        others_repeated=_share(repeated[clicks == 0]),
        scores={"same item": gauc(repeats), f"same {match}": gauc(matches)},
        rows=rows,
    )


def _read(
    pattern: str,
    spec: dict[str, Any],
    chosen: npt.NDArray[np.bool_],
    matches: str,
) -> Iterable[_Batch]:
    start = 0
    for batch in input_fn.request_dataset([pattern], spec, _BATCH):
        arrays = {name: values.numpy() for name, values in batch.items()}
        size = len(arrays[features.CLICKS])
        kept = chosen[start : start + size]
        start += size
        if not kept.any():
            continue
        clicks = arrays[features.CLICKS][kept]
        yield _Batch(
            np.broadcast_to(
                arrays[features.USER_ID][kept][:, :1], clicks.shape
            ),
            arrays[features.CANDIDATE_ITEM_IDS][kept],
            arrays[features.BEHAVIOR_ITEM_IDS][kept],
            clicks != input_fn.PADDING,
            clicks,
            arrays[matches][kept],
        )


def _row(
    name: str,
    table: ItemTable,
    batches: Sequence[_Batch],
    search: Callable[..., GSUResult],
    tiers: SimTier,
    gauc: Callable[[npt.NDArray[Any]], Interval],
) -> VectorsRow:
    codes, inverse_norms = np.asarray(table.codes), table.inverse_norms()
    # View each vector as one value, to find equal vectors.
    whole = np.ascontiguousarray(codes).view(f"V{codes.shape[1]}").reshape(-1)
    kinds = np.unique(whole, return_inverse=True)[1].reshape(-1)
    counts, same_item, equal_vector = 0, 0, 0
    columns: list[tuple[npt.NDArray[np.float32], ...]] = []
    for batch in batches:
        candidates = table.rows(batch.candidates)
        behaviors = table.rows(batch.behaviors)
        result = search(
            tf.constant(codes[candidates]),
            tf.constant(codes[behaviors]),
            tf.constant(batch.behaviors != 0),
            tf.constant(inverse_norms[behaviors]),
        )
        similarities, indices, mask = (one.numpy() for one in result)
        mask &= batch.real[:, :, None]
        row = np.arange(len(behaviors))[:, None, None]
        same = batch.behaviors[row, indices] == batch.candidates[:, :, None]
        equal = kinds[behaviors[row, indices]] == kinds[candidates][:, :, None]
        same_item += int((same & mask).sum())
        equal_vector += int((equal & ~same & mask).sum())
        by_tier = np.asarray(tiers.count(similarities, mask))[batch.real]
        counts = counts + by_tier.sum(axis=0, dtype=np.float64)
        found = mask.sum(axis=2)
        columns.append(
            tuple(
                # Rounding makes cosines equal that differ by rounding errors.
                values[batch.real].round(6).astype(np.float32)
                for values in (
                    np.where(mask, similarities, _NOTHING).max(axis=2),
                    np.where(
                        found > 0,
                        (similarities * mask).sum(axis=2)
                        / np.maximum(found, 1),
                        _NOTHING,
                    ),
                )
            )
            + (by_tier[:, -1],)
        )
    highest, mean, top = (
        np.concatenate(part) for part in zip(*columns, strict=True)
    )
    total = max(np.sum(counts), 1.0)
    return VectorsRow(
        embeddings=name,
        random_pairs=_random_pairs(table),
        tiers=[finite(one) for one in np.asarray(counts) / total],
        same_item=finite(same_item / total),
        equal_vector=finite(equal_vector / total),
        scores={
            "highest cosine": gauc(highest),
            "mean cosine": gauc(mean),
            "top tier": gauc(top),
        },
    )


def _random_pairs(table: ItemTable) -> list[float | None]:
    """Returns percentiles of the cosine of two different random items."""
    generator = np.random.default_rng(SEED)
    one, other = generator.integers(1, table.num_items + 1, (2, _PAIRS))
    norms = table.inverse_norms()
    known = (one != other) & (norms[one] > 0) & (norms[other] > 0)
    one, other = one[known], other[known]
    if not len(one):
        return [None] * len(PERCENTILES)
    codes = np.asarray(table.codes)
    products = np.einsum(
        "nd,nd->n", codes[one].astype(float), codes[other].astype(float)
    )
    cosines = products * norms[one] * norms[other]
    return [finite(value) for value in np.percentile(cosines, PERCENTILES)]


def _share(values: npt.NDArray[np.bool_]) -> float | None:
    return finite(values.mean()) if len(values) else None
