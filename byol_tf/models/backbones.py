"""Encoders by name: ours, those of keras.applications and KerasHub, and functions of your own.

What is in a network of another package is made to fit the method: it takes images that are already
normalised, ends in a float32 vector, has no dropout in its fixed parts, and its BatchNorm has the
decay 0.9 of ours and is synchronised over the replicas.
"""

import difflib
import importlib
import importlib.util
import inspect
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from byol_tf import keras_compat
from byol_tf.errors import UserError
from byol_tf.models import networks, vit

OURS: dict[str, Callable[..., keras.Model]] = {"resnet": networks.resnet, "vit": vit.vit}

# What `build` itself gives to networks of other packages, or what has no place in an encoder.
_GIVEN = {
    "include_top", "include_preprocessing", "weights", "input_tensor", "input_shape", "pooling",
    "classes", "classifier_activation", "classifier_dropout", "model_name", "name", "image_size",
    "image_shape", "data_format", "dtype",
}  # fmt: skip
# Backbones of KerasHub whose first token is a class token, which represents the image.
_CLASS_TOKEN = ("ViTBackbone", "DeiTBackbone", "DINOV2Backbone", "DINOV3Backbone")


def build(
    name: str, image_size: int | tuple[int, int], arguments: Mapping[str, Any], channels: int = 3
) -> keras.Model:
    """Builds the encoder called `name`, newly initialised.

    Args:
        name: `resnet` or `vit` (this package's), a function of `keras.applications`
            (`ConvNeXtTiny`), a backbone of KerasHub (`ViTBackbone`), or `module.function` of your
            own, which takes `image_size`, for other images than RGB `channels`, and the arguments,
            and returns a Keras model.
        image_size: Side of the square input, or its height and width, in pixels.
        arguments: Keyword arguments of the function.
        channels: Number of channels C of the images.

    Returns:
        A Keras model, float `[B, H, W, C]` of normalised images -> `[B, D]`, float32 unless it is
        your own.

    Raises:
        UserError: The name or an argument is unknown, a package is missing, the network does not
            take such images, or its output is not `[B, D]`.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    shape = (*size, channels)
    given = {"image_size": image_size} | ({} if channels == 3 else {"channels": channels})
    if name in OURS:
        return _call(name, OURS[name], given, arguments)
    if name in _applications():
        return _application(name, shape, arguments)
    if name.endswith("Backbone") and "." not in name:
        return _kerashub_backbone(name, shape, arguments)
    if "." in name:
        encoder = _call(name, _own(name, given), given, arguments)
        return _synchronized(_checked(encoder, name, shape))
    raise _unknown(name)


def _application(name: str, shape: tuple[int, ...], arguments: Mapping[str, Any]) -> keras.Model:
    function = getattr(keras.applications, name)
    given = {
        "include_top": False,
        "weights": None,
        "pooling": "avg",
        "input_shape": shape,
    }
    preprocesses = "include_preprocessing" not in inspect.signature(function).parameters
    if not preprocesses:
        given["include_preprocessing"] = False
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This model usually expects 1 or 3 input channels")
        encoder = _call(name, function, given, arguments)
    for layer in keras_compat.sublayers(encoder):
        if preprocesses and isinstance(layer, keras.layers.Rescaling):
            layer.scale, layer.offset = 1.0, 0.0  # EfficientNet's, of pixels; ours are normalised.
        if isinstance(layer, keras.layers.Dropout):
            # EfficientNet's stochastic depth, which has no argument. The views are noise enough,
            # and a target without it is what the paper has.
            layer.rate = 0.0
        kind = type(layer)
        if kind.__module__.startswith("keras.src.applications."):
            # ConvNeXt's; Keras 2 does not find them when the network is copied for the target.
            keras.saving.get_custom_objects()[kind.__name__] = kind
    return _synchronized(_checked(_ended(encoder, name), name, shape), momentum=0.9)


def _kerashub_backbone(
    name: str, shape: tuple[int, ...], arguments: Mapping[str, Any]
) -> keras.Model:
    backbones = vars(_kerashub().models)
    if name not in backbones:
        raise _unknown(name)
    if "image_shape" not in inspect.signature(backbones[name]).parameters:
        raise UserError(f"the encoder '{name}' of KerasHub takes no images; give one that does.")
    backbone = _call(name, backbones[name], {"image_shape": shape}, arguments)
    images = keras.Input(shape, name="images")
    # As one layer: not all layers inside are copied from their configs, but the backbone is.
    output = backbone(
        dict.fromkeys(backbone.input, images) if isinstance(backbone.input, dict) else images
    )
    has_token = name in _CLASS_TOKEN and getattr(backbone, "use_class_token", True)
    encoder = _ended(keras.Model(images, output), name, has_token)
    return _synchronized(_checked(encoder, name, shape), momentum=0.9)


def _ended(model: keras.Model, name: str, class_token: bool = False) -> keras.Model:
    """Returns the functional model with its output pooled to `[B, D]`, if it is not, in float32."""
    output = model.outputs[0]
    if len(model.outputs) == 1 and len(output.shape) == 4:
        output = keras.layers.GlobalAveragePooling2D(name="pooled")(output)
    elif len(model.outputs) == 1 and len(output.shape) == 3:
        if class_token:
            output = output[:, 0]
        else:
            output = keras.layers.GlobalAveragePooling1D(name="pooled")(output)
    # The representation leaves the mixed-precision part of the network here.
    output = keras.layers.Activation("linear", dtype="float32", name="representation")(output)
    return keras.Model(model.inputs[0], output, name=name)


def _synchronized(encoder: keras.Model, momentum: float | None = None) -> keras.Model:
    """Returns the encoder, its BatchNorm with the decay `momentum` and synchronised as ours."""
    for layer in keras_compat.sublayers(encoder):
        if isinstance(layer, keras.layers.BatchNormalization):
            if momentum is not None:
                layer.momentum = momentum
            if tf.distribute.get_strategy().num_replicas_in_sync > 1:
                networks.synchronize(layer)
    return encoder


def _call(
    name: str,
    function: Callable[..., keras.Model],
    given: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> keras.Model:
    """Calls `function` with what we give and the user's arguments, whose mistakes are named."""
    parameters = inspect.signature(function).parameters.values()
    ours = function in OURS.values() or "image_size" in given
    # An argument `channels` of your own function is its own where the images are RGB.
    reserved = _GIVEN | given.keys() | ({"channels"} if function in OURS.values() else set())
    accepted = [
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and parameter.name not in reserved
    ]
    takes_any = ours and any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)
    unknown = [] if takes_any else [one for one in arguments if one not in accepted]
    takes = f"it takes {', '.join(accepted)}" if accepted else "it takes no arguments"
    if unknown:
        raise UserError(
            f"the encoder '{name}' takes no {', '.join(map(repr, unknown))}; {takes}; "
            "configs.defaults.set_encoder replaces the fields of another encoder."
        )
    missing = [
        parameter.name
        for parameter in parameters
        if parameter.name in accepted
        and parameter.default is parameter.empty
        and parameter.name not in arguments
    ]
    if missing:
        raise UserError(
            f"the encoder '{name}' needs {', '.join(missing)}; give each as "
            f"--config.encoder.{missing[0]}=VALUE; {takes}."
        )
    try:
        return function(**given, **arguments)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        size = next(value for key, value in given.items() if key in _SIZES)
        raise UserError(
            f"the encoder '{name}' cannot be built for images of {size} with "
            f"{dict(arguments) or 'its own defaults'}: {' '.join(str(error).split())}"
        ) from error


