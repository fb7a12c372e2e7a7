// The page: its state, tools, keyboard, and what it asks of the server.

import { Refused, get, keep, post, request, takeToken } from "./api.js";
import { chosen, dropped, groups } from "./files.js";
import { Objects } from "./objects.js";
import { Scene } from "./scene.js";
import { SliceView } from "./slices.js";
import { Volume } from "./volume.js";

const $ = (id) => document.getElementById(id);
const CT = { "soft tissue": [400, 40], lung: [1500, -160], brain: [80, 40], bone: [1800, 400] }; // width, level
const state = {
  volume: null, window: [0, 1], tool: "point", foreground: true, active: 1, clicks: [], busy: false, unsaved: false,
  colour: (id) => objects.rgb(id), visible: (id) => objects.entries.get(id)?.shown ?? true,
};
const views = Object.fromEntries([...document.querySelectorAll("figure[data-plane]")].map((figure) => [
  figure.dataset.plane,
  new SliceView(figure, figure.dataset.plane, state, { cursor: drawSlices, prompt, window: () => { $("preset").value = ""; drawSlices(); } }),
]));
const scene = new Scene($("scene"), state);
const objects = new Objects($("objects"), state, {
  changed: () => state.volume && guarded(() => post("/api/objects", { objects: objects.asJson() })),
  shown: (solid) => { drawSlices(); if (solid && state.volume) scene.update(state.volume.shape.map((n) => [0, n])); else scene.draw(); },
  remove: async (id) => { if (!state.volume || (await send({ kind: "reset", object: id }))) objects.remove(id); },
});
let waiting = []; // volumes that were dropped and not opened yet
Object.assign(window, { gstk: { state, views, objects, scene } }); // for tests

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").className = isError ? "error" : "";
}

function drawSlices() {
  const { volume } = state;
  if (!volume) return;
  for (const view of Object.values(views)) view.draw();
  const [z, y, x] = volume.cursor, value = volume.value(volume.cursor);
  $("place").textContent = `voxel (z, y, x) ${z}, ${y}, ${x}\nRAS ${volume.place(volume.cursor).map((v) => v.toFixed(1)).join(", ")} mm\n`
    + `intensity ${Number.isInteger(value) ? value : value.toPrecision(4)}`;
}

// Runs something that the server does, and says what became of it.
async function guarded(work) {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) $("key-dialog").showModal();
    else if (error instanceof Refused && error.status === 410) {
      say("The session has ended: the server was restarted, or nothing was done for long. Open the scan again.", true);
      await guarded(begin);
    } else say(error instanceof TypeError ? "The server cannot be reached; is gstk serve still running?" : error.message, true);
    return null;
  }
}

// Says what is being done, and how much of it is.
function step(name, share) {
  const text = share === undefined ? name : `${name} ${Math.round(100 * share)} %`;
  if ($("doing").dataset.name !== text) $("doing").dataset.name = $("doing").textContent = text; // told thousands of times
}

async function busily(name, work) {
  if (state.busy) {
    say(`Wait for the ${$("doing").dataset.name} to end, or cancel it.`, true);
    return null;
  }
  const began = performance.now();
  state.busy = true;
  step(name);
  say("");
  $("busy").hidden = false;
  document.body.ariaBusy = true;
  const ticking = setInterval(async () => {
    const { before, windows } = await get("/api/status").catch(() => ({}));
    if (!state.busy) return;
    $("doing").textContent = `${$("doing").dataset.name} ${((performance.now() - began) / 1000).toFixed(1)} s`
      + (windows ? `, window ${windows[0]} of ${windows[1]}` : "") + (before ? `, waits for ${before} other call${before > 1 ? "s" : ""}` : "");
  }, 500);
  try {
    return await guarded(work);
  } finally {
    clearInterval(ticking);
    state.busy = false;
    $("busy").hidden = true;
    document.body.ariaBusy = null;
  }
}

