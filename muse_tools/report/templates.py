"""The pages' templates."""

from __future__ import annotations

import functools
from typing import Any

import jinja2

__all__ = ["rendered"]


def rendered(name: str, **values: Any) -> str:
    """Returns a page.

    Args:
        name: of the template.
        **values: what it uses; all text is escaped.
    """
    return _environment().get_template(name).render(**values)


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("muse_tools.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
