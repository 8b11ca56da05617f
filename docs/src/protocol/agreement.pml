/* The agreement of hello.md, "Agreement" and "Commit", as a model for spin. `tests/long/spin` checks it.
 *
 * Two nodes, 0 with the lower id: 0 nominates, 1 confirms. Session 0 is a call of node 0, session 1 one of node 1. Either or both
 * call, at any time. Up to 3 streams, each of either session and dialled by either node, have no order among each other. Each
 * end of a stream may find it broken at any time before it is a pipe: what is under way to that end is lost. A caller may give up.
 *
 * More is allowed here than in the text: the nominator may nominate any candidate in place of its oldest one, and late.
 *
 * Asserted: at each end a session has at most one pipe, and the same one at both ends unless one of the two broke before both ends
 * had it. In the end no stream waits, a pipe has two ends or
 * none, and a call has a pipe if one of its own streams lived, nobody gave up, and no stream broke while its ends settled.
 * That everything ends: no run is endless (pan -l), and none stops elsewhere (invalid end states).
 *
 * Not asserted: that one pipe answers two calls where it can. Rule 3 of either side, and the condition that a responder that
 * calls allows no COMMIT, are there for that: without them everything above still holds.
 *
 * Each -D of FORGETS, TWO_OUT, COMMITS_LATE and KEEPS plants a fault, which has to be found.
 */

#define STREAMS 3

/* Messages, and the sessions that they name: one bit each. */
#define FIRST 0
#define READY 4
#define MAY_COMMIT 8
#define TOO_LATE 12
#define NOMINATE 16
#define COMMIT 20
#define CONFIRM 24
#define REFUSE 28
#define CLOSED 32
#define KIND(message) (message & 60)
#define NAMED(message) (message & 3)

/* States of a stream's end. */
#define UNUSED 0
#define IDLE 1      /* not dialled, or nothing heard */
#define HELLO 2     /* FIRST is sent */
#define CANDIDATE 3
#define PIPE 4
#define GONE 5

#define BIT(s) (1 << (s))
#define END(n, node) (2 * (n) + (node))

chan wire[6] = [3] of { byte };     /* to each end, in order */
byte end[6];
bool commits[6];                    /* COMMIT is allowed, as this end knows */
byte session_of[STREAMS], dialler[STREAMS];
bool broken[STREAMS];

byte callers, called;               /* bits */
byte open[2], over[2];              /* bits, at each node */
byte nominated[2], tried;           /* at node 0: number of the stream and 1 for each session; bits */
byte winner[4];                     /* at each node for each session: number of the stream and 1 */
byte settled[6];                    /* at each end, bits */
bool gave_up, stop;
hidden byte k, message, named, also;  /* of one step */

inline send(n, node, message) {
    if
    :: end[END(n, node)] != GONE ->
        assert(nfull(wire[END(n, node)]));
        wire[END(n, node)] ! message
    :: else
    fi
}

/* What is under way to an end that is gone is read by nobody. */
inline drain(n, node) {
    do
    :: wire[END(n, node)] ? _
    :: empty(wire[END(n, node)]) -> break
    od
}

/* The stream's end is gone. The nominator takes back what it has nominated on it. */
inline lose(n, node) {
    end[END(n, node)] = GONE;
    commits[END(n, node)] = false;
    drain(n, node);
#ifndef KEEPS
    if
    :: node == 0 && nominated[0] == n + 1 -> nominated[0] = 0
    :: else
    fi;
    if
    :: node == 0 && nominated[1] == n + 1 -> nominated[1] = 0
    :: else
    fi
#endif
}

inline close(n, node) {
    lose(n, node);
    send(n, 1 - node, CLOSED)
}

/* Ends sessions at a node, and closes their streams but `but`. */
inline finish(node, sessions, but) {
    open[node] = open[node] & ~(sessions);
    over[node] = over[node] | (sessions);
    k = 0;
    do
    :: k < STREAMS ->
        if
        :: k != but && (BIT(session_of[k]) & (sessions)) &&
                (end[END(k, node)] == HELLO || end[END(k, node)] == CANDIDATE) -> close(k, node)
        :: else
        fi;
        k++
    :: else -> break
    od;
    k = 0
}

inline win(node, n, s, sessions) {
    if
    :: sessions & BIT(s) ->
        assert(winner[2 * node + s] == 0);                          /* at most one */
        winner[2 * node + s] = n + 1;
        if                                                          /* the same at both ends */
        :: winner[2 * (1 - node) + s] != 0 ->
            assert(winner[2 * (1 - node) + s] == n + 1 || broken[winner[2 * (1 - node) + s] - 1])
        :: else
        fi
    :: else
    fi
}

