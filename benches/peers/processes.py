"""Contestants: processes that answer lines of standard input by lines of JSON, one of them at a time."""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Contestant:
    """A process that stays alive between its turns."""

    def __init__(self, name: str, command: list[str], folder: Path = HERE):
        self.name = name
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def ask(self, *words) -> dict:
        """One turn."""
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        # Whatever else a library prints is no answer.
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.name} ended with status {self.process.wait()}")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def python(module: str, *arguments) -> list[str]:
    """The command that runs a module of this folder."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def engine(name: str, checkpoint: Path) -> Contestant:
    """A runtime of the folder `engines`."""
    return Contestant(name, python("engines", name, checkpoint))


def flowmap_bench(bench: str, *arguments) -> Contestant:
    """One of flowmap's own benchmarks, in its interactive mode."""
    command = ["cargo", "bench", "--quiet", "--bench", bench, "--", "--interactive", *map(str, arguments)]
    return Contestant("flowmap", command, ROOT)
