"""``muse demo``: runs the whole chain once, on real data."""

from __future__ import annotations

import pathlib
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muse_tools.cli import output
from muse_tools.cli.options import ConfigOption

if TYPE_CHECKING:
    from muse_tools.demo.chain import Answer
    from muse_tools.demo.ranked_request import RankedRequest
    from tfx_pipeline.config import PipelineConfig

_CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "demo.yaml"


def demo(
    out: Annotated[
        pathlib.Path,
        typer.Option(help="Folder for everything.", file_okay=False),
    ] = pathlib.Path("demo_output"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Use only 400 households.")
    ] = False,
    config: ConfigOption = _CONFIG,
) -> None:
    """Go from real purchases to a served, explained ranking and a report.

    Takes 5 to 17 minutes, depending on the machine; less with --quick.

    At the end the ranking service answers a request from the user cache.

    If it is run again, finished steps are reused.

    Example: muse demo --out demo_output
    """
    report = output.Reporter()
    start = time.monotonic()
    with output.one_line_errors():
        from muse_tools.datasets import complete_journey_source
        from tfx_pipeline import config as config_lib

        if quick:
            out = out / "quick"
        data = out / "data"
        loaded = config_lib.load_config(
            config, [f"output_dir={out}", f"data.raw_dir={data}"]
        )
        complete_journey_source.source("transactions")
        report("Loading TensorFlow and TFX")
        from muse_tools.demo import chain as demo_lib

        demo_lib.make_data(data, quick, report)
        runs = demo_lib.train_models(loaded, report)
        pushed = runs["muse"].pushed_to
        if pushed is None:
            raise RuntimeError("MUSE was not pushed.")
        answer = demo_lib.ask(loaded, pushed, report)
        from muse_tools.report import writer

        page = out / "report.html"
        report("Writing the report")
        found = writer.write_report(loaded, page, report)
        served = output.short(loaded.push_dir)
        muse = output.short(pathlib.Path(sys.argv[0]).absolute())
        user, wanted = answer.request.user_id, answer.request.candidate_item_ids
        rank = f"  {muse} rank --data {data} --user {user}"
        some = ",".join(str(item) for item in wanted[:3])
        output.write_lines(
            [
                "",
                *writer.summary_lines(found),
                "",
                *_answer_lines(answer),
                "",
                *_ranked_lines(answer.ranked),
                "",
                f"Done in {time.monotonic() - start:.0f} s.",
                f"  report        {page}",
                f"  served model  {served}",
                f"  raw tables    {data}",
                f"  log           {output.short(loaded.log_path)}",
                "Try next:",
                f"  {muse} serve {_models(loaded)} --with-ranking "
                f"--store lmdb:{output.short(loaded.root / 'store')}",
                f"  curl localhost:8601/v1/rank -d '{{\"user_id\": {user}}}'",
                f"{rank} --candidates {some} --explain",
                *([rank] if loaded.matching.enabled else []),
                f"  {muse} data inspect {data}",
            ]
        )


def _models(config: PipelineConfig) -> str:
    """Returns the option of `muse serve` that serves the pushed models."""
    if config.matching.enabled and config.models_file.is_file():
        return f"--model-config-file {output.short(config.models_file)}"
    return f"--model-base-path {output.short(config.push_dir)}"


def _answer_lines(answer: Answer) -> list[str]:
    """Returns the answer of the model server as text."""
    from muse_tools.cli.rank import candidate_rows

    request, history = answer.request, len(answer.request.behavior_item_ids)
    rows = candidate_rows(request, answer.result, answer.names, history)

    def name(row: dict[str, Any]) -> str:
        return row.get("name", f"item {row['item_id']}")

    calls = ", ".join(
        f"{transport} {value:.0f} ms"
        for transport, value in answer.milliseconds.items()
    )
    distinct: dict[int, dict[str, Any]] = {}
    for behavior in rows[0]["behaviors"]:
        distinct.setdefault(behavior["item_id"], behavior)
    return [
        f"One request to the served model: household {request.user_id}, "
        f"{history} past purchases, {len(rows)} candidates ({calls}, largest "
        f"difference between the two {answer.difference:.0e})",
        *(f"  {row['click_probability']:.3f}  {name(row)}" for row in rows[:5]),
        f"What MUSE retrieved for {name(rows[0])}:",
        *(
            f"  {row['similarity']:.3f}  {name(row)} (purchase "
            f"{row['position'] + 1} of {history})"
            for row in list(distinct.values())[:5]
        ),
    ]


def _ranked_lines(ranked: RankedRequest) -> list[str]:
    """Returns the answer of the ranking service as text, with a timeline."""
    from muse_tools.demo.ranked_request import source_words
    from serving.ranking_service import timeline

    source = source_words(ranked.candidates_from)
    lines = [
        f"One request to the ranking service: household {ranked.user_id}, "
        f"{ranked.num_candidates} candidates {source}, deadline "
        f"{ranked.deadline_ms:.0f} ms",
        f"  path {ranked.path}, {ranked.total_ms:.1f} ms; of "
        f"{ranked.requests} such requests {ranked.cached} were ranked from "
        f"the cache, the slowest in {ranked.slowest_ms:.1f} ms",
    ]
    lines += [
        f"  {line}" for line in timeline.as_text(ranked.stages, ranked.total_ms)
    ]
    said = timeline.overlap(ranked.stages)
    lines += [f"  {said}"] if said else []
    for row in ranked.top:
        score = row["click_probability"]
        text = "    –" if score is None else f"{score:.3f}"
        lines.append(f"  {text}  {row['name']}")
    return lines
