"""byol-serve: serves SavedModels over TF Serving's protocol, gRPC and REST, on one machine.

    byol-serve --model_name=byol --model_base_path=serving/byol --rest_api_port=8501

The flags and their defaults are those of tensorflow_model_server, except --host: by default the
server listens on the loopback address only.
"""

import asyncio
import os
import signal
import sys
from typing import NoReturn

from absl import flags, logging

from serving import command
from serving.errors import UserError

_FLAGS = flags.FLAGS
# Seconds that running requests get to finish when the server is told to stop.
_DRAIN_SECONDS = 30.0


def main(arguments: list[str]) -> None:
    """Runs the command; see `--help`."""
    if arguments:
        raise UserError(f"unexpected argument '{arguments[0]}'; all options are flags, see --help.")
    if _FLAGS.batching_parameters_file and not _FLAGS.enable_batching:
        raise UserError("--batching_parameters_file is given without --enable_batching; add it.")
    if not (_FLAGS.model_config_file or _FLAGS.model_base_path):
        raise UserError("there is nothing to serve; give --model_base_path or --model_config_file.")
    # After the checks of the flags, which should fail at once.
    command.import_tensorflow()
    from serving.local_server import settings_files
    from serving.local_server.batching import Batching

    batching = None
    if _FLAGS.batching_parameters_file:
        batching = settings_files.read_batching(_FLAGS.batching_parameters_file)
    elif _FLAGS.enable_batching:
        batching = Batching()
    asyncio.run(_serve(batching))


async def _serve(batching) -> None:
    from serving.local_server import settings_files, tls
    from serving.local_server.grpc_service import GrpcServer
    from serving.local_server.model_store import ModelStore
    from serving.local_server.rest_service import RestServer

    stop = asyncio.Event()
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # Ignored under nohup.
        numbers.append(signal.SIGHUP)
    for number in numbers:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    credentials = ssl_context = None
    if _FLAGS.ssl_config_file:
        ssl_config = settings_files.read_ssl(_FLAGS.ssl_config_file)
        ssl_context, credentials = tls.context(ssl_config), tls.credentials(ssl_config)
    arguments = _channel_arguments(_FLAGS.grpc_channel_arguments)
    monitoring = _FLAGS.monitoring_config_file
    metrics_path = settings_files.read_metrics_path(monitoring) if monitoring else None
    store = ModelStore(
        poll_seconds=_FLAGS.file_system_poll_wait_seconds,
        max_load_retries=_FLAGS.max_num_load_retries,
        retry_seconds=max(0, _FLAGS.load_retry_interval_micros) / 1e6,
        batching=batching,
        labels_before_versions=_FLAGS.allow_version_labels_for_unavailable_models,
    )
    if not await _load(store, stop):
        _leave()

    threads = 4 * (os.cpu_count() or 1)
    if batching:
        # Each request waits in a thread; two batches of single images keep the model busy.
        threads = max(threads, min(2 * batching.max_batch_size, 128))
    grpc_server = GrpcServer(
        store,
        f"{_FLAGS.host}:{_FLAGS.port}",
        _FLAGS.grpc_max_threads or threads,
        credentials,
        arguments,
        default_timeout=_FLAGS.grpc_default_timeout_in_ms / 1000 or None,
        allow_reload_config=_FLAGS.allow_reload_config,
        reflection=_FLAGS.enable_grpc_reflection,
    )
    rest_server = None
    if _FLAGS.rest_api_port:
        rest_server = RestServer(
            store,
            (_FLAGS.host, _FLAGS.rest_api_port),
            _FLAGS.rest_api_num_threads or threads,
            _FLAGS.rest_api_timeout_in_ms / 1000,
            ssl_context,
            metrics_path,
        )
    await grpc_server.start()
    logging.info("gRPC on %s:%d", _FLAGS.host, _FLAGS.port)
    if rest_server:
        logging.info(
            "REST on %s://%s:%d",
            "https" if ssl_context else "http",
            _FLAGS.host,
            _FLAGS.rest_api_port,
        )
    following = asyncio.create_task(_follow_config(store))
    await stop.wait()
    following.cancel()
    logging.info("stopping: no new requests; running ones have %.0f s to finish", _DRAIN_SECONDS)
    store.stop()
    await asyncio.gather(
        grpc_server.drain(_DRAIN_SECONDS),
        *([rest_server.drain(_DRAIN_SECONDS)] if rest_server else []),
    )
    _leave()


def _leave() -> NoReturn:
    """Ends the process at once; Python would first wait for threads whose requests never end."""
    logging.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


async def _load(store, stop: asyncio.Event) -> bool:
    """Loads the models and waits until each one answers, as TF Serving does before it opens a port.

    Returns:
        False if the server was told to stop in the meantime.

    Raises:
        UserError: The config is wrong, or a model does not load.
    """
    from serving.local_server import model_config, settings_files
    from serving.local_server.status import StatusError

    if _FLAGS.model_config_file:
        config = settings_files.read_models(_FLAGS.model_config_file)
    else:
        _check_base_path(_FLAGS.model_base_path)
        config = model_config.single(_FLAGS.model_name, _FLAGS.model_base_path)

    def load():
        names = store.configure(model_config.checked(config))
        store.start()
        store.wait(names, go_on=lambda: not stop.is_set())

    try:
        await asyncio.to_thread(load)
    except StatusError as error:
        raise UserError(f"failed to start the server: {error.message}") from error
    return not stop.is_set()


