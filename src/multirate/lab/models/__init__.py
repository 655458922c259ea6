"""The networks that the tasks train."""
