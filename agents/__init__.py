"""What is done: events read and folded, the worker assembled."""
