"""Converts request-grouped Examples to extracts of TFMA.

TFMA's own extractors expect one label and one prediction per Example, and its
metrics collect a slice in one accumulator. Here an Example is a request with
many candidates, slices depend on the candidate, and metrics need all
impressions of a user. So requests are scored and sent to partitions by user,
where each slice becomes a `Summary`. A second shuffle, by score, gives what the
AUC over all impressions needs. An extract has the summaries of one slice.
"""

from __future__ import annotations

import collections
import contextvars
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis import constants

from tfx_pipeline import features
from tfx_pipeline.evaluation import ranking_metrics, slices
from tfx_pipeline.transforms import arrow_batches, shuffle_files, steps

SHUFFLE: contextvars.ContextVar[tuple[str | None, int]] = (
    contextvars.ContextVar("SHUFFLE", default=(None, steps.partitions_for(0)))
)
"""Folder for shuffle files, or None, and the number of partitions of users."""

_SIGNATURE = "serving_default"
_BATCH = 64


def label_column(label: str) -> str:
    """Returns the column of a label in Examples; "" is the first label."""
    return f"label_{label}" if label else features.CLICKS


def output_of(label: str) -> str:
    """Returns the model's output for a label; "" is the first label."""
    return f"{label or 'click'}_probability"


def custom_eval_shared_model(
    eval_saved_model_path: str,
    model_name: str,
    eval_config: tfma.EvalConfig,
    **unused: Any,
) -> tfma.types.EvalSharedModel:
    """Describes a SavedModel for the extractor; the Evaluator calls it."""
    baselines = {
        spec.name for spec in eval_config.model_specs if spec.is_baseline
    }
    return tfma.types.EvalSharedModel(
        model_path=eval_saved_model_path,
        model_name=model_name,
        model_type=tfma.TF_GENERIC,
        is_baseline=model_name in baselines,
        # The first model has no baseline.
        rubber_stamp=not baselines,
    )


def custom_extractors(
    eval_shared_model: Any,
    eval_config: tfma.EvalConfig,
    tensor_adapter_config: Any,
) -> list[tfma.extractors.Extractor]:
    """Returns the extractors; the Evaluator calls it."""
    models = (
        eval_shared_model
        if isinstance(eval_shared_model, list)
        else [eval_shared_model]
    )
    names = [
        key for spec in eval_config.slicing_specs for key in spec.feature_keys
    ]
    labels = [
        name
        for spec in eval_config.metrics_specs
        for name in spec.output_names or [""]
    ]
    paths = {
        model.model_name if len(models) > 1 else "": model.model_path
        for model in models
    }
    return [
        tfma.extractors.Extractor(
            # The evaluator of metrics runs after the stage of this name.
            stage_name=tfma.extractors.SLICE_KEY_EXTRACTOR_STAGE_NAME,
            ptransform=_SummarizeSlices(paths, labels, names),
        ),
    ]


_SliceKey = tuple[tuple[str, str], ...]
_Column = tuple[str, str]
"""The model and the label of a score."""
_COUNTS = ("score", "negative", "positive")


class _SummarizeSlices(beam.PTransform):
    def __init__(
        self, model_paths: dict[str, str], labels: list[str], names: list[str]
    ) -> None:
        super().__init__()
        self._score = _Score(model_paths, labels, names)
        self._columns = [
            (model, label) for model in model_paths for label in labels
        ]
        self._names = names

    def expand(self, extracts: beam.PCollection) -> beam.PCollection:
        shuffle_dir, partitions = SHUFFLE.get()
        scored = extracts | "Score" >> beam.ParDo(self._score)
        kept = (
            scored
            | "Values" >> beam.FlatMap(_counts, self._names)
            | "Count" >> beam.CombinePerKey(sum)
            | "ByName" >> beam.MapTuple(lambda key, n: (key[0], (key[1], n)))
            | "Keep" >> beam.CombinePerKey(_KeptValues())
        )
        summaries, counts = (
            scored
            | "ToUsers" >> beam.ParDo(_ToUsers(shuffle_dir, partitions))
            | "Users" >> beam.GroupByKey()
            | "Summarize"
            >> beam.ParDo(
                _Summarize(shuffle_dir, self._names, self._columns),
                beam.pvalue.AsDict(kept),
            ).with_outputs("counts", main="summaries")
        )
        ranks = (
            counts
            | "Counts" >> beam.GroupByKey()
            | "Ranks" >> beam.MapTuple(_ranks)
        )
        return (
            (summaries, ranks)
            | "Flatten" >> beam.Flatten()
            | "Merge" >> beam.CombinePerKey(ranking_metrics.merging())
            | "BySlice" >> beam.MapTuple(lambda key, s: (key[0], (key[1], s)))
            | "Slices" >> beam.GroupByKey()
            | "Extract" >> beam.MapTuple(_extract)
        )


