"""Other people's methods that no kept package implements, written after their papers."""
