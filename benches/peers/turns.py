"""Turns of contestants, and what is made of them.

All contestants stay alive and take turns: in each round every one of them is measured once in every case, so that what
else happens on the machine falls on all alike. Of each, the median and the best of its turns are kept; ratios are of
medians.
"""

import math
from statistics import median

import about


def take(contestants, cases, rounds: int, seconds: float, key: str) -> list[dict]:
    """A result for each case; a case is the first words of what contestants are asked, by their names."""
    turns = [{contestant.name: [] for contestant in contestants} for _ in cases]
    for case in cases:
        for contestant in contestants:
            contestant.ask(*case.values(), 0.05)
    for number in range(rounds):
        # Another one begins in each round.
        order = contestants[number % len(contestants) :] + contestants[: number % len(contestants)]
        for case, taken in zip(cases, turns):
            for contestant in order:
                taken[contestant.name].append(contestant.ask(*case.values(), seconds)[key])
        print(f"round {number + 1} of {rounds}", flush=True)
    return [case | result(taken) for case, taken in zip(cases, turns)]


def result(turns: dict[str, list[float]]) -> dict:
    """Medians and best turns, and flowmap's ratio to the rival whose median is highest."""
    medians = {name: round(median(rates), 1) for name, rates in turns.items()}
    best = {name: round(max(rates), 1) for name, rates in turns.items()}
    told = {"medians": medians, "best": best, "turns": turns}
    rivals = {name: rate for name, rate in medians.items() if name != "flowmap"}
    if "flowmap" in medians and rivals:
        rival = max(rivals, key=rivals.get)
        told |= {"rival": rival, "ratio": round(medians["flowmap"] / rivals[rival], 3)}
        told["ratio_of_best"] = round(best["flowmap"] / max(best[name] for name in rivals), 3)
    return told


def summary(results: list[dict], **rest) -> dict:
    """What is written to a file."""
    ratios = [result["ratio"] for result in results if "ratio" in result]
    mean = round(math.exp(sum(map(math.log, ratios)) / len(ratios)), 3) if ratios else None
    about_it = {"machine": about.machine(), "versions": about.versions()}
    return rest | about_it | {"results": results, "ratio_geometric_mean": mean}


def told(results: list[dict]) -> str:
    """Results as lines."""
    hidden = ("best", "turns")
    return "\n".join(str({key: value for key, value in result.items() if key not in hidden}) for result in results)
