#!/usr/bin/env bash
# Starts and ends what Beam's portable runner needs, as processes on this machine: a job server, Beam's
# own in Python, and a pool that starts Python workers when the job server asks for them.
#
#   tools/portable_runner.sh up      prints the arguments for byol-pipeline
#   tools/portable_runner.sh down
#
#   VENV        environment with Beam, .venv by default
#   STATE       folder of the processes' ids and logs, build/portable-runner by default
#   JOB_PORT    port of the job server, 8099 by default; POOL_PORT, of the pool, 50000
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$(realpath -m "${VENV:-$repository/.venv}")
state=$(realpath -m "${STATE:-$repository/build/portable-runner}")
job_port=${JOB_PORT:-8099}
pool_port=${POOL_PORT:-50000}
seconds=25

fail() {
    echo "$1" >&2
    exit 1
}

# Each process leads a group, and workers are in the group of their pool.
down() {
    local file group
    for file in "$state"/*.pid; do
        [[ -e $file ]] || continue
        group=$(<"$file")
        # The file may be of last week, and its number somebody else's by now.
        if ! pgrep -g "$group" -f apache_beam >/dev/null; then
            rm "$file"
            continue
        fi
        kill -TERM -- "-$group" 2>/dev/null || true
        for _ in {1..50}; do
            kill -0 -- "-$group" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL -- "-$group" 2>/dev/null || true
        rm "$file"
    done
}

start() {
    local name=$1
    shift
    setsid "$@" >"$state/$name.log" 2>&1 </dev/null &
    echo $! >"$state/$name.pid"
}

listens() {
    (exec 3<>"/dev/tcp/localhost/$1") 2>/dev/null
}

# Waits until the process listens, dies or takes too long.
await() {
    local name=$1 port=$2
    while ! listens "$port"; do
        kill -0 "$(<"$state/$name.pid")" 2>/dev/null ||
            fail "The $name ended: $(tail -n 1 "$state/$name.log") (all of it: $state/$name.log)"
        ((SECONDS < seconds)) || fail "The $name does not listen on port $port after $seconds s: $state/$name.log"
        sleep 0.2
    done
}

up() {
    local file port
    [[ -x $venv/bin/python ]] || fail "There is no $venv: make venv"
    for file in "$state"/*.pid; do
        [[ ! -e $file ]] || ! kill -0 "$(<"$file")" 2>/dev/null ||
            fail "It is up already (see $state); end it with: tools/portable_runner.sh down"
    done
    for port in "$job_port" "$pool_port"; do
        ! listens "$port" || fail "Port $port is taken; give others by JOB_PORT and POOL_PORT."
    done
    mkdir -p "$state"

    SECONDS=0
    # The pool starts its workers as `python`, and they import the packages of this repository.
    export PATH=$venv/bin:$PATH PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
    trap down EXIT
    start job-server python -m apache_beam.runners.portability.local_job_service_main \
        --port="$job_port" --staging_dir="$state/staging"
    start worker-pool python -m apache_beam.runners.worker.worker_pool_main --service_port="$pool_port"
    await job-server "$job_port"
    await worker-pool "$pool_port"
    trap - EXIT
    echo "--runner=PortableRunner --job_endpoint=localhost:$job_port --environment_type=EXTERNAL" \
        "--environment_config=localhost:$pool_port --sdk_container_image=none"
}

case "${1:-}" in
    up) up ;;
    down) down ;;
    *) fail "Give up or down: tools/portable_runner.sh up" ;;
esac
