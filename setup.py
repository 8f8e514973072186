"""What setup.cfg cannot say: a library in C, built where a compiler is, and left out elsewhere."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# These come after what CFLAGS says: the library's results are those of numpy to the last bit.
FLAGS = ["-O3", "-std=c11", "-fno-fast-math", "-ffp-contract=off", "-fno-math-errno"]
FLAGS += ["-fno-trapping-math", "-fvisibility=hidden", "-g0", "-Wno-psabi"]
SOURCES = ["ckptkit/compare/kernel.c", "ckptkit/compare/step.c"]
KERNEL = Extension("ckptkit.compare.kernel", SOURCES, optional=True)
KERNEL.extra_compile_args = FLAGS


class Library(build_ext):
    def get_ext_filename(self, fullname):  # it is of no version of Python, and no module
        return fullname.replace(".", "/") + ".so.2"


class Wheel(bdist_wheel):
    def get_tag(self):
        self.root_is_pure = not any(Path(self.bdist_dir).rglob("kernel.so.*"))
        platform = "any" if self.root_is_pure else super().get_tag()[2]
        return "py3", "none", platform


setup(ext_modules=[KERNEL], cmdclass={"build_ext": Library, "bdist_wheel": Wheel})
