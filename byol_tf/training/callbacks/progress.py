"""A progress bar for the whole run: images per second, time left, the loss."""

import sys

import keras
from tqdm import tqdm


class ProgressBar(keras.callbacks.Callback):
    """A tqdm bar over all images of a run, which a resumed run continues where it stopped.

    On a terminal it is redrawn ten times per second; elsewhere, such as in a log file, a line is
    written every 30 s. tensorflow_addons' TQDMProgressBar counts epochs from 0 and steps instead of
    images, so it cannot show this.

    Args:
        total_steps: Number of steps of the run.
        batch_size: Global batch size, in images.
        start_step: Number of steps already trained.
    """

    def __init__(self, total_steps: int, batch_size: int, start_step: int = 0):
        super().__init__()
        self.batch_size = batch_size
        terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=total_steps * batch_size,
            initial=start_step * batch_size,
            unit="img",
            unit_scale=True,
            dynamic_ncols=terminal,
            ncols=None if terminal else 120,
            mininterval=0.1 if terminal else 30,
            file=_Lines() if not terminal else None,
        )

    def on_train_batch_end(self, batch: int, logs: dict) -> None:
        """Moves the bar by one batch and shows loss and spread."""
        self.bar.set_postfix(
            {"loss": f"{logs['loss']:.3f}", "std": f"{logs['projection_std']:.2f}"}, refresh=False
        )
        self.bar.update(self.batch_size)

    def close(self) -> None:
        """Closes the bar; not `on_train_end`, since a resumed run calls `fit` twice."""
        self.bar.close()


class _Lines:
    """Standard error, with each redrawn bar on its own line."""

    def write(self, text: str) -> None:
        text = text.strip("\r\n")
        if text:
            sys.stderr.write(text + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
