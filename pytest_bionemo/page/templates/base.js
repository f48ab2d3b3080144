"use strict";
(() => {
  const all = (what, where = document) => [...where.querySelectorAll(what)];
  const told = document.getElementById("told");

  // ------------------------------------------------------------------------------------------ copy a command
  const copy = async (pre) => {
    try {
      await navigator.clipboard.writeText(pre.textContent);
      return true;
    } catch {
      getSelection().selectAllChildren(pre); // where no clipboard is given away: selected, so that Ctrl+C copies it
      return document.execCommand("copy");
    }
  };
  for (const pre of all(".cmd > pre")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      const done = await copy(pre);
      told.textContent = button.textContent = done ? "Copied" : "Selected";
      setTimeout(() => { button.textContent = "Copy"; told.textContent = ""; }, 2000);
    });
    pre.parentElement.append(button);
  }

  // ------------------------------------------------- sort a table: data-v of a cell is the number that it stands for
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell?.dataset.v === undefined ? cell?.textContent.trim() ?? "" : Number(cell.dataset.v);
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b
      : typeof a === typeof b ? a.localeCompare(b, "en", { numeric: true }) : typeof a === "number" ? -1 : 1;
  const sort = (table, header) => {
    const turn = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of all("thead th[aria-sort]", table)) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", turn > 0 ? "ascending" : "descending");
    for (const body of table.tBodies) {
      const keyed = [...body.rows].map((row) => [key(row, header.cellIndex), row]);
      keyed.sort((a, b) => turn * compare(a[0], b[0]));
      body.append(...keyed.map(([, row]) => row));
    }
  };
  for (const table of all("table.sort")) {
    for (const header of all("thead th", table)) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      button.addEventListener("click", () => sort(table, header));
      header.append(button);
    }
  }

  // ----------------------------------------------------------------------------------------- narrow a table
  for (const filter of all(".filter")) {
    const [input, shown] = [filter.querySelector("input"), filter.querySelector(".n")];
    const rows = all("tbody tr", document.getElementById(filter.dataset.for));
    const texts = rows.map((row) => row.textContent.toLowerCase());
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let left = 0;
      rows.forEach((row, place) => {
        row.hidden = !words.every((word) => texts[place].includes(word));
        left += !row.hidden;
      });
      shown.textContent = words.length ? `${left} of ${rows.length}` : "";
    });
    filter.hidden = false;
  }

  // ------------------------------------------- what is folded away is opened where it is linked to, and printed
  const open = () => {
    const place = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (!place) return;
    for (let part = place; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    place.scrollIntoView();
  };
  addEventListener("hashchange", open);
  open();
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    for (const part of closed) part.open = true;
  });
  addEventListener("afterprint", () => { for (const part of closed) part.open = false; });
})();
