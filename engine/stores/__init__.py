"""Places that hold files."""
