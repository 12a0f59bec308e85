"""Time per operator: what the runtimes' profilers tell, what is made of it, what a terminal shows; no runtime, no clock."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekit import operators
from edgekit.agent import operators as agent
from edgekit.agent.protocol import Fault
from edgekit.agent.runtimes import _litert_profile, _ort_profile, executorch
from edgekit.errors import NotDelegated
from edgekit.report import operators as shown
from edgekit.types import Cell, Json

CELL = Cell("m", "tflite", "fp32", "tflite", "local")
FAST = "XNNPACK"


# ---- the agent's side: events of each runtime as inferences


def litert(kind: int, tag: bytes, us: int, node: int = 0, graph: int = 0) -> Any:
    return SimpleNamespace(type=kind, tag=tag, elapsed=us, node=node, graph=graph)


def test_litert_tells_operators_of_the_outer_graph_only() -> None:
    events = [
        litert(1, b"LiteRT::Run[buffer registration]", 7),
        litert(1, b"Invoke", 100),
        litert(8, b"Convolution (NHWC, F32) IGEMM", 30, 0),
        litert(2, b"WHILE", 50, 4),
        litert(1, b"Invoke", 6, graph=1),
        litert(2, b"LESS", 2, 0, graph=1),
        litert(8, b"Add (ND)", 1, 0, graph=1),
        litert(32, b"Invoke", 1 << 32, (1 << 64) - 1),
    ]
    total, found = _litert_profile.inference(events)
    assert total == 100_000
    assert [(one["name"], one["delegate"], one["place"], one["ns"]) for one in found] == [
        ("Convolution (NHWC, F32) IGEMM", FAST, None, 30_000),
        ("WHILE", None, 4, 50_000),
    ]
    with pytest.raises(Fault, match="lost the beginning"):
        _litert_profile.inference(events[:1])


def node(name: str, kind: str, ts: int, dur: int, provider: str = "CPUExecutionProvider") -> Json:
    told = {"op_name": kind, "provider": provider, "output_type_shape": [{"float": [1, 4]}]}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": told}


def span(name: str, ts: int, dur: int) -> Json:
    return {"cat": "Session", "name": name, "ts": ts, "dur": dur, "args": {}}


TRACE = [
    span("session_initialization", 0, 50),
    node("folded", "DequantizeLinear", 20, 5),  # while the session was made
    node("body_add", "Add", 112, 3),  # ends before the loop it is in
    node("loop", "Loop", 110, 20),
    node("conv", "Conv", 131, 40),
    span("SequentialExecutor::Execute", 105, 70),
    span("model_run", 100, 80),
    node("loop", "Loop", 210, 22),
    node("conv", "Conv", 232, 41, "XnnpackExecutionProvider"),
    span("model_run", 200, 90),
]


def test_onnx_runtime_tells_the_nodes_of_each_run() -> None:
    (first_ns, first), (second_ns, second) = _ort_profile.inferences(TRACE)
    assert (first_ns, second_ns) == (80_000, 90_000)
    assert [(one["name"], one["type"], one["ns"]) for one in first] == [
        ("loop", "Loop", 20_000),
        ("conv", "Conv", 40_000),
    ]
    assert [one["delegate"] for one in (*first, *second)] == [None, None, None, "XnnpackExecutionProvider"]
    assert first[1]["output"] == [1, 4]


def test_onnx_runtimes_file_is_gone_before_anything_runs(tmp_path: Path) -> None:
    prefix = tmp_path / "profile-7"
    (tmp_path / "profile-7_2026.json").write_text(json.dumps(TRACE), "utf-8")
    ended: list[bool] = []
    profiler = _ort_profile.Profiler(str(prefix), lambda: ended.append(True))
    assert os.listdir(tmp_path) == []
    assert len(profiler.runs()) == 2
    assert ended
    with pytest.raises(Fault, match="0 profiles"):
        _ort_profile.Profiler(str(prefix), lambda: None)


def test_a_trace_of_another_form_is_no_crash(tmp_path: Path) -> None:
    for text in ("[{", '[{"cat": "Node", "name": "a_kernel_time"}]', '{"traceEvents": 1}'):
        (tmp_path / "profile-8.json").write_text(text, "utf-8")
        profiler = _ort_profile.Profiler(str(tmp_path / "profile-8"), lambda: None)
        with pytest.raises(Fault, match="not as it is known"):
            profiler.runs()


def test_executorch_tells_kernels_and_what_is_inside_a_delegate() -> None:
    events = [
        ("Method::execute", -1, False, 1000),
        ("DELEGATE_CALL", 0, False, 400),
        ("Convolution (NHWC, F32) IGEMM #1", 0, True, 300),
        ("OPERATOR_CALL", 1, False, 200),
        ("native_call_cumsum.out", 1, False, 180),
        ("DELEGATE_CALL", 2, False, 150),  # of a backend that tells nothing
    ]
    total, found = executorch.inference(events, FAST)
    assert total == 1000
    assert [(one["name"], one["delegate"], one["place"], one["ns"]) for one in found] == [
        ("Convolution (NHWC, F32) IGEMM #1", FAST, 0, 300),
        ("cumsum.out", None, 1, 200),
        ("DELEGATE_CALL", FAST, 2, 150),
    ]
    with pytest.raises(Fault, match="no inference"):
        executorch.inference(events[1:], FAST)


def test_inferences_that_went_another_way_are_left_out() -> None:
    usual = [{"name": "a", "place": None, "ns": 3}, {"name": "b", "place": 1, "ns": 4}]
    found = agent.merged([(10, usual), (99, usual[:1]), (12, usual)])
    assert found["total_ns"] == [10, 12]
    assert found["operators"] == [{"name": "a", "ns": [3, 3]}, {"name": "b", "place": 1, "ns": [4, 4]}]
    for runs, kind in (([], "internal"), ([(10, [])], "unsupported")):
        with pytest.raises(Fault) as caught:
            agent.merged(runs)
        assert caught.value.kind == kind


# ---- the host's side


def told(*events: Json, total: list[int], plain: int = 100) -> Json:
    """What the agent answers."""
    form = {"profiler": "p", "version": "1", "resolution_ns": 1000, "plain_ns": [plain] * len(total)}
    return {**form, "profiled_ns": [2 * ns for ns in total], "total_ns": total, "operators": list(events)}


def test_times_are_those_of_the_quicker_half_and_shares_add_up() -> None:
    events = ({"name": "a", "ns": [10, 20, 900, 30]}, {"name": "b", "delegate": FAST, "ns": [50, 50, 50, 50]})
    found = operators.profiled(told(*events, total=[100, 110, 1000, 120]), {})
    assert (found["runs"], found["used"], found["total_ns"]) == (4, 2, 105)
    assert [one["ns"] for one in found["operators"]] == [15, 50]
    shares = [one["share"] for one in found["operators"]]
    assert shares == [pytest.approx(15 / 105), pytest.approx(50 / 105)]
    assert sum(shares) + found["unprofiled_share"] == pytest.approx(1)
    assert found["overhead"] == pytest.approx(2 * 105 / 100)
    assert "macs" not in found and "macs" not in found["operators"][0]
    assert operators.share_outside(found) == (shares[0], "")
    assert operators.share_outside({**found, "emulated": True})[1] == " (by the emulator's time, which is no board's)"
    counts = {**found, "emulated": True, "total_instructions": 80}
    for row, amount in zip(counts["operators"], (20, 55), strict=True):
        row["instructions"] = amount
    assert operators.share_outside(counts) == (0.25, " (counted in instructions)")


def counted(plain: int, total: list[int], name: str = "a") -> Json:
    """An inference in instructions, without the profiler and with it, and its one operator."""
    return {"plain": plain, "total": total, "operators": [{"name": name, "instructions": [7, 9, 8]}]}


@pytest.mark.parametrize(("most", "shown"), [(1250, True), (1251, False)])
def test_a_profiler_that_does_more_than_a_quarter_itself_has_no_counts(most: int, shown: bool) -> None:
    answer = {**told({"name": "a", "ns": [50] * 3}, total=[100] * 3), "counted": counted(1000, [1100, 1200, most])}
    found = operators.profiled(answer, {})
    assert found.get("total_instructions") == (1200 if shown else None)
    assert found["operators"][0].get("instructions") == (8 if shown else None)


def test_counts_of_other_operators_than_those_timed_are_not_shown() -> None:
    answer = {**told({"name": "a", "ns": [50]}, total=[100]), "counted": counted(1000, [1000], "b")}
    assert "total_instructions" not in operators.profiled(answer, {})


@pytest.mark.parametrize(("ns", "said"), [(75, []), (74, ["coarse-operators"])])
def test_more_than_a_quarter_outside_any_operator_is_said(ns: int, said: list[str]) -> None:
    assert measured(told({"name": "a", "ns": [ns]}, total=[100]))[1] == said


def measured(answer: Json, **wanted: bool) -> tuple[Json, list[str]]:
    """What operators.measure makes of an agent's answer: what it found, and the codes of the caveats."""
    request = SimpleNamespace(**{"operators": True, "require_full_delegation": False, **wanted})
    artifact = SimpleNamespace(path=Path("m.fake"), format="fake", inputs=())
    subject: Any = SimpleNamespace(
        request=request, device=SimpleNamespace(emulated=False), artifacts=SimpleNamespace(get=lambda *_: artifact)
    )
    live: Any = SimpleNamespace(call=lambda op, args, deadline_s: answer)
    found: Json = {"launches": ({},), "warnings": ()}
    operators.measure(subject, CELL, live, {}, found, lambda _: None)
    return found, [one.code for one in found["warnings"]]


