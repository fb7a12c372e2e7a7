// The objects in 3D: rays through a texture of the labels, where there are any. Only the box that changed is sent to the
// graphics card. Without one the processor draws, which the network needs, too: so no ray looks further than it must.

import { fitted } from "./slices.js";

const MOST = 256; // side of the texture; finer volumes are shown at every second, third, ... voxel

const VERTEX = `#version 300 es
out vec2 place;
void main() { place = vec2(gl_VertexID == 1 ? 3 : -1, gl_VertexID == 2 ? 3 : -1); gl_Position = vec4(place, 0, 1); }`;

const FRAGMENT = `#version 300 es
precision highp float;
precision highp sampler3D;
in vec2 place;
out vec4 colour;
uniform sampler3D solid, ids;
uniform sampler2D colours;
uniform mat3 turn;    // from view to array axes (x, y, z), lengths in mm
uniform vec3 size;    // of the volume, mm over half its diagonal
uniform vec3 from, to; // corners of the box around all labels, as shares of the volume
uniform float aspect, zoom;
float inside(vec3 p) { return texture(solid, p).r; }
vec2 reach(vec3 low, vec3 high, vec3 eye, vec3 ray) { // where a ray enters and leaves a box
  vec3 a = (low - eye) / ray, b = (high - eye) / ray, first = min(a, b), last = max(a, b);
  return vec2(max(max(first.x, first.y), first.z), min(min(last.x, last.y), last.z));
}
void main() {
  vec3 ray = turn * vec3(0, 0, 1), eye = turn * vec3(vec2(place.x * max(aspect, 1.), place.y * max(1. / aspect, 1.)) / zoom, -2.);
  ray += vec3(lessThan(abs(ray), vec3(1e-6))) * 1e-6;
  vec2 whole = reach(-size / 2., size / 2., eye, ray), ends = reach((from - .5) * size, (to - .5) * size, eye, ray);
  colour = vec4(whole.x < whole.y ? vec3(.075, .08, .095) : vec3(.04, .045, .055), 1);
  if (ends.x >= ends.y) return;
  vec3 grain = size / vec3(textureSize(ids, 0));
  float least = min(min(grain.x, grain.y), grain.z), steps = clamp(ceil((ends.y - ends.x) / (.7 * least)), 8., 300.), step = (ends.y - ends.x) / steps;
  for (float i = .5; i < steps; i++) { // counted: where a ray only grazes a corner, a step is too small to add
    float high = ends.x + i * step, low = high - step;
    vec3 p = (eye + ray * high) / size + .5;
    if (texture(ids, p).r == 0. || inside(p) < .5) continue; // an eighth of the cost of a mean of eight
    for (int j = 0; j < 5; j++) { float mid = (low + high) / 2.; if (inside((eye + ray * mid) / size + .5) < .5) low = mid; else high = mid; }
    p = (eye + ray * high) / size + .5;
    vec3 h = 1.5 / vec3(textureSize(solid, 0));
    vec3 n = vec3(inside(p + vec3(h.x, 0, 0)) - inside(p - vec3(h.x, 0, 0)), inside(p + vec3(0, h.y, 0)) - inside(p - vec3(0, h.y, 0)),
      inside(p + vec3(0, 0, h.z)) - inside(p - vec3(0, 0, h.z))) / (h * size);
    float light = .3 + .7 * abs(dot(normalize(n + 1e-6), ray));
    int id = 0; // at the border the nearest voxel may be outside: the next ones along the ray are not
    for (float k = 0.; k < 6. && id == 0; k++) id = int(texture(ids, (eye + ray * (high + .4 * k * least)) / size + .5).r * 255. + .5);
    colour = vec4(texelFetch(colours, ivec2(id, 0), 0).rgb * light, 1);
    return;
  }
}`;

