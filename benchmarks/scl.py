"""What the SCL tower, its bank and its hard negatives are worth.

    python -m benchmarks.scl [--seeds 3] [--quick] [--json]

No timing: quality. Synthetic searches go through the product's own
components (ItemContentGen, SearchExampleGen, SCLTrainer with `scl.ablations`)
and the recall of the bought item of held-out searches is printed for the
tower, for the tower without bank and without hard negatives (same seed, same
order of events), for the cosine of the raw modalities and for random vectors;
one line per seed, then the mean over seeds and its range. Every seed makes
other data, other initial weights and another order.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

from benchmarks import harness

FULL = {"users": 1_000, "items": 50_000, "search_events": 20_000}
QUICK = {"users": 100, "items": 2_000, "search_events": 4_000}
SCOPES = ("all", "same_category")

Recalls = dict[str, dict[str, dict[str, float]]]


def main() -> None:
    """Train the towers for each seed and print the recall of each method."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--quick", action="store_true", help="small data")
    parser.add_argument("--json", action="store_true", help="no table")
    arguments = parser.parse_args()
    harness.pin(2)
    sizes = QUICK if arguments.quick else FULL
    runs = []
    for seed in range(arguments.seeds):
        harness.say(f"scl: seed {seed}")
        with tempfile.TemporaryDirectory() as folder:
            found = recalls(pathlib.Path(folder), seed, sizes, ablations=True)
        runs.append(found)
        for method, scopes in found.items():
            line = {"bench": "scl", "seed": seed, "method": method, **scopes}
            print(json.dumps(line), flush=True)
    if not arguments.json:
        _print_table(runs)


def recalls(
    folder: pathlib.Path,
    seed: int,
    sizes: Mapping[str, int],
    *,
    ablations: bool,
) -> Recalls:
    """Make searches, train on them, and measure held-out recall.

    Args:
        folder: for everything that is written.
        seed: of the data and of the training.
        sizes: options of the synthetic generator.
        ablations: also train without bank and without hard negatives.

    Returns:
        Recall by method, scope (all, same_category) and k.
    """
    from muse_tools.datasets import synth
    from muse_tools.datasets.item_content import ItemContent
    from tfx_pipeline import config
    from tfx_pipeline.components.artifacts import CONTENT_DIR
    from tfx_pipeline.components.item_content_gen import build_item_content
    from tfx_pipeline.scl import trainer

    data = folder / "data"
    synth.generate(data, synth.Options(history=50, seed=seed, **sizes))
    content = folder / CONTENT_DIR
    build_item_content(data, content, folder / "rejected")
    events = _search_examples(folder, data)
    trainer.run(
        config.SCLConfig(seed=seed, ablations=ablations),
        ItemContent.open(content),
        train_files=[str(events / "Split-train" / "*.gz")],
        eval_files=[str(events / "Split-eval" / "*.gz")],
        raw_dir=str(data),
        checkpoint_dir=folder / "checkpoints",
        run_dir=folder / "run",
        model_dir=folder / "model",
    )
    found = json.loads(
        (folder / "run" / trainer.EVALUATION_FILE).read_text(encoding="utf-8")
    )
    return {
        method: {
            scope: {k: recall["value"] for k, recall in scopes[scope].items()}
            for scope in SCOPES
        }
        for method, scopes in found["methods"].items()
    }


def _search_examples(folder: pathlib.Path, data: pathlib.Path) -> pathlib.Path:
    """Run SearchExampleGen; return the folder of its splits."""
    import apache_beam as beam
    from tfx.v1.types import standard_artifacts

    from tfx_pipeline import beam_config, config
    from tfx_pipeline.components.artifacts import ItemContentArtifact
    from tfx_pipeline.components.search_example_gen import SearchExampleGen

    content = ItemContentArtifact()
    content.uri = str(folder)
    examples = standard_artifacts.Examples()
    examples.uri = str(folder / "events")
    arguments = beam_config.BeamConfig().flags()
    settings = config.SCLConfig()
    SearchExampleGen.test_call(
        content,
        examples,
        raw_dir=str(data),
        raw_fingerprint="",
        rejected_dir=str(folder / "rejected_events"),
        eval_fraction=settings.eval_fraction,
        text_encoder=settings.text_encoder,
        max_rejected_fraction=settings.max_rejected_fraction,
        beam_pipeline=beam.Pipeline(argv=arguments),
    )
    return folder / "events"


def _print_table(runs: list[dict[str, Any]]) -> None:
    """Print the mean and the range over seeds."""
    for scope in SCOPES:
        print(f"\nrecall among {scope.replace('_', ' ')} items, mean (range)")
        ks = list(next(iter(runs[0].values()))[scope])
        print(f"{'':30}" + "".join(f"{'@' + k:>22}" for k in ks))
        for method in runs[0]:
            entries = ""
            for k in ks:
                values = [run[method][scope][k] for run in runs]
                mean = sum(values) / len(values)
                entries += f"{mean:9.3f} ({min(values):.3f}-{max(values):.3f})"
            print(f"{method:30}{entries}")


if __name__ == "__main__":
    main()
