"""A small depthwise-separable CNN for handwritten digits: 10 classes, about 9 thousand weights, trained here in seconds.

This file is a model recipe, and the place where the form of a recipe is written down; docs/adding-a-model.md shows the
steps. The file's name is the model's name. A recipe imports nothing heavy at module level: each function imports what
it needs, and edgekit calls it in a process of its own.

    TASK         str; "image-classification" makes edgekit report top-1 accuracy
    DESCRIPTION  str, one line for listings
    LICENCE      str, an SPDX identifier of the weights, and of the data where it differs
    INPUT        dict: "shape" (batch 1), "dtype" ("float32"), for images "layout" ("NHWC" or "NCHW"), "name" (optional);
                 INPUTS, a list of such dicts with names, for a model with several inputs, which may be int32 or int64 too
    METRIC_OUTPUT  optional: the index of the output that accuracy is taken of, 0 by default
    FILES        optional tuple of paths relative to this file: whatever else the recipe reads or imports. Their content
                 is part of every artifact's key, so changing one converts again.

    torch_model()    the architecture as a torch.nn.Module; its image input is always NCHW
    keras_model()    the same architecture as a keras.Model; its image input is always NHWC
    weights()        {name: array}, the state dict of torch_model(), the same at every call (seed everything). Without it
                     torch_model() and keras_model() are taken to return trained models.
    data()           {"calibration": x, "x": x, "y": labels or None}: float32 [N, ...] in INPUT's layout, for INPUTS a tuple
                     of arrays or a dict of them by name. Calibration must come from training data, never from the test
                     inputs "x". Without data() edgekit draws random inputs, says so, and reports no accuracy.

At least one of torch_model and keras_model is needed. Where both are there, Keras receives the torch weights layer by
layer (edgekit/twins.py) and its outputs are compared with torch's before anything is converted. Write a convolution
with stride 2 as ZeroPadding2D + padding="valid" in Keras: torch pads both sides, Keras "same" does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras
    import numpy as np
    import torch

TASK = "image-classification"
DESCRIPTION = "depthwise-separable CNN on 32x32 digits, 10 classes; measured accuracy on 540 held-out images"
LICENCE = "Apache-2.0 (data: CC-BY-4.0, UCI optical recognition of handwritten digits, as shipped by scikit-learn)"
INPUT = {"name": "image", "shape": (1, 32, 32, 1), "dtype": "float32", "layout": "NHWC"}

# Output channels and stride of each depthwise-separable block, after a first convolution to 16 channels.
BLOCKS = ((32, 1), (64, 2), (64, 1))
EPSILON = 1e-5  # torch's default; Keras would take 1e-3
CALIBRATION_IMAGES = 100


def torch_model() -> torch.nn.Module:
    """The architecture in torch; input float32 [N, 1, 32, 32], output logits [N, 10]."""
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
            channels = 16
            for out, stride in BLOCKS:
                layers += [nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)]
                layers += [nn.BatchNorm2d(channels), nn.ReLU6()]
                layers += [nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU6()]
                channels = out
            self.features = nn.Sequential(*layers)
            # Not .mean((2, 3)): without keepdim it stays outside ExecuTorch's XNNPACK delegate.
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.classifier = nn.Linear(channels, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.classifier(self.pool(self.features(x)))
            return logits

    return Net()


def keras_model() -> keras.Model:
    """The same architecture in Keras; input float32 [N, 32, 32, 1], output logits [N, 10]."""
    import keras
    from keras import layers

    def activated(x: Any) -> Any:
        return layers.ReLU(6.0)(layers.BatchNormalization(epsilon=EPSILON)(x))

    def padded(x: Any, stride: int) -> tuple[Any, str]:
        return (layers.ZeroPadding2D(1)(x), "valid") if stride == 2 else (x, "same")

    inputs = keras.Input((32, 32, 1))
    x, padding = padded(inputs, 2)
    x = activated(layers.Conv2D(16, 3, 2, padding=padding, use_bias=False)(x))
    for out, stride in BLOCKS:
        x, padding = padded(x, stride)
        x = activated(layers.DepthwiseConv2D(3, stride, padding=padding, use_bias=False)(x))
        x = activated(layers.Conv2D(out, 1, use_bias=False)(x))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def weights() -> dict[str, np.ndarray]:
    """Train for a few seconds on the training images, from a fixed seed; the torch state dict as arrays."""
    import torch

    train_x, _, train_y, _ = _split()
    torch.manual_seed(0)
    model = torch_model()
    x, y = torch.from_numpy(train_x).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(train_y)
    epochs, batch = 15, 64
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, epochs * -(-len(x) // batch))
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(batch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return {name: value.numpy() for name, value in model.state_dict().items()}


def data() -> dict[str, np.ndarray]:
    """100 training images to calibrate with, and the 540 held-out images with their labels."""
    train_x, test_x, _, test_y = _split()
    return {"calibration": train_x[:CALIBRATION_IMAGES], "x": test_x, "y": test_y}


def _split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(train x, test x, train y, test y): x float32 [N, 32, 32, 1] in 0..1, the 8x8 images enlarged four times."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x = np.kron(digits.images / 16.0, np.ones((1, 4, 4))).astype(np.float32)[..., None]
    split = train_test_split(x, digits.target.astype(np.int64), test_size=0.3, random_state=0, stratify=digits.target)
    return split[0], split[1], split[2], split[3]
