"""The tree of reads: what runs share, and where a memory leads."""

from __future__ import annotations

import random
from collections.abc import Callable

from emu.persistence.lab.chunks import READ_SIZE, Chunks
from emu.persistence.lab.explore import Verdict
from emu.persistence.lab.tree import Node, Reads, Tree
from emu.persistence.model.crashstate import FULL, Read

Memory = Callable[[int], int]


def verdict(number: int) -> Verdict:
    return Verdict(number == 0, "exit-port", number)


def run(seed: int, memory: Memory, length: int) -> tuple[list[Read], Verdict]:
    """What a recovery reads whose next step depends on all that it has read, no bytes twice."""
    reads: list[Read] = []
    state, seen = seed, set[int]()
    for _ in range(length):
        unit = 8 * random.Random(state).randrange(64)
        if unit not in seen:
            seen.add(unit)
            reads.append((unit, FULL, memory(unit)))
            state = state * 31 + memory(unit)
        state += 7
    return reads, verdict(random.Random(state).randrange(3))


def test_reads_are_a_sequence_and_fall_into_pieces_without_loss() -> None:
    rng = random.Random("reads")
    reads = [(8 * rng.randrange(1 << 40), FULL, rng.randrange(1 << 64)) for _ in range(1000)]
    packed = Reads.of(reads)
    assert (list(packed), len(packed), packed[7], packed[-1]) == (reads, 1000, reads[7], reads[-1])
    assert list(packed[3:40]) == reads[3:40]
    chunks = Chunks()
    numbers = chunks.add(packed.data)
    assert b"".join(map(chunks.data, numbers)) == packed.data
    assert chunks.size(numbers) == 1000
    assert max(map(len, chunks)) <= 128 * READ_SIZE
    assert chunks.add(packed.data) == numbers


def test_runs_that_go_different_ways_for_a_moment_share_what_follows() -> None:
    reads = [(8 * number, FULL, number) for number in range(3000)]
    detour = [(8 * (1 << 20), FULL, 1), (8 * (1 << 21), FULL, 2)]
    chunks = Chunks()
    first = set(chunks.add(Reads.of(reads).data))
    second = set(chunks.add(Reads.of(reads[:1000] + detour + reads[1000:]).data))
    assert len(second - first) <= 3 < len(first)


def test_every_memory_is_found_where_its_run_ended_and_no_other_one_is() -> None:
    rng = random.Random("tree")
    for seed in range(30):
        tree, known = Tree(), dict[tuple[Read, ...], Verdict]()
        for _ in range(60):
            memory = holding([rng.choice((0, 0, 0, 1)) for _ in range(64)])
            reads, ends = run(seed, memory, 40)
            found = tree.find(memory)
            assert (found is not None) == (tuple(reads) in known)
            if found is not None:
                assert (found.path(), found.verdict) == (tuple(reads), ends)
            tree.add(reads, ends)
            known[tuple(reads)] = ends
        assert leaves(tree.root) == known


def holding(content: list[int]) -> Callable[[int], int]:
    return lambda unit: content[unit // 8]


def leaves(node: Node) -> dict[tuple[Read, ...], Verdict]:
    """Every way through the tree, and how it ends; depths and parents must fit."""
    found = {node.path(): node.verdict} if node.verdict is not None else {}
    for value, child in node.children.items():
        assert child.parent is node
        assert node.read is not None
        assert child.came_by == (*node.read, value)
        assert child.depth == len(node.path()) + 1
        found |= leaves(child)
    return found
