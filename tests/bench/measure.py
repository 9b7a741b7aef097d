"""Whole-process measurements that survive a noisy machine: interleaved runs, medians, ratios pair by pair."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """One process that ended well: wall seconds, seconds of processors, and peak resident memory in KiB."""

    wall: float
    cpu: float
    peak: int


def run(command: Sequence[str]) -> Run:
    """Run ``command`` to its end with its output thrown away; a command that fails has no figure."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"status {process.returncode}: {' '.join(command)}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)


def interleaved(makers: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call every maker once per round, in turn, after one uncounted round; the figures of each."""
    figures: dict[str, list[float]] = {name: [] for name in makers}
    for number in range(rounds + 1):
        for name, make in makers.items():
            figure = make()
            if number:
                figures[name].append(figure)
    return figures


def ratio(numerator: list[float], denominator: list[float]) -> tuple[float, float, float]:
    """(minimum, median, maximum) of the pairwise ratios."""
    ratios = sorted(a / b for a, b in zip(numerator, denominator, strict=True))
    return ratios[0], statistics.median(ratios), ratios[-1]


def row(name: str, values: tuple[float, float, float], target: str) -> str:
    low, middle, high = values
    return f"{name:<44} {middle:6.2f}   ({low:.2f} to {high:.2f})   target {target}"
