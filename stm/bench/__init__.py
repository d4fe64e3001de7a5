"""Benchmarks. What is compared runs interleaved in one job, and results are medians with their spread."""
