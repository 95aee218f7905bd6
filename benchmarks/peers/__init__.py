"""The same job as asynctask's `simulate`, done by others; ``catalog`` tells how each is started."""
