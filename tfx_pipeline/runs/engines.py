"""Artifacts that start the steps of a pipeline in an orchestrator.

Each function takes the settings and the steps of a compiled pipeline and
returns a text. The first step prepares a run, with the settings as its
argument; the others read what it has written. So an artifact needs no other
file, and no secret is in it.
"""

from __future__ import annotations

import json
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from schemas.settings_file import ConfigError
from tfx_pipeline import config as config_lib
from tfx_pipeline.runs.steps import PREPARE, Step

_AIRFLOW_RUN = "{{ run_id }}"
_KFP_RUN = "{{$.inputs.parameters['run']}}"
_RETRY_SECONDS = 10


def airflow(config: config_lib.PipelineConfig, steps: Iterable[Step]) -> str:
    """Returns a Python file with a DAG for Airflow 2.

    Raises:
        ConfigError: a setting of a step cannot be used.
    """
    own = config.orchestration
    _check(config, steps := [*steps], "airflow")
    spec = {
        "name": config.name,
        "schedule": own.schedule,
        "retries": own.retries,
        "retry_seconds": _RETRY_SECONDS,
        # Several processes may not write to one SQLite file.
        "limits": {} if config.metadata else {"max_active_tasks": 1},
        "namespace": own.namespace,
        "service_account": own.service_account,
        "secrets": [
            [name, *reference.split("/")]
            for name, reference in own.secrets.items()
        ],
        "volume": _volume(own),
        "steps": [
            {
                "name": step.name,
                "label": _label(step.name),
                "after": step.after,
                "image": resources.image or own.image,
                "command": _command(config),
                "arguments": _arguments(
                    config, step, _AIRFLOW_RUN, "{% raw %}", "{% endraw %}"
                ),
                "resources": _kubernetes_resources(resources),
                "node_selector": resources.node_selector,
            }
            for step, resources in _all_steps(config, steps)
        ],
    }
    template = pathlib.Path(__file__).with_name("airflow_dag.py")
    head, found, tail = template.read_text(encoding="utf-8").partition(
        'json.loads(r"""{"steps": []}""")'
    )
    assert found, "the template of the DAG has changed"  # noqa: S101
    return f"{head}json.loads(\n    {json.dumps(spec)!r}\n){tail}"


def kubeflow(config: config_lib.PipelineConfig, steps: Iterable[Step]) -> str:
    """Returns a pipeline for Kubeflow Pipelines 2, in YAML.

    Raises:
        ConfigError: a setting of a step cannot be used.
    """
    own = config.orchestration
    _check(config, steps := [*steps], "kubeflow")
    platform: dict[str, Any] = {}
    for step, resources in _all_steps(config, steps):
        executor: dict[str, Any] = {}
        for name, reference in own.secrets.items():
            secret, _, key = reference.partition("/")
            executor.setdefault("secretAsEnv", []).append(
                {
                    "secretName": secret,
                    "secretNameParameter": _constant(secret),
                    "keyToEnv": [{"secretKey": key, "envVar": name}],
                    "optional": False,
                }
            )
        for claim, path in _volume(own).items():
            executor["pvcMount"] = [
                {
                    "constant": claim,
                    "pvcNameParameter": _constant(claim),
                    "mountPath": path,
                }
            ]
        if resources.node_selector:
            executor["nodeSelector"] = {"labels": resources.node_selector}
        if executor:
            platform[f"exec-{_label(step.name)}"] = executor
    documents: list[Any] = [_pipeline_spec(config, steps)]
    if platform:
        documents.append(
            {
                "platforms": {
                    "kubernetes": {"deploymentSpec": {"executors": platform}}
                }
            }
        )
    return yaml.safe_dump_all(documents, sort_keys=False, width=1_000_000)


def vertex(config: config_lib.PipelineConfig, steps: Iterable[Step]) -> str:
    """Returns a PipelineJob of Vertex AI, in JSON.

    Raises:
        ConfigError: a setting of a step cannot be used.
    """
    own = config.orchestration
    _check(config, steps := [*steps], "vertex")
    job: dict[str, Any] = {
        "displayName": config.name,
        "pipelineSpec": _pipeline_spec(config, steps),
        "runtimeConfig": {"gcsOutputDirectory": own.pipeline_root},
    }
    if own.service_account:
        job["serviceAccount"] = own.service_account
    return json.dumps(job, indent=2) + "\n"


RUNNERS = {"airflow": airflow, "kubeflow": kubeflow, "vertex": vertex}


