"""A pushed model, with what the explorer reads of it."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from muse_keras.tables.item_ids import rows_of
from muse_tools.datasets.errors import DataError
from serving.export import manifest as manifests
from serving.files import newest_version

_SIGNATURES = ("rank", "explain")


@dataclasses.dataclass(frozen=True)
class ItemViews:
    """What the searches see of n items."""

    categories: npt.NDArray[np.int64]
    """(n,), vocabulary indices."""
    embeddings: npt.NDArray[np.float32]
    """(n, E), trained, id and category side by side."""
    codes: npt.NDArray[np.int8]
    """(n, D), multimodal; zero where there is no vector."""


class ExplainedModel:
    """The newest version of a SavedModel, loaded into this process.

    Raises DataError where there is none, or no ranking model.
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
        # The feature that SIM-hard searches by.
        self.category: str = manifest["features"]["matches"][0]
        self._category_embedding = variables[
            f"{self.category}_embedding.embeddings"
        ]
        features = self._loaded._item_features
        self._item_categories = features.by_field[self.category]
        vocabulary = self._loaded._vocabularies[f"item_{self.category}"]
        self._category_keys = vocabulary._keys.numpy()
        self._category_indices = vocabulary._indices.numpy()

    def rows(self, item_ids: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Returns the table row of every id, 0 for items it does not have."""
        return rows_of(self._item_ids, item_ids)

    def counted(self, item_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Marks the newest `max_history` behaviors of a history."""
        real = item_ids != 0
        if self.max_history is None:
            return real
        newest = np.cumsum(real[::-1])[::-1]
        return real & (newest <= self.max_history)

    def candidate(self, item_id: int) -> ItemViews:
        """Returns what a search sees of a candidate, with n = 1."""
        rows = self.rows([item_id])
        return self._views(rows, _gather(self._item_categories, rows))

    def behaviors(
        self,
        item_ids: npt.NDArray[np.int64],
        category_ids: npt.NDArray[np.int64],
    ) -> ItemViews:
        """Returns what a search sees of a history."""
        places = rows_of(self._category_keys, category_ids)
        indices = self._category_indices[places]
        indices = np.where(category_ids == 0, 0, indices)
        return self._views(self.rows(item_ids), indices)

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
        fields = {
            "user_id": user["user_id"],
            **{f"user_{name}": value for name, value in user["user"].items()},
            "behavior_item_ids": user["behavior_item_ids"],
            **{f"behavior_{n}": ids for n, ids in user["behaviors"].items()},
            "candidate_item_ids": item_ids,
        }
        answer = self._loaded.signatures[signature](
            **{
                name: tf.constant([value], tf.int64)
                for name, value in fields.items()
            }
        )
        return {name: value.numpy()[0] for name, value in answer.items()}

    def _views(
        self, rows: npt.NDArray[Any], categories: npt.NDArray[Any]
    ) -> ItemViews:
        categories = categories.astype(np.int64)
        return ItemViews(
            categories,
            np.concatenate(
                [
                    _gather(self._item_embedding, rows),
                    _gather(self._category_embedding, categories),
                ],
                axis=1,
            ),
            _gather(self._codes, rows),
        )


def _gather(variable: tf.Variable, rows: npt.NDArray[Any]) -> Any:
    # A variable may be too large to copy.
    return tf.gather(variable, rows.astype(np.int64)).numpy()


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
