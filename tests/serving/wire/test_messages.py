"""The client's messages are TensorFlow Serving's, byte for byte."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import textwrap

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, text_format
from hypothesis import strategies as st

from serving.client import RankRequest, make_example
from serving.client.wire_grpc import Target, predict_request
from serving.wire import messages, proto_files, ranking_messages
from serving.wire.tensors import TensorError, array_from_proto, fill_proto

DTYPES = [
    np.float16,
    np.float32,
    np.float64,
    np.int8,
    np.int16,
    np.int32,
    np.int64,
    np.uint8,
    np.uint16,
    np.uint32,
    np.uint64,
    np.bool_,
]
FOLDER = pathlib.Path(messages.__file__).parent
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)


def test_the_proto_files_are_read_as_protoc_reads_them(tmp_path):
    out = tmp_path / "messages.binpb"
    protos = sorted(path.name for path in FOLDER.glob("*.proto"))
    # A process of its own: its protobuf library is not this one's.
    protoc = (
        "import pathlib, sys, grpc_tools; "
        "from grpc_tools._protoc_compiler import run_main; "
        "known = pathlib.Path(grpc_tools.__file__).parent / '_proto'; "
        "words = [*sys.argv, f'-I{known}', '-I.']; "
        "sys.exit(run_main([word.encode() for word in words]))"
    )
    subprocess.run(
        [sys.executable, "-c", protoc, f"--descriptor_set_out={out}", *protos],
        cwd=FOLDER,
        check=True,
    )
    made = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    assert len(made) == len(protos) == 3
    for file in made:
        if file.service:
            (service,) = file.service
            name = f"{file.package}.{service.name}"
            assert name == ranking_messages.SERVICE
            assert [m.name for m in service.method] == ["Rank", "AppendEvents"]
            file.ClearField("service")
        read = descriptor_pb2.FileDescriptorProto()
        messages.POOL.FindFileByName(file.name).CopyToProto(read)
        assert without_json_names(read) == without_json_names(file)


def without_json_names(file):
    """Only protoc writes them, and they follow from the names."""
    text = re.sub(
        r'\s*json_name: "[^"]*"', "", text_format.MessageToString(file)
    )
    return text_format.Parse(text, descriptor_pb2.FileDescriptorProto())


@pytest.mark.parametrize(
    "line", ["int64 id;", "int64 id = x;", "map<string, int64 a = 1;", ""]
)
def test_what_is_no_proto_file_is_refused_by_name(tmp_path, line):
    path = tmp_path / "wrong.proto"
    path.write_text(f"package a;\nmessage M {{ {line}")
    with pytest.raises(ValueError, match="wrong.proto"):
        proto_files.read_proto(path)


@hypothesis.given(st.data(), st.sampled_from(DTYPES), st.booleans())
def test_tensors_round_trip(data, dtype, content):
    array = data.draw(hnp.arrays(dtype, shapes))
    proto = messages.TensorProto()
    fill_proto(proto, array, content=content)
    found = array_from_proto(
        messages.TensorProto.FromString(proto.SerializeToString())
    )
    assert found.dtype == array.dtype and found.shape == array.shape
    np.testing.assert_array_equal(found, array)


def test_large_numbers_of_64_bits_are_not_rounded():
    array = np.array([1, 2**63 + 1, 2**64 - 1], np.uint64)
    proto = messages.TensorProto()
    fill_proto(proto, array)
    np.testing.assert_array_equal(array_from_proto(proto), array)


@pytest.mark.tf
@hypothesis.given(st.data(), st.sampled_from(DTYPES), st.booleans())
@hypothesis.settings(deadline=None)
def test_tensorflow_reads_our_tensors_and_we_read_its(data, dtype, content):
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    array = data.draw(hnp.arrays(dtype, shapes))
    ours = messages.TensorProto()
    fill_proto(ours, array, content=content)
    theirs = tensor_pb2.TensorProto.FromString(ours.SerializeToString())
    np.testing.assert_array_equal(tf.make_ndarray(theirs), array)
    back = messages.TensorProto.FromString(
        tf.make_tensor_proto(array).SerializeToString()
    )
    np.testing.assert_array_equal(array_from_proto(back), array)


@pytest.mark.tf
def test_requests_are_identical_with_the_real_messages():
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    ids = np.arange(-3, 3, dtype=np.int64).reshape(2, 3)
    words = np.array([b"a", b"\xff"], object)
    for target in (Target("m"), Target("m", 7), Target("m", label="stable")):
        ours = predict_request(target, "rank", {"ids": ids}, ["y"])
        real = predict_pb2.PredictRequest()
        real.model_spec.name = "m"
        real.model_spec.signature_name = "rank"
        if target.version is not None:
            real.model_spec.version.value = target.version
        if target.label is not None:
            real.model_spec.version_label = target.label
        real.inputs["ids"].CopyFrom(tf.make_tensor_proto(ids))
        real.output_filter.append("y")
        assert ours == real.SerializeToString(deterministic=True)
    ours = predict_request(Target("m"), "s", {"words": words})
    real = predict_pb2.PredictRequest.FromString(ours)
    assert list(real.inputs["words"].string_val) == [b"a", b"\xff"]


@pytest.mark.tf
def test_examples_are_real_examples():
    import tensorflow as tf

    request = RankRequest(
        user_id=-5,
        candidate_item_ids=[2**62, -1],
        user={"age": 5},
        behaviors={"brand": []},
    )
    example = tf.train.Example.FromString(
        make_example(request, {"city": [7, 8]})
    )
    features = example.features.feature
    assert features["user_id"].int64_list.value == [-5]
    assert features["user_age"].int64_list.value == [5]
    for name in ("behavior_item_ids", "behavior_brand"):
        assert features[name].WhichOneof("kind") == "int64_list"
    assert features["candidate_item_ids"].int64_list.value == [2**62, -1]
    assert features["candidate_city"].int64_list.value == [7, 8]


def test_numbers_are_viewed_not_copied():
    array = np.arange(100_000, dtype=np.int64)
    proto = messages.TensorProto()
    fill_proto(proto, array)
    found = array_from_proto(proto)
    assert not found.flags.owndata and not found.flags.writeable


def test_bad_tensors():
    proto = messages.TensorProto()
    fill_proto(proto, np.zeros((2, 2), np.float32))
    proto.tensor_content = b"abc"
    with pytest.raises(TensorError, match="3 bytes of content for shape"):
        array_from_proto(proto)
    with pytest.raises(TensorError, match="complex64"):
        fill_proto(messages.TensorProto(), np.zeros(1, np.complex64))
    with pytest.raises(TensorError, match="cannot hold int"):
        fill_proto(messages.TensorProto(), np.array([1], object))
    proto = messages.TensorProto(dtype=99)
    with pytest.raises(TensorError, match="number 99"):
        array_from_proto(proto)


def test_the_client_needs_no_tensorflow():
    # With its imports blocked, in a fresh process.
    code = """
        import sys

        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in (
                    "tensorflow", "tensorflow_serving", "keras", "aiohttp",
                    "pyarrow", "muse_keras", "tfx_pipeline",
                ):
                    raise ImportError(f"{name} is blocked")

        sys.meta_path.insert(0, Blocked())
        import serving.client as c

        request = c.RankRequest(1, [3], [1], {"age": 2}, {"brand": [2]})
        c.make_example(request)
        for kind in ("grpc", "rest"):
            with c.MuseClient(
                "127.0.0.1:1", kind, retry=c.Retry(attempts=1)
            ) as client:
                try:
                    client.rank(request)
                except c.UnavailableError:
                    pass
        assert "serving.model_server" not in sys.modules
        print("fine")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "fine", done.stderr
