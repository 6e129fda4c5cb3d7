"""Compiled pipelines, read by the loaders of the engines they are for."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml

from muse_tools.cli import configuration
from schemas.settings_file import ConfigError
from tests.tfx_pipeline.orchestrators import engines
from tfx_pipeline import config as config_lib

pytestmark = [pytest.mark.tf, pytest.mark.once]

# Every step and those it waits for. The resolver of the last blessed model has
# no step: it runs with the Evaluator.
AFTER = {
    "prepare": [],
    "RequestExampleGen": ["prepare"],
    "ItemTableGen": ["prepare"],
    "StatisticsGen": ["RequestExampleGen"],
    "ImportSchemaGen": ["prepare"],
    "StrictExampleValidator": ["ImportSchemaGen", "StatisticsGen"],
    "Transform": [
        "ImportSchemaGen",
        "RequestExampleGen",
        "StrictExampleValidator",
    ],
    "RankerTrainer": ["ItemTableGen", "Transform"],
    "Evaluator": ["ImportSchemaGen", "RankerTrainer", "RequestExampleGen"],
    "ServingValidator": ["ItemTableGen", "RankerTrainer", "RequestExampleGen"],
    "AtomicPusher": ["Evaluator", "RankerTrainer", "ServingValidator"],
    "MatchingGen": ["ItemTableGen", "RequestExampleGen"],
    "MatchingServingValidator": ["ItemTableGen", "MatchingGen"],
    "MatchingPusher": ["MatchingGen", "MatchingServingValidator"],
}
CLUSTER = {
    "image": "registry.example/muse-pipeline:0.1.0",
    "pipeline_root": "gs://bucket/records",
    "service_account": "muse",
    "namespace": "ranking",
    "secrets": {"MUSE_METADATA_PASSWORD": "metadata/password"},
    "volume_claim": "muse-data",
    "retries": 3,
    "resources": {"cpu": 2, "memory_gb": 8},
    "steps": {
        "RankerTrainer": {
            "image": "registry.example/muse-pipeline:0.1.0-gpu",
            "cpu": 7.5,
            "memory_gb": 64,
            "accelerator": "nvidia.com/gpu",
            "accelerators": 2,
            "node_selector": {"pool": "gpu"},
        }
    },
}
ON_VERTEX = {
    **CLUSTER,
    "volume_claim": "",
    "service_account": "muse@project.iam.gserviceaccount.com",
    "secrets": {"MUSE_METADATA_PASSWORD": "projects/p/secrets/s/versions/1"},
    "steps": {"RankerTrainer": {"cpu": 8, "accelerator": "NVIDIA_L4"}},
}
SERVER = "mysql://muse@metadata.example:3306/mlmd"


@pytest.fixture(scope="module", autouse=True)
def environment():
    engines.make()


@pytest.fixture
def compiled(tmp_path):
    """Returns a function: runner and settings to the compiled text."""
    from tfx_pipeline.runs import engines as runners
    from tfx_pipeline.runs import steps

    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("train_samples", "item_features"):
        (raw / f"{name}.parquet").write_bytes(b"abc")

    def compile_(runner, orchestration=CLUSTER, metadata=SERVER):
        config = config_lib.PipelineConfig(
            name="shop",
            output_dir=str(tmp_path / "output"),
            data={"raw_dir": str(raw)},
            metadata=metadata,
            orchestration=orchestration,
        )
        text = runners.RUNNERS[runner](config, steps.compile_steps(config))
        # TFX makes the folder of an SQLite file.
        assert not metadata or not (tmp_path / "output").exists()
        return config, text

    return compile_


def check_commands(config, tasks, run_id):
    """Each step names itself and its run; the first has the settings."""
    for name, task in tasks.items():
        words = task["command"]
        assert words[:2] == ["muse", "pipeline"]
        assert words[words.index("--run-id") + 1] == run_id
        if name == "prepare":
            text = words[words.index("--settings") + 1]
            for mark in ("{% raw %}", "{% endraw %}"):
                text = text.replace(mark, "")
            assert configuration.parse(text) == config
        else:
            assert words[2:6] == ["step", name, "--output-dir"] + [
                str(config.root)
            ]


def test_kubeflow_reads_its_pipeline(compiled, tmp_path):
    config, text = compiled("kubeflow")
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    read = engines.read("read_kubeflow.py", path, tmp_path)
    assert (read["name"], read["root"]) == ("shop", "gs://bucket/records")
    tasks = read["tasks"]
    assert {name: task["after"] for name, task in tasks.items()} == AFTER
    check_commands(config, tasks, "{{$.inputs.parameters['run']}}")
    for name, task in tasks.items():
        trainer = name == "RankerTrainer"
        assert task["run"] == "{{$.pipeline_job_uuid}}"
        assert task["retries"] == 3 and not task["cached"]
        assert task["image"] == CLUSTER["image"] + ("-gpu" if trainer else "")
        cpu, memory = (7.5, 64) if trainer else (2, 8)
        found = task["resources"]
        assert (found["cpuLimit"], found["memoryLimit"]) == (cpu, memory)
        assert found["resourceCpuRequest"] == f"{cpu}"
        assert found["resourceMemoryLimit"] == f"{memory}G"
        gpus = {"type": "nvidia.com/gpu", "count": "2"}
        assert trainer == (gpus.items() <= found.get("accelerator", {}).items())
        pod = task["pod"]
        (secret,) = pod["secretAsEnv"]
        assert secret["secretName"] == "metadata"
        assert secret["keyToEnv"] == [
            {"secretKey": "password", "envVar": "MUSE_METADATA_PASSWORD"}
        ]
        (mount,) = pod["pvcMount"]
        assert (mount["constant"], mount["mountPath"]) == ("muse-data", "/data")
        labels = pod.get("nodeSelector", {}).get("labels")
        assert labels == ({"pool": "gpu"} if trainer else None)


def test_vertex_reads_its_job(compiled, tmp_path):
    """With the client of Vertex AI, which sends no request before `submit`."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import aiplatform
    from google.cloud.aiplatform_v1.types import PipelineJob

    config, text = compiled("vertex", ON_VERTEX)
    path = tmp_path / "job.json"
    path.write_text(text)
    job = aiplatform.PipelineJob(
        display_name="shop",
        template_path=str(path),
        project="p",
        location="europe-west4",
        credentials=AnonymousCredentials(),
    ).to_dict()
    assert job["runtimeConfig"]["gcsOutputDirectory"] == "gs://bucket/records"
    whole = PipelineJob.from_json(text)
    assert whole.service_account == ON_VERTEX["service_account"]
    spec = job["pipelineSpec"]
    executors = spec["deploymentSpec"]["executors"]
    tasks = {
        task["taskInfo"]["name"]: {
            "after": sorted(
                spec["root"]["dag"]["tasks"][other]["taskInfo"]["name"]
                for other in task.get("dependentTasks", [])
            ),
            "command": [*container["command"], *container["args"]],
        }
        for label, task in spec["root"]["dag"]["tasks"].items()
        for container in [executors[f"exec-{label}"]["container"]]
    }
    assert {name: task["after"] for name, task in tasks.items()} == AFTER
    check_commands(config, tasks, "{{$.inputs.parameters['run']}}")
    for task in tasks.values():
        secret = task["command"][task["command"].index("--secret") + 1]
        assert secret == (
            "MUSE_METADATA_PASSWORD=projects/p/secrets/s/versions/1"
        )
    trainer = executors["exec-ranker-trainer"]["container"]["resources"]
    assert trainer["cpuLimit"] == 8
    assert trainer["accelerator"]["type"] == "NVIDIA_L4"


