"""MLPerf Tiny's serial commands against a scripted microcontroller, on a line that loses and garbles bytes."""

from __future__ import annotations

import os
import pty
import re
import struct
import threading
import tty
from collections.abc import Iterator
from typing import Any

import pytest
from harness import CommandLine
from lab.lines import Noise
from lab.mcu import Mcu

from edgekit import config
from edgekit.agent.protocol import Fault
from edgekit.agent.runtimes import _mcu, mlperf_tiny
from edgekit.errors import UserError
from edgekit.transports import mcu as transport

INPUT: dict[str, Any] = {"name": "x", "shape": [1, 100], "dtype": "int8"}
OUTPUT: dict[str, Any] = {
    "name": "y",
    "shape": [1, 3],
    "dtype": "int8",
    "quantization": {"scale": [1 / 256], "zero_point": [-128]},
}
OPTIONS = {"inputs": [INPUT], "outputs": [OUTPUT]}
DATA = bytes(range(100))


def share(data: bytes) -> list[float]:
    """Three numbers that tell the input."""
    return [sum(data[start::3]) % 97 / 100 for start in range(3)]


@pytest.fixture
def mcu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mcu]:
    """A microcontroller on a port that the runtime is told of; silences are not waited for long."""
    found = Mcu(share)
    monkeypatch.setenv(mlperf_tiny.PORT, found.line.name)
    monkeypatch.setattr(_mcu, "ANSWER_S", 0.6)
    monkeypatch.setattr(_mcu, "FIRST_S", 1.0)
    monkeypatch.setattr(_mcu, "SETTLE_S", 0.3)
    yield found
    found.close()


@pytest.fixture
def loaded(mcu: Mcu) -> Iterator[mlperf_tiny.Loaded]:
    found = mlperf_tiny.load("model.tflite", OPTIONS)
    yield found
    found.close()


def test_it_says_who_it_is_and_what_was_flashed(mcu: Mcu) -> None:
    about = mlperf_tiny.probe({})
    assert about == {"version": "ULPMark for tinyML Firmware V0.0.1", "name": "unspecified", "model": "ic01"}


def test_the_bytes_of_an_input_give_the_bytes_of_the_output(mcu: Mcu, loaded: mlperf_tiny.Loaded) -> None:
    loaded.set_input(0, DATA)
    assert mcu.buffer == DATA
    assert max(map(len, mcu.commands)) <= 80
    loaded.run()
    stored = [round(value * 256) - 128 for value in share(DATA)]
    assert loaded.output(0) == struct.pack("3b", *stored)


def test_time_is_the_microcontrollers_own_also_when_its_clock_wraps(loaded: mlperf_tiny.Loaded) -> None:
    loaded.set_input(0, DATA)
    assert loaded.repeat(400) == 400_000_000
    assert loaded.repeat(600) == 600_000_000  # the 32 bits are over in this one


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_noise_never_becomes_a_wrong_answer(seed: int, mcu: Mcu, loaded: mlperf_tiny.Loaded) -> None:
    there, back = Noise(4e-4, 4e-4, seed), Noise(4e-4, 4e-4, seed + 10)
    mcu.line.to_device, mcu.line.to_host = there, back
    there.on = back.on = True
    good = 0
    for _ in range(6):
        try:
            loaded.set_input(0, DATA)
            loaded.run()
        except Fault as fault:
            assert fault.kind == "unavailable" and "garbled" in fault.message
            continue
        good += 1
        assert loaded.results == [float(f"{value:0.3f}") for value in share(DATA)]
    assert there.hits + back.hits
    assert good >= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "becomes", "message"),
    [
        (rb"m-ready", b"m-rea\x00y", "no 'm-ready'"),
        (rb"m-lap-us-\d+\r\n", b"", "two time stamps"),
        (rb"m-results-\[", b"m-results-", "m-ready|results|nothing|m-"),
        (rb"m-infer-done", b"e-[out of memory]", "out of memory"),
    ],
)
def test_what_stays_garbled_is_an_error_after_three_tries(
    pattern: bytes, becomes: bytes, message: str, mcu: Mcu, loaded: mlperf_tiny.Loaded
) -> None:
    loaded.set_input(0, DATA)
    mcu.line.to_host = lambda data: re.sub(pattern, becomes, data)
    with pytest.raises(Fault, match=message) as caught:
        loaded.run()
    assert caught.value.kind == "unavailable"
    assert sum(command.startswith("infer") for command in mcu.commands) == 3


def test_a_clock_that_does_not_keep_our_time_is_not_believed(mcu: Mcu, loaded: mlperf_tiny.Loaded) -> None:
    loaded.set_input(0, DATA)
    mcu.drift = 4.0
    with pytest.raises(Fault, match="by its clock"):
        loaded.repeat(300)


def test_a_first_inference_may_take_its_time(mcu: Mcu, loaded: mlperf_tiny.Loaded) -> None:
    loaded.set_input(0, DATA)
    mcu.inference_s = 0.3  # longer than any other answer
    loaded.run()
    assert sum(command.startswith("infer") for command in mcu.commands) == 1


