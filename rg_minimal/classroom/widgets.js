// Points, arrows, a skeleton, a box or strokes on a picture, for the mouse, a finger or the keyboard. The Python side is
// widgets.py. All coordinates are pixels of the picture: the SVG's viewBox is the picture, so zoom and layout do not matter.
//
// `value` goes to Python once a gesture is over (pointer or key released), together with the id of the picture it was
// drawn on: `_edited` is [picture id, serial number]. A value for a picture that is no longer shown is dropped there.
// What can be undone is a value together with `grabs`: whether its arrows take hold of more than their own points.

const CSS = `
.rg-picture { font: 13px/1.45 system-ui, sans-serif; max-width: 100%; }
.rg-picture svg { display: block; max-width: 100%; height: auto; overflow: visible; touch-action: none; user-select: none;
  background: #f4f4f4; outline: 1px solid #767676; cursor: crosshair; }
.rg-picture svg:focus-visible { outline: 3px solid #0072B2; outline-offset: 3px; }
.rg-picture svg * { vector-effect: non-scaling-stroke; }
.rg-picture [tabindex] { outline: none; }
.rg-handle { cursor: move; }
.rg-handle .ring { fill: none; stroke: none; }
.rg-handle.selected .ring { stroke: #fff; stroke-width: 3px; }
.rg-handle:focus .ring { stroke: #000; stroke-width: 3px; }
.rg-handle:focus .halo { stroke: #fff; stroke-width: 7px; }
.rg-handle .halo { fill: none; stroke: none; }
.rg-handle text { font-weight: 700; text-anchor: middle; dominant-baseline: central; pointer-events: none; }
.rg-tools { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; margin-top: 8px; }
.rg-tools button { min-width: 44px; min-height: 32px; padding: 2px 10px; font: inherit; 
  color: var(--jp-ui-font-color0, #1a1a1a); background: var(--jp-layout-color1, #fff);
  border: 1px solid var(--jp-ui-font-color2, #595959); border-radius: 4px; cursor: pointer; touch-action: manipulation; }
.rg-tools button:hover:enabled { background: var(--jp-layout-color2, #e6f1f8); }
.rg-tools button:disabled { color: var(--jp-ui-font-color2, #595959); background: var(--jp-layout-color2, #ececec); border-style: dashed; cursor: default; }
.rg-tools :focus-visible { outline: 3px solid #0072B2; outline-offset: 2px; }
.rg-tools label { display: inline-flex; align-items: center; gap: 6px; min-height: 32px; }
.rg-tools input { width: 96px; min-height: 24px; }
.rg-picture .held { margin-top: 8px; padding: 4px 8px; border-left: 4px solid #0072B2; }
.rg-picture .held:empty { display: none; }
.rg-picture p { margin: 6px 0 0; min-height: 1.45em; }`;

const copy = (thing) => JSON.parse(JSON.stringify(thing));
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const without = (list, i) => list.filter((_, k) => k !== i);
const replaced = (list, i, item) => list.map((old, k) => (k === i ? item : old));
const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
const middle = ([x0, y0, x1, y1]) => [(x0 + x1) / 2, (y0 + y1) / 2];
const saves = (event) => (event.ctrlKey || event.metaKey) && event.key?.toLowerCase() === "s";

function keepKey(event) {                // else JupyterLab and Notebook 7 take arrows, Delete and Ctrl+Z; what saves the notebook is theirs
  for (let node = event.target; node.closest?.(".rg-picture"); node = node.parentElement) {
    node.toggleAttribute("data-lm-suppress-shortcuts", !saves(event));
  }
}

// ------------------------------------------------------------------------------------------- what can lie on a picture
// handles(value, look): what can be grabbed and focused, each {at, name, side, square, text}
// lines(value, look):   what is drawn below them, each {from, to, side, arrow}
// add(value, at, tool): [new value, index of the handle that the same gesture goes on dragging]; absent: nothing to add
// move(value, i, at), remove(value, i): a new value.   finish(value): put in order at the end of a gesture, null to undo it

