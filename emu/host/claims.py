"""Which files one command reads and which it writes: an output may never be an input, nor another output.

Files are told apart by what they are, not by their names: links, other names and open descriptors of a file are the
file. What does not exist yet is its folder and its name in it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable

from emu.config import BackendConfig, MachineConfig, RunOptions, module_texts
from emu.errors import HostError, UsageError
from emu.hints import TypeAlias
from emu.host import files
from emu.host.files import Place, Target
from emu.record import NamedTuple

Identity: TypeAlias = tuple[object, ...]

_NOTHING_MORE = RunOptions()
_SNAPSHOT = "file:"


class _Claim(NamedTuple):
    """``what`` uses ``name``. ``content``: bytes are kept there; writing to a terminal that is read too destroys
    nothing. ``descriptor``: through an open file, where several outputs go on one behind the other."""

    what: str
    name: str
    path: str
    identity: Identity
    content: bool
    descriptor: bool

    def __str__(self) -> str:
        return f"{self.what} {self.name}".rstrip()


class _Family(NamedTuple):
    """A folder and its files that may be written, told by a pattern of their names."""

    what: str
    folder: str
    real: str
    names: re.Pattern[str]

    def has(self, path: str) -> bool:
        folder, name = os.path.split(path)
        return path == self.real or (folder == self.real and self.names.fullmatch(name) is not None)


class _Tree(NamedTuple):
    """A folder all of whose files are read."""

    what: str
    folder: str
    real: str

    def refuse(self, output: _Claim) -> None:
        """UsageError when the existing file ``output`` is one of them, by this name or by another one of it."""
        if not output.content or not os.path.lexists(output.path):
            return
        if f"{output.path}/".startswith(f"{self.real}/") or any(
            _claim(os.path.join(folder, name), "").identity == output.identity
            for folder, _, names in os.walk(self.real)
            for name in names
        ):
            raise UsageError(f"{output} is in {self.what} {self.folder}", "what is written needs a file of its own")


class Claims:
    """The files of one command. Name every input and every output before the first output is opened.

    Every method raises UsageError naming both when a file is an output and also something else.
    """

    def __init__(self) -> None:
        self._inputs: list[_Claim] = []
        self._outputs: list[_Claim] = []
        self._memory: list[_Claim] = []
        self._families: list[_Family] = []
        self._trees: list[_Tree] = []

    def reads(self, name: str, what: str, *, memory: bool = False) -> None:
        """``name`` is read, as ``what`` ("the image"); or, with ``memory``, mapped, whatever kind of file it is."""
        self._input(_claim(name, what, memory=memory))

    def maps(self, name: str, what: str) -> None:
        """``name`` is memory of a guest, which reads and changes it. Several memories in one file are the business of
        its locks.
        """
        claim = _claim(name, what, memory=True)
        _refuse_same(claim, self._inputs)
        self._refuse_output(claim)
        self._memory.append(claim)

    def reads_below(self, folder: str, what: str) -> None:
        """All files in ``folder`` and in its folders are read; a new one may be made there."""
        tree = _Tree(what, folder, os.path.realpath(folder))
        for claim in (*self._outputs, *self._memory):
            tree.refuse(claim)
        self._trees.append(tree)

    def reads_descriptor(self, descriptor: int, what: str) -> None:
        self._input(_claim(f"/proc/self/fd/{descriptor}", what)._replace(name=""))

    def writes(self, name: str, what: str) -> Target:
        """``name`` is to be written, as ``what`` ("--html"); where to write it. HostError when that cannot be."""
        self._output(_claim(name, what))
        return files.examine(name)

    def changes(self, name: str, what: str) -> None:
        """The existing file ``name`` is changed in place."""
        self._output(_claim(name, what))

    def writes_descriptor(self, descriptor: int, what: str) -> None:
        self._output(_claim(f"/proc/self/fd/{descriptor}", what)._replace(name=""))

    def writes_standard_streams(self) -> None:
        """The standard output and the standard error, as far as they are files."""
        for descriptor, what in ((1, "the standard output"), (2, "the standard error")):
            if is_regular(descriptor):
                self.writes_descriptor(descriptor, what)

    def writes_family(self, folder: str, names: str, what: str) -> None:
        """Files in ``folder``, which is made when missing, whose names match the pattern ``names``.

        HostError when they cannot be written.
        """
        family = _Family(what, folder, os.path.realpath(folder), re.compile(names))
        for claim in (*self._inputs, *self._outputs, *self._memory):
            _refuse_member(claim, [family])
        existing = family.real
        while not os.path.lexists(existing):
            existing = os.path.dirname(existing)
        files.check_folder(folder, existing)
        if existing == family.real:
            for member in sorted(os.path.join(folder, entry) for entry in os.listdir(existing)):
                if family.has(os.path.join(family.real, os.path.basename(member))):
                    self.writes(member, what)
        self._families.append(family)

    def _input(self, claim: _Claim) -> None:
        _refuse_same(claim, [*self._outputs, *self._memory])
        _refuse_member(claim, self._families)
        self._inputs.append(claim)

    def _output(self, claim: _Claim) -> None:
        _refuse_same(claim, [*self._inputs, *self._memory])
        self._refuse_output(claim)
        self._outputs.append(claim)

    def _refuse_output(self, claim: _Claim) -> None:
        """UsageError when ``claim``, which is written, is another output or what is read as a folder."""
        _refuse_same(claim, [other for other in self._outputs if not (claim.descriptor and other.descriptor)])
        _refuse_member(claim, self._families)
        for tree in self._trees:
            tree.refuse(claim)


def is_regular(descriptor: int) -> bool:
    """Whether the open ``descriptor`` is one of a regular file; not when it is closed."""
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def claims_of(config: MachineConfig, options: RunOptions = _NOTHING_MORE, *, runs: bool = True) -> Claims:
    """The files of a machine: its image, its initial RAM disk, its snapshot, and its NVDIMMs, which change if it
    ``runs`` on them."""
    claims = Claims()
    if config.image is not None:
        claims.reads(config.image, "the image")
    if isinstance(config.initrd, str):
        # One file, or the modules of a Multiboot image: without that nobody can tell.
        names = {config.initrd, *(text.split(" ")[0] for text in module_texts(config.initrd))}
        for name in sorted(filter(os.path.exists, names)):
            claims.reads(name, "the initial RAM disk")
    if options.incoming is not None and options.incoming.startswith(_SNAPSHOT):
        claims.reads(options.incoming.removeprefix(_SNAPSHOT), "the snapshot")
    for dimm in config.nvdimms:
        claim_memory(claims, dimm.backend, "the NVDIMM's file", runs=runs)
    return claims


def claim_memory(claims: Claims, backend: BackendConfig, what: str, *, runs: bool = True) -> None:
    """The file of ``backend``, if it has one; the memory of a machine that ``runs``."""
    if backend.path is not None:
        if runs and backend.changes_file:
            claims.maps(backend.path, what)
        else:
            claims.reads(backend.path, what, memory=True)


def claims_of_machine(config: MachineConfig, memory: Iterable[BackendConfig], outputs: Iterable[str]) -> Claims:
    """The files of a machine that exists: also those of its ``memory``, plugged later or never, and those that its
    guest's output goes to, none of which is anything else.
    """
    claims = claims_of(config)
    for backend in memory:
        claim_memory(claims, backend, "the file of memory")
    for name in outputs:
        claims.changes(name, "the guest's output")
    return claims


def _refuse_same(claim: _Claim, others: Iterable[_Claim]) -> None:
    for other in others:
        if claim.identity == other.identity and (claim.content or other.content):
            raise UsageError(f"{claim} is the same file as {other}", "what is written needs a file of its own")


def _refuse_member(claim: _Claim, families: Iterable[_Family]) -> None:
    for family in families:
        if family.has(claim.path):
            raise UsageError(
                f"{claim} is what {family.what} {family.folder} may write", "what is written needs a file of its own"
            )


def _claim(name: str, what: str, *, memory: bool = False) -> _Claim:
    try:
        place = files.resolve(name)
    except HostError:
        place = Place(name)  # whoever opens it says what is wrong
    by_descriptor = place.descriptor is not None
    try:
        found = place.stat()
    except (OSError, ValueError):
        return _Claim(what, name, place.path, _absent(place.path), content=True, descriptor=by_descriptor)
    content = memory or stat.S_ISREG(found.st_mode) or stat.S_ISBLK(found.st_mode)
    identity: Identity = (found.st_dev, found.st_ino)
    if stat.S_ISBLK(found.st_mode) or stat.S_ISCHR(found.st_mode):
        identity = ("device", stat.S_IFMT(found.st_mode), found.st_rdev)  # one device can have several nodes
    return _Claim(what, name, place.path, identity, content, by_descriptor)


def _absent(path: str) -> Identity:
    folder, last = os.path.split(path)
    try:
        found = os.stat(folder)
    except (OSError, ValueError):
        return ("absent", path)
    return ("new", found.st_dev, found.st_ino, last)
