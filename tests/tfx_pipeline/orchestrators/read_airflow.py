"""Prints what Airflow's DagBag finds. Runs with the Python of Airflow."""

import json
import sys

from airflow.models import DagBag

bag = DagBag(sys.argv[1], include_examples=False)
(dag,) = bag.dags.values() or [None]


def describe(task):
    found = {
        "after": sorted(task.upstream_task_ids),
        "retries": task.retries,
        "kind": type(task).__name__,
    }
    if found["kind"] == "BashOperator":
        return found | {"command": task.bash_command}
    pod = task.build_pod_request_obj()
    (container,) = pod.spec.containers
    return found | {
        "image": container.image,
        "command": [*container.command, *container.args],
        "limits": container.resources.limits,
        "node_selector": pod.spec.node_selector,
        "service_account": pod.spec.service_account_name,
        "namespace": pod.metadata.namespace,
        "mounts": {v.name: v.mount_path for v in container.volume_mounts},
        "claims": [
            volume.persistent_volume_claim.claim_name
            for volume in pod.spec.volumes
        ],
        "secrets": {
            variable.name: [
                variable.value_from.secret_key_ref.name,
                variable.value_from.secret_key_ref.key,
            ]
            for variable in container.env
            if variable.value_from and variable.value_from.secret_key_ref
        },
    }


sys.stdout.write(
    json.dumps(
        {
            "errors": bag.import_errors,
            "dag": dag and dag.dag_id,
            "schedule": dag and str(dag.schedule_interval),
            "max_active_tasks": dag and dag.max_active_tasks,
            "tasks": {t.task_id: describe(t) for t in dag.tasks} if dag else {},
            "loaded": sorted(
                {"tfx", "tensorflow", "tfx_pipeline"} & set(sys.modules)
            ),
        }
    )
)