const KINDS = {
  points: {
    noun: "point",
    help: "Click to add a point, drag to move it.",
    handles: (value) => value.map((at, i) => ({ at, name: `point ${i + 1}`, side: "left", text: i + 1 })),
    lines: () => [],
    add: (value, at) => [[...value, at], value.length],
    move: replaced,
    remove: without,
  },

  arrows: {
    noun: "arrow",
    help: "Press on the thing to move and drag to where it shall go: from the circle to the square.",
    handles: (value) => value.flatMap(([from, to], i) => [
      { at: from, name: `handle ${i + 1}`, side: "left", text: i + 1 },
      { at: to, name: `target ${i + 1}`, side: "right", text: i + 1, square: true }]),
    lines: (value) => value.map(([from, to]) => ({ from, to, side: "right", arrow: true })),
    add: (value, at) => [[...value, [at, at]], 2 * value.length + 1],
    move: (value, i, at) => replaced(value, i >> 1, replaced(value[i >> 1], i % 2, at)),
    remove: (value, i) => without(value, i >> 1),
  },

  skeleton: {
    noun: "joint",
    help: "Drag a joint. Blue circles are the puppet's left, orange squares its right.",
    handles: (value, look) => value.map((at, i) => {
      const side = /^(left|right)/.exec(look.joints[i])?.[0] ?? "middle";
      return { at, name: look.joints[i].replace("_", " "), side, square: side === "right" };
    }),
    lines: (value, look) => look.limbs.map(([a, b]) => ({ from: value[a], to: value[b],
      side: /^(left|right)/.exec(look.joints[b])?.[0] ?? "middle" })),
    move: replaced,
  },

  box: {
    noun: "box",
    help: "Drag across the picture to draw the box, drag a corner or its centre to change it.",
    handles: (box) => box.length === 0 ? [] :
      [[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]], middle(box)].map((at, i) => ({
        at, side: i < 4 ? "right" : "left", square: i < 4,
        name: ["top left", "top right", "bottom right", "bottom left", "centre"][i] + " of the box" })),
    lines: (box) => box.length === 0 ? [] : [0, 1, 2, 3].map((i) => {
      const corners = [[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]]];
      return { from: corners[i], to: corners[(i + 1) % 4], side: "right" };
    }),
    add: (box, at) => [[...at, ...at], 2],
    move: ([x0, y0, x1, y1], i, [x, y], [width, height]) => {
      if (i < 4) return [[x, y, x1, y1], [x0, y, x, y1], [x0, y0, x, y], [x, y0, x1, y]][i];
      const centre = middle([x0, y0, x1, y1]);
      const dx = Math.min(Math.max(x - centre[0], -Math.min(x0, x1)), width - Math.max(x0, x1));
      const dy = Math.min(Math.max(y - centre[1], -Math.min(y0, y1)), height - Math.max(y0, y1));
      return [x0 + dx, y0 + dy, x1 + dx, y1 + dy];
    },
    remove: () => [],
    finish: ([x0, y0, x1, y1]) => x0 === undefined ? [] : Math.abs(x1 - x0) < 1 || Math.abs(y1 - y0) < 1 ? null :
      [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)].map((v) => Math.round(v * 10) / 10),
  },

  strokes: {
    noun: "stroke",
    help: "Draw with the mouse or a finger. Shade 1 is near (or an edge), 0 is far.",
    handles: () => [],
    lines: () => [],
    add: (value, at, tool) => [[...value, { points: [at], ...tool }], value.length],
    move: (value, i, at) => distance(value[i].points.at(-1), at) < 0.5 ? value :
      replaced(value, i, { ...value[i], points: [...value[i].points, at] }),
    remove: (value) => value.slice(0, -1),
  },
};

// ------------------------------------------------------------------------------------------------------------ the page

