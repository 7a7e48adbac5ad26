"""What is shown: the active set over HTTP, and how the worker is."""
