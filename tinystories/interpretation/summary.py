"""What was found in a model and what was not, in a few plain lines."""

from tinystories.interpretation.ablation import SURE
from tinystories.interpretation.heads import head_name, times_uniform
from tinystories.terminal import counted


def of_results(results: dict) -> list[str]:
    """What was found and what was not, in at most ten lines."""
    lines = []
    if "text" in results:
        lines.append(f"the text: {results['text']['bits_per_byte']:.3f} bits per byte")
    if bits := [
        x["lens_bits_per_byte"] for x in results.get("layers", []) if "lens_bits_per_byte" in x
    ]:
        lines.append(f"bits per byte after each layer: {', '.join(f'{x:.2f}' for x in bits)}")
    found = results.get("heads", [])
    if found and found[0].get("explained"):
        lines += head_lines(found, results["repeat"])
    if found and "removed" in found[0]:
        lines += removal_lines(results)
    if results.get("neurons"):
        each = max(results["neurons"], key=lambda neuron: neuron["kurtosis"])
        name, places = f"{each['layer']}.{each['neuron']}", each["contexts"][:3]
        texts = ", ".join(f"“{p['before'][-16:]}[{p['token']}]”" for p in places)
        lines.append(f"most selective neuron {name}: {texts}")
    return lines


def head_lines(found: list[dict], repeat: dict) -> list[str]:
    """What the heads look at, the name head with what its removal costs."""
    lines = []
    named = [head for head in found if head["name"]]
    if named:
        best = max(named, key=lambda head: head["name"]["attention"])
        share, times = best["name"]["attention"], times_uniform(best, "name")
        line = f"head {head_name(best)}: {share:.0%} of its attention on the name to come"
        line += f" ({times:.1f} x uniform)"
        if "removed" in best:
            kind = best["removed"]["kinds"]["name_again"]
            line += f"; without it such names cost {costs(kind)}"
        lines.append(line)
    for kind, other in (("distance", "token"), ("token", "distance")):
        best = max(found, key=lambda head: head["explained"][kind])
        share, rest = best["explained"][kind], best["explained"][other]
        what = "how far back it is" if kind == "distance" else "which token it is"
        lines.append(
            f"most by {kind}: head {head_name(best)}, {share:.0%} of its attention is "
            f"explained by {what} ({other}: {rest:.0%})"
        )
    if not found[0]["previous"]:  # there is but one token
        return lines
    best = max(found, key=lambda head: head["previous"]["attention"])
    share = best["previous"]["attention"]
    lines.append(
        f"token before: at most {share:.0%} of attention (head {head_name(best)}, "
        f"{times_uniform(best, 'previous'):.1f} x uniform)"
    )
    if repeat["random"]:
        best = max(found, key=lambda head: head["induction"]["attention"])
        first, again = repeat["random"]
        lines.append(
            f"induction: at most {best['induction']['attention']:.1%} (head "
            f"{head_name(best)}); random tokens read twice: {first:.2f} nats, then "
            f"{again:.2f}" + ("" if again < first - 0.1 else ": it does not copy them")
        )
    return lines


def removal_lines(results: dict) -> list[str]:
    """Which head costs most, and how many cost nothing that can be told."""
    found = results["heads"]
    best = max(found, key=lambda head: head["removed"]["bits_per_byte"])
    cost = best["removed"]
    most = f"most needed: head {head_name(best)}, without it {cost['bits_per_byte']:+.3f}"
    if cost["se"] is None:
        return [f"{most} bits per byte (one text: no standard errors)"]
    unsure = sum(
        not sure(head["removed"]["bits_per_byte"], head["removed"]["se"]) for head in found
    )
    return [
        f"{most} ± {cost['se']:.3f} bits per byte",
        f"no effect beyond three standard errors: {unsure} of {counted(len(found), 'head')}",
    ]


def sure(cost: float, error: float | None) -> bool:
    """Whether a cost is more than chance would do with other stories."""
    return error is not None and abs(cost) > SURE * error


def costs(kind: dict) -> str:
    """The cost for a kind of token, in words."""
    if kind["nats"] is None:
        return "not measured"
    error = "" if kind["se"] is None else f" ± {kind['se']:.2f}"
    return f"{kind['nats']:+.2f}{error} nats"