function send(body) {
  return busily(body.kind, async () => {
    const began = performance.now();
    const { meta, data } = await request("POST", "/api/prompt", JSON.stringify({ object: state.active, coarse_first: true, ...body }));
    await state.refining; // which the prompt has ended; masks are drawn in order
    update(meta, data);
    const spent = `${body.name ?? body.kind} took ${meta.seconds.toFixed(2)} s`;
    if (!meta.done) say(`There is nothing to ${body.kind}.`);
    else if (meta.compromises.length) say(`${spent}; skipped to stay in time: ${meta.compromises.join("; ")}`);
    else if (!meta.box && body.kind !== "reset") say(`${spent} and changed nothing. ${meta.advice ?? ""}`);
    else say(meta.is_final ? spent : `${spent}; a finer mask follows`);
    if (!meta.is_final) state.refining = refine();
    state.timing = { session: meta.session_seconds * 1000, server: meta.seconds * 1000, whole: performance.now() - began };
    return true;
  });
}

// Fetches the final mask after a coarse one. The next prompt ends this on the server, and asks again.
async function refine() {
  try {
    const { meta, data } = await request("POST", "/api/refine");
    update(meta, data);
    if (!state.busy) say("the finer mask is there");
  } catch (error) {
    if (!(error instanceof Refused && error.status === 409)) await guarded(() => { throw error; });
  }
}

// Takes what changed: labels of a box, clicks, and names where they are new.
function update(meta, data) {
  state.volume.patch(meta.box, data);
  state.clicks = meta.clicks;
  objects.take(meta.names ?? {});
  drawSlices();
  scene.update(meta.box);
  if (meta.box) state.unsaved = true;
}

async function upload(name, files) {
  for (const [index, file] of files.entries()) {
    await request("PUT", `/api/upload?new=${index ? 0 : 1}&name=${encodeURIComponent(file.name)}`, file, (share) => step(`sending ${name}`, (index + share) / files.length));
  }
  step(`opening ${name}`);
}

const startFromMask = (file) => busily("mask", async () => {
  await upload(file.name, [file]);
  const { meta, data } = await request("POST", "/api/mask");
  update(meta, data);
  say("Clicks change this mask only near them.");
});

function prompt(body) {
  if (objects.active?.locked) say(`${objects.active.name} is locked.`, true);
  else send({ novel: !$("novel-choice").hidden && $("novel").checked, ...body });
}

async function showImage(image) {
  const { data } = await request("GET", "/api/voxels", null, (share) => step(`receiving ${image.name}`, share));
  state.volume = new Volume(image, data);
  Object.assign(state, { window: image.window, clicks: [], unsaved: false });
  objects.reset(image.names);
  $("preset").replaceChildren(new Option("auto", "auto"), ...(image.is_ct ? Object.keys(CT) : []).map((name) => new Option(name, name)), new Option("as dragged", ""));
  if (image.is_ct) setPreset("soft tissue");
  $("drop").hidden = true;
  document.querySelector("[data-format=dcm]").disabled = !image.has_dicom;
  $("scan").textContent = `${image.name}\n${image.shape.join(" × ")} voxels (z, y, x)\n${image.spacing_mm.map((v) => v.toPrecision(3)).join(" × ")} mm`
    + `\nthe network sees: ${image.intensities}${image.notes.map((note) => `\nnote: ${note}`).join("")}`;
  document.title = `${image.name} – gstk`;
  for (const view of Object.values(views)) view.fit();
  scene.setVolume(state.volume);
  drawSlices();
}

// Opens the first of several volumes; the others wait.
async function openFirst(volumes) {
  if (!volumes.length) return say("There is no file in what was dropped.", true);
  if (state.unsaved && !confirm("The masks were not saved. Open another scan?")) return;
  const [{ name, files }, ...others] = volumes, began = performance.now();
  waiting = others;
  $("next-volume").hidden = !waiting.length;
  await busily("opening", async () => {
    await upload(name, files);
    await showImage(await post("/api/open"));
    say(`opened in ${((performance.now() - began) / 1000).toFixed(1)} s; click on an object`);
  });
}

const save = (format) => busily("saving", async () => {
  const { meta, data } = await request("GET", `/api/save?format=${format}`);
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob([data])), download: meta.name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  state.unsaved = false;
  say(`saved ${meta.name}`);
});

