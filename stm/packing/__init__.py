"""A checkpoint as a model of MLflow's: what is in it, its card, and how it is logged."""
