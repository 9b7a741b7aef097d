"""Makes setuptools compile the ``emu`` program next to its script."""

from __future__ import annotations

from distutils.ccompiler import new_compiler
from distutils.command.build_scripts import build_scripts
from distutils.sysconfig import customize_compiler


class BuildScripts(build_scripts):  # type: ignore[misc]  # no type information is published for distutils
    def run(self) -> None:
        super().run()
        compiler = new_compiler()
        customize_compiler(compiler)
        temporary = self.get_finalized_command("build").build_temp
        objects = compiler.compile(["launcher/emu.c"], temporary, extra_postargs=["-O2", "-Wall", "-Wextra"])
        compiler.link_executable(objects, "emu", self.build_dir)
