"""The join from an S3 server to an S3 server, against the join in folders."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import apache_beam as beam
import pytest
from tfx.types import standard_artifacts

from tests import s3_server
from tests.docs.test_docs import ROOT
from tests.tfx_pipeline import beam_parts
from tfx_pipeline.components.request_example_gen import RequestExampleGen

pytestmark = [pytest.mark.tf, pytest.mark.once]


def join(raw_dir: str, examples: str, rejected: str) -> None:
    artifact = standard_artifacts.Examples()
    artifact.uri = examples
    RequestExampleGen.test_call(
        artifact,
        raw_dir=raw_dir,
        raw_fingerprint="",
        rejected_dir=rejected,
        max_candidates=4,
        max_rejected_fraction=1.0,
        join_partitions=2,
        beam_pipeline=beam.Pipeline(),
    )


def test_the_join_reads_and_writes_object_storage(tmp_path: pathlib.Path):
    from muse_tools.datasets import synth

    options = synth.Options(
        users=20, items=100, history=20, candidates=5, seed=3, broken=2
    )
    synth.generate(tmp_path / "data", options)
    join(
        str(tmp_path / "data"),
        str(tmp_path / "examples"),
        str(tmp_path / "rejected"),
    )
    with s3_server.served(tmp_path) as storage:
        s3_server.upload(storage, tmp_path / "data", "raw-tables/data")
        storage.create_dir("outputs")
        # boto3 is no package of this environment, but of the server's.
        program = (
            f"import sys; sys.path.append({s3_server.packages()!r}); "
            f"from {__name__} import join; join(*sys.argv[1:])"
        )
        subprocess.run(
            [
                *(sys.executable, "-c", program),
                *("s3://raw-tables/data", "s3://outputs/examples"),
                str(tmp_path / "far_rejected"),
            ],
            cwd=ROOT,
            check=True,
        )
        s3_server.download(storage, "outputs", tmp_path / "out")
    # Nothing else is left there: no unfinished and no shuffle files.
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["examples"]
    for near, far in (
        ("examples", "out/examples"),
        ("rejected", "far_rejected"),
    ):
        wanted = beam_parts.content(tmp_path / near)
        assert beam_parts.content(tmp_path / far) == wanted
        assert len(wanted) > 1
