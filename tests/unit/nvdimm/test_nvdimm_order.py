"""The order of NVDIMMs in QEMU's NFIT: recorded from QEMU, and against the real GLib where it is installed."""

from __future__ import annotations

import ctypes
import ctypes.util
import random
import string
from collections.abc import Callable

import pytest

from emu.devices.nvdimm.order import nfit_order, string_hash, table_order
from tests.fuzzing import times

_LETTERS = string.ascii_letters + "0123456789-_."


def glib_order() -> Callable[[list[str]], list[str]]:
    """A function that inserts names into a hash table of the real GLib and returns them in its order."""
    found = ctypes.util.find_library("glib-2.0")
    if found is None:
        pytest.skip("needs GLib (apt install libglib2.0-0)")
    glib, pointer = ctypes.CDLL(found), ctypes.c_void_p
    visitor = ctypes.CFUNCTYPE(None, ctypes.c_char_p, pointer, pointer)
    glib.g_hash_table_new.restype = pointer
    glib.g_hash_table_new.argtypes = [pointer, pointer]
    glib.g_hash_table_insert.argtypes = [pointer, ctypes.c_char_p, pointer]
    glib.g_hash_table_foreach.argtypes = [pointer, visitor, pointer]
    glib.g_hash_table_destroy.argtypes = [pointer]

    def order(names: list[str]) -> list[str]:
        table = glib.g_hash_table_new(ctypes.cast(glib.g_str_hash, pointer), ctypes.cast(glib.g_str_equal, pointer))
        encoded = [name.encode() for name in names]
        for name in encoded:
            glib.g_hash_table_insert(table, name, None)
        seen: list[str] = []
        glib.g_hash_table_foreach(table, visitor(lambda key, _value, _data: seen.append(key.decode())), None)
        glib.g_hash_table_destroy(table)
        return seen

    return order


def test_string_hash() -> None:
    assert string_hash("") == 5381
    assert string_hash("a") == 5381 * 33 + ord("a")
    assert string_hash("\u00e9") == ((5381 * 33 + 0xC3 - 256) * 33 + 0xA9 - 256) & 0xFFFFFFFF


@pytest.mark.fuzz
def test_like_glib() -> None:
    real = glib_order()
    chance = random.Random(7)
    for _ in range(times(400)):
        count = chance.choice((1, 2, 7, 8, 9, 15, 16, 17, 40, 256))
        words = ("".join(chance.choices(_LETTERS, k=chance.randint(1, 6))) for _ in range(count))
        names = list(dict.fromkeys(words))
        assert table_order(names) == real(names)
    anonymous = [f"device[{number}]" for number in range(256)]
    assert table_order(anonymous) == real(anonymous)


@pytest.mark.parametrize(
    ("ids", "order"),
    [
        ([], []),
        (["x"], [0]),
        (["zz", "aa", None], [1, 0, 2]),
        ([None, "a"], [1, 0]),
        ([None, None, None], [2, 1, 0]),
    ],
)
def test_order_recorded_from_qemu(ids: list[str | None], order: list[int]) -> None:
    assert nfit_order(ids) == order


def test_order_is_a_permutation() -> None:
    ids = [f"nv{number}" if number % 3 else None for number in range(100)]
    assert sorted(nfit_order(ids)) == list(range(100))
