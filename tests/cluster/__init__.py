"""Real clusters on the machine that runs the tests."""
