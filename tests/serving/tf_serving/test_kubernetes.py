"""The manifests: valid by the schemas, and in agreement with the code.

No cluster and no Docker: what is checked is what can be read.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import kubernetes_validate
import pytest
import yaml

from serving.ranking_service.config import (
    DNS,
    ServiceConfig,
    grpc_max_threads,
)
from tests.serving.certificates import check_strictly

pytestmark = pytest.mark.once

FOLDER = pathlib.Path(__file__).parents[3] / "serving" / "tf_serving"
BASE = FOLDER / "kubernetes" / "base"
COMPONENTS = FOLDER / "kubernetes" / "components"
GPU = COMPONENTS / "gpu"
NAME = "app.kubernetes.io/name"


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Every resource of a Kustomize folder."""
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return [
        resource
        for name in listed["resources"]
        for resource in yaml.safe_load_all((folder / name).read_text())
    ]


RESOURCES = read(BASE)


def find(kind: str, name: str) -> dict[str, Any]:
    (found,) = (
        r
        for r in RESOURCES
        if (r["kind"], r["metadata"]["name"]) == (kind, name)
    )
    return found


def pods() -> list[dict[str, Any]]:
    return [r for r in RESOURCES if r["kind"] in ("Deployment", "StatefulSet")]


def containers() -> list[tuple[str, dict[str, Any]]]:
    return [
        (r["metadata"]["name"], container)
        for r in pods()
        for container in r["spec"]["template"]["spec"]["containers"]
    ]


def settings() -> ServiceConfig:
    return ServiceConfig.model_validate_json(
        (BASE / "ranking.json").read_text()
    )


@pytest.mark.parametrize("version", ["1.27.0", "1.37.0"])
def test_every_resource_is_valid(version):
    assert len(RESOURCES) == 18
    for resource in RESOURCES:
        kubernetes_validate.validate(resource, version, strict=True)


def test_the_validation_can_fail():
    wrong = json.loads(json.dumps(find("Deployment", "muse-ranking")))
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37.0", strict=True)


def test_every_file_is_listed():
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    named = {
        *listed["resources"],
        *(
            name
            for made in listed["configMapGenerator"]
            for name in made.get("files", [])
        ),
        "kustomization.yaml",
    }
    assert named == {path.name for path in BASE.iterdir()}


