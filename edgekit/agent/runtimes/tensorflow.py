"""A SavedModel by the installed TensorFlow, from Python. For the local device."""

import os

from ..protocol import Fault
from . import _library

FORMATS = ("savedmodel",)
NO_PROFILER = "TensorFlow is measured whole here: the profile of its operators is not read"
SIGNATURE = "serving_default"


def open_tensorflow(libraries, threads=None):
    """Import TensorFlow, for the CPU and so many threads. Raises Fault("unavailable")."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tensorflow = _library.open_package(libraries, "tensorflow", "TensorFlow")
    if threads:  # once they are in use these cannot be changed any more
        tensorflow.config.set_visible_devices([], "GPU")
        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    return tensorflow


def probe(libraries):
    """The version of TensorFlow, imported."""
    return {"version": open_tensorflow(libraries).__version__}


def check(path, libraries):
    """Raise Fault("bad_model") when it is no folder with a saved model in it."""
    if not os.path.isfile(os.path.join(path, "saved_model.pb")):
        raise Fault("bad_model", "not a SavedModel: a folder with a saved_model.pb")


def load(path, options):
    """Load a SavedModel's serving signature for `options["threads"]` CPU threads."""
    tensorflow = open_tensorflow(options.get("libraries", {}), int(options.get("threads", 1)))
    if not options.get("checked"):
        check(path, {})
    try:
        model = tensorflow.saved_model.load(path)
    except (OSError, ValueError, RuntimeError, tensorflow.errors.OpError) as error:
        raise Fault("bad_model", "TensorFlow refused the SavedModel: %s" % str(error).split("\n")[0]) from error
    if SIGNATURE not in model.signatures:
        raise Fault("bad_model", "the SavedModel has no signature '%s'" % SIGNATURE)
    return Loaded(tensorflow, model, options)


class Loaded:
    """The serving signature. A dimension that the file leaves free is what the host says, else 1."""

    delegation = None

    def __init__(self, tensorflow, model, options):
        self.tensorflow, self.model = tensorflow, model  # the signature does not keep its model alive
        self.version = tensorflow.__version__
        self.function = model.signatures[SIGNATURE]
        takes = self.function.structured_input_signature[1]
        gives = self.function.structured_outputs
        self.inputs = self.described(takes, options.get("inputs"))
        self.outputs = self.described(gives, options.get("outputs"))
        self.values = {}
        self.results = None

    def described(self, specs, told):
        """Descriptions of the signature's tensors, in the host's order where it names them."""
        found = {}
        for name in sorted(specs):
            spec = specs[name]
            shape = [1 if extent is None else int(extent) for extent in spec.shape]
            found[name] = {"name": name, "shape": shape, "dtype": spec.dtype.name}
        if told and {spec["name"] for spec in told} == set(found):
            return [{key: spec[key] for key in ("name", "shape", "dtype")} for spec in told]
        return list(found.values())

    def set_input(self, index, data):
        """Make an input's tensor of `data`."""
        spec = self.inputs[index]
        flat = self.tensorflow.io.decode_raw(_library.checked(spec, data), getattr(self.tensorflow, spec["dtype"]))
        self.values[spec["name"]] = self.tensorflow.reshape(flat, spec["shape"])

    def run(self):
        """One inference; the outputs exist on return."""
        self.results = self.function(**self.values)

    def output(self, index):
        """The bytes of an output."""
        return self.results[self.outputs[index]["name"]].numpy().tobytes()

    def close(self):
        """Let go of the model; may be called twice."""
        self.function = self.model = self.results = None
