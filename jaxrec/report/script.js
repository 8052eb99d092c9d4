"use strict";
(() => {
  const holder = document.getElementById("grid");
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => (d.open = true)));
  if (!holder) return;
  const grid = JSON.parse(holder.textContent);
  const $ = (id) => document.getElementById(id);
  const sliders = grid.strengths.map((_, n) => $(`strength-${n}`));
  const plain = grid.values[grid.plain];
  const groups = ["head", "mid", "tail"];
  const words = { head: "head", mid: "middle", tail: "tail" };
  let moved = 0; // the slider whose way through the chart is drawn

  // Settings are stored with the last strength changing fastest.
  const levels = () => sliders.map((s) => Number(s.value));
  const place = (at) => at.reduce((sum, level, n) => sum * grid.strengths[n].levels.length + level, 0);
  const change = (row, c) => (plain[c] ? 100 * (row[c] / plain[c] - 1) : 0);
  const xy = (row) => grid.axes.map((c) => change(row, c));
  const signed = (value) => (Math.abs(value) < 0.05 ? "±0 %" : `${value > 0 ? "+" : "−"}${Math.abs(value).toFixed(1)} %`);
  const short = (value) => String(Number(value.toPrecision(3))).replace("-", "−");

  const digits = (value) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));

  function make(name, attributes = {}, ...children) {
    const svg = ["svg", "g", "path", "circle", "line", "text", "title"].includes(name);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  // ---- the chart -------------------------------------------------------------------------------------------------
  const arms = Object.keys(grid.clouds);
  const colour = (n) => `var(--${["adjusted", "count-control", "tten"][n] || `series-${n}`})`;
  const dash = (n) => ["none", "7 4", "2 4"][n % 3];
  const shape = (n, x, y, r = 4) => [
    `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`,
    `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}Z`,
    `M${x},${y - r}l${r},${2 * r}h${-2 * r}Z`,
  ][n % 3];
  const star = (x, y, r = 8) => "M" + Array.from({ length: 10 }, (_, n) => {
    const a = Math.PI * (n / 5 - 0.5), l = n % 2 ? r / 2.4 : r;
    return `${x + l * Math.cos(a)},${y + l * Math.sin(a)}`;
  }).join("L") + "Z";

  function front(points) { // those that no other one beats on both sides, by falling x
    let best = -Infinity;
    return [...points].sort((a, b) => b[0] - a[0] || b[1] - a[1]).filter(([, y]) => y > best && ((best = y), true));
  }

  function ticks(low, high) {
    const raw = (high - low) / 5, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= raw);
    const count = Math.floor(high / step) - Math.ceil(low / step) + 1;
    return Array.from({ length: count }, (_, n) => (Math.ceil(low / step) + n) * step);
  }

  // All fronts and most of the grid; where the sliders lead further out, the point stays at the edge.
  const fronts = [front(grid.values.map(xy)), ...Object.values(grid.clouds).map(front), [[0, 0]]].flat();
  const range = [0, 1].map((d) => {
    const some = grid.values.map((row) => xy(row)[d]).sort((a, b) => a - b);
    const values = [...fronts.map((p) => p[d]), some[Math.floor(0.2 * some.length)], some[some.length - 1]];
    const low = Math.min(...values), high = Math.max(...values), pad = 0.06 * (high - low || 1);
    return [low - pad, high + pad];
  });
  const inside = (v, d) => Math.min(Math.max(v, range[d][0]), range[d][1]);
  let scale;

  function draw() {
    const width = Math.max($("chart").clientWidth, 260), height = Math.min(420, Math.max(280, 0.55 * width));
    const box = { left: 52, right: width - 12, top: 14, bottom: height - 44 };
    const to = (d, from, until) => (v) => from + ((v - range[d][0]) / (range[d][1] - range[d][0])) * (until - from);
    scale = [to(0, box.left, box.right), to(1, box.bottom, box.top)];
    const at = ([x, y]) => [scale[0](inside(x, 0)), scale[1](inside(y, 1))];
    const line = (points) => "M" + points.map((p) => at(p).map((v) => v.toFixed(1)).join(",")).join("L");
    const label = (c) => grid.metrics[c].replace("/", " ");
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-labelledby": "chart-title" });
    svg.append(make("title", { id: "chart-title" },
      `Change of ${label(grid.axes[0])} (across) against ${label(grid.axes[1])} (up), in percent of the plain model`));
    for (const x of ticks(...range[0])) {
      svg.append(make("line", { class: x ? "grid" : "zero", x1: scale[0](x), x2: scale[0](x), y1: box.top, y2: box.bottom }));
      svg.append(make("text", { x: scale[0](x), y: box.bottom + 16, "text-anchor": "middle" }, short(x)));
    }
    for (const y of ticks(...range[1])) {
      svg.append(make("line", { class: y ? "grid" : "zero", x1: box.left, x2: box.right, y1: scale[1](y), y2: scale[1](y) }));
      svg.append(make("text", { x: box.left - 6, y: scale[1](y) + 4, "text-anchor": "end" }, short(y)));
    }
    svg.append(make("text", { x: (box.left + box.right) / 2, y: height - 8, "text-anchor": "middle" }, `${label(grid.axes[0])}, change in %`));
    const up = make("text", { transform: `translate(13 ${(box.top + box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" });
    up.append(`${label(grid.axes[1])}, change in %`);
    svg.append(up);
    for (const p of grid.values.map(xy).filter((p) => p.every((v, d) => v === inside(v, d)))) {
      svg.append(make("circle", { class: "try", cx: at(p)[0], cy: at(p)[1], r: 2 }));
    }
    arms.forEach((arm, n) => {
      const best = front(grid.clouds[arm]);
      svg.append(make("path", { class: "front", stroke: colour(n), "stroke-dasharray": dash(n), d: line(best) }));
      for (const p of best) svg.append(make("path", { fill: colour(n), d: shape(n, ...at(p), 3) }));
    });
    svg.append(make("path", { id: "sweep", class: "sweep" }), make("g", { id: "steps" }));
    svg.append(make("path", { d: star(...at([0, 0])), fill: "var(--ink)" }));
    svg.append(make("circle", { id: "here", class: "here", r: 9 }));
    $("chart").replaceChildren(svg);
    draw.line = line;
    draw.at = at;
  }

  function legend() {
    const entry = (text, ...nodes) => make("span", {}, make("svg", { viewBox: "0 0 26 14", "aria-hidden": "true" }, ...nodes), text);
    const entries = arms.map((arm, n) => entry(`${arm}, best of those tried`,
      make("path", { d: "M0,7H26", stroke: colour(n), "stroke-width": 2, "stroke-dasharray": dash(n) }),
      make("path", { d: shape(n, 13, 7), fill: colour(n) })));
    entries.push(entry("other settings of the grid", make("circle", { cx: 13, cy: 7, r: 2, fill: colour(0), opacity: 0.6 })));
    entries.push(entry("these strengths", make("circle", { cx: 13, cy: 7, r: 5, fill: "none", stroke: "currentColor", "stroke-width": 2.5 })));
    entries.push(entry("way of the slider moved last", make("path", { d: "M0,7H26", stroke: "currentColor", "stroke-dasharray": "2 4" })));
    entries.push(entry("plain", make("path", { d: star(13, 7, 6), fill: "currentColor" })));
    $("legend").replaceChildren(...entries);
  }

  // ---- what follows the sliders -----------------------------------------------------------------------------------
  function item(n, before, liked) {
    const { item: name, popularity, group } = grid.items[n];
    const node = make("li", {}, `${name} `, make("small", { class: group }, `${words[group]}, ${popularity}`));
    if (before && !before.includes(n)) node.append(" ", make("b", {}, "new"));
    if (liked.includes(n)) node.append(" ", make("b", { title: "among the user's validation items" }, "✓ liked"));
    return node;
  }

  function lists(index) {
    const n = Number($("person").value), person = grid.people[n];
    if (!person) return;
    const before = grid.lists[grid.plain][n];
    $("profile").textContent = `knows ${person.profile.slice(0, 4).map((i) => grid.items[i].item).join(", ")}, …`;
    $("list-plain").replaceChildren(...before.map((i) => item(i, null, person.liked)));
    $("list-here").replaceChildren(...grid.lists[index][n].map((i) => item(i, before, person.liked)));
  }

  function numbers(row) {
    const head = ["", "plain", "here", "change"].map((text) => make("th", { scope: "col" }, text));
    const body = grid.metrics.map((name, c) => [name, c]).filter(([name]) => !groups.includes(name)).map(([name, c]) =>
      make("tr", {}, make("th", { scope: "row" }, name.replace("/", " ")),
        ...[digits(plain[c]), digits(row[c]), signed(change(row, c))].map((text) => make("td", {}, text))));
    const wide = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "numbers at these strengths" });
    wide.append(make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body)));
    $("numbers").replaceChildren(wide);
  }

  function shares(row) {
    const bar = (title, values) => {
      const parts = groups.map((group) => {
        const percent = 100 * values[grid.metrics.indexOf(group)], text = `${words[group]} ${percent.toFixed(0)} %`;
        return make("span", { class: group, style: `flex: ${percent} 0 0`, title: text }, percent < 12 ? "" : text);
      });
      const text = groups.map((g) => `${words[g]} ${(100 * values[grid.metrics.indexOf(g)]).toFixed(0)} %`).join(", ");
      return [make("div", {}, `${title}: ${text}`), make("div", { class: "bar", "aria-hidden": "true" }, ...parts)];
    };
    $("shares").replaceChildren(...bar("plain", plain), ...bar("here", row));
  }

  function follow() {
    const at = levels(), index = place(at), row = grid.values[index];
    sliders.forEach((slider, n) => {
      const { levels: known, selected } = grid.strengths[n];
      const text = short(known[at[n]]) + (at[n] === selected ? " (selected)" : "");
      $(`value-${n}`).textContent = text;
      slider.setAttribute("aria-valuetext", text);
    });
    const way = grid.strengths[moved].levels.map((_, level) => xy(grid.values[place(at.map((l, n) => (n === moved ? level : l)))]));
    $("sweep").setAttribute("d", draw.line(way));
    $("steps").replaceChildren(...way.map((p) => make("circle", { class: "step", cx: draw.at(p)[0], cy: draw.at(p)[1], r: 3 })));
    const [x, y] = draw.at(xy(row));
    $("here").setAttribute("style", `transform: translate(${x}px, ${y}px)`);
    const told = grid.axes.map((c) => `${grid.metrics[c].replace("/", " ")} ${signed(change(row, c))}`).join(", ");
    const arp = grid.metrics.findIndex((name) => name.startsWith("arp@"));
    $("said").textContent = `${told}; a recommended item has ${row[arp].toFixed(0)} training interactions (plain ${plain[arp].toFixed(0)}).`;
    numbers(row);
    shares(row);
    lists(index);
  }

  function set(at) {
    sliders.forEach((slider, n) => (slider.value = at[n]));
    follow();
  }

  if (!sliders.length) return;
  $("explorer").hidden = false;
  if ($("static-frontier")) $("static-frontier").hidden = true;
  sliders.forEach((slider, n) => slider.addEventListener("input", () => ((moved = n), follow())));
  $("person").addEventListener("change", follow);
  $("to-selected").addEventListener("click", () => set(grid.strengths.map((s) => s.selected)));
  const zero = []; // the levels of the plain setting, unpacked from its place
  grid.strengths.reduceRight((rest, s) => (zero.unshift(rest % s.levels.length), Math.floor(rest / s.levels.length)), grid.plain);
  $("to-plain").addEventListener("click", () => set(zero));
  addEventListener("resize", () => (draw(), follow()));
  legend();
  draw();
  follow();
})();
