#!/bin/sh
# A program for pq-dispatch that is started for each job. See docs/handlers.md.
#
# The job's data is on stdin, what else is known of it in the environment. Exit with 0: done;
# 65: discard it; anything else: try again later, with what was said last on stderr as the error.
set -eu

data=$(cat)
case $data in
  *'"kind"'*) ;;
  *)
    echo "job $PQ_DISPATCH_JOB_ID of $PQ_DISPATCH_QUEUE: cannot eat $data" >&2
    exit 65
    ;;
esac
if [ "$PQ_DISPATCH_ATTEMPT" -gt 1 ]; then
  echo "this is attempt $PQ_DISPATCH_ATTEMPT of ${PQ_DISPATCH_MAX_ATTEMPTS:-some}" >&2
fi
echo "ate $data" # in the daemon's log, at level debug
