"""A line that tells what is measured just now, where a person looks."""

from deploy.serve import console


def step(what: str) -> None:
    """Tell what comes next, in place of what was told before."""
    if console.is_terminal:
        console.print(f"  {what:<110}", end="\r")
