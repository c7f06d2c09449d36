"""Loads exports in the C++ runtimes of other versions of TensorFlow, as their TF Serving would.

    pip download --no-deps -d wheels tensorflow-cpu==2.17.1 && unzip -d tf2.17 wheels/*.whl
    python benchmarks/saved_model_versions.py --image=a.jpg --export=byol/1 tf2.17/tensorflow ...

TF Serving loads with `LoadSavedModel` of the TensorFlow that is built into it. A wheel's
libtensorflow_cc has the same function, operations and kernels. Python's loader would not do: it
repairs what TF Serving refuses. Each library gets a process of its own, which runs
`serving_default` on the image and prints the largest difference from the embedding by the
TensorFlow of this interpreter.
"""

import argparse
import ctypes
import json
import pathlib
import subprocess
import sys

import numpy as np


def main() -> None:
    """Prints a line for each export and library."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=pathlib.Path, required=True)
    parser.add_argument("--export", action="append", required=True)
    parser.add_argument("libraries", nargs="+", help="folders with libtensorflow_cc.so.2")
    arguments = parser.parse_args()

    import tensorflow as tf

    for export in arguments.export:
        signature = tf.saved_model.load(export).signatures["serving_default"]
        image = arguments.image.read_bytes()
        expected = signature(image_bytes=tf.constant([image]))["embedding"].numpy()[0]
        ends = _ends(export)
        for library in arguments.libraries:
            call = [sys.executable, __file__, "run", library, export, *ends, str(arguments.image)]
            done = subprocess.run(call, capture_output=True, text=True)
            if done.returncode:
                outcome = done.stderr.strip().splitlines()[-1]
            else:
                version, embedding = json.loads(done.stdout.splitlines()[-1])
                difference = np.abs(np.array(embedding) - expected).max()
                outcome = f"TensorFlow {version}: largest difference {difference:.2g}"
            print(f"{export} in {library}: {outcome}", flush=True)


def _ends(export: str) -> list[str]:
    """Returns the operations of input and output of `serving_default`, OPERATION:INDEX each."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    model.ParseFromString((pathlib.Path(export) / "saved_model.pb").read_bytes())
    signature = model.meta_graphs[0].signature_def["serving_default"]
    return [signature.inputs["image_bytes"].name, signature.outputs["embedding"].name]


class _Output(ctypes.Structure):
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


def run(library: str, export: str, feed: str, fetch: str, image: str) -> tuple[str, list[float]]:
    """Runs `serving_default` on one image by the C API; returns TensorFlow's version and `[D]`."""
    folder = pathlib.Path(library)
    ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"), ctypes.RTLD_GLOBAL)
    tf = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"), ctypes.RTLD_GLOBAL)

    def call(name: str, *values, returns=ctypes.c_void_p):
        function = getattr(tf, name)
        function.restype = returns
        return function(*values)

    pointer = ctypes.c_void_p
    status, graph = pointer(call("TF_NewStatus")), pointer(call("TF_NewGraph"))

    def check() -> None:
        if call("TF_GetCode", status, returns=ctypes.c_int):
            sys.exit(call("TF_Message", status, returns=ctypes.c_char_p).decode())

    tags = (ctypes.c_char_p * 1)(b"serve")
    options = pointer(call("TF_NewSessionOptions"))
    session = pointer(
        call(
            "TF_LoadSessionFromSavedModel",
            *(options, None, export.encode(), tags, 1, graph, None, status),
        )
    )
    check()

    def output(name: str) -> _Output:
        operation, _, index = name.partition(":")
        return _Output(call("TF_GraphOperationByName", graph, operation.encode()), int(index))

    content = pathlib.Path(image).read_bytes()
    size = ctypes.c_size_t(24)  # Of TF_TString.
    dims = (ctypes.c_int64 * 1)(1)
    tensor = pointer(call("TF_AllocateTensor", 7, dims, 1, size))  # TF_STRING
    text = pointer(call("TF_TensorData", tensor))
    call("TF_StringInit", text, returns=None)
    call("TF_StringCopy", text, content, ctypes.c_size_t(len(content)), returns=None)
    fed, fetched = (_Output * 1)(output(feed)), (_Output * 1)(output(fetch))
    inputs, results = (pointer * 1)(tensor), (pointer * 1)()
    call(
        "TF_SessionRun",
        *(session, None, fed, inputs, 1, fetched, results, 1, None, 0, None, status),
        returns=None,
    )
    check()
    length = call("TF_TensorByteSize", pointer(results[0]), returns=ctypes.c_size_t) // 4
    data = call("TF_TensorData", pointer(results[0]))
    embedding = np.ctypeslib.as_array(ctypes.cast(data, ctypes.POINTER(ctypes.c_float)), (length,))
    return call("TF_Version", returns=ctypes.c_char_p).decode(), embedding.tolist()


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        print(json.dumps(run(*sys.argv[2:])))
    else:
        main()
