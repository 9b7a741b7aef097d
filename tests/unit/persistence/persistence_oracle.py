"""A second opinion on the persistence model, written from the operational side and sharing no code with it.

An explicit-state machine in the style of Px86: instructions enter a store buffer, leave it in any order that the x86
ordering table allows, wait in a persist buffer and reach the memory one 8-byte piece at a time. Every interleaving is
followed; the answer is the set of all memories seen at any moment.

A program is a list of tuples: ("st", address, bytes), ("nt", address, bytes), ("fl", address), ("fo", address),
("sf",), ("mf",), ("rmw", address, bytes), ("wb",) for WBINVD, ("label", byte) for a write to the label area by the
device, whose one byte is the last of the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Op = tuple[Any, ...]
"""A step of a program; behind the decoder a store has its ``Part``s instead of address and bytes."""
Part = tuple[int, bytes]
Persist = tuple[str, tuple[Part, ...]]
State = tuple[int, tuple[Op, ...], tuple[Persist, ...], bytes]
"""Next step, store buffer, persist buffer, memory."""

SIZE = 81
LABEL = SIZE - 1


def pieces(address: int, data: bytes) -> tuple[Part, ...]:
    """(address, bytes) of each part that does not cross an 8-byte boundary."""
    result, start = [], address
    for at in range(address, address + len(data)):
        if at % 8 == 7 or at == address + len(data) - 1:
            result.append((start, data[start - address : at + 1 - address]))
            start = at + 1
    return tuple(result)


def same_unit(one: Sequence[Part], other: Sequence[Part]) -> bool:
    return any(a // 8 == b // 8 for a, _ in one for b, _ in other)


def may_pass(later: Op, earlier: Op) -> bool:
    """Whether ``later`` may leave the store buffer before ``earlier``, which is ahead of it in program order."""
    kinds = (earlier[0], later[0])
    if "sf" in kinds:
        return False
    if kinds == ("st", "st") or kinds == ("fl", "st") or kinds == ("st", "fl") or kinds == ("fl", "fl"):
        return False
    if "nt" in kinds:
        if kinds == ("fl", "nt"):
            return False
        if "fo" in kinds or "fl" in kinds:
            return True
        return not same_unit(earlier[1], later[1])
    if kinds == ("fo", "st"):
        return True
    if kinds == ("st", "fo"):
        return not any(at // 64 == later[1] // 64 for at, _ in earlier[1])
    if kinds == ("fo", "fo"):
        return True
    return bool(earlier[1] // 64 != later[1] // 64)  # clflush and clflushopt


class Machine:
    """One choice of domain and order; ``run`` gives the set of all memories (``SIZE`` bytes) of a program."""

    def __init__(self, domain: str = "adr", order: str = "line") -> None:
        self.eadr = domain == "eadr"
        self.granule = 64 if order == "line" else 8

    def run(self, program: Sequence[Op], initial: bytes = bytes(SIZE)) -> set[bytes]:
        program = [step for op in program for step in self.decode(op)]
        start: State = (0, (), (), initial)
        seen, todo, memories = {start}, [start], set[bytes]()
        while todo:
            state = todo.pop()
            memories.add(state[3])
            for after in self.steps(program, state):
                if after not in seen:
                    seen.add(after)
                    todo.append(after)
        return memories

    def decode(self, op: Op) -> list[Op]:
        """What enters the store buffer: the parts of a store together, those of a non-temporal one each for itself."""
        if op[0] == "nt":
            return [("nt", (part,)) for part in pieces(op[1], op[2])]
        if len(op) == 3:
            return [(op[0], pieces(op[1], op[2]))]
        return [] if op[0] == "fo" and self.eadr else [op]

    def steps(self, program: Sequence[Op], state: State) -> Iterator[State]:
        at, buffer, waiting, memory = state
        if at < len(program):
            op = program[at]
            if op[0] == "wb":
                if not buffer and not waiting:
                    yield at + 1, buffer, waiting, memory
            elif op[0] == "label":
                # The port is written when what comes before is done; what only waits in a buffer may go on waiting.
                if not any(kind in ("sf", "fl") for kind, *_ in buffer):
                    yield at + 1, buffer, waiting, memory[:LABEL] + bytes([op[1]])
            elif op[0] in ("mf", "rmw"):
                if not buffer and not self.unfenced(waiting):
                    if op[0] == "mf":
                        yield at + 1, buffer, waiting, memory
                    elif self.eadr:
                        for address, data in op[1]:
                            memory = memory[:address] + data + memory[address + len(data) :]
                        yield at + 1, buffer, waiting, memory
                    else:
                        yield at + 1, buffer, (*waiting, ("st", op[1])), memory
            else:
                yield at + 1, (*buffer, op), waiting, memory
        for number, op in enumerate(buffer):
            if any(not may_pass(op, earlier) for earlier in buffer[:number]):
                continue
            rest = buffer[:number] + buffer[number + 1 :]
            if op[0] in ("st", "nt"):
                # Visible from here on. Under eADR a store is in the caches, hence safe, when the next one becomes
                # visible.
                if not (self.eadr and op[0] == "st" and any(kind == "st" for kind, _ in waiting)):
                    yield at, rest, (*waiting, op), memory
            elif op[0] == "sf":
                if number == 0 and not self.unfenced(waiting):
                    yield at, rest, waiting, memory
            elif not any(kind == "st" and (self.eadr or self.touches(parts, op[1])) for kind, parts in waiting):
                yield at, rest, waiting, memory
        for number, (kind, parts) in enumerate(waiting):
            for part in parts:
                if not self.blocked(kind, part, waiting[:number]):
                    left = tuple(other for other in parts if other != part)
                    rest = waiting[:number] + (((kind, left),) if left else ()) + waiting[number + 1 :]
                    address, data = part
                    yield at, buffer, rest, memory[:address] + data + memory[address + len(data) :]

    def touches(self, parts: Sequence[Part], address: int) -> bool:
        return any(at // 64 == address // 64 for at, _ in parts)

    def unfenced(self, waiting: Sequence[Persist]) -> bool:
        """Whether a fence must wait: for non-temporal stores, and under eADR for a store that is half visible."""
        return bool(waiting) if self.eadr else any(kind == "nt" for kind, _ in waiting)

    def blocked(self, kind: str, part: Part, ahead: Sequence[Persist]) -> bool:
        """Whether something ahead in the persist buffer must reach the memory before ``part``."""
        for other, parts in ahead:
            for address, _ in parts:
                if address // 8 == part[0] // 8:
                    return True
                if kind == other == "st" and (self.eadr or address // self.granule == part[0] // self.granule):
                    return True
        return False
