"""File layouts: record batches into bytes."""
