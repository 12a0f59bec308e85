"""The core types: frozen data, no I/O. What was not measured is absent (None, and left out of the JSON form)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

Status = Literal["ok", "unsupported", "failed"]
Json = dict[str, Any]


@dataclass(frozen=True)
class Quantization:
    """Affine quantization: real = (stored - zero_point) * scale. One entry per tensor, or one per index of `axis`."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. `shape` includes the batch; `dtype` is a numpy name; `layout` is NHWC or NCHW for images."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str | None = None
    quantization: Quantization | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorSpec:
        q = data.get("quantization")
        quantization = Quantization(tuple(q["scale"]), tuple(q["zero_point"]), q.get("axis")) if q else None
        return cls(data["name"], tuple(data["shape"]), data["dtype"], data.get("layout"), quantization)


@dataclass(frozen=True)
class Model:
    """What is profiled or converted. `source` is a recipe's file, a file with a factory, or a model file or folder.

    `inputs` are as the source takes them: float for a model, as they are stored for an artifact. `frameworks` are the forms
    that `sources.build` can give, `entry` the function of a factory or the format of an artifact, `precision` that of an
    artifact, `digest` what a factory made (its file alone does not tell), `notes` what was decided on opening, and `about`
    what was found in a file.
    """

    name: str
    source: Path
    task: str
    description: str
    licence: str
    inputs: tuple[TensorSpec, ...]
    frameworks: tuple[str, ...]
    kind: str = "recipe"
    entry: str = ""
    precision: str = ""
    digest: str = ""
    trusted: bool = False
    metric_output: int = 0
    notes: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Inputs per call, where nothing else is asked for: 1 but for a file that was made for more."""
        return self.inputs[0].shape[0]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Model:
        inputs = tuple(TensorSpec.from_json(spec) for spec in data["inputs"])
        lists = {"frameworks": tuple(data["frameworks"]), "notes": tuple(data.get("notes", ()))}
        return cls(**{**data, **lists, "inputs": inputs, "source": Path(data["source"])})


@dataclass(frozen=True)
class Artifact:
    """One deployable file. `details` holds what its converter found out, for instance the delegated share; `framework` is the
    form of the model that it was made from, and so the one it is compared with ("" for a file that is taken as it is)."""

    model: str
    format: str
    precision: str
    path: Path
    sha256: str
    size_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    key: str
    made_with: Mapping[str, str]
    framework: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Device:
    """A device profile. `runtimes` are the runtimes it can run, best first, and `optional_runtimes` those that run only when
    they are asked for; `emulation` is None for a real device; `estimate` holds published figures and what was fitted to them."""

    name: str
    description: str
    arch: str
    transport: str
    runtimes: tuple[str, ...]
    connection: Mapping[str, Any] = field(default_factory=dict)
    emulation: Mapping[str, Any] | None = None
    hardware: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    optional_runtimes: tuple[str, ...] = ()
    source: Path | None = None
    estimate: Mapping[str, Any] | None = None

    @property
    def all_runtimes(self) -> tuple[str, ...]:
        return self.runtimes + self.optional_runtimes

    @property
    def emulated(self) -> bool:
        """Whether its latency is an emulator's."""
        return self.emulation is not None

    @property
    def counted(self) -> bool:
        """Whether the emulator counts instructions and tells the guest's memory, as user-mode QEMU with our plug-in does.

        A whole virtual machine has a kernel of its own, which keeps a board's figures of memory; nothing counts there.
        """
        return self.transport == "emulator"


@dataclass(frozen=True)
class Cell:
    """One point of the matrix: what is measured where."""

    model: str
    format: str
    precision: str
    runtime: str
    device: str
    threads: int = 1
    options: tuple[tuple[str, str], ...] = ()

    @property
    def batch(self) -> int:
        """Inputs per call."""
        return int(dict(self.options).get("batch", 1))

    @property
    def id(self) -> str:
        extra = "".join(f"+{key}={value}" for key, value in (("threads", str(self.threads)), *self.options))
        return f"{self.model}/{self.precision}/{self.runtime}@{self.device}{extra}"


@dataclass(frozen=True)
class Caveat:
    """A named weakness of a figure: `code` is that of a `caveats.Weakness`, `message` the sentence shown."""

    code: str
    message: str


@dataclass(frozen=True)
class Measurement:
    """All that is known of one cell. `launches` keeps raw integer nanoseconds; statistics are computed on reading.

    `void` are the launches that evidence spoke against, which count for nothing.
    """

    cell: Cell
    status: Status
    error: Mapping[str, Any] | None = None
    artifact: Mapping[str, Any] | None = None
    launches: tuple[Mapping[str, Any], ...] = ()
    memory: Mapping[str, Any] | None = None
    accuracy: Mapping[str, Any] | None = None
    fidelity: Mapping[str, Any] | None = None
    operators: Mapping[str, Any] | None = None
    sustained: Mapping[str, Any] | None = None
    energy: Mapping[str, Any] | None = None
    void: tuple[Mapping[str, Any], ...] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[Caveat, ...] = ()


def to_json(value: Any) -> Any:
    """The plain JSON form of any of these types: None fields are left out, tuples become lists, paths strings."""
    if is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, getattr(value, f.name)) for f in fields(value))
        return {name: to_json(item) for name, item in pairs if item is not None}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value
