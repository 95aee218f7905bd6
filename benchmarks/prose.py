"""What docs/performance.md says in words, whatever the figures are."""

from typing import Final

HEAD: Final = """\
# How fast it is

Measured by `nox -s bench`, which also writes this page; `nox -s bench -- --quick` sees in two
minutes whether all of it works on a machine, and writes nothing here. Figures are medians, with the
least and the most of the runs in parentheses. What is compared with what, and what is not, is said
at the end.
"""

JOB: Final = """\
## The job

Each peer does the same: it reads `POST /api/tasks` with a JSON object, checks that `name` is a
string with something in it and `duration` an integer from 0 to 86,400 (3 if it is not there),
answers anything else with 400, starts a background task of so many steps of a second, and answers
202 with the same four keys. A task writes a line to the log at its start, at each step and at its
end. Before each run under full load the harness asks for all of that and looks at the answers.

All that a peer consists of, its worker and its broker too, shares one core, but for what is said of
PostgreSQL. The other core has the load: `wrk -t1 -c64` with kept connections, which POST tasks of 1
to 5 steps in turn. The peers run in turns, each time in a new process with an empty store, and the
load begins before it is measured.
"""

NOT_COMPARED: Final = """\
## What is not compared

- **More than one core.** Go uses all of them without being asked, the others with more processes;
  here each has one. Only asynctask's processes on PostgreSQL have all, where there are several.
- **The same promise.** A 202 of the peers in memory is lost with the process. Huey takes a task out
  of its queue before it runs: what a kill cuts off is gone. arq keeps it, and so does asynctask.
- **The same answers.** asynctask also keeps each task's history and result, shows, lists, cancels
  and retries tasks, sends `Location` and `Retry-After`, and refuses unknown fields and doubled
  keys; the peers do none of this.
- **The log's way to the file.** Go's `log` and Python's `logging` write each line at once, as they
  come; asynctask's lines are out within 0.2 s. One row has Go with lines that are collected for 0.1
  s.
- **Arrivals that do not wait.** wrk sends the next request of a connection when the last one is
  answered, so a server that stalls is asked less. Only `k6.js` keeps its rate; what it could not
  send it counts as dropped.
- **A network, TLS, other machines.** All of it is on one machine, over loopback.
- **Another Python.** All that is in Python runs on the one that runs nox, and another build of it
  serves more or fewer.
- **Other settings of the peers.** FastAPI and Starlette are on uvicorn with uvloop and httptools,
  without an access log; Huey has 4 threads, arq 100 jobs at once and a poll each 10 ms,
  procrastinate 10 jobs, pgqueuer is on asyncpg, and the workers of both are on uvloop; otherwise
  they are as they come. Celery, RQ and Dramatiq were not measured.
"""
