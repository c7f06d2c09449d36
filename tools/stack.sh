#!/usr/bin/env bash
# Says which stack this machine can hold: prints "STACK SET PYTHON REASON", or one sentence and fails.
#
#   tools/stack.sh                     picks: classic where Python 3.11 is, else current
#   tools/stack.sh current             that one
#   tools/stack.sh current pipeline    that one, and fails if it has no pipeline here
#
# requirements/STACK-SET.lock is what to install: SET is full, or core where the pipeline has no
# wheels. The variable PYTHON names the interpreter to use; otherwise those on the PATH are tried.
set -euo pipefail

stack=${1:-}
needs=${2:-}

fail() {
    echo "$1" >&2
    exit 1
}

# A shim of pyenv is on the PATH even where its Python is not, so each is asked.
version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

[[ -z $stack || $stack == classic || $stack == current ]] ||
    fail "There is no stack '$stack'; give STACK=classic, STACK=current or neither."

classic="" current="" current_version=""
for python in ${PYTHON:-python3.13 python3.12 python3.11 python3.10 python3}; do
    version=$(version_of "$python")
    if [[ $version == 3.11 ]]; then
        classic=${classic:-$python}
    fi
    if [[ -z $current && $version =~ ^3\.1[0-3]$ ]]; then
        current=$python current_version=$version
    fi
done
found="no Python 3.10 to 3.13 is on the PATH"
if [[ -n ${PYTHON:-} ]]; then
    found="'$PYTHON' is ${version:+Python }${version:-no Python}"
elif [[ -n $current ]]; then
    found="there is only Python $current_version"
fi

machine=$(uname -m)
if [[ $machine != x86_64 ]]; then
    classic=""  # ML Metadata 1.15 has no wheels, and TensorFlow 2.15 not its own.
    found="this machine is $machine"
fi

# Why the current stack has no pipeline here.
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null || true)
glibc=${glibc#glibc }
minor=${glibc#2.}
lacks=""
if [[ $machine != x86_64 ]]; then
    lacks="TFX 1.21 has no wheels for $machine"
elif [[ ! $minor =~ ^[0-9]+$ ]] || ((minor < 39)); then
    lacks="TFX 1.21 needs glibc 2.39, and this system has ${glibc:-none}"
elif [[ $current_version == 3.10 ]]; then
    lacks="Beam needs Python 3.11 or later"
fi

[[ -n $current ]] || fail "byol_tf needs Python 3.11 (STACK=classic) or 3.10 to 3.13 \
(STACK=current), and $found: install one, or give its path as PYTHON=/path/to/python3.11."
if [[ $stack == classic && -z $classic ]]; then
    fail "STACK=classic needs Python 3.11 on x86_64, and $found: STACK=current fits here."
fi

if [[ $stack == current || -z $classic ]]; then
    stack=current
    set=$([[ -n $lacks ]] && echo core || echo full)
    reason="Python $current_version${lacks:+, without the pipeline: $lacks}"
    [[ $needs != pipeline || -z $lacks ]] || fail "The pipeline does not run here: $lacks; \
$([[ -n $classic ]] && echo "use STACK=classic" || echo "use Debian 13 or Ubuntu 24.04 on x86_64, or Python 3.11 and STACK=classic")."
    python=$current
else
    stack=classic set=full
    reason="Python 3.11; STACK=current has TensorFlow 2.21 and Keras 3${lacks:+, without the pipeline: $lacks}"
    python=$classic
fi
echo "$stack $set $python $reason"