_SIZES = ("image_size", "input_shape", "image_shape")


def _checked(encoder: Any, name: str, shape: tuple[int, ...]) -> keras.Model:
    """Returns the encoder; raises `UserError` unless it is a model `[B, H, W, C]` -> `[B, D]`."""
    if not isinstance(encoder, keras.Model) or not encoder.built:
        raise UserError(
            f"the encoder '{name}' is {type(encoder).__name__} and not a built Keras model; return "
            "a keras.Model with a known input shape, such as one of keras.Input and layers."
        )
    networks.check_flat(encoder.output_shape)
    if not tf.TensorShape(encoder.input_shape).is_compatible_with([None, *shape]):
        raise UserError(
            f"the encoder '{name}' takes images {encoder.input_shape}, but image_size and channels "
            f"give {shape}; build it from its arguments of these names."
        )
    return encoder


def _own(name: str, given: Mapping[str, Any]) -> Callable[..., keras.Model]:
    module, _, attribute = name.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"the encoder '{name}' cannot be imported ({error}); {_FORMS}; a module in this folder "
            "is found with PYTHONPATH=."
        ) from error
    if not isinstance(function, types.FunctionType):
        raise UserError(f"the encoder '{name}' is no function; {_FORMS}.")
    parameters = inspect.signature(function).parameters.values()
    for argument in given:
        if not any(p.name == argument or p.kind == p.VAR_KEYWORD for p in parameters):
            raise UserError(f"the encoder '{name}' takes no {argument}; add that argument to it.")
    return function


def _kerashub() -> Any:
    try:
        return importlib.import_module("keras_hub")
    except ImportError as error:
        raise UserError(
            f"this encoder needs KerasHub ({error}); run pip install keras-hub, on the current "
            "stack: it needs Keras 3."
        ) from error


def _applications() -> list[str]:
    """Returns the names of the networks in keras.applications."""
    return [name for name, value in vars(keras.applications).items() if inspect.isfunction(value)]


_FORMS = (
    f"give {' or '.join(OURS)}, a network of keras.applications (ConvNeXtTiny), a backbone of "
    "KerasHub (ViTBackbone), or module.function of your own"
)


def _unknown(name: str) -> UserError:
    known = [*OURS, *_applications()]
    if importlib.util.find_spec("keras_hub") and "backbon" in name.lower():
        known += [one for one in vars(_kerashub().models) if one.endswith("Backbone")]
    by_lower = {one.lower(): one for one in known}
    near = [by_lower[one] for one in difflib.get_close_matches(name.lower(), by_lower, 5)]
    meant = f"did you mean {', '.join(near)}? Otherwise " if near else ""
    return UserError(f"the encoder '{name}' is unknown; {meant}{_FORMS}.")
