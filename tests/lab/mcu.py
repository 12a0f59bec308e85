"""A microcontroller with MLPerf Tiny's firmware, scripted after benchmark/api/internally_implemented.cpp of mlcommons/tiny."""

from __future__ import annotations

import os
import pty
import re
import select
import threading
import time
import tty
from collections.abc import Callable

from lab.lines import Line

COMMAND_SIZE = 80


def atoi(text: str) -> int:
    """As C has it: what is no digit ends the number, and no number is 0."""
    found = re.match(r"-?[0-9]+", text)
    return int(found.group()) if found else 0


class Mcu:
    """Answers at `line.name`. `answer(input bytes) -> results`; an inference takes `inference_s` of its and our time."""

    def __init__(self, answer: Callable[[bytes], list[float]], inference_s: float = 0.001) -> None:
        self.answer, self.inference_s = answer, inference_s
        self.device, self.cable = pty.openpty()
        tty.setraw(self.device)
        tty.setraw(self.cable)
        self.line = Line(self.cable)
        self.commands: list[str] = []
        self.buffer, self.size = bytearray(), 0
        self.clock_us = 4_294_000_000  # it wraps in the middle of what is measured
        self.drift = 1.0
        self.results: list[float] = []
        self.stopping = False
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        command = b""
        while not self.stopping:
            if not select.select([self.device], [], [], 0.1)[0]:
                continue
            for byte in os.read(self.device, 4096):
                if byte == ord("%"):
                    self._do(command.decode("ascii", "replace"))
                    command = b""
                elif len(command) < COMMAND_SIZE:
                    command += bytes([byte])

    def _say(self, *lines: str) -> None:
        data = "".join(f"{line}\r\n" for line in lines).encode()
        while data:
            data = data[os.write(self.device, data) :]

    def _do(self, command: str) -> None:
        self.commands.append(command)
        words = command.split() or [""]
        if words[0] == "name":
            self._say("m-name-dut-[unspecified]")
        elif words[0] == "profile":
            self._say("m-profile-[ULPMark for tinyML Firmware V0.0.1]", "m-model-[ic01]")
        elif words[0] == "db" and len(words) > 1:
            self._db(words[1:])
        elif words[0] == "infer":
            count = atoi(words[1]) if len(words) > 1 else 1
            warmup = atoi(words[2]) if len(words) > 2 else 10
            if count <= 0:
                self._say("e-[Inference iterations must be >0]")
            else:
                self._infer(count, warmup)
        elif words[0] == "results":
            self._results()
        else:
            self._say(f"e-[Unknown command: {words[0]}]")
        self._say("m-ready")

    def _db(self, words: list[str]) -> None:
        if words[0] == "load":
            self.buffer, self.size = bytearray(), atoi(words[1]) if len(words) > 1 else 0
            self._say(f"m-[Expecting {self.size} bytes]")
        elif words[0] == "print":
            for start in range(0, self.size, 8):
                self._say("m-buffer-" + "-".join(f"{byte:02x}" for byte in self.buffer[start : start + 8]))
        else:
            try:
                self.buffer += bytes.fromhex(words[0])
            except ValueError:
                self._say("e-[Invalid hex digit]")
                return
            if len(self.buffer) >= self.size:
                del self.buffer[self.size :]
                self._say("m-load-done")

    def _infer(self, count: int, warmup: int) -> None:
        self._say(f"m-warmup-start-{warmup}", "m-warmup-done", f"m-infer-start-{count}")
        self._say(f"m-lap-us-{self.clock_us % (1 << 32)}")
        time.sleep(count * self.inference_s)
        self.clock_us += round(count * self.inference_s * 1e6 * self.drift)
        self._say(f"m-lap-us-{self.clock_us % (1 << 32)}", "m-infer-done")
        self.results = self.answer(bytes(self.buffer))
        self._results()

    def _results(self) -> None:
        self._say("m-results-[" + ",".join(f"{value:0.3f}" for value in self.results) + "]")

    def close(self) -> None:
        self.stopping = True
        self.thread.join()
        self.line.close()
        os.close(self.device)
        os.close(self.cable)
