"""asynctask: POST a task, get 202 at once, and the work goes on in the background.

The way of a task, and the module for each part of it; imports go only downwards:

=============  =========================================================================
service        the one place where everything is put together, started and ended
options        what the command takes
listening      where it listens
api            the routes: parses, calls, renders; the only place that renders HTTP answers
guard          who may speak to us at all: ``Host``, ``Origin``, ``Sec-Fetch-Site``
channel        the HTTP connection
runner         starts accepted tasks and ends them
places         the free seats; where ``api`` and ``runner`` meet
steps          a handler's steps on the reactor
store          where tasks are kept: `IStore` and `SqlStore`
writer         the one thread that writes, a transaction for all that waits
database       the connections to SQLite
rows           tasks as rows, and back
statements     every SQL statement
tables         the schema as it is now; ``migrations`` how it came to be
sqlite         the SQLite file: its lock, its settings, whether it is sound
logs           a line an event, as text or JSON
registry       the kinds of task, and the built-in ``simulate``
context        what a handler is given
recorder       the flight recorder: which task was being stepped when the process died
wire           bytes to model and back
model          what a task is, and what may happen to it
=============  =========================================================================
"""

from asynctask.context import Context, Permanent
from asynctask.registry import task

__all__ = ["Context", "Permanent", "task"]
__version__ = "0.1.0"
