"""Tells twistd of the service."""

from twisted.application.service import ServiceMaker

asynctask = ServiceMaker(
    "asynctask",
    "asynctask.service",
    "Take tasks at POST /api/tasks on port 8080, answer 202, and run them in the background.",
    "asynctask",
)
