"""Installs the one wheel of dist/ beside the oldest, the pinned and the newest torch, and runs abi_smoke.py under each.

Each torch gets a virtual environment of its own, removed afterwards: a CUDA build is 5 GB on disk.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def versions() -> list[str]:
    """The oldest torch that is supported, the pinned one and the newest there is."""
    pinned = re.search(r"^torch==(\S+)", (ROOT / "requirements/runtime.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    command = [sys.executable, "-m", "pip", "index", "versions", "torch"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    newest = re.search(r"Available versions: ([^,\s]+)", listing)
    assert newest is not None
    return list(dict.fromkeys(["2.11.0", pinned[1], newest[1]]))


def main() -> None:
    wheels = sorted((ROOT / "dist").glob("nnart_ops-*.whl"), key=lambda path: path.stat().st_mtime)
    if not wheels:
        sys.exit("nnart_ops: dist/ holds no wheel; run make wheel first.")
    for version in versions():
        print(f"[abi] torch {version}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            python = Path(folder) / "bin" / "python"
            install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            subprocess.run([*install, f"torch=={version}", "numpy"], check=True)
            subprocess.run([*install, "--no-deps", wheels[-1]], check=True)
            subprocess.run([python, ROOT / "scripts" / "abi_smoke.py"], check=True, cwd=folder)


if __name__ == "__main__":
    main()
