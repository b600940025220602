"use strict";
// What the figures of all pages share: colours, axes, layout, and where the name of a point is written.
const charts = (() => {
  const N_COLOURS = 10;
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "triangle-down"];
  const OPTIONS = { displayModeBar: false, responsive: true, doubleClick: false };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const plain = (text) => String(text).replace(/[&<>]/g, (char) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[char]);

  function axis(title, more) {
    return {
      title: { text: title, standoff: 8, font: { size: 12, color: css("--soft") } }, gridcolor: css("--grid"), zeroline: false,
      linecolor: css("--line"), tickfont: { size: 11, color: css("--soft") }, automargin: true, ...more,
    };
  }

  function layout(x, y, more) {
    return {
      xaxis: x, yaxis: y, margin: { l: 8, r: 12, t: 12, b: 8 }, showlegend: false, hovermode: "closest",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false,
      font: { family: css("--sans"), size: 12, color: css("--ink") },
      hoverlabel: { bgcolor: css("--paper"), bordercolor: css("--line"), font: { family: css("--sans"), size: 12, color: css("--ink") }, align: "left" },
      ...more,
    };
  }

  const padded = (low, high, share) => {
    const pad = (high - low || Math.abs(high) || 1) * share;
    return [low - pad, high + pad];
  };

  // R² against L0, with room for all points ({ l0, r2 }), and the names of some ({ name, l0, r2 }).
  function sparsity(every, named, box) {
    const xs = padded(Math.min(...every.map(({ l0 }) => l0)), Math.max(...every.map(({ l0 }) => l0)), 0.35);
    const ys = padded(Math.min(...every.map(({ r2 }) => r2)), Math.max(...every.map(({ r2 }) => r2)), 0.25);
    const range = [Math.max(0, xs[0]), xs[1]];
    return layout(axis("L0: active latents per row", { range }), axis("R² (pooled, held out)", { range: ys }), { annotations: labels(every, named, range, ys, box) });
  }

  // A name is written beside its point, at the nearest height where it covers no other name and no point.
  function labels(every, named, xs, ys, box) {
    const [width, height] = [box.clientWidth - 70, box.clientHeight - 60];
    const place = ({ l0, r2 }) => [((l0 - xs[0]) / (xs[1] - xs[0])) * width, (1 - (r2 - ys[0]) / (ys[1] - ys[0])) * height];
    const taken = every.map(place).map(([x, y]) => ({ from: x - 8, to: x + 8, low: y - 7, high: y + 7 }));
    const shifts = Array.from({ length: 2 * Math.ceil(height / 17) }, (_, index) => (index % 2 ? 8.5 : -8.5) * (index + (index % 2)));
    const isFree = (found) => found.from >= 0 && found.to <= width && found.low >= 0 && found.high <= height
      && !taken.some((other) => found.from < other.to && found.to > other.from && found.low < other.high && found.high > other.low);
    return named.map((point) => [point, ...place(point)]).sort((a, b) => a[2] - b[2]).map(([{ name, l0, r2 }, x, y]) => {
      const wide = 7.2 * name.length + 10;
      const right = (shift) => ({ from: x + 18, to: x + 18 + wide, low: y + shift - 8.5, high: y + shift + 8.5, shift, side: "left" });
      const left = (shift) => ({ ...right(shift), from: x - 18 - wide, to: x - 18, side: "right" });
      const found = shifts.flatMap((shift) => [right(shift), left(shift)]).find(isFree) ?? right(0);
      taken.push(found);
      return {
        x: l0, y: r2, text: plain(name), font: { size: 12, color: css("--ink") }, xanchor: found.side,
        ax: found.side === "left" ? 18 : -18, ay: found.shift, arrowwidth: 1, arrowhead: 0, arrowcolor: css("--line"), standoff: 7, bgcolor: css("--paper"),
      };
    });
  }

  return { N_COLOURS, DASHES, SYMBOLS, OPTIONS, css, plain, axis, layout, padded, sparsity };
})();
