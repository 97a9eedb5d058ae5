#!/usr/bin/env python3
"""A worker for pq-dispatch: it stays, and gets one job after another. See docs/workers.md.

Jobs are run in a thread, so that the main one hears of a cancel meanwhile. A worker that need not stop
early runs them right in the loop, and passes over the lines that are of another type than "job".
"""

import json
import sys
import threading


class Snooze(Exception):
    """Run the job again in so many seconds, as the same attempt."""


def run(job, cancelled):
    """The work. What it returns is ignored; what it raises is the job's error."""
    data = job["data"]
    match data:
        case {"sleep": seconds}:
            if cancelled.wait(seconds):
                raise InterruptedError("cancelled")
        case {"later": seconds}:
            raise Snooze(seconds)
        case {"kind": str(kind)}:
            print(f"ate a {kind}", file=sys.stderr)  # a line of the daemon's log
        case _:
            raise ValueError(f"cannot eat {data!r}")


def outcome(job, cancelled):
    try:
        run(job, cancelled)
    except Snooze as snooze:
        return {"outcome": "snooze", "delay": snooze.args[0]}
    except ValueError as error:  # no retry would mend it
        return {"outcome": "fail", "error": str(error)}
    except Exception as error:
        return {"outcome": "retry", "error": f"{type(error).__name__}: {error}"}
    return {"outcome": "done"}


def say(message, out=sys.stdout):
    print(json.dumps(message), file=out, flush=True)  # flush: a pipe is buffered


def main():
    sys.stdout = sys.stderr  # a stray print() must not end up in the protocol
    out = sys.__stdout__
    say({"ready": True, "protocol": 1}, out)
    cancelled = threading.Event()
    for line in sys.stdin:
        message = json.loads(line)
        if message["type"] == "cancel":
            cancelled.set()
        elif message["type"] == "job":
            cancelled = threading.Event()

            def work(job=message, cancelled=cancelled):
                say({"id": job["id"], **outcome(job, cancelled)}, out)

            threading.Thread(target=work).start()


if __name__ == "__main__":
    main()
