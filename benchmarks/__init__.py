"""The engine's own functions against other ways to do the same, on data that anyone can make again."""
