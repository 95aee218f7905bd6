"""asynctask: POST a task, get 202 at once, and the work goes on in the background.

The way of a task, and the module for each part of it; imports go only downwards.

The service as a whole:

=============  ==========================================================================
service        what the command runs: `makeService`, from the ``options`` that it takes
composition    the one place where everything is put together, started and ended
command        the command's log, its signals, its last words
sdnotify       what systemd is told
pidfile        a PID file that a crash left behind
listening      where it listens
supervisor     many processes as one: each is a ``member``, and ``pipes`` carry what they say
storeurl       which database a URL names
watchdog       who holds the reactor
collector      the garbage collector, tamed
=============  ==========================================================================

HTTP:

=============  ==========================================================================
api            the routes: parses, calls, renders
description    the calls, described for programs (``components``; ``schemas``, in
               ``schemawords``, and those of answers, ``answerschemas``)
door           who may ask, and how much may come (``guard``: ``Host``, ``Origin``,
               ``Sec-Fetch-Site``); counts the requests
answers        HTTP requests read, answers rendered
dispatch       from a request to its route's handler, and back
headers        header fields, read; ``queries``, the query strings of GETs
httpserver     the HTTP server
channel        its connections: their ``heads``, their ``incoming`` bodies, each ``request``, and
               their ``deadlines``; ``twistedweb`` has those of twisted.web
access         a line in the log for every request
acceptance     from what a POST asks for to the commit that keeps it
submissions    the bodies of POSTs, checked against the kinds (``urls``)
feed           who waits for which change, or follows all; ``followers`` are those over HTTP
sse            events as they are sent
chance         what ids are made of
seats          the free seats; where ``api`` and ``runner`` meet
=============  ==========================================================================

Tasks at work:

=============  ==========================================================================
runner         starts accepted tasks and ends them
attempts       what a task is after an attempt
claims         finds due tasks as seats become free
runs           one handler at work
places         where an attempt runs: ``steps`` on the reactor, ``threads``, the asyncio
               ``loop``, ``processes`` (``spawned``, ``worker``); children that handlers have
               ``forked`` end there
registry       the kinds of task: `task`, ``simulate``
loading        where they are found: modules and installed packages
inputs         a signature as a schema (``annotations``: their ``typeinfo``, ``words``, ``aliases`` and
               ``shapes``); what would hold a set or dict of numbers: ``collisions``
context        what a handler is given; ``testing`` has one for tests
recorder       the flight recorder: which task was at work when the process died (``ownfiles``)
timers         one wheel for a million waiting calls, by a clock that nobody sets
wallclock      the clock that people set, and who hears of it
patient        what no cancel ends before its time
=============  ==========================================================================

What is told of them:

=============  ==========================================================================
callbacks      tells how tasks ended: a ``fairqueue`` says whose turn it is, ``deliveries`` what
               an answer means, ``signing`` signs, ``posting`` sends, to ``addresses`` that are
               allowed and that the ``resolver`` finds
metrics        what happens in numbers (``counters``), for Prometheus; their ``aggregation`` makes
               those of many processes one's
logqueue       the log off the hot path: a thread writes many lines at a time; connections that were not
               accepted are many in one line (``refusals``)
logs           a line an event, as text or JSON
tracebacks     where exceptions were raised, told whole, and let go of
pythonlog      what handlers say to Python's `logging`; ``printed``, what they print
=============  ==========================================================================

The store:

=============  ==========================================================================
istore         what a store promises
store          where tasks are kept: `SqlStore`
hooks          whom the store tells
reading        what is read from it
maintenance    what is done to it now and then
forothers      what it does for other processes, when ``sharing`` asks for it
live           how far running attempts are
parts          a dict of a million, in parts
changes        what happened, as it is kept
retention      forgets what ended long ago
starting       what its start does with the database, and finds there
changing       what is asked of one task from outside: a cancel, a retry, its removal
claiming       what a claim takes: what an earlier process left running (``recovery``), what is due
outbox         callbacks in the store: which are due, what became of them; ``shownsecret`` tells the
               operator what signs them
writer         the one thread that writes, a transaction for all that waits (``works``); its
               ``replies``, and what is ``indoubt`` after commits that failed
outage         whether a database that is back takes anything, and whether one takes too long (``hold``)
backlog        what waits for it
batches        the statements on the way of a task, many rows in each (``pgbatches``);
               ``statements`` are the others (``outboxstatements``, ``sharedstatements``)
database       what all of this needs of a database
sqlite         the connections to SQLite, and its file (``sqlitefile``): where it is, its lock, whether
               it is sound; ``readers`` are the threads that read
postgres       those to PostgreSQL (``pgserver``, ``pgreaders``), with a ``cutoff`` for what takes too
               long; many processes are ``sharing`` it, each with its ``heartbeat`` and ``polling``
rows           tasks as rows, and back
tables         the schema as it is now; ``migrations`` how it came to be
=============  ==========================================================================

The client:

=============  ==========================================================================
client         for Twisted programs: sends again what was lost (``sending``), goes on where
               events were cut off (``stream``), tells what came (``responses``)
agents         what treq is given: URLs as they are, and less of answers; ``tls``, whose
               certificate it is
=============  ==========================================================================

Under all of it:

=============  ==========================================================================
wire           bytes to model and back; their JSON is ``strictjson``
model          what a task is, and what may happen to it
problems       what a client can understand of what went wrong
=============  ==========================================================================
"""

from asynctask.context import Context, Permanent, Retry
from asynctask.registry import task

__all__ = ["Context", "Permanent", "Retry", "task"]
__version__ = "0.1.0"
