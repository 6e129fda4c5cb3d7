"""A small SavedModel with the parts that serving must carry.

A table lookup, an int8 gather, stateful signatures, string outputs,
non-finite outputs, an assertion, a slow graph, signatures without inputs or
outputs, and batching inside the graph. Its formulas are repeated in NumPy
below.
"""

from __future__ import annotations

import functools
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

WIDTH = 5
BIAS = 0.5
CODES = np.arange(-8, 12, dtype=np.int8).reshape(4, WIDTH)
KEYS = np.array([10, -20, 2**62], np.int64)


class Toy(tf.Module):
    def __init__(self, bias: float, ballast_mb: int = 0) -> None:
        super().__init__()
        self.bias = tf.Variable(bias, dtype=tf.float32)
        self.codes = tf.Variable(CODES, trainable=False)
        self.memory = tf.Variable(tf.zeros([4], tf.int64), trainable=False)
        self.bytes = tf.Variable(tf.zeros([4], tf.int8), trainable=False)
        self.halves = tf.Variable(tf.zeros([4], tf.half), trainable=False)
        self.ballast = tf.Variable(
            tf.ones([max(1, ballast_mb) * 1024, 256], tf.float32)
        )
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(KEYS), tf.constant([1, 2, 3], tf.int64)
            ),
            default_value=0,
        )

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int64, name="ids"),
            tf.TensorSpec([None, None], tf.float32, name="x"),
        ]
    )
    def score(self, ids, x):
        rows = self.table.lookup(ids)
        codes = tf.cast(tf.gather(self.codes, rows), tf.float32)
        return {
            "score": tf.reduce_sum(codes * x, axis=-1) + self.bias,
            "row": rows,
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="v")])
    def remember(self, v):
        self.memory.assign(tf.pad(v, [[0, 4 - tf.shape(v)[0]]]))
        return {"count": tf.shape(v)[0]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="i")])
    def recall(self, i):
        return {"value": tf.gather(self.memory, i)}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int64, name="i"),
            tf.TensorSpec([None], tf.float32, name="v"),
        ]
    )
    def scatter(self, i, v):
        for variable in (self.bytes, self.halves):
            values = tf.cast(v, variable.dtype)
            variable.scatter_update(tf.IndexedSlices(values, i))
        self.memory[2:].assign(tf.fill([2], tf.reduce_sum(i)))
        return {"count": tf.shape(i)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="i")])
    def scattered(self, i):
        return {
            "bytes": tf.gather(self.bytes, i),
            "halves": tf.cast(tf.gather(self.halves, i), tf.float32),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="v")])
    def remember_and_fail(self, v):
        assign = self.memory.assign(tf.pad(v, [[0, 4 - tf.shape(v)[0]]]))
        with tf.control_dependencies([assign]):
            failing = tf.debugging.Assert(tf.size(v) > 4, ["not today"])
        with tf.control_dependencies([failing]):
            return {"v": tf.identity(v)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="v")])
    def remember_only(self, v):
        self.memory.assign(tf.pad(v, [[0, 4 - tf.shape(v)[0]]]))
        return {}

    @tf.function(input_signature=[])
    def no_input(self):
        return {"y": tf.constant([1.5])}

    @tf.function(
        input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")]
    )
    def three_wide(self, x):
        return {"y": tf.reduce_sum(x, axis=-1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="v")])
    def batched_inside(self, v):
        @tf.nondifferentiable_batch_function(
            num_batch_threads=1,
            max_batch_size=8,
            batch_timeout_micros=1000,
            allowed_batch_sizes=[8],
        )
        def batch(v):
            return -v, tf.fill(tf.shape(v), tf.size(v))

        v, rows = batch(v)
        return {"v": v, "rows": rows}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def specials(self, x):
        return {"y": tf.math.log(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="s")])
    def text(self, s):
        return {"plain": s, "raw_bytes": s}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def positive(self, x):
        with tf.control_dependencies(
            [tf.debugging.Assert(tf.reduce_all(x > 0), [x])]
        ):
            return {"y": tf.identity(x)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64, name="n")])
    def slow(self, n):
        matrix = tf.eye(200) * 0.5

        def step(i, m):
            return i + 1, tf.matmul(m, matrix) + 1.0

        _, out = tf.while_loop(
            lambda i, m: i < n, step, [tf.constant(0, tf.int64), matrix]
        )
        return {"y": tf.reshape(tf.reduce_sum(out), [1])}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="file")])
    def hold(self, file):
        """Says in a second file that it runs, until there is the first."""
        with tf.control_dependencies(
            [tf.io.write_file(tf.strings.join([file, ".held"]), "")]
        ):
            found = tf.while_loop(
                lambda found: tf.logical_not(found),
                lambda _: tf.size(tf.io.matching_files(file)) > 0,
                [tf.constant(False)],
            )
        return {"y": tf.cast(tf.reshape(found, [1]), tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="v")])
    def echo(self, v):
        return {"v": tf.identity(v)}


