"""A pushed model with the data that the explorer reads from it."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from muse_keras.tables.item_ids import rows_of
from muse_tools.datasets.errors import DataError
from muse_tools.explore import tensors
from schemas.columns import Features
from schemas.ranking_schema import RankingSchema
from serving.export import manifest as manifests
from serving.export.encodings import Encoding
from serving.export.feature_names import single_categories
from serving.files import newest_version

_SIGNATURES = ("rank", "explain")


@dataclasses.dataclass(frozen=True)
class ItemViews:
    """The values of n items that searches compare."""

    categories: npt.NDArray[np.int64] | None
    """Indices of `ExplainedModel.category`, (n,) or (n, many)."""
    embeddings: npt.NDArray[np.float32]
    """Trained embeddings (n, E): those of ids and item features are
    concatenated, those of the behaviors' own features are added."""
    codes: npt.NDArray[np.int8]
    """Multimodal vectors (n, D); 0 for items without a vector."""


class ExplainedModel:
    """The newest version of a SavedModel, loaded into this process.

    Raises:
        DataError: if the folder holds no ranking model.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = _version_folder(folder)
        manifest = _manifest(self.folder)
        self.kind: str = manifest["model"]
        self.k: int = manifest["k"]
        self.max_history: int | None = manifest["max_history"]
        self.num_items: int = manifest["num_items"]
        self._loaded = tf.saved_model.load(str(self.folder))
        missing = set(_SIGNATURES) - set(self._loaded.signatures)
        if missing:
            raise DataError(
                "NO_SIGNATURE",
                f"{self.folder} has no signature {sorted(missing)[0]}.",
                "give the folder of a ranking model that the pipeline pushed.",
            )
        variables = self._loaded.model_variables
        self._item_ids = variables["table.item_ids"].numpy()
        self._codes = variables["table.codes"]
        self._item_embedding = variables["item_embedding.embeddings"]
        self.features = _features(manifest)
        self.labels: list[str] = manifest.get("labels", ["click"])
        # The feature that SIM-hard searches by.
        self.category = next(iter(self.features.matches), None)
        self._embeddings = {
            name: variables[f"{name}_embedding.embeddings"]
            for name in self.features.behavior
        }
        self._by_field = self._loaded._item_features.by_field
        boundaries = manifest.get("boundaries", {})
        self._encodings = {
            name: self._encoding(name, boundaries)
            for name in self.features.behavior
            if name not in self.features.of_items
        }
        self._inputs = {
            name: manifest["signatures"][name]["inputs"] for name in _SIGNATURES
        }

    def _encoding(
        self, name: str, boundaries: dict[str, list[float]]
    ) -> Encoding:
        """Returns the model's encoding of a behavior feature."""
        group = "item" if name in self.features.item else "behavior"
        learned_as = f"{group}_{name}"
        feature = self.features.of_behavior(name)
        learned: Any = boundaries.get(learned_as, ())
        if feature.kind == "vocabulary":
            vocabulary = self._loaded._encodings[learned_as].vocabulary
            keys = vocabulary._keys.numpy()
            order = vocabulary._indices.numpy()[1:] - 1
            learned = np.zeros(len(order), np.int64)
            learned[order] = keys[: len(order)]
        return Encoding(learned_as, feature, learned)

    def rows(self, item_ids: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Returns the table row of every id; 0 for unknown items."""
        return rows_of(self._item_ids, item_ids)

    def counted(self, item_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Marks the newest `max_history` behaviors of a history."""
        real = item_ids != 0
        if self.max_history is None:
            return real
        newest = np.cumsum(real[::-1])[::-1]
        return real & (newest <= self.max_history)

    def candidate(self, item_id: int) -> ItemViews:
        """Returns the view of a candidate, with n = 1."""
        rows = self.rows([item_id])
        of_items = [n for n in self._embeddings if n in self.features.item]
        return self._views(rows, self._stored(of_items, rows))

    def behaviors(
        self,
        item_ids: npt.NDArray[np.int64],
        carried: Mapping[str, npt.NDArray[Any]],
    ) -> ItemViews:
        """Returns the view of a history.

        `carried` has raw values of the behaviors' own features.
        """
        rows = self.rows(item_ids)
        indices = self._stored(self.features.of_items, rows)
        for name, encoding in self._encodings.items():
            dtype = encoding.feature.dtype
            raw = np.asarray(carried[name], dtype)
            indices[name] = encoding.on_host(raw).astype(np.int64)
        return self._views(rows, indices)

    def _stored(
        self, names: Sequence[str], rows: npt.NDArray[Any]
    ) -> dict[str, npt.NDArray[np.int64]]:
        return {
            name: _gather(self._by_field[name], rows).astype(np.int64)
            for name in names
        }

    def explain(
        self, user: dict[str, Any], item_ids: list[int]
    ) -> dict[str, npt.NDArray[Any]]:
        """Returns the outputs of the signature `explain`, without the batch."""
        return self._run("explain", user, item_ids)

    def scores(
        self, user: dict[str, Any], item_ids: list[int]
    ) -> npt.NDArray[np.float32]:
        """Returns the click probability of each candidate; see `explain`."""
        if not item_ids:
            return np.zeros(0, np.float32)
        return self._run("rank", user, item_ids)["click_probability"]

    def _run(
        self, signature: str, user: dict[str, Any], item_ids: list[int]
    ) -> dict[str, npt.NDArray[Any]]:
        fields = tensors.of_request(self._inputs[signature], user, item_ids)
        answer = self._loaded.signatures[signature](**fields)
        return {name: value.numpy()[0] for name, value in answer.items()}

    def _views(
        self,
        rows: npt.NDArray[Any],
        indices: Mapping[str, npt.NDArray[np.int64]],
    ) -> ItemViews:
        items = self.features.item
        embedded = {
            name: self._embedded(name, of) for name, of in indices.items()
        }
        embeddings = np.concatenate(
            [
                _gather(self._item_embedding, rows),
                # In the model's order.
                *(embedded[n] for n in self._embeddings if n in items),
            ],
            axis=1,
        )
        for name, own in embedded.items():
            if name not in items:
                embeddings = embeddings + own
        categories = indices[self.category] if self.category else None
        return ItemViews(categories, embeddings, _gather(self._codes, rows))

    def _embedded(
        self, name: str, indices: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Returns embeddings (n, E); those of several values are averaged."""
        found: npt.NDArray[np.float32] = _gather(
            self._embeddings[name], indices
        )
        if indices.ndim == 1:
            return found
        given = indices != 0
        count = np.maximum(1, given.sum(axis=1, keepdims=True))
        mean = (found * given[..., None]).sum(axis=1) / count
        return np.where(given.any(axis=1)[:, None], mean, found[:, 0])


def _gather(variable: tf.Variable, rows: npt.NDArray[Any]) -> Any:
    # A variable may be too large to copy.
    return tf.gather(variable, rows.astype(np.int64)).numpy()


def _features(manifest: dict[str, Any]) -> Features:
    """Returns the declared features; old manifests have only their names."""
    schema = manifest.get("schema")
    if schema:
        return RankingSchema.model_validate(schema["declaration"]).features
    groups = ("user", "item", "behavior", "matches")
    names = manifest["features"]
    return single_categories(**{group: names[group] for group in groups})


def _version_folder(folder: pathlib.Path) -> pathlib.Path:
    for found in (folder, newest_version(folder)):
        if found is not None and (found / "saved_model.pb").is_file():
            return found
    raise DataError(
        "NO_MODEL",
        f"{folder} holds no model.",
        "give --model-base-path DIR, where DIR/VERSION/saved_model.pb is a "
        "pushed model; `muse demo` or `muse pipeline run` push one.",
    )


def _manifest(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / "assets.extra" / manifests.FILE_NAME
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            "NO_MANIFEST",
            f"{path} cannot be read: {error}.",
            "give the folder of a ranking model that the pipeline pushed.",
        ) from error
    return found
