"""The pipeline as a TFX graph.

`create_pipeline` is a pure function of its arguments: it reads neither the
environment nor files. `tfx_pipeline.runs.runner` runs the pipeline.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping

import tensorflow_model_analysis as tfma
from tfx import v1 as tfx

from schemas.ranking_schema import RankingSchema
from schemas.settings_file import ConfigError
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
from tfx_pipeline.evaluation import slices
from tfx_pipeline.matching.settings import MODEL_NAME, RANKER_NAME


def create_pipeline(
    config: config_lib.PipelineConfig,
    *,
    declared: RankingSchema,
    schema_path: str,
    schema_fingerprint: str,
    raw_fingerprint: str,
    search_fingerprints: Mapping[str, str] | None = None,
) -> tfx.dsl.Pipeline:
    """Builds the pipeline from raw tables to a pushed model.

    ``declared`` is the declaration of the raw tables, and ``schema_path`` the
    file of the schema of Examples that is derived from it.

    Returns:
        A TFX pipeline for any TFX runner. Call `code_keys.mark` for its cache
        to notice changed code.

    Raises:
        ConfigError: a slice or a label is not declared.
    """
    raw = {"raw_dir": config.data.raw_dir, "raw_fingerprint": raw_fingerprint}
    example_gen = RequestExampleGen(
        **raw,
        rejected_dir=str(config.rejected_dir / "requests"),
        max_candidates=config.data.max_candidates,
        max_rejected_fraction=config.data.max_rejected_fraction,
        join_partitions=config.data.join_partitions,
        imported_embeddings=config.item_embeddings == "imported",
    )
    examples = example_gen.outputs["examples"]
    embedding_nodes = _item_embeddings(config, search_fingerprints or {})
    item_table_gen = ItemTableGen(
        **raw,
        rejected_dir=str(config.rejected_dir / "items"),
        **(
            {"embeddings": embedding_nodes[-1].outputs["embeddings"]}
            if embedding_nodes
            else {}
        ),
    )
    item_table = item_table_gen.outputs["item_table"]
    statistics_gen = tfx.components.StatisticsGen(examples=examples)
    schema_gen = tfx.components.ImportSchemaGen(schema_file=schema_path)
    # TFX's component ignores this property, but it changes the cache key.
    schema_gen.exec_properties["schema_fingerprint"] = schema_fingerprint
    schema = schema_gen.outputs["schema"]
    example_validator = StrictExampleValidator(
        statistics=statistics_gen.outputs["statistics"], schema=schema
    )
    transform = tfx.components.Transform(
        examples=examples,
        schema=schema,
        preprocessing_fn="tfx_pipeline.preprocessing.preprocessing_fn",
        custom_config={
            **config.transform.model_dump(),
            "features": declared.features.model_dump(mode="json"),
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
        item_table=item_table,
        custom_config=json.dumps(
            {
                **config.model_dump(
                    include={"model", "trainer", "transform", "export"}
                ),
                "schema": declared.model_dump(mode="json"),
            }
        ),
        checkpoint_root=str(config.root / "checkpoints"),
    )
    model = trainer.outputs["model"]
    resolver = tfx.dsl.Resolver(
        strategy_class=baseline_resolver.LastOtherBlessedModel,
        candidate=model,
        model=tfx.dsl.Channel(type=tfx.types.standard_artifacts.Model),
        model_blessing=tfx.dsl.Channel(
            type=tfx.types.standard_artifacts.ModelBlessing
        ),
    ).with_id("latest_blessed_model")
    evaluator = RecordedEvaluator(
        examples=examples,
        model=model,
        baseline_model=resolver.outputs["model"],
        schema=schema,
        eval_config=eval_config(config.evaluator, declared),
        example_splits=[features.EVAL_SPLIT],
        module_path="tfx_pipeline.evaluation.extractors",
    ).with_id("Evaluator")
    serving_validator = ServingValidator(
        model=model,
        model_run=trainer.outputs["model_run"],
        examples=examples,
        item_table=item_table,
        **config.serving_validator.model_dump(),
    )
    pusher = AtomicPusher(
        model=model,
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=serving_validator.outputs["blessing"],
        push_destination=_folder(config.push_dir),
        custom_config=config.pusher.custom_config(config.model.type) or None,
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
            *_matching(config, examples, item_table),
        ],
        enable_cache=config.cache,
        # That of a server has a password, so only a run knows it.
        metadata_connection_config=(
            None
            if config.metadata
            else tfx.orchestration.metadata.sqlite_metadata_connection_config(
                str(config.metadata_path)
            )
        ),
        beam_pipeline_args=config.beam.flags(),
    )


def _folder(path: pathlib.Path) -> tfx.proto.PushDestination:
    return tfx.proto.PushDestination(
        filesystem=tfx.proto.PushDestination.Filesystem(
            base_directory=str(path)
        )
    )


def _item_embeddings(
    config: config_lib.PipelineConfig,
    search_fingerprints: Mapping[str, str],
) -> list[tfx.dsl.components.BaseNode]:
    """Returns the components that make item embeddings, in order.

    The last one outputs the embeddings. None depends on the ranker, its
    settings or its samples, so that training the ranker again takes the
    embeddings from the cache.
    """
    if config.item_embeddings == "imported":
        return []

    def raw(table: str) -> dict[str, str]:
        return {
            "raw_dir": config.data.raw_dir,
            "raw_fingerprint": search_fingerprints[table],
        }

    content_gen = ItemContentGen(
        **raw("item_content"),
        rejected_dir=str(config.rejected_dir / "item_content"),
        text_encoder=config.scl.text_encoder,
    )
    item_content = content_gen.outputs["item_content"]
    if config.item_embeddings == "text_svd":
        text_embedder = TextEmbedder(
            item_content=item_content,
            **raw("item_content"),
            seed=config.scl.seed,
        )
        return [content_gen, text_embedder]
    search_gen = SearchExampleGen(
        item_content=item_content,
        **raw("search_events"),
        rejected_dir=str(config.rejected_dir / "search_events"),
        eval_fraction=config.scl.eval_fraction,
        text_encoder=config.scl.text_encoder,
        max_rejected_fraction=config.scl.max_rejected_fraction,
    )
    trainer = SCLTrainer(
        examples=search_gen.outputs["examples"],
        item_content=item_content,
        custom_config=json.dumps({"scl": config.scl.model_dump()}),
        **raw("item_features"),
        checkpoint_root=str(config.root / "checkpoints"),
    )
    embedder = ItemEmbedder(
        model=trainer.outputs["model"], item_content=item_content
    )
    return [content_gen, search_gen, trainer, embedder]


def _matching(
    config: config_lib.PipelineConfig,
    examples: tfx.dsl.Channel,
    item_table: tfx.dsl.Channel,
) -> list[tfx.dsl.components.BaseNode]:
    """Returns the components that make and push the retrieval model.

    They do not depend on the ranker. The list may be empty.
    """
    if not config.matching.enabled:
        return []
    settings = config.matching.model_dump(
        exclude={"enabled", "min_recall", "exact_items", "directory"}
    )
    generator = MatchingGen(
        item_table=item_table,
        examples=examples,
        settings=json.dumps(settings, sort_keys=True),
        min_recall=config.matching.min_recall,
        exact_items=config.matching.exact_items,
    )
    model = generator.outputs["model"]
    validator = ServingValidator(
        model=model,
        item_table=item_table,
        evaluation=generator.outputs["evaluation"],
        timeout_s=config.serving_validator.timeout_s,
    ).with_id("MatchingServingValidator")
    pusher = AtomicPusher(
        model=model,
        model_blessing=generator.outputs["blessing"],
        infra_blessing=validator.outputs["blessing"],
        push_destination=_folder(config.matching_dir),
        custom_config={
            **config.pusher.custom_config(MODEL_NAME),
            "models_configs": {
                file: {
                    RANKER_NAME: str(config.serving_dir / ranker),
                    MODEL_NAME: str(config.matching_dir),
                }
                for ranker, file in config.models_files.items()
            },
        },
    ).with_id("MatchingPusher")
    return [generator, validator, pusher]


def eval_config(
    config: config_lib.EvaluatorConfig, declared: RankingSchema
) -> tfma.EvalConfig:
    """Returns the metrics of each label, slices and thresholds.

    A model is blessed if the GAUC of the first label is at least ``min_gauc``
    and, if a model of its type was blessed before, at most ``max_gauc_drop``
    below that model's GAUC; and if the GAUC of each label in ``min_gauc_of``
    is at least the value there.

    Raises:
        ConfigError: a slice or a label is not declared.
    """
    slices.check(config.slices, declared)
    first, *others = declared.labels
    least = config.min_gauc_of
    for name in least:
        if name not in others:
            raise ConfigError(
                "evaluator.min_gauc_of: expected labels after the first one, "
                f"{', '.join(others) or 'of which there are none'}. "
                f"Received: {name!r}"
            )
    drop = tfma.GenericChangeThreshold(
        direction=tfma.MetricDirection.HIGHER_IS_BETTER,
        absolute={"value": -config.max_gauc_drop},
    )
    return tfma.EvalConfig(
        model_specs=[
            tfma.ModelSpec(
                signature_name="serving_default", label_key=features.CLICKS
            )
        ],
        slicing_specs=[
            tfma.SlicingSpec(),
            *(tfma.SlicingSpec(feature_keys=[name]) for name in config.slices),
        ],
        metrics_specs=[
            tfma.MetricsSpec(
                metrics=[_metric(config, first, config.min_gauc, drop)]
            ),
            *(
                tfma.MetricsSpec(
                    metrics=[
                        _metric(config, name, config.min_gauc_of.get(name))
                    ],
                    output_names=[name],
                )
                for name in others
            ),
        ],
    )


def _metric(
    config: config_lib.EvaluatorConfig,
    label: str,
    least: float | None,
    drop: tfma.GenericChangeThreshold | None = None,
) -> tfma.MetricConfig:
    """Returns the metrics of a label with the thresholds of its GAUC."""
    metric = tfma.MetricConfig(
        class_name="RankingMetrics",
        module="tfx_pipeline.evaluation.ranking_metrics",
        config=json.dumps(
            {"bootstrap_samples": config.bootstrap_samples, "label": label}
        ),
    )
    if least is not None:
        # Only over all impressions: a plain threshold would apply to every
        # slice, even to one with few users.
        metric.per_slice_thresholds.add(
            slicing_specs=[tfma.SlicingSpec()],
            threshold=tfma.MetricThreshold(
                value_threshold=tfma.GenericValueThreshold(
                    lower_bound={"value": least}
                ),
                change_threshold=drop,
            ),
        )
    return metric