function build(el, look, kind) {
  const root = document.createElement("div");
  root.className = "rg-picture";
  root.innerHTML = `<style>${CSS}</style>
    <svg tabindex="0" role="application"><image preserveAspectRatio="none" x="0" y="0" style="image-rendering: pixelated"
    /><g class="drawn" style="pointer-events: none"></g><g class="handles"></g>
    <path class="cross" fill="none" stroke="#000" style="pointer-events: none; display: none"/></svg>
    <div class="rg-tools" role="toolbar" aria-label="tools"></div><p class="held" aria-live="polite"></p><p class="help"></p><p class="status" role="status"></p>`;
  const keys = kind === KINDS.skeleton ? "Tab to a joint, arrows move it (Shift: 10 pixels)." :
    kind === KINDS.strokes ? "arrows move a cross, Enter puts the pen down and lifts it, Delete removes the last stroke." :
    "Tab to a handle, arrows move it (Shift: 10 pixels), Delete removes it; on the picture arrows move a cross and Enter adds.";
  const help = root.querySelector(".help");
  help.textContent = `${kind.help} Keys: ${keys} Ctrl+Z undoes.`;
  root.querySelector("svg").setAttribute("aria-description", help.textContent);
  el.append(root);
  return root;
}

function addButton(tools, text, name, action) {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", textContent: text, onclick: action });
  button.setAttribute("aria-label", name);
  tools.append(button);
  return button;
}

function addSlider(tools, name, tool, min, max, step) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "range", min, max, step, value: tool[name] });
  const shown = Object.assign(document.createElement("output"), { value: tool[name] });
  input.setAttribute("aria-label", name);
  input.oninput = () => { tool[name] = Number(input.value); shown.value = tool[name]; };
  label.append(name, input, shown);
  tools.append(label);
}

// ---------------------------------------------------------------------------------------------------------- the editor

