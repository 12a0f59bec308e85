"""In a worker: a model file as a model of its framework, and any model as a function from arrays to arrays. No pickle is
loaded without weights_only unless the user trusts the file."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import errors
from edgekit.converters import _tflite_graph
from edgekit.errors import ConvertError, Unsupported, UserError
from edgekit.types import Model, TensorSpec

if TYPE_CHECKING:
    import numpy as np

# One inference: inputs of batch 1 in the order of the specs -> (outputs, their names).
Runner = Callable[[Sequence["np.ndarray"]], tuple[list["np.ndarray"], list[str]]]
TOLERANCE = 1e-4  # largest relative difference between a TorchScript model and its exported form
TRUST = "--trust, when you know where it comes from: it may then run any code"


def build(model: Model, framework: str) -> Any:
    """A model file in one of its frameworks: a torch.nn.Module, a keras.Model, or the path of a file or folder.

    Raises UserError when it cannot be opened, ConvertError when it was saved in training mode.
    """
    if framework == "keras":
        return keras_model(model.source, model.trusted)
    if framework == "torch":
        if model.kind == "pt2":
            return _inference_module(exported(model.source, model.trusted))
        if model.kind == "checkpoint":
            return checkpoint(model.source, model.trusted).eval().requires_grad_(False)
        return exported_script(model)
    return model.source


def framework_of(built: Any) -> str | None:
    """ "torch" or "keras" by the type of a model; None for anything else."""
    for module, kind in (("torch", "nn.Module"), ("keras", "Model")):
        if module in sys.modules:
            base: Any = sys.modules[module]
            for name in kind.split("."):
                base = getattr(base, name)
            if isinstance(built, base):
                return module
    return None


def exported(path: Path, trusted: bool) -> Any:
    """The ExportedProgram in a .pt2 file. Raises UserError when it would need an unsafe pickle, ConvertError in training mode."""
    import torch

    if not trusted:
        # torch.export.load asks torch.load for unsafe pickles in places; this overrides it.
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        program = torch.export.load(str(path))
    except Exception as error:
        text = first_line(error)
        if "weights_only" in str(error) or "Unsupported global" in str(error):
            raise UserError(
                f"{path.name} holds pickled objects that can run code when they are loaded", TRUST
            ) from error
        raise UserError(
            f"{path.name} cannot be opened by torch.export: {text}", "save it with this version of torch"
        ) from error
    for node in program.graph.nodes:
        if node.op == "call_function":
            schema = getattr(node.target, "_schema", None)
            if schema is None:
                continue  # no operator: getitem, which takes one of several outputs, and sums of open sizes
            name = str(node.target)
            arguments = {a.name: v for a, v in zip(schema.arguments, node.args, strict=False)}
            arguments |= node.kwargs
            if arguments.get("training") is True or (arguments.get("train") is True and "dropout" in name):
                _refuse_training(path, name)
    return program


def package(path: Path, trusted: bool) -> Any:
    """The function in an AOTInductor package. Raises UserError when the user does not trust its machine code."""
    import torch

    if not trusted:
        raise UserError(f"{path.name} holds machine code, which runs when the file is opened", TRUST)
    try:
        return torch._inductor.aoti_load_package(str(path))
    except Exception as error:
        message = f"{path.name} cannot be opened by AOTInductor: {first_line(error)}"
        raise UserError(message, "compile it on this kind of machine, with this version of torch") from error


def script(path: Path) -> Any:
    """The ScriptModule in a TorchScript file. Raises UserError when it is none, ConvertError in training mode."""
    import torch

    try:
        module = torch.jit.load(str(path), map_location="cpu")
    except Exception as error:
        raise UserError(f"{path.name} is no TorchScript file, or it is damaged: {first_line(error)}") from error
    module.eval()
    graph = module.graph.copy()
    torch._C._jit_pass_inline(graph)
    for kind, position in (("aten::dropout", 2), ("aten::batch_norm", 5)):
        for node in graph.findAllNodes(kind, recurse=True):
            # Not a constant in a scripted module, which asks self.training: eval() has settled that.
            if list(node.inputs())[position].toIValue() is True:
                _refuse_training(path, kind)
    return module


def _refuse_training(path: Path, operator: str) -> None:
    raise ConvertError(
        f"{path.name} was saved in training mode ({operator} computes its training form)",
        "call model.eval() before exporting or tracing it",
    )


def exported_script(model: Model) -> Any:
    """A TorchScript file as a module that torch.export takes, checked to compute the same."""
    import numpy as np
    import torch
    from torch._export.converter import TS2EPConverter

    module = script(model.source)
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(0.0, 1.0, spec.shape).astype(spec.dtype) for spec in model.inputs]
    example = tuple(torch.from_numpy(array) for array in arrays)
    try:
        built = _inference_module(TS2EPConverter(module, example).convert())
    except Exception as error:
        raise Unsupported(
            f"torch cannot export the TorchScript file {model.source.name}: {first_line(error)}",
            "export the Python model instead: torch.export.save(torch.export.export(model, inputs), 'model.pt2')",
        ) from error
    expected, _ = runner(module, "torch", model.inputs)(arrays)
    found, _ = runner(built, "torch", model.inputs)(arrays)
    for one, other in zip(found, expected, strict=True):
        if not np.max(np.abs(one - other)) <= TOLERANCE * max(float(np.max(np.abs(other))), 1e-12):
            raise ConvertError(
                f"torch's exported form of {model.source.name} computes something else than the file does"
            )
    return built


def _inference_module(program: Any) -> Any:
    """An ExportedProgram as a module. Its graph is fixed, so it has no eval(), but its flag would say that it trains."""
    module = program.module()
    for part in module.modules():
        part.training = False
    return module.requires_grad_(False)


def checkpoint(path: Path, trusted: bool) -> Any:
    """The pickled nn.Module in a .pt file that the user trusts. Raises UserError for anything else."""
    import torch

    if not trusted:
        raise UserError(f"{path.name} is a pickled model, which can run any code when it is loaded", TRUST)
    try:
        module = torch.load(str(path), map_location="cpu", weights_only=False)
    except (AttributeError, ModuleNotFoundError) as error:
        message = f"{path.name} needs Python code that is not here: {first_line(error)}"
        raise UserError(message, "give a factory that builds the model instead: path.py:function") from error
    if not isinstance(module, torch.nn.Module):
        message = f"{path.name} holds a {type(module).__name__}, not a model: weights without their architecture"
        raise UserError(message, "give a factory that builds the model and loads them: path.py:function")
    return module


def keras_model(path: Path, trusted: bool) -> Any:
    """The model in a .keras or .h5 file (of Keras 2 too). Raises UserError when it cannot be opened or needs trust."""
    import keras

    try:
        return keras.saving.load_model(str(path), compile=False, safe_mode=not trusted)
    except Exception as error:
        text = first_line(error)
        if "safe_mode" in str(error) or "unsafe" in str(error).lower():
            raise UserError(f"{path.name} holds Python code (a Lambda layer)", TRUST) from error
        hint = "a file with layers of your own needs a factory that builds the model: path.py:function"
        raise UserError(f"{path.name} cannot be opened by Keras: {text}", hint) from error


def keras_inputs(
    model: Any, shapes: Sequence[TensorSpec] | None, said: bool = True
) -> tuple[tuple[TensorSpec, ...], list[str]]:
    """The inputs of a Keras model with open sizes taken from `shapes` or, for the batch, fixed to 1; and notes about that.

    `said`: see `asked`.
    """
    try:
        tensors = list(model.inputs)
    except (AttributeError, ValueError, TypeError):
        tensors = []
    if not tensors:
        if not shapes:
            raise UserError(
                "the Keras model does not say what it takes", "give --input, for instance --input 1x224x224x3"
            )
        return tuple(_named(spec, f"input{i or ''}") for i, spec in enumerate(shapes)), []
    found = [TensorSpec(tensor.name.split(":")[0], tuple(tensor.shape), str(tensor.dtype)) for tensor in tensors]
    return fixed(found, shapes, "NHWC", said)


def forward_names(module: Any) -> tuple[list[str], bool]:
    """(the names of what a torch module's forward() takes, whether it may take more)."""
    if hasattr(getattr(module, "forward", None), "schema"):  # TorchScript
        return [argument.name for argument in module.forward.schema.arguments[1:]], False
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (AttributeError, TypeError, ValueError):
        return [], True
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind in places]
    return names, any(parameter.kind == inspect.Parameter.VAR_POSITIONAL for parameter in parameters)


