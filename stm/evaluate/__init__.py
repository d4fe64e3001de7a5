"""Measuring a trained network: named protocols, exact counts, figures."""
