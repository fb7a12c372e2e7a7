// Requests to the server: the page's token and the lease stay in this browser, for this address alone.

const store = { token: localStorage.getItem("gstk.token"), lease: localStorage.getItem("gstk.lease") };

export function keep(name, value) {
  store[name] = value;
  localStorage.setItem(`gstk.${name}`, value);
}

// The token comes behind the #, which browsers send to nobody.
export function takeToken() {
  const given = /[#&]token=([^&]+)/.exec(location.hash);
  if (given) {
    keep("token", decodeURIComponent(given[1]));
    history.replaceState(null, "", location.pathname);
  }
  return store.token;
}

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

const shown = () => ({ Authorization: `Bearer ${store.token}`, "X-Lease-Token": store.lease ?? "" });

async function call(method, path, body) {
  const answer = await fetch(path, { method, body, cache: "no-store", headers: shown() });
  if (answer.ok) return answer;
  const found = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, found.detail ?? `the server answered ${answer.status}`);
}

export const get = async (path) => (await call("GET", path)).json();
export const post = async (path, body = {}) => (await call("POST", path, JSON.stringify(body))).json();

// Sends or fetches much; on(share) is told how much of it has gone, which fetch() does not tell of what is sent.
const transfer = (method, path, body, on) => new Promise((done, fail) => {
  const request = new XMLHttpRequest();
  request.open(method, path);
  request.responseType = "arraybuffer";
  for (const [name, value] of Object.entries({ ...shown(), "Content-Type": "application/octet-stream" })) request.setRequestHeader(name, value);
  (body ? request.upload : request).onprogress = (e) => on(e.loaded / e.total);
  request.onerror = () => fail(new TypeError("the connection was lost"));
  request.onload = () => {
    if (request.status < 300) return done(request.response);
    let detail = `the server answered ${request.status}`;
    try { ({ detail } = JSON.parse(new TextDecoder().decode(request.response))); } catch { /* not of the server's own */ }
    fail(new Refused(request.status, detail));
  };
  request.send(body);
});
export const put = (path, file, on) => transfer("PUT", path, file, on);
export const load = (path, on) => transfer("GET", path, null, on);

// An answer with bytes, and what its X-Meta header says of them.
export async function bytes(method, path, body) {
  const answer = await call(method, path, body === undefined ? undefined : JSON.stringify(body));
  return { meta: JSON.parse(answer.headers.get("X-Meta") ?? "{}"), data: await answer.arrayBuffer() };
}