/* The stream is the pipe of these sessions. */
inline settle(node, n, sessions) {
    win(node, n, 0, sessions);
    win(node, n, 1, sessions);
    end[END(n, node)] = PIPE;
    commits[END(n, node)] = false;
    settled[END(n, node)] = sessions;
    if
    :: node == 0 && ((sessions) & 1) -> nominated[0] = 0
    :: else
    fi;
    if
    :: node == 0 && ((sessions) & 2) -> nominated[1] = 0
    :: else
    fi;
#ifdef FORGETS
    finish(node, sessions, n);
    over[node] = over[node] & ~(sessions)
#else
    finish(node, sessions, n)
#endif
}

/* What the nominator says on a candidate. The second session is one of the other side that is open and not nominated. */
inline nominate(n) {
    named = BIT(session_of[n]);
    if
    :: (open[0] & BIT(1 - session_of[n])) && nominated[1 - session_of[n]] == 0 -> named = 3
    :: else
    fi;
    if
#ifdef COMMITS_LATE
    :: commits[END(n, 0)] ->
#else
    :: commits[END(n, 0)] && !(tried & named) ->
#endif
        send(n, 1, COMMIT + named);
        settle(0, n, named)
    :: else ->
        tried = tried | named;
        if
        :: named & 1 -> nominated[0] = n + 1
        :: else
        fi;
        if
        :: named & 2 -> nominated[1] = n + 1
        :: else
        fi;
        send(n, 1, NOMINATE + named)
    fi;
    named = 0
}

#ifdef TWO_OUT
#define FREE(s) true
#else
#define FREE(s) (nominated[s] == 0)
#endif
#define ALONE(s) (nominated[1 - (s)] == 0)
#define MAY_NOMINATE(n) (end[END(n, 0)] == CANDIDATE && (open[0] & BIT(session_of[n])) \
    && FREE(session_of[n]) && ALONE(session_of[n]) && nominated[0] != n + 1 && nominated[1] != n + 1)

/* What the confirmer does on NOMINATE and COMMIT. `confirms`: it says CONFIRM. */
inline take(n, names, confirms) {
    if
    :: !(names & BIT(session_of[n])) || !(open[1] & BIT(session_of[n])) ->
        if
        :: confirms -> send(n, 0, REFUSE)
        :: else
        fi;
        close(n, 1)
    :: else ->
        named = BIT(session_of[n]);
        also = 0;
        if
        :: (names & BIT(1 - session_of[n])) && (open[1] & BIT(1 - session_of[n])) -> named = 3
        :: !(names & 2) && session_of[n] == 0 && (open[1] & 2) -> named = 3; also = 2
        /* The nominator's own call, not heard of: what comes of it later finds it over. */
        :: session_of[n] == 1 && (names & 1) && !(open[1] & 1) -> over[1] = over[1] | 1
        :: else
        fi;
        if
        :: confirms -> send(n, 0, CONFIRM + also)
        :: else
        fi;
        settle(1, n, named);
        named = 0;
        also = 0
    fi
}

/* FIRST: a session that is over is refused, and one of our own that we have not called. */
inline hear_first(n, node) {
    if
    :: (over[node] & BIT(session_of[n])) || (session_of[n] == node && !(open[node] & BIT(node))) ->
        send(n, 1 - node, TOO_LATE);
        close(n, node)
    :: else ->
        open[node] = open[node] | BIT(session_of[n]);
        end[END(n, node)] = CANDIDATE;
        if
        :: node == 1 && session_of[n] == 0 && !(open[1] & 2) ->
            commits[END(n, node)] = true;
            send(n, 1 - node, MAY_COMMIT)
        :: send(n, 1 - node, READY)
        fi
    fi
}

inline hear(n, node) {
    wire[END(n, node)] ? message;
    printf("stream %d: node %d hears %d of sessions %d\n", n, node, KIND(message) / 4, NAMED(message));
    if
    :: KIND(message) == FIRST && end[END(n, node)] == IDLE -> hear_first(n, node)
    :: (KIND(message) == READY || KIND(message) == MAY_COMMIT) && end[END(n, node)] == HELLO ->
        end[END(n, node)] = CANDIDATE;
        commits[END(n, node)] = KIND(message) == MAY_COMMIT
    :: KIND(message) == NOMINATE && end[END(n, node)] == CANDIDATE && node == 1 -> take(n, NAMED(message), true)
    :: KIND(message) == COMMIT && end[END(n, node)] == CANDIDATE && commits[END(n, node)] ->
        take(n, NAMED(message), false)
    :: KIND(message) == CONFIRM && end[END(n, node)] == CANDIDATE && node == 0 ->
        named = NAMED(message);
        if
        :: nominated[0] == n + 1 -> named = named | 1
        :: else
        fi;
        if
        :: nominated[1] == n + 1 -> named = named | 2
        :: else
        fi;
        assert(named & BIT(session_of[n]));                         /* somebody waited for it */
        settle(0, n, named);
        named = 0
    :: KIND(message) == CLOSED && end[END(n, node)] == PIPE -> end[END(n, node)] = GONE
    :: KIND(message) == CLOSED && end[END(n, node)] != PIPE -> lose(n, node)
    :: (KIND(message) == TOO_LATE && end[END(n, node)] == HELLO) ||
                (KIND(message) == REFUSE && end[END(n, node)] == CANDIDATE) -> close(n, node)
    :: else -> assert(false)                                        /* nothing comes out of place */
    fi;
    message = 0
}

