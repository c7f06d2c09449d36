#!/usr/bin/env bash
# Runs a command until it succeeds, as a supervisor of jobs does.
#
#     tools/restart.sh 5 byol-pretrain --strategy=multi_worker ...
#
# The first argument is the largest number of restarts. Start it on each worker: when one is lost the
# others end with an error, and all of them meet again in the next attempt.
set -u
restarts=$1
shift
for ((attempt = 0; ; attempt++)); do
  "$@" && exit 0
  status=$?
  ((attempt < restarts)) || exit "$status"
  echo "restart.sh: '$1' ended with status $status; restart $((attempt + 1)) of $restarts" >&2
  sleep 5
done
