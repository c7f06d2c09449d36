#!/usr/bin/env bash
# Resolves requirements/*.lock again, hashes included; pins that still fit stay. Needs uv.
#
#   tools/lock.sh            both stacks
#   tools/lock.sh classic    one of them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v "${UV:=uv}" >/dev/null || {
    echo "'$UV' is missing: python3 -m venv uv && uv/bin/pip install uv, then make lock UV=uv/bin/uv" >&2
    exit 1
}

# compile NAME ARGUMENT...: writes requirements/NAME.lock.
compile() {
    "$UV" pip compile -q --generate-hashes --no-annotate -o "requirements/$1.lock" "${@:2}"
}

# gpu STACK ARGUMENT...: writes what tensorflow[and-cuda] adds to a stack, NVIDIA's libraries.
gpu() {
    compile "$1-gpu" -c "requirements/$1-core.lock" "${@:2}" - <<<"tensorflow[and-cuda]"
    awk '/^[a-z]/ { keep = /^nvidia-/ } keep || /^#/' "requirements/$1-gpu.lock" >"requirements/$1-gpu.lock~"
    mv "requirements/$1-gpu.lock~" "requirements/$1-gpu.lock"
}

extras() {
    printf -- '--extra=%s\n' tfds report evaluation detection heif tiff onnx serving test "$@"
}

if [[ ${1:-classic} == classic ]]; then
    python=(--python-version=3.11)
    mapfile -t core < <(extras addons)
    # Core takes its versions from full, so that what full proves holds for core.
    compile classic-full "${python[@]}" "${core[@]}" --extra=pipeline --extra=dev \
        -c requirements/classic.txt setup.cfg
    compile classic-core "${python[@]}" "${core[@]}" -c requirements/classic-full.lock setup.cfg
    gpu classic "${python[@]}"
fi

# One lock for every Python of the stack, by markers. TFX holds versions back (serving-api at 2.19,
# protobuf at 6), so core has its own, those that a plain `pip install` chooses.
if [[ ${1:-current} == current ]]; then
    mapfile -t core < <(extras dev)
    compile current-core --universal --python-version=3.10 "${core[@]}" -c requirements/current.txt setup.cfg
    # Beam is for Python 3.11 and later.
    compile current-full --universal --python-version=3.11 "${core[@]}" --extra=pipeline \
        -c requirements/current.txt setup.cfg
    gpu current --universal --python-version=3.10
fi
