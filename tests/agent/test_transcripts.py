"""Golden transcripts: whole conversations with the agent, kept as files, so that no word of the protocol changes unseen.

`> ` is what the host sends, `< ` what the agent answers, events left out, `#` a comment. What differs from machine to
machine is masked by its type. EDGEKIT_UPDATE_GOLDEN=1 writes the answers anew; read the difference before you keep it.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, Agent, write_fake_model

from edgekit.agent import protocol

TRANSCRIPTS = sorted((ROOT / "tests" / "golden").glob("*.transcript"))
FAULTS = ("crash", "segfault", "exit", "hang", "print", "oom", "bad_model", "wrong")
OPERATORS = [{"name": "Convolution", "delegate": "XNNPACK", "ns": 800_000}, {"name": "PAD", "place": 1, "ns": 100_000}]
# Facts about the machine, and what a real clock or the kernel says: only their type is a matter of the protocol.
VOLATILE = (
    "python", "system", "evidence", "elapsed_ns", "load_ns", "baseline_bytes", "load_peak_bytes", "loaded_bytes",
    "run_peak_bytes", "delta_bytes", "anonymous_peak_bytes", "pss_peak_bytes", "sampled", "method", "runtimes", "state",
)  # fmt: skip


def masked(value: Any, name: str = "") -> Any:
    """A frame with what is volatile in it replaced by the name of its type."""
    if name in VOLATILE:
        return f"<{type(value).__name__}>"
    if isinstance(value, dict):
        return {key: masked(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    return value


def play(lines: list[str], folder: Path) -> list[str]:
    """The transcript with the answers that the agent gives today."""
    (folder / "input").write_bytes(struct.pack("<20f", *range(20)))
    write_fake_model(folder / "good.fake")
    write_fake_model(folder / "profiled.fake", operators=OPERATORS)
    for fault in FAULTS:
        write_fake_model(folder / f"{fault}.fake", fault=fault)
    played = []
    with contextlib.closing(Agent(folder)) as agent:
        for line in lines:
            if line.startswith("<"):
                continue
            played.append(line)
            if line == "# greeting":
                played.append("< " + json.dumps(masked(agent.greeting)))
            if line.startswith("> "):
                agent.send(line[2:].encode() + b"\n")
                played.append("< " + json.dumps(masked(agent.reply())))
    return played


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path, tmp_path: Path) -> None:
    expected = path.read_text("utf-8").splitlines()
    played = play(expected, tmp_path)
    if os.environ.get("EDGEKIT_UPDATE_GOLDEN"):
        path.write_text("\n".join(played) + "\n", "utf-8")
        pytest.skip("written anew: unset EDGEKIT_UPDATE_GOLDEN to compare")
    assert played == expected


def said(sign: str) -> list[Any]:
    """Every frame of all transcripts that one side says; lines that are no JSON object left out."""
    frames = []
    for path in TRANSCRIPTS:
        for line in path.read_text("utf-8").splitlines():
            with contextlib.suppress(ValueError):
                if line.startswith(sign):
                    frames.append(protocol.decode(line[2:].encode()))
    return frames


def test_the_transcripts_have_every_operation_and_every_kind_of_error_a_test_can_cause() -> None:
    assert {frame["op"] for frame in said("> ") if isinstance(frame.get("op"), str)} >= set(protocol.OPERATIONS)
    kinds = {frame["error"]["kind"] for frame in said("< ") if "error" in frame}
    assert kinds == set(protocol.ERROR_KINDS)


def test_every_answer_has_the_form_that_the_protocol_promises() -> None:
    for frame in said("< "):
        if "greeting" in frame:
            assert set(frame) == {"greeting", "protocol", "python", "system"}
            continue
        assert set(frame) in ({"id", "ok"}, {"id", "error"})
        assert "ok" not in frame or isinstance(frame["ok"], dict)
        assert "error" not in frame or set(frame["error"]) == {"kind", "message"}
