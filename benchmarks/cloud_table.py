"""The cloud's numbers as the page shows them."""

from collections.abc import Callable, Iterator
from typing import Any

Found = dict[str, Any]


def table(found: Found) -> str:
    """Markdown; what was not measured is left out."""
    lines = ["| what | goal | measured |", "|---|---|---|"]
    for name, rows in ROWS.items():
        if name in found and "skipped" not in found[name]:
            lines += [f"| {what} | {goal} | {value} |" for what, goal, value in rows(found[name])]
    quick = sorted(name for name in ROWS if found.get(name, {}).get("quick"))
    note = f" Short windows: {', '.join(quick)}." if quick else ""
    busy = max((others for name in ROWS for others in _others(found.get(name, {}))), default=0.0)
    under = (
        f"{found.get('machine', '')}; broker, service, fleet and teacher share them, and others used up to {busy:.2f} "
        f"cores meanwhile.{note} ResNet8 int8, 32×32×3 (throughput: 128×128×3). By `benchmarks/cloud.py`, which "
        "says more, from `benchmarks/results/cloud.json`."
    )
    return "\n".join([*lines, "", under])


def _cost(found: Found) -> Iterator[tuple[str, str, str]]:
    rates = found["rates"]
    each = ", ".join(f"{r['added_us']:.0f} µs at {r['per_s']:.0f}/s" for r in rates)
    yield "CPU of the service a sample, beyond its teacher", "≤ 400 µs", f"**{each}**"
    yield "… the teacher's own; and the broker's", "", f"{found['teacher_us']:.0f} µs; {rates[-1]['broker_us']:.0f} µs"


def _peers(found: Found) -> Iterator[tuple[str, str, str]]:
    for name, each in found.items():
        yield (
            f"… for comparison: what {name} adds to a request for the same model, 100 a second",
            "",
            f"{each['added_us']:,.0f} µs",
        )


def _throughput(found: Found) -> Iterator[tuple[str, str, str]]:
    middle = sorted(found["rounds"], key=lambda r: r["service_per_s"] / r["offline_per_s"])[len(found["rounds"]) // 2]
    pair = f"{middle['service_per_s']:.0f} of {middle['offline_per_s']:.0f}/s"
    yield (
        "throughput where the teacher is the bottleneck, of its own offline",
        "≥ 0.9",
        f"**{found['ratio']:.2f}** ({pair})",
    )


def _echo(found: Found) -> Iterator[tuple[str, str, str]]:
    service, bare = (max(found[name]) for name in ("service_per_s", "echo_per_s"))
    text = f"{found['ratio']:.2f} (best {service:.0f} of {bare:.0f}/s)"
    yield "throughput of a small teacher, of a bare MQTT echo without store and model", "", text


def _latency(found: Found) -> Iterator[tuple[str, str, str]]:
    yield "… sustainable", "", f"{found['capacity_per_s']:.0f} samples/s"
    for load in found["loads"]:
        v, dropped = load["verdict"], load["dropped"] / max(1, load["dropped"] + load["samples"])
        text = f"{v['p50']:.1f}, {v['p95']:.1f}, {v['p99']:.1f} ms" + (
            f"; devices dropped {dropped:.0%}" if dropped else ""
        )
        yield f"verdict at {load['load']:g} × sustainable: p50, p95, p99", "", text


def _memory(found: Found) -> Iterator[tuple[str, str, str]]:
    text = " → ".join(f"{found[name]:.0f}" for name in ("empty_mb", "service_1000_mb", "service_10000_mb"))
    yield "memory of the service without devices, with 1,000, with 10,000", "", f"{text} MB"
    text = ", ".join(f"{found[f'{who}_10000_mb']:.0f} MB {who}" for who in ("broker", "fleet"))
    yield "… of the others at 10,000", "", text


def _split(found: Found) -> Iterator[tuple[str, str, str]]:
    for name, what in (("half", "at 300/s"), ("full", "with more than they take")):
        a, b = found[name]["a"], found[name]["b"]
        off = abs(a - b) / max(1, a + b)
        yield f"two replicas, {what}: off an even split", "≤ 5 %", f"**{off:.1%}** ({a:,} : {b:,})"


def _databases(found: Found) -> Iterator[tuple[str, str, str]]:
    for name, title in (("sqlite", "SQLite"), ("postgres", "PostgreSQL")):
        each = found[name]
        yield (
            f"{title}: CPU of the service beyond its teacher; most a second",
            "",
            f"{each['added_us']:.0f} µs; {each['per_s']:.0f}/s",
        )


def _overload(found: Found) -> Iterator[tuple[str, str, str]]:
    values, every = found["service_mb"], found["every_s"]
    at = max(1, len(values) // 10)
    early, late = ((values[index], every * (index + 1)) for index in (at, len(values) - 1))
    text = ", ".join(f"**{size:.0f} MB** after {after:.0f} s" for size, after in (early, late))
    yield "memory at twice the sustainable load", "flat over 10 minutes", f"{text} (most {max(values):.0f})"


def _others(found: Found) -> Iterator[float]:
    if isinstance(found, dict):
        for name, value in found.items():
            if name == "others":
                yield value
            elif isinstance(value, dict):
                yield from _others(value)
            elif isinstance(value, list):
                for each in value:
                    yield from _others(each)


ROWS: dict[str, Callable[[Found], Iterator[tuple[str, str, str]]]] = {
    "cost": _cost,
    "peers": _peers,
    "throughput": _throughput,
    "echo": _echo,
    "latency": _latency,
    "memory": _memory,
    "split": _split,
    "databases": _databases,
    "overload": _overload,
}
