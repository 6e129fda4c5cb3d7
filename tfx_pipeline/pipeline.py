"""The pipeline as a TFX graph.

`create_pipeline` is pure: everything it needs is an argument, it reads neither
the environment nor a file. Runners are in `runner.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2
from tfx import v1 as tfx

from tfx_pipeline import config as config_lib
from tfx_pipeline import features
from tfx_pipeline.components import baseline_resolver
from tfx_pipeline.components.atomic_pusher import AtomicPusher
from tfx_pipeline.components.item_content_gen import ItemContentGen
from tfx_pipeline.components.item_embedder import ItemEmbedder
from tfx_pipeline.components.item_table_gen import ItemTableGen
from tfx_pipeline.components.matching_gen import MatchingGen
from tfx_pipeline.components.ranker_trainer import RankerTrainer
from tfx_pipeline.components.recorded_evaluator import RecordedEvaluator
from tfx_pipeline.components.request_example_gen import RequestExampleGen
from tfx_pipeline.components.scl_trainer import SCLTrainer
from tfx_pipeline.components.search_example_gen import SearchExampleGen
from tfx_pipeline.components.serving_validator import ServingValidator
from tfx_pipeline.components.strict_example_validator import (
    StrictExampleValidator,
)
from tfx_pipeline.components.text_embedder import TextEmbedder
from tfx_pipeline.evaluation import extractors

__all__ = ["create_pipeline", "eval_config"]


def create_pipeline(
    config: config_lib.PipelineConfig,
    *,
    schema_path: str,
    schema_fingerprint: str,
    raw_fingerprint: str,
    code_fingerprints: Mapping[str, str],
    search_fingerprints: Mapping[str, str] | None = None,
) -> tfx.dsl.Pipeline:
    """Builds the pipeline from raw tables to a pushed model.

    Args:
        config: the typed configuration.
        schema_path: ``.pbtxt`` schema of request-grouped Examples.
        schema_fingerprint: changes when that file changes.
        raw_fingerprint: changes when the raw tables change.
        code_fingerprints: changes of the code by stage (the stages of
            `fingerprints`), so that the cache never serves the output of
            other code.
        search_fingerprints: changes of the tables that item embeddings are
            made from, by table; not needed when they are imported.

    Returns:
        A TFX pipeline, for any TFX runner.
    """
    raw = {"raw_dir": config.data.raw_dir, "raw_fingerprint": raw_fingerprint}
    example_gen = RequestExampleGen(
        **raw,
        rejected_dir=str(config.rejected_dir / "requests"),
        max_candidates=config.data.max_candidates,
        max_rejected_fraction=config.data.max_rejected_fraction,
        join_partitions=config.data.join_partitions,
        imported_embeddings=config.item_embeddings == "imported",
        code_fingerprint=code_fingerprints["join"],
    )
    embedding_nodes = _item_embeddings(
        config, code_fingerprints, search_fingerprints or {}
    )
    item_table_gen = ItemTableGen(
        **raw,
        rejected_dir=str(config.rejected_dir / "items"),
        embeddings=(
            embedding_nodes[-1].outputs["embeddings"]
            if embedding_nodes
            else None
        ),
        code_fingerprint=code_fingerprints["items"],
    )
    statistics_gen = tfx.components.StatisticsGen(
        examples=example_gen.outputs["examples"]
    )
    schema_gen = tfx.components.ImportSchemaGen(schema_file=schema_path)
    # Not known to TFX's components; their cache keys take them in.
    schema_gen.exec_properties["schema_fingerprint"] = schema_fingerprint
    example_validator = StrictExampleValidator(
        statistics=statistics_gen.outputs["statistics"],
        schema=schema_gen.outputs["schema"],
    )
    example_validator.exec_properties["code_fingerprint"] = code_fingerprints[
        "validation"
    ]
    transform = tfx.components.Transform(
        examples=example_gen.outputs["examples"],
        schema=schema_gen.outputs["schema"],
        preprocessing_fn="tfx_pipeline.preprocessing.preprocessing_fn",
        custom_config={
            **config.transform.model_dump(),
            "code_fingerprint": code_fingerprints["transform"],
        },
        splits_config=tfx.proto.SplitsConfig(
            analyze=[features.TRAIN_SPLIT],
            transform=[features.TRAIN_SPLIT, features.EVAL_SPLIT],
        ),
        disable_statistics=True,
    )
    transform.add_upstream_node(example_validator)
    trainer = RankerTrainer(
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        item_table=item_table_gen.outputs["item_table"],
        run_fn="tfx_pipeline.training.trainer.run_fn",
        custom_config={
            "model": config.model.model_dump(),
            "trainer": config.trainer.model_dump(),
            "transform": config.transform.model_dump(),
            "export": config.export.model_dump(),
            "checkpoint_root": str(config.root / "checkpoints"),
            "code_fingerprint": code_fingerprints["trainer"],
        },
    )
    resolver = tfx.dsl.Resolver(
        strategy_class=baseline_resolver.LastOtherBlessedModel,
        candidate=trainer.outputs["model"],
        model=tfx.dsl.Channel(type=tfx.types.standard_artifacts.Model),
        model_blessing=tfx.dsl.Channel(
            type=tfx.types.standard_artifacts.ModelBlessing
        ),
    ).with_id("latest_blessed_model")
    evaluator = RecordedEvaluator(
        examples=example_gen.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=resolver.outputs["model"],
        schema=schema_gen.outputs["schema"],
        eval_config=eval_config(config.evaluator),
        example_splits=[features.EVAL_SPLIT],
        module_path="tfx_pipeline.evaluation.extractors",
    ).with_id("Evaluator")
    evaluator.exec_properties["code_fingerprint"] = code_fingerprints[
        "evaluator"
    ]
    serving_validator = ServingValidator(
        model=trainer.outputs["model"],
        model_run=trainer.outputs["model_run"],
        examples=example_gen.outputs["examples"],
        item_table=item_table_gen.outputs["item_table"],
        tolerance=config.serving_validator.tolerance,
        timeout_s=config.serving_validator.timeout_s,
        max_p99_ms=config.serving_validator.max_p99_ms,
        code_fingerprint=code_fingerprints["serving"],
    )
    pusher = AtomicPusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=serving_validator.outputs["blessing"],
        push_destination=tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(
                base_directory=str(config.push_dir)
            )
        ),
    )
    return tfx.dsl.Pipeline(
        pipeline_name=config.name,
        pipeline_root=str(config.artifacts_dir),
        components=[
            example_gen,
            *embedding_nodes,
            item_table_gen,
            statistics_gen,
            schema_gen,
            example_validator,
            transform,
            trainer,
            resolver,
            evaluator,
            serving_validator,
            pusher,
            *_matching(config, code_fingerprints, example_gen, item_table_gen),
        ],
        enable_cache=config.cache,
        metadata_connection_config=(
            tfx.orchestration.metadata.sqlite_metadata_connection_config(
                str(config.metadata_path)
            )
        ),
        beam_pipeline_args=list(config.beam_args),
    )


def _item_embeddings(
    config: config_lib.PipelineConfig,
    code_fingerprints: Mapping[str, str],
    search_fingerprints: Mapping[str, str],
) -> list[tfx.dsl.components.BaseNode]:
    """Returns the components that make item embeddings, their maker last.

    None of them depends on the ranker, its settings or its samples: training
    the ranker again takes the embeddings from the cache.
    """
    if config.item_embeddings == "imported":
        return []
    content_gen = ItemContentGen(
        raw_dir=config.data.raw_dir,
        raw_fingerprint=search_fingerprints["item_content"],
        rejected_dir=str(config.rejected_dir / "item_content"),
        text_encoder=config.scl.text_encoder,
        code_fingerprint=code_fingerprints["content"],
    )
    item_content = content_gen.outputs["item_content"]
    if config.item_embeddings == "text_svd":
        text_embedder = TextEmbedder(
            item_content=item_content,
            raw_dir=config.data.raw_dir,
            raw_fingerprint=search_fingerprints["item_content"],
            seed=config.scl.seed,
            code_fingerprint=code_fingerprints["embedder"],
        )
        return [content_gen, text_embedder]
    search_gen = SearchExampleGen(
        item_content=item_content,
        raw_dir=config.data.raw_dir,
        raw_fingerprint=search_fingerprints["search_events"],
        rejected_dir=str(config.rejected_dir / "search_events"),
        eval_fraction=config.scl.eval_fraction,
        text_encoder=config.scl.text_encoder,
        max_rejected_fraction=config.scl.max_rejected_fraction,
        code_fingerprint=code_fingerprints["content"],
    )
    trainer = SCLTrainer(
        examples=search_gen.outputs["examples"],
        item_content=item_content,
        run_fn="tfx_pipeline.scl.trainer.run_fn",
        custom_config={
            "scl": config.scl.model_dump(),
            "raw_dir": config.data.raw_dir,
            "raw_fingerprint": search_fingerprints["item_features"],
            "checkpoint_root": str(config.root / "checkpoints"),
            "code_fingerprint": code_fingerprints["scl"],
        },
    )
    embedder = ItemEmbedder(
        model=trainer.outputs["model"],
        item_content=item_content,
        code_fingerprint=code_fingerprints["embedder"],
    )
    return [content_gen, search_gen, trainer, embedder]


def _matching(
    config: config_lib.PipelineConfig,
    code_fingerprints: Mapping[str, str],
    example_gen: RequestExampleGen,
    item_table_gen: ItemTableGen,
) -> list[tfx.dsl.components.BaseNode]:
    """Returns the component that makes the matching model, if one is wanted.

    It does not depend on the ranker.
    """
    if not config.matching.enabled:
        return []
    settings = config.matching.model_dump(
        exclude={"enabled", "min_recall", "directory"}
    )
    return [
        MatchingGen(
            item_table=item_table_gen.outputs["item_table"],
            examples=example_gen.outputs["examples"],
            settings=settings,
            min_recall=config.matching.min_recall,
            push_dir=str(config.matching_dir),
            ranker_dirs={
                file: str(config.serving_dir / name)
                for name, file in config.models_files.items()
            },
            code_fingerprint=code_fingerprints["matching"],
        )
    ]


def eval_config(config: config_lib.EvaluatorConfig) -> tfma.EvalConfig:
    """Returns metrics, slices and thresholds.

    A model is blessed when its GAUC is at least ``min_gauc`` and, if a model
    of its type was blessed before, at most ``max_gauc_drop`` below that
    model's.
    """
    threshold = tfma.MetricThreshold(
        value_threshold=tfma.GenericValueThreshold(
            lower_bound={"value": config.min_gauc}
        ),
        change_threshold=tfma.GenericChangeThreshold(
            direction=tfma.MetricDirection.HIGHER_IS_BETTER,
            absolute={"value": -config.max_gauc_drop},
        ),
    )
    metric = tfma.MetricConfig(
        class_name="RankingMetrics",
        module="tfx_pipeline.evaluation.ranking_metrics",
        config=json.dumps({"bootstrap_samples": config.bootstrap_samples}),
        # Over all impressions: a plain threshold would hold for every slice,
        # however few users it has.
        per_slice_thresholds=[
            config_pb2.PerSliceMetricThreshold(
                slicing_specs=[tfma.SlicingSpec()], threshold=threshold
            )
        ],
    )
    return tfma.EvalConfig(
        model_specs=[
            tfma.ModelSpec(
                signature_name="serving_default", label_key=features.CLICKS
            )
        ],
        slicing_specs=[
            tfma.SlicingSpec(),
            tfma.SlicingSpec(feature_keys=[extractors.HISTORY_SLICE]),
            tfma.SlicingSpec(feature_keys=[extractors.POPULARITY_SLICE]),
        ],
        metrics_specs=[tfma.MetricsSpec(metrics=[metric])],
    )
