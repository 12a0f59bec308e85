"""The frames of a serial line, both ends in one process and the line between them simulated: no terminal, no clock."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.agent import frames
from edgekit.agent.frames import Link, Messages

BAUD = 115200
OTHER = {"host": "device", "device": "host"}
STEP_S = 0.002


class World:
    """Two ends and a line that takes its time; `spoil` says what of some bytes arrives."""

    def __init__(self, spoil: Callable[[bytes], bytes] = bytes, first: int = 0) -> None:
        self.now = 0.0
        self.spoil = spoil
        self.ends = {side: Link(7, side, BAUD, self.now) for side in OTHER}
        for end in self.ends.values():
            end.next = end.expected = first
        self.wire: dict[str, list[tuple[float, bytes]]] = {side: [] for side in OTHER}
        self.free = dict.fromkeys(OTHER, 0.0)
        self.got = dict.fromkeys(OTHER, b"")
        self.carried = 0

    def step(self) -> None:
        for side, end in self.ends.items():
            if self.now >= self.free[side] and (out := end.output(self.now)):
                self.carried += len(out)
                self.free[side] = self.now + len(out) * 10 / BAUD
                for start in range(0, len(out), 16):
                    arrival = self.now + (start + 16) * 10 / BAUD
                    self.wire[OTHER[side]].append((arrival, self.spoil(out[start : start + 16])))
            while self.wire[side] and self.wire[side][0][0] <= self.now:
                self.got[side] += end.receive(self.wire[side].pop(0)[1], self.now)
        self.now += STEP_S

    def run(self, done: Callable[[], bool], seconds: float) -> bool:
        """Until `done`, or for so long; whether it was done."""
        deadline = self.now + seconds
        while not done() and self.now < deadline:
            self.step()
        return done()


def noise(rate: float, seed: int = 1) -> Callable[[bytes], bytes]:
    """Half of the hits lose a byte, half flip a bit of it."""
    draw = random.Random(seed)

    def spoil(data: bytes) -> bytes:
        out = bytearray()
        for byte in data:
            hit = draw.random()
            if hit < rate / 2:
                continue
            out.append(byte ^ (1 << draw.randrange(8)) if hit < rate else byte)
        return bytes(out)

    return spoil


@given(st.binary(max_size=600), st.integers(0, 65535), st.integers(0, 65535))
def test_a_frame_survives_and_holds_nothing_that_a_terminal_acts_on(payload: bytes, session: int, number: int) -> None:
    wire = frames.frame(b"D", session, number, payload)
    assert wire[:1] == wire[-1:] == b"\x7e"
    assert not set(wire[1:-1]) & set(frames.RISKY)
    assert frames.parse(wire[1:-1]) == (b"D", session, number, payload)


@given(st.binary(min_size=1, max_size=60), st.data())
def test_a_damaged_frame_is_never_taken_for_another(payload: bytes, data: st.DataObject) -> None:
    wire = bytearray(frames.frame(b"D", 7, 3, payload)[1:-1])
    place = data.draw(st.integers(0, len(wire) - 1))
    wire[place] ^= data.draw(st.integers(1, 255))
    assert frames.parse(bytes(wire)) in (None, (b"D", 7, 3, payload))


@given(
    st.lists(st.tuples(st.sampled_from([b"R", b"D", b"I"]), st.integers(0, 255), st.binary(max_size=300)), max_size=8)
)
def test_messages_come_out_as_they_went_in_whatever_the_cuts(messages: list[tuple[bytes, int, bytes]]) -> None:
    stream = b"".join(frames.message(*message) for message in messages)
    for cut in (1, 7, 1000):
        reader = Messages()
        found = [one for start in range(0, len(stream), cut) for one in reader.feed(stream[start : start + cut])]
        assert found == messages


def test_a_message_of_impossible_length_is_nonsense() -> None:
    with pytest.raises(ValueError, match="8 MiB"):
        Messages().feed(b"R\0\xff\xff\xff\xff")


def test_a_clean_line_is_used_to_nine_tenths_and_nothing_is_sent_twice() -> None:
    world, data = World(), random.Random(2).randbytes(40_000)
    world.ends["host"].send(data)
    assert world.run(lambda: world.got["device"] == data, 10)
    assert len(data) * 10 / BAUD > 0.9 * world.now
    assert world.ends["host"].repeated == 0


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 4e-3])
def test_what_noise_loses_and_garbles_arrives_all_the_same_both_ways_at_once(rate: float) -> None:
    world, data = World(noise(rate)), random.Random(3).randbytes(20_000)
    world.ends["host"].send(data)
    world.ends["device"].send(data[::-1])
    assert world.run(lambda: world.got["device"] == data and world.got["host"] == data[::-1], 200)
    assert world.ends["host"].repeated + world.ends["device"].repeated > 0
    assert world.run(lambda: not any(end.backlog for end in world.ends.values()), 30)


def test_numbers_wrap() -> None:
    world, data = World(noise(2e-4), first=frames.NUMBERS - 5), random.Random(4).randbytes(20_000)
    world.ends["host"].send(data)
    assert world.run(lambda: world.got["device"] == data, 60)
    assert world.ends["host"].next < 100


def test_no_more_is_on_its_way_than_a_terminal_holds() -> None:
    world = World(lambda data: b"")
    world.ends["host"].send(b"\x7d" * 100_000)  # every byte escaped
    seen = b""
    for _ in range(20):
        seen += world.ends["host"].output(0.0)
    assert 512 < len(seen) <= 4095


def test_a_line_that_was_dead_for_a_while_goes_on_where_it_was() -> None:
    world, data = World(), random.Random(5).randbytes(20_000)
    world.ends["host"].send(data)
    world.run(lambda: len(world.got["device"]) > 5000, 10)
    world.spoil = lambda _: b""
    world.run(lambda: False, 8)
    assert world.ends["host"].backlog > 10_000
    world.spoil = bytes
    assert world.run(lambda: world.got["device"] == data, 10)


def test_words_of_a_kernel_between_and_in_frames_do_no_harm() -> None:
    draw = random.Random(6)
    spoil = lambda data: data[:7] + b"[   12.3] oops\r\n" + data[7:] if draw.random() < 0.05 else data  # noqa: E731
    world, data = World(spoil), draw.randbytes(10_000)
    world.ends["host"].send(data)
    assert world.run(lambda: world.got["device"] == data, 60)
    assert world.ends["device"].damaged > 0


def test_an_echo_and_another_session_are_not_listened_to() -> None:
    host, stranger = Link(7, "host", BAUD, 0.0), Link(8, "device", BAUD, 0.0)
    host.send(b"hello")
    out = host.output(0.0)
    assert host.receive(out, 5.0) == b""  # our own words
    stranger.send(b"boo")
    assert host.receive(stranger.output(0.0), 5.0) == b""
    assert host.heard == 0.0


def test_a_host_that_finds_somebody_elses_session_can_end_it() -> None:
    device, host = Link(7, "device", BAUD, 0.0), Link(7, "host", BAUD, 0.0)
    device.receive(Link(9, "host", BAUD, 0.0).farewell(), 1.0)
    assert device.bye
    host.receive(Link(9, "device", BAUD, 0.0).farewell(), 1.0)
    assert not host.bye


def test_a_silent_line_is_asked_whether_somebody_is_there() -> None:
    world = World()
    world.run(lambda: False, 20)
    assert world.now - world.ends["host"].heard < 4
    assert world.carried < 600
    world.spoil = lambda _: b""
    world.run(lambda: False, 20)
    assert world.now - world.ends["host"].heard > 19


def test_garbage_without_an_end_is_not_kept() -> None:
    host = Link(7, "host", BAUD, 0.0)
    for _ in range(100):
        host.receive(b"x" * 1000, 0.0)
    assert len(host.raw) <= frames.FRAME_LIMIT
