"""A recipe for tests: two inputs and two outputs, whose names are not in the order of the alphabet, in torch and in Keras.

The first output is computed from the second, which is so both an end and a part of the inside.
"""

from __future__ import annotations

from typing import Any

TASK = "regression"
DESCRIPTION = "an image and a vector to three and four numbers"
LICENCE = "Apache-2.0"
INPUTS = [
    {"name": "zoom", "shape": (1, 16, 16, 1), "dtype": "float32", "layout": "NHWC"},
    {"name": "angle", "shape": (1, 6), "dtype": "float32"},
]


def torch_model() -> Any:
    """Seeded random weights; the image comes NCHW."""
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU6())
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
            self.deep = nn.Linear(64, 32)
            self.vector, self.last, self.top = nn.Linear(6, 32), nn.Linear(32, 4), nn.Linear(4, 3)

        def forward(self, zoom: torch.Tensor, angle: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            inside = self.last(self.deep(self.pool(self.image(zoom))) - torch.relu(self.vector(angle)))
            return self.top(inside), inside

    return Net()


def keras_model() -> Any:
    """Another model of the same form, with seeded random weights of its own."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    zoom, angle = keras.Input((16, 16, 1), name="zoom"), keras.Input((6,), name="angle")
    x = layers.BatchNormalization()(layers.Conv2D(16, 3, 2, padding="same")(zoom))
    x = layers.Flatten()(layers.MaxPooling2D(4)(layers.ReLU(6.0)(x)))
    x = layers.Subtract()([layers.Dense(32)(x), layers.Dense(32, activation="relu")(angle)])
    inside = layers.Dense(4)(x)
    return keras.Model([zoom, angle], [layers.Dense(3)(inside), inside])


def data() -> dict[str, Any]:
    """Uniform random numbers; the inputs to test with lie within the range of those to calibrate with."""
    import numpy as np

    rng = np.random.default_rng(0)

    def draw(count: int, largest: float) -> list[np.ndarray]:
        shapes = [(count, *spec["shape"][1:]) for spec in INPUTS]  # type: ignore[misc]
        return [rng.uniform(-largest, largest, shape).astype("f4") for shape in shapes]

    return {"calibration": draw(64, 1.0), "x": draw(16, 0.9), "y": None}
