"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const shown = new Set(data.groups.keys());
  const colour = (group) => data.looks[group][0];
  const mark = (group) => `#${data.looks[group][1]}`;
  const dashes = (group) => data.looks[group][2];

  function element(name, attributes = {}, ...children) {
    const svg = ["svg", "g", "path", "circle", "line", "use", "text", "title"].includes(name);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // A name that may break after _ and /, but not inside a word.
  function breakable(name) {
    return element("span", {}, ...name.split(/(?<=[_/])/).flatMap((part) => [part, element("wbr")]));
  }

  // The colour and mark in front of a run's name.
  function dot(group) {
    return element("svg", { class: `dot ${colour(group)}`, "aria-hidden": "true" }, element("use", { href: mark(group) }));
  }

  // The mark of a run in a chart.
  function marked(group, px, py, size) {
    return element("use", { class: "point", href: mark(group), x: px - size / 2, y: py - size / 2, width: size, height: size });
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
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough * 0.7);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
    return found;
  }

  function logTicks(low, high) {
    let found = [];
    for (const factors of [[1], [1, 2, 5], [1, 1.5, 2, 3, 5, 7]]) { // as fine as space allows
      const finer = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
        finer.push(...factors.map((factor) => factor * 10 ** power).filter((value) => value >= low && value <= high));
      }
      if (finer.length > 7 && found.length > 1) break;
      found = finer;
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

  const spans = (values, times) => Math.min(...values) > 0 && Math.max(...values) > times * Math.min(...values);

  // A frame with axes; `marks` receives the axes and draws into it.
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

  // Describes the point nearest to the pointer, or selected by arrow keys: `places` have px, py, group and words.
  function followed(figure, svg, places) {
    const here = element("circle", { class: "here", r: 7, cx: -20, cy: -20 });
    const output = element("output", {});
    let at = -1;
    const show = (number) => {
      at = number;
      const { px, py, group, words } = places[number];
      here.setAttribute("cx", px);
      here.setAttribute("cy", py);
      output.textContent = words;
      for (const each of svg.querySelectorAll("g[data-group]")) each.classList.toggle("faint", Number(each.dataset.group) !== group);
    };
    svg.setAttribute("tabindex", "0");
    svg.append(here);
    const pointed = (event) => {
      const box = svg.getBoundingClientRect();
      const mx = ((event.clientX - box.left) / box.width) * WIDE, my = ((event.clientY - box.top) / box.height) * HIGH;
      const distance = ({ px, py }) => (px - mx) ** 2 + (py - my) ** 2;
      show(places.reduce((best, place, i) => (distance(place) < distance(places[best]) ? i : best), 0));
    };
    for (const event of ["pointermove", "pointerdown"]) svg.addEventListener(event, pointed); // a finger may not move
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      show((Math.max(at, step < 0 ? 0 : -1) + step + places.length) % places.length);
    });
    const leave = () => {
      for (const each of svg.querySelectorAll(".faint")) each.classList.remove("faint");
    };
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("blur", leave);
    figure.append(svg, output);
  }

  const said = (better) => (better ? `, ${better} is better` : "");

  function curveChart(curve, against, logarithmic) {
    const caption = element("figcaption", {}, curve.title, element("small", {}, said(curve.better)));
    const figure = element("figure", {}, caption);
    const series = curve.series.filter((each) => shown.has(each.group));
    if (!series.length) {
      figure.append(element("p", { class: "note" }, "No visible run has it."));
      return figure;
    }
    const points = series.flatMap((each) => each.points);
    const longest = Math.max(...points.map((point) => point[1]));
    const [unit, name] = against === 0 ? [1, "kimg (thousand training examples)"]
      : longest >= 7200 ? [3600, "wall time, hours"] : longest >= 120 ? [60, "wall time, minutes"] : [1, "wall time, seconds"];
    const x = axis(points.map((point) => point[against] / unit), false, LEFT, WIDE - RIGHT, true);
    const values = points.map((point) => point[2]);
    const wide = spans(values, curve.kind === "training" ? 50 : 5);
    const y = axis(values, logarithmic && wide, HIGH - BOTTOM, TOP, false);
    const words = (each, [kimg, seconds, value]) => `${each.run}: ${short(value)} after ${short(kimg)} kimg, ${time(seconds)}`;
    const label = `${curve.title} against ${name}. At the end ${series.map((each) => words(each, each.points.at(-1))).join("; ")}`;
    const svg = frame(label, x, y, name, short, short);
    const places = [];
    for (const each of series) {
      const at = each.points.map((point) => [x.at(point[against] / unit), y.at(point[2])]);
      const path = at.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
      const group = element("g", { class: colour(each.group), "data-group": each.group });
      group.append(element("path", { class: "curve", d: path, "stroke-dasharray": dashes(each.group) }));
      const every = Math.ceil(at.length / 30); // only some of many points are marked, including the last
      at.forEach(([px, py], i) => (at.length - 1 - i) % every || group.append(marked(each.group, px, py, 9)));
      svg.append(group);
      at.forEach(([px, py], i) => places.push({ px, py, group: each.group, words: words(each, each.points[i]) }));
    }
    followed(figure, svg, places);
    return figure;
  }

  function drawCurves() {
    const against = Number(document.querySelector("[name=against]:checked").value);
    const logarithmic = document.getElementById("log").checked;
    const place = (id, kinds) => {
      const curves = data.curves.filter((curve) => kinds.includes(curve.kind));
      document.getElementById(id).replaceChildren(
        ...curves.map((curve) => curveChart(curve, against, logarithmic)));
      return curves.length;
    };
    place("figure-curves", ["quality", "likelihood"]);
    const more = document.getElementById("more");
    more.hidden = !data.curves.some((curve) => curve.kind === "training");
    if (more.open) place("training-curves", ["training"]);
  }

  // The position of a point's name: the first free one of six around it, or null.
  function placed(name, px, py, taken) {
    const size = matchMedia("(max-width: 40rem)").matches ? 17 : 12;
    const width = name.length * size * 0.56;
    for (const [dx, dy] of [[9, 4], [-9, 4], [9, -8], [-9, -8], [9, 16], [-9, 16]]) {
      const left = dx > 0 ? px + dx : px + dx - width, top = py + dy - size * 0.8;
      const box = [left, top, left + width, top + size];
      const free = taken.every((other) => box[0] >= other[2] || box[2] <= other[0] || box[1] >= other[3] || box[3] <= other[1]);
      if (free && box[0] >= LEFT && box[2] <= WIDE && box[1] >= 0 && box[3] <= HIGH - BOTTOM) {
        taken.push(box);
        return { x: px + dx, y: py + dy, "text-anchor": dx > 0 ? "start" : "end" };
      }
    }
    return null;
  }

  function costChart(plot, choice) {
    const points = plot.points.filter((point) => shown.has(point.group) && choice in point.x);
    const figure = element("figure", {}, element("figcaption", {}, plot.title, element("small", {}, ` against ${choice}${said(plot.better)}`)));
    if (!points.length) {
      figure.append(element("p", { class: "note" }, "No visible run has it."));
      return figure;
    }
    const xs = points.map((point) => point.x[choice]), ys = points.map((point) => point.y);
    const x = axis(xs, spans(xs, 5), LEFT + 10, WIDE - RIGHT - 10, false);
    const y = axis(ys, document.getElementById("log").checked && spans(ys, 5), HIGH - BOTTOM - 4, TOP + 8, false);
    const words = (point) => `${point.label}: ${short(point.y)} at ${short(point.x[choice])}`;
    const svg = frame(`${plot.title} against ${choice}: ${points.map(words).join("; ")}`, x, y, choice, short, short);
    const places = points.map((point) => ({ px: x.at(point.x[choice]), py: y.at(point.y), group: point.group, words: words(point) }));
    const taken = places.map(({ px, py }) => [px - 6, py - 6, px + 6, py + 6]);
    points.forEach(({ label, group }, i) => {
      const { px, py } = places[i];
      const name = label.length > 30 ? `${label.slice(0, 29)}…` : label;
      const place = placed(name, px, py, taken);
      const named = place ? [element("text", { class: "name", ...place }, name)] : [];
      svg.append(element("g", { class: colour(group), "data-group": group }, marked(group, px, py, 13), ...named));
    });
    followed(figure, svg, places);
    return figure;
  }

  function drawCosts() {
    const plot = data.scatter[document.getElementById("cost-y").value];
    document.getElementById("cost-charts").replaceChildren(...(plot ? costs.map((choice) => costChart(plot, choice)) : []));
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
      if (image.tagName === "PRE") {
        image.textContent = newest ? newest.text : "";
        continue;
      }
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
      const isText = each.grids.some((grid) => "text" in grid);
      const label = `${each.kind} of ${each.run}, text`; // it scrolls, so the keyboard must reach it
      const image = isText ? element("pre", { tabindex: 0, role: "region", "aria-label": label })
        : element("img", { alt: `no ${each.kind} of ${each.run} yet` });
      image.addEventListener("load", () => image.classList.toggle("enlarged", image.naturalWidth <= image.clientWidth));
      const small = element("small", {});
      const name = element("figcaption", {}, dot(each.group), breakable(data.groups[each.group]), small);
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
    table.tBodies[0].append(...rows.map(([, row]) => row)); // rows without a value stay at the end
  }

  for (const head of document.querySelectorAll("thead th")) head.firstElementChild.addEventListener("click", () => sortBy(head));

  // Visible and hidden runs.

  function drawAll() {
    drawCurves();
    drawCosts();
    if (cards.length) drawGrids();
  }

  for (const [words, chosen] of data.groups.length > 2 ? [["all", true], ["none", false]] : []) {
    const button = element("button", { type: "button" }, words);
    button.addEventListener("click", () => {
      for (const [group, input] of [...document.querySelectorAll("#legend input")].entries()) {
        input.checked = chosen;
        chosen ? shown.add(group) : shown.delete(group);
      }
      drawAll();
    });
    document.getElementById("legend").append(button);
  }

  data.groups.forEach((name, group) => {
    const input = element("input", { type: "checkbox" });
    input.checked = true;
    input.addEventListener("change", () => {
      input.checked ? shown.add(group) : shown.delete(group);
      drawAll();
    });
    document.getElementById("legend").append(
      element("label", { class: colour(group), title: name }, input, dot(group), element("span", { class: "name" }, name)));
  });

  const costs = [...new Set(data.scatter.flatMap((plot) => plot.points.flatMap((point) => Object.keys(point.x))))];
  data.scatter.forEach((plot, i) => document.getElementById("cost-y").append(element("option", { value: i }, plot.title)));
  const empty = { curves: !data.curves.length, costs: !data.scatter.length };
  for (const [id, isEmpty] of Object.entries(empty)) {
    document.getElementById(id).hidden = isEmpty;
    document.querySelector(`nav [href='#${id}']`).parentElement.hidden = isEmpty;
  }
  document.getElementById("cost-y").addEventListener("change", drawCosts);
  for (const input of document.querySelectorAll("[name=against]")) input.addEventListener("change", drawCurves);
  document.getElementById("log").addEventListener("change", drawAll);
  document.getElementById("more").addEventListener("toggle", drawCurves);
  makeGrids();
  drawCurves();
  drawCosts();
})();
