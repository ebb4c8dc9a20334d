# SPDX-License-Identifier: Apache-2.0
"""Templates of the board outputs (Jinja)."""

from functools import cache
from pathlib import Path
from typing import Any

from instinfer.hw.boards.target import BoardError


@cache
def _environment() -> Any:
    try:
        import jinja2
    except ImportError as fault:
        raise BoardError("board outputs need jinja2: pip install 'instinfer[hw]'") from fault
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(("html.j2", "xml.j2")), trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["hex"] = lambda value, digits=0: f"0x{value:0{digits}x}"
    environment.filters["size"] = _size
    return environment


def _size(number: int) -> str:
    """4096 -> 4 KiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or number % 1024:
            return f"{number} {unit}"
        number //= 1024
    return f"{number} TiB"


def render(template: str, **values: Any) -> str:
    """A template with its values; one that is missing is an error."""
    return str(_environment().get_template(template).render(**values))
