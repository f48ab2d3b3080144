(() => {
  // Topics are sorted by what is worse, and not by the alphabet.
  const order = ["blocked", "error", "gap", "warning", "ok", "n/a", "none", "-"];
  for (const table of document.querySelectorAll("table.nodes")) {
    const columns = [...table.querySelectorAll("thead .t")].map((header) => header.cellIndex);
    for (const body of table.tBodies) for (const row of body.rows) for (const column of columns) {
      const place = order.indexOf(row.cells[column].textContent.trim());
      row.cells[column].dataset.v = place < 0 ? 1 : place;
    }
  }
})();
