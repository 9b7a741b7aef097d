"""For all tests."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

from tests.fuzzing import FACTOR

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("emu", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("emu")

# A shell has its background jobs ignore Ctrl-C, nohup has them ignore SIGHUP, and so would every emu that is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of Hypothesis as fuzz tests, and let them try EMU_FUZZ times as many examples as they say."""
    seen = set()
    for item in items:
        test = getattr(item, "obj", None)
        if not is_hypothesis_test(test):
            continue
        item.add_marker(pytest.mark.fuzz)
        function = getattr(test, "__func__", test)
        if FACTOR != 1 and function not in seen:
            seen.add(function)
            # A test can be decorated with settings but once, and says its number there: only this attribute is left.
            assert function is not None
            said = function._hypothesis_internal_use_settings
            function._hypothesis_internal_use_settings = settings(said, max_examples=said.max_examples * FACTOR)
