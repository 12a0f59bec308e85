"""A small file whose float activations take 180 MB and more, and a quarter of that in int8: it does not fit into a small board."""

TASK = "regression"
DESCRIPTION = "two maps of 16 x 1200 x 1200, added"
LICENCE = "Apache-2.0"
INPUT = {"name": "x", "shape": (1, 16, 8, 8), "dtype": "float32", "layout": "NCHW"}


def torch_model():
    import torch

    class Spread(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.one = torch.nn.Conv2d(16, 16, 1)
            self.other = torch.nn.Conv2d(16, 16, 1)
            self.wide = torch.nn.Upsample(scale_factor=150, mode="nearest")
            self.pool = torch.nn.AvgPool2d(1200)

        def forward(self, x):
            return self.pool(self.wide(self.one(x)) + self.wide(self.other(x)))

    return Spread().eval()


def keras_model():
    import keras

    keras.utils.set_random_seed(1)
    x = keras.Input((8, 8, 16), batch_size=1, name="x")
    one = keras.layers.UpSampling2D(150)(keras.layers.Conv2D(16, 1)(x))
    other = keras.layers.UpSampling2D(150)(keras.layers.Conv2D(16, 1)(x))
    return keras.Model(x, keras.layers.AveragePooling2D(1200)(keras.layers.Add()([one, other])))


def data():
    import numpy as np

    rows = np.random.default_rng(1).normal(size=(6, 16, 8, 8)).astype("float32")
    return {"calibration": rows[:4], "x": rows[4:], "y": None}