async def _follow_config(store) -> None:
    """Applies the config file whenever its content changes; only logs what is wrong with it."""
    from serving.local_server import model_config, settings_files
    from serving.local_server.status import StatusError

    seconds = _FLAGS.model_config_file_poll_wait_seconds
    last = None
    while _FLAGS.model_config_file and seconds:
        try:
            config = settings_files.read_models(_FLAGS.model_config_file)
            if last is not None and config != last:
                logging.info("%s has changed", _FLAGS.model_config_file)
                await asyncio.to_thread(store.configure, model_config.checked(config))
            last = config
        except (UserError, StatusError) as error:
            logging.error("the models stay as they are: %s", error)
        await asyncio.sleep(seconds)


def _check_base_path(path: str) -> None:
    if "://" in path:
        raise UserError(
            f"--model_base_path={path}: byol-serve reads local folders only; copy the model here."
        )
    if os.path.exists(os.path.join(path, "saved_model.pb")):
        raise UserError(
            f"--model_base_path={path} is a model itself; give the folder above it, whose "
            "subfolders are versions named by numbers."
        )


def _channel_arguments(text: str) -> dict[str, int | str]:
    """Parses "NAME=VALUE,..."; a value is an integer if it looks like one."""
    arguments: dict[str, int | str] = {}
    for pair in filter(None, text.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(
                f"--grpc_channel_arguments has '{pair}'; give NAME=VALUE, separated by commas."
            )
        arguments[key] = int(value) if value.lstrip("-").isdecimal() else value
    return arguments


def run() -> None:
    """Defines the flags and runs the command (console entry point)."""
    _define_flags()
    command.run(main)


def _define_flags() -> None:
    flags.DEFINE_string(
        "host",
        "127.0.0.1",
        "Address to listen on. The default is reachable from this machine only; 0.0.0.0 (the "
        "default of tensorflow_model_server) from everywhere, so consider --ssl_config_file.",
    )
    flags.DEFINE_integer("port", 8500, "Port for gRPC.", lower_bound=1, upper_bound=65535)
    flags.DEFINE_integer(
        "rest_api_port", 0, "Port for REST; 0 disables REST.", lower_bound=0, upper_bound=65535
    )
    flags.DEFINE_string(
        "model_name", "default", "Name of the model at --model_base_path in requests."
    )
    flags.DEFINE_string(
        "model_base_path",
        None,
        "Folder of the model, whose subfolders are versions named by numbers; the highest is "
        "served. A new version takes over when it has loaded and answered its warm-up requests.",
    )
    flags.DEFINE_string(
        "model_config_file",
        None,
        "ModelServerConfig file in text format: several models, version policies, labels. Replaces "
        "--model_name and --model_base_path.",
    )
    flags.DEFINE_float(
        "model_config_file_poll_wait_seconds",
        0.0,
        "Seconds between two checks of --model_config_file for changes; 0 reads it only once.",
        lower_bound=0.0,
    )
    flags.DEFINE_bool(
        "enable_batching", False, "Whether to run requests of several clients as one batch."
    )
    flags.DEFINE_string(
        "batching_parameters_file",
        None,
        "BatchingParameters file in text format; without it, TF Serving's defaults apply.",
    )
    flags.DEFINE_string(
        "ssl_config_file",
        None,
        "SSLConfig file in text format, with the PEM contents of server_key, server_cert and "
        "custom_ca. It applies to gRPC and, unlike in TF Serving, to REST too.",
    )
    flags.DEFINE_string(
        "monitoring_config_file",
        None,
        "MonitoringConfig file in text format; enables Prometheus metrics on the REST port.",
    )
    flags.DEFINE_float(
        "file_system_poll_wait_seconds",
        1.0,
        "Seconds between two checks for new versions; 0 checks only once.",
        lower_bound=0.0,
    )
    flags.DEFINE_integer(
        "max_num_load_retries",
        5,
        "Retries before the server gives up on loading a version.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "load_retry_interval_micros",
        60_000_000,
        "Microseconds between two attempts to load a version; negative means 0.",
    )
    flags.DEFINE_bool(
        "allow_version_labels_for_unavailable_models",
        False,
        "Whether a new label may name a version that has not loaded yet; labels in the config "
        "file at start need this.",
    )
    flags.DEFINE_integer(
        "grpc_max_threads",
        0,
        "gRPC calls that run at the same time; 0 means 4 times the CPUs or, with batching, enough "
        "for two batches of single images, at most 128.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "rest_api_num_threads",
        0,
        "REST requests that run at the same time; 0 as in --grpc_max_threads.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "rest_api_timeout_in_ms",
        30_000,
        "Milliseconds from the arrival of a REST request until its answer.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "grpc_default_timeout_in_ms",
        60_000,
        "Milliseconds for a gRPC Predict whose client sets no deadline; 0 means no limit.",
        lower_bound=0,
    )
    flags.DEFINE_bool(
        "allow_reload_config",
        False,
        "Whether every gRPC client may replace the models (HandleReloadConfigRequest): unload all, "
        "or load any folder of this machine.",
    )
    flags.DEFINE_bool(
        "enable_grpc_reflection",
        False,
        "Whether gRPC clients may ask for the server's services and messages.",
    )
    flags.DEFINE_string(
        "grpc_channel_arguments",
        "",
        "Channel arguments of the gRPC server, NAME=VALUE,...; for example, "
        "grpc.max_receive_message_length=67108864 limits requests to 64 MiB.",
    )


if __name__ == "__main__":
    run()
