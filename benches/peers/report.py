"""Makes plots of the results in a folder, and writes their tables between the markers of a Markdown page."""

import argparse
import json
import re
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

ENGINES = {
    "flowmap": "flowmap",
    "ort": "ONNX Runtime",
    "ort_split": "ONNX Runtime, split",
    "openvino_latency": "OpenVINO, latency",
    "openvino_throughput": "OpenVINO, throughput",
    "pytorch": "PyTorch",
}
COLOURS = {"flowmap": "#c2410c", "triton": "#1d4ed8"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with forward-*.json, training-*.json and server-*.json")
    parser.add_argument("page", type=Path)
    args = parser.parse_args()
    # The same bytes from the same results.
    plt.rcParams.update({"svg.hashsalt": "flowmap", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    page = args.page.read_text()
    for part, write in (("forward", forward), ("training", training), ("server", server)):
        files = sorted(args.folder.glob(f"{part}-*.json"))
        if files:
            results = {file.stem.removeprefix(f"{part}-"): json.loads(file.read_text()) for file in files}
            page = between(page, part, write(results, args.folder))
            page = between(page, f"{part}-machine", machine(next(iter(results.values()))))
    args.page.write_text(page)


def between(page: str, name: str, text: str) -> str:
    """The page with `text` between the markers of `name`."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    found = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not found.search(page):
        raise SystemExit(f"the page has no markers {begin} … {end}")
    return found.sub(lambda _: f"{begin}\n\n{text.strip()}\n\n{end}", page)


def table(head: list[str], rows: list[list[str]], left: int = 1) -> str:
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [head, rule, *rows])


def machine(results: dict) -> str:
    m, versions = results["machine"], results["versions"]
    told = ", ".join(f"{name} {version.removeprefix('rustc ')}" for name, version in versions.items())
    return f"{m['cores']} cores of {m['processor']}; {m['system']}; {told}."


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def forward(all: dict, folder: Path) -> str:
    parts = []
    for name, told in all.items():
        names = list(told["results"][0]["medians"])
        head = ["threads", "rows", *(ENGINES.get(name, name) for name in names), "ratio"]
        rows = [
            [r["threads"], r["rows"], *(number(r["medians"][name]) for name in names), ratio(r)]
            for r in told["results"]
        ]
        parts += [f"### {name}", network(told), table(head, rows, left=0)]
        if told["ratio_geometric_mean"]:
            parts.append(f"Geometric mean of the ratios: **{told['ratio_geometric_mean']:.2f}**.")
        bars(told, folder / f"forward-{name}.svg")
        parts.append(f"![images a second]({folder.name}/forward-{name}.svg)")
    return "\n\n".join(parts)


def ratio(result: dict) -> str:
    return f"**{result['ratio']:.2f}**" if "ratio" in result else "–"


def network(told: dict) -> str:
    numbers = ", ".join(f"{key} {value}" for key, value in told["network"].items() if key != "kind")
    size = f"{told['parameters'] / 1e6:.2f} M parameters; " if "parameters" in told else ""
    return f"`{told['network']['kind']}`: {size}{numbers}."


def bars(told: dict, file: Path) -> None:
    """Images a second of every contestant; a group of bars for each number of rows."""
    threads = sorted({r["threads"] for r in told["results"]})
    figure, axes = plt.subplots(1, len(threads), figsize=(9, 2.8), squeeze=False)
    for axis, count in zip(axes[0], threads):
        results = [r for r in told["results"] if r["threads"] == count]
        names = list(results[0]["medians"])
        greys = iter(plt.cm.Blues([0.85, 0.7, 0.55, 0.4, 0.25]))
        for place, name in enumerate(names):
            at = [i + 0.8 * (place - (len(names) - 1) / 2) / len(names) for i in range(len(results))]
            colour = COLOURS.get(name) or next(greys)
            rates = [r["medians"][name] for r in results]
            axis.bar(at, rates, 0.8 / len(names), label=ENGINES.get(name, name), color=colour)
        axis.set_xticks(range(len(results)), [str(r["rows"]) for r in results])
        axis.set_title(f"{count} thread{'s' if count > 1 else ''}")
        axis.set_xlabel("rows of a batch")
    axes[0][0].set_ylabel("images/s")
    save(figure, axes[0][-1], file)


def save(figure, axis, file: Path) -> None:
    axis.legend(frameon=False, bbox_to_anchor=(1.02, 1), loc="upper left")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def training(all: dict, folder: Path) -> str:
    parts = []
    for name, told in all.items():
        names = list(told["results"][0]["medians"])
        rows = [
            [r["objective"].replace("_", " "), r["threads"], *(number(r["medians"][n]) for n in names), ratio(r)]
            for r in told["results"]
        ]
        parts += [f"### {name}", network(told), table(["objective", "threads", *map(str.capitalize, names), "ratio"], rows)]
    return "\n\n".join(parts).replace("Pytorch", "PyTorch").replace("| Flowmap", "| flowmap")


def server(all: dict, folder: Path) -> str:
    parts = []
    for name, told in all.items():
        saturation = told["saturation"]
        rows = [["saturation, images/s", "", *(number(saturation[s]) for s in ("triton", "flowmap")), ""]]
        rows[0][-1] = f"**{saturation['flowmap'] / saturation['triton']:.2f}**"
        for r in told["results"]:
            for q in ("p50", "p99"):
                values = [r[s]["latency_ms"][q] for s in ("triton", "flowmap")]
                load = f"{r['load']:.0%} of Triton's capacity, {r['rate']:.0f}/s"
                rows.append([load, f"{q}, ms", *(f"{v:.1f}" for v in values), f"**{values[0] / values[1]:.2f}**"])
        setup = ", ".join(f"{value} {key}" for key, value in told["setup"].items())
        tuned = "; ".join(
            f"{t['instances']} × {t['threads']} threads, batches to {t['batch']}: {number(t['images_per_s'])}"
            for t in told["tuning"]
        )
        parts += [network(told), table(["", "", "Triton", "flowmap", "in favour of flowmap"], rows, left=2)]
        parts.append(f"Triton's best set-up: {setup}. Images a second of each that was tried: {tuned}.")
        parts += ["p99 in milliseconds by the steps that were asked for:", by_steps(told)]
        lines(told, folder / f"server-{name}.svg")
        parts.append(f"![latency over load]({folder.name}/server-{name}.svg)")
    return "\n\n".join(parts)


def by_steps(told: dict) -> str:
    steps = list(told["results"][0]["triton"]["by_steps"])
    rows = [
        [f"{r['load']:.0%}", server, *(f"{r[server]['by_steps'][n]['p99']:.1f}" for n in steps)]
        for r in told["results"]
        for server in ("triton", "flowmap")
    ]
    return table(["load", "server", *(f"{n} step{'s' if n != '1' else ''}" for n in steps)], rows, left=2)


def lines(told: dict, file: Path) -> None:
    """Latencies over the rate of requests."""
    figure, axis = plt.subplots(figsize=(6.5, 2.8))
    for server in ("triton", "flowmap"):
        for q, style in (("p50", "-"), ("p99", "--")):
            rates = [r["rate"] for r in told["results"]]
            values = [r[server]["latency_ms"][q] for r in told["results"]]
            axis.plot(rates, values, style, marker="o", color=COLOURS[server], label=f"{server}, {q}")
    axis.set_yscale("log")
    axis.set_xlabel("requests/s")
    axis.set_ylabel("ms")
    save(figure, axis, file)


if __name__ == "__main__":
    main()
