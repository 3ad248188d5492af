"""Images a second through the same network, in flowmap and in other runtimes.

All contestants stay alive and take turns: in each round every one of them is measured once, so that what else happens
on the machine falls on all alike. Of each, the median and the best of its turns are kept; ratios are of medians.
"""

import argparse
import itertools
import json
import math
from pathlib import Path
from statistics import median

import about
from processes import engine, flowmap_bench

ENGINES = ("ort", "ort_split", "openvino_latency", "openvino_throughput", "pytorch")
# Those that flowmap's ratio is taken to the best of.
RIVALS = ENGINES[:4]


def main() -> None:
    args = arguments()
    contestants = [engine(name, args.checkpoint.resolve()) for name in args.engines]
    if not args.without_flowmap:
        contestants.insert(0, flowmap_bench("forward", args.checkpoint.resolve()))
    cases = list(itertools.product(args.threads, args.rows))
    turns = {case: {contestant.name: [] for contestant in contestants} for case in cases}
    for case in cases:
        threads, rows = case
        for contestant in contestants:
            contestant.ask(rows, threads, 0.05)
    for number in range(args.rounds):
        for (threads, rows), result in turns.items():
            # Another one begins in each round.
            for contestant in contestants[number % len(contestants) :] + contestants[: number % len(contestants)]:
                answer = contestant.ask(rows, threads, args.seconds)
                result[contestant.name].append(answer["images_per_second"])
        print(f"round {number + 1} of {args.rounds}", flush=True)
    for contestant in contestants:
        contestant.close()
    results = [case_result(threads, rows, turns[threads, rows]) for threads, rows in cases]
    config = json.loads((args.checkpoint / "config.json").read_text())
    told = {
        "network": config["architecture"],
        "shape": config["data"]["shape"],
        "parameters": config["weights"]["parameters"],
        "rounds": args.rounds,
        "seconds": args.seconds,
        "machine": about.machine(),
        "versions": about.versions(),
        "results": results,
        "ratio_geometric_mean": geometric_mean([r["ratio"] for r in results if "ratio" in r]),
    }
    args.out.write_text(json.dumps(told, indent=2) + "\n")
    for result in results:
        print(result["threads"], result["rows"], result["medians"], result.get("ratio"))
    print("geometric mean of the ratios:", told["ratio_geometric_mean"])


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a folder with config.json and model.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="file for the results, in JSON")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a turn")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--without-flowmap", action="store_true")
    return parser.parse_args()


def case_result(threads: int, rows: int, turns: dict[str, list[float]]) -> dict:
    medians = {name: round(median(rates), 1) for name, rates in turns.items()}
    best = {name: round(max(rates), 1) for name, rates in turns.items()}
    result = {"threads": threads, "rows": rows, "medians": medians, "best": best}
    rivals = {name: medians[name] for name in RIVALS if name in medians}
    if "flowmap" in medians and rivals:
        best_rival = max(rivals, key=rivals.get)
        result |= {"best_rival": best_rival, "ratio": round(medians["flowmap"] / rivals[best_rival], 3)}
        result |= {"ratio_of_best": round(best["flowmap"] / max(best[name] for name in rivals), 3)}
    return result


def geometric_mean(values: list[float]) -> float | None:
    return round(math.exp(sum(map(math.log, values)) / len(values)), 3) if values else None


if __name__ == "__main__":
    main()
