"""Converters, one file per produced format; the file's name is the format's name. `_name.py` files are their parts.

SOURCES     the frameworks it converts from, the preferred one first: "torch", "keras", "savedmodel", "onnx", "tflite",
            "fake"; the last three but one are files, "onnx" and "tflite" being float artifacts to quantize
SUFFIX      of the produced file; empty for a folder
EXTRA       {framework: the pip extra of edgekit that brings its packages}
PACKAGES    {framework: the distributions whose versions are part of the artifact's key}
PRECISIONS  what some framework gives, fp32 first; words of the table below
OPTIONS     {name: allowed values, the default first}

convert(source, precision, calibration, input_specs, options, output, framework)
            -> {"inputs", "outputs", "details"}; runs in a worker. `source` is what `framework` says: a torch.nn.Module in
            eval mode, a keras.Model, or the path of a file. `calibration` is a tuple of arrays [N, ...], one per input, in
            the layouts and the order of `input_specs`, which are the framework's own (for precisions in CALIBRATED, else
            None); `options` holds a value for every name of OPTIONS. The returned inputs are in the order of
            `input_specs` and carry the names that the file has. Unsupported: this framework has no such precision.
check(path) looks at the file's header without a heavy import; UserError when it is cut short or of another format

    fp32          float                            int8          weights and activations int8, float input and output
    fp16, bf16    half-precision floats            int8_io       int8, input and output too
    int8_dynamic  int8 weights, activations quantized at run time by their range of the moment
    int8_weight   int8 weights, computed in float  int4_weight   int4 weights, computed in float
    int16x8       int16 activations, int8 weights, float input and output
"""

# Precisions whose activations are quantized with fixed ranges, so that typical inputs are needed.
CALIBRATED = ("int8", "int8_io", "int16x8")
