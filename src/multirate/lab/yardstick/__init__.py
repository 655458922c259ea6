"""The yardstick: one setting for everything, from any starting rate, against tuned and rate-free methods."""
