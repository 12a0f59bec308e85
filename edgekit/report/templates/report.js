"use strict";
// Draws the charts, lets the table be sorted and a cell be chosen. What they show is in #data; nothing else is read.
// The first chart is drawn at once and the others when there is time, so that a large page can be used before all are there.
(() => {
  const { charts } = JSON.parse(document.getElementById("data").textContent);
  const choice = document.getElementById("choice");
  const views = [];

  // The expressions of a chart are interpreted, so that the page's policy need not allow eval.
  const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, tooltip: { theme: "custom", disableDefaultStyle: false } };

  const waiting = [...charts];
  let drawing = Promise.resolve();

  async function draw(chart) {
    const place = document.querySelector(`#${chart.id} .chart`);
    const spec = { ...chart.spec, description: place.getAttribute("aria-label"), datasets: { rows: chart.rows } };
    const known = new Set(chart.rows.map((row) => row.i));
    if (chart.one_cell) {
      const cell = Number(choice.value);
      spec.params.find((one) => one.name === "cell").value = known.has(cell) ? cell : chart.rows[0].i;
    }
    const { view } = await window.vegaEmbed(place, spec, options);
    if (chart.one_cell) {
      views.push([view, place, known]);
      await choose();
    }
  }

  // One after the other, in their order.
  function next() {
    const chart = waiting.shift();
    drawing = drawing.then(() => draw(chart)).catch((error) => console.error(error));
    return drawing;
  }

  const pause = () => new Promise((done) => (window.requestIdleCallback ?? setTimeout)(done, { timeout: 100 }));

  async function drawAll() {
    while (waiting.length) {
      await next();
      performance.mark("chart");
      await pause();
    }
    await drawing;
    document.documentElement.dataset.drawn = charts.length;
    performance.mark("drawn");
  }

  async function choose() {
    const cell = Number(choice.value);
    for (const [view, place, known] of views) {
      place.parentNode.hidden = !known.has(cell);
      if (known.has(cell)) {
        await view.signal("cell", cell).runAsync();
      }
    }
  }

  // Empty places stay last in either direction.
  function compare(a, b, down) {
    if (a === undefined || b === undefined) {
      return (a === undefined) - (b === undefined);
    }
    const order = isNaN(a) || isNaN(b) ? a.localeCompare(b, "en", { numeric: true }) : a - b;
    return down ? -order : order;
  }

  function sort(heading) {
    const table = heading.closest("table");
    const index = [...heading.parentNode.children].indexOf(heading);
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentNode.children) {
      other.removeAttribute("aria-sort");
    }
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => compare(a.cells[index].dataset.key, b.cells[index].dataset.key, down));
    table.tBodies[0].append(...rows);
  }

  for (const heading of document.querySelectorAll("thead th")) {
    heading.firstElementChild.addEventListener("click", () => sort(heading));
  }
  choice?.addEventListener("change", choose);

  // A printed page cannot be opened further, nor wait for its charts.
  const closed = [];
  addEventListener("beforeprint", () => {
    while (waiting.length) {
      next();
    }
    for (const details of document.querySelectorAll("details:not([open])")) {
      details.open = true;
      closed.push(details);
    }
  });
  addEventListener("afterprint", () => {
    while (closed.length) {
      closed.pop().open = false;
    }
  });

  drawAll();
})();
