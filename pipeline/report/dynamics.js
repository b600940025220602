"use strict";
// The figures of one SAE's training: its terms, schedules, watched pairs and snapshots.
const dynamicsFigure = (() => {
  const { N_COLOURS, DASHES, css, plain, axis, layout } = charts;
  const stroke = (index) => ({ color: css(`--c${index % N_COLOURS}`), width: 1.7, dash: DASHES[Math.floor(index / N_COLOURS) % DASHES.length] });
  const percent = (share) => `${Math.round(100 * share)} %`;

  function lines(sae, panel) {
    const named = sae.panels[panel.key];
    if (!named) return null;
    const every = named.map(([name, key]) => ({ name, ...sae.series[key] }));
    // A term that does not act yet has a loss of 0: a gap on a logarithmic axis.
    const log = panel.scale === "log" && every.every(({ value }) => value.every((number) => number >= 0)) && every.some(({ value }) => value.some(Boolean));
    const unit = ({ value }) => (panel.scale === "relative" ? Math.max(...value.map(Math.abs)) || 1 : 1);
    return {
      traces: every.map((line, index) => ({
        type: "scatter", mode: line.step.length > 1 ? "lines" : "markers", name: plain(line.name), x: line.step,
        y: line.value.map((number) => (log && number <= 0 ? null : number / unit(line))), customdata: line.value, line: stroke(index), marker: { color: stroke(index).color },
        hovertemplate: `<b>${plain(line.name)}</b><br>step %{x:,}<br>%{customdata:.4g}<extra></extra>`,
      })),
      layout: layout(axis("step", { tickformat: ",d", nticks: 6, rangemode: "tozero" }),
        axis("", { type: log ? "log" : "linear", ...(log && { exponentformat: "e" }) })),
      names: every.map((line) => line.name),
    };
  }

  // Bins of equal width from -1 to 1; empty ones are gaps on the logarithmic axis.
  function histogram(sae, key) {
    if (!sae.snapshots.length) return null;
    const n = sae.snapshots[0][key].length;
    const middle = (place) => -1 + (2 * place + 1) / n;
    const filled = sae.snapshots.flatMap((snapshot) => snapshot[key].map((count, place) => (count ? place : -1)).filter((place) => place >= 0));
    const [low, high] = [Math.max(-1, middle(Math.min(...filled) - 2)), Math.min(1, middle(Math.max(...filled) + 2))];
    return {
      traces: sae.snapshots.map((snapshot, index) => {
        const counts = snapshot[key];
        return {
          type: "scatter", mode: "lines", name: percent(snapshot.share), line: { ...stroke(index), shape: "hvh" },
          x: counts.map((_, place) => middle(place)), y: counts.map((count) => count || null), connectgaps: false,
          hovertemplate: `<b>${percent(snapshot.share)} of the run</b>, step ${snapshot.step}<br>cosine about %{x:.2f}<br>%{y:,}<extra></extra>`,
        };
      }),
      layout: layout(axis("cosine", { range: [low, high] }), axis(key === "pairs" ? "pairs" : "latents", { type: "log", exponentformat: "e", dtick: 1 })),
      names: sae.snapshots.map((snapshot) => percent(snapshot.share)),
    };
  }

  // Squares, not a heat map: plotly.js gives that an inline style, which the page's policy forbids.
  function matrix(sae, box) {
    const usable = sae.snapshots.filter((snapshot) => snapshot.latents.length);
    if (!usable.length) return null;
    const made = layout(null, null, { annotations: [], margin: { l: 8, r: 12, t: 28, b: 8 } });
    const n = usable[0].latents.length;
    const size = Math.max(2, Math.floor(Math.min((0.88 * box.clientWidth - 60) / usable.length, box.clientHeight - 70) / n) - 1);
    const traces = usable.map((snapshot, index) => {
      const [suffix, each, labels] = [index ? String(index + 1) : "", 1 / usable.length, snapshot.latents.map(String)];
      const cells = snapshot.cosines.flatMap((row, i) => row.map((cosine, j) => ({ x: labels[j], y: labels[i], cosine })));
      const ticks = { type: "category", tickfont: { size: 10, color: css("--soft") }, showgrid: false, zeroline: false, ticks: "" };
      made[`xaxis${suffix}`] = { ...ticks, domain: [index * each, (index + 0.92) * each], anchor: `y${suffix}`, range: [-0.5, n - 0.5], automargin: true };
      made[`yaxis${suffix}`] = { ...ticks, range: [n - 0.5, -0.5], showticklabels: index === 0, anchor: `x${suffix}`, automargin: true };
      made.annotations.push({
        text: percent(snapshot.share), showarrow: false, xref: "paper", yref: "paper", x: (index + 0.46) * each, y: 1, xanchor: "center", yanchor: "bottom",
        font: { size: 11, color: css("--soft") },
      });
      return {
        type: "scatter", mode: "markers", x: cells.map(({ x }) => x), y: cells.map(({ y }) => y), customdata: cells.map(({ cosine }) => cosine),
        xaxis: `x${suffix}`, yaxis: `y${suffix}`, hovertemplate: "latents %{y} and %{x}<br>cosine %{customdata:.3f}<extra></extra>",
        marker: {
          symbol: "square", size, color: cells.map(({ cosine }) => cosine), cmin: -1, cmax: 1, line: { color: css("--line"), width: 0.5 },
          colorscale: [[0, css("--c2")], [0.5, css("--paper")], [1, css("--c0")]],
        },
      };
    });
    return { traces, layout: made, names: [] };
  }

  return (sae, panel, box) => {
    if (panel.key === "matrix") return matrix(sae, box);
    if (panel.key === "pairs" || panel.key === "largest") return histogram(sae, panel.key);
    return lines(sae, panel);
  };
})();
