"""Migration: durable before the hand-over, answers in turn and in time."""

from __future__ import annotations

from .mutant import Mutant

_SOURCE = "emu/migration/source.py"
_DESTINATION = "emu/migration/destination.py"
_PHASES = "tests/unit/migration/test_migration_phases.py"
_LIARS = "tests/unit/migration/test_migration_liars.py"
_REFERENCES = "tests/unit/migration/test_migration_references.py"
_STRANGERS = "tests/unit/migration/test_migration_strangers.py"
_LANES = "tests/unit/migration/test_migration_lanes.py"
_MACHINES = "tests/integration/test_migration_machines.py"
_RECEPTION = "tests/unit/migration/test_migration_reception.py"
_DRAIN = "        self._drain(channel)\n"
_REPORT = """        assert self._persister is not None
        self._progress.persistence = self._persister.report()
"""
_SAY = """        self.phase = Phase.FINISHED
        if channel.live:
            channel.send(FrameType.DURABLE, b"", [codec.encode_json({"nvdimms": self._progress.persistence})])
"""

MUTANTS = (
    Mutant(
        "durable-without-a-drain",
        "the destination says DURABLE only when the last pages are durable",
        _DESTINATION,
        _DRAIN + _REPORT,
        _REPORT,
        (f"{_PHASES}::test_the_last_stores_are_durable_before_the_source_hears_so",),
    ),
    Mutant(
        "durable-before-the-drain",
        "the destination makes pages durable first and says so then",
        _DESTINATION,
        _DRAIN + _REPORT + _SAY,
        _REPORT + _SAY + "            self._drain(channel)\n",
        (f"{_PHASES}::test_the_last_stores_are_durable_before_the_source_hears_so",),
    ),
    Mutant(
        "shared-file-settled-once",
        "what the guest stores to a shared file during the rounds is durable at the hand-over",
        _SOURCE,
        "        self._settle_shared()\n        states = ",
        "        states = ",
        (f"{_PHASES}::test_the_last_stores_to_a_shared_file_are_durable_at_the_hand_over",),
    ),
    Mutant(
        "progress-out-of-turn",
        "signs of life are taken only where the destination makes pages durable",
        _SOURCE,
        "            if frame.kind is not FrameType.PROGRESS or kind not in _AFTER_PROGRESS:\n",
        "            if frame.kind is not FrameType.PROGRESS:\n",
        (f"{_LIARS}::test_a_lie_before_the_commit_leaves_the_guest_running[progress before there is any]",),
    ),
    Mutant(
        "durable-whenever",
        "while the guest stands still, the destination has a bounded time to answer",
        _SOURCE,
        "            answer = self._expect(FrameType.DURABLE, until=time.monotonic() + patience)\n",
        "            answer = self._expect(FrameType.DURABLE)\n",
        (f"{_LIARS}::test_a_lie_before_the_commit_leaves_the_guest_running[progress for ever at the end]",),
    ),
    Mutant(
        "cleared-pages-not-sent",
        "pages that a reset cleared are sent again",
        "emu/migration/adapter.py",
        "        return [(0, self._pages)] if self._machine.call(self._take_reset) else runs\n",
        "        return runs\n",
        (f"{_MACHINES}::test_ram_that_a_reset_clears_counts_as_stored_to",),
    ),
    Mutant(
        "paused-arrival-ignored",
        "a machine that is started with -S and -incoming stands still when it has arrived",
        "emu/migration/controller.py",
        "            if runs and not self._machine.options.start_paused:\n",
        "            if runs:\n",
        (f"{_MACHINES}::test_with_a_paused_start_the_guest_arrives_and_waits",),
    ),
    Mutant(
        "differing-pages-forgotten",
        "a page that did not arrive as it is at the source, and that the guest did not store to, is not handed over",
        "emu/migration/doubts.py",
        "            if pages:\n",
        "            if not pages and dirty:\n",
        (f"{_REFERENCES}::test_a_file_that_somebody_else_changes_under_the_copy_is_not_handed_over",),
    ),
    Mutant(
        "last-pages-not-compared",
        "in the last round every page must have arrived as it is",
        _SOURCE,
        "        self._doubts.settle({})  # the guest stands still\n",
        "",
        (f"{_REFERENCES}::test_a_page_damaged_in_the_last_round_is_found_before_the_hand_over",),
    ),
    Mutant(
        "strangers-in-the-last-moment",
        "a file that another program writes to until the destination has everything is not handed over",
        _SOURCE,
        "        self._check_files()\n        self._interrupt.check()\n",
        "        self._interrupt.check()\n",
        (f"{_STRANGERS}::test_a_file_that_another_program_writes_to_is_not_handed_over",),
    ),
    Mutant(
        "round-without-its-lanes",
        "a round is durable when the pages of every connection are",
        _DESTINATION,
        "        self._await_lanes(channel)\n        self._drain(channel)\n",
        "        self._drain(channel)\n",
        (f"{_LANES}::test_a_round_is_over_when_its_last_page_has_landed[False]",),
    ),
    Mutant(
        "end-without-its-lanes",
        "the last round is over when the pages of every connection have landed",
        _DESTINATION,
        "                self._await_lanes(channel)\n                self._lander.open = False\n",
        "                self._lander.open = False\n",
        (f"{_LANES}::test_a_round_is_over_when_its_last_page_has_landed[True]",),
    ),
    Mutant(
        "lanes-without-a-key",
        "a connection for pages is taken only from the source",
        "emu/migration/lanes.py",
        "        if not hmac.compare_digest(key, self.key) or number >= self.count:\n",
        "        if number >= self.count:\n",
        (f"{_LANES}::test_strangers_at_the_door_of_the_lanes_are_sent_away",),
    ),
    Mutant(
        "compressed-without-a-bound",
        "compressed pages unpack to no more than the pages they name",
        "emu/migration/compression.py",
        "        if len(plain) != length or more or not stream.eof or stream.unused_data:\n",
        "        if len(plain) != length:\n",
        (f"{_LANES}::test_what_was_packed_is_unpacked_and_nothing_else",),
    ),
    Mutant(
        "references-without-a-bound",
        "a destination copies a bounded number of pages at once",
        _DESTINATION,
        "        if runs.pages > MAX_COPY:\n",
        "        if runs.pages > MAX_COPY << 20:\n",
        (f"{_REFERENCES}::test_more_pages_than_allowed_are_not_copied_at_once",),
    ),
    Mutant(
        "zero-pages-kept",
        "a page that is zero at the source is zero at the destination, whatever its file held before",
        _DESTINATION,
        "            self._ledger.clear(block, [Run(run.first + first, count) for first, count in copied.zero])\n",
        "",
        (f"{_REFERENCES}::test_zero_pages_replace_what_the_destination_held",),
    ),
    Mutant(
        "chains-put-together-wrongly",
        "the three chains of the checksum give what one would",
        "emu/host/_pages.csrc.c",
        "    return move_past_stripe(move_past_stripe((uint32_t)first) ^ (uint32_t)second) ^ (uint32_t)third;\n",
        "    return move_past_stripe(move_past_stripe((uint32_t)first) ^ (uint32_t)third) ^ (uint32_t)second;\n",
        ("tests/unit/host/test_host_pages.py::test_crc32c_table_hardware_and_running_value_agree",),
    ),
    Mutant(
        "checksum-of-the-original",
        "what is summed is the copy that is sent, not memory that the guest may store to in between",
        "emu/host/_pages.csrc.c",
        "            *crc = emu_crc32c(*crc, copy, PAGE, hardware);\n",
        "            *crc = emu_crc32c(*crc, memory ? memory + n * PAGE : copy, PAGE, hardware);\n",
        ("tests/unit/host/test_host_pages.py::test_the_crc_of_pages_taken_while_they_change_is_that_of_the_copy",),
    ),
    Mutant(
        "rounds-end-whenever",
        "the guest is stopped only when what is left fits into the downtime that is allowed",
        _SOURCE,
        "                if expected <= self._parameters().downtime_limit:\n",
        "                if expected >= 0:\n",
        (f"{_PHASES}::test_a_guest_that_dirties_faster_than_the_line_is_not_stopped_for_longer_than_allowed",),
    ),
    Mutant(
        "a-limit-for-nobody",
        "a migration takes no more of the line than max-bandwidth",
        "emu/migration/channel.py",
        "        if not limit:\n            return\n",
        "        return\n",
        (f"{_PHASES}::test_the_bandwidth_limit_holds",),
    ),
    Mutant(
        "untouched-memory-read",
        "memory that nobody has touched is neither read nor brought into being",
        "emu/migration/adapter.py",
        "            holes = Untouched(mapping.address, mapping.size)\n",
        "            holes = None\n",
        (f"{_MACHINES}::test_what_nobody_uses_costs_nothing",),
    ),
    Mutant(
        "garbage-ends-the-wait",
        "who sends no preamble ends nobody's wait",
        "emu/migration/reception.py",
        "            caller.dismiss(error)\n            continue\n",
        "            raise\n",
        (f"{_RECEPTION}::test_a_stranger_that_comes_and_goes",),
    ),
    Mutant(
        "silence-for-ever",
        "who says nothing is sent away in time",
        "emu/migration/reception.py",
        "        if frame is None and time.monotonic() >= self.deadline:\n",
        "        if frame is None and self.deadline == math.inf:\n",
        (f"{_RECEPTION}::test_silence_is_heard_for_a_bounded_time",),
        hangs=True,
    ),
    Mutant(
        "socket-taken-over",
        "an address at which a destination waits is refused to a second one",
        "emu/host/sockets.py",
        "                self._clear_stale(address)\n",
        "                Path(address.path).unlink(missing_ok=True)\n",
        ("tests/integration/test_migration_door.py::test_a_second_destination_is_refused_and_the_first_waits_on",),
    ),
    Mutant(
        "report-believed",
        "the destination's report is examined before the guest is given away",
        _SOURCE,
        "            self._progress.persistence = decode_report(answer.data, sent)\n",
        "            self._progress.persistence = codec.decode_json(answer.data, str(sent))['nvdimms']\n",
        (f"{_LIARS}::test_a_lie_before_the_commit_leaves_the_guest_running",),
    ),
    Mutant(
        "a-file-cut-short",
        "a source's file that is cut short while it is mapped ends the migration",
        "emu/migration/passed.py",
        "        if self._guard.lost() is not None:\n",
        "        if not self._address:\n",
        ("tests/unit/migration/test_migration_passed.py::test_a_file_that_is_cut_short_ends_early",),
    ),
    Mutant(
        "pages-read-twice",
        "what is summed on its way past the caches is what is stored, though others store to it meanwhile",
        "emu/host/_pages.csrc.c",
        "        return stream_and_sum(to, (const unsigned char *)from);\n",
        "        return stream_and_sum(to, (const unsigned char *)from), emu_crc32c(0, from, PAGE, hardware);\n",
        ("tests/unit/host/test_host_pages.py::test_the_sums_of_a_torn_read_are_those_of_what_is_there",),
    ),
    Mutant(
        "lander-of-all",
        "what a stranger sends to the door of the lanes touches no connection but its own",
        "emu/migration/reception.py",
        "            lander = new_lander()  #",
        "            lander = next(iter(landers.values()), None) or new_lander()  #",
        (
            f"{_LANES}::test_strangers_at_the_door_of_the_lanes_are_sent_away",
            f"{_LANES}::test_what_the_guest_has_arrives_whatever_it_stores_meanwhile",
        ),
    ),
)
