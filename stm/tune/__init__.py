"""Sweeps: training runs that search for the best settings, with Ray Tune."""
