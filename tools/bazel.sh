#!/usr/bin/env bash
# Builds every target and tests those given, with Debian's Bazel 4, without a network, under the
# Python of .venv, or of the environment VENV. With a network, plain `bazel build //...` and `bazel
# test` do the same in an active environment.
#
#   tools/bazel.sh               tests one target per package: pytest runs all tests, so what is left
#                                to prove is that the declared files and deps are enough
#   tools/bazel.sh //tests/...   tests all
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rules=/usr/share/bazel/rules
if ! command -v bazel >/dev/null || [[ ! -d $rules/java || ! -d $rules/proto ]]; then
    echo "Bazel is missing: apt-get install bazel-bootstrap bazel-rules-java bazel-rules-proto" >&2
    exit 1
fi
venv=$(realpath -m "${VENV:-.venv}")
if [[ ! -x $venv/bin/python ]]; then
    echo "There is no $venv for the tests to run in: make venv" >&2
    exit 1
fi

flags=(
    # What Bazel would otherwise download; the last two hold the few lines that are really used.
    --override_repository=rules_java="$rules/java"
    --override_repository=rules_proto="$rules/proto"
    --override_repository=rules_cc="$PWD/third_party/bazel/rules_cc"
    --override_repository=remote_coverage_tools="$PWD/third_party/bazel/remote_coverage_tools"
    # No bazel-* links in the source tree.
    --experimental_convenience_symlinks=ignore
    --test_env=PATH="$venv/bin:$PATH"
    --test_env=TF_CPP_MIN_LOG_LEVEL=2
)
(($#)) || set -- //tests/report //tests/pipelines/report //tests/serving:search
trap 'bazel shutdown' EXIT  # else the server stays in memory for three hours
bazel build "${flags[@]}" //...
# One test at a time: each is a TensorFlow process that takes all cores.
bazel test "${flags[@]}" --local_test_jobs=1 --test_output=errors "$@"
