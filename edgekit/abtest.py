"""The A/B test: which of OLD and NEW is faster on a device, measured by turns until it is clear, and told when it is confirmed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit import evidence, noise, plan, ratio, stats, turns
from edgekit.cache import disk_errors
from edgekit.caveats import caveat
from edgekit.errors import UserError
from edgekit.pairs import SLOTS, Side, Sides
from edgekit.types import Caveat, Cell, Json, to_json

Say = Callable[[str], None]
MAX_SECONDS = 60.0  # of a session: some thirty process pairs of a small model
COUNTED = 2  # fresh processes of each side whose instructions are counted
DIFFERENT = ("regression", "improvement")
ELSEWHERE = "compare them on a real device"
PRECISIONS_DIFFER = "counts decide nothing across precisions, because an fp32 instruction takes longer than an int8 one"
THREADS_DIFFER = "counts decide nothing across thread counts, because threads work side by side"
UNCOUNTED = "nothing counts instructions there, and its time is an emulator's"


@dataclass(frozen=True)
class Comparison:
    """What an A/B test came to. `ratio` is NEW / OLD of `metric` ("latency" or "instructions"), None where it is not known.

    `confirmed` is whether a second session agreed (with counts: the second process), None where nothing had to be confirmed.
    `noise` is the device's, None where it was never calibrated. `why` says what an inconclusive verdict is for want of.
    """

    run: str
    path: Path
    device: str
    metric: str
    verdict: ratio.Verdict
    why: str
    ratio: float | None
    interval: tuple[float, float] | None
    pairs: int
    threshold: float
    confirmed: bool | None
    noise: noise.Noise | None
    old: Json
    new: Json
    sessions: list[Json]
    warnings: list[Json]

    def to_json(self) -> Json:
        """The machine form; what is not known is null."""
        names = ("run", "device", "metric", "verdict", "why", "ratio", "interval", "pairs", "threshold", "confirmed", "noise",
                 "old", "new", "sessions", "warnings")  # fmt: skip
        return {"schema": turns.SCHEMA, **{name: to_json(getattr(self, name)) for name in names}}


def run(
    old: plan.Request,
    new: plan.Request,
    say: Say,
    max_seconds: float | None = None,
    on_start: Callable[[Path], None] = lambda _: None,
) -> Comparison:
    """Compare two cells on one device; each request names one cell, and the first that its names leave open is taken.

    `max_seconds` caps each of the at most two sessions; `on_start` receives the folder as soon as samples are kept there.
    Raises UserError, SetupError and DeviceError, and the error of a side that cannot be converted, verified or run.
    """
    seconds = turns.seconds_of(max_seconds, MAX_SECONDS)
    sides: Sides = {"old": Side.of("old", old, say), "new": Side.of("new", new, say)}
    device = sides["old"].subject.device
    if sides["new"].subject.device != device:
        raise UserError("OLD and NEW are measured on one device", "for several devices: edgekit profile --device A,B")
    check_calls(sides["old"].cell, sides["new"].cell)
    with disk_errors("temporary files"), turns.line_to(sides, "ab", say) as line:
        turns.place(sides, line, say)
        record = turns.Record(old.output, "ab", sides, {"max_seconds": seconds})
        on_start(record.path)
        found = by_count(sides, record, say) if device.emulated else by_time(sides, record, seconds, say)
        line.confirm()
    record.finish(found.to_json())
    return found


def check_calls(old: Cell, new: Cell) -> None:
    """Both take as many inputs in a call: their ratio is that of calls. Raises UserError."""
    if old.batch != new.batch:
        message = f"OLD takes {old.batch} inputs in a call and NEW {new.batch}: the time of a call tells nothing there"
        raise UserError(message, "give both the same batch; edgekit profile --batch 1,8 tells the latency of each")


def by_time(sides: Sides, record: turns.Record, seconds: float, say: Say) -> Comparison:
    """The verdict in time: that of one session; a difference is confirmed by a second."""
    known = noise.of(turns.state_of(sides["old"])[0])
    limit = ratio.threshold(known.relative if known else None)

    def clear(session: turns.Session) -> bool:
        return session.verdict(limit) != "inconclusive"

    sessions = [turns.measure(sides, record, 1, seconds, clear, say, None)]
    if sessions[0].verdict(limit) in DIFFERENT:
        say(f"session 1 says {sessions[0].verdict(limit)}: to be confirmed with other processes")
        sessions.append(turns.measure(sides, record, 2, seconds, clear, say, sessions[0].shape))
    verdict, confirmed, why = judged(sessions, limit, seconds)
    logs = [row for session in sessions for row in session.logs]
    whole = ratio.estimate(logs) if len(logs) >= ratio.LEAST_PAIRS else None
    starts = [start for session in sessions for start in session.starts]
    forms = {}
    for name, side in sides.items():
        times = [ns for session in sessions for ns in session.times_ns[name]]
        forms[name] = {**about(side, starts[0][name]), "p50_ns": round(statistics.median(times))}
    each = {name: [start[name] for start in starts] for name in SLOTS}
    told = [form_of(session, limit) for session in sessions]
    return comparison(
        record, "latency", (verdict, confirmed, why), whole, len(logs), limit, known, forms, told, weak(sides, each)
    )


def judged(sessions: Sequence[turns.Session], limit: float, seconds: float) -> tuple[ratio.Verdict, bool | None, str]:
    """The verdict of one session or two, whether it is confirmed, and why it is not one."""
    said = [session.verdict(limit) for session in sessions]
    if len(set(said)) == 1 and said[0] in DIFFERENT:
        return said[0], True, ""
    if len(said) > 1:
        second = sessions[1].estimate
        shown = f" ({second.ratio:.3f})" if second else ""
        first = sessions[0].estimate
        assert first is not None
        return (
            "inconclusive",
            False,
            f"one session said {said[0]} ({first.ratio:.3f}), other processes {said[1]}{shown}",
        )
    if said[0] == "equal":
        return "equal", None, ""
    estimate, count = sessions[0].estimate, len(sessions[0].logs)
    if estimate is None:
        why = f"only {count} of at least {ratio.LEAST_PAIRS} process pairs in {seconds:g} s: raise --max-seconds"
    else:
        why = (
            f"after {count} process pairs NEW / OLD may lie on either side of the threshold: raise --max-seconds, "
            "or quiet the device"
        )
    return "inconclusive", None, why


def by_count(sides: Sides, record: turns.Record, say: Say) -> Comparison:
    """The verdict in instructions, which hardly vary: that of the first fresh processes, confirmed by the second."""
    launches: dict[str, list[Json]] = {name: [] for name in SLOTS}
    for number in range(1, COUNTED + 1):
        for name, side in sides.items():
            say(f"counting instructions of {name.upper()}, process {number} of {COUNTED}")
            launches[name].append(side.count())
            record.line({"session": 1, "pair": number, "starts": {name: launches[name][-1]}})
    counts = {name: [stats.instructions([launch]) for launch in launches[name]] for name in SLOTS}
    limit = ratio.COUNT_THRESHOLD
    forms = {name: about(side, launches[name][0]) for name, side in sides.items()}
    estimate: ratio.Estimate | None = None
    verdict: ratio.Verdict = "inconclusive"
    confirmed, why = None, incomparable(sides["old"], sides["new"])
    totals = {name: [float(found["total"]) for found in counts[name] if found and found["total"]] for name in SLOTS}
    if min(len(rows) for rows in totals.values()) < COUNTED:
        why = f"{UNCOUNTED}: {ELSEWHERE}"
    else:
        for name in SLOTS:
            forms[name]["instructions"] = stats.instructions(launches[name])
        if not why:
            estimate, each = ratio.of_counts(totals["old"], totals["new"])
            said = [ratio.verdict(one, limit) for one in each]
            verdict = said[0] if len(set(said)) == 1 else "inconclusive"
            confirmed = len(set(said)) == 1 if said[0] in DIFFERENT else None
            why = "" if len(set(said)) == 1 else f"the processes disagree: {' and '.join(said)}"
    told = (verdict, confirmed, why)
    return comparison(record, "instructions", told, estimate, COUNTED, limit, None, forms, [], weak(sides, launches))


def incomparable(old: Side, new: Side) -> str:
    """Why instruction counts of these two say nothing of their speed; "" where they do (docs/decisions/003)."""
    if old.cell.precision != new.cell.precision:
        return f"{PRECISIONS_DIFFER}: {ELSEWHERE}"
    return f"{THREADS_DIFFER}: {ELSEWHERE}" if old.cell.threads != new.cell.threads else ""


def comparison(
    record: turns.Record,
    metric: str,
    told: tuple[ratio.Verdict, bool | None, str],
    estimate: ratio.Estimate | None,
    count: int,
    limit: float,
    known: noise.Noise | None,
    forms: Mapping[str, Json],
    sessions: list[Json],
    warnings: list[Json],
) -> Comparison:
    """All of it together."""
    interval = (estimate.low, estimate.high) if estimate else None
    return Comparison(
        record.path.name, record.path, str(record.header["device"]["name"]), metric, told[0], told[2],
        estimate.ratio if estimate else None, interval, count, limit, told[1], known,
        forms["old"], forms["new"], sessions, warnings,
    )  # fmt: skip


def form_of(session: turns.Session, limit: float) -> Json:
    """One session by itself."""
    estimate = session.estimate
    told = {"ratio": estimate.ratio, "interval": [estimate.low, estimate.high]} if estimate else {}
    return {
        "verdict": session.verdict(limit),
        **told,
        "pairs": len(session.logs),
        "void": session.void,
        **to_json(session.shape),
    }


def about(side: Side, launch: Json) -> Json:
    """What is compared, and how well it answers."""
    cell = side.cell
    found = {key: side.found[key] for key in ("accuracy", "fidelity", "memory") if key in side.found}
    form: Json = to_json({
        "id": cell.id, "model": cell.model, "format": cell.format, "precision": cell.precision, "runtime": cell.runtime,
        "runtime_version": launch.get("version"), "threads": cell.threads, "sha256": side.artifact.sha256,
        "size_bytes": side.artifact.size_bytes, **found,
    })  # fmt: skip
    return form


def weak(sides: Sides, launches: Mapping[str, Sequence[Json]]) -> list[Json]:
    """What weakens the figures, and of which side; None where it is so of both."""
    of: dict[tuple[str, str], list[str]] = {}
    for name, side in sides.items():
        for found in weaknesses(side, launches[name]):
            of.setdefault((found.code, found.message), []).append(name)
    return [
        {"code": code, "message": message, "side": names[0] if len(names) == 1 else None}
        for (code, message), names in ((key, list(dict.fromkeys(names))) for key, names in of.items())
    ]


def weaknesses(side: Side, launches: Sequence[Json]) -> Iterator[Caveat]:
    """The caveats of one side."""
    cell, system = side.cell, side.agent.greeting["system"]
    yield from side.found.get("warnings", ())
    if any(launch["timer"] == "python" for launch in launches):
        yield caveat("python-timer")
    if any("delegate" in (told := launch.get("delegation") or {}) and not told["delegate"] for launch in launches):
        yield caveat("no-delegate", runtime=cell.runtime)
    if cell.threads > int(system.get("cores") or 1):
        yield caveat("more-threads-than-cores", threads=cell.threads, cores=int(system.get("cores") or 1))
    yield from evidence.caveats(launches, side.subject.device, side.agent.greeting)