def _pipeline_spec(
    config: config_lib.PipelineConfig, steps: Sequence[Step]
) -> dict[str, Any]:
    """Returns the PipelineSpec that Kubeflow Pipelines and Vertex AI share."""
    own = config.orchestration
    executors: dict[str, Any] = {}
    components: dict[str, Any] = {}
    tasks: dict[str, Any] = {}
    for step, resources in _all_steps(config, steps):
        label = _label(step.name)
        container: dict[str, Any] = {
            "image": resources.image or own.image,
            "command": _command(config),
            "args": _arguments(config, step, _KFP_RUN),
        }
        if found := _container_resources(resources):
            container["resources"] = found
        executors[f"exec-{label}"] = {"container": container}
        components[f"comp-{label}"] = {
            "executorLabel": f"exec-{label}",
            "inputDefinitions": {
                "parameters": {"run": {"parameterType": "STRING"}}
            },
        }
        tasks[label] = {
            "taskInfo": {"name": step.name},
            "componentRef": {"name": f"comp-{label}"},
            "inputs": {
                "parameters": {"run": _constant("{{$.pipeline_job_uuid}}")}
            },
            # ML Metadata has the cache; the engine does not see the outputs.
            "cachingOptions": {},
        }
        if step.after:
            tasks[label]["dependentTasks"] = [_label(n) for n in step.after]
        if own.retries:
            tasks[label]["retryPolicy"] = {
                "maxRetryCount": own.retries,
                "backoffDuration": f"{_RETRY_SECONDS}s",
                "backoffFactor": 2.0,
                "backoffMaxDuration": "3600s",
            }
    spec: dict[str, Any] = {
        "pipelineInfo": {"name": config.name.replace("_", "-")},
        "schemaVersion": "2.1.0",
        "sdkVersion": "muse-pipeline",
        "deploymentSpec": {"executors": executors},
        "components": components,
        "root": {"dag": {"tasks": tasks}},
    }
    if own.pipeline_root:
        spec["defaultPipelineRoot"] = own.pipeline_root
    return spec


def _check(
    config: config_lib.PipelineConfig, steps: Sequence[Step], runner: str
) -> None:
    own = config.orchestration
    names = [PREPARE, *(step.name for step in steps)]
    for name in own.steps:
        if name not in names:
            raise ConfigError(
                f"orchestration.steps: expected names of {', '.join(names)}. "
                f"Received: {name!r}"
            )
    if not own.image:
        if runner == "airflow":
            return
        raise ConfigError(
            f"orchestration.image: --runner {runner} runs containers and needs "
            "an image with a tag. Received: ''"
        )
    if not config.metadata:
        raise ConfigError(
            "metadata: containers need a database that all of them reach, "
            "mysql://USER@HOST:PORT/DATABASE. Received: ''"
        )
    if runner == "vertex" and not own.pipeline_root.startswith("gs://"):
        raise ConfigError(
            "orchestration.pipeline_root: Vertex AI needs a folder in a "
            f"bucket, gs://…. Received: {own.pipeline_root!r}"
        )
    for name, reference in own.secrets.items():
        if reference.startswith("projects/") != (runner == "vertex"):
            raise ConfigError(
                f"orchestration.secrets.{name}: expected "
                + (
                    "projects/P/secrets/S/versions/V"
                    if runner == "vertex"
                    else "SECRET/KEY"
                )
                + f" for --runner {runner}. Received: {reference!r}"
            )


def _all_steps(
    config: config_lib.PipelineConfig, steps: Sequence[Step]
) -> list[tuple[Step, config_lib.StepConfig]]:
    """Returns all steps, also that which prepares, with their resources."""
    own = config.orchestration
    found = [Step(PREPARE, (), ())]
    found += [step._replace(after=step.after or (PREPARE,)) for step in steps]
    return [(step, own.steps.get(step.name, own.resources)) for step in found]


def _command(config: config_lib.PipelineConfig) -> list[str]:
    if config.orchestration.image:
        return ["muse", "pipeline"]
    program = "from muse_tools.cli import main; main.run()"
    return [sys.executable, "-c", program, "pipeline"]


def _arguments(
    config: config_lib.PipelineConfig,
    step: Step,
    run: str,
    before: str = "",
    after: str = "",
) -> list[str]:
    """Returns the arguments of a step; `run` is the engine's name of its id.

    `before` and `after` keep the engine from changing the settings.
    """
    own = config.orchestration
    options = ["--run-id", run]
    if any(ref.startswith("projects/") for ref in own.secrets.values()):
        for name, reference in own.secrets.items():
            options += ["--secret", f"{name}={reference}"]
    if step.name == PREPARE:
        settings = config.absolute().model_dump(
            mode="json", exclude_defaults=True
        )
        text = json.dumps(settings, ensure_ascii=False)
        return [PREPARE, "--settings", f"{before}{text}{after}", *options]
    return ["step", step.name, "--output-dir", str(config.root), *options]


def _kubernetes_resources(step: config_lib.StepConfig) -> dict[str, str]:
    found = {}
    if step.cpu:
        found["cpu"] = f"{step.cpu:g}"
    if step.memory_gb:
        found["memory"] = f"{step.memory_gb:g}G"
    if step.accelerator:
        found[step.accelerator] = str(step.accelerators)
    return found


def _container_resources(step: config_lib.StepConfig) -> dict[str, Any]:
    """Returns resources as older and newer engines read them."""
    found: dict[str, Any] = {}
    quantities = _kubernetes_resources(step)
    for name, value in (("cpu", step.cpu), ("memory", step.memory_gb)):
        for kind in ("Limit", "Request") if value else ():
            found[f"{name}{kind}"] = value
            found[f"resource{name.title()}{kind}"] = quantities[name]
    if step.accelerator:
        count = str(step.accelerators)
        found["accelerator"] = {
            "type": step.accelerator,
            "count": count,
            "resourceType": step.accelerator,
            "resourceCount": count,
        }
    return found


def _volume(own: config_lib.OrchestrationConfig) -> Mapping[str, str]:
    return {own.volume_claim: own.volume_path} if own.volume_claim else {}


def _constant(value: str) -> dict[str, Any]:
    return {"runtimeValue": {"constant": value}}


def _label(name: str) -> str:
    """Returns a name as Kubernetes allows it: AtomicPusher, atomic-pusher."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]+|[a-z0-9]+", name)
    return "-".join(parts).lower()
