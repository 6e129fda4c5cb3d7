"""The main job on real data, from purchases to an answered request."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow.compute as pc

from serving import client as client_lib
from serving import local_server
from tfx_pipeline import config as config_lib
from tfx_pipeline import lineage, runner
from tfx_pipeline.cli import user_lookup
from tfx_pipeline.data import complete_journey, raw_tables
from tfx_pipeline.data.errors import DataError

__all__ = ["Answer", "ask", "make_data", "pick_request", "train_models"]

Report = Callable[[str], None]

QUICK_USERS = 400
_CANDIDATES = 10
_LONG_HISTORY = 200


@dataclasses.dataclass(frozen=True)
class Answer:
    """The served model's answer to one request, by both protocols.

    Attributes:
        request: what was asked.
        result: scores and retrieved behaviours, by gRPC.
        milliseconds: one call, by transport, after a first one.
        difference: largest difference between the transports' scores.
        names: of the items in the request.
    """

    request: client_lib.RankRequest
    result: client_lib.ExplainResult
    milliseconds: dict[str, float]
    difference: float
    names: dict[int, str]


def make_data(directory: pathlib.Path, quick: bool, report: Report) -> None:
    """Writes the raw tables, or finds them written before.

    Args:
        directory: data set directory.
        quick: take some of the households only.
        report: receives one line per event.
    """
    options = complete_journey.Options(users=QUICK_USERS if quick else 0)
    start = time.monotonic()
    made, reused = complete_journey.generate(directory, options)
    splits = made["splits"]
    report(
        f"Complete Journey {'found' if reused else 'written'} in "
        f"{time.monotonic() - start:.1f} s: "
        f"{splits['train']['impressions']:,} train and "
        f"{splits['test']['impressions']:,} test impressions of "
        f"{splits['train']['users']:,} households"
    )


def train_models(
    config: config_lib.PipelineConfig, report: Report
) -> dict[str, lineage.ModelRun]:
    """Runs the pipeline for DIN, then for MUSE against it.

    Args:
        config: the pipeline.
        report: receives one line per event.

    Returns:
        Both runs, by model type.

    Raises:
        ComponentFailed: a component failed.
        DataError: MUSE was not pushed.
    """
    for model_type in ("din", "muse"):
        report(f"Pipeline for {model_type.upper()}")
        model = config.model.model_copy(update={"type": model_type})
        runner.run(config.model_copy(update={"model": model}), report)
    runs = lineage.model_runs(config)
    if runs["muse"].pushed_to is None:
        raise DataError(
            "NOT_PUSHED",
            "MUSE was trained but not pushed: it was not blessed.",
            f"read the report and {config.log_path}.",
        )
    return runs


def pick_request(directory: pathlib.Path) -> client_lib.RankRequest:
    """Returns a request of the test weeks: a user with a long history.

    Args:
        directory: data set directory.
    """
    tables = raw_tables.RawTables.open(directory)
    user = next(_users_with_history(tables))
    candidates: list[int] = []
    for batch in tables[raw_tables.TEST_SAMPLES].iter_batches():
        column = batch.column(batch.schema.get_field_index(raw_tables.USER_ID))
        chosen = batch.filter(pc.equal(column, user))
        index = chosen.schema.get_field_index(raw_tables.ITEM_ID)
        candidates += chosen.column(index).to_pylist()
    distinct = list(dict.fromkeys(candidates))[:_CANDIDATES]
    return user_lookup.find_request(directory, user, distinct)


def _users_with_history(tables: raw_tables.RawTables) -> Iterator[int]:
    """Yields test users with long histories first."""
    best = (0, 0)
    for batch in tables[raw_tables.TEST_USER_FEATURES].iter_batches():
        ids = batch.column(batch.schema.get_field_index(raw_tables.USER_ID))
        lists = batch.column(
            batch.schema.get_field_index(raw_tables.BEHAVIOR_ITEM_IDS)
        )
        lengths = pc.list_value_length(lists).to_numpy()
        for row in np.flatnonzero(lengths >= _LONG_HISTORY):
            yield ids[int(row)].as_py()
        if len(lengths):
            row = int(lengths.argmax())
            best = max(best, (int(lengths[row]), ids[row].as_py()))
    yield best[1]


def ask(
    saved_model: pathlib.Path, directory: pathlib.Path, report: Report
) -> Answer:
    """Serves a model and asks it by gRPC and by REST.

    Args:
        saved_model: version folder.
        directory: data set directory.
        report: receives one line per event.
    """
    request = pick_request(directory)
    names = user_lookup.item_names(
        directory,
        [
            *map(int, request.candidate_item_ids),
            *map(int, request.behavior_item_ids),
        ],
    )
    report(f"Serving {saved_model}")
    milliseconds: dict[str, float] = {}
    scores: dict[str, np.ndarray] = {}

    def call(client: client_lib.MuseClient, transport: str) -> None:
        client.rank(request)
        start = time.perf_counter()
        scores[transport] = client.rank(request).click_probability
        milliseconds[transport] = 1e3 * (time.perf_counter() - start)

    with local_server.local_server(saved_model) as address:
        with client_lib.MuseClient(address.rest, "rest") as client:
            call(client, "rest")
        with client_lib.MuseClient(address.grpc, "grpc") as client:
            call(client, "grpc")
            result = client.explain(request)
    difference = float(np.abs(scores["grpc"] - scores["rest"]).max())
    return Answer(request, result, milliseconds, difference, names)
