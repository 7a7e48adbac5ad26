"""What is remembered: an entry per medium, and the order over them."""
