"""Single Keras layers as torch modules. Tensors of rank 4 are images, NHWC in Keras and NCHW here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.errors import Unsupported

if TYPE_CHECKING:
    import torch

CHANNELS_LAST_TO_FIRST = {1: 2, 2: 3, 3: 1}  # axis of an image in Keras -> axis here
NOTHING_AT_INFERENCE = (
    "ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "Identity",
    "SpatialDropout1D", "SpatialDropout2D",
)  # fmt: skip


def module(layer: Any, ranks: Sequence[int]) -> torch.nn.Module:
    """The torch module of a layer whose inputs have these ranks. Raises Unsupported naming the layer."""
    import torch

    kind = type(layer).__name__
    if getattr(layer, "data_format", "channels_last") not in ("channels_last", None):
        raise unsupported(layer, "its images are channels_first")
    if kind in NOTHING_AT_INFERENCE:
        return torch.nn.Identity()
    if kind in MERGES:
        return _Function(MERGES[kind])
    if kind not in BUILDERS:
        raise unsupported(layer, "that layer has no torch form here")
    made = BUILDERS[kind](layer, ranks[0])
    activation = getattr(layer, "activation", None)
    if activation is None or kind == "Activation":
        return made
    return torch.nn.Sequential(made, _activation(layer, activation, ranks[0]))


def unsupported(layer: Any, why: str) -> Unsupported:
    """The error for a layer that cannot be mapped."""
    message = f"the Keras layer '{layer.name}' ({type(layer).__name__}) cannot go to ExecuTorch: {why}"
    return Unsupported(message, f"known: {', '.join(sorted({*BUILDERS, *MERGES}))}")


def _Function(function: Callable[..., Any]) -> torch.nn.Module:  # noqa: N802 -- it stands where a class would
    """A module around a function without weights."""
    import torch

    class Function(torch.nn.Module):  # type: ignore[misc]
        def forward(self, *tensors: torch.Tensor) -> Any:
            return function(*tensors)

    return Function()


def _fold(pair: Callable[[Any, Any], Any], tensors: Sequence[Any]) -> Any:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = pair(total, tensor)
    return total


def _maximum(a: Any, b: Any) -> Any:
    import torch

    return torch.maximum(a, b)


def _minimum(a: Any, b: Any) -> Any:
    import torch

    return torch.minimum(a, b)


MERGES: dict[str, Callable[..., Any]] = {
    "Add": lambda *tensors: _fold(lambda a, b: a + b, tensors),
    "Subtract": lambda a, b: a - b,
    "Multiply": lambda *tensors: _fold(lambda a, b: a * b, tensors),
    "Average": lambda *tensors: _fold(lambda a, b: a + b, tensors) / len(tensors),
    "Maximum": lambda *tensors: _fold(_maximum, tensors),
    "Minimum": lambda *tensors: _fold(_minimum, tensors),
}


def _same(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """TensorFlow's padding "same" along one axis: (before, after); after gets the odd one."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def _convolution(layer: Any, rank: int) -> torch.nn.Module:
    """Conv2D and DepthwiseConv2D. Kernels: HWIO -> OIHW, depthwise HWCM -> (C*M)1HW."""
    import numpy as np
    import torch

    if layer.padding not in ("same", "valid"):
        raise unsupported(layer, f"its padding is '{layer.padding}'")
    kernel = np.asarray(layer.kernel)
    if type(layer).__name__ == "DepthwiseConv2D":
        height, width, channels, multiplier = kernel.shape
        groups = channels
        kernel = kernel.transpose(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width)
    else:
        groups = layer.groups
        kernel = kernel.transpose(3, 2, 0, 1)
    strides, dilations = tuple(layer.strides), tuple(layer.dilation_rate)
    same = layer.padding == "same"
    bias = _tensor(layer.bias) if layer.use_bias else None

    class Convolution(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.from_numpy(np.array(kernel)))
            self.bias = None if bias is None else torch.nn.Parameter(bias)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            padding = (0, 0)
            if same:
                sizes = zip(x.shape[2:], self.weight.shape[2:], strides, dilations, strict=True)
                (top, bottom), (left, right) = (_same(*size) for size in sizes)
                if (top, left) == (bottom, right):
                    padding = (top, left)
                else:
                    x = torch.nn.functional.pad(x, (left, right, top, bottom))
            return torch.nn.functional.conv2d(x, self.weight, self.bias, strides, padding, dilations, groups)

    return Convolution()


