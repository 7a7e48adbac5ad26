"""What is said: events, their wire form, the topics that carry them."""

VERSION = "0.1.0"
