"use strict";
// Draws R² against L0 of several runs from the JSON in the page. Text goes in as text only.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { N_COLOURS, SYMBOLS, OPTIONS, css, plain, sparsity } = charts;
  const colour = (run) => css(`--c${run % N_COLOURS}`);
  const symbol = (mark) => SYMBOLS[(mark.charCodeAt(0) - "A".charCodeAt(0)) % SYMBOLS.length];

  function points(all, run) {
    const own = all.filter((point) => point.run === run);
    return {
      type: "scatter", mode: "markers", x: own.map((point) => point.l0), y: own.map((point) => point.r2),
      marker: {
        color: colour(run), size: own.map((point) => (point.frontier ? 12 : 8)), symbol: own.map((point) => symbol(point.population)),
        opacity: own.map((point) => (point.frontier ? 1 : 0.55)), line: { color: css("--paper"), width: 1.5 },
      },
      text: own.map((point) => `<b>${plain(point.variant)}</b>, ${plain(data.runs[run])}, rows ${plain(point.population)}`),
      hovertemplate: "%{text}<br>L0 %{x:.2f}<br>R² %{y:.4f}<extra></extra>",
    };
  }

  // One line for each population: what was scored on other rows is on another frontier.
  function frontiers(all) {
    return [...new Set(all.map((point) => point.population))].map((mark) => {
      const best = all.filter((point) => point.frontier && point.population === mark).sort((a, b) => a.l0 - b.l0);
      return {
        type: "scatter", mode: "lines", hoverinfo: "skip", x: best.map((point) => point.l0), y: best.map((point) => point.r2),
        line: { color: css("--soft"), width: 1.2, dash: "dot", shape: "hv" },
      };
    });
  }

  function draw(box) {
    const all = data.sites[box.dataset.site];
    if (!all.length) {
      box.textContent = "Nothing measured.";
      return;
    }
    // A variant that has the same scores in several runs is named once.
    const named = new Map(all.filter((point) => point.frontier).map(({ variant, l0, r2 }) => [`${l0} ${r2} ${variant}`, { name: variant, l0, r2 }]));
    Plotly.react(box, [...frontiers(all), ...data.runs.map((_, run) => points(all, run))], sparsity(all, [...named.values()], box), OPTIONS);
  }

  const boxes = [...document.querySelectorAll(".plot")];
  const redraw = () => boxes.forEach(draw);
  redraw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
})();