def _separable(layer: Any, rank: int) -> torch.nn.Module:
    """SeparableConv2D: a depthwise and a pointwise convolution."""
    import numpy as np
    import torch

    class Parts:
        """What `_convolution` asks of a layer."""

        def __init__(self, name: str, kernel: Any, strides: Any, dilations: Any, bias: Any) -> None:
            self.name, self.kernel, self.strides, self.dilation_rate = name, kernel, strides, dilations
            self.padding, self.groups = layer.padding, 1
            self.use_bias, self.bias = bias is not None, bias

    depth = type("DepthwiseConv2D", (Parts,), {})
    first = depth(layer.name, np.asarray(layer.depthwise_kernel), layer.strides, layer.dilation_rate, None)
    bias = layer.bias if layer.use_bias else None
    second = Parts(layer.name, np.asarray(layer.pointwise_kernel), (1, 1), (1, 1), bias)
    return torch.nn.Sequential(_convolution(first, rank), _convolution(second, rank))


def _dense(layer: Any, rank: int) -> torch.nn.Module:
    import torch

    weight = _tensor(layer.kernel)
    linear = torch.nn.Linear(*weight.shape, bias=layer.use_bias)
    linear.weight = torch.nn.Parameter(weight.T.contiguous())
    if layer.use_bias:
        linear.bias = torch.nn.Parameter(_tensor(layer.bias))
    if rank != 4:
        return linear
    to_last, to_first = _Function(lambda x: x.permute(0, 2, 3, 1)), _Function(lambda x: x.permute(0, 3, 1, 2))
    return torch.nn.Sequential(to_last, linear, to_first)


def _normalization(layer: Any, rank: int) -> torch.nn.Module:
    """BatchNormalization over the channels, in inference mode."""
    import torch

    axis = layer.axis[0] if isinstance(layer.axis, (list, tuple)) else layer.axis
    if rank not in (2, 4) or axis % rank != rank - 1:
        raise unsupported(layer, f"it normalizes axis {axis} of a tensor of rank {rank}")
    mean = _tensor(layer.moving_mean)
    made = (torch.nn.BatchNorm2d if rank == 4 else torch.nn.BatchNorm1d)(len(mean), eps=layer.epsilon)
    made.running_mean, made.running_var = mean, _tensor(layer.moving_variance)
    made.weight = torch.nn.Parameter(_tensor(layer.gamma) if layer.scale else torch.ones_like(mean))
    made.bias = torch.nn.Parameter(_tensor(layer.beta) if layer.center else torch.zeros_like(mean))
    return made


def _activation(layer: Any, function: Any, rank: int) -> torch.nn.Module:
    """One of Keras' activations by its name."""
    import torch

    nn = torch.nn
    name = getattr(function, "__name__", type(function).__name__)
    known: dict[str, Callable[[], torch.nn.Module]] = {
        "linear": nn.Identity, "relu": nn.ReLU, "relu6": nn.ReLU6, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh,
        "silu": nn.SiLU, "swish": nn.SiLU, "elu": nn.ELU, "hard_silu": nn.Hardswish, "hard_swish": nn.Hardswish,
        "hard_sigmoid": nn.Hardsigmoid, "softplus": nn.Softplus, "gelu": nn.GELU,
        "softmax": lambda: nn.Softmax(1 if rank == 4 else -1),
    }  # fmt: skip
    if name not in known:
        raise unsupported(layer, f"its activation is '{name}'")
    return known[name]()


def _relu(layer: Any, rank: int) -> torch.nn.Module:
    import torch

    slope, threshold, largest = float(layer.negative_slope), float(layer.threshold), layer.max_value
    if threshold or (slope and largest is not None):
        raise unsupported(layer, "it has a threshold, or a slope and a maximum")
    if slope:
        return torch.nn.LeakyReLU(slope)
    if largest is None:
        return torch.nn.ReLU()
    return torch.nn.ReLU6() if float(largest) == 6 else torch.nn.Hardtanh(0.0, float(largest))


def _leaky(layer: Any, rank: int) -> torch.nn.Module:
    import torch

    return torch.nn.LeakyReLU(float(layer.negative_slope))


def _softmax(layer: Any, rank: int) -> torch.nn.Module:
    import torch

    return torch.nn.Softmax(_axis(layer, layer.axis, rank))


