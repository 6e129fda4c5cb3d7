"""The steps of `muse demo`, from real purchases to an answered request."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from muse_tools.datasets import complete_journey, user_lookup
from muse_tools.datasets.errors import DataError
from muse_tools.demo import ranked_request
from muse_tools.stores import user_store
from serving import client as client_lib
from serving import local_server
from serving.files import newest_version, write_json
from serving.stores import open_store
from tfx_pipeline import config as config_lib
from tfx_pipeline.runs import lineage, runner, verdict

Report = Callable[[str], None]

QUICK = complete_journey.Options(users=400, search_events=20_000)


@dataclasses.dataclass(frozen=True)
class Answer:
    """Answers of the model server and of the ranking service for one user.

    `milliseconds` has the duration of one call by transport, after a first
    call. `difference` is the largest one between the transports' scores.
    """

    request: client_lib.RankRequest
    result: client_lib.ExplainResult
    milliseconds: dict[str, float]
    difference: float
    names: dict[int, str]
    ranked: ranked_request.RankedRequest


def make_data(directory: pathlib.Path, quick: bool, report: Report) -> None:
    """Writes the raw tables, unless they were written before."""
    options = QUICK if quick else complete_journey.Options()
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
    """Runs the pipeline for DIN, then for MUSE.

    Raises:
        DataError: if MUSE is not pushed.
    """
    for model_type in ("din", "muse"):
        report(f"Pipeline for {model_type.upper()}")
        # One retrieval model is enough: the one that is served with MUSE.
        enabled = config.matching.enabled and model_type == "muse"
        update: dict[str, Any] = {"type": model_type}
        if model_type == "din":
            update |= {"gsu": None, "esu": None}
        own = config.model_copy(
            update={
                "model": config.model.model_copy(update=update),
                "matching": config.matching.model_copy(
                    update={"enabled": enabled}
                ),
            }
        )
        runner.run(own, report)
        for said in verdict.verdicts(own, model_type):
            report(str(said))
    runs = lineage.model_runs(config)
    if runs["muse"].pushed_to is None:
        raise DataError(
            "NOT_PUSHED",
            f"{verdict.of_model(runs['muse'])}.",
            f"read the report and {config.log_path}.",
        )
    return runs


def ask(
    config: config_lib.PipelineConfig, pushed: pathlib.Path, report: Report
) -> Answer:
    """Serves the pushed models and sends ranking requests for one user.

    The histories are loaded into a store. The model server is called by gRPC
    and by REST; then the ranking service is called for the same user, with the
    candidates of the retrieval model if one was pushed.
    """
    directory = pathlib.Path(config.data.raw_dir)
    request = user_lookup.pick_request(directory)
    names = user_lookup.item_names(
        directory,
        [
            *map(int, request.candidate_item_ids),
            *map(int, request.behavior_item_ids),
        ],
    )
    store = f"lmdb:{config.root / 'store'}"
    users = user_store.Users.find(directory)
    with open_store(store, users.layout) as opened:
        loaded = user_store.load_table(opened, users)
    report(
        f"{loaded.users:,} users with {loaded.events:,} events loaded into "
        f"the behavior store in {loaded.seconds:.1f} s"
    )
    models = {"muse": pushed}
    matching = newest_version(config.matching_dir)
    if config.matching.enabled and matching is not None:
        models["matching"] = matching
    report(f"Serving {' and '.join(map(str, models.values()))}")
    milliseconds: dict[str, float] = {}
    scores: dict[str, np.ndarray] = {}

    def call(client: client_lib.MuseClient, transport: str) -> None:
        client.rank(request)
        start = time.perf_counter()
        scores[transport] = client.rank(request).click_probability
        milliseconds[transport] = 1e3 * (time.perf_counter() - start)

    with local_server.local_server(models) as address:
        with client_lib.MuseClient(address.rest, "rest") as client:
            call(client, "rest")
        with client_lib.MuseClient(address.grpc, "grpc") as client:
            call(client, "grpc")
            result = client.explain(request)
        report("Asking the ranking service")
        ranked = ranked_request.send(
            address.grpc,
            store,
            int(request.user_id),
            directory,
            pushed.name,
            None
            if "matching" in models
            else np.asarray(request.candidate_item_ids),
        )
    path = config.root / ranked_request.FILE
    write_json(path, dataclasses.asdict(ranked))
    difference = float(np.abs(scores["grpc"] - scores["rest"]).max())
    return Answer(request, result, milliseconds, difference, names, ranked)
