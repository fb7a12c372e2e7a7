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

// Sends a file; on(share) is told how much of it has gone. fetch() does not tell.
export const put = (path, body, on) => new Promise((done, fail) => {
  const request = new XMLHttpRequest();
  request.open("PUT", path);
  for (const [name, value] of Object.entries({ ...shown(), "Content-Type": "application/octet-stream" })) request.setRequestHeader(name, value);
  request.upload.onprogress = (e) => on(e.loaded / e.total);
  request.onerror = () => fail(new TypeError("the connection was lost"));
  request.onload = () => {
    let detail = `the server answered ${request.status}`;
    try { ({ detail } = JSON.parse(request.response)); } catch { /* not of the server's own */ }
    if (request.status < 300) done();
    else fail(new Refused(request.status, detail));
  };
  request.send(body);
});

// An answer with bytes, and what its X-Meta header says of them; on(share) is told how much of it has come.
export async function bytes(method, path, body, on) {
  const answer = await call(method, path, body === undefined ? undefined : JSON.stringify(body));
  const meta = JSON.parse(answer.headers.get("X-Meta") ?? "{}");
  if (!on) return { meta, data: await answer.arrayBuffer() };
  const data = new Uint8Array(+answer.headers.get("Content-Length")), reader = answer.body.getReader();
  for (let at = 0; ;) {
    const { done, value } = await reader.read();
    if (done) return { meta, data: data.buffer };
    data.set(value, at);
    at += value.length;
    on(at / data.length);
  }
}
