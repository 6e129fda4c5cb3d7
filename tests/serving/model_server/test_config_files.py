"""Configuration files are read, and broken ones are named."""

from __future__ import annotations

import inspect
import pathlib
import textwrap

import pytest

from serving.model_server import ServerConfig, StartupError
from serving.model_server.config_files import (
    read_models,
    read_monitoring,
)
from serving.model_server.main import parse_flags
from serving.model_server.versions import VersionPolicy
from serving.startup import TlsFiles, read_tls

pytestmark = pytest.mark.tf


def written(tmp_path: pathlib.Path, text: str) -> str:
    path = tmp_path / "file.config"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_models(tmp_path):
    first, second = read_models(
        written(
            tmp_path,
            """
            model_config_list {
              config { name: "a" base_path: "/m/a" model_platform: "tensorflow"
                model_version_policy { latest { num_versions: 3 } }
                version_labels { key: "stable" value: 4 } }
              config { name: "b" base_path: "/m/b" }
            }
            """,
        )
    )
    assert (first.name, first.base_path) == ("a", "/m/a")
    assert first.policy == VersionPolicy(num_latest=3)
    assert first.labels == {"stable": 4}
    assert (second.policy, second.labels) == (VersionPolicy(), {})


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("model_config_list { config { nam: 'a' } }", 'no field named "nam"'),
        ("", "expected a model_config_list"),
        ("model_config_list { config { base_path: '/a' } }", "has no name"),
        ("model_config_list { config { name: 'a' } }", "no base_path"),
        (
            "model_config_list { config { name: 'a' base_path: '/a' } "
            "config { name: 'a' base_path: '/b' } }",
            "configured twice",
        ),
        (
            "model_config_list { config { name: 'a' base_path: '/a' "
            "model_platform: 'onnx' } }",
            "'onnx'",
        ),
        (
            "model_config_list { config { name: 'a' base_path: '/a' "
            "model_version_policy { specific {} } } }",
            "without versions",
        ),
    ],
)
def test_broken_models(tmp_path, text, part):
    path = written(tmp_path, text)
    with pytest.raises(StartupError) as caught:
        read_models(path)
    assert str(caught.value).startswith(path) and part in str(caught.value)


def test_paths_may_be_relative_to_the_file(tmp_path):
    text = "model_config_list { config { name: 'a' base_path: '../muse' } }"
    (tmp_path / "serving").mkdir()
    (model,) = read_models(written(tmp_path / "serving", text))
    assert model.base_path == str(tmp_path / "muse")


def test_missing_file():
    with pytest.raises(StartupError, match="/nowhere/models.config: cannot"):
        read_models("/nowhere/models.config")


def test_monitoring(tmp_path):
    text = 'prometheus_config { enable: true path: "/metrics" }'
    found = read_monitoring(written(tmp_path, text))
    assert (found.enabled, found.path) == (True, "/metrics")
    assert not read_monitoring(written(tmp_path, "")).enabled
    assert read_monitoring("").enabled
    with pytest.raises(StartupError, match="must start with '/'"):
        read_monitoring(
            written(tmp_path, 'prometheus_config { path: "metrics" }')
        )


def test_tls(tmp_path):
    with pytest.raises(StartupError, match="server_key and server_cert"):
        read_tls(written(tmp_path, 'server_key: "x"'))
    with pytest.raises(StartupError, match="needs custom_ca"):
        read_tls(
            written(
                tmp_path,
                'server_key: "k" server_cert: "c" client_verify: true',
            )
        )
    with pytest.raises(StartupError, match="file.config: .* cannot be used"):
        read_tls(written(tmp_path, 'server_key: "k" server_cert: "c"'))
    assert "secret" not in repr(TlsFiles(b"secret", b"c", b"", False))


def test_flags_are_spelled_as_tensorflow_model_server():
    config = parse_flags(
        [
            "--port=8600",
            "--rest_api_port=0",
            "--model_name=toy",
            "--model_base_path=/m",
            "--model_config_file=/c",
            "--enable_model_warmup",
            "--monitoring_config_file=/p",
            "--file_system_poll_wait_seconds=2",
            "--allow_version_labels_for_unavailable_models=true",
            "--rest_api_timeout_in_ms=100",
            "--grpc_max_threads=3",
        ]
    )
    assert config.port == 8600 and config.rest_api_port == 0
    assert config.enable_model_warmup is True
    assert config.allow_version_labels_for_unavailable_models is True
    assert config.file_system_poll_wait_seconds == 2
    config = parse_flags(["--enable_model_warmup=false"])
    assert config.enable_model_warmup is False


@pytest.mark.parametrize(
    "flag",
    [
        "--nosuch=1",
        "--port=x",
        "--enable_model_warmup=maybe",
        "--port=70000",
        "--enable_batching",  # TensorFlow Serving has it, this one has not.
        "--batching_parameters_file=/b",
    ],
)
def test_bad_flags_exit_with_2(flag, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_flags([flag])
    assert caught.value.code == 2
    assert flag.strip("-").split("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize("indented", [True, False])  # Python 3.13 strips it.
def test_every_flag_has_help(indented, capsys, monkeypatch):
    words = inspect.cleandoc(ServerConfig.__doc__)
    if indented:
        words = "First.\n" + textwrap.indent(words, " " * 4)
    monkeypatch.setattr(ServerConfig, "__doc__", words)
    with pytest.raises(SystemExit):
        parse_flags(["--help"])
    text = capsys.readouterr().out
    for name in ("port_file", "drain_seconds", "model_config_file"):
        assert f"--{name}" in text
