/*
 * The wake-up protocol: "NOTIFY only if someone sleeps". README.md says what is modelled and what is
 * not; check.sh runs it. What another session can come between is a step of its own here; what one
 * call to PostgreSQL does at once is atomic.
 *
 * Each #ifdef leaves something out, or does it in another order.
 */
#ifndef JOBS
#define JOBS 2 /* inserters, each of one transaction and one job; at most 3 */
#endif
#ifndef DISPATCHERS
#define DISPATCHERS 2 /* each of one slot */
#endif
#ifndef FOREIGN
#define FOREIGN 1 /* jobs of other queues, each of which takes somebody's slot at any time */
#endif

#define NOBODY 255
#define BIT(n) (1 << (n))
#define ME BIT(me)
#define EVERYBODY (BIT(DISPATCHERS) - 1)

/* The wake lock of the bucket. */
byte post = NOBODY; /* the dispatcher that holds it exclusively: that is parked */
byte shared;        /* bits: who holds it shared, dispatchers after inserters */
#define MY_SHARE BIT(JOBS + me)

/* The table and the job locks. */
byte visible;       /* bits: rows that are committed and not deleted */
byte owner[JOBS] = NOBODY;

/* The channel. A hint that is pending may be on its way still. */
byte hints;         /* bits: the dispatchers that have one pending; more are the same as one */
byte alive = EVERYBODY;
#define BROADCAST(to) hints = hints | ((to) & alive)

/* Kept for the properties only. */
byte open = JOBS;   /* transactions that have not ended */
byte asleep;        /* bits: has a free slot and waits for a hint */
byte handling;      /* bits: has none, and nothing to do until the handler ends */
bit broadcast;      /* somebody has just unparked */
byte certain;       /* broadcasts that are bound to come: of a commit under way, of a death */

byte foreign = FOREIGN;

/*
 * A wake-up is lost when a job is free, somebody has a slot for it, and nobody is going to look.
 * Handlers and open transactions may take for ever, so they excuse nothing.
 */
#define IS_FREE(j) (j < JOBS && (visible & BIT(j)) && owner[j % JOBS] == NOBODY)
#define LOST ((IS_FREE(0) || IS_FREE(1) || IS_FREE(2)) && asleep && !(asleep & hints) \
  && (asleep | handling) == alive && certain == 0)

active proctype Watch() {
  if
  :: LOST -> assert(!LOST)
  :: timeout -> /* nobody can move */
    assert(visible == 0 && shared == 0 && owner[0] == NOBODY && owner[JOBS - 1] == NOBODY)
  fi
}

proctype Inserter(byte job) {
  bit notify;

  atomic { /* the trigger */
    if
    :: post == NOBODY -> shared = shared | BIT(job)
    :: else -> notify = 1
    fi
  }
  if /* after any time */
  :: atomic { /* commit: first the row, */
      true
#ifdef RELEASE_FIRST
      shared = shared & ~BIT(job)
    }
    atomic {
#endif
      visible = visible | BIT(job);
      certain = certain + notify
    }
    atomic { /* then the lock and the listeners */
      shared = shared & ~BIT(job);
      if
      :: notify -> BROADCAST(EVERYBODY); certain--
      :: else
      fi
      notify = 0;
      open--
    }
  :: atomic { /* abort */
      shared = shared & ~BIT(job);
      notify = 0;
      open--
    }
  fi
}