def torch_inputs(
    module: Any, shapes: Sequence[TensorSpec], example: Any, what: str, said: bool = True
) -> tuple[TensorSpec, ...]:
    """The inputs of a torch module (None: one that tells no names) in forward()'s order: `shapes`, else those of `example`
    (a tensor or several). `said`: see `asked`."""
    if not shapes and example is None:
        hint = "--input 1x3x224x224, or INPUT = {...} in the file, or let the function return (model, example_inputs)"
        raise UserError(f"{what} does not say what it takes", hint)
    names, more = forward_names(module)
    if not shapes:
        said, tensors = False, list(example) if isinstance(example, (tuple, list)) else [example]
        shapes = [TensorSpec("", (1, *t.shape[1:]), str(t.dtype).removeprefix("torch.")) for t in tensors]
    if said and not more:
        if len(shapes) > len(names):
            shown = ", ".join(names) or "nothing"
            raise UserError(f"{what} takes {shown}, --input gives {len(shapes)}", "one --input for each, in order")
        places = asked(names, shapes)
        while places and places[-1] is None:
            places.pop()  # what has a default may be left out, at the end
        missing = [name for name, spec in zip(names, places, strict=False) if spec is None]
        if missing:
            raise UserError(f"{what} takes '{missing[0]}', and --input does not give it", f"{', '.join(names)} in all")
        shapes = [_named(spec, name, True) for name, spec in zip(names, places, strict=False) if spec is not None]
    made = []
    for index, spec in enumerate(shapes):
        layout = spec.layout or ("NCHW" if len(spec.shape) == 4 else None)
        name = names[index] if index < len(names) else f"input{index or ''}"
        made.append(_named(TensorSpec(spec.name, spec.shape, spec.dtype, layout), name))
    return tuple(made)