/* The dialler of a stream begins: of its own call, or because the other node asked. */
inline dial(n) {
    if
    :: over[dialler[n]] & BIT(session_of[n]) ->
        end[END(n, 0)] = GONE;
        end[END(n, 1)] = GONE
    :: else ->
        open[dialler[n]] = open[dialler[n]] | BIT(session_of[n]);
        end[END(n, dialler[n])] = HELLO;
        send(n, 1 - dialler[n], FIRST)
    fi
}

#define MAY_DIAL(n) (end[END(n, dialler[n])] == IDLE && (called & BIT(session_of[n])))
#define MAY_BREAK(n, node) (end[END(n, node)] == HELLO || end[END(n, node)] == CANDIDATE)

/* Nothing is under way, and nobody has anything to say. */
#define STILL(n) (empty(wire[END(n, 0)]) && empty(wire[END(n, 1)]) && !MAY_DIAL(n) && !MAY_NOMINATE(n))
#define REST (called == callers && STILL(0) && STILL(1) && STILL(2))

#define WAITS(n) (end[END(n, 0)] == HELLO || end[END(n, 1)] == HELLO || end[END(n, 0)] == CANDIDATE || end[END(n, 1)] == CANDIDATE)
#define HALF(n) ((end[END(n, 0)] == PIPE) != (end[END(n, 1)] == PIPE))
#define ONE_ENDED(n) ((settled[END(n, 0)] == 0) != (settled[END(n, 1)] == 0))
#define LIVED(n, s) (end[END(n, 0)] != UNUSED && session_of[n] == s && !broken[n])
#define ANSWERED(s) (!(callers & BIT(s)) || winner[3 * s] || !(LIVED(0, s) || LIVED(1, s) || LIVED(2, s)))

/* One end of a stream. */
proctype stream_end(byte x; byte me) {
end_rest:
    do
    :: atomic { !stop && dialler[x] == me && MAY_DIAL(x) ->
        printf("stream %d: node %d dials for session %d\n", x, me, session_of[x]);
        dial(x)
    }
    :: atomic { !stop && nempty(wire[END(x, me)]) -> hear(x, me) }
    :: atomic { !stop && me == 0 && MAY_NOMINATE(x) -> printf("stream %d: node 0 nominates\n", x); nominate(x) }
    :: atomic { !stop && MAY_BREAK(x, me) ->
        printf("stream %d: node %d finds it broken\n", x, me);
        broken[x] = true;
        close(x, me)
    }
    od
}

init {
    byte m, kind;

    atomic {
        /* Who calls, and which streams there may be. */
        if
        :: callers = 1
        :: callers = 2
        :: callers = 3
        fi;
        do
        :: m < STREAMS ->
            /* Streams have no order, so one order of their kinds is enough. */
            do
            :: kind < 4 -> kind++
            :: break
            od;
            if
            :: kind && (callers & BIT((kind - 1) / 2)) ->
                session_of[m] = (kind - 1) / 2;
                dialler[m] = (kind - 1) % 2;
                end[END(m, 0)] = IDLE;
                end[END(m, 1)] = IDLE
            :: else
            fi;
            run stream_end(m, 0);
            run stream_end(m, 1);
            m++
        :: else -> break
        od;
        m = 0;
        kind = 0
    }
end_rest:
    do
    :: atomic { !stop && (callers & 1 & ~called) -> called = called | 1; open[0] = open[0] | (1 & ~over[0]) }
    :: atomic { !stop && (callers & 2 & ~called) -> called = called | 2; open[1] = open[1] | (2 & ~over[1]) }
    :: atomic { !stop && (open[0] & called & 1) -> printf("node 0 gives up\n"); gave_up = true; finish(0, 1, STREAMS) }
    :: atomic { !stop && (open[1] & called & 2) -> printf("node 1 gives up\n"); gave_up = true; finish(1, 2, STREAMS) }
    :: atomic {
        !stop && REST ->
        stop = true;
        assert(!WAITS(0) && !WAITS(1) && !WAITS(2));
        assert(!HALF(0) && !HALF(1) && !HALF(2));
        assert(gave_up || ONE_ENDED(0) || ONE_ENDED(1) || ONE_ENDED(2) || (ANSWERED(0) && ANSWERED(1)))
    }
    od
}
