"""What a child costs before it works: no module that it does not need, and JSON that is `json`'s to the last byte."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import session
from edgekit.agent import lean_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)
DEAR = ("json", "re", "enum", "signal", "ctypes", "struct", "select", "subprocess", "typing")


def same(one: Any, other: Any) -> bool:
    """Equal, not-a-number included."""
    return repr(one) == repr(other)


def test_the_c_functions_of_this_python_are_believed() -> None:
    assert lean_json.LEAN


@given(VALUES)
def test_it_writes_and_reads_as_json_does(value: Any) -> None:
    text = json.dumps(value, separators=(",", ":"))
    assert lean_json.dumps(value) == text
    assert same(lean_json.loads(text), json.loads(text))
    assert same(lean_json.loads(text.encode()), json.loads(text))
    spaced = f" \t{json.dumps(value, ensure_ascii=False, indent=2)}\r\n"
    assert same(lean_json.loads(spaced), json.loads(spaced))


@given(st.text(st.sampled_from('{}[]",:0123456789eE+-.\\untrfalsNIy \n\x00\u00e9')) | st.binary(max_size=20))
def test_it_refuses_what_json_refuses(text: str | bytes) -> None:
    answers: list[Any] = []
    for loads in (lean_json.loads, json.loads):
        try:
            answers.append(("value", repr(loads(text))))
        except ValueError as error:
            answers.append((type(error), str(error)))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", {"a": 1j}, {(1,): 2}])
def test_what_is_no_json_is_not_written(value: Any) -> None:
    with pytest.raises(TypeError):
        lean_json.dumps(value)


def test_what_holds_itself_is_not_written() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="Circular"):
        lean_json.dumps(circle)


def test_too_deep_is_an_error_of_its_own() -> None:
    with pytest.raises(RecursionError):
        lean_json.loads("[" * 200_000)


def test_numbers_keep_every_bit() -> None:
    for number in (0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, 2**200):
        found = lean_json.loads(lean_json.dumps(number))
        assert found == number and math.copysign(1, found) == math.copysign(1, number)


SPOILT = """
import sys, types
sys.path.insert(0, {agent!r})
private = types.ModuleType("_json")
{how}
sys.modules["_json"] = private
import lean_json
assert not lean_json.LEAN
del sys.modules["_json"]
print(lean_json.dumps(lean_json.loads(b'{{"a": [1, 2.5, null]}}')))
"""


@pytest.mark.parametrize(
    "how",
    [
        "pass  # a Python without them",
        "private.make_scanner = private.make_encoder = lambda *_: 1 / 0; private.encode_basestring_ascii = repr",
        "private.make_scanner = lambda _: lambda text, at: ({}, len(text)); private.make_encoder = lambda *_: lambda *_: '[]'\n"
        "private.encode_basestring_ascii = repr",
    ],
)
def test_another_python_gets_json_itself(how: str) -> None:
    code = SPOILT.format(agent=str(session.AGENT), how=how)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.stdout == '{"a":[1,2.5,null]}\n', done.stderr


def test_a_child_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    """Half of the time of a run of many small cells is the start of the children."""
    archive = tmp_path / "agent.pyz"
    archive.write_bytes(session.agent_archive())
    modules = ("child", "measure", "runtimes.fake", "runtimes._library")
    imports = "".join(f"import edgekit_agent.{name}; " for name in modules)
    code = f"import sys; sys.path.insert(0, {str(archive)!r}); {imports} print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & set(DEAR)
