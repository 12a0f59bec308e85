"""Frames over a serial line that loses, corrupts and invents bytes, and on them messages that arrive whole and in order.

    frame   = 7E, escaped(body, CRC-32 of the body), 7E                    as in RFC 1662
    body    = kind, session (2 bytes), number (2 bytes), payload           numbers are little-endian
    D, d      the piece of the stream with this number, from the host and from the device
    A, a      all before this number is here; the payload is a bitmap of the 32 after it that are here too
    N, n      the same, and: what came last was damaged
    P, p      answer with A: is anybody there?
    B, b      bye: this end lets go of the line

    message = kind, channel, length (4 bytes), payload: what the stream of pieces is made of

No I/O here, and no clock. Standard library only, Python 3.9: this file runs on the device and is imported by the host.
"""

import struct
import zlib

FLAG, ESCAPE, FLIP = 0x7E, 0x7D, 0x20
# What a terminal that is not raw, or a shell that is suddenly alone again, would take for a command: ^C ^D \n \r XON XOFF ^Z ^\
RISKY = (0x03, 0x04, 0x0A, 0x0D, 0x11, 0x13, 0x1A, 0x1C, FLAG)
ESCAPES = [(bytes([ESCAPE]), bytes([ESCAPE, ESCAPE ^ FLIP]))]
ESCAPES += [(bytes([byte]), bytes([ESCAPE, byte ^ FLIP])) for byte in RISKY]

HEAD = struct.Struct("<cHH")
CRC = struct.Struct("<I")
BITMAP = struct.Struct("<I")
MESSAGE = struct.Struct("<cBI")
NUMBERS = 1 << 16
AHEAD = 32  # pieces that may arrive before one that is missing
# What each end sends at a time on a line that loses little; down to the least on one that loses much.
PIECE_BYTES = {"host": 512, "device": 1024}
LEAST_BYTES = 64
# On the wire and not yet acknowledged. A terminal holds 4095 bytes for a program that is slow to read them.
WINDOW_BYTES = {"host": 3584, "device": 16384}
FRAME_LIMIT = 2 * (max(PIECE_BYTES.values()) + 64)  # escaped
ANSWER_S = 0.02  # until an acknowledgement; sooner where something is missing, or after
ANSWER_PIECES = 3
COMPLAIN_S = 0.05  # between two N: an echo of one that is damaged would be answered by the next
MESSAGE_LIMIT = 1 << 23
PING_S = 3.0  # of silence, then the host asks whether the device is still there
LOST_S = 0.25  # beyond the time that the line itself needs, before an answer counts as lost
MAX_WAIT_S = 2.0


def frame(kind, session, number, payload=b""):
    """One frame as bytes for the wire."""
    body = HEAD.pack(kind, session, number) + payload
    body += CRC.pack(zlib.crc32(body))
    for plain, escaped in ESCAPES:
        body = body.replace(plain, escaped)
    return b"\x7e" + body + b"\x7e"


def parse(data):
    """(kind, session, number, payload) of what lies between two flags, or None when it is damaged."""
    for plain, escaped in reversed(ESCAPES):
        data = data.replace(escaped, plain)
    if len(data) < HEAD.size + CRC.size or zlib.crc32(data[: -CRC.size]) != CRC.unpack(data[-CRC.size :])[0]:
        return None
    return (*HEAD.unpack_from(data), data[HEAD.size : -CRC.size])


def message(kind, channel, payload=b""):
    """One message as bytes for the stream."""
    return MESSAGE.pack(kind, channel, len(payload)) + payload


class Messages:
    """Cuts the stream into messages again."""

    def __init__(self):
        self.buffer = bytearray()

    def feed(self, data):
        """The messages, as (kind, channel, payload), that are whole with this data. Raises ValueError for nonsense."""
        self.buffer += data
        found = []
        while len(self.buffer) >= MESSAGE.size:
            kind, channel, length = MESSAGE.unpack_from(self.buffer)
            if length > MESSAGE_LIMIT:
                raise ValueError("a message is longer than 8 MiB")
            if len(self.buffer) < MESSAGE.size + length:
                break
            found.append((kind, channel, bytes(self.buffer[MESSAGE.size : MESSAGE.size + length])))
            del self.buffer[: MESSAGE.size + length]
        return found


