"""Plain tests: what the plugin does not concern stays as it was."""

import pytest

from smallprotein import decode, encode

SEQUENCES = ["MKTAYIAKQR", "GSHMSE"]


def test_sequences_come_back():
    assert decode(encode(SEQUENCES)) == SEQUENCES


def test_what_is_no_amino_acid_is_named():
    with pytest.raises(ValueError, match="sequence 1: X is no amino acid"):
        encode(["MKT", "MXT"])
