"""Renders blocks as one self-contained HTML file."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import jinja2

from muse_tools.pages import charts
from muse_tools.pages.blocks import Block


def page(title: str, blocks: Iterable[Block]) -> str:
    """Returns a page of blocks as HTML."""
    return rendered(
        "muse_tools.pages/blocks_page.html.j2", title=title, blocks=blocks
    )


def rendered(template: str, **values: object) -> str:
    """Renders the template `package/file`; all values are escaped."""
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> jinja2.Environment:
    packages = ("muse_tools.pages", "muse_tools.report")
    environment = jinja2.Environment(
        loader=jinja2.PrefixLoader(
            {name: jinja2.PackageLoader(name, "") for name in packages}
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.globals.update(chart=charts.chart, forest=charts.forest)
    return environment
