"use strict";
// Draws the figure of an answer from the JSON in the page, by its kind. Text goes in as text only.
(() => {
  const { figure } = JSON.parse(document.getElementById("data").textContent);
  const box = document.getElementById("figure");
  if (figure === null || box === null) return;
  const { N_COLOURS, OPTIONS, css, plain, axis, layout } = charts;
  const colour = (number) => css(`--c${number % N_COLOURS}`);
  const short = (text, most) => plain(text.length > most ? `${text.slice(0, most - 1)}…` : text);
  const names = () => axis("", { showgrid: false, ticks: "", tickfont: { size: 12, color: css("--ink") }, automargin: true });

  function bars({ axis: title, labels, values, colours }) {
    const most = box.clientWidth < 600 ? 18 : 42;
    return {
      height: 22 * labels.length + 60,
      traces: [{
        type: "bar", orientation: "h", x: values, y: labels.map((_, index) => index), customdata: labels.map(plain),
        marker: { color: labels.map((_, index) => colour(colours[index] ?? 0)) }, hovertemplate: "<b>%{customdata}</b><br>%{x:.4g}<extra></extra>",
      }],
      layout: layout(axis(title, { zeroline: true, zerolinecolor: css("--line"), nticks: 6 }), {
        ...names(), autorange: "reversed", tickmode: "array", tickvals: labels.map((_, index) => index), ticktext: labels.map((text) => short(text, most)),
      }, { bargap: 0.35 }),
    };
  }

  function points({ x_axis, y_axis, x, y, labels, log, log_x, equal }) {
    const type = (is) => (is ? "log" : "linear");
    const traces = [{
      type: "scatter", mode: "markers", x, y, text: labels.map(plain), marker: { color: colour(0), size: 6, opacity: 0.6, line: { width: 0 } },
      hovertemplate: "<b>%{text}</b><br>%{x:.4g}, %{y:.4g}<extra></extra>",
    }];
    const shapes = [], annotations = [];
    if (equal) {
      const all = [...x, ...y].filter((value) => !log || value > 0);
      const [low, high] = [Math.max(Math.min(...x), Math.min(...y)), Math.min(Math.max(...x), Math.max(...y))];
      if (all.length && high > low) {
        shapes.push({ type: "line", x0: low, y0: low, x1: high, y1: high, line: { color: css("--soft"), width: 1, dash: "dot" } });
        annotations.push({ x: log ? Math.log10(high) : high, y: log ? Math.log10(high) : high, text: plain(equal), showarrow: false, xanchor: "left", xshift: 6, font: { size: 11, color: css("--soft") } });
      }
    }
    return {
      height: 420, traces,
      layout: layout(axis(x_axis, { type: type(log || log_x), ...decades(log || log_x, x) }), axis(y_axis, { type: type(log), ...decades(log, y) }), { shapes, annotations }),
    };
  }

  // Whole decades are written out where there are some: shares as percentages are read more easily than powers of ten.
  function decades(log, values) {
    if (!log) return {};
    const positive = values.filter((value) => value > 0).map(Math.log10);
    const [low, high] = [Math.floor(Math.min(...positive)), Math.ceil(Math.max(...positive))];
    const exponents = Array.from({ length: high - low + 1 }, (_, index) => low + index);
    return exponents.length > 1 && exponents.length < 12 ? { tickvals: exponents.map((e) => 10 ** e), ticktext: exponents.map((e) => (Math.max(...values) <= 1 ? `${Number((100 * 10 ** e).toPrecision(3))} %` : (10 ** e).toLocaleString("en"))) } : {};
  }

  function steps({ x_axis, y_axis, edges, counts, names: of, log_x }) {
    const traces = counts.map((values, index) => ({
      type: "scatter", mode: "lines", fill: "tozeroy", x: [edges[0], ...edges], y: [0, ...values, 0], name: plain(of[index]),
      line: { color: colour(index), shape: "hv", width: 1.6 }, fillcolor: `${colour(index)}33`, hovertemplate: `%{x:.4g}<br>%{y:,} ${plain(y_axis)}<extra></extra>`,
    }));
    return { height: 340, traces, layout: layout(axis(x_axis, { type: log_x ? "log" : "linear", ...decades(log_x, edges) }), axis(y_axis, { rangemode: "tozero" })) };
  }

  function network({ left_title, right_title, left, right, edges, value }) {
    const rows = Math.max(left.length, right.length);
    const place = (index, n) => (rows - 1) / 2 + (index - (n - 1) / 2) * Math.max(1, (rows - 1) / Math.max(1, n - 1)) * (n > 1 ? 1 : 0);
    const top = Math.max(...edges.map(([, , size]) => Math.abs(size)));
    const shapes = edges.map(([from, to, size]) => ({
      type: "path", layer: "below", path: `M 0 ${place(from, left.length)} C 0.5 ${place(from, left.length)} 0.5 ${place(to, right.length)} 1 ${place(to, right.length)}`,
      line: { color: colour(size < 0 ? 2 : 0), width: 0.6 + (4.4 * Math.abs(size)) / top }, opacity: 0.6,
    }));
    const middles = {
      type: "scatter", mode: "markers", x: edges.map(() => 0.5), y: edges.map(([from, to]) => (place(from, left.length) + place(to, right.length)) / 2),
      marker: { size: 9, opacity: 0 }, text: edges.map(([from, to, size]) => `<b>${plain(left[from])}</b> → <b>${plain(right[to])}</b><br>${size.toPrecision(3)} ${plain(value)}`), hovertemplate: "%{text}<extra></extra>",
    };
    const most = box.clientWidth < 600 ? 12 : 34;
    const side = (texts, x, anchor) => texts.map((text, index) => ({ x, y: place(index, texts.length), text: short(text, most), showarrow: false, xanchor: anchor, xshift: anchor === "right" ? -8 : 8, font: { size: 12, color: css("--ink") } }));
    const heading = (text, x, anchor) => ({ x, yref: "paper", y: 1, yanchor: "bottom", yshift: 6, text: short(text, most), showarrow: false, xanchor: anchor, font: { size: 12, color: css("--soft") } });
    const nodes = (texts, x) => ({ type: "scatter", mode: "markers", x: texts.map(() => x), y: texts.map((_, index) => place(index, texts.length)), marker: { color: css("--ink"), size: 6 }, hoverinfo: "skip" });
    const none = { visible: false, fixedrange: true };
    const wide = box.clientWidth < 600 ? 0.75 : 0.6;
    return {
      height: 24 * rows + 70, traces: [nodes(left, 0), nodes(right, 1), middles],
      layout: layout({ ...none, range: [-wide, 1 + wide] }, { ...none, range: [rows - 0.3, -0.7] }, {
        margin: { l: 4, r: 4, t: 34, b: 8 }, shapes, annotations: [...side(left, 0, "right"), ...side(right, 1, "left"), heading(left_title, 0, "right"), heading(right_title, 1, "left")],
      }),
    };
  }

  function boxes({ ids, labels, parents, values, unit }) {
    const clusters = ids.filter((_, index) => parents[index] === ids[0]);
    const of = (index) => clusters.indexOf(parents[index] === ids[0] ? ids[index] : parents[index]);
    const tint = (index) => (index === 0 ? css("--paper") : `${colour(of(index))}${parents[index] === ids[0] ? "22" : "55"}`);
    return {
      height: 560,
      traces: [{
        type: "treemap", ids, labels: labels.map(plain), parents, values, branchvalues: "total", maxdepth: 4, sort: true, tiling: { pad: 1 },
        marker: { colors: ids.map((_, index) => tint(index)), line: { color: css("--paper"), width: 1 } },
        textfont: { color: css("--ink"), family: css("--sans"), size: 12 }, pathbar: { textfont: { color: css("--ink") } },
        hovertemplate: `<b>%{label}</b><br>%{value:,} ${plain(unit)}<extra></extra>`,
      }],
      layout: layout({}, {}, { margin: { l: 0, r: 0, t: 26, b: 0 } }),
    };
  }

  const made = { bars, points, steps, network, boxes };

  // An entry of the figure's own legend: plotly.js gives its legends inline styles, which the page's policy forbids.
  function keys() {
    const of = figure.kind === "network" && figure.edges.some(([, , size]) => size < 0) ? ["above 0", "", "below 0"] : (figure.names ?? []);
    const entries = of.map((name, index) => [name, index]).filter(([name]) => name);
    document.getElementById("keys").replaceChildren(...(entries.length > 1 ? entries : []).map(([name, index]) => {
      const [entry, mark] = [document.createElement("span"), document.createElement("span")];
      mark.className = `mark c${index % N_COLOURS}`;
      entry.append(mark, name);
      return entry;
    }));
  }

  function draw() {
    const { traces, layout: of, height } = made[figure.kind](figure);
    box.style.height = `${height}px`;
    Plotly.react(box, traces, of, OPTIONS);
  }

  async function save() {
    const image = await Plotly.toImage({ data: box.data, layout: { ...box.layout, paper_bgcolor: css("--paper") } }, { format: "svg", width: box.clientWidth, height: box.clientHeight });
    const link = document.createElement("a");
    link.href = image;
    link.download = `${document.title.replace(/[^A-Za-z0-9._+-]+/g, "_")}.svg`;
    link.click();
  }

  const button = document.createElement("button");
  Object.assign(button, { type: "button", className: "save", textContent: "SVG", title: "Save this figure as SVG" });
  button.addEventListener("click", save);
  box.parentElement.querySelector("figcaption").append(button);
  keys();
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("resize", draw);
})();
