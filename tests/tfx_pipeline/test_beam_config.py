"""Settings of Beam: what Beam's own parser makes of them, and errors."""

from __future__ import annotations

import pytest
from apache_beam.options import pipeline_options

from schemas import settings_file
from schemas.settings_file import ConfigError
from tfx_pipeline import config as config_lib

CLOUD = {
    "runner": "dataflow",
    "project": "shop",
    "region": "europe-west4",
    "temp_location": "gs://shop/tmp",
    "environment_config": "gcr.io/shop/muse:1",
}


def load(beam):
    values = {"output_dir": "out", "data": {"raw_dir": "raw"}, "beam": beam}
    return settings_file.parse(
        config_lib.PipelineConfig, values, "x.yaml", config_lib.KEYS
    ).beam


@pytest.mark.parametrize(
    "beam, expected",
    [
        (
            {},
            {
                "runner": "DirectRunner",
                "direct_running_mode": "in_memory",
                "direct_num_workers": 1,
            },
        ),
        (
            {"parallelism": 3},
            {
                "runner": "DirectRunner",
                "direct_running_mode": "multi_processing",
                "direct_num_workers": 3,
            },
        ),
        (
            {
                "runner": "portable",
                "job_endpoint": "jobs:8099",
                "environment": "PROCESS",
                "environment_config": '{"command": "/opt/worker start"}',
                "parallelism": 2,
            },
            {
                "runner": "PortableRunner",
                "job_endpoint": "jobs:8099",
                "environment_type": "PROCESS",
                "environment_config": '{"command": "/opt/worker start"}',
                "sdk_worker_parallelism": "2",
            },
        ),
        (
            {
                "runner": "flink",
                "master": "flink:8081",
                "parallelism": 8,
                "extra": ["--flink_submit_uber_jar"],
            },
            {
                "runner": "FlinkRunner",
                "flink_master": "flink:8081",
                "parallelism": 8,
                "flink_submit_uber_jar": True,
            },
        ),
        (
            {
                "runner": "spark",
                "master": "spark://spark:7077",
                "environment": "DOCKER",
                "environment_config": "shop/muse:1",
            },
            {
                "runner": "SparkRunner",
                "spark_master_url": "spark://spark:7077",
                "environment_type": "DOCKER",
                "environment_config": "shop/muse:1",
            },
        ),
        (
            {**CLOUD, "parallelism": 9, "staging_location": "gs://shop/in"},
            {
                "runner": "DataflowRunner",
                "project": "shop",
                "region": "europe-west4",
                "temp_location": "gs://shop/tmp",
                "staging_location": "gs://shop/in",
                "sdk_container_image": "gcr.io/shop/muse:1",
                "max_num_workers": 9,
            },
        ),
    ],
    ids=["default", "processes", "portable", "flink", "spark", "dataflow"],
)
def test_beam_reads_every_flag(beam, expected):
    flags = load(beam).flags()
    options = pipeline_options.PipelineOptions(flags)
    # The flags that Beam does not know would be dropped without a word.
    found = options.get_all_options(drop_default=False)
    assert {name: found[name] for name in expected} == expected
    assert len(flags) == len(expected)


@pytest.mark.parametrize(
    "beam, said",
    [
        ({"runner": "dask"}, "beam.runner: .*'dataflow'.*dask"),
        ({"runner": "portable"}, "beam: expected `job_endpoint`, .*portable"),
        ({"runner": "flink"}, "beam: expected `job_endpoint` or `master`"),
        ({"job_endpoint": "host"}, "beam.job_endpoint: .*'host'"),
        (
            {"runner": "spark", "master": "s:1", "project": "shop"},
            "beam: expected no `project`, which is for runner dataflow. "
            "Received: runner=spark, project=shop",
        ),
        (
            {k: v for k, v in CLOUD.items() if k != "region"},
            "beam: expected `region`, which runner dataflow needs",
        ),
        (
            {"runner": "portable", "job_endpoint": "h:1", "environment": "VM"},
            "beam.environment: .*'VM'",
        ),
        (
            {
                "runner": "portable",
                "job_endpoint": "h:1",
                "environment": "EXTERNAL",
            },
            "beam: expected `environment_config`, which environment EXTERNAL",
        ),
        ({"extra": ["x=1"]}, "beam.extra: expected flags.*Received: 'x=1'"),
        (
            {"extra": ["--runner=FlinkRunner"]},
            "beam.extra: .*set beam.runner.*--runner=FlinkRunner",
        ),
        (
            {"extra": ["--flink_master=x"]},
            "beam.extra: .*set beam.master.*--flink_master=x",
        ),
    ],
)
def test_an_error_names_the_setting(beam, said):
    with pytest.raises(ConfigError, match=said) as info:
        load(beam)
    assert "\n" not in str(info.value)
