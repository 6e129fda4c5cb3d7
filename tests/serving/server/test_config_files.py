"""Configuration files are read, and broken ones are named."""

from __future__ import annotations

import inspect
import pathlib
import textwrap

import pytest

from serving.server import ServerConfig, StartupError
from serving.server.batching import BatchingOptions
from serving.server.config_files import (
    batching_options,
    model_batching_options,
    read_batching,
    read_models,
    read_monitoring,
    read_tls,
)
from serving.server.main import parse_flags
from serving.server.versions import VersionPolicy
from serving.tls import TlsFiles

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


def test_batching_parameters(tmp_path):
    found = read_batching(
        written(
            tmp_path,
            "max_batch_size { value: 8 } batch_timeout_micros { value: 500 } "
            "allowed_batch_sizes: 4 allowed_batch_sizes: 8 "
            "num_batch_threads { value: 2 } pad_variable_length_inputs: true",
        )
    )
    assert found == BatchingOptions(
        max_batch_size=8,
        batch_timeout_micros=500,
        allowed_batch_sizes=(4, 8),
        num_batch_threads=2,
        pad_variable_length_inputs=True,
    )
    assert [found.filled_size(rows) for rows in (1, 4, 5, 8)] == [4, 4, 8, 8]


def test_batching_parameters_that_are_not_set_are_the_defaults(tmp_path):
    found = read_batching(written(tmp_path, ""))
    assert found == BatchingOptions()
    assert (found.max_batch_size, found.max_enqueued_batches) == (1000, 10)
    assert found.batch_timeout_micros == 0
    assert found.filled_size(3) == 3


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros"),
        ("allowed_batch_sizes: 4 allowed_batch_sizes: 2", "ascending"),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 4",
            "must equal max_batch_size, 8",
        ),
        ("max_batch: 3", "is not a BatchingParameters"),
        ("allowed_batch_sizes: 8", "must equal max_batch_size, 1000"),
        (
            "max_batch_size { value: 8 } "
            "enable_large_batch_splitting { value: true } "
            "max_execution_batch_size { value: 4 } allowed_batch_sizes: 8",
            "must equal max_execution_batch_size, 4",
        ),
        (
            "max_batch_size { value: 4 } "
            "enable_large_batch_splitting { value: true } "
            "max_execution_batch_size { value: 8 }",
            "at most max_batch_size, 4",
        ),
    ],
)
def test_broken_batching_parameters(tmp_path, text, part):
    with pytest.raises(StartupError, match=part):
        read_batching(written(tmp_path, text))


def test_batching_needs_its_flag(tmp_path):
    path = written(tmp_path, "max_batch_size { value: 8 }")
    with pytest.raises(StartupError, match="without setting"):
        batching_options(ServerConfig(batching_parameters_file=path))
    with pytest.raises(StartupError, match="per_model.*without setting"):
        batching_options(
            ServerConfig(enable_per_model_batching_parameters=True)
        )
    assert batching_options(ServerConfig()) is None
    assert batching_options(ServerConfig(enable_batching=True)) == (
        BatchingOptions()
    )
    found = batching_options(
        ServerConfig(batching_parameters_file=path, enable_batching=True)
    )
    assert found and found.max_batch_size == 8


@pytest.mark.parametrize("folder", [".", "assets.extra"])
def test_a_version_carries_its_own_batching(tmp_path, folder):
    common = BatchingOptions(num_batch_threads=3, max_batch_size=9)
    assert model_batching_options(str(tmp_path), common) is None
    (tmp_path / folder).mkdir(exist_ok=True)
    file = tmp_path / folder / "batching_params.pbtxt"
    file.write_text(
        "max_batch_size { value: 4 } num_batch_threads { value: 8 }"
    )
    # All is the version's but the threads, which are shared.
    assert model_batching_options(str(tmp_path), common) == BatchingOptions(
        max_batch_size=4, num_batch_threads=3
    )
    file.write_text("max_batch_size { value: 0 }")
    with pytest.raises(StartupError, match="batching_params.pbtxt: max_batch"):
        model_batching_options(str(tmp_path), common)


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
            "--batching_parameters_file=/b",
            "--enable_batching",
            "--monitoring_config_file=/p",
            "--file_system_poll_wait_seconds=2",
            "--allow_version_labels_for_unavailable_models=true",
            "--rest_api_timeout_in_ms=100",
            "--grpc_max_threads=3",
        ]
    )
    assert config.port == 8600 and config.rest_api_port == 0
    assert config.enable_batching is True
    assert config.allow_version_labels_for_unavailable_models is True
    assert config.file_system_poll_wait_seconds == 2
    assert parse_flags(["--enable_batching=false"]).enable_batching is False


@pytest.mark.parametrize(
    "flag",
    ["--nosuch=1", "--port=x", "--enable_batching=maybe", "--port=70000"],
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