function setPreset(name) {
  $("preset").value = name;
  if (name === "auto") state.window = state.volume.image.window;
  else if (CT[name]) state.window = [CT[name][1] - CT[name][0] / 2, CT[name][1] + CT[name][0] / 2];
  drawSlices();
}

// Points have a button for each sign; the other tools go by the check box.
function setTool(tool, foreground = !$("background").checked) {
  Object.assign(state, { tool, foreground });
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.ariaChecked = button.dataset.tool === tool && (tool !== "point" || Boolean(button.dataset.foreground) === foreground);
  }
}

function switchSign() {
  if (state.tool !== "point") $("background").checked = state.foreground;
  setTool(state.tool, !state.foreground);
}

function nextPreset() {
  const names = [...$("preset").options].map((option) => option.value).filter(Boolean);
  setPreset(names[(names.indexOf($("preset").value) + 1) % names.length]);
}

const focused = () => Object.values(views).find((view) => view.canvas === document.activeElement) ?? views.axial;
const zoom = (factor) => { const { canvas } = focused(); focused().zoomAt([canvas.width / 2, canvas.height / 2], factor); };

function arrow(right, down) {
  if (document.activeElement === scene.canvas) return scene.turn(right * 0.1, down * 0.1);
  const view = focused(), { plane } = view, { volume } = state;
  for (const [axis, by] of [[plane.right, right], [plane.down, down]]) volume.cursor[axis.axis] += axis.flip ? -by : by;
  volume.cursor = view.clamped(volume.cursor);
  drawSlices();
}

const tools = [...document.querySelectorAll("[data-tool]")];
const pick = ({ dataset: { tool, foreground } }) => setTool(tool, tool === "point" ? Boolean(foreground) : undefined);
const redo = () => send({ kind: "redo" });
// As shown, in words, and what each key does: ^ is Ctrl; after * only where there is a scan. Buttons name their key.
const KEYS = [
  ["1 … 6", "+ point, − point, box, scribble, lasso, look", Object.fromEntries(tools.map((button, i) => [i + 1, () => pick(button)]))],
  ["x", "the other sign: background, or the object", { x: switchSign }],
  ["← → ↑ ↓", "move the crosshair in the slice that has the focus; turn the 3D view", { "*ArrowLeft": () => arrow(-1, 0), "*ArrowRight": () => arrow(1, 0), "*ArrowUp": () => arrow(0, -1), "*ArrowDown": () => arrow(0, 1) }],
  ["Page ↑ ↓", "scroll through the slices", { "*PageUp": () => focused().scroll(1), "*PageDown": () => focused().scroll(-1) }],
  ["Tab", "to the next slice, button or field", {}],
  ["Enter", "click at the crosshair", { "*Enter": () => prompt({ kind: "point", voxel: [...state.volume.cursor], foreground: state.foreground }) }],
  ["+ − 0", "zoom, fit", { "*+": () => zoom(1.25), "*-": () => zoom(0.8), "*0": () => focused().fit() }],
  ["w", "next window of intensities", { "*w": nextPreset }],
  ["n [ ]", "next object; select the one before or after", { "*n": () => objects.next(), "*[": () => objects.step(-1), "*]": () => objects.step(1) }],
  ["h k", "hide, lock the object", { "*h": () => objects.toggle("shown"), "*k": () => objects.toggle("locked") }],
  ["Ctrl Z Y", "undo, redo", { "*^z": () => send({ kind: "undo" }), "*^y": redo, "*^Z": redo }],
  ["r", "forget the object's mask and clicks", { "*r": () => prompt({ kind: "reset" }) }],
  ["o v", "open a scan; the next of those that were dropped", { o: () => $("files").click(), v: () => waiting.length && openFirst(waiting) }],
  ["m c", "start from a mask; find a class, where the network knows any", { "*m": () => $("mask-file").click(), "*c": () => $("class").focus() }],
  ["Ctrl S", "save as NIfTI", { "*^s": () => save("nii.gz") }],
  ["Esc", "cancel what runs", { Escape: () => state.busy && guarded(() => post("/api/cancel")) }],
  ["?", "this sheet", { "?": () => $("help").showModal() }],
];
const ACTIONS = Object.assign({}, ...KEYS.map(([, , actions]) => actions));

