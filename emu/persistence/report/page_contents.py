"""The contents list of the report page: its parts, its causes, and where in the timeline the failing points are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from emu.persistence.report import words
from emu.persistence.report.markup import Html, tag
from emu.persistence.report.page_context import Page
from emu.persistence.report.page_timeline import PANEL, Scene, panels

_MOST = 24


def heading(title: str) -> Html:
    """The heading of a part, which the contents lead to."""
    return tag("h2", title, id=_anchor(title))


def contents(page: Page, scene: Scene, titles: Iterable[str]) -> Html:
    """Links to the parts ``titles``, to each cause, and to the panels of the timeline that have a failing point."""
    inside = {words.CAUSES: _causes(page), words.TIMELINE: _points(page, scene)}
    links = []
    for title in titles:
        inner = list(inside.get(title, ()))
        links.append(tag("li", _link(_anchor(title), title), tag("ul", inner) if inner else None))
    return tag("nav", tag("ol", links), aria_label="Contents")


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z]+", "-", title.lower())


def _link(anchor: str, text: str) -> Html:
    return tag("a", text, href=f"#{anchor}")


def _causes(page: Page) -> Iterator[Html]:
    for number, failure in enumerate(page.result["failures"][:_MOST], 1):
        store = (failure["lost"] or [failure["persisted"]])[0]
        source = store["source"] if store else ""
        yield tag("li", _link(f"cause-{number}", f"{failure['kind']}{f' at {source}' if source else ''}"))


def _points(page: Page, scene: Scene) -> Iterator[Html]:
    """One for each panel of a long timeline in which power fails with a failing state; a short one is seen at once."""
    if sum(len(window) for window in page.picture.windows) <= PANEL:
        return
    failing = [(name, part) for name, part in panels(page.picture) if any(event in scene.failing for event in part)]
    for name, part in failing[:_MOST]:
        first = min(event for event in scene.failing if event in part)
        yield tag("li", _link(f"{name}-figure", f"power fails before event {first}"))