def _named(spec: TensorSpec, name: str, always: bool = False) -> TensorSpec:
    """The spec under this name where it has none of its own, or `always`."""
    return dataclasses.replace(spec, name=name if always else spec.name or name)


def asked(names: Sequence[str], shapes: Sequence[TensorSpec], said: bool = True) -> list[TensorSpec | None]:
    """For each of a model's inputs the one of `shapes` that is meant: by name where it has one, the others in order.

    `said`: the shapes are the user's --input, whose names must be the model's. An author's own (INPUTS in a file with a
    factory) are free: they are taken in order unless all of them are the model's. Raises UserError for a wrong name.
    """
    if not said and not {spec.name for spec in shapes} <= set(names):
        shapes = [dataclasses.replace(spec, name="") for spec in shapes]
    found: dict[str, TensorSpec] = {}
    for spec in shapes:
        if spec.name and spec.name not in names:
            raise errors.unknown("input", spec.name, names)
        if spec.name in found:
            raise UserError(f"--input gives '{spec.name}' twice", "once for each input")
        if spec.name:
            found[spec.name] = spec
    rest = iter([spec for spec in shapes if not spec.name])
    return [found[name] if name in found else next(rest, None) for name in names]


def fixed(
    found: Sequence[TensorSpec], shapes: Sequence[TensorSpec] | None, layout: str | None, said: bool = True
) -> tuple[tuple[TensorSpec, ...], list[str]]:
    """Specs with every size known: open ones (None or below 1) from `shapes`, the batch else 1; and notes about that.
    With None for `shapes` the open sizes stay open, as -1. `said`: see `asked`.

    Raises UserError when another size than the batch is open and not given, or when `shapes` contradict the model.
    """
    if shapes is None:
        return tuple(_open(spec, layout) for spec in found), []
    wishes = asked([spec.name for spec in found], shapes, said)
    by_name = all(spec.name for spec in shapes)
    if len(shapes) > len(found) or (len(shapes) < len(found) and not by_name):
        raise UserError(
            f"the model has {len(found)} inputs, --input gives {len(shapes)}", "one --input for each, in order"
        )
    specs, notes = [], []
    for spec, wanted in zip(found, wishes, strict=True):
        sizes = []
        for axis, size in enumerate(spec.shape):
            known = isinstance(size, int) and size > 0
            wish = wanted.shape[axis] if wanted and axis < len(wanted.shape) else None
            if known and wish not in (None, size):
                raise UserError(f"the input '{spec.name}' has {size} at axis {axis}, --input says {wish}")
            if not known and wish is None:
                if axis:
                    hint = (
                        f"say which size, for instance --input {'x'.join(str(s or 16) for s in (1, *spec.shape[1:]))}"
                    )
                    raise UserError(f"the input '{spec.name}' has an open size at axis {axis}: {spec.shape}", hint)
                notes.append(f"the batch of '{spec.name}' is open in the model and was fixed to 1")
            sizes.append(int(size) if known else int(wish or 1))
        order = (wanted.layout if wanted else None) or spec.layout or (layout if len(sizes) == 4 else None)
        specs.append(TensorSpec(spec.name, tuple(sizes), spec.dtype, order, spec.quantization))
    return tuple(specs), notes


