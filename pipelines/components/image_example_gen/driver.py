"""The driver of ImageExampleGen, which fingerprints the images by our own listing of them."""

import copy
from collections.abc import Iterable

from tfx import v1 as tfx
from tfx.components.example_gen import driver, input_processor, utils

from pipelines.images import listing
from pipelines.settings import canonical


class InputProcessor(input_processor.FileBasedInputProcessor):
    """TFX's, but its fingerprint fails on a link that leads nowhere, and looks at one folder only.

    Args:
        input_base_uri: Folder of the images.
        splits: Splits with their patterns.
        range_config: Span to read.
    """

    def resolve_span_and_version(self) -> tuple[int, int | None]:
        """Returns the span that all splits have, 0 without spans, and its version, if any.

        Raises:
            ValueError: There is no span that fits, or the splits have different ones.
            UserError: The folder cannot be read.
        """
        splits = [copy.deepcopy(split) for split in self._splits]
        found = {  # Puts the numbers into the patterns, too.
            utils._get_target_span_version(self._input_base_uri, split, self._range_config)
            for split in splits
        }
        if len(found) > 1:
            raise ValueError("the latest span and version must be the same for each split")
        ((span, version),) = found
        self._fingerprint = " ".join(  # type: ignore[assignment]  # TFX says it is None.
            listing.digest(listing.find_files(self._input_base_uri, split.pattern))
            for split in splits
        )
        return span or 0, version


class Driver(driver.FileBasedDriver):
    """TFX's driver with our `InputProcessor`."""

    def get_input_processor(
        self,
        splits: Iterable[tfx.proto.Input.Split],
        range_config: tfx.proto.RangeConfig | None = None,
        input_base_uri: str | None = None,
    ) -> InputProcessor:
        """Returns the processor of the splits."""
        assert input_base_uri
        return InputProcessor(canonical(input_base_uri), splits, range_config)
