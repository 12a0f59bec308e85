"""A microcontroller with the firmware of EEMBC or MLPerf Tiny, to which this machine speaks by serial commands.

The model was flashed with the firmware; the .tflite file only says what goes in and comes out. Time is the microcontroller's
own: of N inferences in a row, N such that they take ten seconds, as the rules of MLPerf Tiny want them.
"""

import math
import os
import struct

from ..protocol import Fault
from ._library import size_bytes
from ._mcu import Firmware

FORMATS = ("tflite",)
NO_PROFILER = "the firmware tells the time of whole inferences only"
REMOTE = True  # what runs the model is not this process: its memory and this machine's load say nothing
PORT, BAUD = "EDGEKIT_MCU_PORT", "EDGEKIT_MCU_BAUD"  # set by edgekit/transports/mcu.py
RULE_NS = 10_000_000_000
RULE_INFERENCES = 10
CODES = {"int8": "b", "uint8": "B", "int16": "h", "int32": "i", "float32": "f"}


def firmware():
    """The microcontroller. Raises Fault("unavailable")."""
    if not os.environ.get(PORT):
        raise Fault("unavailable", "it is not known on which port the microcontroller is")
    return Firmware(os.environ[PORT], int(os.environ.get(BAUD, "115200")))


def probe(libraries):
    """Who answers, and the model that was flashed."""
    found = firmware()
    try:
        return {"version": found.profile, "name": found.name, "model": found.model}
    finally:
        found.close()


def load(path, options):
    """The microcontroller, with the tensors of the file it was flashed with."""
    if "inputs" not in options or "outputs" not in options:
        raise Fault("bad_model", "the tensors of the model must be given: a microcontroller does not tell them")
    for tensor in (*options["inputs"], *options["outputs"]):
        if tensor["dtype"] not in CODES:
            raise Fault("unsupported", "tensors of %s are not known to this firmware" % tensor["dtype"])
    if len(options["inputs"]) != 1 or len(options["outputs"]) != 1:
        raise Fault("unsupported", "this firmware takes one input and gives one output")
    return Loaded(options)


class Loaded:
    """The model on the microcontroller."""

    sample_ns = RULE_NS
    least_batch = RULE_INFERENCES

    def __init__(self, options):
        self.inputs = [{key: tensor[key] for key in ("name", "shape", "dtype")} for tensor in options["inputs"]]
        self.outputs = [{key: tensor[key] for key in ("name", "shape", "dtype")} for tensor in options["outputs"]]
        self.quantization = options["outputs"][0].get("quantization")
        self.firmware = firmware()
        self.version = self.firmware.profile
        self.delegation = {"firmware": self.firmware.name, "model": self.firmware.model}
        self.results = []
        self.typical_ns = 0

    def set_input(self, index, data):
        """Send the bytes of the input tensor, as the file has them."""
        self.firmware.load(data)

    def run(self):
        """One inference."""
        self.repeat(1)

    def repeat(self, count):
        """So many inferences in a row; nanoseconds in all, by the microcontroller's clock."""
        spent_us, self.results = self.firmware.infer(count, 0, count * self.typical_ns / 1e9)
        self.typical_ns = spent_us * 1000 / count
        return spent_us * 1000

    def output(self, index):
        """The results, which are printed as numbers, as the bytes of the output tensor."""
        tensor = self.outputs[index]
        code = CODES[tensor["dtype"]]
        count = size_bytes(tensor) // struct.calcsize("<" + code)
        if len(self.results) != count:
            raise Fault(
                "bad_model", "the microcontroller gave %d results, the model has %d" % (len(self.results), count)
            )
        if tensor["dtype"] == "float32":
            return struct.pack("<%df" % count, *self.results)
        if not self.quantization:
            raise Fault("bad_model", "the output has no scale, and the microcontroller gives numbers")
        if not all(map(math.isfinite, self.results)):
            raise Fault("bad_model", "the microcontroller gave results that no %s can be" % tensor["dtype"])
        scale, zero = self.quantization["scale"][0], self.quantization["zero_point"][0]
        bits = 8 * struct.calcsize("<" + code)
        low, high = (0, (1 << bits) - 1) if tensor["dtype"] == "uint8" else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        stored = [max(low, min(high, round(value / scale) + zero)) for value in self.results]
        return struct.pack("<%d%s" % (count, code), *stored)

    def close(self):
        """Let go of the port."""
        self.firmware.close()
