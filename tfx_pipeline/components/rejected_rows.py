"""Where components keep the rows they could not use, and their counts."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping

from absl import logging

from muse_tools.datasets import validation
from muse_tools.datasets.errors import DataError

__all__ = ["COUNTS_FILE", "check", "replaced", "write_counts"]

COUNTS_FILE = "counts.json"


@contextlib.contextmanager
def replaced(directory: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Gives an empty folder that takes the place of a directory.

    Args:
        directory: Replaced when the ``with`` block ends without an error,
            left as it is otherwise.
    """
    target = pathlib.Path(directory)
    fresh = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def write_counts(folder: pathlib.Path, counts: Mapping[str, int]) -> None:
    """Writes row counts to ``counts.json`` and to the log."""
    (folder / COUNTS_FILE).write_text(
        json.dumps(counts, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    logging.info("Row counts: %s", dict(counts))


def check(
    counts: Mapping[str, int],
    *,
    label: str,
    rows: str,
    table: str,
    used: int,
    limit: float,
    option: str,
    rejected_dir: pathlib.Path,
) -> None:
    """Checks that every row of a table is accounted for, few rejected.

    Args:
        counts: ``read/<table>`` and ``rejected/<table>/<reason>``.
        label: What the message is about.
        rows: What a row is, in the plural.
        table: Table of the counts.
        used: Rows that were used.
        limit: Share of rejected rows above which it is too much.
        option: Setting of the limit, for the message.
        rejected_dir: Where the rejected rows are, for the message.

    Raises:
        DataError: ``LOST_ROWS``, ``EMPTY_SPLIT`` or ``TOO_MANY_REJECTED``.
    """
    read = counts.get(f"read/{table}", 0)
    prefix = f"rejected/{table}/"
    reasons = {
        key[len(prefix) :]: value
        for key, value in counts.items()
        if key.startswith(prefix)
    }
    rejected = sum(reasons.values())
    if read != used + rejected:
        raise DataError(
            "LOST_ROWS",
            f"{label}: {read:,} {rows} read, {used:,} joined and "
            f"{rejected:,} rejected do not add up.",
            "this is a defect of the join; please report it.",
        )
    worst = ", ".join(
        f"{value:,} {reason}"
        for reason, value in sorted(reasons.items(), key=lambda item: -item[1])
    )
    if not used:
        raise DataError(
            "EMPTY_SPLIT",
            f"{label}: none of {read:,} {rows} could be joined"
            f"{': ' + worst if worst else ''}.",
            "check that the tables belong together with `muse data inspect`.",
        )
    if rejected > limit * read:
        raise DataError(
            "TOO_MANY_REJECTED",
            f"{label}: {rejected:,} of {read:,} {rows} rejected ({worst}); at "
            f"most {limit:.2%} allowed.",
            f"{validation.hint_for(reasons)} The rows are in {rejected_dir}; "
            f"if they may be missing, raise {option}.",
        )
