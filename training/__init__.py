"""Making checkpoints: run from a clone with `python -m training.…`; not installed with the package."""