proctype Dispatcher(byte me) {
  byte snapshot, job;
  bit guarded; /* a peer was parked when we tried to park, and we have heard nothing since */

  {
    goto drain;

drain:
    if /* take what has come in */
    :: atomic {
        hints & ME -> hints = hints & ~ME;
#ifndef FORGET_HINT
        guarded = 0
#endif
      }
    :: true
    fi;
    if /* claim: look, */
    :: atomic { snapshot = visible; job = 0 }
    :: atomic { foreign > 0 -> foreign--; job = JOBS; goto saturated }
    fi;
    do /* try the job locks one by one, */
    :: atomic {
        if
        :: job == JOBS -> snapshot = 0; job = 0; goto drained
        :: else
        fi
        if
        :: (snapshot & BIT(job)) && owner[job] == NOBODY -> owner[job] = me; snapshot = 0; goto locked
        :: else -> job++
        fi
      }
    od;
locked:
    atomic { /* look again */
      if
      :: visible & BIT(job) -> goto saturated
#ifdef NO_REREAD
      :: else -> goto saturated
#else
      :: else -> owner[job] = NOBODY; job = 0; goto drain
#endif
      fi
    }

saturated:
    atomic {
      guarded = 0;
      if
      :: post == me -> goto unpark
#ifndef ALWAYS_UNPARK
      :: true /* or stay parked: inserters notify, and peers hear it */
#else
      :: else
#endif
      fi
    }
handle:
    handling = handling | ME;
    if
    :: job < JOBS ->
      atomic { assert(visible & BIT(job)); visible = visible & ~BIT(job) } /* accepted, once */
      owner[job] = NOBODY
    :: else
    fi;
    atomic { handling = handling & ~ME; job = 0; goto drain }

drained:
    atomic {
      if
      :: post == me || guarded -> goto sleep
#ifdef NO_BARRIER
      :: post == NOBODY -> post = me; goto parked
#else
      :: post == NOBODY && shared == 0 -> post = me; goto parked
#endif
      :: else
      fi
    }
    atomic {
      if
      :: post == NOBODY -> shared = shared | MY_SHARE
      :: else -> goto refused
      fi
    }
    shared = shared & ~MY_SHARE; /* an inserter is in flight, silent: try again later */
#ifdef RETRY_BLIND
    asleep = asleep | ME;
    atomic { shared == 0 || post != NOBODY || (hints & ME) -> asleep = asleep & ~ME }
#endif
    goto drain;

parked:
#ifdef NO_RESCAN
    goto sleep;
#else
    goto drain;
#endif

refused: /* a peer is parked */
#ifdef SLEEP_AT_ONCE
    goto sleep;
#else
    atomic { guarded = 1; goto drain }
#endif

sleep:
    asleep = asleep | ME;
end:
    if
    :: atomic {
        hints & ME -> hints = hints & ~ME;
        asleep = asleep & ~ME;
        guarded = 0;
        if
#ifndef UNPARK_LATE
        :: post == me -> job = NOBODY; goto unpark
#endif
        :: true -> goto drain /* or stay parked while looking */
        fi
      }
    :: atomic { foreign > 0 -> foreign--; asleep = asleep & ~ME; job = JOBS; goto saturated }
    fi;

unpark: /* leave the post, then have a peer take it */
#ifdef BROADCAST_FIRST
    BROADCAST(~ME);
#endif
    post = NOBODY;
#if !defined(BROADCAST_FIRST) && !defined(NO_BROADCAST_ON_UNPARK)
    atomic { BROADCAST(~ME); broadcast = 1 }
#endif
    atomic {
      broadcast = 0;
      if
      :: job == NOBODY -> job = 0; goto drain
      :: else -> goto handle
      fi
    }
  } unless { !(alive & ME) }
}

/* Death comes to one dispatcher, at any time or never. */
active proctype Death() {
  byte me, job;

  if
  :: atomic {
      select(me : 0 .. DISPATCHERS - 1);
      /* its session ends, and so all its locks are free */
      alive = alive & ~ME;
      hints = hints & ~ME;
      asleep = asleep & ~ME;
      handling = handling & ~ME;
      shared = shared & ~MY_SHARE;
      if :: post == me -> post = NOBODY :: else fi;
      for (job : 0 .. JOBS - 1) {
        if :: owner[job] == me -> owner[job] = NOBODY :: else fi
      }
      me = 0; job = 0;
      certain++
    }
#ifdef NO_RING
    certain--
#else
    atomic { BROADCAST(EVERYBODY); certain-- } /* by the one that waited for its beacon */
#endif
  :: open == 0 && asleep == EVERYBODY && hints == 0 -> skip /* never: nobody else can move */
  fi
}

init {
  byte n;

  atomic {
    for (n : 0 .. JOBS - 1) { run Inserter(n) }
    for (n : 0 .. DISPATCHERS - 1) { run Dispatcher(n) }
  }
}

#ifdef QUIET
ltl quiet { !([]<> broadcast && []<> !broadcast) }
#endif
