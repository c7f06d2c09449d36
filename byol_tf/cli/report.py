"""byol-report: makes an HTML page of a run: results, curves, accuracy by class, neighbours, a map.

For example:

    byol-report runs/photos
    byol-report runs/photos --train_dir=photos/train --test_dir=photos/test --output=photos.html
"""

import importlib.util
import os

from absl import flags

from byol_tf.cli import import_tensorflow, run_main
from byol_tf.errors import UserError

# Import names of the packages in the extra.
_PACKAGES = ("jinja2", "matplotlib", "PIL", "sklearn")
_FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Runs the command; see `--help`."""
    _, run_dir = argv
    output = _output(run_dir)
    _check_packages()
    import_tensorflow()
    from byol_tf.files import write_atomically
    from byol_tf.report import run_page
    from byol_tf.report.collect import collect

    write_atomically(output, run_page.render(collect(run_dir, _FLAGS.train_dir, _FLAGS.test_dir)))
    print(f"The page is {output}")


def run() -> None:
    """Defines the flags and runs the command; the console entry point."""
    _define_flags()
    run_main(main, positional="RUN_DIR")


def _define_flags() -> None:
    flags.DEFINE_string(
        "train_dir",
        None,
        "Images to find neighbours among: a folder, TFRecords or tfds:NAME[:SPLIT]; by default "
        "those that the run's evaluation.json names.",
    )
    flags.DEFINE_string(
        "test_dir",
        None,
        "Test images to show, with the same class subfolders as --train_dir or without labels; by "
        "default those that the run's evaluation.json names.",
    )
    flags.DEFINE_string("output", None, "Path of the page; by default report.html in the run.")


def _output(run_dir: str) -> str:
    """Returns the path of the page, checked before images are embedded."""
    output = _FLAGS.output or os.path.join(run_dir, "report.html")
    if not os.path.isdir(os.path.dirname(output) or "."):
        raise UserError(
            f"there is no folder for '{output}'; create it, or correct --output or RUN_DIR."
        )
    return output


def _check_packages() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"byol-report needs packages that are not installed ({', '.join(missing)}); run "
            'pip install "byol_tf[report]".'
        )


if __name__ == "__main__":
    run()
