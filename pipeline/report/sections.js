"use strict";
// A figure that a section of the page describes: traces and layout of plotly.js, with the page's colours and axes.
const sectionFigure = (() => {
  const { N_COLOURS, DASHES, SYMBOLS, css, plain, axis, layout } = charts;
  // What plotly.js reads as markup in a hovertemplate; everything else of a text is shown as it is.
  const TAGS = /&lt;(\/?b|br|\/?extra)&gt;/g;
  const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

  function textual(value, key) {
    if (typeof value === "string") return key === "hovertemplate" ? plain(value).replace(TAGS, "<$1>") : plain(value);
    if (Array.isArray(value)) return value.map((item) => textual(item, key));
    if (isObject(value)) return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, textual(item, name)]));
    return value;
  }

  // `{ variant: name }` stands for that variant's colour.
  function coloured(value, place) {
    if (Array.isArray(value)) return value.map((item) => coloured(item, place));
    if (!isObject(value)) return value;
    if (typeof value.variant === "string" && Object.keys(value).length === 1) return css(`--c${place(value.variant) % N_COLOURS}`);
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, coloured(item, place)]));
  }

  function drawn(trace, index, place) {
    const { variant, ...rest } = trace;
    const [number, again] = variant === undefined ? [index, 0] : [place(variant), Math.floor(place(variant) / N_COLOURS)];
    const colour = css(`--c${number % N_COLOURS}`);
    const made = textual(coloured(rest, place), "");
    const isBar = made.type === "bar";
    return {
      mode: isBar ? undefined : "markers", hoverinfo: made.hovertemplate ? undefined : "x+y+name", ...made,
      line: isBar ? undefined : { color: colour, width: 1.8, dash: DASHES[again % DASHES.length], ...made.line },
      marker: { color: colour, ...(isBar ? {} : { size: 9, symbol: SYMBOLS[again % SYMBOLS.length] }), ...made.marker },
      ...Object.fromEntries(["error_x", "error_y"].filter((name) => made[name]).map((name) => [name, { color: colour, thickness: 1.3, width: 4, ...made[name] }])),
    };
  }

  function axes(made) {
    const found = Object.entries(made).filter(([name]) => /^[xy]axis\d*$/.test(name));
    const styled = ([name, given]) => {
      const { title, ...more } = given;
      return [name, axis(isObject(title) ? title.text ?? "" : title ?? "", more)];
    };
    return { xaxis: axis(""), yaxis: axis(""), ...Object.fromEntries(found.map(styled)) };
  }

  // `isHidden`: of a variant; `place`: its number among all. `names`: entries of the legend, with their colours' numbers.
  return (figure, place, isHidden) => {
    const shown = figure.traces.map((trace, index) => ({ trace, index })).filter(({ trace }) => !isHidden(trace.variant));
    const made = textual(coloured(figure.layout, place), "");
    const { height, ...rest } = made;
    const { xaxis, yaxis, ...others } = { ...rest, ...axes(made) };
    return {
      traces: shown.map(({ trace, index }) => drawn(trace, index, place)), height,
      layout: layout(xaxis, yaxis, { ...others, showlegend: false }),
      names: shown.filter(({ trace }) => trace.variant === undefined && trace.name).map(({ trace, index }) => [trace.name, index]),
    };
  };
})();
