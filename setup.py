"""What setup.cfg cannot say: a library in C, links of README, an sdist that is the same each time.

The library is built where a compiler is, and left out elsewhere.  README's links lead to files
beside it; on a package index there are none, so they are made absolute from `[metadata] url` of
setup.cfg, if there is one.
"""

import configparser
import gzip
import os
import re
import tarfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent
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

    def write_wheelfile(self, *args, **keywords):  # the last that is written before it is packed
        super().write_wheelfile(*args, **keywords)
        for path in Path(self.bdist_dir).rglob("*"):
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


class Sdist(sdist):
    """An sdist that is the same bytes for the same files, whenever and wherever it is made."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        made = super().make_archive(base_name, format, root_dir, base_dir, owner, group)
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        if epoch is not None and format == "gztar":
            repack(Path(made), int(epoch))
        return made


def repack(path, epoch):
    """Write a .tar.gz anew: in the order of names, of one time, of nobody, with plain modes."""
    beside = path.with_name(path.name + ".new")
    with (
        tarfile.open(path) as old,
        beside.open("wb") as file,
        # A header of gzip names the file that is written, and the time.
        gzip.GzipFile("", "wb", 9, file, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime, member.uid, member.gid = epoch, 0, 0
            member.uname = member.gname = ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    beside.replace(path)


def description():
    """Return README as an index shows it: links from `url` of setup.cfg, to this version's tag."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    metadata = configparser.ConfigParser()
    metadata.read(HERE / "setup.cfg", encoding="utf-8")
    url = metadata.get("metadata", "url", fallback="").rstrip("/")
    if not url:
        return text
    code = (HERE / "ckptkit" / "_version.py").read_text(encoding="utf-8")
    tag = "v" + re.search(r'__version__ = "(.+)"', code)[1]

    def absolute(match):
        is_picture, label, target = match.groups()
        place = "raw" if is_picture else "blob"
        return f"{is_picture}[{label}]({url}/{place}/{tag}/{target})"

    # What is named with a scheme, or is a place of this page, stays.
    text = re.sub(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)", absolute, text)
    return re.sub(r"https://HOST/OWNER/ckptkit(.*);.*", lambda match: url + match[1], text)


setup(
    ext_modules=[KERNEL],
    cmdclass={"build_ext": Library, "bdist_wheel": Wheel, "sdist": Sdist},
    long_description=description(),
)
