// The list of objects: name, colour, show, lock, volume.

const COLOURS = ["#ffb000", "#648fff", "#dc267f", "#00be96", "#fe6100", "#966eff"]; // as in gstk's overlays

export class Objects {
  // state.active is the object that prompts are for; on: { changed(), shown(), remove(id) }
  constructor(list, state, on) {
    Object.assign(this, { list, state, on, entries: new Map() });
  }

  reset(names) {
    this.entries.clear();
    this.take(names);
    if (!this.entries.size) this.add(1);
    this.select(Math.min(...this.entries.keys()));
  }

  add(id, name = `object ${id}`, colour = COLOURS[(id - 1) % COLOURS.length]) {
    this.entries.set(id, { name, colour, shown: true, locked: false });
  }

  // Objects that the server named; the last of them is what clicks are for.
  take(names) {
    for (const [id, { name, colour }] of Object.entries(names)) if (!this.entries.has(+id)) this.add(+id, name, colour);
    const ids = Object.keys(names).map(Number), { active, clicks, volume } = this.state;
    if (ids.length && !volume?.counts[active]) {
      const isUntouched = this.active?.name === `object ${active}` && !clicks.some((click) => click.object === active);
      if (isUntouched && !ids.includes(active)) this.entries.delete(active); // it would stand there empty
      this.state.active = ids.at(-1);
    }
    this.show();
  }

  get active() { return this.entries.get(this.state.active); }

  rgb(id) {
    const value = parseInt((this.entries.get(id)?.colour ?? "#ffffff").slice(1), 16);
    return [value >> 16, (value >> 8) & 255, value & 255];
  }

  next() {
    const id = Math.max(0, ...this.entries.keys()) + 1;
    if (id > 255) return;
    this.add(id);
    this.select(id);
    this.on.changed();
  }

  step(by) {
    const ids = [...this.entries.keys()].sort((a, b) => a - b);
    this.select(ids[(ids.indexOf(this.state.active) + by + ids.length) % ids.length]);
  }

  select(id) {
    this.state.active = id;
    this.show();
    this.on.shown();
  }

  toggle(key, entry = this.active) {
    entry[key] = !entry[key];
    this.show();
    this.on.shown(key === "shown");
  }

  remove(id) {
    this.entries.delete(id);
    if (!this.entries.size) this.add(id);
    this.select(this.entries.has(this.state.active) ? this.state.active : Math.max(...this.entries.keys()));
    this.on.changed();
  }

  asJson() {
    return [...this.entries].map(([id, { name, colour }]) => ({ id, name, colour }));
  }

  show() {
    const rows = [...this.entries].map(([id, entry]) => this.row(id, entry)), { list } = this;
    if (!list.querySelector("[type=text]:focus")) list.replaceChildren(...rows);
    else for (const row of rows) list.querySelector(`[data-object="${row.dataset.object}"] .ml`)?.replaceWith(row.children[2]); // a name is being typed
  }

  row(id, entry) {
    const made = (tag, fields) => Object.assign(document.createElement(tag), fields);
    const row = made("li", { className: id === this.state.active ? "active" : "" });
    row.dataset.object = id;
    row.onclick = () => this.state.active !== id && this.select(id);
    const colour = made("input", { type: "color", value: entry.colour, title: "Colour", ariaLabel: `Colour of ${entry.name}` });
    colour.onchange = () => { entry.colour = colour.value; this.on.changed(); this.on.shown(); };
    const name = made("input", { type: "text", value: entry.name, maxLength: 100, ariaLabel: `Name of object ${id}` });
    name.onchange = () => { entry.name = name.value.trim() || `object ${id}`; this.on.changed(); };
    const switchOf = (key, text, label) => {
      const button = made("button", { textContent: text, title: label, ariaLabel: `${label}: ${entry.name}`, ariaPressed: entry[key] });
      button.onclick = (e) => { e.stopPropagation(); this.toggle(key, entry); };
      return button;
    };
    const remove = made("button", { textContent: "×", title: "Remove", ariaLabel: `Remove ${entry.name}` });
    remove.onclick = (e) => { e.stopPropagation(); this.on.remove(id); };
    const { volume } = this.state;
    const ml = made("span", { className: "ml", ...(volume && { title: `${volume.counts[id].toLocaleString("en")} voxels`, textContent: `${volume.millilitres(id).toFixed(2)} ml` }) });
    row.append(colour, name, ml, switchOf("shown", "show", "Show"), switchOf("locked", "lock", "Lock"), remove);
    return row;
  }
}