def test_airflow_loads_pods(compiled, tmp_path):
    config, text = compiled("airflow", {**CLUSTER, "schedule": "@daily"})
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "shop.py").write_text(text)
    read = engines.read("read_airflow.py", folder, tmp_path)
    assert read["errors"] == {} and read["loaded"] == []
    assert (read["dag"], read["schedule"]) == ("shop", "@daily")
    assert read["max_active_tasks"] > 1
    tasks = read["tasks"]
    assert {name: task["after"] for name, task in tasks.items()} == AFTER
    check_commands(config, tasks, "{{ run_id }}")
    for name, task in tasks.items():
        trainer = name == "RankerTrainer"
        assert task["kind"] == "KubernetesPodOperator"
        assert task["retries"] == 3
        assert task["image"] == CLUSTER["image"] + ("-gpu" if trainer else "")
        assert task["namespace"] == "ranking"
        assert task["service_account"] == "muse"
        assert task["claims"] == ["muse-data"]
        assert list(task["mounts"].values()) == ["/data"]
        assert task["secrets"] == {
            "MUSE_METADATA_PASSWORD": ["metadata", "password"]
        }
        assert task["limits"] == (
            {"cpu": "7.5", "memory": "64G", "nvidia.com/gpu": "2"}
            if trainer
            else {"cpu": "2", "memory": "8G"}
        )
        assert (task["node_selector"] == {"pool": "gpu"}) == trainer


