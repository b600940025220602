"use strict";
// Draws the figures from the JSON in the page, and makes tables sort and choices choose. Text goes in as text only.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const { N_COLOURS, DASHES, SYMBOLS, OPTIONS, css, plain, axis, layout, padded, sparsity } = charts;
  const hidden = new Set();
  const drawn = new Set();
  let curve = "batch_r2";

  const TITLES = {
    batch_r2: "R² of the batch", loss: "loss", l0: "active latents per row", dead_latents: "dead latents",
    decoder_max_cosine_mean: "mean largest cosine", "orthogonality/competing_pairs": "competing pairs",
  };
  const colour = (name) => css(`--c${data.variants.indexOf(name) % N_COLOURS}`);
  const again = (name, list) => list[Math.floor(data.variants.indexOf(name) / N_COLOURS) % list.length];
  const shown = (site) => data.variants.filter((name) => name in data.sites[site] && !hidden.has(name))
    .map((name) => [name, data.sites[site][name]]);

  // The variant with the most to show is the first one.
  const size = (name) => Math.max(...Object.values(data.sites).map((saes) => (saes[name] ? Object.values(saes[name].panels).flat().length : 0)));
  const sites = Object.keys(data.sites);
  const one = { variant: data.variants.reduce((best, name) => (size(name) > size(best) ? name : best), data.variants[0]), site: sites[0] };
  const seriesOf = (sae, key) => sae.curves[key] ?? sae.series[key] ?? { step: [], value: [] };

  const line = (name) => ({ color: colour(name), width: 1.8, dash: again(name, DASHES) });

  function frontier(site, box) {
    const points = shown(site).filter(([, sae]) => sae.l0 !== null && sae.r2 !== null);
    const every = Object.values(data.sites[site]).filter((sae) => sae.l0 !== null && sae.r2 !== null);
    if (!every.length) return null;
    return {
      traces: points.map(([name, sae]) => ({
        type: "scatter", mode: "markers", x: [sae.l0], y: [sae.r2], name: plain(name),
        marker: { color: colour(name), size: 11, symbol: again(name, SYMBOLS), line: { color: css("--paper"), width: 1.5 } },
        hovertemplate: `<b>${plain(name)}</b><br>L0 %{x:.2f}<br>R² %{y:.4f}<extra></extra>`,
      })),
      // In the small figure of the first screen many names would cover each other: they are there to point at.
      layout: sparsity(every, "small" in box.dataset && points.length > 8 ? [] : points.map(([name, { l0, r2 }]) => ({ name, l0, r2 })), box),
    };
  }

  function curves(site, key) {
    if (!Object.values(data.sites[site]).some((sae) => seriesOf(sae, key).step.length)) return null;
    const usable = shown(site).filter(([, sae]) => seriesOf(sae, key).step.length);
    const lost = usable.filter(([, sae]) => sae.diverged_at_step !== null);
    const log = key === "loss";
    return {
      traces: usable.map(([name, sae]) => ({
        type: "scatter", mode: "lines", x: seriesOf(sae, key).step, y: seriesOf(sae, key).value, name: plain(name), line: line(name),
        hovertemplate: `<b>${plain(name)}</b><br>step %{x:,}<br>%{y:.4g}<extra></extra>`,
      })),
      layout: layout(axis("step", { tickformat: ",d", nticks: 7, rangemode: "tozero" }),
        axis(TITLES[key] ?? plain(key), { range: heights(usable, key, log), type: log ? "log" : "linear" }), {
          shapes: lost.map(([name, sae]) => ({
            type: "line", x0: sae.diverged_at_step, x1: sae.diverged_at_step, yref: "paper", y0: 0, y1: 1,
            line: { color: colour(name), width: 1, dash: "dot" },
          })),
          annotations: lost.map(([name, sae], index) => ({
            x: sae.diverged_at_step, yref: "paper", y: 0.04 + 0.08 * index, text: `${plain(name)} diverged`, showarrow: false,
            xanchor: "left", xshift: 5, font: { size: 11, color: css("--soft") },
          })),
        }),
    };
  }

  // The range that shows the curves from 5 % of training on; a variant that diverged, or an R² below 0, may leave it.
  function heights(usable, key, log) {
    const steady = usable.filter(([, sae]) => sae.diverged_at_step === null);
    const ends = (steady.length ? steady : usable)
      .map(([, sae]) => seriesOf(sae, key))
      .flatMap(({ step, value }) => value.filter((_, index) => step[index] >= step[step.length - 1] / 20))
      .filter((value) => !log || value > 0).map((value) => (log ? Math.log10(value) : value)).sort((a, b) => a - b);
    if (!ends.length) return undefined;
    const low = ends[Math.floor(ends.length * 0.005)];
    return padded(key === "batch_r2" ? Math.max(low, 0) : low, ends[ends.length - 1], 0.06);
  }

  function dead(site) {
    const bars = shown(site).filter(([, sae]) => sae.dead !== null && sae.alive !== null).reverse();
    if (!bars.length) return null;
    const share = bars.map(([, sae]) => sae.dead / (sae.dead + sae.alive));
    return {
      traces: [{
        type: "bar", orientation: "h", y: bars.map(([name]) => plain(name)), x: share, width: 0.55,
        hoverinfo: "skip", marker: { color: bars.map(([name]) => colour(name)) }, cliponaxis: false, textposition: "outside",
        text: bars.map(([, sae], index) => `${(100 * share[index]).toPrecision(2)} %  (${sae.dead.toLocaleString("en")})`),
      }],
      height: 30 * bars.length + 16,
      layout: layout(axis("", { visible: false, range: [0, Math.max(0.01, ...share) * 1.45] }),
        axis("", { ticks: "", showgrid: false, tickfont: { size: 12, color: css("--ink") } })),
    };
  }

  function density(site) {
    const usable = shown(site).filter(([, sae]) => sae.density.counts.length);
    if (!usable.length) return null;
    return {
      traces: usable.map(([name, sae]) => ({
        type: "scatter", mode: "lines", name: plain(name), line: { ...line(name), shape: "hvh", width: 1.6 },
        x: sae.density.counts.map((_, index) => (sae.density.edges[index] + sae.density.edges[index + 1]) / 2), y: sae.density.counts,
        hovertemplate: `<b>${plain(name)}</b><br>%{y} latents<extra></extra>`,
      })),
      layout: layout(axis("share of rows", {
        tickvals: [-6, -5, -4, -3, -2, -1, 0], ticktext: ["0.0001 %", "0.001 %", "0.01 %", "0.1 %", "1 %", "10 %", "100 %"],
      }), axis("latents", { rangemode: "tozero" })),
    };
  }

  // An entry of a panel's own legend: plotly.js gives its legends inline styles, which the page's policy forbids.
  function key(name, index) {
    const [entry, mark] = [document.createElement("span"), document.createElement("span")];
    mark.className = `mark c${index % N_COLOURS}`;
    entry.append(mark, name);
    return entry;
  }

  function ofOne(box) {
    const sae = data.sites[one.site]?.[one.variant];
    const made = sae ? dynamicsFigure(sae, data.panels.find((panel) => panel.key === box.dataset.panel), box) : null;
    box.parentElement.hidden = made === null;
    box.nextElementSibling.replaceChildren(...(made && made.names.length > 1 ? made.names.map((name, index) => key(name, index)) : []));
    return made;
  }

  function ofSection(box) {
    const made = sectionFigure(data.sections[box.dataset.name], (name) => data.variants.indexOf(name), (name) => hidden.has(name));
    box.nextElementSibling.replaceChildren(...(made.names.length > 1 ? made.names.map(([name, index]) => key(name, index)) : []));
    return made;
  }

  // Every figure can be saved: as it is drawn, on the page's ground, from the page alone.
  async function save(box) {
    if (!drawn.has(box)) draw(box);
    if (!box.data) return;
    const image = await Plotly.toImage({ data: box.data, layout: { ...box.layout, paper_bgcolor: css("--paper") } }, { format: "svg", width: box.clientWidth, height: box.clientHeight });
    const link = document.createElement("a");
    link.href = image;
    link.download = `${[box.dataset.name ?? box.dataset.panel ?? box.dataset.figure, box.dataset.site].filter(Boolean).join("-").replace(/[^A-Za-z0-9._+-]/g, "_")}.svg`;
    link.click();
  }

  function savable(box) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "save";
    button.textContent = "SVG";
    button.title = "Save this figure as SVG";
    button.addEventListener("click", () => save(box));
    box.parentElement.querySelector("figcaption").append(button);
  }

  function figure(box) {
    const { figure: kind, site } = box.dataset;
    if (kind === "section") return ofSection(box);
    if (kind === "frontier") return frontier(site, box);
    if (kind === "curves") return curves(site, curve);
    if (kind === "dead") return dead(site);
    if (kind === "density") return density(site);
    if (kind === "dynamics") return ofOne(box);
    return curves(site, kind);
  }

  function draw(box) {
    drawn.add(box);
    const made = figure(box);
    if (made === null && box.dataset.panel) {
      Plotly.purge(box);
      return;
    }
    if (made === null) {
      Plotly.purge(box);
      box.textContent = "Nothing measured.";
      return;
    }
    if (made.height) box.style.height = `${made.height}px`;
    Plotly.react(box, made.traces, made.layout, OPTIONS);
  }
  const redraw = () => drawn.forEach(draw);

  function press(buttons, chosen) {
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(button === chosen)));
  }

  function sortable(table) {
    all("thead th", table).forEach((head, column) => head.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending" || (column === 0 && !head.hasAttribute("aria-sort"));
      all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.key;
      const every = all("tbody tr", table);
      const isText = column === 0 || every.some((row) => Number.isNaN(Number(key(row))));
      const order = (a, b) => (isText ? a.localeCompare(b) : Number(a) - Number(b)) * (up ? 1 : -1);
      const rows = every.sort((a, b) => (key(a) === "") - (key(b) === "") || order(key(a), key(b)));
      table.tBodies[0].append(...rows);
    }));
  }

  function pickDynamics() {
    const buttons = all("[data-dynamics]");
    const mark = () => buttons.forEach((button) => button.setAttribute("aria-pressed", String(one[button.dataset.dynamics] === button.dataset.value)));
    buttons.forEach((button) => button.addEventListener("click", () => {
      one[button.dataset.dynamics] = button.dataset.value;
      mark();
      // All of them: a panel that was hidden may have something to show of this SAE.
      all("[data-panel]").forEach((box) => { box.parentElement.hidden = false; });
      all("[data-panel]").filter((box) => drawn.has(box)).forEach(draw);
    }));
    mark();
  }

  function pickExamples() {
    const chosen = { variant: data.variants[0], site: Object.keys(data.sites)[0] };
    const buttons = all("[data-pick]");
    const show = () => {
      all(".sae").forEach((box) => { box.hidden = box.dataset.variant !== chosen.variant || box.dataset.site !== chosen.site; });
      buttons.forEach((button) => button.setAttribute("aria-pressed", String(chosen[button.dataset.pick] === button.dataset.value)));
    };
    buttons.forEach((button) => button.addEventListener("click", () => {
      chosen[button.dataset.pick] = button.dataset.value;
      show();
    }));
    show();
  }

  all(".chip").forEach((chip) => chip.addEventListener("click", () => {
    const name = chip.dataset.variant;
    chip.setAttribute("aria-pressed", String(hidden.has(name)));
    if (!hidden.delete(name)) hidden.add(name);
    redraw();
  }));
  const choices = all("[data-curve]");
  const quantity = document.getElementById("quantity");
  const compare = (key, button) => {
    curve = key;
    press(choices, button);
    all('[data-figure="curves"]').filter((box) => drawn.has(box)).forEach(draw);
  };
  choices.forEach((button) => button.addEventListener("click", () => {
    quantity.value = "";
    compare(button.dataset.curve, button);
  }));
  quantity.addEventListener("change", () => {
    const key = quantity.value || "batch_r2";
    compare(key, choices.find((button) => button.dataset.curve === key));
  });
  all("table").filter((table) => table.querySelector("thead button")).forEach(sortable);
  pickExamples();
  pickDynamics();
  const watcher = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
    watcher.unobserve(entry.target);
    draw(entry.target);
  }), { rootMargin: "600px" });
  all(".plot").forEach((box) => watcher.observe(box));
  all(".plot").forEach(savable);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("beforeprint", () => all(".plot").forEach(draw));
})();
