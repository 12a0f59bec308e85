"""A three-layer perceptron for 8x8 handwritten digits: the smallest real model here. The form of a recipe: digits_cnn.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras
    import numpy as np
    import torch

TASK = "image-classification"
DESCRIPTION = "64-128-64-10 perceptron on 8x8 digits; measured accuracy on 540 held-out images"
LICENCE = "Apache-2.0 (data: CC-BY-4.0, UCI optical recognition of handwritten digits, as shipped by scikit-learn)"
INPUT = {"name": "pixels", "shape": (1, 64), "dtype": "float32"}

CALIBRATION_IMAGES = 100


def torch_model() -> torch.nn.Module:
    """The architecture in torch; input float32 [N, 64], output logits [N, 10]."""
    from torch import nn

    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def keras_model() -> keras.Model:
    """The same architecture in Keras."""
    import keras
    from keras import layers

    inputs = keras.Input((64,))
    hidden = layers.Dense(64, activation="relu")(layers.Dense(128, activation="relu")(inputs))
    return keras.Model(inputs, layers.Dense(10)(hidden))


def weights() -> dict[str, np.ndarray]:
    """Train for a second or two on the training images, from a fixed seed; the torch state dict as arrays."""
    import torch

    train_x, _, train_y, _ = _split()
    torch.manual_seed(0)
    model = torch_model()
    x, y = torch.from_numpy(train_x), torch.from_numpy(train_y)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(30):
        for rows in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return {name: value.numpy() for name, value in model.state_dict().items()}


def data() -> dict[str, np.ndarray]:
    """100 training images to calibrate with, and the 540 held-out images with their labels."""
    train_x, test_x, _, test_y = _split()
    return {"calibration": train_x[:CALIBRATION_IMAGES], "x": test_x, "y": test_y}


def _split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(train x, test x, train y, test y): x float32 [N, 64] in 0..1; the same held-out images as digits_cnn."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x, y = (digits.data / 16.0).astype(np.float32), digits.target.astype(np.int64)
    split = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
    return split[0], split[1], split[2], split[3]
