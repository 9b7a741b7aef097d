"""How things show themselves in a notebook: small tables, every text escaped. The markup is the report page's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from emu.persistence.report.markup import Html, tag

_LONGEST = 2000


def card(title: object, facts: Iterable[tuple[str, object]], *more: Html) -> str:
    """A heading, what is known, and what else belongs there. What is unknown (None) is left out."""
    rows = [
        tag("tr", tag("th", name, style="text-align: left"), tag("td", shorten(value), style="text-align: left"))
        for name, value in facts
        if value is not None
    ]
    return tag("div", tag("strong", title), tag("table", tag("tbody", rows)), *more)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """One row for each of ``rows`` below the names of the ``columns``."""
    head = tag("thead", tag("tr", [tag("th", name, scope="col") for name in columns]))
    body = [tag("tr", [tag("td", shorten(cell)) for cell in row]) for row in rows]
    return tag("table", head, tag("tbody", body))


def verbatim(text: str) -> Html:
    """The end of what a program printed."""
    return tag("pre", text[-_LONGEST:])


def shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
