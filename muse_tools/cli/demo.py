"""``muse demo``: everything once, on real data."""

from __future__ import annotations

import pathlib
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from muse_tools.cli import output

if TYPE_CHECKING:
    from muse_tools.demo.chain import Answer
    from muse_tools.demo.ranked_request import RankedRequest
    from tfx_pipeline.config import PipelineConfig

__all__ = ["demo"]

_CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "demo.yaml"


def demo(
    out: Annotated[
        pathlib.Path,
        typer.Option(help="Folder for everything.", file_okay=False),
    ] = pathlib.Path("demo_output"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Take 400 households only.")
    ] = False,
    config: Annotated[
        pathlib.Path, typer.Option(help="Pipeline configuration.")
    ] = _CONFIG,
) -> None:
    """Real purchases to a served, explained ranking, and a report.

    At the end the ranking service answers a request from the user cache.

    Runs again from what is there: finished steps are reused.

    Example: muse demo --out demo_output
    """
    report = output.Reporter()
    start = time.monotonic()
    with output.one_line_errors():
        report("Loading TensorFlow and TFX")
        from muse_tools.demo import chain as demo_lib
        from tfx_pipeline import config as config_lib

        if quick:
            out = out / "quick"
        data = out / "data"
        loaded = config_lib.load_config(
            config, [f"output_dir={out}", f"data.raw_dir={data}"]
        )
        demo_lib.make_data(data, quick, report)
        runs = demo_lib.train_models(loaded, report)
        pushed = runs["muse"].pushed_to
        if pushed is None:
            raise RuntimeError("MUSE was not pushed.")
        answer = demo_lib.ask(loaded, pushed, report)
        from muse_tools import report as report_lib

        page = out / "report.html"
        report("Writing the report")
        summary = report_lib.write_report(loaded, page, report)
        served = output.short(loaded.push_dir)
        muse = output.short(pathlib.Path(sys.argv[0]).absolute())
        sys.stdout.write(
            "\n".join(
                [
                    "",
                    *summary.lines(),
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
                    "  curl localhost:8601/v1/rank -d "
                    f"""'{{"user_id": {answer.request.user_id}}}'""",
                    f"  {muse} rank --data {data} --user "
                    f"{answer.request.user_id} --candidates "
                    + ",".join(
                        str(item)
                        for item in answer.request.candidate_item_ids[:3]
                    )
                    + " --explain",
                    *(
                        [
                            f"  {muse} rank --data {data} --user "
                            f"{answer.request.user_id}"
                        ]
                        if loaded.matching.enabled
                        else []
                    ),
                    f"  {muse} data inspect {data}",
                    "",
                ]
            )
        )


def _models(config: PipelineConfig) -> str:
    """Returns the option of `muse serve` for what the demo pushed."""
    if config.matching.enabled and config.models_file.is_file():
        return f"--model-config-file {output.short(config.models_file)}"
    return f"--model-base-path {output.short(config.push_dir)}"


def _answer_lines(answer: Answer) -> list[str]:
    """Returns the served answer in words."""
    request, result = answer.request, answer.result

    def name(item: int) -> str:
        return answer.names.get(item, f"item {item}")

    order = result.order().tolist()
    calls = ", ".join(
        f"{transport} {value:.0f} ms"
        for transport, value in answer.milliseconds.items()
    )
    lines = [
        f"One request to the served model: household {request.user_id}, "
        f"{len(request.behavior_item_ids)} past purchases, "
        f"{len(order)} candidates ({calls}, largest difference between the "
        f"two {answer.difference:.0e})",
    ]
    for candidate in order[:5]:
        item = int(result.candidate_item_ids[candidate])
        lines.append(
            f"  {result.click_probability[candidate]:.3f}  {name(item)}"
        )
    best = order[0]
    item = int(result.candidate_item_ids[best])
    lines.append(f"What MUSE retrieved for {name(item)}:")
    shown: set[int] = set()
    for place in range(result.retrieved.shape[1]):
        if not result.retrieved[best, place] or len(shown) == 5:
            break
        position = int(result.behavior_indices[best, place])
        behavior = int(request.behavior_item_ids[position])
        if behavior in shown:
            continue
        shown.add(behavior)
        lines.append(
            f"  {result.similarities[best, place]:.3f}  {name(behavior)} "
            f"(purchase {position + 1} of {len(request.behavior_item_ids)})"
        )
    return lines


def _ranked_lines(ranked: RankedRequest) -> list[str]:
    """Returns the ranking service's answer in words and bars."""
    from serving.ranking_service import timeline

    source = {
        "matching": "found by matching",
        "popular": "the most popular ones",
        "request": "of the request",
    }[ranked.candidates_from]
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
