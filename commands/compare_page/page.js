"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const shown = new Set(data.groups.keys());
  const colour = (group) => `g${group % 10}`;
  // The eleventh run has the first one's colour, and is dashed.
  const dashes = (group) => ["", "6 4", "2 3", "9 3 2 3"][Math.floor(group / 10) % 4];

  function element(name, attributes = {}, ...children) {
    const svg = ["svg", "g", "path", "circle", "line", "rect", "text", "title"].includes(name);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // A name that may be broken after _ and /, and not in the middle of a word.
  function breakable(name) {
    return element("span", {}, ...name.split(/(?<=[_/])/).flatMap((part) => [part, element("wbr")]));
  }

  function short(value) {
    const size = Math.abs(value);
    if (size >= 1e9) return `${+(value / 1e9).toPrecision(3)}G`;
    if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
    if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
    return String(+value.toPrecision(4));
  }

  function time(seconds) {
    if (seconds >= 3600) return `${+(seconds / 3600).toPrecision(3)} h`;
    if (seconds >= 60) return `${+(seconds / 60).toPrecision(3)} min`;
    return `${+seconds.toPrecision(3)} s`;
  }

  // Charts.

  const WIDE = 560, HIGH = 300, LEFT = 56, RIGHT = 14, TOP = 10, BOTTOM = 42;

  function ticks(low, high, count) {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
    return found;
  }

  function logTicks(low, high) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const factor of [1, 2, 5]) {
        const value = factor * 10 ** power;
        if (value >= low && value <= high) found.push(value);
      }
    }
    return found.length > 1 ? found : [low, high];
  }

  function axis(values, logarithmic, from, to, fromZero) {
    let low = Math.min(...values), high = Math.max(...values);
    if (fromZero && low >= 0) low = 0;
    if (logarithmic && low > 0) {
      if (low === high) { low /= 2; high *= 2; }
      const scale = (to - from) / Math.log(high / low);
      return { at: (value) => from + Math.log(value / low) * scale, ticks: logTicks(low, high) };
    }
    if (low === high) { low -= Math.abs(low) / 10 || 1; high += Math.abs(high) / 10 || 1; }
    const margin = fromZero ? 0 : (high - low) * 0.05;
    low -= margin;
    high += fromZero ? (high - low) * 0.03 : margin;
    return { at: (value) => from + ((value - low) / (high - low)) * (to - from), ticks: ticks(low, high, 5) };
  }

  // A frame with axes; `marks` draws into it, given the axes.
  function frame(title, x, y, name, formatX, formatY) {
    const svg = element("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": title });
    for (const value of y.ticks) {
      const at = y.at(value);
      svg.append(element("line", { class: "frame", x1: LEFT, x2: WIDE - RIGHT, y1: at, y2: at }));
      svg.append(element("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, formatY(value)));
    }
    for (const value of x.ticks) {
      const at = x.at(value);
      svg.append(element("line", { class: "frame", x1: at, x2: at, y1: HIGH - BOTTOM, y2: HIGH - BOTTOM + 4 }));
      svg.append(element("text", { x: at, y: HIGH - BOTTOM + 17, "text-anchor": "middle" }, formatX(value)));
    }
    svg.append(element("text", { x: (LEFT + WIDE - RIGHT) / 2, y: HIGH - 6, "text-anchor": "middle" }, name));
    return svg;
  }

  const said = (better) => (better ? `, ${better} is better` : "");

  function curveChart(curve, against, logarithmic) {
    const caption = element("figcaption", {}, curve.title, element("small", {}, said(curve.better)));
    const figure = element("figure", {}, caption);
    const series = curve.series.filter((each) => shown.has(each.group));
    if (!series.length) {
      figure.append(element("p", { class: "note" }, "Of no run that is shown."));
      return figure;
    }
    const points = series.flatMap((each) => each.points);
    const longest = Math.max(...points.map((point) => point[1]));
    const [unit, name] = against === 0 ? [1, "kimg (thousand training examples)"]
      : longest >= 7200 ? [3600, "wall time, hours"] : longest >= 120 ? [60, "wall time, minutes"] : [1, "wall time, seconds"];
    const x = axis(points.map((point) => point[against] / unit), false, LEFT, WIDE - RIGHT, true);
    const y = axis(points.map((point) => point[2]), logarithmic, HIGH - BOTTOM, TOP, false);
    const label = `${curve.title} against ${name}: ${series.map((each) => each.run).join(", ")}`;
    const svg = frame(label, x, y, name, short, short);
    const places = [];
    for (const each of series) {
      const at = each.points.map((point) => [x.at(point[against] / unit), y.at(point[2])]);
      const path = at.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
      const group = element("g", { class: colour(each.group) });
      group.append(element("path", { class: "curve", d: path, "stroke-dasharray": dashes(each.group) }));
      if (at.length <= 30) for (const [px, py] of at) group.append(element("circle", { class: "point", cx: px, cy: py, r: 2.8 }));
      svg.append(group);
      at.forEach(([px, py], i) => places.push({ px, py, each, point: each.points[i] }));
    }
    const here = element("circle", { class: "here", r: 5, cx: -20, cy: -20 });
    const output = element("output", {});
    svg.append(here);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const mx = ((event.clientX - box.left) / box.width) * WIDE, my = ((event.clientY - box.top) / box.height) * HIGH;
      const distance = (place) => (place.px - mx) ** 2 + (place.py - my) ** 2;
      const nearest = places.reduce((best, place) => (distance(place) < distance(best) ? place : best));
      here.setAttribute("cx", nearest.px);
      here.setAttribute("cy", nearest.py);
      const [kimg, seconds, value] = nearest.point;
      output.textContent = `${nearest.each.run}: ${short(value)} after ${short(kimg)} kimg, ${time(seconds)}`;
    });
    figure.append(svg, output);
    return figure;
  }

  function drawCurves() {
    const against = Number(document.querySelector("[name=against]:checked").value);
    const logarithmic = document.getElementById("log").checked;
    const place = (id, kinds) => {
      const curves = data.curves.filter((curve) => kinds.includes(curve.kind));
      document.getElementById(id).replaceChildren(
        ...curves.map((curve) => curveChart(curve, against, logarithmic && curve.kind !== "training")));
      return curves.length;
    };
    place("figure-curves", ["quality", "likelihood"]);
    const more = document.getElementById("more");
    more.hidden = !data.curves.some((curve) => curve.kind === "training");
    if (more.open) place("training-curves", ["training"]);
  }

  function drawCosts() {
    const plot = data.scatter[document.getElementById("cost-y").value];
    const choice = document.getElementById("cost-x").value;
    const place = document.getElementById("cost-chart");
    if (!plot) return place.replaceChildren();
    const points = plot.points.filter((point) => shown.has(point.group) && choice in point.x);
    const figure = element("figure", {}, element("figcaption", {}, plot.title, element("small", {}, said(plot.better))));
    place.replaceChildren(figure);
    if (!points.length) return figure.append(element("p", { class: "note" }, "Not known of any run that is shown."));
    const xs = points.map((point) => point.x[choice]);
    const x = axis(xs, Math.min(...xs) > 0 && Math.max(...xs) > 20 * Math.min(...xs), LEFT + 10, WIDE - RIGHT - 10, false);
    const y = axis(points.map((point) => point.y), false, HIGH - BOTTOM, TOP + 8, false);
    const words = points.map((point) => `${point.label} ${short(point.y)} at ${short(point.x[choice])}`).join(", ");
    const svg = frame(`${plot.title} against ${choice}: ${words}`, x, y, choice, short, short);
    const taken = [];
    for (const point of points) {
      const [px, py] = [x.at(point.x[choice]), y.at(point.y)];
      const atLeft = px > WIDE * 0.6;
      let below = py + 4;
      const clashes = (line) => taken.some(([left, other]) => left === atLeft && Math.abs(other - line) < 13);
      while (clashes(below)) below += 13;
      taken.push([atLeft, below]);
      const about = element("title", {}, `${point.label}: ${short(point.y)} at ${short(point.x[choice])}`);
      svg.append(element("g", { class: colour(point.group) },
        element("circle", { class: "point", cx: px, cy: py, r: 5 }, about),
        element("text", { class: "name", x: px + (atLeft ? -9 : 9), y: below, "text-anchor": atLeft ? "end" : "start" }, point.label)));
    }
    figure.append(svg);
  }

  // Grids of samples.

  const cards = [];

  function kindShown() {
    const chosen = document.querySelector("[name=kind]:checked");
    return chosen ? chosen.value : (data.grids[0] || {}).kind;
  }

  function positions() {
    const by = document.querySelector("[name=equal]:checked").value;
    const of = data.grids.filter((each) => each.kind === kindShown() && shown.has(each.group));
    const all = of.flatMap((each) => each.grids.map((grid) => grid[by])).filter((value) => value !== null);
    return [by, [...new Set(all)].sort((a, b) => a - b)];
  }

  function slideToEnd() {
    const slider = document.getElementById("at");
    slider.max = Math.max(positions()[1].length - 1, 0);
    slider.value = slider.max;
    drawGrids();
  }

  function drawGrids() {
    const slider = document.getElementById("at");
    const [by, all] = positions();
    slider.max = Math.max(all.length - 1, 0);
    const at = all[Math.min(Number(slider.value), all.length - 1)] ?? 0;
    const text = by === "kimg" ? `${short(at)} kimg` : time(at);
    slider.setAttribute("aria-valuetext", text);
    document.getElementById("at-label").textContent = `at ${text}`;
    for (const { each, figure, image, small } of cards) {
      figure.hidden = each.kind !== kindShown() || !shown.has(each.group);
      const newest = each.grids.filter((grid) => grid[by] !== null && grid[by] <= at).pop();
      image.hidden = !newest;
      const when = newest && `${short(newest.kimg)} kimg${newest.seconds === null ? "" : `, ${time(newest.seconds)}`}`;
      small.textContent = newest ? `after ${when}` : "nothing yet";
      if (newest && image.src !== newest.src) image.src = newest.src;
      image.alt = newest ? `${each.kind} of ${each.run} after ${when}` : `no ${each.kind} of ${each.run} yet`;
    }
  }

  function makeGrids() {
    const kinds = [...new Set(data.grids.map((each) => each.kind))];
    if (!kinds.length) {
      document.getElementById("samples").hidden = true;
      document.querySelector("nav [href='#samples']").parentElement.hidden = true;
      return;
    }
    if (kinds.length > 1) {
      kinds.sort((a, b) => (a === "samples" ? -1 : b === "samples" ? 1 : 0)).forEach((kind, i) => {
        const input = element("input", { type: "radio", name: "kind", value: kind });
        input.checked = i === 0;
        input.addEventListener("change", slideToEnd);
        document.getElementById("kinds").append(element("label", {}, input, ` ${kind}`));
      });
    }
    for (const each of data.grids) {
      const image = element("img", { alt: `no ${each.kind} of ${each.run} yet` });
      const small = element("small", {});
      const name = element("figcaption", { class: colour(each.group) }, element("span", { class: "dot" }), breakable(data.groups[each.group]), small);
      const figure = element("figure", {}, name, image);
      cards.push({ each, figure, image, small });
      document.getElementById("grids").append(figure);
    }
    document.getElementById("at").addEventListener("input", drawGrids);
    for (const input of document.querySelectorAll("[name=equal]")) input.addEventListener("change", slideToEnd);
    slideToEnd();
  }

  // Tables.

  function sortBy(head) {
    const table = head.closest("table"), column = [...head.parentElement.children].indexOf(head);
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.children) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const isNumber = head.classList.contains("number");
    const key = (row) => {
      const cell = row.children[column], text = cell.dataset.sort ?? cell.textContent;
      return isNumber ? (cell.dataset.sort === undefined ? NaN : Number(text)) : text;
    };
    const empty = (value) => value === "" || Number.isNaN(value);
    const compare = (a, b) => (isNumber ? a - b : a.localeCompare(b, "en", { numeric: true }));
    const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
    rows.sort(([a], [b]) => (empty(a) || empty(b) ? empty(a) - empty(b) : ascending ? compare(a, b) : compare(b, a)));
    table.tBodies[0].append(...rows.map(([, row]) => row)); // what has no value stays at the end
  }

  for (const head of document.querySelectorAll("thead th")) head.firstElementChild.addEventListener("click", () => sortBy(head));

  // Runs, shown or not.

  function drawAll() {
    drawCurves();
    drawCosts();
    if (cards.length) drawGrids();
  }

  data.groups.forEach((name, group) => {
    const input = element("input", { type: "checkbox" });
    input.checked = true;
    input.addEventListener("change", () => {
      input.checked ? shown.add(group) : shown.delete(group);
      drawAll();
    });
    document.getElementById("legend").append(
      element("label", { class: colour(group) }, input, element("span", { class: "dot" }), breakable(name)));
  });

  const costs = [...new Set(data.scatter.flatMap((plot) => plot.points.flatMap((point) => Object.keys(point.x))))];
  data.scatter.forEach((plot, i) => document.getElementById("cost-y").append(element("option", { value: i }, plot.title)));
  costs.forEach((name) => document.getElementById("cost-x").append(element("option", { value: name }, name)));
  const empty = { curves: !data.curves.length, costs: !data.scatter.length };
  for (const [id, isEmpty] of Object.entries(empty)) {
    document.getElementById(id).hidden = isEmpty;
    document.querySelector(`nav [href='#${id}']`).parentElement.hidden = isEmpty;
  }
  for (const id of ["cost-x", "cost-y"]) document.getElementById(id).addEventListener("change", drawCosts);
  for (const input of document.querySelectorAll("[name=against], #log")) input.addEventListener("change", drawCurves);
  document.getElementById("more").addEventListener("toggle", drawCurves);
  makeGrids();
  drawCurves();
  drawCosts();
})();
