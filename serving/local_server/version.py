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
    """A version the server has known. Guarded by the store's lock, but for `seen`: one thread's own."""

    number: int
    path: str
    state: int = START
    error: StatusError | None = None
    wanted: bool = True
    servable: Servable | None = None
    in_flight: int = 0
    seen: Hashable = None  # The last fingerprint of its files, until they are at rest,
    seen_since: float = 0.0  # and since when they have looked like that.


class Model:
    """A model's config and its versions by number."""

    def __init__(self, config: model_server_config_pb2.ModelConfig):
        self.config = config
        self.versions: dict[int, Version] = {}
        self.complaint = ""  # The last one logged, so that a poll a second says it once.

    def available(self) -> Version | None:
        """The highest version that answers."""
        numbers = [
            number for number, version in self.versions.items() if version.state == AVAILABLE
        ]
        return self.versions[max(numbers)] if numbers else None
