"""Training: the loop that each rank runs, and the Ray Train job around it."""
