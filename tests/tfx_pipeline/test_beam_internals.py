"""A test for each part of Beam that is not public, by what it guards."""

from __future__ import annotations

import pathlib

import apache_beam as beam
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from apache_beam.coders import VarIntCoder
from apache_beam.options import pipeline_options as options
from apache_beam.runners.worker import statecache
from apache_beam.testing import util
from apache_beam.transforms import userstate
from tensorflow_transform.tf_metadata import dataset_metadata

from tfx_pipeline import beam_internals


class Count(beam.DoFn):
    """Numbers the values of a key, in a state of Beam."""

    SEEN = userstate.ReadModifyWriteStateSpec("seen", VarIntCoder())

    def process(self, element, seen=beam.DoFn.StateParam(SEEN)):  # noqa: B008
        number = (seen.read() or 0) + 1
        seen.write(number)
        yield number


def test_dofn_specs_are_looked_at_once_and_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []
    look = getattr(
        userstate.get_dofn_specs, "__wrapped__", userstate.get_dofn_specs
    )

    def counting(dofn):
        asked.append(dofn)
        return look(dofn)

    monkeypatch.setattr(userstate, "get_dofn_specs", counting)
    beam_internals.spare_local_runs()
    wrapped = userstate.get_dofn_specs
    beam_internals.spare_local_runs()
    assert userstate.get_dofn_specs is wrapped
    with beam.Pipeline(runner="DirectRunner") as pipeline:
        numbers = (
            pipeline
            | beam.Create([("a", 1), ("a", 2), ("a", 3)])
            | beam.ParDo(Count())
        )
        util.assert_that(numbers, util.equal_to([1, 2, 3]))
    assert len(asked) == len({id(dofn) for dofn in asked})
    assert any(isinstance(dofn, Count) for dofn in asked)
    counter = next(dofn for dofn in asked if isinstance(dofn, Count))
    assert wrapped(counter) == look(counter)
    assert wrapped(counter)[0]


def test_views_of_options_are_made_once_and_share_their_values() -> None:
    beam_internals.spare_local_runs()
    flags = ["--runner=DirectRunner", "--direct_num_workers=3"]
    given, other = options.PipelineOptions(flags), options.PipelineOptions([])
    view = given.view_as(options.DirectOptions)
    assert given.view_as(options.DirectOptions) is view
    assert view.direct_num_workers == 3
    assert other.view_as(options.DirectOptions).direct_num_workers == 1
    view.direct_num_workers = 5
    standard = given.view_as(options.StandardOptions)
    assert standard.view_as(options.DirectOptions).direct_num_workers == 5
    assert given.get_all_options()["direct_num_workers"] == 5


def test_state_cache_guards_in_memory_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weighed: list[object] = []
    weigh = statecache.get_deep_size

    def counting(*objects):
        weighed.append(objects)
        return weigh(*objects)

    monkeypatch.setattr(statecache, "get_deep_size", counting)
    beam_internals.spare_local_runs()
    with beam.Pipeline(runner="DirectRunner") as pipeline:
        side = pipeline | "side" >> beam.Create([2, 3])
        products = (
            pipeline
            | beam.Create([1, 5])
            | beam.FlatMap(
                lambda x, many, one: [x * y + one for y in many],
                beam.pvalue.AsIter(side),
                beam.pvalue.AsSingleton(side | beam.CombineGlobally(sum)),
            )
        )
        util.assert_that(products, util.equal_to([7, 8, 15, 20]))
    assert not weighed


def test_transform_learns_from_what_it_has_learned(
    tmp_path: pathlib.Path,
) -> None:
    """As TFX runs it: with a copy of the input for each further step."""
    beam_internals.let_transform_learn_in_steps()

    def prepare(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        above = tf.abs(inputs["x"] - tft.mean(inputs["x"]))
        return {"share": above / tft.max(above)}

    spec = {"x": tf.io.FixedLenFeature([], tf.float32)}
    metadata = dataset_metadata.DatasetMetadata.from_feature_spec(spec)
    rows = [{"x": 1.0}, {"x": 3.0}, {"x": 8.0}]
    with tft_beam.Context(str(tmp_path), use_deep_copy_optimization=True):
        (found, _), _ = (
            rows,
            metadata,
        ) | tft_beam.AnalyzeAndTransformDataset(prepare)
    shares = [float(row["share"]) for row in found]
    assert sorted(shares) == pytest.approx([0.25, 0.75, 1.0])
