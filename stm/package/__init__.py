"""A trained network as an MLflow model: registered under a name, loaded anywhere, its champion moved by a rule.

register.py   from a checkpoint to a registered version with a model card
network.py    the model that MLflow loads: paths, URLs or uint8 clips in, classes and scores out; needs no Ray
rules.py      when a new version becomes the champion
"""