def _pooling(layer: Any, rank: int) -> torch.nn.Module:
    """MaxPooling2D and AveragePooling2D; "same" where the window only goes beyond the lower and right border."""
    import torch

    size, strides = tuple(layer.pool_size), tuple(layer.strides)
    largest = type(layer).__name__ == "MaxPooling2D"

    def pool(x: torch.Tensor) -> torch.Tensor:
        padding, beyond = (0, 0), False
        if layer.padding == "same":
            sizes = zip(x.shape[2:], size, strides, strict=True)
            (top, bottom), (left, right) = (_same(*one) for one in sizes)
            beyond = (top, left) != (bottom, right)
            if beyond and (top or left):
                raise unsupported(layer, "its padding differs by side")
            padding = (top, left)
        if largest:
            return torch.nn.functional.max_pool2d(x, size, strides, padding, ceil_mode=beyond)
        return torch.nn.functional.avg_pool2d(x, size, strides, padding, beyond, count_include_pad=False)

    return _Function(pool)


def _global_pooling(layer: Any, rank: int) -> torch.nn.Module:
    """Adaptive pooling, which XNNPACK takes; a mean over two axes it does not."""
    import torch

    average = type(layer).__name__ == "GlobalAveragePooling2D"
    made: torch.nn.Module = torch.nn.AdaptiveAvgPool2d(1) if average else torch.nn.AdaptiveMaxPool2d(1)
    return made if layer.keepdims else torch.nn.Sequential(made, torch.nn.Flatten())


def _padding(layer: Any, rank: int) -> torch.nn.Module:
    import torch

    (top, bottom), (left, right) = layer.padding
    return torch.nn.ZeroPad2d((left, right, top, bottom))


def _flatten(layer: Any, rank: int) -> torch.nn.Module:
    """In Keras' order: the channels of a pixel lie together."""
    return _Function(lambda x: (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).flatten(1))


def _reshape(layer: Any, rank: int) -> torch.nn.Module:
    shape = tuple(layer.target_shape)

    def reshape(x: torch.Tensor) -> torch.Tensor:
        x = (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).reshape(x.shape[0], *shape)
        return x.permute(0, 3, 1, 2) if len(shape) == 3 else x

    return _Function(reshape)


def _concatenate(layer: Any, rank: int) -> torch.nn.Module:
    import torch

    axis = _axis(layer, layer.axis, rank)
    return _Function(lambda *tensors: torch.cat(tensors, axis))


def _upsampling(layer: Any, rank: int) -> torch.nn.Module:
    import torch

    if layer.interpolation not in ("nearest", "bilinear"):
        raise unsupported(layer, f"its interpolation is '{layer.interpolation}'")
    return torch.nn.Upsample(scale_factor=tuple(float(n) for n in layer.size), mode=layer.interpolation)


def _rescaling(layer: Any, rank: int) -> torch.nn.Module:
    import numpy as np

    scale, offset = np.asarray(layer.scale), np.asarray(layer.offset)
    if scale.size > 1 or offset.size > 1:
        raise unsupported(layer, "it has a scale per channel")
    return _Function(lambda x: x * float(scale) + float(offset))


def _axis(layer: Any, axis: Any, rank: int) -> int:
    """An axis of Keras as the axis here."""
    if not isinstance(axis, int):
        raise unsupported(layer, f"it has the axes {axis}")
    plain = axis % rank
    return CHANNELS_LAST_TO_FIRST.get(plain, plain) if rank == 4 else plain


def _tensor(variable: Any) -> torch.Tensor:
    import numpy as np
    import torch

    return torch.from_numpy(np.array(variable))


BUILDERS: dict[str, Callable[[Any, int], Any]] = {
    "Activation": lambda layer, rank: _activation(layer, layer.activation, rank),
    "AveragePooling2D": _pooling,
    "BatchNormalization": _normalization,
    "Concatenate": _concatenate,
    "Conv2D": _convolution,
    "Dense": _dense,
    "DepthwiseConv2D": _convolution,
    "Flatten": _flatten,
    "GlobalAveragePooling2D": _global_pooling,
    "GlobalMaxPooling2D": _global_pooling,
    "LeakyReLU": _leaky,
    "MaxPooling2D": _pooling,
    "ReLU": _relu,
    "Rescaling": _rescaling,
    "Reshape": _reshape,
    "SeparableConv2D": _separable,
    "Softmax": _softmax,
    "UpSampling2D": _upsampling,
    "ZeroPadding2D": _padding,
}
