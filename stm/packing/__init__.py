"""Turn a checkpoint into an MLflow model: its files, its model card, and how it is logged."""
