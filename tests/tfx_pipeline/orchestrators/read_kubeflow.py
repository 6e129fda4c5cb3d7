"""Prints what kfp reads in a pipeline. Runs with the Python of kfp."""

import json
import sys

from google.protobuf import json_format
from kfp import components
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

loaded = components.load_component_from_file(sys.argv[1])
spec = loaded.pipeline_spec
# kfp keeps both as free structures; the backends parse them as these types.
deployment = json_format.ParseDict(
    json_format.MessageToDict(spec.deployment_spec),
    pipeline_spec_pb2.PipelineDeploymentConfig(),
)
kubernetes = loaded.platform_spec.platforms["kubernetes"].deployment_spec
pods = {
    name: json_format.ParseDict(
        json_format.MessageToDict(executor),
        kubernetes_executor_config_pb2.KubernetesExecutorConfig(),
    )
    for name, executor in kubernetes.executors.items()
}


def describe(task):
    name = spec.components[task.component_ref.name].executor_label
    container = deployment.executors[name].container
    pod = pods.get(name)
    run = task.inputs.parameters["run"].runtime_value.constant
    return {
        "after": sorted(
            spec.root.dag.tasks[other].task_info.name
            for other in task.dependent_tasks
        ),
        "retries": task.retry_policy.max_retry_count,
        "cached": task.caching_options.enable_cache,
        "run": run.string_value,
        "image": container.image,
        "command": [*container.command, *container.args],
        "resources": json_format.MessageToDict(container.resources),
        "pod": json_format.MessageToDict(pod) if pod else {},
    }


sys.stdout.write(
    json.dumps(
        {
            "name": spec.pipeline_info.name,
            "root": spec.default_pipeline_root,
            "tasks": {
                task.task_info.name: describe(task)
                for task in spec.root.dag.tasks.values()
            },
        }
    )
)
