"""The DAG of a pipeline for Airflow 2, made by `muse pipeline compile`.

Airflow's environment needs neither TFX nor this project: each task starts a
command of this project, in a container or on the machine of the worker.
"""

# This module is the template of the DAG file: the next line is replaced by the
# steps and their settings.
from __future__ import annotations

import datetime
import json
import shlex
from typing import Any

from airflow import DAG

SPEC: dict[str, Any] = json.loads(r"""{"steps": []}""")


def in_container(step: dict[str, Any]) -> Any:
    """Returns a task that runs a step in a pod of its own."""
    from airflow.providers.cncf.kubernetes.operators.pod import (
        KubernetesPodOperator,
    )
    from airflow.providers.cncf.kubernetes.secret import Secret
    from kubernetes.client import models as k8s

    volume = SPEC["volume"]
    return KubernetesPodOperator(
        task_id=step["name"],
        name=step["label"],
        image=step["image"],
        cmds=step["command"],
        arguments=step["arguments"],
        namespace=SPEC["namespace"],
        service_account_name=SPEC["service_account"] or None,
        secrets=[Secret("env", *secret) for secret in SPEC["secrets"]],
        container_resources=k8s.V1ResourceRequirements(
            requests=step["resources"], limits=step["resources"]
        ),
        node_selector=step["node_selector"],
        volumes=[
            k8s.V1Volume(
                name="data",
                persistent_volume_claim=(
                    k8s.V1PersistentVolumeClaimVolumeSource(claim_name=claim)
                ),
            )
            for claim in volume
        ],
        volume_mounts=[
            k8s.V1VolumeMount(name="data", mount_path=path)
            for path in volume.values()
        ],
    )


def on_worker(step: dict[str, Any]) -> Any:
    """Returns a task that runs a step on the machine of the worker."""
    from airflow.operators.bash import BashOperator

    command = [*step["command"], *step["arguments"]]
    return BashOperator(
        task_id=step["name"],
        bash_command="exec " + " ".join(map(shlex.quote, command)),
        append_env=True,
    )


if SPEC["steps"]:
    with DAG(
        dag_id=SPEC["name"],
        schedule=SPEC["schedule"] or None,
        start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
        catchup=False,
        # The next run takes from the cache what this one makes.
        max_active_runs=1,
        default_args={
            "retries": SPEC["retries"],
            "retry_delay": datetime.timedelta(seconds=SPEC["retry_seconds"]),
        },
        **SPEC["limits"],
    ) as dag:
        tasks: dict[str, Any] = {}
        for each in SPEC["steps"]:
            make = in_container if each["image"] else on_worker
            tasks[each["name"]] = make(each)
            for needed in each["after"]:
                tasks[needed] >> tasks[each["name"]]