def expected_scores(
    ids: Iterable[int], x: np.ndarray, bias: float
) -> np.ndarray:
    """The score signature in NumPy."""
    places = {int(key): row for row, key in enumerate(KEYS, 1)}
    rows = [places.get(int(i), 0) for i in ids]
    return (CODES[rows].astype(np.float32) * x).sum(-1) + np.float32(bias)


def export_toy(
    base: pathlib.Path,
    version: int,
    bias: float = 0.0,
    warmup: Iterable[predict_pb2.PredictRequest] = (),
    ballast_mb: int = 0,
) -> pathlib.Path:
    """Writes a version under a temporary name, then renames it."""
    temporary = base / f"writing-{version}"
    shutil.copytree(_exported(ballast_mb), temporary)
    if bias:
        _set_bias(temporary, bias)
    records = list(warmup)
    if records:
        write_warmup(temporary, records)
    final = base / str(version)
    temporary.rename(final)
    return final


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="toy-model-")


@functools.cache
def _exported(ballast_mb: int) -> pathlib.Path:
    """A version that adds nothing; others are made from it, much sooner."""
    path = pathlib.Path(_folder().name) / str(ballast_mb)
    toy = Toy(0.0, ballast_mb)
    tf.saved_model.save(
        toy,
        str(path),
        signatures={
            "serving_default": toy.score,
            "score": toy.score,
            "remember": toy.remember,
            "recall": toy.recall,
            "scatter": toy.scatter,
            "scattered": toy.scattered,
            "remember_and_fail": toy.remember_and_fail,
            "remember_only": toy.remember_only,
            "no_input": toy.no_input,
            "three_wide": toy.three_wide,
            "batched_inside": toy.batched_inside,
            "specials": toy.specials,
            "text": toy.text,
            "positive": toy.positive,
            "slow": toy.slow,
            "hold": toy.hold,
            "echo": toy.echo,
        },
    )
    return path


def _set_bias(version: pathlib.Path, bias: float) -> None:
    """Writes the variables again, with another bias."""
    prefix = str(version / "variables" / "variables")
    kept = tf.train.load_checkpoint(prefix)
    names = sorted(kept.get_variable_to_shape_map())
    (changed,) = [name for name in names if name.startswith("bias/")]
    values = {name: kept.get_tensor(name) for name in names}
    values[changed] = np.float32(bias)
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(values[name]) for name in names],
    )


def write_warmup(
    version: pathlib.Path, requests: Iterable[predict_pb2.PredictRequest]
) -> None:
    """Adds warmup records to a version."""
    folder = version / "assets.extra"
    folder.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(
        os.fspath(folder / "tf_serving_warmup_requests")
    ) as writer:
        for request in requests:
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())


def score_request(
    ids: Iterable[int] = (10,),
    x: np.ndarray | None = None,
    signature: str = "score",
    model: str = "toy",
) -> predict_pb2.PredictRequest:
    """A PredictRequest for the score signature."""
    ids = np.asarray(list(ids), np.int64)
    if x is None:
        x = np.ones((len(ids), WIDTH), np.float32)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    request.inputs["ids"].CopyFrom(tf.make_tensor_proto(ids))
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(x))
    return request


if __name__ == "__main__":  # python -m tests.serving.toy_model DIR
    # To serve it from a real server and run the tests against that one.
    import sys

    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    export_toy(folder, 1, bias=BIAS)
