"""The peers' environment: a folder `.bench` that sees the project's packages and adds what only the benchmarks need.

torch is several gigabytes; there is one of it. `python -m benchmarks.environment` makes the folder or leaves it as it
is, and prints the interpreter to use.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".bench"
PEERS = ("lightly>=1.5", "pytorch-metric-learning>=2.8", "sentence-transformers>=5", "faiss-cpu>=1.10", "accelerate>=1")
"""open_clip, torchvision and PyAV are requirements of the project itself."""


def interpreter() -> Path:
    """Of the environment."""
    return FOLDER / "bin" / "python"


def make() -> None:
    """Create the environment, install the peers, and check that torch is still the project's own."""
    done = FOLDER / ".done"
    wanted = "\n".join(PEERS)
    if done.exists() and done.read_text(encoding="utf-8") == wanted:
        return
    if not interpreter().exists():
        venv.EnvBuilder(with_pip=True).create(FOLDER)
    own = _site(interpreter())
    # addsitedir, not a plain line: the project is installed through a .pth file of its own.
    own.joinpath("project.pth").write_text(
        f"import site; site.addsitedir({str(_site(Path(sys.executable)))!r})\n", encoding="utf-8"
    )
    quiet = ["--quiet", "--disable-pip-version-check"]
    subprocess.run([str(interpreter()), "-m", "pip", "install", *quiet, *PEERS], check=True)
    if own.joinpath("torch").exists():
        raise SystemExit(f"error: pip put a second torch into {FOLDER}: remove that folder")
    done.write_text(wanted, encoding="utf-8")


def _site(python: Path) -> Path:
    """Where an interpreter's packages are."""
    if python == Path(sys.executable):
        return Path(sysconfig.get_paths()["purelib"])
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    found = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    return Path(found.stdout.strip())


if __name__ == "__main__":
    make()
    print(interpreter())
