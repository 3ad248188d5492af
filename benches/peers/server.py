"""A server of the same network under the same load: flowmap, and Triton with ONNX Runtime in its Python backend.

First Triton is set up in several ways and the one that makes most images a second is kept; then both servers take turns
under open loads at shares of *Triton's* capacity, with the same requests at the same times. Latencies count from when a
request was due. The server whose turn it is not is idle; both load generators are of the same kind (Rust, tonic).
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import about
import checkpoint as checkpoints
from processes import HERE, ROOT
from serving import repository

# Instances of the model (processes) and threads of each, rows of a batch.
SETUPS = ({"instances": 1, "threads": 2}, {"instances": 2, "threads": 1})
BATCHES = (8, 32)
TRITON_PORT, FLOWMAP_PORT, HTTP_PORT = 18001, 18051, 18090


def main() -> None:
    args = arguments()
    checkpoint = checkpoints.read(args.checkpoint)
    setups = [setup | {"batch": batch} for setup in SETUPS for batch in BATCHES]
    with tempfile.TemporaryDirectory() as place:
        triton, flowmap = Triton(args, checkpoint, Path(place)), Flowmap(args, Path(place))
        tuning = []
        for setup in setups:
            with triton.serving(setup):
                tuning.append(setup | {"images_per_s": triton.saturated(args.tuning_seconds)["images_per_s"]})
                print(tuning[-1], flush=True)
        best = max(tuning, key=lambda setup: setup["images_per_s"])
        setup = {key: best[key] for key in setups[0]}
        with triton.serving(setup), flowmap.serving():
            told = compare([triton, flowmap], args)
    config = checkpoint.config
    told |= {"network": config["architecture"], "parameters": config["weights"]["parameters"]}
    told |= {"setup": setup, "tuning": tuning, "mix": args.mix, "seconds": args.seconds, "rounds": args.rounds}
    told |= {"machine": about.machine(), "versions": about.versions()}
    args.out.write_text(json.dumps(told, indent=1) + "\n")
    for row in told["results"]:
        print(row)


def compare(servers: list, args) -> dict:
    """Both servers by turns: at saturation, then under open loads."""
    saturation = {server.name: [] for server in servers}
    for _ in range(args.rounds):
        for server in servers:
            saturation[server.name].append(server.saturated(args.seconds)["images_per_s"])
    capacity = median(saturation["triton"])
    print("images/s at saturation:", saturation, flush=True)
    results = []
    for load in args.loads:
        runs = {server.name: [] for server in servers}
        for number in range(args.rounds):
            for server in servers:
                runs[server.name].append(server.loaded(load * capacity, args.seconds, seed=number + 1))
        results.append({"load": load, "rate": load * capacity} | {name: middle(all) for name, all in runs.items()})
    return {
        "saturation": {name: median(all) for name, all in saturation.items()},
        "saturation_runs": saturation,
        "results": results,
    }


def middle(runs: list[dict]) -> dict:
    """Medians over runs of what matters."""

    def of(value):
        return round(median(map(value, runs)), 2)

    latency = {q: of(lambda run, q=q: run["latency_ms"][q]) for q in ("p50", "p90", "p99")}
    by_steps = {
        steps: {
            q: of(lambda run, q=q: next(c for c in run["classes"] if c["steps_asked"] == steps)["latency_ms"][q])
            for q in ("p50", "p99")
        }
        for steps in (c["steps_asked"] for c in runs[0]["classes"])
    }
    answered = of(lambda run: 100 * run["in_time"] / run["due"])
    return {"answered_percent": answered, "latency_ms": latency, "by_steps": by_steps}


class Server:
    """A process that serves, and what puts it under load."""

    def __init__(self, args):
        self.args = args

    @contextlib.contextmanager
    def running(self, command: list, log: Path):
        with log.open("w") as out:
            process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=subprocess.STDOUT)
        try:
            self.wait(process, log)
            yield
        finally:
            process.terminate()
            process.wait()

    def wait(self, process, log: Path) -> None:
        """Until it answers a request."""
        for _ in range(240):
            if process.poll() is not None:
                sys.exit(f"{self.name} did not start:\n{log.read_text()[-3000:]}")
            with contextlib.suppress(subprocess.CalledProcessError):
                self.saturated(0.2, warmup=0, clients=1)
                return
            time.sleep(0.5)
        sys.exit(f"{self.name} does not answer:\n{log.read_text()[-3000:]}")

    def saturated(self, seconds: float, warmup: float = 2, clients: int | None = None) -> dict:
        """Under as many clients as keep it full."""
        clients = clients or self.args.clients
        return self.measured("--concurrency", clients, "--seconds", seconds, "--warmup-seconds", warmup)

    def loaded(self, rate: float, seconds: float, seed: int) -> dict:
        return self.measured("--rate", rate, "--seconds", seconds, "--seed", seed)


class Triton(Server):
    name = "triton"

    def __init__(self, args, checkpoint, place: Path):
        super().__init__(args)
        self.checkpoint, self.place = checkpoint, place

    @contextlib.contextmanager
    def serving(self, setup: dict):
        models = self.place / "repository"
        repository.write(models, self.checkpoint, **setup, delay_us=0)
        command = [HERE / "serving" / "triton.sh", self.args.triton_venv, models, f"--grpc-port={TRITON_PORT}"]
        with self.running(command, self.place / "triton.log"):
            yield

    def measured(self, *arguments) -> dict:
        command = [self.args.triton_load, "--server", f"http://127.0.0.1:{TRITON_PORT}", "--mix", self.args.mix]
        command += ["--classes", self.checkpoint.classes, *arguments]
        out = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
        return checked(json.loads(out))


class Flowmap(Server):
    name = "flowmap"

    def __init__(self, args, place: Path):
        super().__init__(args)
        self.place = place

    @contextlib.contextmanager
    def serving(self):
        version = self.place / "models" / "peer" / "1"
        version.parent.mkdir(parents=True)
        version.symlink_to(self.args.checkpoint.resolve(), target_is_directory=True)
        command = [self.args.flowmap, "serve", "--models", self.place / "models"]
        command += ["--grpc-address", f"127.0.0.1:{FLOWMAP_PORT}", "--http-address", f"127.0.0.1:{HTTP_PORT}"]
        command += ["--threads", 2]
        with self.running(command, self.place / "flowmap.log"):
            yield

    def measured(self, *arguments) -> dict:
        out = self.place / "flowmap.json"
        command = [self.args.flowmap, "bench", "--server", f"http://127.0.0.1:{FLOWMAP_PORT}", "--mix", self.args.mix]
        command += ["--guidance", 1, "--json", out, *arguments]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
        return checked(json.loads(out.read_text())["results"][0])


def checked(summary: dict) -> dict:
    """Nothing may fail: both servers have room for every request."""
    if summary["in_time"] < summary["due"]:
        print("not everything was answered:", {k: summary[k] for k in ("due", "in_time", "refused", "failed")})
    return summary


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a folder with config.json and model.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="file for the results, in JSON")
    parser.add_argument("--triton-venv", type=Path, required=True, help="see README.md")
    parser.add_argument("--triton-load", type=Path, default=ROOT / "target/release/triton-load")
    parser.add_argument("--flowmap", type=Path, default=ROOT / "target/release/flowmap")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.6, 0.8, 0.95], help="of Triton's capacity")
    parser.add_argument("--mix", default="1:0.4,2:0.3,4:0.2,8:0.1")
    parser.add_argument("--clients", type=int, default=64, help="that keep a server full")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--tuning-seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
