// One plane: a slice with its labels, the crosshair, what is being drawn, and the mouse or fingers on it.

import { greyTable } from "./volume.js";

const NEAR_PIXELS = 8; // so far a click may move

// Gives a canvas as many pixels as it takes up on the screen.
export function fitted(canvas, ratio) {
  const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  return [width, height];
}

export class SliceView {
  // state: { volume, window, tool, foreground, colour(id), visible(id), active }
  // on: { cursor(), prompt(body), window() }
  constructor(figure, name, state, on) {
    Object.assign(this, { name, state, on, zoom: 1, pan: [0, 0], drawing: null, pointers: new Map() });
    this.canvas = figure.querySelector("canvas");
    this.slider = figure.querySelector("input");
    this.buffer = document.createElement("canvas");
    this.slider.oninput = () => this.scrollTo(+this.slider.value);
    const c = this.canvas;
    c.addEventListener("wheel", (e) => this.wheel(e), { passive: false });
    c.addEventListener("pointerdown", (e) => this.down(e));
    c.addEventListener("pointermove", (e) => this.move(e));
    c.addEventListener("pointerup", (e) => this.up(e));
    c.addEventListener("pointercancel", (e) => { this.pointers.delete(e.pointerId); this.drawing = null; this.draw(); });
    c.addEventListener("contextmenu", (e) => e.preventDefault());
    c.addEventListener("dblclick", () => this.fit());
    new ResizeObserver(() => this.draw()).observe(c);
  }

  get plane() { return this.state.volume.planes[this.name]; }

  fit() {
    this.zoom = 1;
    this.pan = [0, 0];
    if (this.state.volume) this.draw();
  }

  scrollTo(index) {
    const { volume } = this.state, axis = this.plane.through;
    volume.cursor[axis] = Math.max(0, Math.min(volume.shape[axis] - 1, index));
    this.on.cursor();
  }

  scroll(by) { this.scrollTo(this.state.volume.cursor[this.plane.through] + by); }

  // Where the slice lies on the canvas, in device pixels; pixels are square in millimetres.
  frame() {
    const { volume } = this.state, { down, right } = this.plane;
    const height = volume.shape[down.axis] * volume.spacing[down.axis], width = volume.shape[right.axis] * volume.spacing[right.axis];
    const scale = this.zoom * Math.min(this.canvas.width / width, this.canvas.height / height);
    return {
      scale, width: width * scale, height: height * scale,
      x: (this.canvas.width - width * scale) / 2 + this.pan[0], y: (this.canvas.height - height * scale) / 2 + this.pan[1],
    };
  }

  // The voxel (z,y,x) under a place on the canvas, whether it is in the volume or not.
  voxelAt([x, y]) {
    const { volume } = this.state, { through, down, right } = this.plane, f = this.frame(), voxel = [0, 0, 0];
    const along = ({ axis, flip }, pixels) => {
      const i = Math.floor(pixels / f.scale / volume.spacing[axis]);
      return flip ? volume.shape[axis] - 1 - i : i;
    };
    voxel[through] = volume.cursor[through];
    voxel[down.axis] = along(down, y - f.y);
    voxel[right.axis] = along(right, x - f.x);
    return voxel;
  }

  inside(voxel) { return voxel.every((v, i) => v >= 0 && v < this.state.volume.shape[i]); }

  clamped(voxel) { return voxel.map((v, i) => Math.max(0, Math.min(this.state.volume.shape[i] - 1, v))); }

  // The middle of a voxel on the canvas.
  pixelOf(voxel) {
    const { volume } = this.state, { down, right } = this.plane, f = this.frame();
    const along = ({ axis, flip }) => ((flip ? volume.shape[axis] - 1 - voxel[axis] : voxel[axis]) + 0.5) * volume.spacing[axis] * f.scale;
    return [f.x + along(right), f.y + along(down)];
  }

