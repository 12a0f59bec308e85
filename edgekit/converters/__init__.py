"""Converters, one file per produced format; the file's name is the format's name.

SOURCE      the framework it converts from: "torch", "keras" (or "fake")
SUFFIX      of the produced file
EXTRA       the pip extra of edgekit that brings its packages
PRECISIONS  fp32; int8 = weights and activations, float input and output; int8_io = int8 input and output too
OPTIONS     {name: allowed values, the default first}
PACKAGES    the distributions whose versions are part of the artifact's key

convert(source, precision, calibration, input_spec, options, output) -> {"inputs", "outputs", "details"}
            runs in a worker. `source` is a model in eval mode, `calibration` float32 [N, ...] in the layout of
            `input_spec`, which is the framework's own; `options` holds a value for every name of OPTIONS.
check(path) looks at the file's header without a heavy import; UserError when it is cut short or of another format
"""