def kustomized(folder: pathlib.Path) -> list[dict[str, Any]]:
    """What kubectl would apply, which is valid."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    built = subprocess.run(
        [kubectl, "kustomize", str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    resources = list(yaml.safe_load_all(built.stdout))
    for resource in resources:
        # The Prometheus operator's kinds are not in the schemas.
        if not resource["apiVersion"].startswith("monitoring."):
            kubernetes_validate.validate(resource, "1.37.0", strict=True)
        if resource["kind"] in ("Deployment", "StatefulSet"):
            check_restricted(resource["spec"]["template"]["spec"])
    return resources


def check_restricted(pod: dict[str, Any]) -> None:
    """Pod Security "restricted" of Kubernetes, and read-only roots.

    The rules are those of kubernetes.io/docs/concepts/security.
    """
    allowed = {
        *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
        *("persistentVolumeClaim", "projected", "secret"),
    }
    for volume in pod.get("volumes", []):
        assert len(volume) == 2 and set(volume) - {"name"} <= allowed
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    of_all = pod["securityContext"]
    assert of_all["runAsNonRoot"] is True and of_all["runAsUser"] > 0
    assert of_all["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"sysctls", "seLinuxOptions", "windowsOptions"} & set(of_all)
    containers = [*pod["containers"], *pod.get("initContainers", [])]
    for container in containers:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, container["name"]
        assert not any("hostPort" in p for p in container.get("ports", []))
    assert pod["automountServiceAccountToken"] is False


def test_pods_comply_with_pod_security_restricted():
    for resource in pods():
        check_restricted(resource["spec"]["template"]["spec"])
    labels = find("Namespace", "muse")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("change", ["privileged", "capabilities", "volume"])
def test_the_check_of_pod_security_can_fail(change):
    resource = find("StatefulSet", "muse-model-server")
    pod = json.loads(json.dumps(resource["spec"]["template"]["spec"]))
    check_restricted(pod)
    if change == "volume":
        pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}})
    else:
        pod["containers"][1]["securityContext"][change] = {}
    with pytest.raises(AssertionError):
        check_restricted(pod)


def deployed(folder: pathlib.Path, *components: str) -> pathlib.Path:
    """An overlay of the base and these components."""
    shutil.copytree(FOLDER, folder / "serving" / "tf_serving")
    deploy = folder / "deploy"
    deploy.mkdir()
    place = "../serving/tf_serving/kubernetes"
    listed = {
        "resources": [f"{place}/base"],
        "components": [f"{place}/components/{name}" for name in components],
    }
    (deploy / "kustomization.yaml").write_text(yaml.safe_dump(listed))
    return deploy


def test_the_dashboard_and_the_alarms_are_applied(tmp_path):
    kinds = [
        (resource["kind"], resource["metadata"]["name"])
        for resource in kustomized(deployed(tmp_path, "monitoring"))
        if resource["kind"] in ("ServiceMonitor", "PrometheusRule")
        or "grafana_dashboard" in resource["metadata"].get("labels", {})
    ]
    assert sorted(kinds) == [
        ("ConfigMap", "muse-dashboard"),
        ("PrometheusRule", "muse"),
        ("ServiceMonitor", "muse-model-server"),
        ("ServiceMonitor", "muse-ranking"),
    ]
    for monitor in yaml.safe_load_all(
        (COMPONENTS / "monitoring" / "monitors.yaml").read_text()
    ):
        service = find("Service", monitor["metadata"]["name"])
        wanted = monitor["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= service["metadata"]["labels"].items()
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {p["name"] for p in service["spec"]["ports"]}
        pod = next(p for p in pods() if p["metadata"]["name"] == wanted[NAME])[
            "spec"
        ]["template"]["metadata"]
        path = pod["annotations"]["prometheus.io/path"]
        assert endpoint["path"] == path


@pytest.mark.parametrize("gpu", [False, True])
def test_kustomize_builds(gpu, tmp_path):
    resources = kustomized(deployed(tmp_path, "gpu") if gpu else BASE)
    (server,) = (
        r
        for r in resources
        if r["kind"] == "StatefulSet"
        and r["metadata"]["name"] == "muse-model-server"
    )
    container, *_ = server["spec"]["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    if gpu:
        assert container["image"] == "tensorflow/serving:2.20.0-gpu"
        assert limits["nvidia.com/gpu"] == "1"
        assert limits["memory"] == "28Gi"
        # The patch adds; it does not replace.
        assert len(container["env"]) == 3
        assert len(container["args"]) == 7 and len(container["ports"]) == 2
    else:
        assert "nvidia.com/gpu" not in limits


PAGE = FOLDER.parents[1] / "docs" / "deployment.md"
ENCRYPTION = "# deploy/kustomization.yaml, encryption"


def blocks(language: str, start: str = "") -> list[str]:
    """Blocks of the page that start so."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
    return [block for block in found if block.startswith(start)]


def overlay(folder: pathlib.Path) -> pathlib.Path:
    """The overlay that the page makes, with all but encryption."""
    listed: dict[str, Any] = {}
    deploy = folder / "deploy"
    deploy.mkdir()
    for block in blocks("yaml"):
        if block.startswith(ENCRYPTION):
            continue
        for key, value in yaml.safe_load(block).items():
            if isinstance(value, list):
                listed.setdefault(key, []).extend(value)
            else:
                listed[key] = value
    (deploy / "kustomization.yaml").write_text(yaml.safe_dump(listed))
    shutil.copytree(FOLDER, folder / "serving" / "tf_serving")
    return deploy