function render({ model, el }) {
  const kind = KINDS[model.get("_kind")], look = model.get("_look"), tool = { ...look.tool };
  const root = build(el, look, kind), svg = root.querySelector("svg");
  const [image, drawn, handles, cross] = ["image", ".drawn", ".handles", ".cross"].map((name) => svg.querySelector(name));
  const status = root.querySelector(".status"), tools = root.querySelector(".rg-tools");
  let value = model.get("value"), grabs = model.get("grabs");          // what Python has; only arrows have `grabs`
  let draft = null;                      // what a gesture is making of it, until it ends
  let grabbed = null;                    // index of the handle that the gesture moves
  let pointer = null, offset = [0, 0];   // the pointer that drags, and where it holds the handle
  let movement = 0, telling = null;      // number of the last movement of a gesture; the pause before Python hears of the next
  let selected = null, cursor = [0, 0], past = [], future = [], size = [1, 1], address = null;

  const make = (parent, name, attributes) => {
    const node = document.createElementNS(svg.namespaceURI, name);
    for (const [key, setting] of Object.entries(attributes)) node.setAttribute(key, setting);
    parent.append(node);
    return node;
  };
  const now = () => draft ?? value;
  const list = () => kind.handles(now(), look);
  const unit = () => 1 / (svg.getScreenCTM()?.a || size[0] && svg.clientWidth / size[0] || 3);   // picture pixels in 1 CSS pixel
  const edge = kind === KINDS.box ? 0 : 0.1;                       // a box may end at the border, a point lies before it
  const inside = (at) => at.map((v, axis) => Math.round(Math.min(Math.max(v, 0), size[axis] - edge) * 10) / 10);
  const told = (at) => at.map((v) => Math.round(v)).join(", ");
  const say = (text) => { status.textContent = text; };
  const where = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return [at.x, at.y];
  };

  // -- drawing

  function drawLine(line, u) {
    const [x0, y0] = line.from, [x1, y1] = line.to, colour = look.colours[line.side];
    let d = `M${x0} ${y0}L${x1} ${y1}`;
    if (line.arrow && distance(line.from, line.to) > 14 * u) {
      const angle = Math.atan2(y1 - y0, x1 - x0);
      const along = (turn, far) => [far * u * Math.cos(angle + turn), far * u * Math.sin(angle + turn)];
      const [back, up] = along(Math.PI, 11);                         // the tip touches the target's square
      for (const turn of [2.6, -2.6]) d += `M${x1 + back} ${y1 + up}l${along(turn, 11).join(" ")}`;
    }
    for (const [stroke, width] of [["#fff", 7], [colour, 4]])
      make(drawn, "path", { d, stroke, fill: "none", "stroke-width": `${width}px`, "stroke-linecap": "round" });
  }

  // What the arrows take hold of, as Python says: points that move (dots), where they will be (ghosts), points that stay (crosses).
  function drawHeld(u) {
    for (const [[x, y], [tx, ty]] of model.get("held")?.points ?? []) {
      if (distance([x, y], [tx, ty]) < 0.5) {
        const d = `M${x - 5 * u} ${y - 5 * u}l${10 * u} ${10 * u}m${-10 * u} 0l${10 * u} ${-10 * u}`;
        for (const [stroke, width] of [["#fff", 5], ["#000", 2]]) make(drawn, "path", { d, stroke, "stroke-width": `${width}px`, class: "stays" });
        continue;
      }
      make(drawn, "path", { d: `M${x} ${y}L${tx} ${ty}`, stroke: "#fff", "stroke-width": "1.5px", "stroke-dasharray": "2 3" });
      make(drawn, "circle", { cx: x, cy: y, r: 3 * u, fill: look.colours.left, stroke: "#fff", "stroke-width": "1px", class: "holds" });
      make(drawn, "rect", { x: tx - 4 * u, y: ty - 4 * u, width: 8 * u, height: 8 * u, fill: "#fff", "fill-opacity": 0.35,
        stroke: look.colours.right, "stroke-width": "1.5px", class: "ghost" });
    }
  }

  function drawStroke({ points, width, shade }) {
    const [x, y] = points[0], grey = `rgb(${Array(3).fill(Math.round(shade * 255))})`;
    const d = `M${x} ${y}` + points.map((at) => `L${at.join(" ")}`).join("");
    const style = "vector-effect: none", ends = { d, fill: "none", "stroke-linecap": "round", "stroke-linejoin": "round", style };
    make(drawn, "path", { ...ends, stroke: shade > 0.5 ? "#000" : "#fff", "stroke-width": width + 2 * unit() });
    make(drawn, "path", { ...ends, stroke: grey, "stroke-width": width });
  }

  function drawHandle(group, handle, i, u) {
    const [x, y] = handle.at, r = (handle.text ? 9 : 6.5) * u, box = { x: x - r, y: y - r, width: 2 * r, height: 2 * r };
    group.setAttribute("aria-label", `${handle.name}, x ${Math.round(x)}, y ${Math.round(y)}`);
    group.classList.toggle("selected", i === selected);
    const [hit, halo, ring, shape, text, title] = group.children;
    const around = (node, radius) => { node.setAttribute("cx", x); node.setAttribute("cy", y); node.setAttribute("r", radius); };
    around(hit, 12 * u), around(halo, r + 4 * u), around(ring, r + 4 * u);
    if (handle.square) for (const [key, setting] of Object.entries(box)) shape.setAttribute(key, setting);
    else around(shape, r);
    Object.entries({ x, y, "font-size": 11 * u }).forEach(([key, setting]) => text.setAttribute(key, setting));
    text.textContent = handle.text ?? "";
    title.textContent = handle.name;
  }

  function makeHandle(handle) {
    const group = make(handles, "g", { class: "rg-handle", tabindex: 0, role: "button" });
    group.setAttribute("aria-roledescription", `draggable ${kind.noun}`);
    make(group, "circle", { fill: "transparent", class: "hit" });                       // 24 CSS pixels to hit
    make(group, "circle", { class: "halo" }), make(group, "circle", { class: "ring" });
    make(group, handle.square ? "rect" : "circle", { fill: look.colours[handle.side], stroke: "#fff", "stroke-width": "1.5px" });
    make(group, "text", { fill: handle.side === "right" ? "#000" : "#fff" }), make(group, "title", {});
    return group;
  }

  function draw() {
    const u = unit(), all = list(), [x, y] = cursor, focused = document.activeElement, ours = root.contains(focused);
    drawn.replaceChildren();
    if (kind === KINDS.strokes) now().forEach(drawStroke);
    if (kind === KINDS.arrows && draft === null) drawHeld(u);
    kind.lines(now(), look).forEach((line) => drawLine(line, u));
    while (handles.children.length > all.length) handles.lastChild.remove();
    all.forEach((handle, i) => drawHandle(handles.children[i] ?? makeHandle(handle), handle, i, u));
    cross.setAttribute("d", `M${x - 9 * u} ${y}h${18 * u}M${x} ${y - 9 * u}v${18 * u}`);
    cross.setAttribute("stroke", draft && pointer === null ? look.colours.right : "#000");
    cross.style.cssText += `stroke-width: 2px; filter: drop-shadow(0 0 ${u}px #fff) drop-shadow(0 0 ${u}px #fff)`;
    undoButton.disabled = past.length === 0, redoButton.disabled = future.length === 0;
    if (removeButton) removeButton.disabled = kind === KINDS.strokes ? now().length === 0 : !all[selected];
    if (clearButton) clearButton.disabled = now().length === 0;
    const begun = model.get("_begun");
    startButton.hidden = !begun?.value?.length;
    startButton.disabled = same([now(), grabs], [begun?.value, begun?.grabs]);
    if (apartButton) {
      const able = model.get("_can_grab");
      apartButton.hidden = grabButton.hidden = !able;
      apartButton.disabled = !(model.get("held")?.points ?? []).length;
      grabButton.setAttribute("aria-pressed", grabs);
      grabButton.textContent = grabs ? "✓ Grabs limbs" : "Grabs points only";
      root.querySelector(".held").textContent = able && draft === null ? model.get("held")?.words ?? "" : "";
    }
    if (ours && (focused.disabled || !root.contains(focused))) focus(null);                 // else keys, such as Ctrl+Z, are lost
  }

  // -- gestures: begin, drag, end; every way of changing something ends in `commit`

  function begin(i, at, held = [0, 0]) {
    draft = copy(value), grabbed = i, offset = held;
    if (i === null) [draft, grabbed] = kind.add(draft, inside(at), tool);
    selected = grabbed;
    draw();
  }

  function drag(at) {
    draft = kind.move(draft, grabbed, inside([at[0] - offset[0], at[1] - offset[1]]), size);
    draw();
    if (model.get("_live")) tell();
  }

  function tell() {                                                   // Python of a gesture that goes on, at most every 60 ms
    next();
    if (telling !== null) return;
    tellNow(draft);
    telling = setTimeout(() => { telling = null; if (draft !== null && movement !== model.get("_moving")[1]) tellNow(draft); }, 60);
  }

  function next() {                                                   // later than what was released, here or in another tab
    root.dataset.movement = movement = Math.max(movement, model.get("_edited")[2] ?? 0) + 1;
  }

  function tellNow(made) {
    model.set("_moving", [model.get("_picture_id"), movement, copy(made)]);
    model.save_changes();
  }

  function end(keep = true) {
    const made = draft;
    draft = grabbed = pointer = null;
    const finished = keep && made !== null && kind.finish ? kind.finish(made) : made;
    if (keep && finished !== null && !same(finished, value)) commit(finished);
    else if (made !== null && model.get("_live") && !same(made, value)) tellBack();
    draw();
  }

  function callOff(text) {                                            // what a gesture is making, and that alone; was there any?
    const made = draft;
    end(false);
    if (made !== null) say(text);
    return made !== null;
  }

  function tellBack() {                                               // a gesture that is called off leads back to the value
    next();
    tellNow(value);
  }

  function commit(made, text, grabbing = made.length ? grabs : model.get("_begun")?.grabs) {       // where nothing is left, as at first
    if (same([made, grabbing], [value, grabs])) return;
    past.push([value, grabs]), future = [];
    send([made, grabbing], text);
  }

  function send(made, text) {
    [value, grabs] = made;
    if (!list()[selected]) selected = null;
    model.set("value", copy(value));
    if (kind === KINDS.arrows) model.set("grabs", grabs);
    model.set("_edited", [model.get("_picture_id"), (model.get("_edited")[1] ?? 0) + 1, movement]);
    model.save_changes();
    const handle = list()[selected];
    say(text ?? (handle ? `${handle.name} at ${told(handle.at)}` : `${value.length} ${kind.noun}${value.length === 1 ? "" : "s"}`));
    draw();
  }

  function travel(from, to, text) {
    if (draft !== null) end(false);
    if (from.length === 0) return;
    to.push([value, grabs]);
    send(from.pop(), text);
  }
  const undo = () => callOff("undone") || travel(past, future, "undone"), redo = () => travel(future, past, "done again");
  const focus = (i) => (i === null ? svg : handles.children[i] ?? svg).focus({ preventScroll: true });

  function remove() {
    if (!kind.remove || (kind !== KINDS.strokes && !list()[selected])) return;
    if (kind === KINDS.strokes && callOff("stroke removed")) return;
    const name = list()[selected]?.name ?? kind.noun, held = root.contains(document.activeElement);
    end(false);
    commit(kind.remove(value, selected), `${name} removed`);
    selected = null;
    draw();
    if (held) focus(null);
  }

  // -- pointer: the nearest handle within reach is grabbed (a finger reaches further), else something is added

  function nearest(at, reach) {
    const found = list().map((handle, i) => [distance(handle.at, at), i]).filter(([far]) => far <= reach);
    return found.reduce((best, next) => (next[0] <= best[0] ? next : best), [Infinity, null])[1];
  }

  svg.onpointerdown = (event) => {
    if (pointer !== null || event.button !== 0) return;
    event.preventDefault();
    if (draft !== null) end();                                       // a key was still held
    const at = where(event), i = nearest(at, (event.pointerType === "mouse" ? 12 : 22) * unit());
    if (i === null && !kind.add) return;
    svg.setPointerCapture(event.pointerId);
    pointer = event.pointerId;
    begin(i, at, i === null ? [0, 0] : [at[0] - list()[i].at[0], at[1] - list()[i].at[1]]);
    focus(selected);
  };
  svg.onpointermove = (event) => { if (event.pointerId === pointer) drag(where(event)); };
  svg.onpointerup = (event) => { if (event.pointerId === pointer) end(); };
  svg.onpointercancel = (event) => { if (event.pointerId === pointer) end(false); };

  // -- keys: on a handle arrows move it, on the picture they move a cross; what a held key changes is sent on release

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function moveByKey([dx, dy], step, i) {
    if (i < 0) {
      cursor = inside([cursor[0] + dx * step, cursor[1] + dy * step]);
      if (draft !== null) drag(cursor);
      say(`cross at ${told(cursor)}${draft === null ? "" : ", pen down"}`);
      return draw();
    }
    if (grabbed !== i) end(), begin(i, list()[i].at);
    const [x, y] = list()[i].at;
    drag([x + dx * step, y + dy * step]);
  }

  function addByKey() {
    if (kind === KINDS.strokes && draft !== null) return end();      // lift the pen
    begin(null, cursor);
    if (kind === KINDS.strokes) return say("pen down: arrows draw, Enter lifts it");
    const [across, down] = cursor.map((v, axis) => (v + size[axis] / 8 < size[axis] ? 1 : -1) * size[axis] / 8);     // where there is room
    drag([cursor[0] + (kind === KINDS.points ? 0 : across), cursor[1] + (kind === KINDS.box ? down : 0)]);
    end();
    focus(selected);
  }

  root.onkeydown = (event) => {
    const onPicture = event.target === svg || handles.contains(event.target), command = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    let used = true;
    if (pointer !== null && key !== "escape") return;
    if (command && key === "z") event.shiftKey ? redo() : undo();
    else if (command && key === "y") redo();
    else if (!onPicture || command || event.altKey) used = false;
    else if (event.key in ARROWS) {
      moveByKey(ARROWS[event.key], event.shiftKey ? 10 : 1, [...handles.children].indexOf(event.target));
    }
    else if (key === "delete" || key === "backspace") remove();
    else if ((key === "enter" || key === " ") && !event.shiftKey && kind.add && event.target === svg) addByKey();
    else if (key === "escape") callOff("called off");
    else used = false;
    if (used) event.preventDefault();
    if (key !== "tab" && !saves(event)) event.stopPropagation();
  };
  const release = () => { if (pointer === null && draft !== null && list().length) end(); };
  root.onkeyup = (event) => { if (event.key in ARROWS) release(); };
  root.addEventListener("focusout", release);
  svg.addEventListener("focusin", (event) => {                          // on the group it would make of that a stop of Tab's, too
    if (!handles.contains(event.target)) return;
    selected = [...handles.children].indexOf(event.target);
    draw();
  });
  svg.onfocus = () => { cross.style.display = kind.add && svg.matches(":focus-visible") ? "" : "none"; };
  svg.onblur = () => { cross.style.display = "none"; if (pointer === null && draft !== null) end(); };

  // -- tools

  const undoButton = addButton(tools, "↶ Undo", "undo", undo), redoButton = addButton(tools, "↷ Redo", "redo", redo);
  const clear = () => { end(false); commit([], "cleared"); };
  const which = kind === KINDS.strokes ? "last" : "selected";
  const removeButton = kind.remove && addButton(tools, "✕ Delete", `delete the ${which} ${kind.noun}`, remove);
  const clearButton = kind.remove && addButton(tools, "Clear", `remove every ${kind.noun}`, clear);
  const startButton = addButton(tools, "Start again", "bring back what was there at first", () => {
    end(false);
    const begun = copy(model.get("_begun"));
    commit(begun.value, "as at first", begun.grabs);
  });
  // Taking apart makes an arrow of every point that is held, to be moved, freed or held by hand.
  function takeApart() {
    const points = (model.get("held")?.points ?? []).map((pair) => pair.map(inside));
    if (points.length === 0) return;
    end(false);
    commit(points, "taken apart: every point is an arrow of its own, one without a length stays", false);
  }
  const grabButton = kind === KINDS.arrows && addButton(tools, "Grabs limbs", "arrows take hold of whole limbs", () => {
    end(false);
    commit(value, grabs ? "arrows move their own points alone" : "arrows take hold of whole limbs", !grabs);
  });
  const apartButton = kind === KINDS.arrows && addButton(tools, "Take apart", "make an arrow of every point that is held", takeApart);
  if (kind === KINDS.strokes) addSlider(tools, "width", tool, 1, 24, 1), addSlider(tools, "shade", tool, 0, 1, 0.05);

  // -- what Python sets

  function showPicture() {
    size = model.get("_size"), value = model.get("value"), grabs = model.get("grabs"), cursor = inside([size[0] / 2, size[1] / 2]);
    past = [], future = [], draft = grabbed = pointer = selected = null;
    say("");
    svg.setAttribute("viewBox", `0 0 ${size[0]} ${size[1]}`);
    svg.setAttribute("width", Math.min(Math.max(3 * size[0], 256), 512));
    for (const [key, length] of [["width", size[0]], ["height", size[1]]]) image.setAttribute(key, length);
    const old = address, png = model.get("_png");
    address = png?.byteLength ? URL.createObjectURL(new Blob([png], { type: "image/png" })) : null;
    address ? image.setAttribute("href", address) : image.removeAttribute("href");
    if (old) URL.revokeObjectURL(old);
    draw();
  }

  function showMade() {
    say("");                                                          // it spoke of what was there before
    past.push([value, grabs]), future = [], draft = grabbed = pointer = null;
    value = model.get("value"), grabs = model.get("grabs");
    if (!list()[selected]) selected = null;
    draw();
  }
  const showValue = () => { if (!same(model.get("value"), value)) showMade(); };
  const showGrabs = () => { if (model.get("grabs") !== grabs) showMade(); };
  const showLabel = () => svg.setAttribute("aria-label", model.get("label"));

  const watched = { "change:_picture_id": showPicture, "change:value": showValue, "change:label": showLabel,
    "change:grabs": showGrabs, "change:_begun": draw };
  if (kind === KINDS.arrows) for (const name of ["held", "_can_grab"]) watched[`change:${name}`] = draw;
  for (const [name, action] of Object.entries(watched)) model.on(name, action);
  const resized = new ResizeObserver(draw);
  resized.observe(svg);
  const keep = (event) => keepKey(event);                              // its own, since other views of this picture end theirs
  window.addEventListener("keydown", keep, true);
  showLabel();
  showPicture();
  return () => {
    for (const [name, action] of Object.entries(watched)) model.off(name, action);
    resized.disconnect();
    window.removeEventListener("keydown", keep, true);
    if (address) URL.revokeObjectURL(address);
  };
}

export default { render };
