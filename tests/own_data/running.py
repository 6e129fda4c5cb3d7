"""A data set on its way from tables to a served model."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import typer.testing
import yaml

# Small and quick, and enough to learn what the tests' data hold.
SETTINGS = {
    "model": {
        "embedding_dim": 8,
        "k": 5,
        "recent": 12,
        "num_tiers": 5,
        "hidden_units": [32, 16],
    },
    "trainer": {"batch_requests": 16, "learning_rate": 3e-3},
    "evaluator": {"bootstrap_samples": 50},
    # Few signatures: those of the user cache have tests of their own.
    "export": {"user_cache": {"users": 0}, "fresh_items": 0},
    "matching": {"enabled": False},
}


def run(root: pathlib.Path, tables: pathlib.Path, **sections):
    """Runs the pipeline by its command; returns its configuration."""
    from muse_tools.cli import pipeline
    from tfx_pipeline.config import load_config

    settings = {
        "output_dir": str(root / "output"),
        "data": {"raw_dir": str(tables)},
        **SETTINGS,
    }
    for name, section in sections.items():
        if isinstance(section, dict):
            section = {**settings.get(name, {}), **section}
        settings[name] = section
    path = root / "pipeline.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = ["run", "--config", str(path), "--fail-unless-pushed"]
    done = typer.testing.CliRunner().invoke(pipeline.app, command)
    assert done.exit_code == 0, done.output
    return load_config(path)


@contextlib.contextmanager
def served(config) -> Iterator[str]:
    """Serves what was pushed; yields the address."""
    from serving.model_server import ServerConfig, running

    folder = str(config.push_dir)
    server = ServerConfig(model_base_path=folder, port=0, rest_api_port=-1)
    with running(server) as found:
        yield found.grpc_target