def test_airflow_without_an_image_runs_one_command_at_a_time(
    compiled, tmp_path
):
    config, text = compiled("airflow", {}, metadata="")
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "shop.py").write_text(text)
    read = engines.read("read_airflow.py", folder, tmp_path)
    assert read["errors"] == {} and read["loaded"] == []
    assert read["max_active_tasks"] == 1 and read["schedule"] == "None"
    for name, task in read["tasks"].items():
        assert task["kind"] == "BashOperator"
        words = shlex.split(task["command"])
        assert words[0] == "exec" and name in words + ["prepare"]


@pytest.mark.parametrize(
    ("runner", "change", "metadata", "message"),
    [
        ("kubeflow", {"image": ""}, SERVER, "orchestration.image: "),
        ("vertex", {"image": ""}, SERVER, "orchestration.image: "),
        ("kubeflow", {}, "", "metadata: containers need a database"),
        ("airflow", {}, "", "metadata: containers need a database"),
        ("vertex", {"pipeline_root": "/data"}, SERVER, "gs://"),
        ("vertex", {}, SERVER, "projects/P/secrets/S/versions/V"),
        ("kubeflow", {"secrets": ON_VERTEX["secrets"]}, SERVER, "SECRET/KEY"),
        ("airflow", {"steps": {"Trainer": {}}}, SERVER, "Received: 'Trainer'"),
    ],
)
def test_what_an_engine_cannot_run_is_one_line(
    compiled, runner, change, metadata, message
):
    with pytest.raises(ConfigError, match="Received: ") as error:
        compiled(runner, {**CLUSTER, **change}, metadata)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        (
            "secrets={A: hunter2}",
            "orchestration.secrets.A: expected SECRET/KEY",
        ),
        ("steps={Evaluator: {cpus: 2}}", "steps.Evaluator.cpus"),
        ("resources.accelerators=0", "orchestration.resources.accelerators"),
    ],
)
def test_wrong_settings_name_their_key(tmp_path, wrong, key):
    path = tmp_path / "pipeline.yaml"
    path.write_text("output_dir: x\ndata: {raw_dir: x}\n")
    with pytest.raises(ConfigError, match=re.escape(key)) as error:
        config_lib.load_config(path, [f"orchestration.{wrong}"])
    assert "hunter2" not in str(error.value)


def test_a_password_in_the_settings_is_refused_and_not_repeated(tmp_path):
    path = tmp_path / "pipeline.yaml"
    path.write_text("output_dir: x\ndata: {raw_dir: x}\n")
    server = "mysql://muse:hunter2@metadata.example/mlmd"
    with pytest.raises(ConfigError, match="without a password") as error:
        config_lib.load_config(path, [f"metadata={server}"])
    assert "hunter2" not in str(error.value)


def test_a_configuration_with_steps_is_printed_as_yaml(tmp_path):
    config = config_lib.PipelineConfig(
        output_dir="x", data={"raw_dir": "x"}, orchestration=CLUSTER
    )
    printed = yaml.safe_load(configuration.as_yaml(config))
    assert config_lib.PipelineConfig.model_validate(printed) == config
