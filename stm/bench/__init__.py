"""Measurements: whatever is compared runs interleaved in one job; medians are reported with their spread."""
