"""Register a trained network as an MLflow model, and load it without Ray.

register.py   registers a checkpoint as a version with a model card
network.py    defines the model that MLflow loads: paths, URLs or uint8 clips -> classes and scores
rules.py      decides whether a new version becomes the champion
"""
