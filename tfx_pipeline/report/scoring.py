"""Scores and explanations of exported models on the eval split."""

from __future__ import annotations

import hashlib
import os
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_pipeline import features
from tfx_pipeline.data.errors import DataError
from tfx_pipeline.report.statistics import Impressions

__all__ = ["Requests", "explain", "score"]

_BATCH = 64
_EXPLAIN_BATCH = 16
_NAMES = (
    features.USER_ID,
    *features.USER_PROFILE,
    features.BEHAVIOR_ITEM_IDS,
    features.BEHAVIOR_CATEGORY_IDS,
    features.CANDIDATE_ITEM_IDS,
    features.CANDIDATE_POPULARITY,
    features.CLICKS,
)
_COLUMNS = ("users", "clicks", "history", "popularity")


class Requests:
    """The serialised requests of a split.

    Args:
        directory: folder of gzipped TFRecords.

    Raises:
        DataError: no request in it.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self.files = sorted(directory.glob("*.gz"))
        records = tf.data.TFRecordDataset(
            [str(file) for file in self.files], compression_type="GZIP"
        )
        self.serialized = (
            [record.numpy() for record in records] if self.files else []
        )
        if not self.serialized:
            raise DataError(
                "NO_REQUESTS",
                f"{directory} holds no requests.",
                "run the pipeline again with `muse pipeline run`.",
            )

    def parse(self, indices: np.ndarray) -> list[dict[str, np.ndarray]]:
        """Returns int64 features of some requests."""
        found = []
        for index in indices:
            example = tf.train.Example.FromString(self.serialized[index])
            feature = example.features.feature
            found.append(
                {
                    name: np.asarray(feature[name].int64_list.value, np.int64)
                    for name in _NAMES
                }
            )
        return found


def score(
    requests: Requests,
    model_dirs: Mapping[str, pathlib.Path],
    cache: pathlib.Path,
    report_progress: Callable[[str], None],
) -> Impressions:
    """Scores every request with every model, in one pass each.

    Args:
        requests: the eval split.
        model_dirs: SavedModels by name.
        cache: ``.npz`` that is reused while models and requests are the
            same.
        report_progress: told about the work.

    Returns:
        Flat impressions.
    """
    key = _fingerprint(requests.files, model_dirs)
    kept = _read_cache(cache, key, model_dirs)
    if kept is not None:
        report_progress("Scores of the eval split are reused")
        return kept
    everything = np.arange(len(requests.serialized))
    parsed = requests.parse(everything)
    lengths = [len(one[features.CLICKS]) for one in parsed]
    columns = {
        "users": np.repeat(
            [one[features.USER_ID][0] for one in parsed], lengths
        ),
        "clicks": np.concatenate([one[features.CLICKS] for one in parsed]),
        "history": np.repeat(
            [
                np.count_nonzero(one[features.BEHAVIOR_ITEM_IDS])
                for one in parsed
            ],
            lengths,
        ),
        "popularity": np.concatenate(
            [one[features.CANDIDATE_POPULARITY] for one in parsed]
        ),
    }
    # Requests of like length together: less padding, the same scores.
    order = np.argsort([len(one) for one in requests.serialized], kind="stable")
    scores = {}
    for name, directory in model_dirs.items():
        report_progress(f"Scoring {len(order):,} requests with {name.upper()}")
        model = tf.saved_model.load(str(directory))
        found: list[np.ndarray] = [np.empty(0)] * len(order)
        for start in range(0, len(order), _BATCH):
            part = order[start : start + _BATCH]
            answer = model.signatures["serving_default"](
                examples=tf.constant([requests.serialized[i] for i in part])
            )["click_probability"].numpy()
            for index, row in zip(part, answer, strict=True):
                found[index] = row[: lengths[index]]
        scores[name] = np.concatenate(found)
    _write_cache(cache, key, columns, scores, len(order))
    return Impressions(**columns, scores=scores, requests=len(order))


def explain(
    model_dir: pathlib.Path, requests: list[dict[str, np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """Asks the ``explain`` signature about requests.

    Args:
        model_dir: SavedModel.
        requests: of `Requests.parse`.

    Returns:
        The outputs of the signature for each request, without padding of the
        candidates.
    """
    model = tf.saved_model.load(str(model_dir))
    answers = []
    for start in range(0, len(requests), _EXPLAIN_BATCH):
        part = requests[start : start + _EXPLAIN_BATCH]
        outputs = model.signatures["explain"](**_explain_inputs(part))
        arrays = {name: value.numpy() for name, value in outputs.items()}
        for row, request in enumerate(part):
            count = len(request[features.CANDIDATE_ITEM_IDS])
            answers.append(
                {name: value[row, :count] for name, value in arrays.items()}
            )
    return answers


def _explain_inputs(requests: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    def padded(name: str) -> tf.Tensor:
        width = max(1, max(len(one[name]) for one in requests))
        values = np.zeros((len(requests), width), np.int64)
        for row, one in enumerate(requests):
            values[row, : len(one[name])] = one[name]
        return tf.constant(values)

    return {
        "user_id": tf.constant([one[features.USER_ID][0] for one in requests]),
        "user_profile": tf.constant(
            [
                [one[name][0] for name in features.USER_PROFILE]
                for one in requests
            ],
            tf.int64,
        ),
        "behavior_item_ids": padded(features.BEHAVIOR_ITEM_IDS),
        "behavior_category_ids": padded(features.BEHAVIOR_CATEGORY_IDS),
        "candidate_item_ids": padded(features.CANDIDATE_ITEM_IDS),
    }


def _fingerprint(
    files: list[pathlib.Path], model_dirs: Mapping[str, pathlib.Path]
) -> str:
    """Returns a digest of which files were read, without reading them."""
    models = [
        path
        for _, directory in sorted(model_dirs.items())
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    ]
    digest = hashlib.sha256(repr(sorted(model_dirs)).encode())
    for path in (*files, *models):
        status = path.stat()
        digest.update(
            f"{path.resolve()} {status.st_size} {status.st_mtime_ns}\n".encode()
        )
    return digest.hexdigest()


def _read_cache(
    path: pathlib.Path, key: str, names: Mapping[str, Any]
) -> Impressions | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            return Impressions(
                **{name: stored[name] for name in _COLUMNS},
                scores={name: stored[f"score_{name}"] for name in names},
                requests=int(stored["requests"]),
            )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _write_cache(
    path: pathlib.Path,
    key: str,
    columns: Mapping[str, np.ndarray],
    scores: Mapping[str, np.ndarray],
    requests: int,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(
            file,
            key=np.array(key),
            requests=np.array(requests),
            **columns,
            **{f"score_{name}": value for name, value in scores.items()},
        )
    temporary.replace(path)
