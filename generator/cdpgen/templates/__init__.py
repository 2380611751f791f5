"""The templates: layout of files, with every decision made before (`cdpgen.model`)."""

from __future__ import annotations

import json
from functools import cache

import jinja2

__all__ = ["quoted", "template"]


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("cdpgen"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )


def template(name: str) -> jinja2.Template:
    """One of the templates of this folder."""
    return _environment().get_template(name)


@cache
def quoted(text: str) -> str:
    """A string literal; for names, which need no escapes but quotes."""
    return json.dumps(text)
