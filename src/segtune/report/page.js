// Sorting, filtering, curves on hover, parallel coordinates. Labels from the data are inserted as text, never as markup.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const layout = { margin: { l: 50, r: 50, t: 24, b: 40 }, font: { family: "inherit", size: 12 }, paper_bgcolor: "#fff", plot_bgcolor: "#fff" };
  const config = { displaylogo: false, responsive: true, displayModeBar: false };
  const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;"); // Plotly interprets some HTML

  // Plotly takes a second to parse, so it is loaded only when something is drawn
  const plot = (...words) => {
    if (!window.Plotly) {
      const script = document.createElement("script");
      script.textContent = document.getElementById("plotly").textContent;
      document.head.append(script);
    }
    return window.Plotly.react(...words);
  };

  // Sorting: numbers are sorted by value, other cells as text; undefined values come last
  const key = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.v ?? cell.textContent.trim();
    const number = Number(text.replace("%", "").replaceAll(",", ""));
    return text !== "" && !Number.isNaN(number) ? number : text;
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a.localeCompare(b);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
      rows.sort(([a], [b]) => (typeof a === typeof b && descending ? -1 : 1) * compare(a, b));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    }));
  }

  // Filtering: a row must contain every word; words like name>number limit the values of a column
  const bound = /^([\w ]+)([<>]=?)(-?[\d.]+(?:e-?\d+)?)$/;
  const test = { ">": (a, b) => a > b, "<": (a, b) => a < b, ">=": (a, b) => a >= b, "<=": (a, b) => a <= b };
  const columns = (table) => [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim().toLowerCase());
  const fits = (row, names, words) => words.every((word) => {
    const found = bound.exec(word);
    if (!found) return (row.dataset.text ?? row.textContent).toLowerCase().includes(word);
    const column = names.findIndex((name) => name.startsWith(found[1]));
    const value = column < 0 ? undefined : key(row, column);
    return typeof value === "number" && test[found[2]](value, Number(found[3]));
  });
  for (const field of document.querySelectorAll("input[type=search]")) {
    const table = document.getElementById(field.dataset.for);
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      const names = columns(table);
      for (const row of table.tBodies[0].rows) row.hidden = !fits(row, names, words);
      if (table.id === "runs") { begin(); draw(); }
    });
  }

  // One run's curves
  const colours = { train_loss: "#1f77b4", val_loss: "#ff7f0e", train_dice: "#2ca02c", val_dice: "#d62728" };
  const names = { train_loss: "training loss", val_loss: "validation loss", train_dice: "training Dice", val_dice: "validation Dice" };
  let shown = -1;
  const show = (i) => {
    if (i === shown) return;
    shown = i;
    const run = data.runs[i];
    const traces = Object.keys(colours).map((name) => ({
      x: run.curves[name].map((_, epoch) => epoch + 1), y: run.curves[name], name: names[name], mode: run.curves[name].length > 1 ? "lines" : "markers",
      yaxis: name.endsWith("loss") ? "y2" : "y", line: { color: colours[name], dash: name.startsWith("val") ? "dash" : "solid" },
    }));
    plot("hover", traces, { ...layout, xaxis: { title: { text: "epoch" } }, yaxis: { title: { text: "Dice" }, range: [0, 1.02] },
      yaxis2: { title: { text: "loss" }, overlaying: "y", side: "right", rangemode: "tozero", showgrid: false }, legend: { orientation: "h", y: -0.28 } }, config);
    document.getElementById("which").textContent = `${run.id}: ${run.name}, seed ${run.seed}`;
  };
  const runs = document.getElementById("runs");
  for (const event of ["mouseover", "focusin"]) {
    runs.tBodies[0].addEventListener(event, (e) => {
      const row = e.target.closest("tr");
      if (row) show(Number(row.dataset.i));
    });
  }

  // Parallel coordinates: one line per run. Lines of similar Dice share a trace, so that drawing 1,000 runs is fast.
  const shades = ["#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#d8c615"];
  const axes = [...data.axes, { name: "Dice", levels: null }];
  const draw = () => {
    const rows = [...runs.tBodies[0].rows].filter((row) => !row.hidden).map((row) => Number(row.dataset.i));
    document.getElementById("shown").textContent = `${rows.length} of ${data.runs.length} runs`;
    const known = data.runs.map((run) => run.dice).filter((dice) => dice !== null);
    const low = Math.min(...known), span = Math.max(...known) - low || 1;
    const traces = shades.map((colour) => ({ x: [], y: [], text: [], customdata: [], mode: "lines+markers", line: { color: colour, width: 1 }, marker: { color: colour, size: 5 }, opacity: 0.7, hoverinfo: "text", showlegend: false, connectgaps: false }));
    for (const i of rows) {
      const run = data.runs[i];
      if (run.dice === null) continue;
      const share = (run.dice - low) / span;
      const trace = traces[Math.min(shades.length - 1, Math.floor(share * shades.length))];
      const label = `${plain(run.id)}: ${plain(run.name)}<br>seed ${plain(run.seed)}, Dice ${run.dice.toFixed(3)}`;
      axes.forEach((axis, x) => {
        const n = axis.levels ? axis.levels.length : 0;
        trace.x.push(x); trace.y.push(axis.levels ? (n > 1 ? run.levels[x] / (n - 1) : 0.5) : share); trace.text.push(label); trace.customdata.push(i);
      });
      trace.x.push(null); trace.y.push(null); trace.text.push(""); trace.customdata.push(i);
    }
    const annotations = axes.flatMap((axis, x) => axis.levels
      ? (axis.levels.length > 25 ? [] : axis.levels.map((level, k) => ({ x, y: axis.levels.length > 1 ? k / (axis.levels.length - 1) : 0.5, text: plain(level.length > 26 ? level.slice(0, 25) + "…" : level), showarrow: false, xanchor: "left", xshift: 6, bgcolor: "#ffffffcc", font: { size: 11 } })))
      : [0, 0.5, 1].map((share) => ({ x, y: share, text: (low + share * span).toFixed(2), showarrow: false, xanchor: "left", xshift: 6, font: { size: 11 } })));
    plot("parallel", traces.filter((trace) => trace.x.length), { ...layout, margin: { l: 30, r: 110, t: 16, b: 36 }, hovermode: "closest", annotations,
      xaxis: { tickvals: axes.map((_, x) => x), ticktext: axes.map((axis) => plain(axis.name)), range: [-0.05, axes.length - 0.9], zeroline: false, fixedrange: true },
      yaxis: { visible: false, range: [-0.06, 1.06], fixedrange: true } }, config);
  };
  let begun = false;
  const begin = () => {
    if (begun || !data.runs.length) return;
    begun = true;
    draw();
    document.getElementById("parallel").on("plotly_hover", (event) => show(event.points[0].customdata));
    show(0);
  };
  new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && begin(), { rootMargin: "400px" })
    .observe(document.getElementById("explore"));
})();
