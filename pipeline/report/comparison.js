"use strict";
// Draws R² against L0 of several runs from the JSON in the page. Text goes in as text only.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const plain = (text) => String(text).replace(/[&<>]/g, (char) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[char]);
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star"];
  const colour = (run) => css(`--c${run % 10}`);
  const symbol = (mark) => SYMBOLS[mark.charCodeAt(0) % SYMBOLS.length];
  const axis = (title) => ({
    title: { text: title, standoff: 8, font: { size: 12, color: css("--soft") } }, gridcolor: css("--grid"), zeroline: false,
    linecolor: css("--line"), tickfont: { size: 11, color: css("--soft") }, automargin: true,
  });

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
    Plotly.react(box, [...frontiers(all), ...data.runs.map((_, run) => points(all, run))], {
      xaxis: axis("L0: active latents per row"), yaxis: axis("R² (pooled, held out)"), margin: { l: 8, r: 12, t: 12, b: 8 },
      showlegend: false, hovermode: "closest", paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false,
      font: { family: css("--sans"), size: 12, color: css("--ink") },
      hoverlabel: { bgcolor: css("--paper"), bordercolor: css("--line"), font: { family: css("--sans"), size: 12, color: css("--ink") }, align: "left" },
    }, { displayModeBar: false, responsive: true, doubleClick: false });
  }

  const boxes = [...document.querySelectorAll(".plot")];
  const redraw = () => boxes.forEach(draw);
  redraw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
})();
