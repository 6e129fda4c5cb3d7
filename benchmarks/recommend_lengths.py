"""What a `recommend` call costs by the number of behaviors that it sends.

Asks a running server that has the retrieval model, with histories of a store,
the lengths in turn, and prints the median and the 95th percentile.

    python -m benchmarks.recommend_lengths --store lmdb:demo_output/store
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np

from serving.client import MuseClient, RecommendRequest
from serving.stores import open_store


def main() -> None:
    """Ask, and print a line for each length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--target", default="127.0.0.1:8500")
    parser.add_argument("--model", default="matching")
    parser.add_argument("--lengths", type=int, nargs="+", default=[50, 1_000])
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    longest = max(given.lengths)
    with open_store(given.store, create=False) as store:
        read = (store.read(user, longest) for user in store.user_ids())
        long = (found for found in read if found and len(found) == longest)
        histories = list(itertools.islice(long, given.users))
    took: dict[int, list[float]] = {length: [] for length in given.lengths}
    with MuseClient(given.target, model=given.model) as client:
        # The first round is not counted.
        for number, history, length in itertools.product(
            range(given.rounds + 1), histories, given.lengths
        ):
            ids = history.newest(length).item_ids
            started = time.perf_counter()
            client.recommend(RecommendRequest(ids, 100), model=given.model)
            if number:
                took[length].append(time.perf_counter() - started)
    for length, seconds in took.items():
        median, late = np.percentile(seconds, [50, 95]) * 1e3
        print(  # noqa: T201
            f"{length} behaviors: median {median:.2f} ms, 95 % {late:.2f} ms, "
            f"{len(seconds)} calls of {len(histories)} users"
        )


if __name__ == "__main__":
    main()
