"""Measurements: ratios of medians in interleaved runs against named peers. An absolute second on a shared machine means nothing tomorrow."""
