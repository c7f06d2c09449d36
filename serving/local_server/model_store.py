"""The models and their versions: which are wanted, which are loaded, which answer.

A version goes through TF Serving's states (core/basic_manager.cc): START, LOADING (including
warm-up and retries), AVAILABLE, UNLOADING, END. The old version answers until the new one can
(availability_preserving_policy) and is freed when its last request is done.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from absl import logging
from tensorflow_serving.apis import get_model_status_pb2, model_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.local_server import disk_versions
from serving.local_server.batching import Batching
from serving.local_server.loading import load
from serving.local_server.model_state import (
    AVAILABLE,
    END,
    LOADING,
    START,
    UNLOADING,
    Model,
    Version,
)
from serving.local_server.status import Code, StatusError, as_status, invalid

# A folder that has not changed for this long is no longer being copied.
_QUIET_SECONDS = 2.0


class ModelStore:
    """Loads the versions that the config wants, unloads the others, and lends them to requests.

    Args:
        poll_seconds: Seconds between looks at the folders; 0 to look only when a config arrives.
        max_load_retries: Retries before the server gives up on a version.
        retry_seconds: Seconds between two attempts to load.
        batching: Parameters of batching across requests, or None for no batching.
        labels_before_versions: Whether a new label may name a version that is not AVAILABLE.
    """

    def __init__(
        self,
        *,
        poll_seconds: float = 1.0,
        max_load_retries: int = 5,
        retry_seconds: float = 60.0,
        batching: Batching | None = None,
        labels_before_versions: bool = False,
    ):
        self._poll_seconds = poll_seconds
        self._max_load_retries = max_load_retries
        self._retry_seconds = retry_seconds
        self._batching = batching
        self._labels_before_versions = labels_before_versions
        self._models: dict[str, Model] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._changed = threading.Condition()
        self._polling = threading.Lock()
        self._stopped = threading.Event()
        self._poller = threading.Thread(target=self._poll_for_ever, name="poll", daemon=True)

    # For requests.

    @contextlib.contextmanager
    def lease(self, spec: model_pb2.ModelSpec) -> Iterator[Version]:
        """Lends the version that the spec names; it stays loaded until it is given back.

        Without version and label, that is the highest version that is AVAILABLE.

        Raises:
            StatusError: INVALID_ARGUMENT without a name or for an unknown label; NOT_FOUND if the
                model or version is not loaded.
        """
        version = self._acquire(spec)
        try:
            yield version
        finally:
            with self._changed:
                version.in_flight -= 1
                if version.state == UNLOADING:
                    self._changed.notify_all()

    def _acquire(self, spec: model_pb2.ModelSpec) -> Version:
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        with self._changed:
            number = self._number(spec)
            model = self._models.get(spec.name)
            if number is None:
                version = model.available() if model else None
                asked = f"Latest({spec.name})"
            else:
                version = model.versions.get(number) if model else None
                asked = f"Specific({spec.name}, {number})"
            if version is None or version.state != AVAILABLE:
                raise StatusError(Code.NOT_FOUND, f"Servable not found for request: {asked}")
            version.in_flight += 1
            return version

    def _number(self, spec: model_pb2.ModelSpec) -> int | None:
        match spec.WhichOneof("version_choice"):
            case "version":
                return spec.version.value
            case "version_label":
                number = self._labels.get(spec.name, {}).get(spec.version_label)
                if number is None:
                    raise invalid(f"Unrecognized servable version label: {spec.version_label}")
                return number
            case _:
                return None

    def known_name(self, name: str) -> str:
        """Returns the name if there is or was such a model, and "" otherwise."""
        with self._changed:
            return name if name in self._models else ""

    def status(self, spec: model_pb2.ModelSpec) -> get_model_status_pb2.GetModelStatusResponse:
        """Returns the state of each known version, highest first, or of the number in `spec` only.

        Raises:
            StatusError: NOT_FOUND if the server knows no such version.
        """
        response = get_model_status_pb2.GetModelStatusResponse()
        with self._changed:
            model = self._models.get(spec.name)
            known = sorted(model.versions.values(), key=lambda v: -v.number) if model else []
            if spec.WhichOneof("version_choice") == "version":
                number = spec.version.value
                known = [version for version in known if version.number == number]
                missing = f"Could not find version {number} of model {spec.name}"
            else:
                missing = f"Could not find any versions of model {spec.name}"
            if not known:
                raise StatusError(Code.NOT_FOUND, missing)
            for version in known:
                entry = response.model_version_status.add(
                    version=version.number, state=version.state
                )
                entry.status.error_code = version.error.code if version.error else Code.OK
                entry.status.error_message = version.error.message if version.error else ""
        return response

    # For the operator.

    def configure(self, models: Sequence[model_server_config_pb2.ModelConfig]) -> list[str]:
        """Replaces the config; models that it leaves out are unloaded.

        Args:
            models: Configs from `model_config.checked`.

        Returns:
            Names of the models that are new.

        Raises:
            StatusError: FAILED_PRECONDITION for a label on a version that is not AVAILABLE; nothing
                has changed in this case.
        """
        with self._changed:
            labels = {model.name: dict(model.version_labels) for model in models}
            self._check_labels(labels)
            active = {name for name, model in self._models.items() if model.config is not None}
            for name in active - labels.keys():
                self._models[name].config = None
            for config in models:
                model = self._models.setdefault(config.name, Model(config))
                model.config = config
            self._labels = labels
        self.poll()
        return sorted(labels.keys() - active)

    def _check_labels(self, labels: dict[str, dict[str, int]]) -> None:
        for name, numbers in labels.items():
            for label, number in numbers.items():
                model = self._models.get(name)
                version = model and model.versions.get(number)
                if version and version.state == AVAILABLE:
                    continue
                old = self._labels.get(name, {}).get(label, number)
                if not (self._labels_before_versions and old == number):
                    raise StatusError(
                        Code.FAILED_PRECONDITION,
                        f"Request to assign label {label} to version {number} of model {name}, "
                        "which is not currently available for inference "
                        "(--allow_version_labels_for_unavailable_models lets new labels name it)",
                    )

    def wait(self, names: Sequence[str], go_on: Callable[[], bool] = lambda: True) -> None:
        """Waits until each of these models has an AVAILABLE version or all its versions failed.

        Args:
            names: Names of the models.
            go_on: Called several times per second; the wait ends when it returns False.

        Raises:
            StatusError: UNKNOWN if all versions of a model failed to load.
        """

        def undecided(model: Model) -> bool:
            states = {version.state for version in model.versions.values()}
            return AVAILABLE not in states and states != {END}

        with self._changed:
            while any(undecided(self._models[name]) for name in names):
                if self._stopped.is_set() or not go_on():
                    return
                self._changed.wait(0.2)
            failed = [
                f"{{name: {name} version: {version.number}}} due to error: {version.error.message}"
                for name in names
                if self._models[name].available() is None
                for version in self._models[name].versions.values()
                if version.error
            ]
        if failed:
            # TF Serving's message has this extra brace too.
            listed = "".join(f"{entry}}}, " for entry in failed)
            raise StatusError(
                Code.UNKNOWN, f"{len(failed)} model(s) did not become available: {{{listed}}}"
            )

    def start(self) -> None:
        """Starts to look at the folders every `poll_seconds`."""
        self._poller.start()

    def stop(self) -> None:
        """Stops polling and retries; loaded versions stay until the process ends."""
        self._stopped.set()

    # Loading and unloading.

    def _poll_for_ever(self) -> None:
        while not self._stopped.wait(self._poll_seconds or 0.5):
            if not self._poll_seconds and not self._any_at_start():
                continue
            try:
                self.poll()
            except Exception:  # The next poll may succeed, and polling must not stop.
                logging.exception("looking for new versions failed")

    def _any_at_start(self) -> bool:
        """Returns whether a version still waits until its files stop changing."""
        with self._changed:
            return any(v.state == START for m in self._models.values() for v in m.versions.values())

    def poll(self) -> None:
        """Looks at the folders once and starts the necessary loads and unloads.

        If a model's base_path is missing, that model stays as it is, and so do the others.
        """
        with self._polling:
            with self._changed:
                configs = {name: model.config for name, model in self._models.items()}
            for name, config in configs.items():
                try:
                    found = disk_versions.wanted(config) if config else {}
                except OSError as error:
                    self._complain(name, f"cannot look for versions of {name}: {error}")
                    continue
                if config and not found:
                    self._complain(
                        name,
                        f"no version of {name} in {config.base_path}: "
                        "it has no folder whose name is a number that the version policy selects",
                    )
                for number, path in found.items():
                    self._look_at(name, number, path)
                with self._changed:
                    model = self._models[name]
                    if found:
                        model.complaint = ""
                    for version in model.versions.values():
                        version.wanted = version.number in found
                    self._unload_unwanted(model)

    def _complain(self, name: str, complaint: str) -> None:
        model = self._models[name]
        if model.complaint != complaint:
            logging.warning(complaint)
            model.complaint = complaint

    def _look_at(self, name: str, number: int, path: str) -> None:
        """Registers a wanted version and starts to load it once its files have stopped changing.

        So a copy in progress is not loaded, in whatever order its files arrive. (TF Serving would
        load it.)
        """
        with self._changed:
            known = self._models[name].versions
            version = known.get(number)
            gone = version and version.state == END and (not version.error or not version.wanted)
            if version is None or gone:  # New, or removed and put back.
                version = known[number] = Version(number, path)
                self._changed.notify_all()
            if version.state != START:
                return
        if not _at_rest(version):
            return
        with self._changed:
            self._set(version, LOADING)
        threading.Thread(
            target=self._load, args=(name, version), name=f"load {name} {number}", daemon=True
        ).start()

    def _load(self, name: str, version: Version) -> None:
        """Loads and warms up a version, with retries, until it works, fails or is not wanted."""
        what = f"{name} version {version.number} from {version.path}"
        for retries_left in range(self._max_load_retries, -1, -1):
            try:
                servable = load(version.path, self._batching)
                break
            except Exception as error:
                failure = as_status(error)
                logging.error(
                    "cannot load %s: %s (%s)", what, failure.message,
                    f"{retries_left} retries left" if retries_left else "giving up",
                )  # fmt: skip
            go_on = retries_left > 0 and self._still_wanted(version, self._retry_seconds)
            while go_on and not _at_rest(version):
                go_on = self._still_wanted(version, 0.5)
            if not go_on:
                with self._changed:
                    version.error = failure
                    self._set(version, END)
                return
        with self._changed:
            version.servable = servable
            self._set(version, AVAILABLE)
            logging.info("serving %s", what)
            self._unload_unwanted(self._models[name])

    def _still_wanted(self, version: Version, seconds: float) -> bool:
        """Waits between two attempts; returns False as soon as the version is no longer wanted."""
        end = time.monotonic() + seconds
        with self._changed:
            while version.wanted and not self._stopped.is_set():
                left = end - time.monotonic()
                if left <= 0:
                    return True
                self._changed.wait(min(left, 0.5))
        return False

    def _unload_unwanted(self, model: Model) -> None:
        for version in model.versions.values():
            if version.state == START and not version.wanted:
                self._set(version, END)
        up = [version for version in model.versions.values() if version.state == AVAILABLE]
        unwanted = sorted((v for v in up if not v.wanted), key=lambda version: version.number)
        replaced = any(version.wanted for version in up)
        if any(version.wanted for version in model.versions.values()) and not replaced:
            unwanted = unwanted[:-1]  # The highest one answers until a wanted one can.
        for version in unwanted:
            self._set(version, UNLOADING)
            threading.Thread(
                target=self._unload, args=(version,), name="unload", daemon=True
            ).start()

    def _unload(self, version: Version) -> None:
        with self._changed:
            self._changed.wait_for(lambda: version.in_flight == 0)
            servable = version.servable
            del version.servable
        servable.close()
        with self._changed:
            self._set(version, END)
        logging.info("unloaded version %d from %s", version.number, version.path)

    def _set(self, version: Version, state: int) -> None:
        version.state = state
        self._changed.notify_all()


def _at_rest(version: Version) -> bool:
    """Returns whether the version's files have not changed for a while, so no copy is under way."""
    seen, age = disk_versions.fingerprint(version.path)
    now = time.monotonic()
    if seen != version.seen:
        version.seen, version.seen_since = seen, now
    # By the file system's clock, or by this machine's if the two disagree.
    return max(age, now - version.seen_since) >= _QUIET_SECONDS
