"""The models whose latency on Raspberry Pi boards is published (XNNPACK's table), with seeded random weights: its authors
measured random ones too. Factories for `edgekit profile tools/estimate_models.py:mobilenet_v1`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

TASK = "image-classification"


def mobilenet_v1() -> keras.Model:
    """MobileNet v1 1.0 at 224x224 (Howard et al., arXiv:1704.04861)."""
    return _seeded("MobileNet")


def mobilenet_v2() -> keras.Model:
    """MobileNet v2 1.0 at 224x224 (Sandler et al., arXiv:1801.04381)."""
    return _seeded("MobileNetV2")


def mobilenet_v3_large() -> keras.Model:
    """MobileNet v3 Large 1.0 at 224x224 (Howard et al., arXiv:1905.02244)."""
    return _seeded("MobileNetV3Large", include_preprocessing=False)


def mobilenet_v3_small() -> keras.Model:
    """MobileNet v3 Small 1.0 at 224x224."""
    return _seeded("MobileNetV3Small", include_preprocessing=False)


def _seeded(name: str, **options: Any) -> keras.Model:
    """An architecture of keras.applications; batch-norm statistics belong to the activations, as in a trained model."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(
        input_shape=(224, 224, 3), weights=None, classes=1000, classifier_activation=None, **options
    )
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0
    model(np.random.default_rng(0).uniform(-1, 1, (4, 224, 224, 3)).astype("float32"), training=True)
    return model
