"""docs/benchmarks.md, from the results that are there; nothing in it is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import draw
from benchmarks.measures import compared, failed, reached, verdict
from benchmarks.quality_page import section as quality_section
from benchmarks.work import OURS, Bar, Case, Options, cases_of, find_work, work_names

Result = Mapping[str, Any]
MISSING = "not measured"

HEAD = """# Benchmarks

`make bench` installs the peers into an environment of their own (`.bench`), does the same work with both libraries on
the same machine, and writes this page and its figures. Nothing here is typed by hand.

```text
make bench                                              every work, on the processor
make bench WORKS="clip_loss nt_xent" ROUNDS=5           some of them
make bench WORKS=nearest_neighbours ROWS=200000         a larger table
make bench DEVICE=cuda                                  on a GPU, bfloat16 as well as float32
```

How it is measured:

- In every round each side runs once, in turn (A B A B), in a fresh process, with the same number of threads. The first
  run of a process warms up and is where memory is taken; the following ones are timed, and their median is the round's
  time.
- Times are the median over the rounds, with the least and the most. A ratio is that of the medians; its 95 % interval
  comes from resampling the rounds. A bar whose verdict changes within the interval is marked with a question mark.
- Extra memory is the peak of the resident memory (on a GPU: of what was allocated) above what the process held with
  libraries loaded and inputs ready, gradients included.
- "Share of the limit" is the time that the matrix products would take at the rate that this machine reached in
  the same rounds, or writing the results at its rate of copies, as a share of the time taken.
