"""Many threads write and read a tiny cache through the server.

Each prefetch stores a history that says the same number in every behavior,
in its length and for its user, so that a history mixed of two shows.

    python -m tests.serving.export.cache_stress --operations 100000
"""

import argparse
import pathlib
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import tensorflow as tf

from serving.export import UserCacheConfig
from serving.export.user_cache import UserCache
from serving.export.words import WordFormat

SHORTEST, LONGEST = 600, 6_000
# More users than slots: they fight for them.
CONFIG = UserCacheConfig(users=4, ways=2, max_length=LONGEST)
USERS = 6
IDS = tf.TensorSpec([None], tf.int64)


class Echo(tf.Module):
    """A model whose answer is what it found in the cache."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = UserCache(CONFIG, WordFormat(27, {"category": 10}), 1)

    def prefetch(self, user_id: Any, number: Any) -> dict[str, Any]:
        """Store a history that consists of `number`."""
        lengths = length_of(number)
        mask = tf.sequence_mask(lengths, LONGEST)
        rows = tf.where(mask, number[:, tf.newaxis], tf.zeros_like(lengths[:1]))
        stored, generation = self.cache.write(
            user_id, number[:, tf.newaxis], rows, [rows & 1023], mask
        )
        return {"cached_length": stored, "generation": generation}

    def rank_cached(self, user_id: Any) -> dict[str, Any]:
        """Return the least and the greatest number, and where they are."""
        found = self.cache.read(user_id)
        most = tf.reduce_max(tf.where(found.mask, found.rows, -1), axis=1)
        least = tf.reduce_min(tf.where(found.mask, found.rows, 1 << 40), axis=1)
        categories = tf.reduce_all(
            tf.equal(found.behaviors[0], found.rows & 1023) | ~found.mask,
            axis=1,
        )
        return {
            "hit": found.hit,
            "generation": found.generation,
            "least": least,
            "most": most,
            "same_categories": categories,
            "length": tf.reduce_sum(tf.cast(found.mask, tf.int64), axis=1),
            "user": found.user[:, 0],
        }


def length_of(number: Any) -> Any:
    """Return the length of the history of a number."""
    return SHORTEST + number * 7919 % (LONGEST - SHORTEST + 1)


def export(base: pathlib.Path) -> None:
    """Write the model."""
    model = Echo()

    def traced(function: Any, *specs: Any) -> Any:
        return tf.function(function, specs, autograph=False)

    named = tf.TensorSpec([None], tf.int64, name="user_id")
    number = tf.TensorSpec([None], tf.int64, name="number")
    tf.saved_model.save(
        model,
        str(base / "1"),
        signatures={
            "prefetch": traced(model.prefetch, named, number),
            "rank_cached": traced(model.rank_cached, named),
        },
    )


class Stress:
    """What the threads share.

    Attributes:
        counts: calls and outcomes.
        wrong: answers that no history can give.

    Args:
        target: gRPC address.
        seed: of the random order.
    """

    def __init__(self, target: str, seed: int = 0) -> None:
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        self._channel = grpc.insecure_channel(target)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(
            self._channel
        )
        self._seed = seed
        self._lock = threading.Lock()
        self._next = 0
        self._ticks = 0
        # When the newest prefetch of a user began that is known to be stored.
        self._stored: dict[int, int] = dict.fromkeys(range(USERS), 0)
        # When the prefetch of a number ended.
        self._ended: dict[int, int] = {}
        self._numbers: dict[int, int] = {}
        self._seen: list[tuple[int, int]] = []
        self.counts: Counter[str] = Counter()
        self.wrong: list[Any] = []

    def run(self, operations: int, threads: int) -> None:
        """Make that many calls."""
        workers = [
            threading.Thread(
                target=self._work, args=(index, operations // threads)
            )
            for index in range(threads)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        for generation, number in self._seen:
            if self._numbers.get(generation, number) != number:
                self.wrong.append(("generation", generation, number))
        self._channel.close()

    def _work(self, index: int, operations: int) -> None:
        chance = random.Random(self._seed * 1000 + index)  # noqa: S311
        try:
            for _ in range(operations):
                # One user of three is everyone's favorite.
                user = chance.choice([0, chance.randrange(USERS)])
                if chance.random() < 0.5:
                    self._prefetch(user)
                else:
                    self._rank(user)
        except Exception as error:  # A thread must not die unseen.
            self.wrong.append(error)

    def _prefetch(self, user: int) -> None:
        with self._lock:
            self._next += 1
            number = self._next
            began = self._tick()
        answer = self._call("prefetch", user_id=[user], number=[number])
        generation = int(answer["generation"][0])
        length = int(answer["cached_length"][0])
        with self._lock:
            self.counts["prefetch"] += 1
            self._ended[number] = self._tick()
            if not generation:
                self.counts["prefetch lost"] += 1
                if length:
                    self.wrong.append(("length without generation", length))
                return
            if length != length_of(number) or generation in self._numbers:
                self.wrong.append(("prefetch", number, length, generation))
            self._numbers[generation] = number
            self._stored[user] = max(self._stored[user], began)

    def _rank(self, user: int) -> None:
        with self._lock:
            stored = self._stored[user]
        answer = {
            name: value.item()
            for name, value in self._call("rank_cached", user_id=[user]).items()
        }
        with self._lock:
            self.counts["rank_cached"] += 1
            if not answer["hit"]:
                self.counts["miss"] += 1
                return
            self.counts["hit"] += 1
            number = answer["most"]
            self._seen.append((answer["generation"], number))
            if (
                answer["least"] != number
                or answer["user"] != number
                or answer["length"] != length_of(number)
                or not answer["same_categories"]
                # Its prefetch was over before a newer one began that was
                # acknowledged before this call.
                or self._ended.get(number, stored) < stored
            ):
                self.wrong.append((user, stored, answer))

    def _tick(self) -> int:
        """Return the next moment; the lock is held."""
        self._ticks += 1
        return self._ticks

    def _call(self, name: str, **inputs: Any) -> dict[str, Any]:
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name = "echo"
        request.model_spec.signature_name = name
        for key, value in inputs.items():
            request.inputs[key].CopyFrom(
                tf.make_tensor_proto(np.array(value, np.int64))
            )
        reply = self._stub.Predict(request, timeout=60)
        return {k: tf.make_ndarray(v) for k, v in reply.outputs.items()}


def stress(operations: int, threads: int = 8, seed: int = 0) -> Stress:
    """Export, serve and call; return what came of it."""
    from serving.model_server import ServerConfig, running

    with tempfile.TemporaryDirectory() as folder:
        base = pathlib.Path(folder) / "echo"
        export(base)
        config = ServerConfig(
            model_name="echo",
            model_base_path=str(base),
            port=0,
            rest_api_port=0,
            grpc_max_threads=64,
        )
        with running(config) as app:
            found = Stress(app.grpc_target, seed)
            found.run(operations, threads)
    return found


def main() -> int:
    """Print the outcomes; 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--without-check",
        action="store_true",
        help="leave out the check of the marks: wrong answers are expected",
    )
    given = parser.parse_args()
    if given.without_check:
        UserCache._is_whole = (  # type: ignore[method-assign]
            lambda self, header, *others: tf.ones_like(header[:, 0], tf.bool)
        )
    start = time.monotonic()
    found = stress(given.operations, given.threads, given.seed)
    seconds = time.monotonic() - start
    sys.stdout.write(
        f"{sum(found.counts[n] for n in ('prefetch', 'rank_cached')):,} calls "
        f"in {seconds:.0f} s: {dict(found.counts)}; "
        f"{len(found.wrong)} wrong {found.wrong}\n"
    )
    return int(bool(found.wrong))


if __name__ == "__main__":
    sys.exit(main())
