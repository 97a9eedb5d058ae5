#!/bin/sh
# A worker for pq-dispatch that stays, in plain shell. See docs/workers.md.
#
# A line begins with {"type":"job","id":"N", and ends with ,"data":...}: that much can be cut without a
# parser. With jq at hand, use that. A shell reads byte by byte: for large data take another language.

work() { # the job's data is $1; what this says on stderr is in the daemon's log
  case $1 in
    *'"kind"'*) echo "ate $1" >&2 ;;
    *) return 1 ;;
  esac
}

echo '{"ready":true,"protocol":1}'
while IFS= read -r line; do
  case $line in
    '{"type":"job","id":"'*) ;;
    *) continue ;; # a cancel comes while nothing can be done about it
  esac
  id=${line#'{"type":"job","id":"'}
  id=${id%%'"'*}
  data=${line#*',"data":'}
  data=${data%'}'}
  if work "$data" </dev/null >&2; then # the lines belong to the loop, stdout to the protocol
    printf '{"id":"%s","outcome":"done"}\n' "$id"
  else
    printf '{"id":"%s","outcome":"retry","error":"cannot eat it"}\n' "$id"
  fi
done
