"""Pages for people: one self-contained file each, made from a JSON document alone."""
