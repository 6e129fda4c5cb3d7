"""The files for TensorFlow Serving are what it, and we, can read."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import time
import urllib.request

import grpc
import pytest
import yaml
from google.protobuf import text_format

from serving.model_server import ServerConfig, running
from tests.serving import monitored

pytestmark = pytest.mark.tf

CPU_IMAGE = "tensorflow/serving:${TF_SERVING:-2.20.0}"
FOLDER = pathlib.Path(__file__).parents[3] / "serving" / "tf_serving"


def test_models_config_is_the_real_message():
    from tensorflow_serving.config import model_server_config_pb2

    config = text_format.Parse(
        (FOLDER / "models.config").read_text(),
        model_server_config_pb2.ModelServerConfig(),
    )
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == ("muse", "/models/muse")
    assert model.model_version_policy.latest.num_versions == 1


def test_both_models_are_the_ranker_as_it_was_and_matching():
    from serving.model_server.config_files import read_models

    alone = read_models(str(FOLDER / "models.config"))
    both = read_models(str(FOLDER / "models_with_matching.config"))
    assert both[:1] == alone
    (matching,) = both[1:]
    assert (matching.name, matching.base_path) == (
        "matching",
        "/models/matching",
    )
    assert matching.policy == alone[0].policy


def test_the_embedded_server_starts_from_these_files(muse_base, tmp_path):
    # The same files; only the container's model folder is not here.
    text = (FOLDER / "models.config").read_text()
    assert text.count("/models/muse") == 1
    models = tmp_path / "models.config"
    models.write_text(text.replace("/models/muse", str(muse_base)))
    config = ServerConfig(
        model_config_file=str(models),
        monitoring_config_file=str(FOLDER / "monitoring.config"),
        port=0,
        rest_api_port=0,
    )
    with running(config) as app:
        for path in ("/v1/models/muse", "/monitoring/prometheus/metrics"):
            with urllib.request.urlopen(app.rest_url + path) as answer:
                assert answer.status == 200
                page = answer.read().decode()
        # The dashboard and the alarms use what it exports.
        names = monitored.used(":tensorflow")
        assert names and names <= monitored.exported(page)
        with grpc.insecure_channel(app.grpc_target) as channel:
            grpc.channel_ready_future(channel).result(10)


def test_batching_is_off():
    for compose in FOLDER.glob("compose*.yaml"):
        assert "enable_batching" not in compose.read_text()


@pytest.mark.parametrize(
    "name", ["compose.yaml", "compose.gpu.yaml", "compose.matching.yaml"]
)
def test_compose_files(name):
    service = yaml.safe_load((FOLDER / name).read_text())["services"]["serving"]
    # compose.matching.yaml goes on top of either of the others.
    image = service.get("image", CPU_IMAGE)
    assert image in (CPU_IMAGE, f"{CPU_IMAGE}-gpu")
    command = service.get("command", [])
    assert not any("batching" in flag for flag in command)
    for flag in command:
        _, _, value = flag.partition("=")
        if value.startswith("/config/"):
            assert (FOLDER / value.removeprefix("/config/")).is_file()
    if command:
        # Every flag is one that the embedded server has as well.
        from serving.model_server.main import parse_flags

        parse_flags(command)


def test_a_server_drains_nothing_and_does_not_ignore_the_signal():
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    assert compose["services"]["serving"]["init"] is True


def test_available_says_whether_every_model_can_be_asked(
    muse_base, models_config, tmp_path
):
    """The status code says nothing: it is 200 when all versions have ended."""
    from serving.model_server.config_files import read_models

    folder = tmp_path / "base"
    shutil.copytree(muse_base, folder)
    text = models_config.read_text().replace(str(muse_base), str(folder))
    (tmp_path / "models.config").write_text(text)
    names = [model.name for model in read_models(tmp_path / "models.config")]
    config = ServerConfig(
        model_config_file=str(tmp_path / "models.config"),
        port=-1,
        rest_api_port=0,
        file_system_poll_wait_seconds=0.05,
    )
    with running(config) as app:

        def available(*models: str) -> bool:
            done = subprocess.run(
                ["bash", FOLDER / "available.sh", *models],
                env={**os.environ, "REST_PORT": str(app.rest_port)},
                timeout=20,
            )
            return done.returncode == 0

        assert available(*names)
        assert not available("nosuch", names[0])
        for version in folder.iterdir():
            shutil.rmtree(version)
        deadline = time.monotonic() + 20
        while available("muse"):
            assert time.monotonic() < deadline
        url = f"{app.rest_url}/v1/models/muse"
        with urllib.request.urlopen(url) as answer:
            assert answer.status == 200
        assert available("matching") and not available("matching", "muse")
    assert not available("matching")


@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("compose.yaml", "models.config"),
        ("compose.matching.yaml", "models_with_matching.config"),
    ],
)
def test_all_models_are_probed(name, models):
    from serving.model_server.config_files import read_models

    service = yaml.safe_load((FOLDER / name).read_text())["services"]["serving"]
    assert f"--model_config_file=/config/{models}" in service["command"]
    assert service["healthcheck"]["test"] == [
        *("CMD", "bash", "/config/available.sh"),
        *(model.name for model in read_models(str(FOLDER / models))),
    ]
