"""`muse_export.json`: the parts of an exported version and its memory."""

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from muse_keras.models import BaseRanker
from muse_keras.tables import ItemTable
from schemas.columns import Features
from schemas.ranking_schema import RankingSchema
from serving.export.cached_ranking import CachedRanking
from serving.export.encodings import index_sizes
from serving.export.ranking_module import RankingModule

FILE_NAME = "muse_export.json"
FORMAT_VERSION = 3


def describe(
    module: RankingModule,
    model: BaseRanker,
    item_table: ItemTable,
    signatures: Mapping[str, Any],
    features: Features,
    learned: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the manifest of an export, without the exporter's arguments."""
    sizes = {
        name: {
            "dtype": variable.dtype.name,
            "shape": variable.shape.as_list(),
            "bytes": variable.dtype.size * variable.shape.num_elements(),
        }
        for name, variable in sorted(module.named_variables().items())
    }
    return {
        "format_version": FORMAT_VERSION,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(
            timespec="seconds"
        ),
        "model": type(model).__name__,
        "k": getattr(model, "k", None),
        "num_items": item_table.num_items,
        "fresh_items": model.table.spare_rows,
        "user_cache": _cache_of(module.cached),
        "dim": item_table.dim,
        "features": {
            group: list(names) for group, names in features.model_dump().items()
        },
        "labels": list(model.labels),
        "index_sizes": index_sizes(features, learned),
        "boundaries": {
            name: [float(value) for value in learned[name]]
            for name, one in features.learned().items()
            if one.kind == "buckets"
        },
        "total_bytes": sum(size["bytes"] for size in sizes.values()),
        "variables": sizes,
        "signatures": {
            name: {
                "inputs": _specs(inputs),
                "outputs": _specs(signatures[name].structured_outputs),
            }
            for name, (_, inputs) in module.functions().items()
        },
        "item_table": {
            "path": str(item_table.path),
            "source": item_table.manifest["source"],
            "sha256": {
                name: file["sha256"]
                for name, file in item_table.manifest["files"].items()
            },
        },
        "versions": {
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
    }


def schema_entry(schema: RankingSchema) -> dict[str, Any]:
    """Return the entry of a declaration in the manifest."""
    return {
        "digest": schema.digest(),
        "version": schema.version,
        "name": schema.name,
        "declaration": schema.model_dump(mode="json"),
    }


def _cache_of(cached: CachedRanking | None) -> dict[str, int] | None:
    if cached is None:
        return None
    cache = cached.cache
    return {
        **dataclasses.asdict(cache.config),
        "bytes": cache.bytes,
        "tag_bits": cache.format.tag_bits,
        "table_stamp": cached.table_stamp,
    }


def _specs(specs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: {"dtype": spec.dtype.name, "shape": list(spec.shape)}
        for name, spec in sorted(specs.items())
    }
