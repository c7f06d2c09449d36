"""The part of TF Serving's messages that a client of embeddings sends and reads.

`tensorflow_serving.apis` has them all, but importing it imports TensorFlow: seconds, and hundreds
of megabytes, in every process that only asks a server. A test compares names, numbers and types
here with it.
"""

from serving import messages

# Values of tensorflow.DataType.
DT_FLOAT, DT_UINT8, DT_STRING, DT_UINT16 = 1, 4, 7, 17

_CLASSES = messages.define(
    "byol_tf.serving.wire",
    {
        # tensorflow/core/framework
        "Dim": [("size", 1, "int64")],
        "TensorShapeProto": [("dim", 2, "repeated Dim")],
        "TensorProto": [
            ("dtype", 1, "int32"),  # An enum, which is the same on the wire.
            ("tensor_shape", 2, "TensorShapeProto"),
            ("tensor_content", 4, "bytes"),
            ("float_val", 5, "repeated float"),
            ("string_val", 8, "repeated bytes"),
        ],
        # tensorflow/core/protobuf
        "TensorInfo": [("dtype", 2, "int32"), ("tensor_shape", 3, "TensorShapeProto")],
        "SignatureDef": [("inputs", 1, "map TensorInfo")],
        # tensorflow_serving/apis
        "ModelSpec": [
            ("name", 1, "string"),
            ("version", 2, "google.protobuf.Int64Value"),
            ("signature_name", 3, "string"),
            ("version_label", 4, "string"),
        ],
        "PredictRequest": [
            ("model_spec", 1, "ModelSpec"),
            ("inputs", 2, "map TensorProto"),
            ("output_filter", 3, "repeated string"),
        ],
        "PredictResponse": [("outputs", 1, "map TensorProto"), ("model_spec", 2, "ModelSpec")],
        "GetModelMetadataRequest": [
            ("model_spec", 1, "ModelSpec"),
            ("metadata_field", 2, "repeated string"),
        ],
        "GetModelMetadataResponse": [
            ("model_spec", 1, "ModelSpec"),
            ("metadata", 2, "map google.protobuf.Any"),
        ],
        "SignatureDefMap": [("signature_def", 1, "map SignatureDef")],
    },
)

ModelSpec = _CLASSES["ModelSpec"]
PredictRequest = _CLASSES["PredictRequest"]
PredictResponse = _CLASSES["PredictResponse"]
GetModelMetadataRequest = _CLASSES["GetModelMetadataRequest"]
GetModelMetadataResponse = _CLASSES["GetModelMetadataResponse"]
SignatureDefMap = _CLASSES["SignatureDefMap"]
