"""The page as an output of a run: begun with it, replaced at its end, and never the reason that a report is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_bionemo.page.shell import expect_jinja
from pytest_bionemo.report.place import Place


class Page:
    """The page of one run. ``error`` says why it could not be written at the end, "" if it was.

    :raises PageError: if no page can be made here, with the command that changes that.
    """

    def __init__(self, place: Place) -> None:
        expect_jinja()
        self.place = place
        self.error = ""

    def begin(self, document: Mapping[str, Any]) -> None:
        """Replace what is there by the page of a run that has not finished: it must not say yesterday's READY.

        :raises PlaceError: if it cannot be written.
        """
        from pytest_bionemo.page.node import node_page

        self.place.begin(node_page(document))

    def write(self, document: Mapping[str, Any]) -> None:
        """Replace it by the page of the report. A failure is kept in ``error``: the report itself is written."""
        from pytest_bionemo.page.node import node_page

        try:
            self.place.write(node_page(document))
        except Exception as error:  # whatever a page stumbles over, the run has an answer, and gives it
            self.error = " ".join(f"{type(error).__name__}: {error}".split())
