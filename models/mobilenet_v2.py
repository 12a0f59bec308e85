"""MobileNetV2 1.0 at 224x224 with seeded random weights: for latency, memory and fidelity, not for accuracy.

The weights are random but behave like trained ones: batch-norm statistics belong to the activations, and the logits
depend on the image. The form of a recipe: digits_cnn.py. Architecture: Sandler et al., arXiv:1801.04381, table 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras
    import numpy as np
    import torch

TASK = "image-classification"
DESCRIPTION = "MobileNetV2 1.0, 224x224x3, 1000 classes, 3.5 M random weights: no accuracy, only speed and fidelity"
LICENCE = "Apache-2.0"
INPUT = {"name": "image", "shape": (1, 224, 224, 3), "dtype": "float32", "layout": "NHWC"}

# expansion, output channels, repeats, stride of the first repeat
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
FIRST, LAST, CLASSES = 32, 1280, 1000
EPSILON = 1e-5  # torch's default; Keras would take 1e-3


def torch_model() -> torch.nn.Module:
    """The architecture in torch; input float32 [N, 3, 224, 224] in -1..1, output logits [N, 1000]."""
    from torch import nn

    def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(outputs)]

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
            super().__init__()
            hidden = inputs * expansion
            layers = [*convolution(inputs, hidden, 1), nn.ReLU6()] if expansion != 1 else []
            layers += [*convolution(hidden, hidden, 3, stride, hidden), nn.ReLU6()]
            self.body = nn.Sequential(*layers, *convolution(hidden, outputs, 1))
            self.residual = stride == 1 and inputs == outputs

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.body(x)
            return x + y if self.residual else y

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = [*convolution(3, FIRST, 3, 2), nn.ReLU6()]
            channels = FIRST
            for expansion, outputs, repeats, stride in BLOCKS:
                for repeat in range(repeats):
                    layers.append(Block(channels, outputs, stride if repeat == 0 else 1, expansion))
                    channels = outputs
            layers += [*convolution(channels, LAST, 1), nn.ReLU6()]
            self.features = nn.Sequential(*layers)
            # Not .mean((2, 3)): without keepdim it stays outside ExecuTorch's XNNPACK delegate.
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.classifier = nn.Linear(LAST, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.classifier(self.pool(self.features(x)))
            return logits

    return Net()


def keras_model() -> keras.Model:
    """The same architecture in Keras; input float32 [N, 224, 224, 3] in -1..1."""
    import keras
    from keras import layers

    def normalized(x: Any, activate: bool = True) -> Any:
        x = layers.BatchNormalization(epsilon=EPSILON)(x)
        return layers.ReLU(6.0)(x) if activate else x

    def padded(x: Any, stride: int) -> tuple[Any, str]:
        return (layers.ZeroPadding2D(1)(x), "valid") if stride == 2 else (x, "same")

    inputs = keras.Input((224, 224, 3))
    x, padding = padded(inputs, 2)
    x = normalized(layers.Conv2D(FIRST, 3, 2, padding=padding, use_bias=False)(x))
    channels = FIRST
    for expansion, outputs, repeats, first_stride in BLOCKS:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            y = normalized(layers.Conv2D(channels * expansion, 1, use_bias=False)(x)) if expansion != 1 else x
            y, padding = padded(y, stride)
            y = normalized(layers.DepthwiseConv2D(3, stride, padding=padding, use_bias=False)(y))
            y = normalized(layers.Conv2D(outputs, 1, use_bias=False)(y), activate=False)
            x = layers.Add()([x, y]) if stride == 1 and channels == outputs else y
            channels = outputs
    x = normalized(layers.Conv2D(LAST, 1, use_bias=False)(x))
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)))


def weights() -> dict[str, np.ndarray]:
    """Seeded random weights; batch-norm statistics taken from random images, logits centred."""
    import numpy as np
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = torch_model()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    x = torch.from_numpy(np.ascontiguousarray(_images(24, seed=1).transpose(0, 3, 1, 2)))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        for norm in norms:
            norm.momentum = None  # a plain average over all batches
            # Mostly inside 0..6, where ReLU6 is linear: a random network that clips half of everything is chaotic,
            # it would amplify the smallest quantization error to the size of the signal.
            norm.weight.uniform_(0.8, 1.2)
            norm.bias.uniform_(0.8, 1.2)
        for batch in x.split(8):
            model(batch)
        model.eval()
        # The pooled features of a random network hardly move with the image; centred and scaled, the logits do, around
        # a fixed part of about the same size, which trained networks have too.
        pooled = torch.cat([model.features(batch).mean((2, 3)) for batch in x.split(8)])  # type: ignore[operator]
        classifier = model.classifier
        assert isinstance(classifier, nn.Linear)
        classifier.weight.normal_().div_(pooled.std(0).norm())
        classifier.bias.normal_().sub_(classifier.weight @ pooled.mean(0))
    return {name: value.numpy() for name, value in model.state_dict().items()}


def data() -> dict[str, np.ndarray]:
    """32 random images to calibrate with and 8 others to compare outputs on; nothing to know the right answer of."""
    return {"calibration": _images(32, seed=2), "x": _images(8, seed=3)}


def _images(count: int, seed: int) -> np.ndarray:
    """Seeded noise in four sizes of grain with its own contrast and tint per image: float32 [N, 224, 224, 3] in -1..1."""
    import numpy as np

    rng = np.random.default_rng(seed)
    image = rng.uniform(-0.5, 0.5, (count, 1, 1, 3)) + np.zeros((count, 224, 224, 3))
    for grain in (7, 16, 56, 224):
        noise = rng.normal(0.0, 1.0, (count, 224 // grain, 224 // grain, 3))
        image += rng.uniform(0.0, 0.5, (count, 1, 1, 1)) * np.kron(noise, np.ones((1, grain, grain, 1)))
    return np.clip(image, -1.0, 1.0).astype(np.float32)