- Before times are compared, outputs are: equal, in the same directions, or, where they are drawn, of one distribution.
- What crashed or took too long is in the tables. What was not run says so, and is not estimated.
"""


def write_page(results: Path, docs: Path) -> Path:
    """Write the page and its figures; returns the page."""
    measured = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
    measured = {name: result for name, result in measured.items() if "cases" in result}
    figures = draw(measured, docs / "figures")
    parts = [
        HEAD,
        *_machines(measured),
        *_overview(measured),
        *(f"![{title}](figures/{name})" for name, title in figures),
    ]
    for name in work_names():
        if name in measured:
            parts += _section(measured[name])
    parts += quality_section(results)
    parts += _on_a_gpu(measured)
    page = docs / "benchmarks.md"
    page.write_text("\n\n".join(part.strip() for part in parts if part.strip()) + "\n", encoding="utf-8")
    return page


def _machines(measured: Mapping[str, Result]) -> Iterator[str]:
    """Every machine that figures come from, once."""
    seen: dict[str, list[str]] = {}
    for name, result in measured.items():
        machine = {key: value for key, value in result["machine"].items() if key != "load"}
        seen.setdefault(json.dumps(machine), []).append(name)
    if not seen:
        yield "Nothing has been measured yet: run `make bench`."
        return
    yield "## Machine"
    for described, names in seen.items():
        machine = json.loads(described)
        dates = sorted({measured[name]["date"] for name in names})
        loads = [measured[name]["machine"]["load"] for name in names]
        packages = ", ".join(f"{package} {version}" for package, version in machine["packages"].items())
        lines = [
            f"- {machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['instructions']}"
            + (" with AMX" if machine["amx"] else "")
            + (f"; {machine['gpu']}" if machine["gpu"] else "; no GPU"),
            f"- {machine['system']}; {packages}",
            f"- {' to '.join(dict.fromkeys((dates[0], dates[-1])))}; load of the machine before a work: "
            f"{min(loads):.1f} to {max(loads):.1f}",
        ]
        limits = _limits([measured[name] for name in names])
        yield "\n".join([*lines, *limits])


def _limits(results: Sequence[Result]) -> list[str]:
    found = []
    for threads in sorted({case["threads"] for result in results for case in result["cases"]}):
        rates = [case["limits"] for result in results for case in result["cases"] if case["threads"] == threads]
        best = {name: max(rate[name] for rate in rates) for name in rates[0]}
        word = "thread" if threads == 1 else "threads"
        found.append(
            f"- measured limits, {threads} {word}: matrix products {best['float32']:.0f} GFLOP/s in float32, "
            f"{best['bfloat16']:.0f} in bfloat16; copies {best['copy']:.1f} GB/s"
        )
    return found


def _overview(measured: Mapping[str, Result]) -> Iterator[str]:
    """All bars in one table."""
    lines = ["| work | bar | measured | verdict |", "| --- | --- | --- | --- |"]
    for name in work_names():
        result = measured.get(name)
        for number, case in enumerate(cases_of(name, _options(result))):
            stored = _stored(result, number, case)
            for bar in case.bars:
                title = f"{find_work(name).TITLE}: {case.name}"
                lines.append(f"| {title} | {_bar(bar, case)} | {_figure(stored, bar)} | {_verdict(stored, bar)} |")
    yield "## Bars"
    yield "\n".join(lines)


def _options(result: Result | None, device: str = "cpu") -> Options:
    return Options(**result["options"]) if result is not None else Options(device=device)


def _stored(result: Result | None, number: int, case: Case) -> Result | None:
    """The measured case, if it is the one that the file describes today."""
    if result is None or number >= len(result["cases"]):
        return None
    found: Result = result["cases"][number]
    return found if found["name"] == case.name else None


def _bar(bar: Bar, case: Case) -> str:
    sign, limit = ("at most", bar.at_most) if bar.at_most is not None else ("at least", bar.at_least)
    assert limit is not None
    peer = bar.peer or (case.peers[0] if case.peers else "")
    who = "" if bar.side == OURS else f" ({bar.side.removeprefix(OURS).strip(', ')})"
    texts = {
        "time": f"time {sign} {limit:g} of {peer}",
        "memory": f"extra memory {sign} {limit:g} of {peer}",
        "speed": f"{sign} {limit:g} times the rate of {peer}",
        "seconds": f"{sign} {limit:g} s",
        "megabytes": f"{sign} {limit:g} MB extra",
        "limit": f"{sign} {100 * limit:.0f} % of the limit",
    }
    return texts.get(bar.measure, f"{bar.measure} {sign} {limit:g}") + who


def _figure(case: Result | None, bar: Bar) -> str:
    found = reached(case, bar) if case is not None else None
    if found is None:
        return _why(case, bar)
    if bar.measure == "limit":
        return f"{100 * found['ratio']:.0f} %"
    text = f"{found['ratio']:.3g}"
    return text if "low" not in found else f"{text} [{found['low']:.3g}, {found['high']:.3g}]"


def _why(case: Result | None, bar: Bar) -> str:
    """Why there is no figure: nobody ran it, or a side failed."""
    if case is None:
        return MISSING
    wanted = [bar.side, bar.peer or next((name for name in case["sides"] if not name.startswith(OURS)), "")]
    broken = [name for name in wanted if name in case["sides"] and failed(case["sides"][name])]
    return f"{broken[0]} failed, see below" if broken else MISSING


def _verdict(case: Result | None, bar: Bar) -> str:
    if case is not None and any("disagreement" in found for found in case["agreement"].values()):
        return "outputs differ"
    return verdict(case, bar) if case is not None else MISSING


def _section(result: Result) -> Iterator[str]:
    """Everything that was measured of a work."""
    yield f"## {result['title']}"
    for case in result["cases"]:
        yield f"### {case['name']}"
        yield "\n".join(_table(case, result["unit"]))
        rounds = max(len(side["seconds"]) for side in case["sides"].values())
        told = [f"{rounds} rounds, {case['threads']} thread{'s' * (case['threads'] > 1)}.", case["note"]]
        told += [f"Agreement with {peer}: {_facts(found)}." for peer, found in case["agreement"].items() if found]
        told += [f"{name} failed: `{side['error']}`" for name, side in case["sides"].items() if "error" in side]
        yield " ".join(text for text in told if text)
        facts = {name: side["facts"] for name, side in case["sides"].items() if side.get("facts")}
        if facts:
            yield "\n".join(f"- {name}: {_facts(found)}" for name, found in facts.items())
    if result["prepared"]:
        yield "\n".join(_prepared(result["prepared"]))


def _table(case: Result, unit: str) -> Iterator[str]:
    yield f"| side | seconds (least .. most) | {unit} / s | ours / theirs | extra memory, MB | ours / theirs | limit |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, side in case["sides"].items():
        if failed(side):
            yield f"| {name} | failed | | | | | |"
            continue
        time = f"{side['median']:.4g} ({side['least']:.4g} .. {side['most']:.4g})"
        ratios = ["", ""]
        if not name.startswith(OURS):
            ratios = [_ratio(compared(case, OURS, name, what)) for what in ("seconds", "megabytes")]
        elif name != OURS:
            against = next((peer for peer in case["sides"] if not peer.startswith(OURS)), "")
            ratios = [_ratio(compared(case, name, against, what)) for what in ("seconds", "megabytes")]
        held = [value for value in side["megabytes"] if value is not None]
        memory = f"{sorted(held)[len(held) // 2]:.0f}" if held else MISSING
        shares = [(side.get("share"), "products"), (side.get("share of copies"), "copies")]
        share = ", ".join(f"{100 * value:.0f} % {of}" for value, of in shares if value is not None)
        rate = f"{case['items'] / side['median']:.4g}"
        yield f"| {name} | {time} | {rate} | {ratios[0]} | {memory} | {ratios[1]} | {share} |"


def _ratio(found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    return f"{found['ratio']:.3g} [{found['low']:.3g}, {found['high']:.3g}]"


def _facts(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value if isinstance(value, str) else f'{value:.7g}'}" for name, value in found.items())


def _prepared(prepared: Mapping[str, Any]) -> Iterator[str]:
    yield "Made before the rounds:\n"
    for name, made in prepared.items():
        if "error" in made:
            yield f"- {name}: failed: `{made['error']}`"
            continue
        memory = MISSING if made["megabytes"] is None else f"{made['megabytes']:.0f} MB extra at most"
        facts = f"; {_facts(made['facts'])}" if made["facts"] else ""
        yield f"- {name}: {made['seconds']:.0f} s, {memory}{facts}"


def _on_a_gpu(measured: Mapping[str, Result]) -> Iterator[str]:
    """The same works with DEVICE=cuda, measured or not."""
    yield "## On a GPU"
    lines = ["| work | bar | measured | verdict |", "| --- | --- | --- | --- |"]
    sections: list[str] = []
    for name in work_names():
        result = measured.get(f"{name}.cuda")
        for number, case in enumerate(cases_of(name, _options(result, "cuda"))):
            stored = _stored(result, number, case)
            bars = [(_bar(bar, case), _figure(stored, bar), _verdict(stored, bar)) for bar in case.bars]
            title = f"{find_work(name).TITLE}: {case.name}"
            for text, figure, word in bars or [("", MISSING if stored is None else "see below", "")]:
                lines.append(f"| {title} | {text} | {figure} | {word} |")
        if result is not None:
            sections += _section(result)
    yield "\n".join(lines)
    yield from sections