const withScan = (work) => (state.volume ? work() : say("Open a scan first.", true));
const press = (key) => (ACTIONS[key] ? ACTIONS[key]() : withScan(ACTIONS[`*${key}`]));

const MOUSE = [
  ["wheel", "scroll; with Ctrl: zoom; zoom the 3D view"], ["Shift", "with a click or drawing: the opposite, background or object"],
  ["right button", "drag: window and level"], ["middle button", "drag: move the slice; so does the left one with Alt"],
  ["double click", "fit"], ["two fingers", "zoom and move"], ["drag, 3D", "turn"],
];

document.addEventListener("keydown", (e) => {
  if (e.target.matches("input[type=text], input[type=password], select") || document.querySelector("dialog[open]")) return;
  if (e.target.matches("button, input") && ["Enter", " "].includes(e.key)) return;
  if (e.target.matches("input[type=range]") && e.key.startsWith("Arrow")) return;
  const key = (e.ctrlKey || e.metaKey ? "^" : "") + e.key;
  if (!ACTIONS[key] && !ACTIONS[`*${key}`]) return;
  e.preventDefault();
  press(key);
});

for (const button of tools) button.onclick = () => pick(button);
for (const button of document.querySelectorAll("[data-key]")) button.onclick = () => press(button.dataset.key);
for (const button of document.querySelectorAll("[data-format]")) button.onclick = () => withScan(() => save(button.dataset.format));
$("background").onchange = () => state.tool !== "point" && setTool(state.tool);
$("preset").onchange = () => state.volume && setPreset($("preset").value);
$("mask-file").onchange = async () => { const [file] = $("mask-file").files; await startFromMask(file); $("mask-file").value = ""; };
$("files").onchange = async () => { const files = chosen($("files").files); $("files").value = ""; await openFirst(groups(files)); };
$("class-form").onsubmit = (e) => {
  e.preventDefault();
  if ($("class").value.trim()) withScan(() => send({ kind: "class", name: $("class").value }));
};
for (const [table, rows] of [["keys", KEYS], ["mouse", MOUSE]]) for (const [keys, words] of rows) {
  const row = $(table).insertRow(), key = document.createElement("kbd");
  key.textContent = keys;
  row.insertCell().append(key);
  row.insertCell().textContent = words;
}
document.addEventListener("dragover", (e) => { e.preventDefault(); $("planes").classList.add("dragging"); });
document.addEventListener("dragleave", (e) => e.relatedTarget === null && $("planes").classList.remove("dragging"));
document.addEventListener("drop", async (e) => {
  e.preventDefault();
  $("planes").classList.remove("dragging");
  await guarded(async () => openFirst(groups(await dropped(e.dataTransfer))));
});
window.addEventListener("beforeunload", (e) => { if (state.unsaved && state.busy) e.preventDefault(); });
$("key-form").onsubmit = () => { keep("token", $("key").value.trim()); guarded(begin); };
setInterval(() => state.ready && !state.busy && get("/api/status").catch(() => {}), 20000);

async function begin() {
  const found = await post("/api/session").catch(async (error) => {
    if (error.status !== 410) throw error;
    keep("lease", (await post("/api/claim")).lease); // none yet, or of a session that has ended
    return post("/api/session");
  });
  state.ready = true;
  $("class-form").hidden = !found.classes.length;
  $("novel-choice").hidden = !found.novel;
  $("classes").replaceChildren(...found.classes.map((name) => new Option(name)));
  if (found.image) {
    await busily("opening", async () => {
      await showImage(found.image);
      const { meta, data } = await request("GET", "/api/labels");
      update(meta, data);
      state.unsaved = false;
      say("the running session was found again");
    });
  } else if (found.first) await busily("opening", async () => { await showImage(await post("/api/open", { first: true })); say("click on an object"); });
  else { state.volume = null; $("drop").hidden = false; }
}

setTool("point", true);
objects.reset({});
if (takeToken()) guarded(begin);
else $("key-dialog").showModal();
