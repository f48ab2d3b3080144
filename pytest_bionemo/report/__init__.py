"""The report: its document, its schema, its place on disk and its lines on the terminal."""
