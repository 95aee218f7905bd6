"""uvicorn with the application of another of these modules, which is given by its name."""

import argparse

import uvicorn

from benchmarks.peers import job


def main() -> None:
    """Serve on the port that is given, with uvloop and httptools, without an access log."""
    parser = argparse.ArgumentParser()
    parser.add_argument("module", help="such as fastapi_background")
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    job.start_log()
    uvicorn.run(
        # By its name: what __main__ defines has another name for a worker.
        f"benchmarks.peers.{given.module}:app",
        host="127.0.0.1",
        port=given.port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
