#!/usr/bin/env bash
# Checks the model of the wake-up protocol: that it holds, and that each variant in which something is
# missing fails, with a trail. Exits 0 only if all is as expected.
#
#   docs/model/check.sh                        all runs; about a minute, 0.4 GB
#   docs/model/check.sh trail -DNO_RESCAN      the shortest way in which that one fails
#
# Needs spin 6 and gcc. What they write goes to a directory that is removed.
set -euo pipefail
model=$(cd "$(dirname "$0")" && pwd)/wake.pml
for tool in spin gcc; do
  command -v "$tool" >/dev/null || { echo "check.sh: $tool is missing; install the packages spin and gcc" >&2; exit 2; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# No partial-order reduction: the watch reads everything, and death interrupts everything.
compiler=(gcc -O2 -w -DNOREDUCE -DMEMLIM=1900)

verify() { # compiler option, pan option, flags of the model: leaves pan.out and, on failure, a trail
  rm -f pan* ./*.trail
  cp "$model" wake.pml
  spin -a "${@:3}" wake.pml >/dev/null
  "${compiler[@]}" $1 -o pan pan.c
  ./pan $2 >pan.out 2>&1 || true
}

if [[ ${1-} == trail ]]; then
  verify '-DSAFETY -DBFS' '' "${@:2}"
  [[ -s wake.pml.trail ]] || { echo "check.sh: no trail: it holds" >&2; exit 1; }
  spin -t -p "${@:2}" wake.pml
  exit
fi

wrong=0
report() { # name, what was expected, whether it is so
  local verdict=ok
  $3 || { verdict=WRONG wrong=1; }
  printf '%-5s  %-28s %-6s %10d states  %s\n' "$verdict" "$1" "$2" \
    "$(sed -n 's/^ *\([0-9]*\) states, stored.*/\1/p' pan.out)" "$(sed -n 's/^pan:1: \([a-z ]*\).*/\1/p' pan.out)"
}

searched() { grep -q 'errors: 0$' pan.out && ! grep -qi 'not completed\|too small\|out of memory\|reached -DMEMLIM' pan.out; }
# All of the model is reached, but for the assertion that a wake-up is lost.
covered() { searched && [[ $(grep -c '^[[:space:]]*wake.pml:' pan.out) == 1 ]] && grep -q 'wake.pml:.*"assert(!' pan.out; }
failed() { grep -q 'errors: 1$' pan.out && [[ -s wake.pml.trail ]]; }

safety='-DSAFETY' deep='-m100000'
verify $safety $deep
report 'the protocol' holds covered
verify $safety $deep -DSLEEP_AT_ONCE -DALWAYS_UNPARK
report 'SLEEP_AT_ONCE ALWAYS_UNPARK' holds searched
for variant in NO_BARRIER NO_RESCAN NO_RING NO_BROADCAST_ON_UNPARK BROADCAST_FIRST RELEASE_FIRST \
  SLEEP_AT_ONCE FORGET_HINT RETRY_BLIND NO_REREAD; do
  verify $safety $deep -D$variant
  report $variant fails failed
done
verify '' "-a $deep" -DQUIET -DFOREIGN=0 -DUNPARK_LATE
report 'quiet' holds searched
verify '' "-a $deep" -DQUIET -DFOREIGN=0
report 'quiet, unpark on a hint' fails failed
exit $wrong
