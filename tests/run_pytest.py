"""Main of the py_test targets: pytest on the folder given by the target's args."""

import os
import sys

import pytest

if __name__ == "__main__":
    # The slow tests run in `make test`; here it is proved that the declared files and deps do.
    sys.exit(
        pytest.main(
            [
                *("-m", "not slow and not gpu"),
                *("-p", "no:cacheprovider"),
                f"--junitxml={os.environ['XML_OUTPUT_FILE']}",
                *sys.argv[1:],
            ]
        )
    )
