"""The monitor: QMP (QEMU's machine protocol) for looking at and steering a running machine.

``jsonstream`` and ``protocol`` are byte machines without sockets, ``schema`` and ``commands`` say what can be asked,
``server`` is the one place with sockets and a thread.
"""
