"""Finds a truncated or damaged .tflite file before LiteRT reads beyond its end: LiteRT trusts every offset in it.

Only positions and lengths are looked at; the host looks at its own files with it too.
Layout: FlatBuffers' "Internals"; fields: TensorFlow Lite's schema.fbs.
"""

import mmap
import struct

# table -> {field: what it refers to}: a vector by the bytes of an element, a table or a vector of tables by name
STRING = 1
GRAPHS = 2  # the field of a Model
SCHEMA = {
    "Model": {1: ["OperatorCode"], 2: ["SubGraph"], 3: STRING, 4: ["Buffer"], 5: 4, 6: ["Metadata"], 7: ["Signature"]},
    "OperatorCode": {1: STRING},
    "SubGraph": {0: ["Tensor"], 1: 4, 2: 4, 3: ["Operator"], 4: STRING},
    "Tensor": {0: 4, 3: STRING, 4: "Quantization", 7: 4},
    "Quantization": {0: 4, 1: 4, 2: 4, 3: 8},
    "Operator": {1: 4, 2: 4, 4: "Options", 5: 1, 7: 1, 8: 4},
    "Options": {},  # one of a hundred tables, none of which refers to much
    "Buffer": {0: 1},
    "Metadata": {0: STRING},
    "Signature": {0: ["TensorName"], 1: ["TensorName"], 2: STRING},
    "TensorName": {0: STRING},
}


class Damaged(ValueError):
    """An offset or a length leads out of the file."""


def verify(path):
    """Follow every offset from the root of a .tflite file. Raises Damaged when one leads out of the file."""
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            (root,) = struct.unpack_from("<I", data, 0)
            if root < 8:
                raise Damaged("its first table lies in its header")
            follow(data, root, "Model")
            if not count(data, root, GRAPHS):
                raise Damaged("there is no graph in it")
        except struct.error:
            raise Damaged("an offset leads beyond the end of the file") from None


def count(data, place, field):
    """How many entries the vector in this field of the table at `place` has; the table was followed before."""
    (back,) = struct.unpack_from("<i", data, place)
    (length,) = struct.unpack_from("<H", data, place - back)
    if 6 + 2 * field > length:
        return 0
    (offset,) = struct.unpack_from("<H", data, place - back + 4 + 2 * field)
    if not offset:
        return 0
    (step,) = struct.unpack_from("<I", data, place + offset)
    return struct.unpack_from("<I", data, place + offset + step)[0]


def follow(data, place, kind):
    """Check the table of this kind at `place`, and all it refers to."""
    (back,) = struct.unpack_from("<i", data, place)
    if not 0 <= place - back <= len(data) - 4:
        raise Damaged("a %s table has no field list" % kind)
    length, size = struct.unpack_from("<HH", data, place - back)
    if place - back + length > len(data) or place + size > len(data):
        raise Damaged("a %s table goes beyond the end of the file" % kind)
    for field, content in SCHEMA[kind].items():
        entry = 4 + 2 * field
        if entry + 2 > length:
            continue
        (offset,) = struct.unpack_from("<H", data, place - back + entry)
        if offset:
            (step,) = struct.unpack_from("<I", data, place + offset)
            refer(data, place + offset + step, content, kind)


def refer(data, place, content, kind):
    """Check what a field of a table refers to."""
    if isinstance(content, str):
        follow(data, place, content)
        return
    (count,) = struct.unpack_from("<I", data, place)
    width = 4 if isinstance(content, list) else content
    if place + 4 + count * width > len(data):
        raise Damaged("%d entries of a %s table go beyond the end of the file" % (count, kind))
    if isinstance(content, list):
        for index, step in enumerate(struct.unpack_from("<%dI" % count, data, place + 4)):
            follow(data, place + 4 + 4 * index + step, content[0])
