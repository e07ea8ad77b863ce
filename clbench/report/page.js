// Sorts a table by the column whose heading is clicked, hides rows that lack a text, enlarges pictures.
"use strict";

const key = (row, column) => {
  const cell = row.cells[column];
  if (!("value" in cell.dataset)) return cell.textContent;
  return cell.dataset.value === "" ? null : Number(cell.dataset.value);
};

const inOrder = (first, second) =>
  typeof first === "number" ? first - second : first.localeCompare(second, "en", { numeric: true });

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];

  const sort = (column) => {
    const heading = headings[column];
    const before = heading.getAttribute("aria-sort");
    const isDown = before ? before === "ascending" : "startsDown" in heading.dataset;
    const unknownLast = (one, other) => {
      const first = key(one, column), second = key(other, column);
      if (first === null || second === null) return (first === null) - (second === null);
      return isDown ? inOrder(second, first) : inOrder(first, second);
    };
    body.append(...[...body.rows].sort(unknownLast)); // a stable sort: equal rows keep their order
    headings.forEach((each) => each.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", isDown ? "descending" : "ascending");
  };
  headings.forEach((heading, column) => heading.firstChild.addEventListener("click", () => sort(column)));
}

const filter = document.querySelector(".filter");
const [field, count] = [filter.querySelector("input"), filter.querySelector("output")];
filter.hidden = false;
field.addEventListener("input", () => {
  const rows = [...document.querySelector("table.sortable").tBodies[0].rows];
  const words = field.value.toLowerCase().split(/\s+/);
  rows.forEach((row) => { row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word)); });
  count.value = field.value ? `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows` : "";
});

for (const button of document.querySelectorAll("figure button")) {
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", button.closest("figure").classList.toggle("wide"));
  });
}
