"""The REST interface answers as TensorFlow Serving 2.16.1 was seen to."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from tests.serving import toy_model

pytestmark = [pytest.mark.tf, pytest.mark.conformance]

ONES = [1, 1, 1, 1, 1]


def test_row_form(rest):
    x = [[1.0, 2.0, 3.0, 4.0, 5.0], [0.5, 0, 0, 0, 0]]
    status, found = rest.predict(
        {"instances": [{"ids": 10, "x": x[0]}, {"ids": 77, "x": x[1]}]}
    )
    want = toy_model.expected_scores([10, 77], np.array(x), toy_model.BIAS)
    assert status == 200
    assert found == {
        "predictions": [
            {"row": 1, "score": want[0]},
            {"row": 0, "score": want[1]},
        ]
    }


def test_column_form(rest):
    status, found = rest.predict(
        {"inputs": {"ids": [10, -20], "x": [ONES, ONES]}}
    )
    want = toy_model.expected_scores([10, -20], np.ones(5), toy_model.BIAS)
    assert status == 200
    assert found == {"outputs": {"row": [1, 2], "score": want.tolist()}}


def test_one_input_and_one_output_need_no_names(rest):
    body = {"signature_name": "echo", "instances": [3, -4]}
    assert rest.predict(body) == (200, {"predictions": [3, -4]})
    body = {"signature_name": "echo", "inputs": [3, -4]}
    assert rest.predict(body) == (200, {"outputs": [3, -4]})


def test_types_of_numbers(rest):
    _, text, headers = rest.send(
        "POST",
        "/v1/models/toy:predict",
        b'{"signature_name":"specials","instances":[1.0, 2.0]}',
    )
    assert headers["Content-Type"].startswith("application/json")
    values = json.loads(text)["predictions"]
    assert all(type(value) is float for value in values)
    assert np.float32(values).tolist() == [0.0, np.log(np.float32(2.0))]
    ids = [2**53 + 1, -(2**63), 2**63 - 1]
    body = {"signature_name": "echo", "inputs": ids}
    assert rest.predict(body) == (200, {"outputs": ids})


def test_missing_input(rest):
    status, text = rest.error({"inputs": {"ids": [10]}})
    assert status == 400 and "Missing named input: x" in text
    status, text = rest.error({"instances": [{"ids": 10}]})
    assert status == 400 and "keys must be equal to: ids,x" in text


def test_extra_input(rest):
    body = {"inputs": {"ids": [10], "x": [ONES], "zz": [1]}}
    assert rest.predict(body)[0] == 200
    status, text = rest.error({"instances": [{"zz": 1, "ids": 10, "x": ONES}]})
    assert status == 400
    assert "zz" in text


def test_wrong_dtype(rest):
    body = {"inputs": {"ids": [10], "x": [["1", 1, 1, 1, 1]]}}
    status, text = rest.error(body)
    assert status == 400 and "is not of expected type: float" in text
    body = {"inputs": {"ids": [1.5], "x": [ONES]}}
    status, text = rest.error(body)
    assert status == 400 and "is not of expected type: int64" in text


def test_wrong_inner_dimension(rest):
    status, text = rest.error({"inputs": {"ids": [10], "x": [[1, 1, 1, 1]]}})
    assert status == 400 and text.startswith("Incompatible shapes: ")


def test_a_rank_that_the_graph_tolerates(rest):
    assert rest.predict({"inputs": {"ids": [10], "x": ONES}})[0] == 200


def test_ragged(rest):
    body = {"inputs": {"ids": [1, 2], "x": [[1, 1, 1, 1], [1, 1]]}}
    status, text = rest.error(body)
    assert status == 400 and "size" in text


def test_failed_assertion(rest):
    status, text = rest.error(
        {"signature_name": "positive", "instances": [-1.0]}
    )
    assert status == 400 and text.startswith("assertion failed: [")


def test_unknown_signature(rest):
    body = {"signature_name": "nosuch", "instances": [1]}
    assert rest.error(body) == (
        400,
        'Serving signature name: "nosuch" not found in signature def',
    )


def test_unknown_model_version_and_label(rest):
    body = {"instances": [{"ids": 10, "x": ONES}]}
    assert rest.error(body, "/v1/models/nope") == (
        404,
        "Servable not found for request: Latest(nope)",
    )
    assert rest.error(body, "/v1/models/toy/versions/99") == (
        404,
        "Servable not found for request: Specific(toy, 99)",
    )
    assert rest.error(body, "/v1/models/toy/labels/stable") == (
        400,
        "Unrecognized servable version label: stable",
    )
    assert rest.predict(body, "/v1/models/toy/versions/1")[0] == 200


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "JSON Parse error: "),
        (b"{", "JSON Parse error: "),
        (b"x", "JSON Parse error: "),
        (b"{}", "Missing 'inputs' or 'instances' key"),
    ],
)
def test_bad_bodies(rest, body, text):
    status, found = rest.error(body)
    assert status == 400 and found.startswith(text)


def test_both_keys(rest):
    status, text = rest.error({"instances": [1], "inputs": [1]})
    assert status == 400
    assert "only one of 'inputs' or 'instances' keys to exist" in text


def test_no_instances(rest):
    status, text = rest.error({"instances": []})
    assert status == 400
    assert "No values in 'instances' array" in text


def test_base64(rest):
    raw = base64.b64encode(b"\xff\x00").decode()
    status, found = rest.predict(
        {
            "signature_name": "text",
            "inputs": {"s": [{"b64": base64.b64encode(b"hi").decode()}]},
        }
    )
    assert status == 200
    assert found["outputs"] == {
        "plain": ["hi"],
        "raw_bytes": [{"b64": base64.b64encode(b"hi").decode()}],
    }
    body = {"signature_name": "text", "instances": [{"b64": raw}, "plain"]}
    rows = rest.predict(body)[1]["predictions"]
    assert rows[0]["raw_bytes"] == {"b64": raw}
    assert rows[1]["plain"] == "plain"
    # Without that ending, bytes that are no text are written as they are.
    body = {"signature_name": "text", "inputs": {"s": [{"b64": raw}]}}
    text = rest.predict(body)[1]["outputs"]["plain"][0]
    assert text.encode("utf-8", "surrogateescape") == b"\xff\x00"
    body = {"signature_name": "text", "inputs": {"s": [{"b64": "!"}]}}
    assert rest.error(body) == (400, "Unable to base64 decode")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models/toy:predict"),
        ("POST", "/v1/models/toy"),
        ("DELETE", "/v1/models/toy"),
        ("GET", "/v1/nothing/here"),
        ("POST", "/v1/models/toy:explode"),
    ],
)
def test_wrong_verb_or_path(rest, method, path):
    status, text, _ = rest.send(method, path)
    assert status == 400
    assert json.loads(text) == {"error": f"Malformed request: {method} {path}"}


def test_timeout(rest, toy):
    if not toy.embedded:
        pytest.skip("the time limit of that server is not known")
    status, _ = rest.error({"signature_name": "slow", "inputs": 10**9})
    assert status == 504


def test_non_finite_values(rest):
    body = b'{"signature_name":"specials","instances":[0, -1, Infinity, NaN]}'
    _, text, _ = rest.send("POST", "/v1/models/toy:predict", body)
    assert "".join(text.split()) == (
        '{"predictions":[-Infinity,NaN,Infinity,NaN]}'
    )


def test_outputs_without_batch_dimension(rest):
    # The graph runs, and its state changes, before the answer fails.
    body = {"signature_name": "remember", "instances": [41, 42]}
    status, text = rest.error(body)
    assert status == 400 and "count has no shape information" in text
    body = {"signature_name": "recall", "instances": [1]}
    assert rest.predict(body) == (200, {"predictions": [42]})
    body = {"signature_name": "remember", "inputs": [7]}
    assert rest.predict(body) == (200, {"outputs": 1})


def test_status(rest):
    available = {
        "model_version_status": [
            {
                "version": "1",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }
    assert rest.get("/v1/models/toy") == (200, available)
    assert rest.get("/v1/models/toy/versions/1") == (200, available)
    assert rest.get("/v1/models/toy/labels/nosuch") == (200, available)
    assert rest.get("/v1/models/nope") == (
        404,
        {"error": "Could not find any versions of model nope"},
    )


def test_metadata(rest):
    status, found = rest.get("/v1/models/toy/metadata")
    assert status == 200
    assert found["model_spec"] == {
        "name": "toy",
        "signature_name": "",
        "version": "1",
    }
    signatures = found["metadata"]["signature_def"]["signature_def"]
    assert signatures["echo"] == {
        "inputs": {
            "v": {
                "dtype": "DT_INT64",
                "tensor_shape": {
                    "dim": [{"size": "-1", "name": ""}],
                    "unknown_rank": False,
                },
                "name": "echo_v:0",
            }
        },
        "outputs": signatures["echo"]["outputs"],
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }


def test_metrics(rest, toy):
    if not toy.embedded:
        pytest.skip("metrics of that server may be off")
    rest.predict({"signature_name": "echo", "instances": [1]})
    status, text, headers = rest.send("GET", "/monitoring/prometheus/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain")
    count = ':tensorflow:serving:request_count{model_name="toy",status="OK"} '
    assert any(line.startswith(count) for line in text.splitlines())
    from prometheus_client.parser import text_string_to_metric_families

    buckets = [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.endswith(":request_latency_bucket")
        and sample.labels["entrypoint"] == "REST"
        and sample.labels["API"] == "predict"
    ]
    values = [sample.value for sample in buckets]
    assert values and values == sorted(values) and values[-1] >= 1