def test_a_profile_that_cannot_be_one_costs_the_operators_alone() -> None:
    found, said = measured(told({"name": "a", "ns": [-5]}, total=[100]))
    assert said == ["no-operators"]
    assert "ns: -5, which no measurement gives" in found["warnings"][0].message
    assert "operators" not in found


@pytest.mark.parametrize(("runs", "seconds", "count"), [(2, 9.0, 2), (5, 9.0, 5), (9, 2.0, 3), (9, 3.5, 4)])
def test_inferences_end_with_their_number_or_their_time_but_three_are_the_least(
    runs: int, seconds: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes a second."""
    now = [0.0]
    monkeypatch.setattr(agent.time, "monotonic", lambda: now[0])
    done = 0
    for _ in agent.capped({"runs": runs, "max_seconds": seconds}):
        now[0] += 1.0
        done += 1
    assert done == count


def test_a_counted_device_profiles_with_the_options_that_it_was_counted_with(tmp_path: Path) -> None:
    """ONNX Runtime's threads do not go round while they wait there."""
    (tmp_path / "input").write_bytes(b"")
    asked: list[Json] = []

    def load(path: str, options: Json) -> Any:
        asked.append(options)
        return SimpleNamespace(inputs=[], run=lambda: None)

    args = {"model": "m", "input": str(tmp_path / "input"), "warmup_calls": 0, "threads": 4, "counters": True}
    agent.prepared(SimpleNamespace(load=load), args, True)
    assert (asked[0]["counters"], asked[0]["threads"], asked[0]["profile"]) == (True, 4, True)


def layer(place: int, kind: str, macs: int, output: tuple[int, ...] = (1, 4), delegate: str | None = None) -> Json:
    found: Json = {"place": place, "type": kind, "macs": macs, "output": list(output), "bytes": 8, "parameters": 1}
    return {**found, "delegate": delegate} if delegate else found


def test_operators_are_found_by_their_place_and_layers_of_a_delegate_in_turn() -> None:
    layers = [layer(0, "CONV_2D", 70), layer(1, "CUMSUM", 0), layer(2, "CONV_2D", 30), layer(3, "ADD", 0)]
    events = [
        {"name": "Transpose (ND, X32)", "delegate": FAST},
        {"name": "Convolution (NHWC, F32) IGEMM", "delegate": FAST},
        {"name": "CUMSUM", "place": 1},
        {"name": "Fully Connected (NC, F32) GEMM", "delegate": FAST},
        {"name": "Add (ND)", "delegate": FAST},
    ]
    found = operators.joined(events, {"operators": layers})
    assert [one.get("macs") for one in found] == [0, 70, 0, 30, 0]
    assert [one.get("place") for one in found] == [None, 0, 1, 2, None]


def test_delegates_of_a_program_are_told_apart_by_their_instruction() -> None:
    layers = [
        layer(0, "Conv2d", 70, delegate=FAST),
        layer(1, "cumsum.out", 0),
        layer(2, "FullyConnected", 30, delegate=FAST),
    ]
    events = [
        {"name": "Convolution (NHWC, F32) IGEMM #1", "delegate": FAST, "place": 0},
        {"name": "cumsum.out", "place": 1},
        {"name": "Fully Connected (NC, F32) GEMM #1", "delegate": FAST, "place": 2},
    ]
    assert [one["macs"] for one in operators.joined(events, {"operators": layers})] == [70, 0, 30]


@pytest.mark.parametrize(
    "events",
    [
        [{"name": "n", "type": "Conv"}],  # one layer of two: which?
        [{"name": "n", "type": "Conv"}, {"name": "m", "type": "Conv", "output": [1, 3]}],  # smaller than the file's
    ],
)
def test_what_cannot_be_told_has_no_macs(events: list[Json]) -> None:
    layers = [layer(0, "Conv", 70), layer(1, "Conv", 30)]
    assert operators.joined(events, {"operators": layers}) == [{}] * len(events)
    assert operators.joined(events, {}) == [{}] * len(events)


def test_a_padded_and_a_fused_layer_are_the_files() -> None:
    layers = [layer(0, "Conv", 70, (1, 20, 2, 2)), layer(1, "Relu", 0), layer(2, "Gemm", 30)]
    events = [
        {"name": "a_nchwc", "type": "FusedConv", "output": [1, 32, 2, 2]},
        {"name": "r", "type": "ReorderOutput"},
        {"name": "lstm", "type": "LSTM"},
        {"name": "b", "type": "QGemm", "output": [1, 4]},
    ]
    assert [one.get("macs") for one in operators.joined(events, {"operators": layers})] == [70, 0, None, 30]


# ---- delegation


@pytest.mark.parametrize(
    ("delegation", "outside"),
    [
        ({}, None),
        ({"delegate": FAST, "fully_accelerated": True}, []),
        ({"delegate": FAST, "fully_accelerated": False}, ["PAD"]),
        ({"backends": ["XnnpackBackend"]}, ["cumsum.out"]),
        ({"backends": []}, ["cumsum.out"]),
    ],
)
def test_who_fell_back(delegation: Json, outside: list[str] | None) -> None:
    profile = {"operators": [{"name": "Conv", "delegate": FAST}, {"name": "PAD"}]}
    work = {"operators": [layer(0, "Conv2d", 9, delegate=FAST), layer(1, "cumsum.out", 0)]}
    assert operators.fallen_back(delegation, work, profile) == outside


def test_a_fallback_fails_a_cell_that_must_not_have_one() -> None:
    with pytest.raises(NotDelegated) as caught:
        operators.require(CELL, ["PAD", "CONV_2D", "PAD", "A", "B", "C", "D"], {})
    assert caught.value.message == (
        "not all operators run on the fast backend: 7 fell back (PAD x2, A, B, C, CONV_2D and 1 more)"
    )
    found: Json = {"warnings": ()}
    operators.require(CELL, [], found)
    assert found["warnings"] == ()
    operators.require(CELL, None, found)
    assert [one.code for one in found["warnings"]] == ["nothing-to-delegate"]
    silent = operators.fallen_back({"delegate": None, "fully_accelerated": False}, {}, {})
    with pytest.raises(NotDelegated, match="this runtime does not tell which"):
        operators.require(CELL, silent, {})


# ---- the terminal

HOSTILE = "\x1b[31mred\x1b[2J\r\n[bold]x[/bold]\u202e" + "é宽" * 60


def test_lines_fit_100_columns_whatever_the_names_are() -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.text import Text

    events = [{"name": HOSTILE if index % 2 else "Convolution", "ns": [index]} for index in range(12)]
    layers = [{**layer(index, HOSTILE, 5 * index), "name": HOSTILE} for index in range(12)]
    profile = operators.profiled(told(*({**one, "place": i} for i, one in enumerate(events)), total=[100]), {
        "operators": layers, "macs": 330, "parameters": 12, "uncounted": [HOSTILE]})  # fmt: skip
    cell = {"device": "local", "runtime": "tflite", "precision": "fp32", "threads": 1, "operators": profile}
    lines = shown.of_cell(cell, "tflite fp32")
    assert all(line.isprintable() and cell_len(line) <= 100 for line in lines)
    assert len([line for line in lines if "%  " in line]) == shown.TOP
    assert "2 more take" in lines[-1]
    place = io.StringIO()
    console = Console(file=place, width=100, force_terminal=True)
    for line in lines:
        console.print(Text(line))
    assert "\x1b[31m" not in place.getvalue() and "[bold]" in place.getvalue()


@pytest.mark.parametrize(
    ("batch", "said"), [(1, "2 M MACs, 7 parameters"), (8, "2 M MACs for a call of 8 inputs, 7 parameters")]
)
def test_the_work_of_a_call_of_several_inputs_is_called_so(batch: int, said: str) -> None:
    profile = operators.profiled(told({"name": "a", "ns": [5]}, total=[9]), {"macs": 2_000_000, "parameters": 7})
    assert f"the whole model: {said}" in "".join(shown.of_cell({"batch": batch, "operators": profile}, "m"))


def test_the_costliest_come_first_and_the_emulators_times_are_called_so() -> None:
    events = [{"name": f"op{index}", "place": index, "ns": [index * 1000]} for index in range(3)]
    work = {"operators": [layer(2, "CONV_2D", 2_000_000)], "macs": 2_000_000, "parameters": 7}
    profile = {**operators.profiled(told(*events, total=[4000]), work), "emulated": True}
    lines = shown.of_cell({"operators": profile}, "tflite fp32")
    assert "emulator's" in "".join(lines)
    rows = [line.split() for line in lines if "%  " in line]
    assert [row[-1] for row in rows] == ["op2", "op1", "op0"]
    assert rows[0][:3] == ["50.0%", "2", "us"]
    assert "2 M" in lines[5]
