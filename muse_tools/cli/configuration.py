"""Documents the configuration of the pipeline, and loads it for commands.

``python -m muse_tools.cli.configuration`` prints docs/configuration.md.
"""

from __future__ import annotations

import pathlib
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pydantic
import typer
import yaml

from schemas import settings_file
from schemas.settings_file import ConfigError, OverrideError
from tfx_pipeline.config import KEYS, PipelineConfig, load_config

_HEAD = """\
# Configuration of the pipeline

After this page you can write and change the configuration of `muse pipeline`:
every key, its type, default and meaning. The page is generated from the typed
object in `tfx_pipeline/config.py` by `python -m muse_tools.cli.configuration`.

```bash
muse pipeline template
muse pipeline run --config configs/demo.yaml --print-config
muse pipeline run --config configs/demo.yaml --set trainer.epochs=2
```

The first command prints a file with every key and its default, the second the
configuration that a run would use. Unknown keys are errors. Relative paths are
relative to the directory in which the command runs.
"""

# Tables that each kind of item embeddings is made from.
_SEARCH_TABLES = {
    "imported": (),
    "text_svd": ("item_content",),
    "learned": ("item_content", "search_events"),
}


class Entry(NamedTuple):
    """A key of the configuration, or a section (without a value)."""

    path: tuple[str, ...]
    meaning: str
    kind: str = ""
    default: Any = None
    required: bool = False

    @property
    def is_section(self) -> bool:
        """Whether this is a section."""
        return not self.kind


def entries(
    model: type[pydantic.BaseModel] = PipelineConfig,
    path: tuple[str, ...] = (),
) -> Iterator[Entry]:
    """Yields every key of a model; keys come before nested sections."""
    sections = []
    schema = model.model_json_schema()
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        here = (*path, name)
        if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
            sections.append((here, kind))
            continue
        default = None
        if not field.is_required():
            default = field.get_default(call_default_factory=True)
        yield Entry(
            here,
            _one_line(field.description),
            _kind(schema["properties"][name]),
            default,
            field.is_required(),
        )
    for here, kind in sections:
        yield Entry(here, _one_line(kind.__doc__))
        yield from entries(kind, here)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").replace("``", "`").split())


def _kind(schema: dict[str, Any]) -> str:
    """Describes in words what a JSON schema allows."""
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return f"list of {_kind(schema['items'])}"
    text = {"string": "text", "boolean": "true or false"}.get(
        schema["type"], schema["type"]
    )
    limits = (
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    )
    said = [
        f"{to} {schema[name]:,.12g}" for name, to in limits if name in schema
    ]
    return ", ".join([text, *said])


def as_markdown() -> str:
    """Returns docs/configuration.md."""
    lines = [_HEAD, "| key | type | default | meaning |", "|---|---|---|---|"]
    for entry in entries():
        key = ".".join(entry.path)
        if entry.is_section:
            lines += [
                f"\n## {key}\n\n{entry.meaning}\n",
                "| key | type | default | meaning |",
                "|---|---|---|---|",
            ]
            continue
        default = "required" if entry.required else f"`{_plain(entry.default)}`"
        lines.append(
            f"| `{key}` | {entry.kind} | {default} | {entry.meaning} |"
        )
    return "\n".join(lines) + "\n"


def as_yaml(config: PipelineConfig | None = None) -> str:
    """Returns a configuration as commented YAML; by default a template."""
    lines: list[str] = []
    values = config.model_dump(mode="json") if config else None
    for entry in entries():
        indent = "  " * (len(entry.path) - 1)
        about = entry.meaning
        if not entry.is_section:
            about = f"{about} ({entry.kind.replace('`', '')})".strip()
        lines += ["", ""][: entry.is_section] + textwrap.wrap(
            about,
            79,
            initial_indent=f"{indent}# ",
            subsequent_indent=f"{indent}# ",
            break_on_hyphens=False,
        )
        value: Any = values
        for name in entry.path if config else ():
            value = value[name]
        if config is None:
            value = "FILL_IN" if entry.required else entry.default
        end = "" if entry.is_section else f" {_plain(value)}"
        lines.append(f"{indent}{entry.path[-1]}:{end}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _plain(value: Any) -> str:
    """Returns a value as YAML reads it, on one line."""
    text = yaml.safe_dump([value], default_flow_style=True, width=10_000)
    return text.strip()[1:-1]


def load(
    config: pathlib.Path, overrides: Sequence[str] | None
) -> PipelineConfig:
    """Reads a configuration.

    Raises:
        BadParameter: if an override is wrong.
        ConfigError: if the file is wrong.
    """
    try:
        return load_config(config, overrides or ())
    except OverrideError as error:
        raise typer.BadParameter(str(error), param_hint="--set") from error


def parse(settings: str) -> PipelineConfig:
    """Reads a configuration from a text.

    Raises:
        ConfigError: if it is wrong.
    """
    try:
        values = yaml.safe_load(settings)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--settings: not valid YAML: {reason}") from error
    if not isinstance(values, dict):
        raise ConfigError(
            "--settings: expected a mapping of settings. "
            f"Received: {type(values).__name__}"
        )
    return settings_file.parse(PipelineConfig, values, "--settings", KEYS)


def check_tables(config: PipelineConfig, embeddings: str = "") -> None:
    """Checks that the raw tables of a run exist, before TFX is loaded.

    If given, `embeddings` replaces ``item_embeddings``.

    Raises:
        DataError: if a table is missing.
        ValueError: if ``data.raw_dir`` is not a folder.
    """
    from muse_tools.datasets import object_paths, raw_tables, search_tables

    raw_dir = config.data.raw_dir
    if not object_paths.path_of(raw_dir).is_dir():
        raise ValueError(
            "data.raw_dir: expected a folder of raw tables (docs/data.md). "
            f"Received: {raw_dir!r}"
        )
    searches = _SEARCH_TABLES[embeddings or config.item_embeddings]
    tables = raw_tables.RawTables.open(raw_dir)
    for name in raw_tables.schemas(tables.declared):
        if not searches or name != raw_tables.EMBEDDINGS:
            tables[name]
    for name in searches:
        search_tables.open_table(raw_dir, name)


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
