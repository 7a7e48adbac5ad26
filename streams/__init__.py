"""What is said: events, their wire form, the topics that carry them."""
