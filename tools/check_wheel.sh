#!/usr/bin/env bash
# Proves that the wheel installs into empty environments and works there: core, [serving], [report].
# STACK and PYTHON are make's; versions are those of requirements/STACK-core.lock. Needs a package
# index; takes minutes and a few GB, which it gives back at the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

plan=$(tools/stack.sh "${STACK:-}")
read -r stack _ python _ <<<"$plan"
lock=requirements/$stack-core.lock
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH= TF_CPP_MIN_LOG_LEVEL=3
unset PYTHONDONTWRITEBYTECODE

# From a copy: setuptools would take up what an earlier build left in build/.
mkdir -p "$work/source/docs"
cp -r byol_tf pipelines serving setup.cfg pyproject.toml LICENSE "$work/source"
cp docs/description.md "$work/source/docs"
# Build requirements from the lock, too: nothing is left for pip to choose that day. wheel needs
# packaging.
awk '/^[a-z]/ { build = /^(packaging|setuptools|wheel)==/ } build' "$lock" >"$work/build.lock"
# Constraints without hashes: pip asks for a hash of the wheel, too, if it sees any.
sed -E '/^ +--hash=/d; s/ \\$//' "$lock" >"$work/versions.txt"
"$python" -m venv "$work/build"
"$work/build/bin/pip" install -q --require-hashes -r "$work/build.lock"
"$work/build/bin/pip" wheel -q --no-deps --no-build-isolation -w "$work" "$work/source"
wheel=$(echo "$work"/byol_tf-*.whl)

# A new environment $1 with the wheel and the extra $2 ("" for none). The current directory is an
# empty folder, so what is imported is the wheel's.
install() {
    echo "== $1: pip install byol_tf${2:+[$2]}"
    "$python" -m venv "$work/$1"
    "$work/$1/bin/pip" install -q --no-compile -c "$work/versions.txt" "$wheel${2:+[$2]}"
    "$work/$1/bin/pip" check
    mkdir "$work/$1/empty"
    cd "$work/$1/empty"
    PATH="$work/$1/bin:$PATH"
}

shows_help() {
    local text
    text=$("$1" --help)
    [[ $text == *"$1"*--* ]] || { echo "$1 --help says: $text" >&2; exit 1; }
}

(
    install core ""
    shows_help byol-pretrain
    python - "$root/examples/images/train" <<'EOF'
import pathlib
import sys

import numpy as np

import byol_tf
from byol_tf.configs import cifar10_demo

assert "site-packages" in byol_tf.__file__
assert (pathlib.Path(byol_tf.__file__).parent / "py.typed").exists()
config = cifar10_demo.get_config("smoke")
encoder = byol_tf.networks.resnet(depth=18, width=0.25, image_size=32, stem="small")
model = byol_tf.BYOL(encoder, total_steps=1, hidden_size=32, projection_size=16)
model.compile(optimizer=byol_tf.optimizers.LARS(learning_rate=0.1))
views = byol_tf.data.two_view_dataset(sys.argv[1], config)
history = model.fit(views, epochs=1, steps_per_epoch=1, verbose=0).history
assert np.isfinite(history["loss"][0]), history
print("one step of BYOL, loss", history["loss"][0])
preprocessing = byol_tf.pretrain.preprocessing_from_config(config)
byol_tf.export.save_encoder(model.encoder, "exported/1", preprocessing=preprocessing)
EOF
    cp -r exported "$work/exported"
)

(
    install serving serving
    python - <<'EOF'
import sys

from serving.client import EmbeddingClient

assert "tensorflow" not in sys.modules
EOF
    shows_help byol-embed
    shows_help byol-serve
    byol-embed --saved_model="$work/exported" --output=cats.parquet --index \
        "$root/examples/images/test/cat"
    byol-neighbors --embeddings=cats.parquet --saved_model="$work/exported" --output=like.html \
        "$root/examples/images/test/cat/0001.jpg"
    test -s like.html
)

(
    install report report
    shows_help byol-report
    python -c 'from byol_tf.report import charts, run_page; print(charts.__file__)'
    byol-pretrain --config=cifar10_demo:smoke --data_dir="$root/examples/images/test" --run_dir=run
    byol-report run
    test -s run/report.html
)
echo "The wheel installs and works on the stack $stack: core, [serving], [report]."
