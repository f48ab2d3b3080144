"""What all tests of this project share."""

import pytest


@pytest.fixture(scope="session")
def lightning_trainer_args():
    """Arguments of every Trainer that ``lightning_trainer`` makes here."""
    return {"max_epochs": 8, "deterministic": True, "gradient_clip_val": 1.0}
