"""Images a second through the same network, in flowmap and in other runtimes."""

import argparse
import itertools
import json
from pathlib import Path

import turns
from processes import engine, flowmap_bench

ENGINES = ("ort", "ort_split", "openvino_latency", "openvino_throughput", "pytorch")


def main() -> None:
    args = arguments()
    folder = args.checkpoint.resolve()
    contestants = [engine(name, folder) for name in args.engines]
    if not args.without_flowmap:
        contestants.insert(0, flowmap_bench("forward", folder))
    cases = [{"rows": rows, "threads": threads} for threads, rows in itertools.product(args.threads, args.rows)]
    results = turns.take(contestants, cases, args.rounds, args.seconds, "images_per_second")
    for contestant in contestants:
        contestant.close()
    config = json.loads((folder / "config.json").read_text())
    network = {"network": config["architecture"], "shape": config["data"]["shape"]}
    network["parameters"] = config["weights"]["parameters"]
    summary = turns.summary(results, **network, rounds=args.rounds, seconds=args.seconds)
    args.out.write_text(json.dumps(summary, indent=1) + "\n")
    print(turns.told(results))
    print("geometric mean of the ratios:", summary["ratio_geometric_mean"])


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a folder with config.json and model.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="file for the results, in JSON")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a turn")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--without-flowmap", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
