"""A feature is one line of the declaration, from the tables to the client."""

from __future__ import annotations

import functools

import apache_beam as beam
import pytest
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import metadata_io
from tensorflow_transform.tf_metadata.dataset_metadata import DatasetMetadata
from tfx.types import standard_artifacts

from muse_tools.datasets import raw_tables
from schemas import ranking_schema
from serving import export
from serving.client import MuseClient, RankRequest, RequestError
from serving.model_server import ServerConfig, running
from tests.own_data import shop
from tests.tfx_pipeline.transforms.test_request_join import read_examples
from tfx_pipeline import learned_values, preprocessing
from tfx_pipeline.components.item_table_gen import build_item_table
from tfx_pipeline.components.request_example_gen import RequestExampleGen
from tfx_pipeline.config import ModelConfig, TransformConfig
from tfx_pipeline.examples_schema import request_schema
from tfx_pipeline.training import trainer

pytestmark = [pytest.mark.once, pytest.mark.slow, pytest.mark.tf]

SCHEMA = """
name: shop
user: {column: uid, type: string}
item: {column: sku, type: string}
labels: {click: clicked}
features:
  item: {category: {type: string}}
  context:
    hour: {time: hour}
vectors: {column: vector, separator: " "}
log:
  time: shown_at
  event_time: at
  train: [2026-03-21, 2026-03-27]
  eval: [2026-03-28, 2026-03-29]
"""
LINE = "    discount: {type: float, buckets: 4}\n"


def exported(folder, tables, text):
    """Goes from tables and a declaration to a SavedModel, without training."""
    (tables / "schema.yaml").write_text(text, encoding="utf-8")
    declared = ranking_schema.load(tables / "schema.yaml")
    artifact = standard_artifacts.Examples()
    artifact.uri = str(folder / "examples")
    RequestExampleGen.test_call(
        artifact,
        raw_dir=str(tables),
        raw_fingerprint="",
        rejected_dir=str(folder / "rejected"),
        max_candidates=8,
        max_rejected_fraction=0.0,
        join_partitions=1,
        beam_pipeline=beam.Pipeline(),
    )
    schema = text_format.Parse(request_schema(declared), schema_pb2.Schema())
    examples = read_examples(folder / "examples" / "Split-train")
    prepare = functools.partial(
        preprocessing.preprocessing_fn,
        custom_config={
            **TransformConfig().model_dump(),
            "features": declared.features.model_dump(mode="json"),
        },
    )
    raw, graph = DatasetMetadata(schema), str(folder / "transform")
    with tft_beam.Context(temp_dir=str(folder / "tmp")):
        function = (examples, raw) | tft_beam.AnalyzeDataset(prepare)
        _ = function | tft_beam.WriteTransformFn(graph)
    metadata_io.write_metadata(
        raw, f"{graph}/{tft.TFTransformOutput.RAW_METADATA_DIR}"
    )
    output = tft.TFTransformOutput(graph)
    learned = learned_values.read_learned(output, declared.features)
    table = build_item_table(
        raw_tables.RawTables.open(tables),
        folder / "table",
        folder / "rejected_items",
    )
    model = trainer.build_model(ModelConfig(k=5), table, declared, learned)
    export.export_saved_model(
        str(folder / "model" / "1"),
        model=model,
        item_table=table,
        features=declared.features,
        learned=learned,
        schema=declared,
        max_history=20,
        transform_output=graph,
    )
    return str(folder / "model")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models without and with the line."""
    root = tmp_path_factory.mktemp("one_line")
    shop.write(shop.make(num_users=40, num_items=60), root / "tables")
    above = "  context:\n"
    return {
        name: exported(root / name, root / "tables", text)
        for name, text in (
            ("without", SCHEMA),
            ("with", SCHEMA.replace(above, above + LINE)),
        )
    }


def inputs(client):
    return client.metadata().signatures["rank"].inputs


def test_one_line_adds_a_feature(models):
    request = RankRequest(7, [1, 2], context={"discount": 12.5})
    found = {}
    for name, folder in models.items():
        server = ServerConfig(model_base_path=folder, port=0, rest_api_port=-1)
        with running(server) as address:
            with MuseClient(address.grpc_target) as client:
                found[name] = inputs(client)
                if name == "with":
                    assert len(client.rank(request).click_probability) == 2
                else:
                    with pytest.raises(RequestError, match="discount"):
                        client.rank(request)
    assert set(found["with"]) - set(found["without"]) == {"context_discount"}
    assert set(found["without"]) < set(found["with"])