def test_a_line_that_never_ends_is_an_error_in_time(mcu: Mcu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mcu, "ANSWER_BYTES", 10_000)
    mcu.line.to_host = lambda data: b"\xfe" * 4096  # as another speed looks like
    flood = threading.Event()

    def babble() -> None:
        while not flood.wait(0.01):
            os.write(mcu.device, b"x")

    other = threading.Thread(target=babble)
    other.start()
    try:
        with pytest.raises(Fault, match="'name' is garbled: no 'm-ready' in"):
            mlperf_tiny.probe({})
    finally:
        flood.set()
        other.join()


def test_a_line_that_takes_nothing_is_an_error_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mcu, "ANSWER_S", 0.1)
    host, far = pty.openpty()  # nobody reads there
    tty.setraw(far)
    monkeypatch.setenv(mlperf_tiny.PORT, os.ttyname(far))
    firmware = _mcu.Firmware.__new__(_mcu.Firmware)
    firmware.port = _mcu.open_port(os.ttyname(far), 115200)
    with pytest.raises(Fault, match="takes no data") as caught:
        firmware.write(bytes(1_000_000))
    assert caught.value.kind == "unavailable"
    firmware.close()
    for handle in (host, far):
        os.close(handle)


def test_the_line_is_one_process_alone(mcu: Mcu, loaded: mlperf_tiny.Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mcu, "BUSY_S", 0.1)
    with pytest.raises(Fault, match="another program uses it") as caught:
        mlperf_tiny.probe({})
    assert caught.value.kind == "unavailable"
    monkeypatch.setattr(_mcu, "BUSY_S", 5)
    threading.Timer(0.1, loaded.close).start()
    assert mlperf_tiny.probe({})["model"] == "ic01"
    monkeypatch.setattr(loaded, "close", lambda: None)


def test_the_doctor_tells_nothing_of_this_machine(mcu: Mcu, cli: CommandLine) -> None:
    said = cli("doctor", "--device", "mlperf-tiny-mcu", "--port", mcu.line.name, "--json")
    assert said.rc in (0, 3), said.stderr
    seen = {finding["what"]: finding for finding in said.json}
    assert seen["mlperf_tiny on mlperf-tiny-mcu"]["ok"]
    assert seen["mlperf_tiny on mlperf-tiny-mcu"]["seen"] == "ULPMark for tinyML Firmware V0.0.1"
    assert not {"page size", "free memory", "governor", "clock"} & set(seen)


def test_results_that_are_no_numbers_of_the_model_are_said(mcu: Mcu, loaded: mlperf_tiny.Loaded) -> None:
    loaded.set_input(0, DATA)
    mcu.answer = lambda data: [float("nan"), 0.0, 0.0]
    loaded.run()
    with pytest.raises(Fault, match="no int8 can be") as caught:
        loaded.output(0)
    assert caught.value.kind == "bad_model"


def test_what_it_cannot_do_is_said(mcu: Mcu, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Fault, match="tensors of the model"):
        mlperf_tiny.load("model.tflite", {})
    with pytest.raises(Fault, match="one input"):
        mlperf_tiny.load("model.tflite", {"inputs": [INPUT, INPUT], "outputs": [OUTPUT]})
    with pytest.raises(Fault, match="int64"):
        mlperf_tiny.load("model.tflite", {"inputs": [{**INPUT, "dtype": "int64"}], "outputs": [OUTPUT]})
    found = mlperf_tiny.load("model.tflite", {"inputs": [INPUT], "outputs": [{**OUTPUT, "shape": [1, 4]}]})
    found.set_input(0, DATA)
    found.run()
    with pytest.raises(Fault, match="gave 3 results, the model has 4"):
        found.output(0)
    found.close()
    monkeypatch.setenv(mlperf_tiny.BAUD, "12345")
    with pytest.raises(Fault, match="no speed of 12345 baud"):
        mlperf_tiny.probe({})
    monkeypatch.setenv(mlperf_tiny.PORT, "/dev/ttyNOWHERE")
    with pytest.raises(Fault, match="cannot be reached") as caught:
        mlperf_tiny.probe({})
    assert caught.value.kind == "unavailable"


def test_a_microcontroller_without_a_port_is_a_user_error() -> None:
    with pytest.raises(UserError, match="not known on which port"):
        transport.connect(config.device("mlperf-tiny-mcu"), None)
    assert transport.look(config.device("mlperf-tiny-mcu"))[0] is False


def test_the_runtime_is_told_the_port_of_the_profile() -> None:
    assert (transport.PORT, transport.BAUD) == (mlperf_tiny.PORT, mlperf_tiny.BAUD)


def test_the_profile_has_the_rules_of_mlperf_tiny() -> None:
    limits = config.device("mlperf-tiny-mcu").limits
    assert (limits["calls"], limits["launches"]) == (5, 1)
    assert mlperf_tiny.Loaded.sample_ns == 10_000_000_000
    assert mlperf_tiny.Loaded.least_batch == 10


def test_it_is_told_of_on_the_command_line(cli: CommandLine) -> None:
    said = cli("doctor", "--device", "mlperf-tiny-mcu")
    assert said.rc == 3
    assert "not known on which port" in said.stdout
    assert said.stdout.endswith("or tty = in [connection] of its profile\n")  # what to do stands in the last line
