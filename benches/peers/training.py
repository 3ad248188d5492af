"""Samples a second in training the same network, in flowmap and in PyTorch."""

import argparse
import itertools
import json
from pathlib import Path

import turns
from processes import Contestant, flowmap_bench, python

OBJECTIVES = ("flow_matching", "lmd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a folder with config.json and model.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="file for the results, in JSON")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=OBJECTIVES)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="length of a turn; the step under way is finished")
    parser.add_argument("--without-flowmap", action="store_true")
    args = parser.parse_args()
    folder = args.checkpoint.resolve()
    # Whole batches of 64, and parts of as many rows as flowmap's recipes have: which is faster depends on the threads.
    contestants = [
        Contestant(f"pytorch, {part} rows at once", python("engines.pytorch_training", folder, "--part", part))
        for part in (64, 8)
    ]
    if not args.without_flowmap:
        contestants.insert(0, flowmap_bench("train", folder))
    pairs = itertools.product(args.objectives, args.threads)
    cases = [{"objective": objective, "threads": threads} for objective, threads in pairs]
    results = turns.take(contestants, cases, args.rounds, args.seconds, "samples_per_second")
    for contestant in contestants:
        contestant.close()
    network = {"network": json.loads((folder / "config.json").read_text())["architecture"]}
    summary = turns.summary(results, **network, rounds=args.rounds, seconds=args.seconds)
    args.out.write_text(json.dumps(summary, indent=1) + "\n")
    print(turns.told(results))


if __name__ == "__main__":
    main()