class _Score(beam.DoFn):
    """Scores requests; yields a batch with a row for each impression."""

    def __init__(
        self, model_paths: dict[str, str], labels: list[str], names: list[str]
    ) -> None:
        self._model_paths = model_paths
        self._labels = labels
        self._names = names

    def setup(self) -> None:
        # Keep the loaded object: its signatures do not own the variables.
        self._loaded = {
            name: tf.saved_model.load(path)
            for name, path in self._model_paths.items()
        }

    def process(self, extracts: dict[str, Any]) -> Iterator[pa.RecordBatch]:
        batch = extracts[constants.ARROW_RECORD_BATCH_KEY]
        column = batch.column(
            batch.schema.get_field_index(constants.ARROW_INPUT_COLUMN)
        )
        serialized = [values[0] for values in column.to_pylist()]
        numbers: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        values: dict[str, list[slices.Values]] = {
            _slice(name): [] for name in self._names
        }
        for start in range(0, len(serialized), _BATCH):
            texts = serialized[start : start + _BATCH]
            answers = {
                name: model.signatures[_SIGNATURE](examples=tf.constant(texts))
                for name, model in self._loaded.items()
            }
            scores = {
                (name, label): answer[output_of(label)].numpy()
                for name, answer in answers.items()
                for label in self._labels
            }
            for row, text in enumerate(texts):
                example = tf.train.Example.FromString(text)
                for label in self._labels:
                    clicks = slices.example_values(example, label_column(label))
                    numbers[_label(label)].append(clicks.astype(np.float32))
                for (name, label), of in scores.items():
                    numbers[_scores(name, label)].append(of[row, : len(clicks)])
                user = slices.example_values(example, features.USER_ID)
                numbers[features.USER_ID].append(np.repeat(user, len(clicks)))
                found = slices.of_candidates(example, self._names)
                for name, given in found.items():
                    values[_slice(name)] += given
        columns = {
            name: pa.array(np.concatenate(parts))
            for name, parts in numbers.items()
        }
        for name, given in values.items():
            # Without any value, Arrow cannot know the type.
            kind = None if any(given) else pa.list_(pa.int64())
            columns[name] = pa.array(given, kind)
        yield pa.RecordBatch.from_arrays([*columns.values()], [*columns])


def _label(label: str) -> str:
    return f"label/{label}"


def _scores(model: str, label: str) -> str:
    return f"score/{model}/{label}"


def _slice(name: str) -> str:
    return f"slice/{name}"


def _counts(
    batch: pa.RecordBatch, names: list[str]
) -> Iterator[tuple[tuple[str, Any], int]]:
    """Yields the impressions of each value of a slice."""
    for name in names:
        values = arrow_batches.column(batch, _slice(name)).flatten()
        for found in values.value_counts().to_pylist():
            yield (name, slices.counted(found["values"])), found["counts"]


class _KeptValues(beam.CombineFn):
    """Returns `slices.kept` of values and their numbers of impressions."""

    def create_accumulator(self) -> slices.Counts:
        return {}

    def add_input(
        self, accumulator: slices.Counts, element: tuple[Any, int]
    ) -> slices.Counts:
        value, impressions = element
        accumulator[value] = impressions
        return self._bounded(accumulator)

    def merge_accumulators(
        self, accumulators: Iterable[slices.Counts]
    ) -> slices.Counts:
        merged: slices.Counts = {}
        for accumulator in accumulators:
            merged = self._bounded(merged | accumulator)
        return merged

    def _bounded(self, counts: slices.Counts) -> slices.Counts:
        if len(counts) < 10 * slices.MOST:
            return counts
        return slices.most_frequent(counts)

    def extract_output(self, accumulator: slices.Counts) -> list[Any]:
        return slices.kept(accumulator)


class _ToUsers(beam.DoFn):
    """Sends impressions to the partition of their user."""

    def __init__(self, shuffle_dir: str | None, partitions: int) -> None:
        self._shuffle_dir = shuffle_dir
        self._partitions = partitions

    def process(
        self, batch: pa.RecordBatch
    ) -> Iterator[tuple[Any, shuffle_files.Sent]]:
        with shuffle_files.ShuffleFile(self._shuffle_dir) as file:
            for index, rows in arrow_batches.partition(
                batch, features.USER_ID, self._partitions
            ):
                yield from file.put(index, rows)
            yield from file.flush()


