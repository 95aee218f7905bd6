"""``python -m asynctask``: the service in the foreground."""

import sys

# Not where another process, such as one of `multiprocessing`, reads it only.
if __name__ == "__main__":
    # No PID file: it would keep a service in a container from starting after a crash.
    sys.argv = ["asynctask", "--nodaemon", "--pidfile=", "asynctask", *sys.argv[1:]]
    try:
        from twisted.scripts.twistd import run

        run()
    except KeyboardInterrupt:
        sys.exit("asynctask: Interrupted before it had started")