def _open(spec: TensorSpec, layout: str | None) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) and size > 0 else -1 for size in spec.shape)
    own = spec.layout or (layout if len(shape) == 4 else None)
    return TensorSpec(spec.name, shape, spec.dtype, own, spec.quantization)


def runner(built: Any, framework: str, specs: Sequence[TensorSpec]) -> Runner:
    """A function that runs the model on one sample. `built` is what `build` gives."""
    import numpy as np

    if framework == "torch":
        import torch

        def run_torch(xs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[str]]:
            with torch.no_grad():
                values, names = flat(built(*(torch.from_numpy(np.ascontiguousarray(x)) for x in xs)))
            return [value.detach().numpy() for value in values], names

        return run_torch
    if framework == "keras":
        import tensorflow as tf

        function = tf.function(lambda *xs: built(list(xs) if len(xs) > 1 else xs[0], training=False))
        concrete = function.get_concrete_function(*(tf.TensorSpec(spec.shape, spec.dtype) for spec in specs))

        def run_keras(xs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[str]]:
            values, names = flat(concrete(*(tf.constant(x) for x in xs)))
            return [np.asarray(value) for value in values], names

        return run_keras
    if framework == "fake":
        return lambda xs: ([x.reshape(1, -1) for x in xs], [f"output{i or ''}" for i in range(len(xs))])
    return {"savedmodel": _saved_runner, "tflite": _tflite_runner, "onnx": _onnx_runner}[framework](Path(built), specs)


def flat(result: Any) -> tuple[list[Any], list[str]]:
    """A model's result as (tensors, names): a tensor, a tuple, a list or a dict of tensors, nested as they like."""
    if isinstance(result, Mapping):
        pairs = [(str(name), value) for name, value in result.items()]
    elif isinstance(result, (tuple, list)):
        pairs = [("", value) for value in result]
    else:
        if not hasattr(result, "__array__"):
            message = f"the model returns a {type(result).__name__} where a tensor is needed"
            raise UserError(message, "return the tensor itself, for instance the class scores")
        return [result], ["output"]
    values: list[Any] = []
    names: list[str] = []
    for name, value in pairs:
        inner, inner_names = flat(value)
        values += inner
        names += [name or other if len(inner) == 1 else f"{name}{other}" for other in inner_names]
    if len(set(names)) < len(names):
        names = [f"output{index or ''}" for index in range(len(names))]
    return values, names