  draw() {
    const { canvas, state } = this, ratio = window.devicePixelRatio || 1;
    const [width, height] = fitted(canvas, ratio);
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, width, height);
    if (!state.volume || !width || !height) return;
    this.paintSlice();
    const f = this.frame();
    pen.imageSmoothingEnabled = false;
    pen.drawImage(this.buffer, f.x, f.y, f.width, f.height);
    this.paintMarks(pen, f, ratio);
    const { through } = this.plane;
    this.slider.max = state.volume.shape[through] - 1;
    this.slider.value = state.volume.cursor[through];
  }

  paintSlice() {
    const { volume, window: shown } = this.state, { through, down, right } = this.plane;
    const rows = volume.shape[down.axis], columns = volume.shape[right.axis], { voxels, labels, strides } = volume;
    if (this.greyOf !== volume || this.greyWindow !== `${shown}`) {
      this.grey = greyTable(volume, shown);
      [this.greyOf, this.greyWindow] = [volume, `${shown}`];
    }
    if (this.buffer.width !== columns || this.buffer.height !== rows || !this.pixels) {
      Object.assign(this.buffer, { width: columns, height: rows });
      this.pixels = new ImageData(columns, rows);
    }
    const out = new Uint32Array(this.pixels.data.buffer), { table, first } = this.grey;
    const colours = Array.from({ length: 256 }, (_, id) => (id && this.state.visible(id) ? this.state.colour(id) : null));
    const stepDown = strides[down.axis] * (down.flip ? -1 : 1), stepRight = strides[right.axis] * (right.flip ? -1 : 1);
    let start = volume.cursor[through] * strides[through];
    if (down.flip) start += (rows - 1) * strides[down.axis];
    if (right.flip) start += (columns - 1) * strides[right.axis];
    for (let row = 0, to = 0; row < rows; row++, start += stepDown) {
      for (let column = 0, at = start; column < columns; column++, at += stepRight, to++) {
        const grey = table[voxels[at] - first], id = labels[at], colour = id ? colours[id] : null;
        if (colour === null) {
          out[to] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
          continue;
        }
        const edge = (column > 0 && labels[at - stepRight] !== id) || (column + 1 < columns && labels[at + stepRight] !== id)
          || (row > 0 && labels[at - stepDown] !== id) || (row + 1 < rows && labels[at + stepDown] !== id);
        const share = edge ? 0.9 : 0.35, rest = (1 - share) * grey;
        out[to] = 0xff000000 | ((colour[2] * share + rest) << 16) | ((colour[1] * share + rest) << 8) | (colour[0] * share + rest);
      }
    }
    this.buffer.getContext("2d").putImageData(this.pixels, 0, 0);
  }

  paintMarks(pen, f, ratio) {
    const { volume } = this.state, [x, y] = this.pixelOf(volume.cursor), gap = 9 * ratio, { letters, through } = this.plane;
    pen.strokeStyle = "rgba(120,190,255,.75)";
    pen.lineWidth = ratio;
    pen.beginPath();
    for (const [a, b, c, d] of [[x, 0, x, y - gap], [x, y + gap, x, this.canvas.height], [0, y, x - gap, y], [x + gap, y, this.canvas.width, y]]) {
      pen.moveTo(a, b);
      pen.lineTo(c, d);
    }
    pen.stroke();
    for (const click of this.state.clicks) {
      if (click.voxel[through] !== volume.cursor[through] || click.object !== this.state.active) continue;
      const [cx, cy] = this.pixelOf(click.voxel);
      pen.fillStyle = click.foreground ? "#3ce65a" : "#ff4646";
      pen.strokeStyle = "#000";
      pen.beginPath();
      pen.arc(cx, cy, 4 * ratio, 0, 7);
      pen.fill();
      pen.stroke();
    }
    if (this.drawing) {
      pen.strokeStyle = this.drawing.foreground ? "#3ce65a" : "#ff4646";
      pen.lineWidth = 2 * ratio;
      const { kind, places } = this.drawing, [a, b] = [places[0], places.at(-1)];
      pen.beginPath();
      if (kind === "box") pen.rect(a[0], a[1], b[0] - a[0], b[1] - a[1]);
      else places.forEach((p) => pen.lineTo(...p));
      if (kind === "lasso") pen.closePath();
      pen.stroke();
    }
    pen.font = `${13 * ratio}px system-ui, sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    const [w, h, m] = [this.canvas.width, this.canvas.height, 11 * ratio];
    const text = (letter, px, py) => {
      pen.lineWidth = 3 * ratio;
      pen.strokeStyle = "#000";
      pen.strokeText(letter, px, py);
      pen.fillStyle = "#ffd76a";
      pen.fillText(letter, px, py);
    };
    text(letters.left, m, h / 2);
    text(letters.right, w - m, h / 2);
    text(letters.top, w / 2, m);
    text(letters.bottom, w / 2, h - 3 * m);
    pen.textAlign = "left";
    text(`${this.name} ${volume.cursor[through] + 1}/${volume.shape[through]}`, 6 * ratio, m);
  }

  at(e) {
    const ratio = this.canvas.width / this.canvas.clientWidth;
    return [e.offsetX * ratio, e.offsetY * ratio];
  }

  zoomAt([x, y], factor) {
    const before = this.frame(), wanted = Math.max(0.5, Math.min(40, this.zoom * factor));
    const grown = wanted / this.zoom;
    this.zoom = wanted;
    const after = this.frame();
    this.pan[0] += x - (x - before.x) * grown - after.x;
    this.pan[1] += y - (y - before.y) * grown - after.y;
    this.draw();
  }

  wheel(e) {
    e.preventDefault();
    if (!this.state.volume) return;
    if (e.ctrlKey || e.metaKey) this.zoomAt(this.at(e), Math.exp(-Math.sign(e.deltaY) * 0.18));
    else this.scroll(Math.sign(e.deltaY));
  }

  down(e) {
    if (!this.state.volume) return;
    e.preventDefault();
    this.canvas.focus();
    this.canvas.setPointerCapture(e.pointerId);
    const place = this.at(e);
    this.pointers.set(e.pointerId, place);
    if (this.pointers.size > 1) { // two fingers zoom and pan
      this.drawing = this.drag = null;
      return;
    }
    const { tool } = this.state;
    if (e.button === 1 || (e.button === 0 && e.altKey)) this.drag = "pan";
    else if (e.button === 2) this.drag = "window";
    else if (["box", "scribble", "lasso"].includes(tool)) this.drawing = { kind: tool, foreground: this.state.foreground !== e.shiftKey, places: [place] };
    else this.drag = "click";
    this.start = place;
  }

  move(e) {
    if (!this.state.volume || !this.pointers.has(e.pointerId)) return;
    const place = this.at(e), before = this.pointers.get(e.pointerId);
    if (this.pointers.size === 2) {
      const [other] = [...this.pointers].filter(([id]) => id !== e.pointerId).map(([, p]) => p);
      const apart = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]) || 1;
      this.pan = [this.pan[0] + (place[0] - before[0]) / 2, this.pan[1] + (place[1] - before[1]) / 2];
      this.pointers.set(e.pointerId, place);
      this.zoomAt([(place[0] + other[0]) / 2, (place[1] + other[1]) / 2], apart(place, other) / apart(before, other));
      return;
    }
    this.pointers.set(e.pointerId, place);
    if (this.drawing) {
      this.drawing.places.push(place);
      this.draw();
    } else if (this.drag === "pan") {
      this.pan = [this.pan[0] + place[0] - before[0], this.pan[1] + place[1] - before[1]];
      this.draw();
    } else if (this.drag === "window") {
      const [low, high] = this.state.window, level = (low + high) / 2, width = high - low, step = Math.max(width, 1) / 300;
      const wider = Math.max(width + (place[0] - before[0]) * step, 1e-6 + Math.abs(level) * 1e-6), moved = level + (place[1] - before[1]) * step;
      this.state.window = [moved - wider / 2, moved + wider / 2];
      this.on.window();
    } else if (this.drag === "click" && this.state.tool === "move") this.look(place);
  }

  up(e) {
    if (!this.pointers.delete(e.pointerId) || !this.state.volume) return;
    const place = this.at(e), { drawing, drag } = this;
    this.drawing = this.drag = null;
    if (drawing) {
      this.finish(drawing, place);
      this.draw();
    } else if (drag === "click") {
      const near = Math.hypot(place[0] - this.start[0], place[1] - this.start[1]) < NEAR_PIXELS * (window.devicePixelRatio || 1);
      const voxel = this.look(place);
      if (voxel && near && this.state.tool === "point") this.on.prompt({ kind: "point", voxel, foreground: this.state.foreground !== e.shiftKey });
    }
  }

  look(place) {
    const voxel = this.voxelAt(place);
    if (!this.inside(voxel)) return null;
    this.state.volume.cursor = [...voxel];
    this.on.cursor();
    return voxel;
  }

  finish({ kind, foreground, places }, last) {
    places.push(last);
    const voxels = places.map((p) => this.clamped(this.voxelAt(p)));
    if (kind === "box") {
      const [a, b] = [voxels[0], voxels.at(-1)];
      this.on.prompt({ kind, foreground, low: a.map((v, i) => Math.min(v, b[i])), high: a.map((v, i) => Math.max(v, b[i])) });
      return;
    }
    const path = voxels.filter((v, i) => i === 0 || `${v}` !== `${voxels[i - 1]}`);
    const step = Math.ceil(path.length / 3000);
    this.on.prompt({ kind, foreground, path: path.filter((_, i) => i % step === 0) });
  }
}