class Piece:
    """A piece of the stream that is on its way."""

    def __init__(self, data):
        self.data = data
        self.turn = 0  # of its last transmission; turns arrive in order, for a line does not overtake itself
        self.sent = 0.0
        self.tries = 0
        self.lost = True  # to be sent, for the first time or again


class Link:
    """One end of the line. The caller moves bytes: what it reads goes to `receive`, what `output` returns goes out.

    `now` is seconds of any monotonic clock; `baud` tells how long the line itself needs.
    """

    def __init__(self, session, side, baud, now):
        self.session = session
        self.host = side == "host"
        self.byte_s = 10.0 / baud
        self.window = WINDOW_BYTES[side]
        self.most, self.size = PIECE_BYTES[side], PIECE_BYTES["host"]
        self.heard = self.spoke = now  # when the other side was last heard, and asked for an answer
        self.bye = False  # the other side let go
        self.damaged = self.repeated = 0
        # receiving
        self.raw = bytearray()
        self.expected = 0
        self.early = {}
        self.unanswered = 0  # pieces
        self.answer = None  # an A or N that is due
        self.answer_at = self.complained = 0.0
        # sending
        self.waiting = bytearray()  # not yet cut into pieces
        self.pieces = {}  # number -> Piece, oldest first
        self.next = 0
        self.turn = 0
        self.trip_s = None  # the usual time to an acknowledgement, and how much it varies
        self.spread_s = 0.0
        self.backoff = 1.0

    def send(self, data):
        """Put bytes at the end of the stream."""
        self.waiting += data

    @property
    def backlog(self):
        """How many bytes of the stream the other side has not acknowledged."""
        return len(self.waiting) + sum(len(piece.data) for piece in self.pieces.values())

    def kind(self, letter):
        """A kind as this end writes it; an echo of our own frames is so told from an answer."""
        return letter if self.host else letter.lower()

    def receive(self, data, now):
        """Take bytes from the wire; returns what the stream brought, in order."""
        self.raw += data
        *parts, rest = self.raw.split(b"\x7e")
        self.raw = rest
        got = bytearray()
        for part in parts:
            if part:
                self.take(parse(bytes(part)), got, now)
        if len(self.raw) > FRAME_LIMIT:  # longer than any frame: it has no end, or is none
            self.raw.clear()
        return bytes(got)

    def take(self, found, got, now):
        """One frame, None for a damaged one."""
        if found is None:
            self.damaged += 1
            self.answer = self.kind(b"N")
            self.answer_at = max(now, self.complained + COMPLAIN_S)
            return
        kind, session, number, payload = found
        if kind.islower() != self.host:
            return
        kind = kind.upper()
        if kind == b"B" and (session == self.session or not self.host):
            self.bye = True  # also from a host that finds this end still serving one that is gone
        if session != self.session:
            return
        self.heard = now
        if kind == b"D":
            self.unanswered += 1
            at_once = number != self.expected or self.unanswered >= ANSWER_PIECES
            self.answer_soon(now if at_once else now + ANSWER_S)
            if (number - self.expected) % NUMBERS <= AHEAD:
                self.early[number] = payload
            while self.expected in self.early:
                got += self.early.pop(self.expected)
                self.expected = (self.expected + 1) % NUMBERS
        elif kind == b"P":
            self.answer_soon(now)
        elif kind in (b"A", b"N") and len(payload) == BITMAP.size:
            self.acknowledged(number, BITMAP.unpack(payload)[0], kind == b"N", now)

    def answer_soon(self, when):
        """An answer is due at a time, or before."""
        self.answer_at = min(self.answer_at, when) if self.answer else when
        self.answer = self.answer or self.kind(b"A")

    def acknowledged(self, expected, bitmap, damaged, now):
        """The other side has everything before `expected`, and of the pieces after it those in the bitmap."""
        latest = 0
        for number, piece in list(self.pieces.items()):
            ahead = (number - expected) % NUMBERS
            if ahead >= NUMBERS // 2 or (1 <= ahead <= AHEAD and bitmap >> (ahead - 1) & 1):
                del self.pieces[number]
                latest = max(latest, piece.turn)
                if piece.tries == 1:  # Karn: the answer to a repeated piece may be to either
                    self.learn(now - piece.sent)
                    self.size = min(self.most, self.size + 8)
        if latest:
            self.backoff = 1.0
        flying = [piece for piece in self.pieces.values() if not piece.lost]
        for piece in flying:
            piece.lost = piece.turn < latest
        if damaged and flying and not any(piece.lost for piece in flying):
            min(flying, key=lambda piece: piece.turn).lost = True

    def learn(self, trip_s):
        """RFC 6298's estimate of the time to an acknowledgement."""
        if self.trip_s is None:
            self.trip_s, self.spread_s = trip_s, trip_s / 2
        else:
            self.spread_s += (abs(trip_s - self.trip_s) - self.spread_s) / 4
            self.trip_s += (trip_s - self.trip_s) / 8

    def patience(self):
        """Seconds after which a piece without an answer counts as lost."""
        own = self.trip_s + 4 * self.spread_s if self.trip_s is not None else 1.0
        line = self.byte_s * sum(len(piece.data) for piece in self.pieces.values())
        return line + min(MAX_WAIT_S, max(LOST_S, own) * self.backoff)

    def wake(self, now):
        """Seconds until `output` has something to say, if nothing comes before."""
        due = [self.answer_at] if self.answer else []
        on_the_way = [piece.sent for piece in self.pieces.values() if not piece.lost]
        if on_the_way:
            due.append(min(on_the_way) + self.patience())
        if self.host:
            due.append(max(self.heard, self.spoke) + PING_S)
        return max(0.0, min(due) - now) if due else PING_S

    def output(self, now):
        """The bytes to write now. Called again only when they are written: so nothing grows old in a queue."""
        out = []
        if self.answer and now >= self.answer_at:
            bitmap = sum(1 << (number - self.expected) % NUMBERS - 1 for number in self.early)
            out.append(frame(self.answer, self.session, self.expected, BITMAP.pack(bitmap)))
            if self.answer.upper() == b"N":
                self.complained = now
            self.answer, self.unanswered = None, 0
        on_the_way = [piece for piece in self.pieces.values() if not piece.lost]
        if on_the_way:
            oldest = min(on_the_way, key=lambda piece: piece.sent)
            if now - oldest.sent >= self.patience():
                oldest.lost = True
                self.backoff *= 2
        flying = sum(len(piece.data) for piece in on_the_way if not piece.lost)
        room = min(3 * self.size, self.window - flying)  # an answer does not wait behind a whole window
        for piece in self.pieces.values():
            if piece.lost and (room > 0 or not flying):
                room -= len(piece.data)
                flying += self.fly(piece, out, now)
        while self.waiting and len(self.pieces) < AHEAD and (room >= 2 * self.size or not flying):
            payload = bytes(self.waiting[: self.size])
            del self.waiting[: self.size]
            piece = Piece(frame(self.kind(b"D"), self.session, self.next, payload))
            self.pieces[self.next] = piece
            self.next = (self.next + 1) % NUMBERS
            room -= len(piece.data)
            flying += self.fly(piece, out, now)
        if self.host and not self.pieces and now - max(self.heard, self.spoke) >= PING_S:
            out.append(frame(self.kind(b"P"), self.session, 0))
            self.spoke = now
        return b"".join(out)

    def fly(self, piece, out, now):
        """Send a piece; returns its size on the wire."""
        self.turn += 1
        if piece.tries:
            self.repeated += 1
            self.size = max(LEAST_BYTES, self.size * 3 // 4)
        piece.turn, piece.sent, piece.lost = self.turn, now, False
        piece.tries += 1
        out.append(piece.data)
        return len(piece.data)

    def farewell(self):
        """A bye for the wire; twice, because nobody answers it."""
        return 2 * frame(self.kind(b"B"), self.session, 0)
