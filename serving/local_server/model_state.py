"""A model and its versions, as the server knows them."""

import dataclasses
from collections.abc import Hashable

from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.local_server.servable import Servable
from serving.local_server.status import StatusError

State = get_model_status_pb2.ModelVersionStatus.State
START, LOADING, AVAILABLE, UNLOADING, END = (
    State.Value(name) for name in ("START", "LOADING", "AVAILABLE", "UNLOADING", "END")
)


@dataclasses.dataclass(eq=False)
class Version:
    """A version the server has known.

    Guarded by the store's lock, except `seen` and `seen_since`, which one thread at a time uses.
    """

    number: int
    path: str
    state: int = START
    error: StatusError | None = None
    wanted: bool = True
    in_flight: int = 0
    servable: Servable = dataclasses.field(init=False, repr=False)  # From AVAILABLE to UNLOADING.
    seen: Hashable = None  # The last fingerprint of its files,
    seen_since: float = 0.0  # and the time (monotonic) since which they have had it.


class Model:
    """A model's config and its versions by number.

    Args:
        config: Config of the model; set to None when a later config leaves the model out.
    """

    def __init__(self, config: model_server_config_pb2.ModelConfig | None):
        self.config = config
        self.versions: dict[int, Version] = {}
        self.complaint = ""  # The last one logged: one poll per second must not repeat it.

    def available(self) -> Version | None:
        """Returns the highest version that is AVAILABLE, or None."""
        available = [version for version in self.versions.values() if version.state == AVAILABLE]
        return max(available, key=lambda version: version.number, default=None)
