"""asynctask beside others that do the same job, measured: ``python -m benchmarks``, or ``nox -s bench``.

===========  =====================================================================================
catalog      the peers: how each is started, what its 202 promises, what it needs
peers        their programs; ``handlers`` has what asynctask runs beside `simulate`
running      a server on one core: its log, memory and CPU (``proc``)
postgres     a PostgreSQL server of its own for a run
checks       whether a peer does the job at all, before it is measured
wrk, client  load from the other core, and single requests
accept       accepted/s, p50 and p99 of the whole job
durable      accepted/s and finished/s of queues that keep their tasks
scale        the same of queues on one PostgreSQL, and of several processes of asynctask
inflight     memory, CPU and p99 by tasks in flight
ontime       how late the steps of many tasks are
single       a lone POST beside the disk's sync; ``GET /health/live`` under load
ramp         ``k6.js``
start        from the start of the process to the first 202
rounds       runs, interleaved; what failed is kept and told
settings     how much of all this: ``FULL``, ``QUICK``
figures      medians and spread; results as files
report       docs/performance.md from the results: its ``sections``, ``tables``, ``prose``, ``plots``
machine      what it was measured on, and with which versions
===========  =====================================================================================
"""
