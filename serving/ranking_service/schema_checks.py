"""Checks that the store has the features that the served model takes."""

from __future__ import annotations

import json
import logging
import pathlib
from typing import TYPE_CHECKING

from serving.client import ModelMetadata, TensorSpec
from serving.client.types import CLICK
from serving.ranking_service.config import ServiceConfig
from serving.ranking_service.features import Declared
from serving.ranking_service.histories import Histories
from serving.stores import Layout

if TYPE_CHECKING:
    from schemas.ranking_schema import RankingSchema

_logger = logging.getLogger(__name__)
_MANIFEST = "muse_export.json"
_WAY_OUT = (
    "load the users of the model's data into a new store (muse store load), "
    "or serve a model of the store's data"
)
_OUTPUT = "_probability"
_KEYS = ("user_id", "behavior_item_ids", "behavior_rows")
_DTYPES = {"int64": "int64", "float": "float32"}


class Fit:
    """Checks whether store, models and settings match.

    Each version is compared with the store once, and again if the store
    changes. `declared` receives the declaration.
    """

    def __init__(
        self, config: ServiceConfig, histories: Histories, declared: Declared
    ) -> None:
        self._config = config
        self._histories = histories
        self._declared = declared
        self._exported: RankingSchema | None = None
        # By server: the compared version and layout, and the mismatch.
        self._compared: dict[str, tuple[int, Layout | None]] = {}
        self._problems: dict[str, str] = {}

    @property
    def problem(self) -> str:
        """The mismatch in one line; empty if all parts match."""
        return next(filter(None, self._problems.values()), "")

    def is_known(self, address: str, version: int) -> bool:
        """Whether this version was already compared with this store."""
        now = version, self._histories.layout
        return self._compared.get(address) == now

    def forget(self, address: str) -> None:
        """Forgets a server that is gone."""
        self._compared.pop(address, None)
        self._problems.pop(address, None)

    def learn(self) -> None:
        """Uses the declaration of the model, or else that of the store."""
        layout, known = self._histories.layout, self._exported
        fits = bool(known or (self._compared and not self.problem))
        if known is None and layout is not None:
            known = layout.declared
        self._declared.learn(known or self._declared.declaration.schema, fits)

    def compare(
        self, address: str, version: int, metadata: ModelMetadata
    ) -> None:
        """Compares a version of a server with the store."""
        layout, folder = self._histories.layout, self._config.model_base_path
        self._exported = exported_schema(folder, version) if folder else None
        found = label_problem(self._config.label, metadata)
        if not found and layout is not None:
            found = problem(layout, self._exported, metadata)
        if found and found != self._problems.get(address):
            _logger.warning("Model server %s: %s", address, found)
        self._problems[address] = found
        self._compared[address] = version, layout
        self.learn()


def exported_schema(folder: str, version: int) -> RankingSchema | None:
    """Returns the declaration in a version's manifest, if it can be read."""
    path = pathlib.Path(folder) / str(version) / _MANIFEST
    try:
        entry = json.loads(path.read_text(encoding="utf-8")).get("schema")
    except (OSError, ValueError):
        return None
    if not entry:
        return None
    from schemas.ranking_schema import RankingSchema

    declaration = entry["declaration"]
    if isinstance(declaration, str):
        import yaml

        declaration = yaml.safe_load(declaration)
    return RankingSchema.model_validate(declaration)


def problem(
    layout: Layout, schema: RankingSchema | None, metadata: ModelMetadata
) -> str:
    """Returns the mismatch of store and model in one line, or an empty text.

    Args:
        layout: layout of the store.
        schema: the model's declaration; without it, the inputs of its
            signatures are compared.
        metadata: metadata of the model.
    """
    if schema is None:
        found = _of_inputs(layout, metadata)
    elif layout.declaration and layout.digest == schema.digest():
        found = ""
    else:
        found = layout.difference(Layout.of(schema), "the model")
    return found and f"{found}. {_WAY_OUT}"


def label_problem(label: str, metadata: ModelMetadata) -> str:
    """Returns an error in one line if the model lacks the label, or ""."""
    signature = metadata.signatures.get("rank")
    if not label or label == CLICK or signature is None:
        return ""
    labels = [
        name.removesuffix(_OUTPUT)
        for name in sorted(signature.outputs)
        if name.endswith(_OUTPUT)
    ]
    if label in labels:
        return ""
    return (
        f"label: expected one of the model's, {', '.join(labels)}. "
        f"Received: {label!r}"
    )


def _of_inputs(layout: Layout, metadata: ModelMetadata) -> str:
    """Compares features with the inputs of the signature that takes them.

    If the store has a declaration, features that it lacks are reported too,
    since it would have all features of its data.
    """
    signatures = metadata.signatures
    name = "prefetch" if "prefetch" in signatures else "rank"
    inputs = signatures[name].inputs if name in signatures else {}
    declared = layout.declared
    behaviors = declared.features.behavior if declared else {}
    made = {f"behavior_{n}" for n, one in behaviors.items() if one.time}
    for key, spec in sorted(inputs.items()):
        group, _, name = key.partition("_")
        kinds = {"user": layout.user, "behavior": layout.behaviors}.get(group)
        if kinds is None or key in made or key in _KEYS:
            continue
        if name not in kinds:
            if declared is not None:
                return f"{key}: the store keeps none; the model takes it"
            continue
        dtype, width = kinds[name]
        takes = _DTYPES.get(spec.dtype, spec.dtype), _width(spec, group)
        if takes[0] != dtype or takes[1] not in (width, -1):
            return (
                f"{key}: the store keeps {dtype} of {width}; the model takes "
                f"{takes[0]} of {takes[1]}"
            )
    return ""


def _width(spec: TensorSpec, group: str) -> int:
    """Returns the number of values of an entity; -1 if any is accepted."""
    axes = 1 if group == "user" else 2
    shape = spec.shape or ()
    return shape[-1] if len(shape) > axes else 1
