"""Checks of pytest-bionemo that come with this package."""
