"""A worker that freezes, or kills itself, at a place that is named: what a test cannot time from outside."""
