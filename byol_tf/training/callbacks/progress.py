"""One progress bar for the whole run: images per second, time left, the loss."""

import sys

import keras
from tqdm import tqdm


class ProgressBar(keras.callbacks.Callback):
    """A tqdm bar over all images of a run, which a resumed run continues where it stopped.

    tensorflow_addons' TQDMProgressBar counts epochs from 0 and steps without images, so it can show neither.
    On a terminal it is redrawn ten times a second, elsewhere (a log file) a line is written every 30 s.

    Args:
        total_steps: of the run.
        batch_size: global, images.
        start_step: steps already trained.
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

    def on_train_batch_end(self, batch, logs=None):
        self.bar.set_postfix(
            {"loss": f"{logs['loss']:.3f}", "std": f"{logs['projection_std']:.2f}"}, refresh=False
        )
        self.bar.update(self.batch_size)

    def close(self):
        """Leaves the bar as it stands; `pretrain` calls it, as a resumed run calls `fit` twice."""
        self.bar.close()


class _Lines:
    """Standard error with each redrawn bar on a line of its own."""

    def write(self, text: str) -> None:
        text = text.strip("\r\n")
        if text:
            sys.stderr.write(text + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