class _Summarize(beam.DoFn):
    """Summarizes the slices of a partition of the users.

    The output ``counts`` has the counts of each bucket of scores.
    """

    def __init__(
        self, shuffle_dir: str | None, names: list[str], columns: list[_Column]
    ) -> None:
        self._shuffle_dir = shuffle_dir
        self._names = names
        self._columns = columns

    def process(
        self,
        element: tuple[int, Iterable[shuffle_files.Sent]],
        kept: dict[str, list[Any]],
    ) -> Iterator[Any]:
        rows: dict[_SliceKey, list[np.ndarray]] = collections.defaultdict(list)
        batches, done = [], 0
        for batch in shuffle_files.read(element[1]):
            rows[()].append(np.arange(done, done + batch.num_rows))
            for name in self._names:
                values = arrow_batches.column(batch, _slice(name))
                for group, of_group in _groups(values, kept.get(name, [])):
                    rows[((name, group),)].append(done + of_group)
            done += batch.num_rows
            batches.append(arrow_batches.select(batch, self._numbers()))
        impressions = arrow_batches.concatenate(batches)
        columns = {
            name: arrow_batches.numpy_column(impressions, name)
            for name in self._numbers()
        }
        with shuffle_files.ShuffleFile(self._shuffle_dir) as file:
            for key, parts in rows.items():
                chosen = np.concatenate(parts)
                users = columns[features.USER_ID][chosen]
                for model, label in self._columns:
                    clicks = columns[_label(label)][chosen]
                    scores = columns[_scores(model, label)][chosen]
                    summary = ranking_metrics.Summary.of(users, clicks, scores)
                    yield (key, (model, label)), summary
                    for bucket in ranking_metrics.score_buckets(clicks, scores):
                        number = ranking_metrics.bucket_of(bucket)
                        batch = pa.RecordBatch.from_arrays(
                            [pa.array(column) for column in bucket],
                            names=_COUNTS,
                        )
                        yield from _tagged(
                            file.put((key, (model, label), number), batch)
                        )
            yield from _tagged(file.flush())

    def _numbers(self) -> list[str]:
        labels = dict.fromkeys(_label(label) for _, label in self._columns)
        scores = [_scores(*column) for column in self._columns]
        return [features.USER_ID, *labels, *scores]


def _tagged(sent: Iterable[Any]) -> Iterator[beam.pvalue.TaggedOutput]:
    return (beam.pvalue.TaggedOutput("counts", one) for one in sent)


def _groups(
    values: pa.ListArray, kept: list[Any]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the name of each group of a slice and its rows, ascending."""
    sizes = values.value_lengths().to_numpy()
    missing = np.flatnonzero(sizes == 0)
    if len(missing):
        yield slices.MISSING, missing
    owners = np.repeat(np.arange(len(values)), sizes)
    coded = values.flatten().dictionary_encode()
    by_name: dict[str, list[int]] = {}
    for code, value in enumerate(coded.dictionary.to_pylist()):
        by_name.setdefault(slices.name_of(value, kept), []).append(code)
    codes = coded.indices.to_numpy()
    for name, of_name in by_name.items():
        # Several values of an impression may be in one group.
        yield name, np.unique(owners[np.isin(codes, of_name)])


def _ranks(
    key: tuple[_SliceKey, _Column, int], sent: Iterable[shuffle_files.Sent]
) -> tuple[tuple[_SliceKey, _Column], ranking_metrics.Summary]:
    """Adds up the counts of one bucket of scores, and ranks them.

    It takes 24 bytes for each float32 of the bucket, at most 25 MB.
    """
    parts: list[ranking_metrics.Counts] = []
    for batch in shuffle_files.read(sent):
        scores, negative, positive = (
            arrow_batches.numpy_column(batch, name) for name in _COUNTS
        )
        parts.append((scores, negative, positive))
        # Sizes that double, so that a value is moved a few times only.
        if len(parts[0][0]) < sum(len(part[0]) for part in parts[1:]):
            parts = [ranking_metrics.merge_counts(parts)]
    ranks = ranking_metrics.ranks_of(*ranking_metrics.merge_counts(parts))
    return key[:2], ranking_metrics.Summary(ranks=(ranks,))


def _extract(
    key: _SliceKey,
    summaries: Iterable[tuple[_Column, ranking_metrics.Summary]],
) -> dict[str, Any]:
    """Returns the extract of a slice."""
    predictions: dict[str, dict[str, ranking_metrics.Summary]] = {}
    for (model, label), summary in summaries:
        predictions.setdefault(model, {})[label] = summary
    return {
        constants.SLICE_KEY_TYPES_KEY: [key],
        constants.PREDICTIONS_KEY: predictions.get("", predictions),
    }
