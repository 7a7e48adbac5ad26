"""The bench: what the program costs, always against something that runs beside it, in turn, on the same machine."""
