"""One loaded version of a model.

The graph is run in a session by tensor name, as the C++ server does. Therefore
it accepts any shape that the graph accepts, error texts are the same, a call
may have a time limit, and closing the session frees the memory.
`tf.saved_model.load` would check shapes itself and keep the variables while
any function refers to them.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from muse_keras.tensorflow import has_int8_products, internals
from serving.model_server.errors import ServingError, from_tensorflow, not_found

_SERVE_TAG = "serve"


class SessionOptions:
    """Threads and devices for the sessions of a server."""

    def __init__(
        self, intra_op: int = 0, inter_op: int = 0, runs: int = 0
    ) -> None:
        self.intra_op = intra_op
        self.inter_op = inter_op
        self._turns = threading.Semaphore(runs) if runs > 0 else None

    @contextlib.contextmanager
    def turn(self, timeout_ms: int | None) -> Iterator[int | None]:
        """Waits, in order of arrival, until another graph may run."""
        if self._turns is None:
            yield timeout_ms
            return
        started = time.monotonic()
        seconds = None if timeout_ms is None else timeout_ms / 1000
        if not self._turns.acquire(timeout=seconds):
            raise ServingError(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                "Timed out waiting for notification",
            )
        try:
            if timeout_ms is not None:
                waited = int((time.monotonic() - started) * 1000)
                timeout_ms = max(1, timeout_ms - waited)
            yield timeout_ms
        finally:
            self._turns.release()

    def to_proto(self) -> Any:
        """Returns the options as a `ConfigProto`."""
        return tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=self.intra_op,
            inter_op_parallelism_threads=self.inter_op,
            allow_soft_placement=True,
            gpu_options=tf.compat.v1.GPUOptions(allow_growth=True),
            graph_options=tf.compat.v1.GraphOptions(
                # It is meant for training, and its estimates log a warning
                # for every shape that is not static.
                rewrite_options=RewriterConfig(
                    memory_optimization=RewriterConfig.NO_MEM_OPT
                ),
            ),
        )


class Servable:
    """A SavedModel in memory, with the number of calls that use it."""

    def __init__(
        self,
        name: str,
        version: int,
        path: str,
        options: SessionOptions | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.path = path
        self._options = options or SessionOptions()
        self._users = 0
        self._condition = threading.Condition()
        self._elements: dict[str, Any] = {}
        if not os.path.isfile(os.path.join(path, "saved_model.pb")):
            raise not_found(
                f"Could not find SavedModel .pb at supplied export directory "
                f"path: {path}"
            )
        self._graph: Any = tf.Graph()
        self._session: Any = tf.compat.v1.Session(
            graph=self._graph, config=self._options.to_proto()
        )
        try:
            check_processor(path)
            meta_graph = _load_into(self._session, path)
        except tf.errors.OpError as error:
            self.close()
            raise from_tensorflow(error) from error
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            self.close()
            text = str(error).strip() or type(error).__name__
            raise not_found(
                f"Cannot load SavedModel {path}: {text.splitlines()[0]}"
            ) from error
        self._graph.finalize()
        self.signatures: Mapping[str, Any] = dict(meta_graph.signature_def)

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        timeout_ms: int | None = None,
    ) -> list[np.ndarray]:
        """Runs the graph."""
        try:
            with self._options.turn(timeout_ms) as left_ms:
                if self._session is None:
                    raise ServingError(
                        grpc.StatusCode.UNAVAILABLE,
                        "The version has been unloaded.",
                    )
                return internals.run_session(
                    self._session,
                    {self._output(n): value for n, value in feeds.items()},
                    [self._output(n) for n in fetches],
                    left_ms,
                )
        except tf.errors.OpError as error:
            raise from_tensorflow(error) from None

    def acquire(self) -> None:
        """Adds a user, which keeps the version in memory."""
        with self._condition:
            self._users += 1

    def release(self) -> None:
        """Removes a user."""
        with self._condition:
            self._users -= 1
            if self._users == 0:
                self._condition.notify_all()

    def wait_unused(self, timeout: float | None = None) -> bool:
        """Waits until the version is unused; returns False on timeout."""
        with self._condition:
            return self._condition.wait_for(lambda: self._users == 0, timeout)

    def close(self) -> None:
        """Frees the graph, the variables and the tables."""
        session, self._session = self._session, None
        graph, self._graph = self._graph, None
        self._elements.clear()
        self.signatures = {}
        if session is not None:
            session.close()
            # No collection of garbage, during which all calls would wait.
            internals.free_graph(graph)

    def _output(self, name: str) -> Any:
        output = self._elements.get(name)
        if output is None:
            try:
                tensor = self._graph.as_graph_element(name, True, False)
            except (KeyError, ValueError, TypeError) as error:
                raise not_found(
                    f"FeedInputs: unable to find feed output {name}"
                ) from error
            output = internals.session_output(tensor)
            self._elements[name] = output
        return output


def check_processor(path: str) -> None:
    """Raises an error for a version exported for another processor."""
    manifest = pathlib.Path(path) / "assets.extra" / "muse_export.json"
    if not manifest.is_file():
        return
    target = json.loads(manifest.read_text(encoding="utf-8")).get("target")
    if target == "cpu" and not has_int8_products():
        raise ValueError(
            f'{path} was exported with `target` "cpu", for processors with '
            "8-bit dot products (AVX-512 VNNI or AVX-VNNI), which this machine "
            'lacks. Export it with "any".'
        )


def _load_into(session: Any, path: str) -> Any:
    """Restores a SavedModel into a session; returns its MetaGraphDef."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # "Saver not created" is expected.
    try:
        return tf.compat.v1.saved_model.load(session, [_SERVE_TAG], path)
    finally:
        logger.setLevel(level)
