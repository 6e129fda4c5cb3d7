"""Where the Beam parts of the pipeline run, as typed settings.

`BeamConfig.flags` is the only place that makes Beam options.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import pydantic

from schemas import settings_file

_PORTABLE = {
    "job_endpoint": "job_endpoint",
    "environment": "environment_type",
    "environment_config": "environment_config",
    "parallelism": "sdk_worker_parallelism",
}
# Of each runner, its name in Beam and Beam's name of each setting it takes.
_RUNNERS: dict[str, tuple[str, dict[str, str]]] = {
    "direct": ("DirectRunner", {"parallelism": "direct_num_workers"}),
    "portable": ("PortableRunner", _PORTABLE),
    "flink": (
        "FlinkRunner",
        {**_PORTABLE, "master": "flink_master", "parallelism": "parallelism"},
    ),
    "spark": ("SparkRunner", {**_PORTABLE, "master": "spark_master_url"}),
    "dataflow": (
        "DataflowRunner",
        {
            "project": "project",
            "region": "region",
            "temp_location": "temp_location",
            "staging_location": "staging_location",
            "environment_config": "sdk_container_image",
            "parallelism": "max_num_workers",
        },
    ),
}
# Of each runner, settings of which one must be given.
_NEEDED: dict[str, tuple[tuple[str, ...], ...]] = {
    "direct": (),
    "portable": (("job_endpoint",),),
    "flink": (("job_endpoint", "master"),),
    "spark": (("job_endpoint", "master"),),
    "dataflow": (
        ("project",),
        ("region",),
        ("temp_location",),
        ("environment_config",),
    ),
}


class BeamConfig(settings_file.Section):
    """Where the Beam parts of the pipeline run (docs/beam.md)."""

    runner: Literal["direct", "portable", "flink", "spark", "dataflow"] = (
        "direct"
    )
    """The engine; ``direct`` is this machine, ``portable`` any Beam job
    server."""
    job_endpoint: str = pydantic.Field(default="", pattern=r"^$|^.+:[0-9]+$")
    """Address (host:port) of the job server of portable, flink or spark."""
    master: str = ""
    """Address of the cluster of flink or spark, for which Beam starts a job
    server here."""
    environment: str = pydantic.Field(
        default="",
        pattern="^$|^(DOCKER|PROCESS|EXTERNAL|LOOPBACK|beam:env:.+)$",
    )
    """How workers are started: DOCKER, PROCESS, EXTERNAL, LOOPBACK or a URN
    of Beam; empty: as the runner does."""
    environment_config: str = ""
    """The image of DOCKER and dataflow, the JSON of PROCESS, or the address
    of the worker pool of EXTERNAL."""
    parallelism: int = pydantic.Field(default=0, ge=0)
    """Workers: processes of direct, slots of flink, SDK processes per node of
    portable and spark, at most of dataflow; 0: as the runner does (direct:
    1)."""
    project: str = ""
    """Google Cloud project of dataflow."""
    region: str = ""
    """Google Cloud region of dataflow."""
    temp_location: str = ""
    """Folder of dataflow's temporary files (``gs://``)."""
    staging_location: str = ""
    """Folder of dataflow's staged files; empty: in ``temp_location``."""
    extra: tuple[str, ...] = ()
    """More flags of Beam, such as ``--s3_endpoint_url=http://host:9000``."""

    @pydantic.field_validator("extra")
    @classmethod
    def _check_extra(cls, extra: tuple[str, ...]) -> tuple[str, ...]:
        own = {"runner": "runner", "direct_running_mode": "parallelism"}
        for _, names in _RUNNERS.values():
            own |= {flag: field for field, flag in names.items()}
        for one in extra:
            found = re.match("--([a-z0-9_]+)", one)
            if not found:
                raise ValueError(
                    f"expected flags such as --name=value. Received: {one!r}"
                )
            if found[1] in own:
                raise ValueError(
                    f"expected flags without a setting of their own; set "
                    f"beam.{own[found[1]]}. Received: {one!r}"
                )
        return extra

    @pydantic.model_validator(mode="after")
    def _check_runner(self) -> BeamConfig:
        taken = _RUNNERS[self.runner][1]
        for field in sorted(
            {"extra", "runner", *taken} ^ {*type(self).model_fields}
        ):
            if getattr(self, field):
                runners = [k for k, (_, n) in _RUNNERS.items() if field in n]
                raise ValueError(
                    f"expected no `{field}`, which is for runner "
                    f"{', '.join(runners)}. Received: runner={self.runner}, "
                    f"{field}={getattr(self, field)}"
                )
        for fields in _NEEDED[self.runner]:
            if not any(getattr(self, field) for field in fields):
                raise ValueError(
                    f"expected `{'` or `'.join(fields)}`, which runner "
                    f"{self.runner} needs. Received: none"
                )
        if (
            self.environment in ("PROCESS", "EXTERNAL")
            and not self.environment_config
        ):
            raise ValueError(
                "expected `environment_config`, which environment "
                f"{self.environment} needs. Received: none"
            )
        return self

    def flags(self) -> list[str]:
        """Returns the flags of a Beam command line."""
        return list(self._flags())

    def _flags(self) -> Iterator[str]:
        runner, names = _RUNNERS[self.runner]
        yield f"--runner={runner}"
        if self.runner == "direct":
            mode = "multi_processing" if self.parallelism > 1 else "in_memory"
            yield f"--direct_running_mode={mode}"
            yield f"--direct_num_workers={self.parallelism or 1}"
        else:
            for field, flag in names.items():
                if value := getattr(self, field):
                    yield f"--{flag}={value}"
        yield from self.extra