def _saved_runner(path: Path, specs: Sequence[TensorSpec]) -> Runner:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    function = loaded.signatures["serving_default"]

    def run(xs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[str]]:
        found = function(**{spec.name: tf.constant(x) for spec, x in zip(specs, xs, strict=True)})
        names = sorted(found)  # their order is another one at every loading
        return [found[name].numpy() for name in names], names

    run.keep = loaded  # type: ignore[attr-defined] # its variables live only as long as it does
    return run


def _tflite_runner(path: Path, specs: Sequence[TensorSpec]) -> Runner:
    """Real numbers go in and come out, where the file has quantized integers too."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    inputs = interpreter.get_input_details()  # in the order of the graph, as `specs` are
    for tensor, spec in zip(inputs, specs, strict=True):
        interpreter.resize_tensor_input(tensor["index"], spec.shape)
    interpreter.allocate_tensors()
    outputs = interpreter.get_output_details()
    names = [name for name, _ in _tflite_graph.ends(_tflite_graph.parsed(path.read_bytes()), "outputs")]

    def stored(x: np.ndarray, tensor: Any) -> np.ndarray:
        (scale, zero_point), dtype = tensor["quantization"], np.dtype(tensor["dtype"])
        if dtype.kind in "iu" and scale:
            limits = np.iinfo(dtype)
            x = np.clip(np.rint(x.astype(np.float64) / scale) + zero_point, limits.min, limits.max)
        return x.astype(dtype)

    def real(x: np.ndarray, tensor: Any) -> np.ndarray:
        scale, zero_point = tensor["quantization"]
        quantized = x.dtype.kind in "iu" and scale
        return ((x.astype(np.float64) - zero_point) * scale).astype(np.float32) if quantized else x

    def run(xs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[str]]:
        for tensor, x in zip(inputs, xs, strict=True):
            interpreter.set_tensor(tensor["index"], stored(x, tensor))
        interpreter.invoke()
        return [real(interpreter.get_tensor(tensor["index"]), tensor) for tensor in outputs], names

    return run


def _onnx_runner(path: Path, specs: Sequence[TensorSpec]) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in session.get_outputs()]

    def run(xs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[str]]:
        feeds = {spec.name: x for spec, x in zip(specs, xs, strict=True)}
        return session.run(names, feeds), names

    return run


def digest(built: Any, framework: str, folder: Path) -> str:
    """A hash of a model's architecture and weights, and of the Python files of `folder` that were imported to make it."""
    import numpy as np

    total = hashlib.sha256()
    if framework == "torch":
        total.update(repr(built).encode())
        state = built.state_dict()
        arrays = {name: value.numpy() for name, value in state.items() if hasattr(value, "numpy")}
    else:
        total.update(json.dumps(built.get_config(), sort_keys=True, default=str).encode())
        arrays = {f"{i} {weight.path}": np.asarray(weight) for i, weight in enumerate(built.weights)}
    for name, array in arrays.items():
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    loaded = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    for path in sorted({Path(file) for file in loaded if file and Path(file).is_relative_to(folder)}):
        if "site-packages" not in path.parts and path.suffix == ".py" and path.is_file():
            total.update(path.read_bytes())
    return total.hexdigest()


def first_line(error: BaseException) -> str:
    """What a tool says, its first line; TorchScript's interpreter says it in the last one, below its own stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and "in the TorchScript interpreter" in lines[0]:
        lines = [lines[-1].removeprefix("RuntimeError: ")]
    return lines[0][:300] if lines else type(error).__name__
