"""One recording judged under every platform and medium: what eADR, no MAP_SYNC or a page cache would do to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

from emu.config import PersistenceDomain
from emu.persistence.lab.explore import Progress
from emu.persistence.lab.interruption import Interruption
from emu.persistence.lab.investigation import Answer, investigate
from emu.persistence.model.rules import Media, Order, Rules
from emu.persistence.report import numbers
from emu.persistence.report.conclusion import conclude
from emu.persistence.report.symbols import Symbols


def combinations(rules: Rules) -> Iterator[Rules]:
    """All rules that differ in what they allow, with the ``failed_cas`` of ``rules``; the strictest hardware first.

    Order means nothing under eADR, where all stores are ordered, and order and domain mean nothing in a page cache.
    """
    for media in (Media.DAX_SYNC, Media.DAX):
        for order in (Order.LINE, Order.LOCATION):
            yield replace(rules, domain=PersistenceDomain.ADR, media=media, order=order)
        yield replace(rules, domain=PersistenceDomain.EADR, media=media, order=Order.LINE)
    yield replace(rules, domain=PersistenceDomain.ADR, media=Media.PAGE_CACHE, order=Order.LINE)


def _meaning(rules: Rules) -> tuple[str | None, str | None, str]:
    """(domain, order, media); None for what means nothing beside the others."""
    cached = rules.media is Media.PAGE_CACHE
    eadr = rules.domain is PersistenceDomain.EADR
    domain = None if cached else rules.domain.platform
    return domain, None if cached or eadr else str(rules.order), str(rules.media)


def matrix(
    answer: Answer,
    symbols: Symbols,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
    interruption: Interruption | None = None,
) -> list[dict[str, Any]]:
    """The rows of the document's ``matrix``. The answer's own rules are not judged again, nothing is recorded again.
    An interruption ends it with the rows that are done.
    """
    interruption = interruption or Interruption()
    asked = _meaning(answer.question.rules)
    rows = []
    for rules in combinations(answer.question.rules):
        if _meaning(rules) == asked:
            rows.append(_row(answer, symbols, asked=True))
        elif not interruption.asked:
            question = replace(answer.question, rules=rules)
            with investigate(
                question, executor=executor, progress=progress, interruption=interruption, workload=answer.workload
            ) as other:
                if not other.interrupted:
                    rows.append(_row(other, symbols, asked=False))
    return rows


def _row(answer: Answer, symbols: Symbols, *, asked: bool) -> dict[str, Any]:
    domain, order, media = _meaning(answer.question.rules)
    kinds = Counter(failure.kind for failure in answer.failures)
    return {
        "domain": domain,
        "order": order,
        "media": media,
        "asked": asked,
        "verdict": str(conclude(answer, symbols).conclusion),
        "causes": [{"kind": kind, "count": count} for kind, count in kinds.items()],
        "crash_points": len(answer.timeline.points),
        **numbers.both("eager", answer.eager),
        **numbers.both("distinct", answer.distinct),
        "executed": answer.exploration.executed,
        "complete": answer.complete,
    }
