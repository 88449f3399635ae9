"""Tables that a command writes into a page of Markdown, from ``<!-- NAME -->`` to ``<!-- end -->``."""

from __future__ import annotations

from pathlib import Path


def _parts(page: Path, name: str) -> tuple[str, str, str]:
    """What comes before a table, the table as it stands there, and what comes after it."""
    before, mark, rest = page.read_text().partition(f"<!-- {name} -->\n")
    if not mark:
        raise ValueError(f"{page.name} has no table {name!r}; allowed are those that it marks")
    table, end, after = rest.partition("<!-- end -->")
    return before + mark, table, end + after


def table_in(page: Path, name: str) -> str:
    """A table as it stands in ``page``."""
    return _parts(page, name)[1]


def put(table: str, page: Path, name: str) -> None:
    """Writes ``table`` in the place of that name."""
    before, _, after = _parts(page, name)
    page.write_text(before + table + after)
