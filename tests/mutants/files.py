"""The doors: files of users, sockets, options, standard streams, and images that anybody made."""

from __future__ import annotations

from .mutant import Mutant

_FILES = "emu/host/files.py"
_READER = "emu/persistence/report/debug_reader.py"
_OUTPUTS = "tests/unit/host/test_host_files.py"
_BOMBS = "tests/unit/persistence/test_persistence_bombs.py"
_ORDER = "tests/integration/test_store_order.py"

MUTANTS = (
    Mutant(
        "output-over-an-input",
        "no output of a command may be one of its inputs",
        "emu/host/claims.py",
        "        _refuse_same(claim, self._inputs)\n",
        "",
        ("tests/unit/host/test_host_claims.py::test_an_output_is_not_an_input_by_any_name",),
    ),
    Mutant(
        "written-in-place",
        "a regular file is replaced as a whole: it holds the old content or the new one",
        _FILES,
        "            return _Replacement(self, durable=durable, mode=mode)\n",
        "            return Writing(self.name, self.stream(), durable=durable)\n",
        (f"{_OUTPUTS}::test_an_old_file_keeps_its_content_until_the_new_one_is_complete_and_then_its_mode",),
    ),
    Mutant(
        "a-device-replaced",
        "a FIFO or a device is written into, never replaced by a file",
        _FILES,
        "    if not regular:\n        return Kind.STREAM\n",
        "    if not regular:\n        return Kind.REGULAR\n",
        (f"{_OUTPUTS}::test_a_fifo_is_written_into",),
    ),
    Mutant(
        "store-after-a-lost-page",
        "no store behind one that its file lost reaches a file of the machine",
        "emu/host/faults.h",
        "                cut_off(&ranges[n]);\n",
        "                ;\n",
        (f"{_ORDER}::test_another_nvdimm_of_the_machine_does_not_get_the_commit_either",),
    ),
    Mutant(
        "own-file-after-a-lost-page",
        "nor does it reach the file that lost the store",
        "emu/host/faults.h",
        "    int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, allowed = protection(r);\n",
        "    int flags = MAP_SHARED | MAP_FIXED | MAP_NORESERVE, allowed = protection(r);\n",
        (f"{_ORDER}::test_a_commit_does_not_outlive_the_data_that_a_full_disk_lost",),
    ),
    Mutant(
        "file-left-by-a-refused-start",
        "a start that is refused leaves no file that it made",
        "emu/parts.py",
        "                backend.discard()\n",
        "                backend.close()\n",
        ("tests/integration/test_user_files.py::test_a_start_that_fails_leaves_no_file_and_changes_none",),
    ),
    Mutant(
        "the-next-ones-socket",
        "a listener removes a socket file only while it is its own",
        "emu/host/sockets.py",
        "        if (found.st_dev, found.st_ino) == (bound.st_dev, bound.st_ino):\n            Path(path).unlink()\n",
        "        Path(path).unlink()\n",
        ("tests/unit/host/test_host_sockets.py::test_what_took_our_place_is_left_alone",),
    ),
    Mutant(
        "help-at-the-end-only",
        "'help' is heard wherever it stands in an option",
        "emu/cli/keyval.py",
        "    return any(key in HELP if value is None else value in HELP for key, value in items(text))",
        '    return text.rpartition(",")[2] in HELP',
        ("tests/unit/cli/test_cli_keyval.py::test_help_is_asked",),
    ),
    Mutant(
        "status-of-a-full-stderr",
        "a standard error that cannot be written does not change the exit status",
        "emu/cli/output.py",
        "                self.failure = error\n",
        "                self.failure = error\n                if self.fileno() == 2:\n                    raise\n",
        ("tests/integration/test_run_streams.py::test_streams_do_not_change_the_verdict[guest]",),
    ),
    Mutant(
        "symbols-without-a-memory-limit",
        "an image's symbols take bounded memory to read",
        _READER,
        "    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))\n",
        "",
        (f"{_BOMBS}::test_memory_is_bounded_where_time_is_not",),
    ),
    Mutant(
        "symbols-without-a-time-limit",
        "an image's symbols take bounded time to read",
        _READER,
        "        signal.setitimer(signal.ITIMER_PROF, seconds)\n",
        "",
        (f"{_BOMBS}::test_what_is_missing_and_why_is_said",),
    ),
    Mutant(
        "spare-memory-as-an-output",
        "the file of memory that is not plugged yet becomes no output",
        "emu/machine.py",
        "(*self.backends, *self.spares.values())",
        "self.backends",
        ("tests/integration/test_user_files.py::test_a_running_machines_nvdimm_is_nobodys_output",),
    ),
    Mutant(
        "ctrl-c-lost-in-a-finaliser",
        "Ctrl-C that comes where Python can raise nothing ends the command a moment later",
        "emu/cli/signals.py",
        "    signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)\n",
        "",
        ("tests/integration/test_run_signals.py::test_an_interruption_where_python_cannot_raise_comes_again",),
    ),
    Mutant(
        "ctrl-c-while-putting-away",
        "what puts things away is not interrupted in turn",
        "emu/cli/signals.py",
        "    if not _interrupted:\n        _interrupted = True\n        _raise_in",
        "    if True:\n        _interrupted = True\n        _raise_in",
        ("tests/integration/test_run_signals.py::test_a_second_signal_does_not_interrupt_what_puts_things_away",),
    ),
)
