"""Explain a verb, an action of a verb or, without a word, what there is."""

from __future__ import annotations

import argparse

EPILOG = """\
examples:
  emu help
  emu help crash
  emu help label create-namespace
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic", nargs="*", metavar="VERB", help="what to explain; default: the verbs")


def run(options: argparse.Namespace) -> int:
    from emu.cli.parser import print_help

    print_help(options.topic)
    return 0