def test_the_overlay_of_the_page_builds(tmp_path):
    resources = {}
    for resource in kustomized(overlay(tmp_path)):
        assert resource["kind"] == "Namespace" or (
            resource["metadata"]["namespace"] == "muse"
        )
        # Without the hash of a generated name.
        name = re.sub(r"-[a-z0-9]{10}$", "", resource["metadata"]["name"])
        resources[str((resource["kind"], name.split("-")[1:]))] = resource

    def found(kind: str, *name: str) -> dict[str, Any]:
        return resources[str((kind, list(name)))]

    def pod(kind: str, *name: str) -> dict[str, Any]:
        return found(kind, *name)["spec"]["template"]["spec"]

    server = pod("StatefulSet", "model", "server")
    storage = server["containers"][1]["envFrom"][0]["configMapRef"]["name"]
    (data,) = (
        resource["data"]
        for resource in resources.values()
        if resource["metadata"]["name"] == storage
    )
    assert data["MODELS_URL"].startswith("s3://")
    assert data["AWS_ENDPOINT_URL"].startswith("https://")
    assert server["nodeSelector"] and server["runtimeClassName"] == "nvidia"
    limits = server["containers"][0]["resources"]["limits"]
    assert limits == {"memory": "40Gi", "nvidia.com/gpu": "1"}
    for name in ("ranking", "tools"):
        assert pod("Deployment", name)["imagePullSecrets"]
        for container in pod("Deployment", name)["containers"]:
            image = "registry.example.com/muse-ranking:0.1.0"
            assert container["image"] == image
    password = found("Secret", "redis")["metadata"]["name"]
    for kind, name in (("Deployment", "ranking"), ("StatefulSet", "redis")):
        variables = pod(kind, name)["containers"][0]["env"]
        names = [v["valueFrom"]["secretKeyRef"]["name"] for v in variables]
        assert names == [password]


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory) -> pathlib.Path:
    """The smallest overlay with encryption, and its certificates."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("encrypted")
    (commands,) = blocks("bash", "# deploy/tls")
    subprocess.run(
        ["bash", "-euc", commands], cwd=folder, check=True, capture_output=True
    )
    for name in ("model-server", "ranking", "client"):
        check_strictly(folder / "deploy" / "tls", name)
    (first,) = blocks("yaml", "apiVersion: kustomize")
    (more,) = blocks("yaml", ENCRYPTION)
    (fields,) = blocks("json", '  "ssl_config_file"')
    deploy = folder / "deploy"
    (deploy / "kustomization.yaml").write_text(first + more)
    ranking = (BASE / "ranking.json").read_text()
    (deploy / "ranking.json").write_text(
        ranking.replace("{\n", "{\n" + fields, 1)
    )
    shutil.copytree(FOLDER, folder / "serving" / "tf_serving")
    return deploy


def test_the_encrypted_overlay_of_the_page_builds(encrypted):
    secrets, found, configs = {}, {}, {}
    for resource in kustomized(encrypted):
        name = resource["metadata"]["name"]
        if resource["kind"] == "Secret":
            secrets[name] = set(resource["data"])
        elif resource["kind"] == "ConfigMap":
            configs[name] = resource["data"]
        elif resource["kind"] in ("Deployment", "StatefulSet"):
            found[name] = resource["spec"]["template"]["spec"]
    (config,) = (
        ServiceConfig.model_validate_json(data["ranking.json"])
        for data in configs.values()
        if "ranking.json" in data
    )
    tls = config.target_tls
    assert config.ssl_config_file and tls and tls.certificate_file
    needed = {
        "model-server": ["/tls/ssl.config"],
        "ranking": [
            config.ssl_config_file,
            *(tls.ca_file, tls.certificate_file, tls.key_file),
        ],
        "fresh-items": [tls.ca_file, tls.certificate_file, tls.key_file],
    }
    for pod in found.values():
        volumes = {v["name"]: v for v in pod.get("volumes", [])}
        for container in pod["containers"]:
            name = container["name"]
            mounted = {
                f"{mount['mountPath']}/{key}"
                for mount in container["volumeMounts"]
                if "secret" in volumes.get(mount["name"], ())
                for key in secrets[
                    volumes[mount["name"]]["secret"]["secretName"]
                ]
            }
            assert set(map(str, needed.pop(name, []))) == mounted, name
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if name == "ranking":
                    assert container[probe]["httpGet"]["scheme"] == "HTTPS"
                    assert container[probe]["httpGet"]["path"]
            if name == "fresh-items":
                (options,) = (
                    entry["value"]
                    for entry in container["env"]
                    if entry["name"] == "PUSH_OPTIONS"
                )
                assert "$PUSH_OPTIONS" in container["args"][0]
                assert mounted | {tls.server_name} < set(options.split())
    assert not needed
    server = found["muse-model-server"]["containers"][0]
    assert server["args"][-1] == "--ssl_config_file=/tls/ssl.config"
    assert len(server["args"]) == 8 and server["resources"]["limits"]


@pytest.mark.tf
def test_the_certificates_of_the_page_work(encrypted, muse_base):
    """Servers are known by the names they are called by, clients at all."""
    from serving.client import MuseClient, Retry, Tls, UnavailableError
    from serving.client.ranking import RankingClient, RankingRequest
    from serving.model_server import ServerConfig, running
    from serving.ranking_service import running_service

    pem = encrypted / "tls"
    known = Tls(pem / "ca.pem", pem / "client.pem", pem / "client.key")
    config = ServerConfig(
        model_base_path=str(muse_base),
        port=0,
        rest_api_port=-1,
        ssl_config_file=str(pem / "model-server.config"),
    )

    def state(tls: Tls) -> str:
        with MuseClient(
            app.grpc_target, tls=tls, retry=Retry(attempts=1)
        ) as client:
            return client.status()[0].state

    with running(config) as app:
        # Pods are found by DNS, and known by the name that was looked up.
        names = [target.split(":")[1] for target in settings().targets]
        for name in names:
            named = dataclasses.replace(known, server_name=name)
            assert state(named) == "AVAILABLE"
        for wrong in (
            dataclasses.replace(known, server_name="muse-ranking"),
            Tls(pem / "ca.pem", server_name=names[0]),
        ):
            with pytest.raises(UnavailableError):
                state(wrong)
        service = ServiceConfig(
            targets=(app.grpc_target,),
            target_tls=dataclasses.replace(known, server_name=names[0]),
            matching_model="",
            port=0,
            rest_port=-1,
            ssl_config_file=str(pem / "ranking.config"),
        )
        caller = Tls(pem / "ca.pem", server_name="muse-ranking.muse.svc")
        with (
            running_service(service) as ranking,
            RankingClient(ranking.grpc_target, tls=caller) as client,
        ):
            request = RankingRequest(1, [3, 4], deadline_ms=9000)
            assert client.rank(request).path == "no_history"


def test_the_gpu_patch_names_what_is_there():
    patch = yaml.safe_load((GPU / "model-server.yaml").read_text())
    base = find(patch["kind"], patch["metadata"]["name"])
    (patched,) = patch["spec"]["template"]["spec"]["containers"]
    container, *_ = base["spec"]["template"]["spec"]["containers"]
    assert patched["name"] == container["name"]
    listed = yaml.safe_load((GPU / "kustomization.yaml").read_text())
    (image,) = listed["images"]
    assert container["image"] == image["name"]
    base_images = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    (tag,) = (
        i["newTag"] for i in base_images["images"] if i["name"] == image["name"]
    )
    assert image["newTag"] == f"{tag}-gpu"
    for name, newer in (("compose", ""), ("compose.gpu", "-gpu")):
        compose = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
        assert compose["services"]["serving"]["image"] == (
            f"{image['name']}:${{TF_SERVING:-{tag}}}{newer}"
        )


def test_the_same_config_files_as_without_kubernetes():
    for ours, theirs in (
        ("models.config", "models_with_matching.config"),
        ("monitoring.config", "monitoring.config"),
        ("available.sh", "available.sh"),
    ):
        assert (BASE / ours).read_text() == (FOLDER / theirs).read_text()


def test_flags_of_the_model_server():
    from serving.model_server.config_files import read_models
    from serving.model_server.main import parse_flags

    ((_, container),) = (
        pair for pair in containers() if pair[1]["name"] == "model-server"
    )
    config = parse_flags(container["args"])
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert ports == {"grpc": config.port, "rest": config.rest_api_port}
    assert not any("batching" in flag for flag in container["args"])
    for flag in container["args"]:
        _, _, value = flag.partition("=")
        if value.startswith("/config/"):
            assert (BASE / value.removeprefix("/config/")).is_file()
    mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
    models = read_models(str(BASE / "models.config"))
    assert {m.name for m in models} == {
        settings().model,
        settings().matching_model,
    }
    for model in models:
        assert model.base_path == f"/models/{model.name}"
    assert mounts["/models"]["readOnly"]
    ((_, pull),) = (
        pair for pair in containers() if pair[1]["name"] == "models"
    )
    words = pull["args"][0].split()
    assert words[1:6] == ["muse", "models", "pull", '"$MODELS_URL"', "/models"]
    given = [words[i + 1] for i, word in enumerate(words) if word == "--model"]
    assert given == [model.name for model in models]
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["exec"]["command"] == [
            *("bash", "/config/available.sh"),
            *(model.name for model in models),
        ]


def test_the_model_server_is_told_to_stop_and_can_hear_it():
    """It ignores SIGTERM as process 1, and drains nothing."""
    pod = find("StatefulSet", "muse-model-server")["spec"]["template"]["spec"]
    assert pod["shareProcessNamespace"] is True
    container, *_ = pod["containers"]
    assert container["command"] == ["tensorflow_model_server"]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pause


def threads(arguments: list[str]) -> int:
    (flag,) = (a for a in arguments if a.startswith("--grpc_max_threads="))
    return int(flag.partition("=")[2])


def test_model_servers_admit_the_calls_of_every_ranking_pod():
    """Computed from what is admitted, here, for Compose and on the page."""
    scaled = find("HorizontalPodAutoscaler", "muse-ranking")["spec"]
    rolling = find("Deployment", "muse-ranking")["spec"]["strategy"]
    pods = scaled["maxReplicas"] + rolling["rollingUpdate"]["maxSurge"]
    ((_, container),) = (
        pair for pair in containers() if pair[1]["name"] == "model-server"
    )
    needed = grpc_max_threads(pods, settings().calls_per_target)
    assert threads(container["args"]) == needed == 256
    page = PAGE.read_text(encoding="utf-8")
    assert f"{pods} × {settings().calls_per_target} + 3 = {needed}" in page
    for name in ("compose.yaml", "compose.matching.yaml"):
        services = yaml.safe_load((FOLDER / name).read_text())["services"]
        needed = grpc_max_threads(1, ServiceConfig().calls_per_target)
        assert threads(services["serving"]["command"]) == needed
        assert f"1 × {ServiceConfig().calls_per_target} + 3 = {needed}" in page


def test_targets_are_the_ready_pods():
    """DNS of the headless service has the addresses of ready pods."""
    server = find("StatefulSet", "muse-model-server")
    service = find("Service", server["spec"]["serviceName"])["spec"]
    assert service["clusterIP"] == "None"
    assert not service.get("publishNotReadyAddresses")
    (port,) = (p for p in service["ports"] if p["name"] == "grpc")
    name = server["spec"]["serviceName"]
    assert settings().targets == (f"{DNS}{name}:{port['port']}",)


def test_ports_and_settings_of_the_ranking_service():
    config = settings()
    ((_, container),) = (
        pair for pair in containers() if pair[1]["name"] == "ranking"
    )
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert ports == {"grpc": config.port, "rest": config.rest_port}
    assert config.host == "0.0.0.0"  # noqa: S104
    spec = find("Deployment", "muse-ranking")["spec"]
    rolling = spec["strategy"]["rollingUpdate"]
    assert (rolling["maxUnavailable"], rolling["maxSurge"]) == (0, 1)
    pod = spec["template"]["spec"]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pause + config.drain_seconds
    host, port = re.fullmatch(
        r"redis://([\w-]+):(\d+)/0", config.store
    ).groups()  # type: ignore[union-attr]
    (service_port,) = find("Service", host)["spec"]["ports"]
    assert service_port["port"] == int(port)


def test_probes_ask_paths_that_the_service_answers():
    from serving.ranking_service import rest_server

    text = pathlib.Path(rest_server.__file__).read_text()
    served = set(re.findall(r'add_get\("([^"]+)"', text))
    ((_, container),) = (
        pair for pair in containers() if pair[1]["name"] == "ranking"
    )
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in served
    notes = find("Deployment", "muse-ranking")["spec"]["template"]["metadata"]
    assert notes["annotations"]["prometheus.io/path"] in served


def test_names_agree():
    """Selectors meet pods; volumes, claims and ports are there."""
    labels = {
        r["metadata"]["name"]: r["spec"]["template"]["metadata"]["labels"]
        for r in pods()
    }
    made = {"muse-model-server", "muse-ranking", "muse-storage"}
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    assert {c["name"] for c in listed["configMapGenerator"]} == made
    literals = listed["configMapGenerator"][1]["literals"]
    assert literals[0].startswith("MODELS_URL=s3://")
    for resource in pods():
        spec = resource["spec"]
        name = resource["metadata"]["name"]
        assert spec["selector"]["matchLabels"].items() <= labels[name].items()
        inside = spec["template"]["spec"]
        volumes = {v["name"]: v for v in inside.get("volumes", [])}
        volumes |= {
            claim["metadata"]["name"]: {}
            for claim in spec.get("volumeClaimTemplates", [])
        }
        for volume in volumes.values():
            if "configMap" in volume:
                assert volume["configMap"]["name"] in made
        for container in inside["containers"]:
            for mount in container["volumeMounts"]:
                assert mount["name"] in volumes
            assert container["resources"]["requests"]["memory"]
            assert container["resources"]["limits"]["memory"]
    for resource in RESOURCES:
        spec = resource.get("spec", {})
        if resource["kind"] == "Service":
            chosen = spec["selector"][NAME]
            assert chosen in labels
            ports = {
                port["name"]
                for name, container in containers()
                if name == chosen
                for port in container.get("ports", [])
            }
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        elif resource["kind"] == "PodDisruptionBudget":
            assert spec["selector"]["matchLabels"][NAME] in labels
        elif resource["kind"] == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            found = find(target["kind"], target["name"])
            assert "replicas" not in found["spec"]  # or applying resets it


def test_network_policies_let_the_callers_in():
    """Callers are let in; model servers and Redis are open to no others."""
    ports = {"muse-model-server": 8500, "muse-redis": 6379}
    callers = [
        r["spec"]["template"]["metadata"]["labels"]
        for r in pods()
        if r["metadata"]["name"] in ("muse-ranking", "muse-tools")
    ]
    assert len(callers) == 2
    for name, port in ports.items():
        rules = find("NetworkPolicy", name)["spec"]["ingress"]
        (rule,) = (r for r in rules if {"port": port} in r["ports"])
        peer, *_ = rule["from"]
        for labels in callers:
            assert peer["podSelector"]["matchLabels"].items() <= labels.items()
    assert find("NetworkPolicy", "muse-deny")["spec"]["podSelector"] == {}


def test_compose_with_the_ranking_service():
    services = yaml.safe_load((FOLDER / "compose.ranking.yaml").read_text())[
        "services"
    ]
    known = {*services, "serving"}
    (argument,) = services["ranking"]["command"]
    config = ServiceConfig.model_validate_json(argument)
    assert config.targets == ("serving:8500",)
    assert config.store == "redis://redis:6379/0"
    assert set(services["ranking"]["depends_on"]) <= known
    assert (FOLDER / "../.." / "setup.py").is_file()
    scraped = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    paths = {
        job["static_configs"][0]["targets"][0]: job["metrics_path"]
        for job in scraped["scrape_configs"]
    }
    assert paths == {
        "serving:8501": "/monitoring/prometheus/metrics",
        f"ranking:{config.rest_port}": "/metrics",
    }


def test_the_image_has_what_the_service_imports(tmp_path):
    """Only packages that the Dockerfile installs are imported."""
    text = (FOLDER / "Dockerfile").read_text()
    root = FOLDER.parents[1]
    installs = re.findall(
        r"pip install (.*?)(?= && |$)", text.replace("\\\n", " "), re.M
    )
    assert len(installs) == 2
    assert "--require-hashes" in installs[0] and "image.lock" in installs[0]
    assert {"--no-deps", "--no-build-isolation"} < set(installs[1].split())
    (command,) = re.findall(r'CMD \["(.*)"\]', text)
    ServiceConfig.model_validate_json(command.replace("\\", ""))
    code = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {
            "tensorflow", "tensorflow_serving", "tfx", "keras", "pandas",
            "sklearn", "scipy", "matplotlib", "apache_beam", "google.cloud",
        }:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Blocked())
import serving.ranking_service.app
from serving.startup import read_tls
try:
    read_tls(sys.argv[1])
except ValueError as error:
    assert "cannot be used" in str(error)
else:
    raise AssertionError("it was not read")
import muse_tools.datasets.raw_tables
from muse_tools.cli.main import run
from muse_tools.cli import items, store
"""

    ssl_config = tmp_path / "ssl.config"
    ssl_config.write_text(
        'server_key: "k" server_cert: "c" custom_ca: "a" client_verify: true'
    )
    done = subprocess.run(
        [sys.executable, "-c", code, ssl_config],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def locked(name: str) -> dict[str, str]:
    """Versions by package of a lock file, each with hashes."""
    text = (FOLDER.parents[1] / "requirements" / f"{name}.lock").read_text()
    found = re.findall(
        r"^([\w.-]+)(?:\[\w+\])?==(\S+)[^\n]*\n    --hash=", text, re.M
    )
    assert len(found) == len(re.findall(r"^[\w.-]+\S*==", text, re.M))
    return dict(found)


def test_the_image_has_the_versions_of_the_tests():
    """What its requirements name is locked, by hash, as in stack B."""
    image, tested = locked("image"), locked("stack-b")
    for package in ("redis", "pyarrow", "grpcio", "setuptools", "typer"):
        assert package in image
    assert image.items() <= tested.items()
