
"use strict";
// Sorts and filters the table of classes and chooses the curves; without it the page shows all of the one and four
// of the other.
(() => {
  const SLOTS = 8;
  const byId = (id) => document.getElementById(id);
  for (const control of document.querySelectorAll(".needs-script")) control.hidden = false;

  const classes = byId("class-table");
  if (classes) {
    const body = classes.tBodies[0];
    const heads = [...classes.tHead.rows[0].cells];
    const sortBy = (column, head) => {
      const numbers = head.dataset.sort === "number";
      const ascending = head.hasAttribute("aria-sort") ? head.getAttribute("aria-sort") === "descending" : !numbers;
      const value = (row) => row.cells[column].dataset.value;
      const compare = numbers
        ? (a, b) => Number(value(a)) - Number(value(b))
        : (a, b) => value(a).localeCompare(value(b), "en");
      const rows = [...body.rows].sort((a, b) => (ascending ? compare(a, b) : compare(b, a)));
      body.append(...rows);
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    };
    heads.forEach((head, column) => {
      if (!head.dataset.sort) return;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.addEventListener("click", () => sortBy(column, head));
      head.replaceChildren(button);
    });
    heads[1].setAttribute("aria-sort", "descending");

    const filter = byId("filter");
    filter.addEventListener("input", () => {
      const wanted = filter.value.trim().toLowerCase();
      let shown = 0;
      for (const row of body.rows) {
        row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
        shown += row.hidden ? 0 : 1;
      }
      byId("filter-count").textContent = wanted ? `${shown} of ${body.rows.length} classes` : "";
    });
  }

  const picker = byId("picker");
  if (picker) {
    const boxes = [...picker.querySelectorAll("input[type=checkbox]")];
    const legend = byId("curves-legend");
    const mean = legend.firstElementChild;
    const samples = mean.querySelector("svg");
    const status = byId("picker-status");

    const entry = (box) => {
      const item = document.createElement("li");
      const sample = samples.cloneNode(true);
      sample.firstElementChild.setAttribute("class", `line shown slot${box.dataset.slot}`);
      item.append(sample, box.nextElementSibling.cloneNode(true));
      return item;
    };
    const draw = () => {
      for (const box of boxes) {
        const style = box.dataset.slot ? `line shown slot${box.dataset.slot}` : "line";
        byId(`curve-${box.value}`).setAttribute("class", style);
      }
      const shown = boxes.filter((box) => box.dataset.slot).sort((a, b) => a.dataset.slot - b.dataset.slot);
      legend.replaceChildren(mean, ...shown.map(entry));
      status.textContent = `${shown.length} of ${SLOTS} curves drawn.`;
    };
    const choose = (box, wanted) => {
      box.checked = false;
      delete box.dataset.slot;
      if (!wanted) return true;
      const used = new Set(boxes.map((other) => other.dataset.slot));
      for (let slot = 1; slot <= SLOTS; slot += 1) {
        if (!used.has(String(slot))) {
          box.dataset.slot = slot;
          box.checked = true;
          return true;
        }
      }
      return false;
    };
    for (const box of boxes) {
      box.addEventListener("change", () => {
        const done = choose(box, box.checked);
        draw();
        if (!done) status.textContent = `${SLOTS} curves are drawn; take one away first.`;
      });
    }
    const picks = { best: (i) => i < 5, worst: (i) => i >= boxes.length - 5, none: () => false };
    for (const button of picker.querySelectorAll("[data-pick]")) {
      button.addEventListener("click", () => {
        boxes.forEach((box) => choose(box, false));
        boxes.forEach((box, i) => choose(box, picks[button.dataset.pick](i)));
        draw();
      });
    }
    const find = byId("find-curve");
    find.addEventListener("input", () => {
      const wanted = find.value.trim().toLowerCase();
      for (const box of boxes) box.parentElement.hidden = !box.parentElement.textContent.toLowerCase().includes(wanted);
    });
    draw();
  }

  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const each of opened) each.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const each of opened) each.open = false;
  });
})();
