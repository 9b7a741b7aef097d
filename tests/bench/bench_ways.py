"""Ways to move pages that migration does not take, and what they cost against the one that it takes: 1 GiB, CPU time.

Sending without a copy (MSG_ZEROCOPY) over loopback; files copied by the kernel (copy_file_range) on tmpfs; and, for
root where mkfs.xfs is installed, blocks that two files share (FICLONERANGE): a check has to read them from the disk.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from emu.host import kernel, pages
from emu.migration.passed import PassedFile
from tests.bench.measure import interleaved, ratio, row

MIB = 1 << 20
SIZE = 1024 * MIB
PIECE = 4 * MIB
SHARED = 256 * MIB
_SO_ZEROCOPY, _MSG_ZEROCOPY = 60, 0x4000000  # asm-generic/socket.h, linux/socket.h
_FICLONERANGE = 0x4020940D  # ioctl_ficlonerange(2)


def spent(work: Callable[[], None]) -> float:
    """Seconds of processors, of all threads of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def fill(path: Path, size: int) -> None:
    random = os.urandom(MIB)
    with path.open("wb") as file:
        for number in range(size // MIB):
            file.write(number.to_bytes(8, "little") + random[8:])


def send(flags: int) -> None:
    """1 GiB over loopback in pieces of 4 MiB, each sent from memory that rests until the kernel has done with it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        left, right = socket.create_connection(server.getsockname()), server.accept()[0]
    if flags:
        left.setsockopt(socket.SOL_SOCKET, _SO_ZEROCOPY, 1)

    def take() -> None:
        target = pages.buffer(PIECE)
        while right.recv_into(target):
            pass

    receiver = threading.Thread(target=take)
    receiver.start()
    piece = pages.buffer(PIECE)
    piece[:] = os.urandom(PIECE)
    calls = done = 0
    for _ in range(SIZE // PIECE):
        at = 0
        while at < PIECE:
            at += left.send(piece[at:], flags)
            calls += 1
        while flags and done < calls:  # how many calls an answer in the error queue is for: linux/errqueue.h
            try:
                ((_, _, answer),) = left.recvmsg(1, 512, socket.MSG_ERRQUEUE)[1]
            except BlockingIOError:
                time.sleep(0.0001)
                continue
            first, last = struct.unpack_from("8xII", answer, 8)
            done += last - first + 1
    left.shutdown(socket.SHUT_WR)
    receiver.join()
    left.close()
    right.close()


def copies(rounds: int) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        for file in ("from", "to"):
            fill(Path(name) / file, SIZE)
        source, target = os.open(f"{name}/from", os.O_RDONLY), os.open(f"{name}/to", os.O_RDWR)
        address = kernel.map_memory(SIZE, what="a copy", fd=target, shared=True)
        kernel.populate(address, SIZE, kernel.PAGE_SIZE, what="a copy")
        view = kernel.memory_view(address, SIZE)

        def mapped() -> None:
            passed = PassedFile(source, 0, SIZE)
            passed.read(0, view)
            passed.close()

        def by_the_kernel() -> None:
            at = 0
            while at < SIZE:
                at += os.copy_file_range(source, target, SIZE - at, at, at)

        def and_summed() -> None:
            by_the_kernel()
            pages.sums_of(view)

        found = interleaved(
            {
                "mapped": lambda: spent(mapped),
                "kernel": lambda: spent(by_the_kernel),
                "summed": lambda: spent(and_summed),
            },
            rounds,
        )
        view.release()
        kernel.unmap_memory(address, SIZE)
        os.close(source)
        os.close(target)
    print(row("copy_file_range on tmpfs / copy and sums from a mapping", ratio(found["kernel"], found["mapped"]), "-"))
    print(row("the same with the sums that it leaves to do", ratio(found["summed"], found["mapped"]), "-"))


def clones() -> None:
    """Seconds by the clock on XFS in a file, whose blocks are in memory: both ways read or write them all."""
    if os.geteuid() or shutil.which("mkfs.xfs") is None:
        print("  shared blocks: only for root, with mkfs.xfs and a loop device")
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        image, folder = Path(name) / "xfs", Path(name) / "mnt"
        folder.mkdir()
        with image.open("wb") as file:
            file.truncate(1024 * MIB)
        subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
        try:
            fill(folder / "from", SHARED)
            with (folder / "from").open("rb") as source, (folder / "to").open("w+b") as target:
                os.fsync(source.fileno())
                took = []
                for clone in (True, False):
                    os.truncate(target.fileno(), 0)
                    os.truncate(target.fileno(), SHARED)
                    os.fsync(target.fileno())
                    began = time.perf_counter()
                    if clone:
                        fcntl.ioctl(target, _FICLONERANGE, struct.pack("qQQQ", source.fileno(), 0, SHARED, 0))
                        pages.read(target.fileno(), 0, pages.buffer(SHARED), what="the clone")
                    else:
                        count = SHARED // kernel.PAGE_SIZE
                        pages.copy(source.fileno(), 0, target.fileno(), 0, count, what="from", to_what="to")
                    os.fsync(target.fileno())
                    took.append(time.perf_counter() - began)
            print(f"  256 MiB on XFS: cloned and read back {took[0]:.2f} s, copied, summed and written {took[1]:.2f} s")
        finally:
            subprocess.run(["umount", str(folder)], check=True)


def main(rounds: int = 5) -> None:
    found = interleaved(
        {"plain": lambda: spent(lambda: send(0)), "zero": lambda: spent(lambda: send(_MSG_ZEROCOPY))}, rounds
    )
    print(row("MSG_ZEROCOPY over loopback / sent plainly", ratio(found["zero"], found["plain"]), "-"))
    print(f"  sent plainly {median(found['plain']):.2f} s, both ends")
    copies(rounds)
    clones()
