"""A process that appends numbered events until it is killed.

    python -m tests.serving.stores.writer URL SIZE

Append k adds SIZE events with item id k. A line `k` is printed when it is
done.
"""

from __future__ import annotations

import itertools
import sys

from serving.stores import open_store
from tests.serving.toy_store import LAYOUT


def main(url: str, size: int) -> None:
    with open_store(url, LAYOUT, timeout=20) as store:
        found = store.read(1, 1)
        first = 1 if found is None else int(found.item_ids[-1]) + 1
        for step in itertools.count(first):
            store.append(1, [step] * size, {"category": [step] * size})
            sys.stdout.write(f"{step}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
