"""The index."""

import pytest

from fastaset import FastaSet

TEXT = ">first one\nMKTAYI\nAKQR\n>second\nGSHM\n"


@pytest.fixture
def sequences(tmp_path):
    path = tmp_path / "two.fasta"
    path.write_text(TEXT)
    return FastaSet(path)


def test_sequences_are_found_by_position(sequences):
    assert list(sequences) == ["MKTAYIAKQR", "GSHM"]
    assert sequences[-1] == "GSHM"


def test_names_are_the_first_words(sequences):
    assert sequences.names == ["first", "second"]


def test_text_before_the_first_header_is_refused(tmp_path):
    path = tmp_path / "broken.fasta"
    path.write_text("MKT\n")
    with pytest.raises(ValueError, match="does not start with '>'"):
        FastaSet(path)


def test_noodles_reads_the_same(sequences, bionemo_pkg):
    """Skipped, with the reason, where bionemo-noodles is not installed or does not work."""
    bionemo_pkg("bionemo-noodles")
    from bionemo.noodles.nvfaidx import NvFaidx

    theirs = NvFaidx(str(sequences.path))
    assert [theirs[name].sequence() for name in sequences.names] == list(sequences)


def test_a_huge_file_does_not_hang_the_suite(tmp_path, run_in_worker):
    """The index of a million sequences, with a deadline."""
    path = tmp_path / "many.fasta"
    path.write_text(">name\nMKT\n" * 1_000_000)
    assert run_in_worker(count, path, timeout=60) == 1_000_000


def count(path):
    return len(FastaSet(path))