export class Scene {
  constructor(figure, state) {
    Object.assign(this, { state, angles: [0.35, 0.2], zoom: 1.2, canvas: figure.querySelector("canvas") });
    const gl = (this.gl = this.canvas.getContext("webgl2", { antialias: false }));
    if (!gl) {
      figure.append("The 3D view needs WebGL 2.");
      return;
    }
    const shader = (kind, source) => {
      const made = gl.createShader(kind);
      gl.shaderSource(made, source);
      gl.compileShader(made);
      if (!gl.getShaderParameter(made, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(made));
      return made;
    };
    this.program = gl.createProgram();
    gl.attachShader(this.program, shader(gl.VERTEX_SHADER, VERTEX));
    gl.attachShader(this.program, shader(gl.FRAGMENT_SHADER, FRAGMENT));
    gl.linkProgram(this.program);
    gl.useProgram(this.program);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    this.uniform = (name) => gl.getUniformLocation(this.program, name);
    this.canvas.addEventListener("pointerdown", (e) => this.canvas.setPointerCapture(e.pointerId));
    this.canvas.addEventListener("pointermove", (e) => e.buttons && this.turn(e.movementX * 0.01, e.movementY * 0.01));
    this.canvas.addEventListener("wheel", (e) => {
      e.preventDefault();
      this.zoom = Math.max(0.5, Math.min(20, this.zoom * Math.exp(-Math.sign(e.deltaY) * 0.15)));
      this.draw();
    }, { passive: false });
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  turn(x, y) {
    this.angles = [this.angles[0] + x, Math.max(-1.57, Math.min(1.57, this.angles[1] + y))];
    this.draw();
  }

  setVolume(volume) {
    const { gl } = this;
    if (!gl) return;
    this.step = volume.shape.map((n) => Math.ceil(n / MOST));
    this.shape = volume.shape.map((n, i) => Math.ceil(n / this.step[i]));
    for (const texture of this.textures ?? []) gl.deleteTexture(texture);
    this.textures = ["solid", "ids"].map((name, unit) => {
      const texture = gl.createTexture();
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_3D, texture);
      gl.texStorage3D(gl.TEXTURE_3D, 1, gl.R8, this.shape[2], this.shape[1], this.shape[0]);
      const filter = name === "solid" ? gl.LINEAR : gl.NEAREST;
      for (const [key, value] of [[gl.TEXTURE_MIN_FILTER, filter], [gl.TEXTURE_MAG_FILTER, filter], [gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE],
        [gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE], [gl.TEXTURE_WRAP_R, gl.CLAMP_TO_EDGE]]) gl.texParameteri(gl.TEXTURE_3D, key, value);
      gl.uniform1i(this.uniform(name), unit);
      return texture;
    });
    this.draw(); // a new texture holds zeros, as the labels of a new volume
  }

  // Takes the labels of a box of the volume.
  update(box) {
    const { gl, state: { volume } } = this;
    if (!gl || !box) return;
    const low = box.map(([start], i) => Math.floor(start / this.step[i])), high = box.map(([, stop], i) => Math.min(this.shape[i], Math.ceil(stop / this.step[i])));
    const size = high.map((n, i) => n - low[i]), ids = new Uint8Array(size[0] * size[1] * size[2]), solid = new Uint8Array(ids.length);
    for (let z = low[0], to = 0; z < high[0]; z++) for (let y = low[1]; y < high[1]; y++) {
      let from = volume.index([z * this.step[0], y * this.step[1], low[2] * this.step[2]]);
      for (let x = low[2]; x < high[2]; x++, to++, from += this.step[2]) {
        const id = volume.labels[from];
        if (id && this.state.visible(id)) { ids[to] = id; solid[to] = 255; }
      }
    }
    [solid, ids].forEach((data, unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.texSubImage3D(gl.TEXTURE_3D, 0, low[2], low[1], low[0], size[2], size[1], size[0], gl.RED, gl.UNSIGNED_BYTE, data);
    });
    this.draw();
  }

  draw() {
    const { gl, state: { volume } } = this;
    if (!gl || !volume || !this.textures || this.scheduled) return;
    // After the slices are on the screen, which is what a click waits for.
    this.scheduled = requestAnimationFrame(() => setTimeout(() => {
      this.scheduled = null;
      this.paint();
    }));
  }

  paint() {
    const { gl, canvas, state: { volume } } = this, [width, height] = fitted(canvas, Math.min(1.5, window.devicePixelRatio || 1));
    if (!width || !height) return;
    gl.viewport(0, 0, width, height);
    const table = new Uint8Array(256 * 4);
    for (let id = 1; id < 256; id++) table.set([...this.state.colour(id), 255], 4 * id);
    gl.activeTexture(gl.TEXTURE2);
    this.table ??= gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, this.table);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, table);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.uniform1i(this.uniform("colours"), 2);
    const mm = [2, 1, 0].map((axis) => volume.shape[axis] * volume.spacing[axis]), half = Math.hypot(...mm) / 2;
    gl.uniform3f(this.uniform("size"), ...mm.map((v) => v / half));
    const [from, to] = [0, 1].map((end) => [2, 1, 0].map((axis) => volume.extent[axis][end] / volume.shape[axis]));
    gl.uniform3f(this.uniform("from"), ...from);
    gl.uniform3f(this.uniform("to"), ...to);
    gl.uniform1f(this.uniform("aspect"), width / height);
    gl.uniform1f(this.uniform("zoom"), this.zoom);
    gl.uniformMatrix3fv(this.uniform("turn"), false, this.viewToArray());
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  // Columns: the view's right, up and forward, along the array's axes. At rest the patient is seen from the front.
  viewToArray() {
    const [a, b] = this.angles, { direction } = this.state.volume.image;
    const right = [Math.cos(a), Math.sin(a), 0]; // LPS: the patient's left is on the right
    const ahead = [-Math.sin(a) * Math.cos(b), Math.cos(a) * Math.cos(b), -Math.sin(b)];
    const up = [right[1] * ahead[2] - right[2] * ahead[1], right[2] * ahead[0] - right[0] * ahead[2], right[0] * ahead[1] - right[1] * ahead[0]];
    const toArray = (v) => [0, 1, 2].map((column) => [0, 1, 2].reduce((sum, row) => sum + direction[3 * row + column] * v[row], 0));
    return [right, up, ahead].flatMap(toArray);
  }
}
