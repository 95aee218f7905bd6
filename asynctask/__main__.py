"""``python -m asynctask``: the service in the foreground."""

import sys

if (
    __name__ == "__main__"
):  # and not where another process of it, such as one of `multiprocessing`, reads it
    from twisted.scripts.twistd import run

    # No PID file: it would keep a service in a container from starting after a crash.
    sys.argv = ["asynctask", "--nodaemon", "--pidfile=", "asynctask", *sys.argv[1:]]
    run()
